"""Batches of the spool -> windows, by way of an assembler and a windower. The same batches give the same windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import final

from thalweg.ingest.assembler import Assembler, AssemblerConfig
from thalweg.ingest.records import Records
from thalweg.live.config import RunConfig
from thalweg.live.score.guard import Guard
from thalweg.live.score.snapshot import Snapshot
from thalweg.live.score.windower import LiveWindow, Windower
from thalweg.live.spool.folder import SpoolPosition, read_dropped
from thalweg.live.spool.reader import Batch
from thalweg.tables import Flows
from thalweg.tally import MEANINGS, Tally


@final
class BatchWindows:
    """Gives each batch of a spool to the assembler, and its runs to the windower; counts what the spool lost.

    sources: the addresses of all sources that the spool has known, by number; by default those of `config`. guard:
    keeps what cannot be read from stopping it.
    """

    def __init__(self, config: RunConfig, sources: Sequence[str] | None = None) -> None:
        self.assembler = Assembler(
            AssemblerConfig(
                sources=config.addresses if sources is None else tuple(sources),
                read=config.read,
                decoder=config.decoder,
                pairing=config.pairing,
            )
        )
        self.windower = Windower(config.window, self.assembler.names)
        self._config = config
        self.guard = Guard(config.spool.folder)
        self._tally = Tally()

    def windows(self, batch: Batch) -> Iterator[LiveWindow]:
        """Yield the windows that a batch fills or ends."""
        self._count_lost(batch)
        if self.windower.is_set_back(batch.time_us):
            # Otherwise no record would be released until the clock reaches its former time.
            yield from self.windower.add(self.assembler.set_clock_back(batch.time_us), batch.time_us)
        yield from self.windower.advance(batch.time_us)
        for run in self._runs(batch):
            yield from self.windower.add(run, batch.time_us)
        if batch.stopped:
            yield from self.windower.end(batch.time_us)

    def _runs(self, batch: Batch) -> Iterator[Records | Flows]:
        """Yield the records and flows that a batch completes, those of datagrams first."""
        yield from self.guard.decode(self.assembler, batch)
        for piece in batch.pieces():
            yield from self.guard.read(self.assembler, batch, piece)
        yield self.assembler.flush() if batch.stopped else self.assembler.release(batch.time_us)

    def _count_lost(self, batch: Batch) -> None:
        for segment, num_lost in batch.damaged:
            self._tally.add("damaged_segments", 1, f"segment {segment}")
            self._tally.add("damaged_datagrams", num_lost, f"segment {segment}")
        if not batch.missed:
            return
        dropped = read_dropped(self._config.spool.folder)["segments"]
        for segment in batch.missed:
            lost = dropped.get(segment)
            if lost is None:
                self._tally.add("missing_segments", 1, f"segment {segment}")
                continue
            for name in ("datagrams", "pieces", "flows"):
                self._tally.add(f"dropped_{name}", int(lost.get(name, 0)), f"segment {segment}")

    def count_changed_window(self, number: int) -> None:
        """Count that a window differed when it was read again."""
        self._tally.add("windows_read_otherwise", 1, f"window {number}")

    @property
    def num_waiting(self) -> int:
        """Flows that are in no window yet."""
        return self.windower.num_held + self.assembler.num_held

    def counts(self) -> Tally:
        """Return what all parts have counted since the spool was made."""
        total = Tally()
        for part in (self._tally, self.guard.tally, self.windower.tally, self.assembler.counts()):
            total.merge(part)
        return total

    def _own_counts(self) -> Tally:
        total = Tally()
        total.merge(self._tally)
        total.merge(self.guard.tally)
        return total

    def snapshot(self, position: SpoolPosition) -> Snapshot:
        """Return all that later windows depend on. Only between two batches. position: of the next one."""
        return Snapshot(
            position=position,
            assembler=self.assembler.state(),
            windower=self.windower.state(),
            counts=self._own_counts().as_dict(),
            settings=self._config.deciding(),
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Continue from a snapshot, before the first batch."""
        self.assembler.restore(snapshot.assembler)
        self.windower.restore(snapshot.windower)
        for name, num in snapshot.counts.items():
            if name in MEANINGS:  # else it is of another version of the program
                self._tally.add(name, num)
