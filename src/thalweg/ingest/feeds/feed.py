"""The two halves of every source but sockets: a feed that takes pieces, and a reader that makes flows of them.

A `Feed` runs in the process that receives: it takes what is new, in pieces that can each be read alone, with the
position after each. A `PieceReader` runs in the process that scores: it makes records or flows of the pieces. Between
the two, pieces wait in a queue. Reading a piece again gives the same flows again.
"""

# The process that receives imports this: what only a reader needs is imported for its types alone.
from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, final, runtime_checkable

from thalweg.tally import Tally

if TYPE_CHECKING:
    from thalweg.ingest.netflow.datagrams import Datagrams
    from thalweg.ingest.records import Records
    from thalweg.tables import Flows

Position: TypeAlias = Mapping[str, Any]
"""Where a feed continues: JSON values that only the feed understands."""


@final
@dataclass(frozen=True, slots=True)
class Piece:
    """What a feed has taken. payload: bytes that only its `PieceReader` understands; position: of the feed after it."""

    payload: bytes
    position: Position


def pack_piece(piece: Piece) -> bytes:
    """Put a piece's payload and position into one run of bytes, so that a queue keeps both or neither."""
    position = json.dumps(piece.position).encode()
    return struct.pack("<I", len(position)) + position + piece.payload


def unpack_piece(packed: bytes) -> Piece:
    """Take apart what `pack_piece` made."""
    (length,) = struct.unpack_from("<I", packed)
    return Piece(packed[4 + length :], json.loads(packed[4 : 4 + length]))


@runtime_checkable
class Feed(Protocol):
    """Takes what is new from one source. Nothing is opened before `open`; no call blocks except on the disk."""

    @property
    def name(self) -> str:
        """The address that it was made from."""
        ...

    @property
    def tally(self) -> Tally:
        """What was lost or is doubtful so far."""
        ...

    @property
    def ended(self) -> bool:
        """Whether nothing more can come, as from a file that is not followed."""
        ...

    def open(self, position: Position | None) -> None:
        """Start, or continue after the piece with this position. Raises SourceError if it cannot."""
        ...

    def poll(self) -> Iterator[Piece]:
        """Yield what is new, in pieces of at most a few MB, and return when there is nothing more for now."""
        ...

    def close(self) -> None:
        """Close files and connections."""
        ...


@runtime_checkable
class AcknowledgingFeed(Protocol):
    """A feed that reports to its server how far its flows are written."""

    def acknowledge(self, position: Position) -> None:
        """Note that all flows up to this position are written. Does not block."""
        ...


@runtime_checkable
class PieceReader(Protocol):
    """Makes of pieces whole flows, records to be paired, or datagrams to be decoded."""

    @property
    def tally(self) -> Tally:
        """What it left out or changed so far."""
        ...

    @property
    def exporters(self) -> Sequence[str]:
        """The names that `exporter` indexes in the latest run of records; the next run may have others."""
        ...

    def read(self, piece: bytes, arrival_us: int) -> Iterator[Records | Flows | Datagrams]:
        """Yield the content of a piece's payload, in runs of at most 200,000 rows.

        arrival_us: when the piece came, in microseconds since 1970. Raises ThalwegError if it cannot be read; who reads
        then sets it aside and counts it. The next piece can be read all the same.
        """
        ...

    def split(self, piece: bytes) -> Sequence[bytes]:
        """Return the pieces that one which names several files is made of; else the piece alone."""
        ...
