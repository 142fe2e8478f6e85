"""The process that scores: spool -> windows -> graphs -> scores -> sinks, each stage on another window at once."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from thalweg.errors import ConfigError
from thalweg.ingest.assembler import warm_up
from thalweg.ingest.feeds.feed import Position
from thalweg.ingest.records import flows_of
from thalweg.live.config import RunConfig
from thalweg.live.score.batches import BatchWindows
from thalweg.live.score.committed import Committed
from thalweg.live.score.snapshot import Snapshot
from thalweg.live.score.windower import LiveWindow
from thalweg.live.spool.folder import SpoolPosition, read_dropped, segments, spool_id
from thalweg.live.spool.reader import SpoolReader, remove_before
from thalweg.live.status import SCORER, write_status
from thalweg.runtime.memory import give_back
from thalweg.runtime.stages import Stage, for_each, run_stages
from thalweg.runtime.terminal import print_error
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
"""Times `snapshot_s` after which a snapshot is made though no window ends."""
_GIVE_BACK_S: Final = 20.0


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Item:
    """A window between two stages. snapshot: to be saved once the window is written; prepared, scores: made of it."""

    window: LiveWindow
    detector: Detector | None
    snapshot: Snapshot | None = None
    prepared: Any = None
    scores: Scores | None = None

    def __len__(self) -> int:
        return len(self.window)


@final
class Scorer:
    """Scores a spool from where the scorer before it stopped.

    sources: the addresses of all sources that the spool has known, by number; by default those of `config`.

    Raises, before anything is read, as loading the model, opening the sinks and reading the state do.
    """

    def __init__(
        self, config: RunConfig, sources: Sequence[str] | None = None, reload_asked: threading.Event | None = None
    ) -> None:
        self.config = config
        self.folder = config.spool.folder
        self.batches = BatchWindows(config, sources)
        warm_up()
        self.detector = self._load()
        self.committed = Committed.load(self.folder)
        self.sinks: dict[str, Sink] = open_sinks([sink.address for sink in config.sink])
        self.reload_asked = threading.Event() if reload_asked is None else reload_asked
        self.reloads, self.reload_error = 0, ""
        self.position = SpoolPosition(0, 0)
        self._reader: SpoolReader | None = None
        self._last_written = self.committed.window  # windows up to this number are read again, and skipped
        self._shift: int | None = None  # of later windows' numbers, if windows differ from those that were written
        self.reached_us = 0
        self.latest: dict[str, Any] = {}
        self.accepted: Mapping[str, Position] = {}
        self._since = time.time()
        self._gave_back_at = time.monotonic()
        self._fingerprints: dict[str, Any] = dict(self.committed.fingerprints)
        self._spool_id = spool_id(self.folder)

    def _load(self) -> Detector | None:
        model = self.config.model
        if model is None:
            return None
        from thalweg.detect import Detector

        detector = Detector.load(model.file, device=model.device)
        if model.budget is not None:
            detector.threshold = detector.threshold_for(model.budget)
        detector.warm_up()
        return detector

    def run(self) -> None:
        """Score until the spool says that receiving has stopped, and everything before that is written."""
        snapshot = Snapshot.load(self.folder)
        self._check_settings(0 if snapshot is None else snapshot.window)
        if snapshot is not None:
            self.batches.restore(snapshot)
            self.position = snapshot.position
            self.accepted = _to_acknowledge(snapshot)
        else:
            # Segments that were dropped before the first scorer are counted, too.
            all_segments = [*segments(self.folder), *read_dropped(self.folder)["segments"]]
            self.position = SpoolPosition(min(all_segments, default=0), 0)
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
            self.update_status()

    def _check_settings(self, next_window: int) -> None:
        """Refuse to read again, with other settings, what was already written in part."""
        before, now = self.committed.settings, self.config.deciding()
        if self.committed.window < next_window or before is None or before == now:
            return
        other = [name for name, value in now.items() if before.get(name) != value]
        raise ConfigError(
            f"the run before was killed, and had other settings ({', '.join(other)}): start once with the same ones, "
            f"stop it by SIGTERM, and then change them. They were: {json.dumps(dict(before))}"
        )

    # Each of these runs in a thread of its own.

    def _windows(self) -> Iterator[_Item]:
        reader = self._reader = SpoolReader(self.folder, self.position, keep_from=self.position.segment)
        kept_at = time.monotonic()
        reported_at, pause = 0.0, _PAUSE_S
        while True:
            batch = reader.next()
            if time.monotonic() - reported_at > _STATUS_S:
                reported_at = time.monotonic()
                self.update_status()
            if batch is None:
                time.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_S)
                continue
            pause = _PAUSE_S
            held: LiveWindow | None = None
            for window in self.batches.windows(batch):
                if held is not None:
                    yield from self._skip_written(held, None)
                held = window
            self.position, self.reached_us = batch.after, batch.time_us
            since = time.monotonic() - kept_at
            snapshot = None
            # Right after a window there is least to keep; if none ends, segments must be freed all the same.
            if batch.stopped or since > self.config.spool.snapshot_s * (1 if held is not None else _WITHOUT_WINDOW):
                snapshot = self.batches.snapshot(self.position)
                snapshot = snapshot.renumbered(snapshot.window + (self._shift or 0))
                kept_at = time.monotonic()
            if held is not None:
                yield from self._skip_written(held, snapshot)
            elif snapshot is not None:
                yield _Item(_no_flows(self.batches.windower.number), None, snapshot)
            del held, snapshot
            if batch.stopped and self.position.segment >= max(segments(self.folder), default=0):
                return

    def _skip_written(self, window: LiveWindow, snapshot: Snapshot | None) -> Iterator[_Item]:
        """Yield a window, unless it was written before a kill."""
        known = self.committed.fingerprints.get(str(window.number))
        if self._shift is None and window.number <= self._last_written and known not in (None, fingerprint(window)):
            # A file has changed or is gone. What is written stays, and all else is written: better twice than never.
            self.batches.count_changed_window(window.number)
            self._shift = self._last_written + 1 - window.number
        if self._shift is not None:
            window = replace(window, number=window.number + self._shift)
        if window.number > self._last_written:
            if self.reload_asked.is_set():
                self._reload()
            yield _Item(window, self.detector, snapshot)
        elif snapshot is not None:
            yield _Item(_no_flows(window.number + 1), None, snapshot)

    def _reload(self) -> None:
        self.reload_asked.clear()
        try:
            self.detector = self._load()
            self.reloads, self.reload_error = self.reloads + 1, ""
        except Exception as error:  # whatever is wrong with the new model, the current one stays
            self.reload_error = str(error) or type(error).__name__
            print_error(f"error: the model was not reloaded, and the running one stays: {self.reload_error}")

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
            self._emit(item)
        if item.snapshot is not None:
            item.snapshot.save(self.folder)
            self._fingerprints = {}
            self.accepted = _to_acknowledge(item.snapshot)
            if self._reader is not None:
                self._reader.keep_from = item.snapshot.position.segment
            remove_before(self.folder, item.snapshot.position)
        # The kernel clears pages that were given back: after each window, that took a tenth of all time.
        if time.monotonic() - self._gave_back_at > _GIVE_BACK_S:
            give_back()
            self._gave_back_at = time.monotonic()
        return _Item(item.window, None)

    def _emit(self, item: _Item) -> None:
        scores, started = item.scores, time.monotonic()
        frame = item.window.flows.output() if scores is None else scores.output()
        num_anomalous = 0 if scores is None else int(scores.anomalous.sum())
        self._fingerprints[str(item.window.number)] = fingerprint(item.window)
        states = {}
        for sink in self.config.sink:
            kept = frame.filter(frame["anomalous"]) if sink.keep == "anomalous" and scores is not None else frame
            scored = ScoredWindow(item.window.number, item.window.time_us, kept, self._spool_id)
            states[sink.address] = self.sinks[sink.address].write(scored)
        committed = Committed(
            window=item.window.number,
            num_flows=self.committed.num_flows + len(item),
            num_anomalous=self.committed.num_anomalous + num_anomalous,
            sinks=states,
            settings=self.committed.settings,
            fingerprints=dict(self._fingerprints),
        )
        committed.save(self.folder)
        self.committed = committed
        self.latest = {
            "number": item.window.number,
            "flows": len(item),
            "anomalous": num_anomalous,
            "ended": item.window.time_us / 1e6,
            "written": time.time(),
            "write_s": round(time.monotonic() - started, 4),
        }

    def update_status(self) -> None:
        """Write the status; a full disk is no reason to stop."""
        now = time.time()
        status = {
            "pid": os.getpid(),
            "time": now,
            "since": self._since,
            "model": None if self.config.model is None else str(self.config.model.file),
            "reloads": self.reloads,
            "reload_error": self.reload_error,
            "position": list(self.position),
            "reached": self.reached_us / 1e6,
            "windows": self.committed.window + 1,
            "flows": self.committed.num_flows,
            "anomalous": self.committed.num_anomalous,
            "waiting_flows": self.batches.num_waiting,
            "latest": self.latest,
            "accepted": dict(self.accepted),
            "counts": self.batches.counts().as_dict(),
            "exporters": self.batches.assembler.exporters(),
        }
        with suppress(OSError):
            write_status(self.folder, SCORER, status)


def fingerprint(window: LiveWindow) -> list[int]:
    """Return what identifies a window that is read again: its flows, and sums over them that may wrap."""
    frame = window.flows.frame
    return [len(window), *(int(frame[name].to_numpy().sum(dtype=np.uint64)) for name in ("fwd_bytes", "bwd_bytes"))]


def _to_acknowledge(snapshot: Snapshot) -> dict[str, Position]:
    """Return the positions that are reported to servers; files keep their content anyway."""
    return {name: position for name, position in snapshot.positions.items() if name.startswith("kafka:")}


def _no_flows(number: int) -> LiveWindow:
    return LiveWindow(number, flows_of([], []), 0)
