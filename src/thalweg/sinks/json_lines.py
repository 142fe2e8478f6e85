"""JSON lines: one file that grows by a line for each flow."""

from __future__ import annotations

import errno
import glob
import io
import json
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

from thalweg.errors import SchemaError, SinkError
from thalweg.sinks.sink import ScoredWindow, State

if TYPE_CHECKING:
    import polars as pl  # the receiver only checks that sinks can be opened, and stays small without it

_CHECKED: Final = 256
_ROWS: Final = 16_384


@final
class JsonLines:
    """One file that grows by a line for each flow. After a kill, a window that was half written is cut off.

    It can be rotated: if it was renamed, removed or cut to nothing (copytruncate), writing continues in a new file.
    Lines are written twice only if that happens and the program is killed in the same window.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = -1

    def open(self, state: State | None) -> State:
        """Open it to append. Raises SinkError if it cannot be opened."""
        try:
            self._cut_half_window(state or {})
            self._open()
            self._end_line()
            return self._state()
        except OSError as error:
            raise SinkError(
                f"cannot write {self.path}: {error.strerror}; make its folder, or choose another --to"
            ) from error

    def write(self, window: ScoredWindow) -> State:
        """Append a window's lines."""
        size = None
        try:
            self._follow_rename()
            size = os.fstat(self._file).st_size
            for lines in lines_of(window.frame):
                _write_all(self._file, lines)
            return self._state()
        except BaseException as error:
            with suppress(OSError):
                if size is not None and os.fstat(self._file).st_size > size:
                    os.ftruncate(self._file, size)
            if isinstance(error, OSError):
                raise SinkError(f"cannot write {self.path}: {error}; the flows wait in the spool") from error
            raise

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _open(self) -> None:
        self.close()
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(self.path.stat().st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file (to write to a pipe, use --to -)")
        self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)

    def _state(self) -> State:
        status = os.fstat(self._file)
        return {"bytes": status.st_size, "inode": status.st_ino, "check": _fingerprint(self._file, status.st_size)}

    def _follow_rename(self) -> None:
        """Start a new file if this one was renamed or removed."""
        try:
            there = self.path.stat()
            now = os.fstat(self._file)
            same = (there.st_dev, there.st_ino) == (now.st_dev, now.st_ino)
        except FileNotFoundError:
            same = False
        if not same:
            self._open()
            self._end_line()

    def _cut_half_window(self, state: State) -> None:
        """Cut off what came after the last window, whatever the file's name is now."""
        known = state.get("bytes")
        if known is None:
            return
        for path in (self.path, *self.path.parent.glob(f"{glob.escape(self.path.stem)}*")):
            try:
                if path.stat().st_ino != state.get("inode") or not path.is_file():
                    continue
                file = os.open(path, os.O_RDWR)
            except OSError:
                continue
            try:
                size = os.fstat(file).st_size
                if size > known and _fingerprint(file, known) == state.get("check"):
                    os.ftruncate(file, known)
                elif size != known:  # truncated since: only that window can have left half a line
                    os.ftruncate(file, _last_line_end(file, size))
            finally:
                os.close(file)
            return

    def _end_line(self) -> None:
        """End a line that another program left without an end."""
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            _write_all(self._file, b"\n")


def lines_of(frame: pl.DataFrame) -> Iterator[bytes]:
    """Yield a frame as lines of JSON, some thousand at a time; NaN and infinity become null, bytes hexadecimal digits.

    Characters that could do something to a terminal are escaped, as JSON may escape any. Raises SchemaError if a column
    is of a type that JSON cannot hold.
    """
    import polars as pl

    frame = frame.with_columns(pl.col(pl.Binary).bin.encode("hex"))
    for part in frame.iter_slices(_ROWS):
        content = io.BytesIO()
        try:
            part.write_ndjson(content)
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            raise SchemaError(f"a column cannot be written as JSON ({_first_line(error)}); write Parquet") from error
        lines = content.getvalue()
        yield lines if lines.isascii() and b"\x7f" not in lines else _escaped(lines)


def _escaped(lines: bytes) -> bytes:
    return "\n".join(
        line if line.isprintable() else "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in line)
        for line in lines.decode().split("\n")
    ).encode()


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _fingerprint(file: int, end: int) -> str:
    """Return a digest of the last bytes before a position, to recognise a file by its content."""
    begin = max(end - _CHECKED, 0)
    return blake2b(os.pread(file, end - begin, begin), digest_size=8).hexdigest()


def _last_line_end(file: int, size: int) -> int:
    """Return where the last whole line of a file ends."""
    end = size
    while end > 0:
        begin = max(end - (1 << 16), 0)
        at = os.pread(file, end - begin, begin).rfind(b"\n")
        if at >= 0:
            return begin + at + 1
        end = begin
    return 0
