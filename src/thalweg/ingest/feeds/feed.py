"""What can be listened to: the feeds of `thalweg run`, by the address that names them.

A feed has two halves. `Feed` runs in the process that receives: it takes what is new, in pieces, each whole in itself,
and says where it would go on after it. `Reading` runs in the process that scores: it makes records or flows of the
pieces. Between them is the spool. A piece that is read again gives the same flows again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, final, runtime_checkable

from thalweg.ingest.netflow.datagrams import Datagrams
from thalweg.ingest.records import Records
from thalweg.tables import Flows
from thalweg.tally import Tally

Position: TypeAlias = Mapping[str, Any]
"""Where a feed goes on: JSON values, of the feed's own making."""


@final
@dataclass(frozen=True, slots=True)
class Piece:
    """What a feed has taken: bytes that its `Reading` understands alone, and where the feed goes on after them."""

    payload: bytes
    position: Position


@runtime_checkable
class Feed(Protocol):
    """Takes what is new at one place. Nothing is opened before `open`; no call blocks but for the disk."""

    @property
    def name(self) -> str:
        """The address that it was made from."""
        ...

    @property
    def tally(self) -> Tally:
        """What it lost or doubted so far."""
        ...

    @property
    def ended(self) -> bool:
        """Whether nothing more can come, as with a file that is not followed."""
        ...

    def open(self, position: Position | None) -> None:
        """Begin, or go on after the piece whose position this is. Raises: SourceError, where it cannot."""
        ...

    def poll(self) -> Iterator[Piece]:
        """Give what is new, in pieces of at most a few MB, and return when there is nothing more for now."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...


@runtime_checkable
class Acknowledging(Protocol):
    """A feed that tells its server how far it is: `accepted` is given positions whose flows are all written."""

    def accepted(self, position: Position) -> None:
        """Note that nothing before this is needed again. Does not block."""
        ...


@runtime_checkable
class Reading(Protocol):
    """Makes of pieces what is in them: whole flows, records to be paired, or datagrams to be decoded."""

    @property
    def tally(self) -> Tally:
        """What it left out or changed so far."""
        ...

    @property
    def exporters(self) -> Sequence[str]:
        """The names that `exporter` counts in the records that `read` gave last; the next run may mean others."""
        ...

    def read(self, piece: bytes, arrival_us: int) -> Iterator[Records | Flows | Datagrams]:
        """Give what is in a piece, in runs of at most 200,000 rows. Never raises for what the piece holds."""
        ...
