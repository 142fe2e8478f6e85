"""Reads the spool batch by batch from a position on, while it is written, and reports segments that are missing."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
import numpy.typing as npt

from thalweg.errors import SourceError
from thalweg.ingest.feeds.feed import Piece, unpack_piece
from thalweg.ingest.netflow.datagrams import ARRIVED, Datagrams
from thalweg.live.spool.entries import find_entries, last_total
from thalweg.live.spool.folder import SpoolPosition, segment_path, segments, write_needed
from thalweg.live.spool.layout import DATAGRAM, ENTRY, FOUND, MARK, PIECE, STOP


class SpooledPiece(NamedTuple):
    """A piece of a feed in the spool. source: its number; time_us: when it came; offset: in the segment."""

    source: int
    piece: Piece
    time_us: int
    offset: int


@final
@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Entries up to a mark. data: a segment, which all payloads lie in; entries: (N,) of FOUND, marks not among them.

    time_us: of the mark, or of the last entry if the batch has no mark. begin, after: where it and the next batch
    begin. stopped: whether receiving stopped with it. missed: segments that no longer exist. damaged: segments whose
    end cannot be read, with the datagrams that are lost there, as far as that is known. Both lie right before or right
    after the batch, and each is reported once.
    """

    data: npt.NDArray[np.uint8]
    entries: npt.NDArray[np.void]
    time_us: int
    begin: SpoolPosition
    after: SpoolPosition
    stopped: bool
    missed: tuple[int, ...] = ()
    damaged: tuple[tuple[int, int], ...] = ()

    def datagrams(self) -> Datagrams:
        """Return its datagrams, in order of arrival; their offsets are those in the segment."""
        entries = self.entries.compress(self.entries["kind"] == DATAGRAM)
        arrived = np.zeros(len(entries), ARRIVED)
        for name in ("offset", "length", "port", "time_us", "hi", "lo"):
            arrived[name] = entries[name]
        return Datagrams(self.data, arrived)

    def pieces(self) -> Iterator[SpooledPiece]:
        """Yield its pieces of feeds, in order."""
        for entry in self.entries.compress(self.entries["kind"] == PIECE):
            at = int(entry["offset"])
            packed = self.data[at : at + int(entry["length"])].tobytes()
            yield SpooledPiece(int(entry["source"]), unpack_piece(packed), int(entry["time_us"]), at)


@final
class SpoolReader:
    """Reads batches from a position on, each once; never waits.

    Segments are mapped, not copied; a batch's data stays valid after the segment is removed. The batches do not depend
    on when `next` is called.
    """

    def __init__(self, folder: Path, position: SpoolPosition, *, keep_from: int | None = None) -> None:
        self.folder = folder
        self.position = position
        self.keep_from = keep_from
        """the segment at which reading would restart: none is dropped from there to the current one; None keeps none"""
        self._data = np.zeros(0, np.uint8)
        self._found = np.zeros(0, FOUND)
        self._read_to = position.offset
        self._file = -1
        self._missed: list[int] = []
        self._damaged: list[tuple[int, int]] = []

    def next(self) -> Batch | None:
        """Return the next whole batch, or None if there is none yet."""
        while True:
            batch = self._in_segment()
            if batch is None:
                there = segments(self.folder)
                later = [number for number in there if number > self.position.segment]
                if not later:
                    return None
                # The writer has finished with a segment once a later one exists.
                if (self._file < 0 and self.position.segment in there) or self._grew():
                    continue
                batch = self._rest(later[0])
                self._start(SpoolPosition(later[0], 0))
            if batch is not None:
                missed, damaged, self._missed, self._damaged = self._missed, self._damaged, [], []
                return replace(batch, missed=tuple(missed), damaged=tuple(damaged)) if missed or damaged else batch

    def close(self) -> None:
        """Close the segment."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _start(self, position: SpoolPosition) -> None:
        self.close()
        self.position = position
        self._data, self._found, self._read_to = np.zeros(0, np.uint8), np.zeros(0, FOUND), position.offset

    def _in_segment(self) -> Batch | None:
        while True:
            ends = np.flatnonzero((self._found["kind"] == MARK) | (self._found["kind"] == STOP))
            if len(ends):
                return self._cut(int(ends[0]))
            if not self._grew():
                return None

    def _opened(self) -> bool:
        """Open the segment and keep it open: a segment that is removed meanwhile is still read to its end."""
        if self._file >= 0:
            return True
        try:
            if self.keep_from is not None:
                write_needed(self.folder, self.keep_from, self.position.segment)
            path = segment_path(self.folder, self.position.segment)
            self._file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise SourceError(f"the spool {self.folder} cannot be read: {error.strerror}") from error
        return True

    def _grew(self) -> bool:
        """Map what was written since, and find the entries in it. Returns whether there are any."""
        if not self._opened():
            return False
        size = os.fstat(self._file).st_size
        if size <= self._read_to:
            return False
        if size != len(self._data):
            self._data = np.frombuffer(mmap.mmap(self._file, size, prot=mmap.PROT_READ), np.uint8)
        found, read_to = find_entries(self._data, self._read_to)
        if read_to == self._read_to:
            return False
        self._read_to = read_to
        self._found = np.concatenate([self._found, found])
        return True

    def _cut(self, at: int) -> Batch:
        mark, begin = self._found[at], self.position
        entries, self._found = self._found[:at], self._found[at + 1 :]
        self.position = SpoolPosition(begin.segment, int(mark["offset"]) + int(mark["length"]))
        return Batch(self._data, entries, int(mark["time_us"]), begin, self.position, bool(mark["kind"] == STOP))

    def _rest(self, following: int) -> Batch | None:
        """End a segment. Returns the entries after its last mark as a batch, or None if there are none."""
        if self._file < 0:
            self._missed.append(self.position.segment)
        elif os.fstat(self._file).st_size != self._read_to:
            self._damaged.append((self.position.segment, self._num_lost()))
        self._missed += range(self.position.segment + 1, following)
        if not len(self._found):
            return None
        entries = self._found
        after = SpoolPosition(following, 0)
        return Batch(self._data, entries, int(entries["time_us"][-1]), self.position, after, stopped=False)

    def _num_lost(self) -> int:
        """Return how many datagrams lie behind the damage, if a mark there says how many there were until then."""
        found, _ = find_entries(self._data, 0)
        behind = self._data[self._read_to :]
        num = last_total(behind) - int((found["kind"] == DATAGRAM).sum())
        return min(max(num, 0), len(behind) // ENTRY.itemsize)


def remove_before(folder: Path, position: SpoolPosition) -> None:
    """Remove segments that have been read to their end."""
    for number in segments(folder):
        if number < position.segment:
            segment_path(folder, number).unlink(missing_ok=True)


def unread(folder: Path, position: SpoolPosition) -> Iterator[Batch]:
    """Yield the batches from a position on, as far as they are whole now."""
    reader = SpoolReader(folder, position)
    try:
        while (batch := reader.next()) is not None:
            yield batch
    finally:
        reader.close()
