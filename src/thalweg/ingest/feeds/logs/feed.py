"""A text log that grows and is rotated -> pieces of whole lines, each with the header that it needs."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, cast, final

from thalweg.errors import SourceError
from thalweg.ingest.feeds.feed import Piece, Position
from thalweg.ingest.feeds.logs.file import DAMAGED, LogFile, find_log, next_log, open_log
from thalweg.ingest.streams import MAX_LINE
from thalweg.ingest.tabular.dialects.recognition import known
from thalweg.ingest.tabular.layout import is_header
from thalweg.tally import Tally

_PIECE: Final = 3 << 20
_MAX_HEADER: Final = 1 << 16
# A program may write to the renamed log for this long before it reopens the new one.
_LINGER_S: Final = 10.0
_COMMENTS: Final = re.compile(rb"(?:#[^\n]*\n)+")
_OBJECT: Final = re.compile(rb"^\{", re.MULTILINE)
_BOM: Final = b"\xef\xbb\xbf"


@final
class LogFeed:
    """Follows a text log (Zeek's conn.log, as TSV or JSON; Suricata's eve.json; any table) by whole lines.

    Reading starts at the log's end, as `tail -f` does, unless `from_start`; a log that comes later is read from its
    start. A log that is renamed is read to its end before its successor; one that is truncated is read from its start.
    After a restart, files that were renamed meanwhile are read first, compressed or not, if they are in the same folder
    under the log's name with a date or number. Each piece holds the header lines in force, so that it can be read
    alone. A line is read once it has its newline; a line above 64 MiB is left out.

    Raises ConfigError if there is no such dialect.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        dialect: str | None = None,
        from_start: bool = False,
        piece_bytes: int = _PIECE,
        now: Callable[[], float] = time.time,
    ) -> None:
        if dialect is not None:
            known(dialect)
        self.path = Path(path)
        self.name = str(self.path)
        self.tally = Tally()
        self.ended = False
        self.dialect = dialect
        self._from_start = from_start
        self._piece_bytes = piece_bytes
        self._now = now
        self._log: LogFile | None = None
        self._other: tuple[int, int, float] | None = None
        self._is_locked = False

    def open(self, position: Position | None) -> None:
        """Start, or continue after a position. Raises SourceError if it is no text log or its folder is missing."""
        self.close()
        if not self.path.parent.is_dir():
            raise SourceError(f"{self.path}: there is no folder {self.path.parent}; check the path")
        if self.path.is_dir():
            raise SourceError(f"{self.path} is a folder, not a log: name the log, or watch it as a folder")
        if position is not None:
            inode = (position["device"], position["inode"])
            log = find_log(self.path, inode, position["offset"], position["check"], position["modified"])
            if log is not None:
                log.header = position["header"].encode("latin-1")
                self._log = log
            else:
                self.tally.add("vanished_files", 1, self.name)
            return
        try:
            log = open_log(self.path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise SourceError(f"{self.path}: cannot be opened ({error.strerror or error}); check the path") from error
        self._log = log
        if log.is_packed or b"\0" in log.read_at(0, 4096):
            self.close()
            raise SourceError(f"{self.path}: not a text log that can grow; read the file as it is, or watch its folder")
        if not self._from_start:
            self._go_to_end(log)

    def poll(self) -> Iterator[Piece]:
        """Yield the lines that are new and complete."""
        while self._log is not None or self._opened():
            log = cast(LogFile, self._log)
            # Asked before this log is read to its end: once a new log has content, nothing more is written to this one.
            is_finished = self._is_finished(log)
            yield from self._rest(log)
            if not is_finished:
                return
            self._take_next(log)

    def close(self) -> None:
        """Close the log."""
        if self._log is not None:
            self._log.file.close()
        self._log = self._other = None

    def _opened(self) -> bool:
        try:
            self._log = open_log(self.path)
        except FileNotFoundError:
            return False
        except OSError as error:
            if not self._is_locked:
                self.tally.add("unreadable_files", 1, f"{self.path}: {error.strerror or error}")
            self._is_locked = True
            return False
        self._is_locked = False
        return True

    def _go_to_end(self, log: LogFile) -> None:
        """Skip the whole lines that exist, and keep the header."""
        end = size = log.size
        newline = -1
        while newline < 0 and end > 0 and size - end < MAX_LINE:
            begin = max(end - _MAX_HEADER, 0)
            newline = log.read_at(begin, end - begin).rfind(b"\n")
            end = begin
        if newline < 0:
            return
        head = log.read_at(0, min(_MAX_HEADER, end + newline + 1))
        log.start(end + newline + 1)
        log.header, _ = _header_of(head)
        log.in_header = log.header.startswith(b"#") and len(log.header) == len(head)

    def _is_finished(self, log: LogFile) -> bool:
        """Return whether nothing more is written to this log, as another has its name."""
        try:
            status = self.path.stat()
        except OSError:
            return False
        inode = (status.st_dev, status.st_ino)
        if inode == (log.device, log.inode):
            self._other = None
            return False
        if self._other is None or self._other[:2] != inode:
            self._other = (*inode, self._now())
        return status.st_size > 0 or self._now() - self._other[2] >= _LINGER_S

    def _take_next(self, log: LogFile) -> None:
        """Open the log that came after a finished one."""
        if not log.is_damaged and not log.is_skipping and log.read_at(log.offset, 1):
            self.tally.add("unfinished_lines", 1, str(log.path))
        self._log, self._other = next_log(log, self.path), None
        log.file.close()

    def _rest(self, log: LogFile) -> Iterator[Piece]:
        """Yield the complete lines after the offset."""
        if not log.is_packed:
            size = log.size
            if size == log.offset:
                return
            if size < log.offset or log.is_rewritten():
                self.tally.add("truncated_logs", 1, str(log.path))
                log.start(0)
        num = self._piece_bytes
        while not log.is_damaged:
            try:
                data = log.read_at(log.offset, num)
            except DAMAGED as error:
                self.tally.add("unreadable_files", 1, f"{log.path}: {error}")
                log.is_damaged = True
                return
            if log.is_skipping:
                end = data.find(b"\n") + 1
                log.is_skipping = not end
                log.advance(data[:end] if end else data)
                if not data:
                    return
                continue
            end = data.rfind(b"\n") + 1
            if not end and len(data) >= MAX_LINE:
                self.tally.add("overlong_lines", 1, str(log.path))
                log.is_skipping = True
                log.advance(data)
            elif not end and len(data) < num:
                return
            elif not end:
                num = min(2 * num, MAX_LINE)
                continue
            yield from self._pieces(log, data[:end])
            num = self._piece_bytes

    def _pieces(self, log: LogFile, lines: bytes) -> Iterator[Piece]:
        """Cut whole lines at each change of the header."""
        at = 0
        if log.offset == 0:
            at = 3 if lines.startswith(_BOM) else 0
            # A Zeek log that was truncated while Zeek wrote to it has no header any more.
            if not log.header.startswith(b"#") or lines.startswith(b"#", at):
                log.header, log.in_header = _header_of(lines[at:])
                at += len(log.header)
            if not log.header and (first := _OBJECT.search(lines, at)):
                self.tally.add("malformed_rows", lines.count(b"\n", at, first.start()), str(log.path))
                at = first.start()
            log.advance(lines[:at])
        while at < len(lines):
            if log.header.startswith(b"#") and lines.startswith(b"#", at):
                comments = cast(re.Match[bytes], _COMMENTS.match(lines, at))[0]
                begins = comments.rfind(b"#separator")
                if begins >= 0:
                    log.header, log.in_header = comments[begins:], True
                elif log.in_header:
                    log.header += comments
                log.advance(comments)
                at += len(comments)
                continue
            stop = lines.find(b"\n#", at) + 1 if log.header.startswith(b"#") else 0
            stop = stop or len(lines)
            log.advance(lines[at:stop])
            log.in_header = False
            yield Piece(log.header + lines[at:stop], self._position(log))
            at = stop

    def _position(self, log: LogFile) -> Position:
        return {
            "device": log.device,
            "inode": log.inode,
            "offset": log.offset,
            "header": log.header.decode("latin-1"),
            "check": log.check,
            "modified": log.modified,
        }


def _header_of(lines: bytes) -> tuple[bytes, bool]:
    """Find the header lines at a file's start. Returns these lines; whether more of them may follow."""
    if comments := _COMMENTS.match(lines):
        return comments[0], comments.end() == len(lines)
    # The first line may be incomplete if a log was truncated.
    if _OBJECT.search(lines):
        return b"", False
    at = len(lines) - len(lines.lstrip())
    first = lines[: lines.find(b"\n", at) + 1]
    return (first, False) if is_header(first.strip()) else (b"", False)
