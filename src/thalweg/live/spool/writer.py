"""A queue on disk between receiving and scoring: written by one process, read by another, whole after a kill -9.

    DIR/000000000007.spool    segments: entries end to end, an entry is a header and a payload
    DIR/dropped.jsonl         segments that had to go unread, with what was in them
    DIR/reading               segments that the reader still needs: they stay

Everything that decides how entries become flows is in the entries themselves, the time included: reading them again
gives the same flows again. A mark closes a batch; batches are read whole. An entry is accepted when it is whole. A
segment is only ever appended to, and never again when a later one is there: what a kill, a full disk or power loss left
half written is at its end, and is passed over and told. Nothing is looked for behind it: a payload may hold anything,
bytes that look like an entry too.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Any, Final, NamedTuple, Self, final

import numpy as np
import numpy.typing as npt

from thalweg.errors import ConfigError, SinkError
from thalweg.live.spool.layout import DATAGRAM, ENTRY, MAGIC, PIECE
from thalweg.runtime.whole_file import whole_file

SUFFIX: Final = ".spool"
_DROPPED: Final = "dropped.jsonl"
_NEEDED: Final = "reading"
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


class Place(NamedTuple):
    """Where reading goes on: a segment's number and an offset in it."""

    segment: int
    offset: int


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class SpoolConfig:
    """How large a spool may grow. max_bytes: of all segments; segment_bytes: of one, about."""

    max_bytes: int = 4 << 30
    segment_bytes: int = 64 << 20

    @classmethod
    def of(cls, max_bytes: int) -> Self:
        """Return a spool of this size in at least eight segments, so that little is dropped at once."""
        return cls(max_bytes=max_bytes, segment_bytes=min(max(max_bytes // 8, 1), 64 << 20))

    def __post_init__(self) -> None:
        """Check the sizes."""
        if self.segment_bytes < 1 or self.max_bytes < self.segment_bytes:
            raise ConfigError(
                f"a spool of {self.max_bytes:,} bytes in segments of {self.segment_bytes:,}: it holds at least one"
            )


def spool_id(folder: Path) -> str:
    """Return what tells this spool from all others, eight digits, made once."""
    path = folder / "id"
    if not path.exists():
        with whole_file(path) as partial:
            partial.write_text(os.urandom(4).hex())
    return path.read_text()


def segments(folder: Path) -> list[int]:
    """Return the numbers of the segments there are, lowest first."""
    found: list[str] = []
    with suppress(FileNotFoundError):
        found = [name.removesuffix(SUFFIX) for name in os.listdir(folder) if name.endswith(SUFFIX)]  # noqa: PTH208
    return sorted(int(name) for name in found if name.isascii() and name.isdigit())


def segment_path(folder: Path, number: int) -> Path:
    """Return a segment's path."""
    return folder / f"{number:012d}{SUFFIX}"


@final
class SpoolWriter:
    """Appends entries. The oldest segments are dropped, and told, where the spool would grow beyond its bound.

    Raises: SinkError, where the folder cannot be written.
    """

    def __init__(self, folder: Path, config: SpoolConfig | None = None) -> None:
        self.folder = folder
        self.config = config or SpoolConfig()
        self.num_entries = 0
        self.num_bytes = 0
        self.dropped: dict[str, int] = {"segments": 0, "datagrams": 0, "pieces": 0, "flows": 0}
        """what went unread since this writer began"""
        self._sizes: dict[int, int] = {}
        self._written: dict[int, dict[str, int]] = {}
        """what is in the segments that this writer wrote, by number"""
        self._file = -1
        self._is_torn = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for number in segments(folder):
                self._sizes[number] = segment_path(folder, number).stat().st_size
            # Beyond all that there ever was, where the reader waits for what somebody has removed.
            self._number = max(*self._sizes, read_dropped(folder)["last_segment"], read_needed(folder)[1], -1)
            self._next_segment()
        except OSError as error:
            raise SinkError(
                f"the spool {folder} cannot be written: {error.strerror}; choose another --spool"
            ) from error

    @property
    def place(self) -> Place:
        """Where the next entry will be."""
        return Place(self._number, self._sizes[self._number])

    def _next_segment(self) -> None:
        number = self._number + 1
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_EXCL
        file = os.open(segment_path(self.folder, number), flags, 0o640)
        if self._file >= 0:
            os.close(self._file)
        self._file, self._number, self._is_torn = file, number, False
        self._sizes[number], self._written[number] = 0, {"datagrams": 0, "pieces": 0, "flows": 0}

    def write(self, parts: Sequence[Any], num_bytes: int, num_entries: int, num_flows: int = 0) -> None:
        """Append whole datagrams' entries, given as buffers end to end, at most 1,024 of them.

        num_flows: that their headers tell. Raises: SinkError; none is kept.
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
        """Append whole datagrams' entries from anywhere in memory.

        vectors: (V,) of address and length, as the system has them. num_flows: that the headers of the datagrams tell.
        Raises: SinkError; none is kept.
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
        if not self._is_torn and self._sizes[self._number] < self.config.segment_bytes:
            return
        try:
            self._next_segment()
            self._keep_within_bound()
        except OSError as error:
            raise self._trouble(error.strerror) from error

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
        """Go on in another segment where a part was written: a file that the reader has mapped is never cut."""
        with suppress(OSError):
            size = os.fstat(self._file).st_size
            self._is_torn = size != self._sizes[self._number]
        return self._trouble(reason)

    def _trouble(self, reason: str | None) -> SinkError:
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
        with _deciding(self.folder):
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
            # Of an earlier writer, or with entries in its torn end that a reader finds.
            if lost is None or path.stat().st_size != size:
                lost = _contents(path)
        except FileNotFoundError:  # it has been read
            return
        line = json.dumps({"segment": number, **lost})
        try:
            _append_line(self.folder / _DROPPED, line)
            path.unlink(missing_ok=True)
        except OSError:  # a full disk has room when it is gone
            path.unlink(missing_ok=True)
            _append_line(self.folder / _DROPPED, line)
        self.dropped["segments"] += 1
        for name, num in lost.items():
            self.dropped[name] += num

    @property
    def waiting_bytes(self) -> int:
        """Bytes of segments that are still there."""
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


def read_dropped(folder: Path) -> dict[str, Any]:
    """Return what was dropped unread since the spool was made: `segments` by number, and the `last_segment`."""
    by_number: dict[int, dict[str, int]] = {}
    with suppress(FileNotFoundError):
        for line in (folder / _DROPPED).read_text(errors="replace").splitlines():
            with suppress(ValueError, KeyError, TypeError, AttributeError):  # half a line, of a killed writer
                row = json.loads(line)
                by_number[int(row.pop("segment"))] = row
    return {"segments": by_number, "last_segment": max(by_number, default=-1)}


@contextmanager
def _deciding(folder: Path) -> Iterator[int]:
    """Let the writer and the reader take turns: what the reader has just begun to need is not dropped meanwhile."""
    file = os.open(folder / _NEEDED, os.O_RDWR | os.O_CREAT, 0o640)
    try:
        flock(file, LOCK_EX)
        yield file
    finally:
        os.close(file)


def write_needed(folder: Path, first: int, last: int) -> None:
    """Keep segments from being dropped: from the one where the reader would restart to the last one that it has begun.

    A reader that restarts needs all that the one before it had begun, too: their flows may be written already.
    """
    with _deciding(folder) as file:
        last = max(last, read_needed(folder)[1])
        os.pwrite(file, f"{first:20d} {last:20d}\n".encode(), 0)


def read_needed(folder: Path) -> tuple[int, int]:
    """Return the first and the last segment that the reader needs; (0, -1) where there was no reader yet."""
    try:
        first, last = (folder / _NEEDED).read_text(errors="replace").split()
        return int(first), int(last)
    except (FileNotFoundError, ValueError):
        return 0, -1


def _append_line(path: Path, line: str) -> None:
    with path.open("ab+") as log:
        if log.seek(0, os.SEEK_END):
            log.seek(-1, os.SEEK_END)
            line = line if log.read(1) == b"\n" else f"\n{line}"  # half a line, of a killed writer
        log.write(f"{line}\n".encode())


def _contents(path: Path) -> dict[str, int]:
    from thalweg.live.spool.reader import find_entries  # a large import, for segments of an earlier process

    found, _ = find_entries(np.frombuffer(path.read_bytes(), np.uint8), 0)
    datagrams = found["kind"] == DATAGRAM
    return {
        "datagrams": int(datagrams.sum()),
        "pieces": int((found["kind"] == PIECE).sum()),
        "flows": int(found["flows"][datagrams].sum()),
    }
