"""What a scorer was at work on when it died: the one after it takes care there, and sets aside what kills it again.

    DIR/place             where the scorer is at work, for whoever restarts it
    DIR/suspects.json     places at which scorers died, and how often

The first death proves nothing: several windows were at work at once. The next scorer is careful until it is past that
point: it does one thing at a time and notes each. If it dies again, the place is known. Datagrams that are decoded
together are then decoded one by one, and what kills a scorer twice is set aside. A kill from outside, or for want of
memory, proves less: what is set aside has met three.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Self, final

from thalweg.live.spool.folder import SpoolPosition, open_inside
from thalweg.live.spool.reserve import save_with_reserve
from thalweg.runtime.whole_file import whole_file

_PLACE: Final = "place"
_SUSPECTS: Final = "suspects.json"
_LAYOUT: Final = struct.Struct("<7q")
"""The scorer's process, whether it is careful, the kind of the place, its two numbers, and where the batch begins."""
_KINDS: Final = ("", "datagrams", "datagram", "piece", "part", "window")
_KILLED, _CRASHED, _ENOUGH = 2, 3, 6
_MOST: Final = 1_000
"""Places that are remembered. The snapshot leaves a place behind long before so many others are found."""


class Place(NamedTuple):
    """Something that a scorer works on.

    kind: up to 4,096 datagrams that are decoded together, one datagram, a piece of a feed, a file of it, or a window.
    at: a segment of the spool, or the window's number. offset: in the segment, of a file beyond that of its piece.
    """

    kind: Literal["datagrams", "datagram", "piece", "part", "window"]
    at: int
    offset: int = 0

    @property
    def name(self) -> str:
        """The name of files about it."""
        return f"{self.kind}-{self.at:012d}" + (f"-{self.offset:012d}" if self.kind != "window" else "")


@final
class PlaceNote:
    """The file in which a scorer notes where it is. It outlives the process, but not a power loss.

    is_careful: whether each place is noted, or only the batch.
    """

    def __init__(self, folder: Path) -> None:
        self.is_careful = False
        self._batch = SpoolPosition(0, 0)
        with open_inside(folder / _PLACE, os.O_RDWR | os.O_CREAT) as file:
            # On a full disk, to write into a file that has no room yet would kill this process.
            save_with_reserve(folder, lambda: os.posix_fallocate(file, 0, _LAYOUT.size))
            self._content = mmap.mmap(file, _LAYOUT.size)
        self._write(0, 0, 0)

    def start_batch(self, begin: SpoolPosition) -> None:
        """Note where the batch begins that is read now."""
        self._batch = begin
        self._write(0, 0, 0)

    def enter(self, place: Place) -> None:
        """Note that work at a place begins."""
        if self.is_careful:
            self._write(_KINDS.index(place.kind), place.at, place.offset)

    def leave(self) -> None:
        """Note that it is over."""
        if self.is_careful:
            self._write(0, 0, 0)

    def _write(self, kind: int, at: int, offset: int) -> None:
        _LAYOUT.pack_into(self._content, 0, os.getpid(), self.is_careful, kind, at, offset, *self._batch)


@final
@dataclass(frozen=True, slots=True)
class Suspects:
    """Places at which scorers died. points: of each, by its name; careful_until: where the last one's batch began."""

    points: Mapping[str, int] = field(default_factory=dict)
    careful_until: SpoolPosition | None = None

    def is_suspect(self, place: Place) -> bool:
        """Whether a scorer died there."""
        return place.name in self.points

    def is_guilty(self, place: Place) -> bool:
        """Whether it killed scorers often enough to be set aside."""
        return self.points.get(place.name, 0) >= _ENOUGH

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read them; none if nobody died yet, or if the file is damaged."""
        try:
            found: dict[str, Any] = json.loads((folder / _SUSPECTS).read_text())
            return cls({str(name): int(num) for name, num in found["points"].items()}, SpoolPosition(*found["until"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls()


def note_death(folder: Path, pid: int, code: int) -> None:
    """Note where a scorer died. pid, code: of its process, as `subprocess` gives them. Raises OSError."""
    try:
        content = (folder / _PLACE).read_bytes()
        noted, is_careful, kind, at, offset, *batch = _LAYOUT.unpack(content[: _LAYOUT.size])
    except (FileNotFoundError, struct.error):
        return
    if noted != pid:  # it died before it began
        return
    points = dict(Suspects.load(folder).points)
    if is_careful and 0 < kind < len(_KINDS):
        name = Place(_KINDS[kind], at, offset).name  # type: ignore[arg-type]  # one of them
        points[name] = points.pop(name, 0) + (_KILLED if code == -signal.SIGKILL else _CRASHED)
    points = dict(list(points.items())[-_MOST:])
    with whole_file(folder / _SUSPECTS) as partial:
        partial.write_text(json.dumps({"points": points, "until": batch}))
    with open_inside(folder / _PLACE, os.O_WRONLY) as file:
        os.pwrite(file, bytes(_LAYOUT.size), 0)  # noted once
