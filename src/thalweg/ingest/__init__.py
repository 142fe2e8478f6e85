"""Bytes and files -> `Flows`: which formats, which dialects, and one way to read them all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from thalweg.ingest.dialects import DIALECTS
from thalweg.ingest.files import FileSource, ReadOptions, expand, read
from thalweg.tables import Flows
from thalweg.tally import Tally

__all__ = ["DIALECTS", "FileSource", "ReadOptions", "Source", "expand", "read"]


@runtime_checkable
class Source(Protocol):
    """Anything that gives flows, a run at a time and in order; a third party passes an object like this."""

    @property
    def tally(self) -> Tally:
        """What the latest reading has changed or left out, up to now."""
        ...

    def __iter__(self) -> Iterator[Flows]: ...
