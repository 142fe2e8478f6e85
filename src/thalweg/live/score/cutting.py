"""Batches of the spool -> windows: decode, pair, fill. The same batches give the same windows, always."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from thalweg.ingest.feeds.exports import datagrams_in
from thalweg.ingest.feeds.feed import Reading
from thalweg.ingest.netflow.datagrams import Datagrams, invented
from thalweg.ingest.netflow.decoder import Decoder, DecoderConfig
from thalweg.ingest.pairing.pairing import Pairing, PairingConfig
from thalweg.ingest.records import Records, flows_of, no_records
from thalweg.ingest.sources import unpack_piece
from thalweg.live.config import RunConfig
from thalweg.live.score.snapshot import Snapshot
from thalweg.live.spool.layout import DATAGRAM, PIECE
from thalweg.live.spool.reader import Batch
from thalweg.live.spool.writer import read_dropped
from thalweg.tables import Flows, concat
from thalweg.tally import MEANINGS, Tally

_AT_ONCE: Final = 4_096
"""Datagrams decoded together: what they become stays in the processor's cache for the most part."""
_STEP_US: Final = 1_000_000
"""Marks that come out of order by less are no set-back of the clock."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class LiveWindow:
    """Flows to be scored as one graph. number: 0 for the first one of a spool; time_us: the clock when it was full."""

    number: int
    flows: Flows
    time_us: int

    def __len__(self) -> int:
        return len(self.flows)


def warm_up() -> None:
    """Decode, pair and lay out a few invented records: what is compiled on first use is ready then."""
    decoder, pairing = Decoder(), Pairing()
    records = decoder.decode(invented())
    given = np.concatenate([pairing.feed(records, 1_000_000), pairing.flush()])
    flows_of([given], decoder.names)


@final
class Cutter:
    """Everything between the spool and the graph, and its state.

    readings: of the run's sources, by their order; None where datagrams come from them. num_flows: given out so far.
    """

    def __init__(self, config: RunConfig, readings: Sequence[Reading | None]) -> None:
        self.config = config
        self.decoder = Decoder(DecoderConfig(sampling=config.sampling), reuse=True)  # pairing copies what it keeps
        pairing = PairingConfig(hold_s=config.hold_s) if config.hold_s > 0 else PairingConfig(pair=False)
        self.pairing = Pairing(pairing)
        self.readings = readings
        self.number = 0
        self.positions: dict[str, Any] = {}
        self._own = Tally()
        self._before: Mapping[str, int] = {}
        self._records: list[Records] = []
        self._frames: list[Flows] = []
        self._num_held = 0
        self._opened: int | None = None
        self._latest_us = 0
        self._span_us = round(config.window_s * 1e6)

    def windows(self, batch: Batch) -> Iterator[LiveWindow]:
        """Take in a batch, and give the windows that it fills or ends."""
        self._count_missed(batch)
        turn = batch.time_us // self._span_us
        if batch.time_us < self._latest_us - _STEP_US:
            # Else nothing would be released, and no window end, until the clock is again where it was.
            self._own.add("clock_steps", 1, f"{(batch.time_us - self._latest_us) / 1e6:+,.0f} s")
            yield from self._add(self.pairing.set_clock_back(batch.time_us), batch.time_us)
            yield from self._rest(batch.time_us)
        elif self._opened is not None and turn > self._opened:
            yield from self._rest(batch.time_us)
        self._latest_us = batch.time_us
        self._opened = turn if self._opened is None else self._opened
        for run in self._read(batch):
            yield from self._add(run, batch.time_us)
        ready = self.pairing.flush() if batch.stopped else self.pairing.feed(no_records(), batch.time_us)
        yield from self._add(ready, batch.time_us)
        if batch.stopped:
            yield from self._rest(batch.time_us)

    def _read(self, batch: Batch) -> Iterator[Records | Flows]:
        """Give the records and flows of a batch, datagrams first."""
        entries = batch.entries
        datagrams = entries.compress(entries["kind"] == DATAGRAM)
        for at in range(0, len(datagrams), _AT_ONCE):
            part = datagrams[at : at + _AT_ONCE]
            yield self._paired(self._decoded(batch, part), int(part["time_us"][-1]))
        for entry in entries.compress(entries["kind"] == PIECE):
            source, at = int(entry["source"]), int(entry["offset"])
            position, payload = unpack_piece(batch.data[at : at + int(entry["length"])].tobytes())
            self.positions[self.config.numbered[source]] = position
            reading = self.readings[source]
            if reading is None:
                self._own.add("unreadable_pieces", 1, self.config.numbered[source])
                continue
            for found in reading.read(payload, int(entry["time_us"])):
                if isinstance(found, Flows):
                    yield found
                    continue
                if isinstance(found, Datagrams):
                    records = self.decoder.decode(found)
                else:
                    records = found
                    self._name(records, reading.exporters)
                # Captured long ago, or by another clock: to be paired, they arrive now.
                records["arrival_us"] = int(entry["time_us"])
                yield self._paired(records, int(entry["time_us"]))

    def _name(self, records: Records, names: Sequence[str]) -> None:
        """Number those who reported these records as the decoder does."""
        found, which = np.unique(records["exporter"], return_inverse=True)
        numbers = [self.decoder.exporters.names.number(names[one]) for one in found]
        records["exporter"] = np.array(numbers or [0], np.uint32)[which]

    def _decoded(self, batch: Batch, part: npt.NDArray[np.void]) -> Records:
        try:
            return self.decoder.decode(datagrams_in(batch, part))
        except Exception:  # a mistake of ours must not stop the night: the next datagrams are read
            self._own.add("undecodable_datagrams", len(part), f"before {batch.after}")
            traceback.print_exc()
            return no_records()

    def _paired(self, records: Records, time_us: int) -> Records:
        return self.pairing.feed(records, time_us)

    def _add(self, run: Records | Flows, time_us: int) -> Iterator[LiveWindow]:
        """Put rows into the window that is open, and give it where it is full."""
        self._own.add("late_flows", self._num_late(run))
        size = self.config.window_size
        while self._num_held + len(run) >= size:
            room = size - self._num_held
            self._hold(run[:room])
            run = run[room:]
            yield self._window(time_us)
        self._hold(run)

    def _num_late(self, run: Records | Flows) -> int:
        if isinstance(run, Flows) or self._opened is None:
            return 0
        return int((run["end_us"] < self._opened * self._span_us).sum())

    def _hold(self, run: Records | Flows) -> None:
        if not len(run):
            return
        (self._frames if isinstance(run, Flows) else self._records).append(run)  # type: ignore[arg-type]  # by its kind
        self._num_held += len(run)

    def _rest(self, time_us: int) -> Iterator[LiveWindow]:
        if self._num_held:
            yield self._window(time_us)
        self._opened = None

    def _window(self, time_us: int) -> LiveWindow:
        parts = list(self._frames)
        if self._records:
            parts.insert(0, flows_of(self._records, self.decoder.names, subject="exporters", tally=self._own))
        self._records, self._frames, self._num_held = [], [], 0
        window = LiveWindow(self.number, concat(Flows(part.frame) for part in parts), time_us)
        self.number += 1
        return window

    def _count_missed(self, batch: Batch) -> None:
        for segment in batch.damaged:
            self._own.add("damaged_segments", 1, f"segment {segment}")
        if not batch.missed:
            return
        dropped = read_dropped(self.config.spool)["segments"]
        for segment in batch.missed:
            lost = dropped.get(segment)
            if lost is None:
                self._own.add("missing_segments", 1, f"segment {segment}")
                continue
            for name in ("datagrams", "pieces", "flows"):
                self._own.add(f"dropped_{name}", int(lost.get(name, 0)), f"segment {segment}")

    def note_otherwise(self, number: int) -> None:
        """Count that a window was not the same when it was read again."""
        self._own.add("windows_read_otherwise", 1, f"window {number}")

    @property
    def num_waiting(self) -> int:
        """Flows that are in no window yet."""
        return self._num_held + self.pairing.num_held

    def exporters(self) -> list[dict[str, Any]]:
        """Return what is known of each exporter, as JSON values."""
        return self.decoder.exporters.describe()

    def counts(self) -> Tally:
        """Return what all parts have counted since the spool was made."""
        total = Tally()
        for name, num in self._before.items():
            if name in MEANINGS:  # of another version of the program
                total.add(name, num)
        for part in (
            self._own,
            self.decoder.tally,
            self.pairing.tally,
            *(r.tally for r in self.readings if r is not None),
        ):
            total.merge(part)
        return total

    def snapshot(self, place: Any) -> Snapshot:
        """Return all that later windows depend on. Only between two batches."""
        counts = self.counts()
        state = self.decoder.state()
        state["counts"] = {}
        return Snapshot(
            place=place,
            window=self.number,
            decoder=state,
            pairing=self.pairing.state(),
            records=np.concatenate(self._records) if self._records else no_records(),
            frame=concat([Flows(flows.frame) for flows in self._frames]).frame if self._frames else None,
            opened=self._opened,
            latest_us=self._latest_us,
            positions=dict(self.positions),
            counts=counts.as_dict(),
            settings=self.config.deciding(),
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot."""
        self.number = snapshot.window
        if snapshot.decoder is not None:
            self.decoder.restore(dict(snapshot.decoder))
        if snapshot.pairing:
            self.pairing.restore(snapshot.pairing)
        self._records = [snapshot.records] if len(snapshot.records) else []
        self._frames = [] if snapshot.frame is None else [Flows(snapshot.frame)]
        self._latest_us = snapshot.latest_us
        self._num_held = len(snapshot.records) + sum(map(len, self._frames))
        self._opened = snapshot.opened
        self.positions = dict(snapshot.positions)
        self._before = dict(snapshot.counts)
