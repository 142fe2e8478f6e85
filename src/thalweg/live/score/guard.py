"""Guards the scorer against what it reads: what raises an error, or killed scorers before, is set aside and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar, final

from thalweg.errors import SinkError
from thalweg.ingest.assembler import Assembler
from thalweg.ingest.netflow.datagrams import Datagrams
from thalweg.ingest.records import Records, address_text
from thalweg.live.score.quarantine import Quarantine
from thalweg.live.spool.reader import Batch, SpooledPiece
from thalweg.live.suspects import Place, PlaceNote, Suspects
from thalweg.runtime.terminal import print_on_stderr
from thalweg.tables import Flows
from thalweg.tally import Tally

T = TypeVar("T")
Problem = Callable[[BaseException], None]

ENDING: Final = (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError, BrokenPipeError, SinkError)
"""Errors that say nothing about what is read. All others are caught: a panic of a library is no Exception."""

_MAX_WARNED: Final = 20


@final
class KilledBeforeError(Exception):
    """It killed scorers, more than once."""

    def __init__(self) -> None:
        super().__init__("the scorer died of it more than once")


@final
class Guard:
    """Runs what reads, piece by piece, and what scores, window by window.

    What it gives depends only on what is read and on the suspects, so that reading again gives the same. note: where
    the scorer is at work. tally: datagrams and pieces that were set aside. Raises SinkError if the spool's folder
    cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self.note = PlaceNote(folder)
        except OSError as error:
            raise SinkError(f"the spool {folder} cannot be written: {error.strerror}") from error
        self.suspects = Suspects.load(folder)
        self.tally = Tally()
        self._quarantine = Quarantine(folder)
        self._warned: set[str] = set()

    def decode(self, assembler: Assembler, batch: Batch) -> Iterator[Records]:
        """Yield the records that a batch's datagrams complete: of many datagrams together, or of one after the other.

        One after the other is slower, and shows which of them is bad. What a failed attempt has learned stays.
        """
        segment = batch.begin.segment
        for together in batch.datagrams().parts():
            place = Place("datagrams", segment, int(together.arrived["offset"][0]))
            failed: list[BaseException] = []
            if not self.suspects.is_suspect(place):
                yield from self.attempt(place, partial(map, assembler.decode, [together]), failed.append)
                if not failed:
                    continue
            for one in together.parts(1):
                alone = Place("datagram", segment, int(one.arrived["offset"][0]))
                set_aside = partial(self._set_aside_datagram, alone, one)
                yield from self.attempt(alone, partial(map, assembler.decode, [one]), set_aside)

    def read(self, assembler: Assembler, batch: Batch, one: SpooledPiece) -> Iterator[Records | Flows]:
        """Yield what a piece of a feed completes, as far as it can be read.

        If a scorer died of a piece that names several files, they are read one by one.
        """
        place, source = Place("piece", batch.begin.segment, one.offset), assembler.config.sources[one.source]
        parts = assembler.split(one.source, one.piece) if self.suspects.is_suspect(place) else ()
        for number, part in enumerate(parts if len(parts) > 1 else (one.piece,)):
            if len(parts) > 1:  # their names take more bytes than they are
                place = Place("part", batch.begin.segment, one.offset + number)
            set_aside = partial(self._set_aside_piece, place, one._replace(piece=part), source)
            yield from self.attempt(place, partial(assembler.read, one.source, part, one.time_us), set_aside)

    def attempt(self, place: Place, work: Callable[[], Iterable[T]], problem: Problem) -> Iterator[T]:
        """Yield what some work gives, until it raises an error: `problem` takes it, and nothing is raised."""
        if self.suspects.is_guilty(place):
            problem(KilledBeforeError())
            return
        given: Iterator[T] | None = None
        while True:
            self.note.enter(place)
            try:
                given = iter(work()) if given is None else given
                one = next(given)
            except StopIteration:
                self.note.leave()
                return
            except ENDING:
                raise
            except BaseException as error:
                self.note.leave()
                problem(error)
                return
            self.note.leave()
            yield one

    def set_aside(self, place: Place, content: bytes, suffix: str, error: BaseException, **about: Any) -> None:
        """Keep something in quarantine. suffix: of its file; about: where it came from, as JSON values."""
        is_kept = self._quarantine.keep(place, content, suffix, error, **about)
        if not is_kept:
            self.tally.add("unkept_quarantine", 1)
        kind = f"{place.kind} of {about.get('source', '')}: {type(error).__name__}"
        if kind not in self._warned and len(self._warned) < _MAX_WARNED:
            self._warned.add(kind)
            where = f"; it is kept in {self._quarantine.folder}" if is_kept else ""
            message = f"warning: set aside {place.name}: {type(error).__name__}: {error}"[:500]
            print_on_stderr(f"{message}{where}")

    def _set_aside_datagram(self, place: Place, one: Datagrams, error: BaseException) -> None:
        arrived = one.arrived[0]
        begin = int(arrived["offset"])
        content = one.buffer[begin : begin + int(arrived["length"])].tobytes()
        sender = address_text(int(arrived["hi"]), int(arrived["lo"]))
        self.tally.add("quarantined_datagrams", 1, sender)
        self.set_aside(place, content, "bin", error, source=sender, time=int(arrived["time_us"]) / 1e6)

    def _set_aside_piece(self, place: Place, one: SpooledPiece, source: str, error: BaseException) -> None:
        self.tally.add("quarantined_pieces", 1, source)
        about = {"source": source, "time": one.time_us / 1e6, "position": one.piece.position}
        self.set_aside(place, one.piece.payload, "piece", error, **about)
