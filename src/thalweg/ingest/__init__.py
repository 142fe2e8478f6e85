"""Bytes and files -> `Flows`: which formats, which dialects, and one way to read them all."""

# Rooms are imported when they are asked for: a process that only receives should not load readers of files.
from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

from thalweg.tally import Tally

if TYPE_CHECKING:
    from thalweg.ingest.files import FileSource, expand, read
    from thalweg.ingest.options import ReadOptions
    from thalweg.ingest.tabular.dialects.recognition import DIALECTS
    from thalweg.tables import Flows

_HOMES: Final = {
    "DIALECTS": "tabular.dialects.recognition",
    "ReadOptions": "options",
    **dict.fromkeys(("FileSource", "expand", "read"), "files"),
}

__all__ = ["DIALECTS", "FileSource", "FlowSource", "ReadOptions", "expand", "read"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'thalweg.ingest' has no attribute {name!r}")
    return getattr(import_module(f"thalweg.ingest.{_HOMES[name]}"), name)


@runtime_checkable
class FlowSource(Protocol):
    """Anything that gives flows, a run at a time and in order; a third party passes an object like this."""

    @property
    def tally(self) -> Tally:
        """What the latest reading has changed or left out, up to now."""
        ...

    def __iter__(self) -> Iterator[Flows]: ...
