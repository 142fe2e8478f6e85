"""Reads the spool batch by batch, from a place on; what is written meanwhile is found, and what was dropped is told."""

from __future__ import annotations

import mmap
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from thalweg.errors import SourceError
from thalweg.live.spool.layout import DATAGRAM, ENTRY, FOUND, MARK, STOP
from thalweg.live.spool.writer import Place, segment_path, segments, write_needed
from thalweg.runtime.jit import compiled


@final
@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Entries up to a mark. data: a buffer that all payloads lie in; entries: (N,) of FOUND, marks not among them.

    time_us: of the mark, of the last entry where there is none. after: where the next batch begins. stopped: whether
    listening ended with it. missed: segments that are not there any more; damaged: segments with a rest that cannot be
    read; both before it or right after it, and each told once.
    """

    data: npt.NDArray[np.uint8]
    entries: npt.NDArray[np.void]
    time_us: int
    after: Place
    stopped: bool
    missed: tuple[int, ...] = ()
    damaged: tuple[int, ...] = ()


@final
class SpoolReader:
    """Gives batches from a place on, each once, and waits for nothing.

    Segments are mapped, not copied; a batch's data stays valid after the segment is removed. What the batches are does
    not depend on when `next` is called.
    """

    def __init__(self, folder: Path, place: Place, *, keep_from: int | None = None) -> None:
        self.folder = folder
        self.place = place
        self.keep_from = keep_from
        """the segment that reading would begin again at: from there to where it is, none is dropped; None keeps none"""
        self._data = np.zeros(0, np.uint8)
        self._found = np.zeros(0, FOUND)
        self._read_to = place.offset
        self._file = -1
        self._missed: list[int] = []
        self._damaged: list[int] = []

    def next(self) -> Batch | None:
        """Return the next whole batch, or None where there is none yet."""
        while True:
            batch = self._in_segment()
            if batch is None:
                there = segments(self.folder)
                later = [number for number in there if number > self.place.segment]
                if not later:
                    return None
                # Whoever writes has finished with a segment when a later one is there.
                if (self._file < 0 and self.place.segment in there) or self._grew():
                    continue
                batch = self._rest(later[0])
                self._start(Place(later[0], 0))
            if batch is not None:
                missed, damaged, self._missed, self._damaged = self._missed, self._damaged, [], []
                return replace(batch, missed=tuple(missed), damaged=tuple(damaged)) if missed or damaged else batch

    def close(self) -> None:
        """Let go of the segment."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _start(self, place: Place) -> None:
        self.close()
        self.place = place
        self._data, self._found, self._read_to = np.zeros(0, np.uint8), np.zeros(0, FOUND), place.offset

    def _in_segment(self) -> Batch | None:
        while True:
            ends = np.flatnonzero((self._found["kind"] == MARK) | (self._found["kind"] == STOP))
            if len(ends):
                return self._cut(int(ends[0]))
            if not self._grew():
                return None

    def _opened(self) -> bool:
        """Open the segment, and keep it open: what is removed while it is read is read all the same."""
        if self._file >= 0:
            return True
        try:
            if self.keep_from is not None:
                write_needed(self.folder, self.keep_from, self.place.segment)
            self._file = os.open(segment_path(self.folder, self.place.segment), os.O_RDONLY)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise SourceError(f"the spool {self.folder} cannot be read: {error.strerror}") from error
        return True

    def _grew(self) -> bool:
        """Map what was written since, and find the entries in it. Returns: whether there are any."""
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
        mark = self._found[at]
        entries, self._found = self._found[:at], self._found[at + 1 :]
        self.place = Place(self.place.segment, int(mark["offset"]) + int(mark["length"]))
        return Batch(self._data, entries, int(mark["time_us"]), self.place, bool(mark["kind"] == STOP))

    def _rest(self, following: int) -> Batch | None:
        """End a segment. Returns: what is after its last mark, as a batch; None where nothing is."""
        if self._file < 0:
            self._missed.append(self.place.segment)
        elif os.fstat(self._file).st_size != self._read_to:
            self._damaged.append(self.place.segment)
        self._missed += range(self.place.segment + 1, following)
        if not len(self._found):
            return None
        entries = self._found
        return Batch(self._data, entries, int(entries["time_us"][-1]), Place(following, 0), stopped=False)


def remove_before(folder: Path, place: Place) -> None:
    """Remove segments that have been read to their end."""
    for number in segments(folder):
        if number < place.segment:
            segment_path(folder, number).unlink(missing_ok=True)


def unread(folder: Path, place: Place) -> Iterator[Batch]:
    """Give the batches from a place on, as far as they are whole now."""
    reader = SpoolReader(folder, place)
    try:
        while (batch := reader.next()) is not None:
            yield batch
    finally:
        reader.close()


def find_entries(data: npt.NDArray[np.uint8], begin: int) -> tuple[npt.NDArray[np.void], int]:
    """Find the whole entries in a segment's bytes, up to the first that is not whole or not what was written.

    Returns: (N,) of FOUND; where that one begins.
    """
    most = (len(data) - begin) // ENTRY.itemsize
    found = np.zeros(max(min(most, 1 << 16), 1), FOUND)
    parts: list[npt.NDArray[np.void]] = []
    at = begin
    while True:
        num, after = _find(data, at, found)
        for row in np.flatnonzero(found["kind"][:num] != DATAGRAM):
            if not _is_sound(data, found[row]):
                parts.append(found[:row].copy())
                return np.concatenate(parts), int(found["offset"][row]) - ENTRY.itemsize
        at = int(after)
        parts.append(found[:num].copy())
        if num < len(found):
            return np.concatenate(parts), at


def _is_sound(data: npt.NDArray[np.uint8], entry: Any) -> bool:
    at = int(entry["offset"])
    payload = data[at : at + int(entry["length"])]
    check = zlib.crc32(payload.data, zlib.crc32(data[at - ENTRY.itemsize : at - 4].data))
    return check.to_bytes(4, "little") == data[at - 4 : at].tobytes()


@compiled()
def _find(data: Any, begin: Any, found: Any) -> Any:
    at = begin
    num = 0
    size = len(data)
    while num < len(found) and at + 40 <= size:
        if data[at] != 0x1E or data[at + 1] != 0x7A or not 1 <= data[at + 2] <= 4:
            break
        length = np.int64(0)
        for i in range(4):
            length |= np.int64(data[at + 4 + i]) << (8 * i)
        if at + 40 + length > size:
            break
        row = found[num]
        row.kind = data[at + 2]
        row.source = data[at + 3]
        row.length = length
        row.offset = at + 40
        row.time_us = np.int64(_little(data, at + 8, 8))
        row.hi = _little(data, at + 16, 8)
        row.lo = _little(data, at + 24, 8)
        row.port = np.uint16(_little(data, at + 32, 2))
        row.flows = np.uint16(_little(data, at + 34, 2))
        num += 1
        at += 40 + length
    return num, at


@compiled(inline=True)
def _little(data: Any, at: Any, num: int) -> Any:
    value = np.uint64(0)
    for i in range(num):
        value |= np.uint64(data[at + i]) << np.uint64(8 * i)
    return value
