"""Logs on disk: growing, renamed, compressed. A log is recognised by the content before an offset."""

from __future__ import annotations

import gzip
import os
import re
import zlib
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO, Final, cast, final

import zstandard

from thalweg.ingest.streams import GZIP, ZSTD

DAMAGED: Final = (EOFError, OSError, zlib.error, zstandard.ZstdError)
"""What reading raises if a compressed log, or the disk, is damaged."""

_CHECKED: Final = 256
_STEP: Final = 1 << 20


@final
@dataclass(slots=True, eq=False)
class LogFile:
    """An open log: the offset at which reading continues, the header in force, and the last bytes before the offset.

    Offsets of a compressed log are those of its content. in_header: more header lines may follow.
    """

    path: Path
    file: BinaryIO
    content: BinaryIO
    device: int
    inode: int
    is_packed: bool
    offset: int = 0
    header: bytes = b""
    in_header: bool = False
    tail: bytes = b""
    is_skipping: bool = False
    is_damaged: bool = False
    _at: int = 0
    _failure: Exception | None = None

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return os.fstat(self.file.fileno()).st_size

    @property
    def modified(self) -> int:
        """When it was last written to, in ns since 1970."""
        return os.fstat(self.file.fileno()).st_mtime_ns

    @property
    def check(self) -> str:
        """A digest of the last bytes before the offset."""
        return _digest(self.tail)

    def read_at(self, offset: int, num: int) -> bytes:
        """Read so many bytes, or fewer at the end of the log. Raises one of DAMAGED."""
        if not self.is_packed:
            self.content.seek(offset)
            return self._read(num)
        if offset < self._at:
            self.content, self._at, self._failure = _unpacked(self.file), 0, None
        while self._at < offset:
            if not self._read(min(offset - self._at, _STEP)):
                return b""
        return self._read(num)

    def _read(self, num: int) -> bytes:
        if self._failure is not None:
            raise self._failure
        parts: list[bytes] = []
        try:
            while num > 0 and (part := self.content.read(num)):
                parts.append(part)
                num -= len(part)
                self._at += len(part)
        except DAMAGED as error:
            # What was read before is returned first.
            self._failure = error
            if not parts:
                raise
        return b"".join(parts)

    def advance(self, data: bytes) -> None:
        """Continue after these bytes."""
        self.offset += len(data)
        self.tail = data[-_CHECKED:] if len(data) >= _CHECKED else (self.tail + data)[-_CHECKED:]

    def start(self, offset: int) -> None:
        """Continue at an offset."""
        self.offset, self.in_header, self.is_skipping = offset, False, False
        self.tail = self.read_at(max(offset - _CHECKED, 0), min(offset, _CHECKED))

    def resume(self, offset: int, check: str) -> bool:
        """Continue at an offset. Returns whether the content before it has this digest. Raises one of DAMAGED."""
        self.start(offset)
        return len(self.tail) == min(offset, _CHECKED) and self.check == check

    def is_rewritten(self) -> bool:
        """Return whether the content before the offset has changed."""
        return self.read_at(self.offset - len(self.tail), len(self.tail)) != self.tail


def open_log(path: Path) -> LogFile:
    """Open a log, compressed or not. Raises OSError."""
    file = cast(BinaryIO, path.open("rb", buffering=0))
    status = os.fstat(file.fileno())
    is_packed = file.read(4).startswith((GZIP, ZSTD))
    return LogFile(path, file, _unpacked(file) if is_packed else file, status.st_dev, status.st_ino, is_packed)


def _unpacked(file: BinaryIO) -> BinaryIO:
    file.seek(0)
    magic = file.read(2)
    file.seek(0)
    if magic == GZIP:
        return cast(BinaryIO, gzip.GzipFile(fileobj=file, mode="rb"))
    return cast(BinaryIO, zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True, closefd=False))


def _digest(tail: bytes) -> str:
    return blake2b(tail, digest_size=8).hexdigest()


def renamed_logs(path: Path) -> list[Path]:
    """Return the files beside a log to which it may have been renamed, oldest first.

    They have its name with a date or number after it (logrotate), or before the suffix (Zeek), compressed or not.
    """
    stem, suffix = re.escape(path.stem), re.escape(path.suffix)
    dated = re.compile(rf"(?:{stem}{suffix}[.-]\d.*|{stem}[.-]\d.*{suffix}(?:\.gz|\.zst)?)")
    try:
        with os.scandir(path.parent) as entries:
            found = [(e.stat().st_mtime_ns, e.name) for e in entries if dated.fullmatch(e.name) and e.is_file()]
    except OSError:
        return []
    names = {name for _, name in found}
    # While a log is being compressed, both files exist.
    return [
        path.with_name(name)
        for _, name in sorted(found)
        if name.removesuffix(".gz").removesuffix(".zst") == name
        or name.removesuffix(".gz").removesuffix(".zst") not in names
    ]


def find_log(path: Path, inode: tuple[int, int], offset: int, check: str, modified: int) -> LogFile | None:
    """Find the log that was read up to an offset: the same file under any name, or one with the same content.

    inode: its device and inode. check: digest of the last bytes before the offset. modified: when it had last been
    written to, in ns since 1970.
    """
    nearby = [path, *reversed(renamed_logs(path))]
    for is_same in (True, False):
        for candidate in nearby:
            try:
                status = candidate.stat()
                # A program that compresses a log keeps its time, to the second.
                is_late_enough = status.st_mtime_ns >= modified - 1_000_000_000
                if is_same != ((status.st_dev, status.st_ino) == inode) or not is_late_enough:
                    continue
                log = open_log(candidate)
            except OSError:
                continue
            try:
                if log.resume(offset, check):
                    return log
            except DAMAGED:
                pass
            log.file.close()
    return None


def next_log(log: LogFile, path: Path) -> LogFile | None:
    """Find the log that came after this one and has been renamed, too; None if there is none."""
    for candidate in renamed_logs(path):
        try:
            status = candidate.stat()
            is_later = status.st_mtime_ns > log.modified and (status.st_dev, status.st_ino) != (log.device, log.inode)
            then = open_log(candidate) if is_later else None
        except OSError:
            continue
        if then is None:
            continue
        try:
            # A compressed copy of this log may be younger than it.
            if not log.offset or not then.resume(log.offset, log.check):
                then.start(0)
                return then
        except DAMAGED:
            pass
        then.file.close()
    return None
