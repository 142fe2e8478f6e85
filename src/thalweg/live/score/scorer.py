"""The process that scores: spool -> windows -> graphs -> scores -> sinks, each step on another window at once."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from thalweg.errors import ConfigError
from thalweg.ingest.feeds.feed import Reading
from thalweg.ingest.files import ReadOptions
from thalweg.ingest.records import flows_of
from thalweg.ingest.sources import open_reading
from thalweg.live.config import RunConfig
from thalweg.live.score.committed import Committed
from thalweg.live.score.cutting import Cutter, LiveWindow, warm_up
from thalweg.live.score.snapshot import Snapshot
from thalweg.live.spool.reader import SpoolReader, remove_before
from thalweg.live.spool.writer import Place, read_dropped, segments, spool_id
from thalweg.live.status import SCORER, write_status
from thalweg.runtime.memory import give_back
from thalweg.runtime.stages import Stage, for_each, run_stages
from thalweg.sinks import open_sinks
from thalweg.sinks.sink import ScoredWindow, Sink
from thalweg.tables import Scores
from thalweg.windows import Window

if TYPE_CHECKING:
    from thalweg.detect import Detector  # it needs torch, and `collect` needs no model

_PAUSE_S: Final = 0.01
_LONGEST_PAUSE_S: Final = 0.25
_STATUS_S: Final = 1.0
_BOUND: Final = 1
_WITHOUT_WINDOW: Final = 12
_GIVE_BACK_S: Final = 20.0


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Item:
    """A window on its way. snapshot: what to keep when it is written; prepared, scores: what it has become."""

    window: LiveWindow
    detector: Detector | None
    snapshot: Snapshot | None = None
    prepared: Any = None
    scores: Scores | None = None

    def __len__(self) -> int:
        return len(self.window)


@final
class Scorer:
    """Reads a spool from where the last one left off.

    Raises: as loading the model, opening the sinks and reading the state do, before anything is read.
    """

    def __init__(self, config: RunConfig, reload_asked: threading.Event | None = None) -> None:
        self.config = config
        self.folder = config.spool
        options = ReadOptions(dialect=config.dialect, mapping=config.mapping, keep_wrapped=config.keep_wrapped)
        self.cutter = Cutter(config, [_reading(address, options) for address in config.numbered])
        warm_up()
        self.detector = self._load()
        self.committed = Committed.load(self.folder)
        self.sinks: dict[str, Sink] = open_sinks(config.sinks)
        self.reload_asked = threading.Event() if reload_asked is None else reload_asked
        self.reloads, self.reload_error = 0, ""
        self.place = Place(0, 0)
        self._reader: SpoolReader | None = None
        self._passed_over = self.committed.window
        self._shift: int | None = None  # of later windows' numbers, where they are not those that were written
        self.reached_us = 0
        self.latest: dict[str, Any] = {}
        self.accepted: Mapping[str, Any] = {}
        self._begun = time.time()
        self._gave_back_at = time.monotonic()
        self._prints: dict[str, Any] = dict(self.committed.prints)
        self._spool_id = spool_id(self.folder)

    def _load(self) -> Detector | None:
        if self.config.model is None:
            return None
        from thalweg.detect import Detector

        detector = Detector.load(self.config.model, device=self.config.device)
        if self.config.budget is not None:
            detector.threshold = detector.threshold_for(self.config.budget)
        detector.warm_up()
        return detector

    def run(self) -> None:
        """Go on until the spool says that listening has stopped, and everything before is written."""
        snapshot = Snapshot.load(self.folder)
        self._check_settings(0 if snapshot is None else snapshot.window)
        if snapshot is not None:
            self.cutter.restore(snapshot)
            self.place = snapshot.place
            self.accepted = _acknowledged(snapshot)
        else:
            # What was dropped before there was a reader is told to it, too.
            there = [*segments(self.folder), *read_dropped(self.folder)["segments"]]
            self.place = Place(min(there, default=0), 0)
        states = {address: sink.open(self.committed.sinks.get(address)) for address, sink in self.sinks.items()}
        self.committed = replace(self.committed, sinks=states, settings=self.config.deciding())
        self.committed.save(self.folder)
        stages = (
            Stage("source", lambda _: self._windows()),
            Stage("graph", for_each(self._prepare)),
            Stage("inference", for_each(self._infer)),
            Stage("write", for_each(self._write)),
        )
        try:
            with closing(run_stages(stages, bound=_BOUND)) as written:
                for _ in written:
                    pass
        finally:
            for sink in self.sinks.values():
                sink.close()
            if self._reader is not None:
                self._reader.close()
            self.say()

    def _check_settings(self, next_window: int) -> None:
        """Refuse to read again with other settings what was read with these, and written in part."""
        before, now = self.committed.settings, self.config.deciding()
        if self.committed.window < next_window or before is None or before == now:
            return
        other = [name for name, value in now.items() if before.get(name) != value]
        raise ConfigError(
            f"the run before was killed, and had other settings ({', '.join(other)}): begin once with the same ones, "
            f"stop it by SIGTERM, and change them then. They were: {json.dumps(dict(before))}"
        )

    # Each of these runs in a thread of its own.

    def _windows(self) -> Iterator[_Item]:
        reader = self._reader = SpoolReader(self.folder, self.place, keep_from=self.place.segment)
        kept_at = time.monotonic()
        said_at, pause = 0.0, _PAUSE_S
        while True:
            batch = reader.next()
            if time.monotonic() - said_at > _STATUS_S:
                said_at = time.monotonic()
                self.say()
            if batch is None:
                time.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_S)
                continue
            pause = _PAUSE_S
            held: LiveWindow | None = None
            for window in self.cutter.windows(batch):
                if held is not None:
                    yield from self._unwritten(held, None)
                held = window
            self.place, self.reached_us = batch.after, batch.time_us
            since = time.monotonic() - kept_at
            snapshot = None
            # Right after a window there is least to keep; where none comes, what was read is let go of all the same.
            if batch.stopped or since > self.config.snapshot_s * (1 if held is not None else _WITHOUT_WINDOW):
                snapshot = self.cutter.snapshot(self.place)
                snapshot = replace(snapshot, window=snapshot.window + (self._shift or 0))
                kept_at = time.monotonic()
            if held is not None:
                yield from self._unwritten(held, snapshot)
            elif snapshot is not None:
                yield _Item(_nothing(self.cutter.number), None, snapshot)
            del held, snapshot
            if batch.stopped and self.place.segment >= max(segments(self.folder), default=0):
                return

    def _unwritten(self, window: LiveWindow, snapshot: Snapshot | None) -> Iterator[_Item]:
        """Pass over a window that was written before a kill."""
        known = self.committed.prints.get(str(window.number))
        if self._shift is None and window.number <= self._passed_over and known not in (None, fingerprint(window)):
            # A file has changed or gone. What is written stays, and all else is written: rather twice than never.
            self.cutter.note_otherwise(window.number)
            self._shift = self._passed_over + 1 - window.number
        if self._shift is not None:
            window = replace(window, number=window.number + self._shift)
        if window.number > self._passed_over:
            if self.reload_asked.is_set():
                self._reload()
            yield _Item(window, self.detector, snapshot)
        elif snapshot is not None:
            yield _Item(_nothing(window.number + 1), None, snapshot)

    def _reload(self) -> None:
        self.reload_asked.clear()
        try:
            self.detector = self._load()
            self.reloads, self.reload_error = self.reloads + 1, ""
        except Exception as error:  # whatever is wrong with the new one, the model in use stays
            self.reload_error = str(error) or type(error).__name__
            print(f"error: the model was not loaded again: {self.reload_error}", file=sys.stderr, flush=True)  # noqa: T201

    def _prepare(self, item: _Item) -> _Item:
        if item.detector is None or not len(item):
            return item
        prepared = item.detector.prepare(Window(item.window.flows, None, None))
        return _Item(item.window, item.detector, item.snapshot, prepared)

    def _infer(self, item: _Item) -> _Item:
        if item.prepared is None:
            return item
        assert item.detector is not None, "only a model prepares"
        return _Item(item.window, item.detector, item.snapshot, None, item.detector.infer(item.prepared))

    def _write(self, item: _Item) -> _Item:
        if len(item):
            self._give_out(item)
        if item.snapshot is not None:
            item.snapshot.save(self.folder)
            self._prints = {}
            self.accepted = _acknowledged(item.snapshot)
            if self._reader is not None:
                self._reader.keep_from = item.snapshot.place.segment
            remove_before(self.folder, item.snapshot.place)
        # Pages that are given back must be cleared again: after each window, that took a tenth of all time.
        if time.monotonic() - self._gave_back_at > _GIVE_BACK_S:
            give_back()
            self._gave_back_at = time.monotonic()
        return _Item(item.window, None)

    def _give_out(self, item: _Item) -> None:
        scores, begun = item.scores, time.monotonic()
        frame = item.window.flows.output() if scores is None else scores.output()
        num_anomalous = 0 if scores is None else int(scores.anomalous.sum())
        if self.config.keep == "anomalous" and scores is not None:
            frame = frame.filter(frame["anomalous"])
        self._prints[str(item.window.number)] = fingerprint(item.window)
        scored = ScoredWindow(item.window.number, item.window.time_us, frame, self._spool_id)
        states = {address: sink.write(scored) for address, sink in self.sinks.items()}
        committed = Committed(
            window=item.window.number,
            num_flows=self.committed.num_flows + len(item),
            num_anomalous=self.committed.num_anomalous + num_anomalous,
            sinks=states,
            settings=self.committed.settings,
            prints=dict(self._prints),
        )
        committed.save(self.folder)
        self.committed = committed
        self.latest = {
            "number": item.window.number,
            "flows": len(item),
            "anomalous": num_anomalous,
            "ended": item.window.time_us / 1e6,
            "written": time.time(),
            "write_s": round(time.monotonic() - begun, 4),
        }

    def say(self) -> None:
        """Write the status; a full disk is no reason to stop for it."""
        now = time.time()
        status = {
            "pid": os.getpid(),
            "time": now,
            "since": self._begun,
            "model": None if self.config.model is None else str(self.config.model),
            "reloads": self.reloads,
            "reload_error": self.reload_error,
            "place": list(self.place),
            "reached": self.reached_us / 1e6,
            "windows": self.committed.window + 1,
            "flows": self.committed.num_flows,
            "anomalous": self.committed.num_anomalous,
            "waiting_flows": self.cutter.num_waiting,
            "latest": self.latest,
            "accepted": dict(self.accepted),
            "counts": self.cutter.counts().as_dict(),
            "exporters": self.cutter.exporters(),
        }
        with suppress(OSError):
            write_status(self.folder, SCORER, status)


def fingerprint(window: LiveWindow) -> list[int]:
    """Return what a window is known again by: its flows, and sums over them that may wrap."""
    frame = window.flows.frame
    return [len(window), *(int(frame[name].to_numpy().sum(dtype=np.uint64)) for name in ("fwd_bytes", "bwd_bytes"))]


def _acknowledged(snapshot: Snapshot) -> dict[str, Any]:
    """Return the positions that servers are told of; files keep what they have anyway."""
    return {name: at for name, at in snapshot.positions.items() if name.startswith("kafka:")}


def _reading(address: str, options: ReadOptions) -> Reading | None:
    """Return what reads pieces of a source; of one that this run does not know, None: they are counted."""
    try:
        return open_reading(address, options)
    except ConfigError:
        return None


def _nothing(number: int) -> LiveWindow:
    return LiveWindow(number, flows_of([], []), 0)
