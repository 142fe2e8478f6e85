"""Bytes and files -> `Flows`: which formats, which dialects, and one way to read them all."""

# Rooms are imported when they are asked for: a process that only receives should not load readers of files.
from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from thalweg.ingest.files import FileSource, ReadOptions, expand, read
    from thalweg.ingest.tabular.dialects.recognition import DIALECTS

_HOMES: Final = {
    "DIALECTS": "tabular.dialects.recognition",
    **dict.fromkeys(("FileSource", "ReadOptions", "expand", "read"), "files"),
}

__all__ = ["DIALECTS", "FileSource", "ReadOptions", "expand", "read"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'thalweg.ingest' has no attribute {name!r}")
    return getattr(import_module(f"thalweg.ingest.{_HOMES[name]}"), name)
