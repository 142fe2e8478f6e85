"""A folder in which files appear: which are there, which are complete, and how a piece names them."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, final

import polars as pl

from thalweg.errors import SourceError
from thalweg.ingest.feeds.feed import Piece, Position
from thalweg.ingest.streams import NoFlowsError
from thalweg.ingest.tabular.columnar import PARQUET
from thalweg.ingest.tabular.ipc import MAGIC as ARROW_FILE
from thalweg.tally import Tally


@final
@dataclass(frozen=True, slots=True)
class WatchedFile:
    """A file as it was found. unchanged_s: for how long this time and size have been seen; modified_ns: since 1970."""

    path: Path
    modified_ns: int
    size: int
    unchanged_s: float
    is_last: bool

    @property
    def version(self) -> tuple[int, int]:
        """What differs once the file was written to."""
        return self.modified_ns, self.size


Rule: TypeAlias = Callable[[WatchedFile], bool]
"""A reason to call a file complete. It may read the file and raise OSError if it cannot."""


@final
class WatchedFolder:
    """The regular files of a folder and of the folders inside it; hidden names are skipped.

    wants: whether a file of this name is one of those. rules: a file is complete if one of them holds.
    """

    def __init__(
        self,
        path: Path,
        *,
        wants: Callable[[str], bool],
        rules: Sequence[Rule],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self._wants, self._rules, self._now = wants, rules, now
        self._first_seen: dict[str, tuple[tuple[int, int], float]] = {}

    def files(self) -> dict[str, WatchedFile]:
        """Return the files that are there now by their paths in the folder, sorted."""
        versions = dict(sorted(self._versions()))
        now = self._now()
        known, self._first_seen = self._first_seen, {}
        found: dict[str, WatchedFile] = {}
        for at, (name, version) in enumerate(versions.items(), start=1):
            before = known.get(name)
            since = before[1] if before is not None and before[0] == version else now
            self._first_seen[name] = (version, since)
            found[name] = WatchedFile(self.path / name, *version, now - since, at == len(versions))
        return found

    def is_complete(self, file: WatchedFile) -> bool:
        """Return whether nothing more is written to a file."""
        try:
            return any(rule(file) for rule in self._rules)
        except OSError:  # gone meanwhile, or not ours to read
            return False

    def _versions(self) -> Iterator[tuple[str, tuple[int, int]]]:
        for folder, inner, names in os.walk(self.path):
            inner[:] = [name for name in inner if not name.startswith(".")]
            prefix = "" if Path(folder) == self.path else f"{Path(folder).relative_to(self.path).as_posix()}/"
            for name in names:
                if name.startswith(".") or not self._wants(name):
                    continue
                try:
                    status = Path(folder, name).stat()
                except OSError:  # gone meanwhile
                    continue
                if stat.S_ISREG(status.st_mode):
                    yield prefix + name, (status.st_mtime_ns, status.st_size)


def unchanged_for(seconds: float) -> Rule:
    """Call a file complete if it has been seen unchanged for so long, whatever its own time says."""
    return lambda file: file.unchanged_s >= seconds


def written_before(seconds: float, now: Callable[[], float]) -> Rule:
    """Call a file complete if its own time is so long ago. now: seconds since 1970."""
    return lambda file: abs(now() - file.modified_ns / 1e9) >= seconds


def has_later_name(file: WatchedFile) -> bool:
    """Call a file complete if a later one is there: what writes files by time writes one at once."""
    return not file.is_last


def has_end(file: WatchedFile) -> bool:
    """Call a Parquet or Arrow file complete if it has its last bytes, which are written when all others are."""
    with file.path.open("rb") as stream:
        first = stream.read(8)
        if file.size < 16 or not first.startswith((PARQUET, ARROW_FILE)):
            return False
        stream.seek(file.size - 10)
        last = stream.read()
    magic = PARQUET if first.startswith(PARQUET) else ARROW_FILE
    length = last[: len(last) - len(magic)][-4:]
    return last.endswith(magic) and 0 < int.from_bytes(length, "little") < file.size


def pack_paths(paths: Sequence[Path], position: Position) -> Piece:
    """Make a piece that names files."""
    named = [str(path) for path in paths]
    return Piece(json.dumps({"path": named[0] if len(named) == 1 else named}).encode(), position)


def unpack_paths(piece: bytes) -> list[Path]:
    """Return the files that a piece names. Raises SourceError if it names none."""
    try:
        named = json.loads(piece)["path"]
        return [Path(path) for path in ([named] if isinstance(named, str) else named)]
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(f"a piece names no file ({error})") from error


def split_paths(piece: bytes) -> Sequence[bytes]:
    """Return a piece for each file that a piece names; the piece itself if it names none."""
    try:
        return [pack_paths([path], {}).payload for path in unpack_paths(piece)]
    except SourceError:
        return [piece]


@contextmanager
def damage_counted(path: Path, tally: Tally) -> Iterator[None]:
    """Count a file that turns out to be empty, gone or damaged, instead of raising."""
    try:
        yield
    except NoFlowsError:
        tally.add("empty_files", 1, str(path))
    except (Exception, pl.exceptions.PanicException) as error:  # a panic of Polars is no Exception
        is_there = os.path.exists(path)  # noqa: PTH110  # Path.exists raises if the folder cannot be searched
        tally.add("unreadable_files" if is_there else "vanished_files", 1, str(error).split("\n")[0])
