"""A folder in which files of flows appear -> each file once, when it is complete."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, final

from thalweg.errors import ConfigError, SourceError
from thalweg.ingest.feeds.feed import Piece, Position
from thalweg.ingest.feeds.logs.reader import LogReader
from thalweg.ingest.feeds.watched import (
    WatchedFolder,
    damage_counted,
    has_end,
    pack_paths,
    split_paths,
    unchanged_for,
    unpack_paths,
)
from thalweg.ingest.files import is_recognised, read_file
from thalweg.ingest.options import ReadOptions
from thalweg.ingest.records import Records
from thalweg.tables import Flows
from thalweg.tally import Tally

# A position names every file that is done. The more files are done, the more files one piece
# has, so that the positions of many pieces stay bounded.
_DONE_PER_FILE: Final = 256
_MAX_FILES: Final = 1024


@final
class FolderFeed:
    """Watches a folder, and those inside it, for files that can be read (see `files.SUFFIXES`).

    A file is taken when its size and time have not changed for `settle_s`, or at once if it is Parquet or Arrow
    and has its end. Files that existed before are taken too, unless `only_new`. Hidden names are skipped. A file
    that changes after it was taken is read again from the start, and counted. Nothing is moved or deleted.

    Raises ConfigError if `settle_s` is negative.
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
        self.name = str(self.path)
        self.tally = Tally()
        self.ended = False
        self._only_new = only_new
        self._watched = WatchedFolder(
            self.path,
            wants=lambda name: is_recognised(Path(name)),
            rules=(unchanged_for(settle_s), has_end),
            now=now,
        )
        self._done: dict[str, tuple[int, int]] = {}

    def open(self, position: Position | None) -> None:
        """Start, or continue after a position. Raises SourceError if there is no such folder."""
        if not self.path.is_dir():
            raise SourceError(f"{self.path}: no such folder; make it, or check the path")
        if position is not None:
            self._done = {name: (modified, size) for name, modified, size in position["done"]}
        elif self._only_new:
            self._done = {name: file.version for name, file in self._watched.files().items()}
        else:
            self._done = {}

    def poll(self) -> Iterator[Piece]:
        """Yield pieces that name the files that have become complete, oldest first."""
        found = self._watched.files()
        self._done = {name: version for name, version in self._done.items() if name in found}
        ready = sorted(
            (file.modified_ns, name)
            for name, file in found.items()
            if self._done.get(name) != file.version and self._watched.is_complete(file)
        )
        at = 0
        while at < len(ready):
            num = min(max(1, len(self._done) // _DONE_PER_FILE), _MAX_FILES)
            names = [name for _, name in ready[at : at + num]]
            at += num
            for name in names:
                if name in self._done:
                    self.tally.add("changed_files", 1, str(self.path / name))
                self._done[name] = found[name].version
            paths = [found[name].path.absolute() for name in names]
            yield pack_paths(paths, {"done": [[name, *version] for name, version in self._done.items()]})

    def close(self) -> None:
        """Do nothing: no file is kept open."""


@final
class FolderReader(LogReader):
    """Reads the files that pieces of a `FolderFeed` name: flows, or records if a row is one direction."""

    def __init__(self, options: ReadOptions | None = None, *, subject: str = "a file of the folder") -> None:
        super().__init__(options, subject=subject)

    def read(self, piece: bytes, arrival_us: int) -> Iterator[Records | Flows]:
        """Yield the content of the files that a piece names; a missing or damaged file is counted.

        Raises SourceError if it names none.
        """
        for path in unpack_paths(piece):
            with damage_counted(path, self.tally):
                yield from self._runs(read_file(path, self._options, self.tally, is_bare=True), arrival_us)

    def split(self, piece: bytes) -> Sequence[bytes]:
        """Return a piece for each file."""
        return split_paths(piece)
