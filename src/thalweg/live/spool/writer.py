"""A queue on disk between receiving and scoring: written by one process, read by another, whole after a kill -9.

A segment holds entries end to end; an entry is a header and a payload (see `layout`). Everything that decides how
entries become flows is in the entries, their time included: reading them again gives the same flows again. A mark ends
a batch, and a batch is read as a whole. An entry is accepted when it is whole. A segment is only appended to, and no
more once a later one exists. So a kill, a full disk or power loss can damage only the end of a segment; the reader
skips it and counts it. The reader looks for nothing behind the damage: a payload may hold anything, also bytes that
look like an entry.
"""

from __future__ import annotations

import ctypes
import errno
import os
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from thalweg.errors import ConfigError, SinkError
from thalweg.live.spool.folder import (
    SpoolPosition,
    needed_locked,
    note_dropped,
    read_dropped,
    read_needed,
    segment_path,
    segments,
)
from thalweg.live.spool.layout import DATAGRAM, ENTRY, MAGIC, MARK, PIECE, STOP
from thalweg.live.spool.reserve import free_bytes, is_full, keep_reserve

_LIBC: Final = ctypes.CDLL(None, use_errno=True)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class SpoolConfig:
    """The queue on disk between receiving and scoring.

    Raises ConfigError if not even one segment fits into it.
    """

    folder: Path = Path("thalweg-spool")
    """Its folder; templates, positions in logs and what is written are kept there, too."""
    max_bytes: int = 4 << 30
    """How large it may grow; then the oldest segment is dropped and counted."""
    segment_bytes: int | None = None
    """The size of a segment, about; if not given, an eighth of max_bytes, and 64 MiB at most."""
    reserve_bytes: int | None = None
    """Disk space in reserve while a run lasts; if not given, a 32nd of max_bytes, from 16 to 128 MiB. As much is left
    free beside it. On a full disk, a run saves its state there, and then frees what is written."""
    snapshot_s: float = 10.0
    """How often the scorer keeps its state: about so much is read again after a kill."""

    def __post_init__(self) -> None:
        """Check the sizes."""
        if self.bytes_per_segment < 1 or self.max_bytes < self.bytes_per_segment:
            raise ConfigError(
                f"a spool of {self.max_bytes:,} bytes in segments of {self.bytes_per_segment:,}: it holds at least one"
            )

    @property
    def bytes_per_segment(self) -> int:
        """The size of a segment, about. At least eight fit, unless it is set, so that little is dropped at once."""
        return min(max(self.max_bytes // 8, 1), 64 << 20) if self.segment_bytes is None else self.segment_bytes

    @property
    def bytes_in_reserve(self) -> int:
        """How much disk space is kept in reserve."""
        return min(max(self.max_bytes // 32, 16 << 20), 128 << 20) if self.reserve_bytes is None else self.reserve_bytes


@final
class SpoolWriter:
    """Appends entries. The oldest segments are dropped and counted if its bound or its disk is too small.

    Raises SinkError if the folder cannot be written; on a full disk only when something is written.
    """

    def __init__(self, folder: Path, config: SpoolConfig | None = None) -> None:
        self.folder = folder
        self.config = config or SpoolConfig()
        self.num_entries = 0
        self.num_bytes = 0
        self.dropped: dict[str, int] = {"segments": 0, "datagrams": 0, "pieces": 0, "flows": 0}
        """what was dropped unread by this writer"""
        self._sizes: dict[int, int] = {}
        self._written: dict[int, dict[str, int]] = {}
        """what is in the segments that this writer wrote, by number"""
        self._file = self._number = -1
        self._is_torn = self._is_closed = self._is_full = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for number in segments(folder):
                self._sizes[number] = segment_path(folder, number).stat().st_size
            # Beyond all that ever existed: the reader may wait behind segments that somebody removed.
            self._number = max(*self._sizes, read_dropped(folder)["last_segment"], read_needed(folder)[1], -1)
            self._next_segment()
        except OSError as error:
            if is_full(error):
                self._is_full = True
                return
            raise SinkError(
                f"the spool {folder} cannot be written: {error.strerror}; choose another --spool"
            ) from error

    @property
    def position(self) -> SpoolPosition:
        """Where the next entry will begin."""
        return SpoolPosition(self._number, self._sizes.get(self._number, 0))

    def _next_segment(self) -> None:
        number, flags = self._number + 1, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_EXCL
        while os.path.lexists(segment_path(self.folder, number)):  # a link, or something else that is not ours
            number += 1
        file = os.open(segment_path(self.folder, number), flags, 0o640)
        if self._file >= 0:
            os.close(self._file)
        self._file, self._number, self._is_torn = file, number, False
        self._sizes[number], self._written[number] = 0, {"datagrams": 0, "pieces": 0, "flows": 0}

    def write(self, parts: Sequence[Any], num_bytes: int, num_entries: int, num_flows: int = 0) -> None:
        """Append whole entries of datagrams, as at most 1,024 buffers end to end.

        num_flows: in the datagrams, as far as their headers state it. Raises SinkError; then none is kept.
        """

        def write() -> None:
            done = os.writev(self._file, parts)
            if done < num_bytes:  # the disk is nearly full, or a signal came
                self._write_rest(b"".join(bytes(part) for part in parts)[done:])

        self._write(write)
        self._note(num_bytes, num_entries, datagrams=num_entries, flows=num_flows)

    def write_vectors(
        self, vectors: npt.NDArray[np.void], num_bytes: int, num_entries: int, num_flows: int = 0
    ) -> None:
        """Append whole entries of datagrams from anywhere in memory.

        vectors: (V,) of address and length, as writev takes them. num_flows: in the datagrams, as far as their headers
        state it. Raises SinkError; then none is kept.
        """

        def write() -> None:
            done = _LIBC.writev(self._file, ctypes.c_void_p(vectors.ctypes.data), len(vectors))
            if done < 0:
                code = ctypes.get_errno()
                if code != errno.EINTR:
                    raise OSError(code, os.strerror(code))
                done = 0
            if done < num_bytes:
                parts = [ctypes.string_at(int(base), int(length)) for base, length in vectors.tolist()]
                self._write_rest(b"".join(parts)[done:])

        self._write(write)
        self._note(num_bytes, num_entries, datagrams=num_entries, flows=num_flows)

    def _write(self, write: Callable[[], None]) -> None:
        """Write something whole; if the disk is full, drop the oldest segment and try once more.

        What was written in part is not tried again: the entries that are whole in it are read.
        """
        try:
            try:
                self._roll()
                write()
            except OSError as error:
                self._look_for_tear()
                self._is_full |= is_full(error)
                has_room = is_full(error) and self._drop_oldest()
                if self._is_torn or not has_room:
                    raise
                self._roll()
                write()
        except OSError as error:
            self._look_for_tear()
            raise SinkError(
                f"the spool {self.folder} cannot be written: {error.strerror}; make room, or choose another --spool"
            ) from error

    def _roll(self) -> None:
        """Go on in another segment if this one is long enough, torn or not there yet. Raises OSError."""
        if self._is_closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        # What comes first on a full disk is the reserve: with it, the scorer frees what it has read.
        if self._is_full and not keep_reserve(self.folder, self.config.bytes_in_reserve):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._is_full = False
        if self._file < 0 or self._is_torn or self._sizes[self._number] >= self.config.bytes_per_segment:
            self._next_segment()
            self._keep_within_bound()

    def _write_rest(self, rest: bytes) -> None:
        while rest:
            rest = rest[os.write(self._file, rest) :]

    def _note(self, num_bytes: int, num_entries: int, **held: int) -> None:
        self._sizes[self._number] += num_bytes
        self.num_bytes += num_bytes
        self.num_entries += num_entries
        for name, num in held.items():
            self._written[self._number][name] += num

    def _look_for_tear(self) -> None:
        """Continue in another segment if a part was written: a file that the reader has mapped is never truncated."""
        with suppress(OSError):
            self._is_torn = os.fstat(self._file).st_size != self._sizes[self._number]

    def add(self, kind: int, time_us: int, payload: bytes = b"", source: int = 0) -> None:
        """Append one entry."""
        header = np.zeros(1, ENTRY)
        header["magic"], header["kind"], header["source"] = MAGIC, kind, source
        header["length"], header["time_us"] = len(payload), time_us

        def write() -> None:
            if kind in (MARK, STOP):
                header["hi"] = self._written[self._number]["datagrams"]
            header["check"] = zlib.crc32(payload, zlib.crc32(header.tobytes()[:-4]))
            self._write_rest(header.tobytes() + payload)

        self._write(write)
        num_bytes = ENTRY.itemsize + len(payload)
        self._note(num_bytes, 1, datagrams=int(kind == DATAGRAM), pieces=int(kind == PIECE))

    def _keep_within_bound(self) -> None:
        while self.waiting_bytes > self.config.max_bytes or free_bytes(self.folder) < self.config.bytes_in_reserve:
            if not self._drop_oldest():
                return

    def _drop_oldest(self) -> bool:
        """Drop the oldest segment that the reader has not begun. Returns whether there was one."""
        with needed_locked(self.folder):
            first, last = read_needed(self.folder)
            for number in sorted(self._sizes):
                if number != self._number and not first <= number <= last:
                    self._drop(number, self._sizes.pop(number))
                    return True
        return False

    def _drop(self, number: int, size: int) -> None:
        path = segment_path(self.folder, number)
        lost = self._written.pop(number, None)
        try:
            # Written by an earlier process, or with entries in its torn end that a reader finds.
            if lost is None or path.stat().st_size != size:
                lost = _contents(path)
        except FileNotFoundError:  # already read and removed
            return
        try:
            note_dropped(self.folder, number, lost)
            path.unlink(missing_ok=True)
        except OSError:  # a full disk has room without the segment
            path.unlink(missing_ok=True)
            note_dropped(self.folder, number, lost)
        self.dropped["segments"] += 1
        for name, num in lost.items():
            self.dropped[name] += num

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the segments that still exist."""
        gone = [number for number in self._sizes if not segment_path(self.folder, number).exists()]
        for number in gone:
            del self._sizes[number]
            self._written.pop(number, None)
            if number == self._number:  # somebody removed it: nobody would read what is written to it
                self._close_segment()
        return sum(self._sizes.values())

    def close(self) -> None:
        """Close the segment; nothing more can be written."""
        self._is_closed = True
        self._close_segment()

    def _close_segment(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _contents(path: Path) -> dict[str, int]:
    from thalweg.live.spool.entries import find_entries  # a large import, only for segments of an earlier process

    found, _ = find_entries(np.frombuffer(path.read_bytes(), np.uint8), 0)
    datagrams = found["kind"] == DATAGRAM
    return {
        "datagrams": int(datagrams.sum()),
        "pieces": int((found["kind"] == PIECE).sum()),
        "flows": int(found["flows"][datagrams].sum()),
    }
