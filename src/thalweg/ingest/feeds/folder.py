"""A folder in which files appear -> each file once, when it is complete."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, final

import polars as pl

from thalweg.errors import ConfigError, SourceError, ThalwegError
from thalweg.ingest.feeds.feed import Piece, Position
from thalweg.ingest.feeds.logs.reader import LogReader
from thalweg.ingest.files import ReadOptions, is_recognised, read_file
from thalweg.ingest.records import Records
from thalweg.ingest.streams import NoFlowsError
from thalweg.ingest.tabular.columnar import ARROW_FILE, PARQUET
from thalweg.tables import Flows
from thalweg.tally import Tally

# A position names every file that is done. So that the positions of many pieces stay bounded, a piece has the more
# files the more are done.
_DONE_PER_FILE: Final = 256
_MAX_FILES: Final = 1024

State = tuple[int, int]
"""A file's time of change, in ns since 1970, and its size."""


@final
class FolderFeed:
    """Watches a folder, and those inside it, for files that can be read (see `files.SUFFIXES`).

    A file is taken when its size and time have not changed for `settle_s`, or at once where it is Parquet or Arrow
    and has its end. Files that were there before are taken too, unless `only_new`. Hidden names are passed over. A
    file that changes after it was taken is read again as a whole, and counted. Nothing is moved or deleted.

    Raises: ConfigError, where `settle_s` is negative.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        only_new: bool = False,
        settle_s: float = 2.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        if settle_s < 0:
            raise ConfigError(f"files settle within some seconds, not {settle_s}")
        self.path = Path(path)
        self._only_new = only_new
        self._settle_s = settle_s
        self._now = now
        self._tally = Tally()
        self._done: dict[str, State] = {}
        self._seen: dict[str, tuple[State, float]] = {}

    @property
    def name(self) -> str:
        """The folder's path."""
        return str(self.path)

    @property
    def tally(self) -> Tally:
        """What was lost or doubted so far."""
        return self._tally

    @property
    def ended(self) -> bool:
        """Never: files can always come."""
        return False

    def open(self, position: Position | None) -> None:
        """Begin, or go on after a position. Raises: SourceError, where there is no such folder."""
        if not self.path.is_dir():
            raise SourceError(f"{self.path}: no such folder; make it, or check the path")
        self._seen = {}
        if position is not None:
            self._done = {name: (modified, size) for name, modified, size in position["done"]}
        else:
            self._done = self._found() if self._only_new else {}

    def poll(self) -> Iterator[Piece]:
        """Give the files that have become complete, oldest first."""
        found = self._found()
        self._done = {name: state for name, state in self._done.items() if name in found}
        now = self._now()
        waiting: dict[str, tuple[State, float]] = {}
        ready: list[tuple[int, str]] = []
        for name, state in found.items():
            if self._done.get(name) == state:
                continue
            seen = self._seen.get(name)
            since = seen[1] if seen is not None and seen[0] == state else now
            if now - since >= self._settle_s or _has_end(self.path / name, state[1]):
                ready.append((state[0], name))
            else:
                waiting[name] = (state, since)
        ready.sort()
        # What is not given out now, as when the caller stops, is ready at the next call too.
        self._seen = waiting | {name: (found[name], now - self._settle_s) for _, name in ready}
        at = 0
        while at < len(ready):
            num = min(max(1, len(self._done) // _DONE_PER_FILE), _MAX_FILES)
            names = [name for _, name in ready[at : at + num]]
            at += num
            for name in names:
                if name in self._done:
                    self._tally.add("changed_files", 1, str(self.path / name))
                self._done[name] = found[name]
                self._seen.pop(name, None)
            paths = [str((self.path / name).absolute()) for name in names]
            payload = {"path": paths[0]} if len(paths) == 1 else {"path": paths}
            yield Piece(json.dumps(payload).encode(), {"done": [[name, *state] for name, state in self._done.items()]})

    def close(self) -> None:
        """Do nothing: no file is kept open."""

    def _found(self) -> dict[str, State]:
        """Return the files that are there and can be read."""
        found: dict[str, State] = {}
        for folder, folders, names in os.walk(self.path):
            folders[:] = sorted(inner for inner in folders if not inner.startswith("."))
            for name in names:
                path = Path(folder, name)
                if not is_recognised(Path(name)):
                    continue
                try:
                    status = path.stat()
                except OSError:
                    continue
                found[str(path.relative_to(self.path))] = (status.st_mtime_ns, status.st_size)
        return found


def _has_end(path: Path, size: int) -> bool:
    """Tell whether a Parquet or Arrow file has its last bytes, which are written when all others are."""
    try:
        with path.open("rb") as file:
            first = file.read(8)
            if size < 16 or not first.startswith((PARQUET, ARROW_FILE)):
                return False
            file.seek(size - 10)
            last = file.read()
    except OSError:
        return False
    magic = PARQUET if first.startswith(PARQUET) else ARROW_FILE
    before = last[: len(last) - len(magic)][-4:]
    return last.endswith(magic) and 0 < int.from_bytes(before, "little") < size


@final
class FolderReader(LogReader):
    """Reads the files that pieces of a `FolderFeed` name: flows, or records where a row is one direction."""

    def __init__(self, options: ReadOptions | None = None, *, subject: str = "a file of the folder") -> None:
        super().__init__(options, subject=subject)

    def read(self, piece: bytes, arrival_us: int) -> Iterator[Records | Flows]:
        """Give what is in the files that a piece names; one that is gone or damaged is counted."""
        try:
            named = json.loads(piece)["path"]
            paths = [Path(path) for path in ([named] if isinstance(named, str) else named)]
        except (ValueError, KeyError, TypeError) as error:
            self._tally.add("unreadable_pieces", 1, f"the piece names no file ({error})")
            return
        for path in paths:
            yield from self._read(path, arrival_us)

    def _read(self, path: Path, arrival_us: int) -> Iterator[Records | Flows]:
        try:
            yield from self._given_out(read_file(path, self._options, self._tally, is_bare=True), arrival_us)
        except NoFlowsError:
            self._tally.add("empty_files", 1, str(path))
        except (ThalwegError, OSError, ValueError, pl.exceptions.PolarsError) as error:
            is_gone = not path.exists()
            self._tally.add("vanished_files" if is_gone else "unreadable_files", 1, str(error).split("\n")[0])
