"""The files in a spool's folder that both its writer and its reader use.

DIR/000000000007.spool    segments, numbered in the order of writing
DIR/dropped.jsonl         segments that were dropped unread, with what was in them
DIR/reading               the first and the last segment that the reader needs; they are never dropped
DIR/id                    eight random digits that identify the spool
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Any, Final, NamedTuple

from thalweg.runtime.whole_file import whole_file

_SUFFIX: Final = ".spool"
_DROPPED: Final = "dropped.jsonl"
_NEEDED: Final = "reading"


class SpoolPosition(NamedTuple):
    """Where an entry of the spool begins: the number of its segment, and the offset in it."""

    segment: int
    offset: int


@contextmanager
def open_inside(path: Path, flags: int) -> Iterator[int]:
    """Open a file in a spool's folder for a while, and yield its descriptor. A link there is never followed."""
    file = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    try:
        yield file
    finally:
        os.close(file)


def spool_id(folder: Path) -> str:
    """Return the eight digits that identify this spool, made on the first call."""
    path = folder / "id"
    if not path.exists():
        with whole_file(path) as partial:
            partial.write_text(os.urandom(4).hex())
    return path.read_text()


def segments(folder: Path) -> list[int]:
    """Return the numbers of the segments that exist, lowest first."""
    found: list[str] = []
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        found = [one.name for one in entries if one.name.endswith(_SUFFIX) and one.is_file(follow_symlinks=False)]
    names = (name.removesuffix(_SUFFIX) for name in found)
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())


def segment_path(folder: Path, number: int) -> Path:
    """Return a segment's path."""
    return folder / f"{number:012d}{_SUFFIX}"


def note_dropped(folder: Path, number: int, lost: Mapping[str, int]) -> None:
    """Add a segment to those that were dropped unread. lost: what was in it, by name. Raises OSError."""
    line = json.dumps({"segment": number, **lost})
    with open_inside(folder / _DROPPED, os.O_RDWR | os.O_CREAT | os.O_APPEND) as log:
        size = os.fstat(log).st_size
        if size and os.pread(log, 1, size - 1) != b"\n":
            line = f"\n{line}"  # a killed writer left half a line
        os.write(log, f"{line}\n".encode())


def read_dropped(folder: Path) -> dict[str, Any]:
    """Return what was dropped unread since the spool was made: `segments` by number, and the `last_segment`."""
    by_number: dict[int, dict[str, int]] = {}
    with suppress(FileNotFoundError):
        for line in (folder / _DROPPED).read_text(errors="replace").splitlines():
            with suppress(ValueError, KeyError, TypeError, AttributeError):  # a killed writer left half a line
                row = json.loads(line)
                by_number[int(row.pop("segment"))] = row
    return {"segments": by_number, "last_segment": max(by_number, default=-1)}


@contextmanager
def needed_locked(folder: Path) -> Iterator[int]:
    """Lock the note of needed segments: a segment is not dropped while the reader begins to need it.

    Yields the note's file descriptor.
    """
    with open_inside(folder / _NEEDED, os.O_RDWR | os.O_CREAT) as file:
        flock(file, LOCK_EX)
        yield file


def write_needed(folder: Path, first: int, last: int) -> None:
    """Keep segments from being dropped: from the one where the reader would restart to the last one that it has begun.

    A reader that restarts needs all that the one before it had begun, too: their flows may be written already.
    """
    with needed_locked(folder) as file:
        last = max(last, read_needed(folder)[1])
        os.pwrite(file, f"{first:20d} {last:20d}\n".encode(), 0)


def read_needed(folder: Path) -> tuple[int, int]:
    """Return the first and the last segment that the reader needs; (0, -1) if there was no reader yet."""
    try:
        first, last = (folder / _NEEDED).read_text(errors="replace").split()
        return int(first), int(last)
    except (FileNotFoundError, ValueError):
        return 0, -1
