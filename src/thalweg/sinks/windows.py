"""Where scored flows go, a window at a time: Parquet by hour, JSON lines, standard output.

A sink is told each window once more after a kill, if it was not certain that it had it: it then has it once.
"""

from __future__ import annotations

import errno
import glob
import io
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, final, runtime_checkable

from thalweg.errors import ConfigError, SinkError
from thalweg.runtime.whole_file import partial_name, remove_leftovers

if TYPE_CHECKING:
    import polars as pl  # who only checks that a sink can be opened does not need it

State = Mapping[str, Any]
"""What a sink needs to go on after its last window: JSON values, of the sink's own making."""

_CHECKED: Final = 256
_ROWS: Final = 16_384


@final
@dataclass(frozen=True, slots=True, eq=False)
class ScoredWindow:
    """What a sink is given.

    number: counts from 0 and never comes twice from one spool; time_us: when the window was full; spool: whose it is.
    """

    number: int
    time_us: int
    frame: pl.DataFrame
    spool: str = "window"


@runtime_checkable
class Sink(Protocol):
    """Takes scored windows. Its address is what it was made from. Nothing is opened before `open`."""

    def open(self, state: State | None) -> State:
        """Begin, or go on after the window whose `write` gave this.

        Returns: what to open it with if the next window's `write` does not come to its end.
        Raises: SinkError, where it cannot be written.
        """
        ...

    def write(self, window: ScoredWindow) -> State:
        """Take a window; it is kept when this returns. Raises: SinkError; the window can be given again then."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...


@final
class HourlyParquet:
    """A folder for each hour (UTC), a Parquet file for each window in it, each whole or not there at all.

    FOLDER/2026-11-25T14/5f3a9c01-000000000123.parquet is the spool and the window. All of it:
    `pl.scan_parquet("FOLDER/**/*.parquet")`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, state: State | None) -> State:
        """Make the folder. Raises: SinkError."""
        del state  # a window that is written again replaces itself
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for left in self.folder.glob("*/.*-*.parquet.*.partial"):
                remove_leftovers(left.with_name(left.name.split(".parquet")[0].removeprefix(".") + ".parquet"))
            probe = partial_name(self.folder / "probe")
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise SinkError(
                f"cannot write into {self.folder}: {error.strerror}; choose another --to, or give the right to write"
            ) from error
        return {}

    def write(self, window: ScoredWindow) -> State:
        """Write one file."""
        import polars as pl

        hour = self.folder / datetime.fromtimestamp(window.time_us / 1e6, UTC).strftime("%Y-%m-%dT%H")
        path = hour / f"{window.spool}-{window.number:012d}.parquet"
        partial = partial_name(path)
        try:
            hour.mkdir(parents=True, exist_ok=True)
            window.frame.write_parquet(partial, compression="zstd", compression_level=1, statistics=False)
            # After power loss, one empty file would spoil the reading of all.
            with partial.open("rb") as written:
                os.fsync(written.fileno())
            partial.replace(path)
        except (OSError, pl.exceptions.PolarsError) as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise SinkError(f"cannot write {path}: {error}; the flows wait in the spool") from error
        return {}

    def close(self) -> None:
        """Nothing is open."""


@final
class JsonLines:
    """One file that grows by a line for each flow. After a kill, a window that was half written is cut off again.

    It can be rotated: one that was renamed or removed is begun anew, and so is one that was cut to nothing
    (copytruncate). Only where that happens and the program is killed in the same window can lines come twice.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = -1

    def open(self, state: State | None) -> State:
        """Open it to append. Raises: SinkError."""
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
            for lines in _lines(window.frame):
                _write_all(self._file, lines)
            return self._state()
        except OSError as error:
            with suppress(OSError):
                if size is not None and os.fstat(self._file).st_size > size:
                    os.ftruncate(self._file, size)
            raise SinkError(f"cannot write {self.path}: {error}; the flows wait in the spool") from error

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _open(self) -> None:
        self.close()
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(self.path.stat().st_mode):
                raise OSError(errno.EINVAL, "it is no file that lines can be added to (to a pipe, write --to -)")
        self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)

    def _state(self) -> State:
        told = os.fstat(self._file)
        return {"bytes": told.st_size, "inode": told.st_ino, "check": _check(self._file, told.st_size)}

    def _follow_rename(self) -> None:
        """Begin a new file where this one was renamed or removed."""
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
                if size > known and _check(file, known) == state.get("check"):
                    os.ftruncate(file, known)
                elif size != known:  # cut to nothing since: half a line is certainly of that window
                    os.ftruncate(file, _last_line_end(file, size))
            finally:
                os.close(file)
            return

    def _end_line(self) -> None:
        """End a line that somebody else left without an end."""
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            _write_all(self._file, b"\n")


@final
class StandardOutput:
    """A line of JSON for each flow on standard output. After a kill, the window that was being written comes again."""

    def open(self, state: State | None) -> State:
        """Nothing is to be opened."""
        del state
        return {}

    def write(self, window: ScoredWindow) -> State:
        """Print a window's lines. Raises: BrokenPipeError, where nobody reads them any more; SinkError."""
        try:
            for lines in _lines(window.frame):
                sys.stdout.buffer.write(lines)
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise SinkError(f"cannot write to standard output: {error}") from error
        return {}

    def close(self) -> None:
        """It is not ours to close."""


def _lines(frame: pl.DataFrame) -> Iterator[bytes]:
    """Give a frame as lines of JSON, some thousand at a time; what is not finite becomes null."""
    for part in frame.iter_slices(_ROWS):
        content = io.BytesIO()
        part.write_ndjson(content)
        yield content.getvalue()


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _check(file: int, end: int) -> str:
    """Return what tells a file's content before a place from another's."""
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


def _path(address: str) -> Path:
    """Return the path in `scheme:path`, `scheme:///path` or a bare path. Raises: ConfigError, where there is none."""
    scheme, colon, rest = address.partition(":")
    path = rest.removeprefix("//") if colon and scheme in SINKS else address
    if not path:
        raise ConfigError(f"--to {address}: a path is missing, as in --to {scheme}:scores")
    return Path(path)


SINKS: Final[Mapping[str, Callable[[str], Sink]]] = {
    "parquet": lambda address: HourlyParquet(_path(address)),
    "jsonl": lambda address: JsonLines(_path(address)),
    "-": lambda _: StandardOutput(),
}
"""Every sink by the word before `:` in its address; a bare path is known by its ending."""


def open_sink(address: str) -> Sink:
    """Choose what an address means; nothing is opened yet. Raises: ConfigError, where it means nothing."""
    return SINKS[_scheme(address)](address)


def open_sinks(addresses: Sequence[str]) -> dict[str, Sink]:
    """Choose what addresses mean, each by its own; nothing is opened yet.

    Raises: ConfigError, where one means nothing, or two mean the same place.
    """
    sinks: dict[str, Sink] = {}
    places: dict[tuple[str, str], str] = {}
    for address in addresses:
        scheme = _scheme(address)
        place = (scheme, "" if scheme == "-" else os.path.realpath(_path(address)))
        if (other := places.get(place)) is not None:
            also = "was given twice" if other == address else f"and --to {other} mean the same place"
            raise ConfigError(f"--to {address} {also}: what is written there would come twice; leave one out")
        places[place] = address
        sinks[address] = SINKS[scheme](address)
    return sinks


def _scheme(address: str) -> str:
    scheme, colon, _ = address.partition(":")
    if address == "-" or (colon and scheme != "-" and scheme in SINKS):
        return scheme
    path = Path(address)
    is_other = re.match(r"(-|[a-z][a-z0-9+-]+):", address) is not None and not path.exists()
    if address and not is_other:
        if address.endswith("/") or path.is_dir():
            return "parquet"
        if path.suffix in (".jsonl", ".ndjson", ".json"):
            return "jsonl"
        if not path.suffix:
            return "parquet"
    raise ConfigError(
        f"--to {address}: write a folder, as scores/, for Parquet by hour; a name in .jsonl for JSON lines; "
        "or - for standard output"
    )
