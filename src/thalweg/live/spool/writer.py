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
from collections.abc import Sequence
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
from thalweg.live.spool.layout import DATAGRAM, ENTRY, MAGIC, PIECE

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


@final
class SpoolWriter:
    """Appends entries. The oldest segments are dropped and counted if the spool would grow beyond its bound.

    Raises SinkError if the folder cannot be written.
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
        self._file = -1
        self._is_torn = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for number in segments(folder):
                self._sizes[number] = segment_path(folder, number).stat().st_size
            # Beyond all that ever existed: the reader may wait behind segments that somebody removed.
            self._number = max(*self._sizes, read_dropped(folder)["last_segment"], read_needed(folder)[1], -1)
            self._next_segment()
        except OSError as error:
            raise SinkError(
                f"the spool {folder} cannot be written: {error.strerror}; choose another --spool"
            ) from error

    @property
    def position(self) -> SpoolPosition:
        """Where the next entry will begin."""
        return SpoolPosition(self._number, self._sizes[self._number])

    def _next_segment(self) -> None:
        number = self._number + 1
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_EXCL
        file = os.open(segment_path(self.folder, number), flags, 0o640)
        if self._file >= 0:
            os.close(self._file)
        self._file, self._number, self._is_torn = file, number, False
        self._sizes[number], self._written[number] = 0, {"datagrams": 0, "pieces": 0, "flows": 0}

    def write(self, parts: Sequence[Any], num_bytes: int, num_entries: int, num_flows: int = 0) -> None:
        """Append whole entries of datagrams, as at most 1,024 buffers end to end.

        num_flows: in the datagrams, as far as their headers state it. Raises SinkError; then none is kept.
        """
        self._append(parts, num_bytes)
        self._note(num_bytes, num_entries, datagrams=num_entries, flows=num_flows)

    def _append(self, parts: Sequence[Any], num_bytes: int) -> None:
        self._roll()
        try:
            done = os.writev(self._file, parts)
            if done < num_bytes:  # the disk is nearly full, or a signal came
                self._write_rest(b"".join(bytes(part) for part in parts)[done:])
        except OSError as error:
            raise self._failed(error.strerror) from error

    def write_vectors(
        self, vectors: npt.NDArray[np.void], num_bytes: int, num_entries: int, num_flows: int = 0
    ) -> None:
        """Append whole entries of datagrams from anywhere in memory.

        vectors: (V,) of address and length, as writev takes them. num_flows: in the datagrams, as far as their headers
        state it. Raises SinkError; then none is kept.
        """
        self._roll()
        done = _LIBC.writev(self._file, ctypes.c_void_p(vectors.ctypes.data), len(vectors))
        if done < num_bytes:
            if done < 0:
                code = ctypes.get_errno()
                if code != errno.EINTR:
                    raise self._failed(os.strerror(code))
                done = 0
            parts = [ctypes.string_at(int(base), int(length)) for base, length in vectors.tolist()]
            try:
                self._write_rest(b"".join(parts)[done:])
            except OSError as error:
                raise self._failed(error.strerror) from error
        self._note(num_bytes, num_entries, datagrams=num_entries, flows=num_flows)

    def _roll(self) -> None:
        if not self._is_torn and self._sizes[self._number] < self.config.bytes_per_segment:
            return
        try:
            self._next_segment()
            self._keep_within_bound()
        except OSError as error:
            raise self._unwritable(error.strerror) from error

    def _write_rest(self, rest: bytes) -> None:
        while rest:
            rest = rest[os.write(self._file, rest) :]

    def _note(self, num_bytes: int, num_entries: int, **held: int) -> None:
        self._sizes[self._number] += num_bytes
        self.num_bytes += num_bytes
        self.num_entries += num_entries
        for name, num in held.items():
            self._written[self._number][name] += num

    def _failed(self, reason: str | None) -> SinkError:
        """Continue in another segment if a part was written: a file that the reader has mapped is never truncated."""
        with suppress(OSError):
            size = os.fstat(self._file).st_size
            self._is_torn = size != self._sizes[self._number]
        return self._unwritable(reason)

    def _unwritable(self, reason: str | None) -> SinkError:
        return SinkError(f"the spool {self.folder} cannot be written: {reason}; make room, or choose another --spool")

    def add(self, kind: int, time_us: int, payload: bytes = b"", source: int = 0) -> None:
        """Append one entry."""
        header = np.zeros(1, ENTRY)
        header["magic"], header["kind"], header["source"] = MAGIC, kind, source
        header["length"], header["time_us"] = len(payload), time_us
        header["check"] = zlib.crc32(payload, zlib.crc32(header.tobytes()[:-4]))
        num_bytes = ENTRY.itemsize + len(payload)
        self._append([header.data.cast("B"), payload], num_bytes)
        self._note(num_bytes, 1, datagrams=int(kind == DATAGRAM), pieces=int(kind == PIECE))

    def _keep_within_bound(self) -> None:
        total = self.waiting_bytes
        if total <= self.config.max_bytes:
            return
        with needed_locked(self.folder):
            first, last = read_needed(self.folder)
            for number in sorted(self._sizes):
                if total <= self.config.max_bytes or number == self._number:
                    return
                if not first <= number <= last:
                    size = self._sizes.pop(number)
                    total -= size
                    self._drop(number, size)

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
        return sum(self._sizes.values())

    def close(self) -> None:
        """Close the segment."""
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
