"""The process that scores: spool -> windows -> graphs -> scores -> sinks, each stage on another window at once."""

from __future__ import annotations

import io
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from thalweg.errors import ConfigError, SinkError
from thalweg.ingest.assembler import warm_up
from thalweg.ingest.feeds.feed import Position
from thalweg.ingest.records import flows_of
from thalweg.live.config import RunConfig
from thalweg.live.score.batches import BatchWindows
from thalweg.live.score.committed import Committed
from thalweg.live.score.guard import ENDING
from thalweg.live.score.snapshot import Snapshot
from thalweg.live.score.windower import LiveWindow
from thalweg.live.spool.folder import SpoolPosition, read_dropped, segments, spool_id
from thalweg.live.spool.reader import SpoolReader, remove_before
from thalweg.live.spool.reserve import keep_reserve, save_with_reserve
from thalweg.live.status import SCORER, write_status
from thalweg.live.suspects import Place
from thalweg.runtime.memory import give_back
from thalweg.runtime.stages import Stage, for_each, run_stages
from thalweg.runtime.terminal import print_on_stderr
from thalweg.sinks import open_sinks
from thalweg.sinks.sink import ScoredWindow, Sink, State
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
    """A window between two stages.

    snapshot: to be saved once the window is written. prepared, scores: made of it. problem: why it cannot be scored.
    """

    window: LiveWindow
    detector: Detector | None
    snapshot: Snapshot | None = None
    prepared: Any = None
    scores: Scores | None = None
    problem: BaseException | None = None

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
        self._states: dict[str, State] = {}
        self._guard = self.batches.guard

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
        self._states = {address: sink.open(self.committed.sinks.get(address)) for address, sink in self.sinks.items()}
        self.committed = replace(self.committed, sinks=dict(self._states), settings=self.config.deciding())
        self._save(lambda: self.committed.save(self.folder))
        windows = self._windows()
        stages = (
            Stage("source", lambda _: windows),
            Stage("graph", for_each(self._prepare)),
            Stage("inference", for_each(self._infer)),
            Stage("write", for_each(self._write)),
        )
        try:
            for item in windows:  # where a scorer died, one thing after the other, so that its place is known
                self._write(self._infer(self._prepare(item)))
                del item
                if not self._guard.note.is_careful:
                    break
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
        note, careful_until = self._guard.note, self._guard.suspects.careful_until
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
            note.is_careful = careful_until is not None and batch.begin <= careful_until
            note.start_batch(batch.begin)
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
            print_on_stderr(f"error: the model was not reloaded, and the running one stays: {self.reload_error}")

    def _prepare(self, item: _Item) -> _Item:
        if item.detector is None or not len(item):
            return item
        detector = item.detector
        window = Window(item.window.flows, None, None)
        return self._attempt(item, lambda: replace(item, prepared=detector.prepare(window)))

    def _infer(self, item: _Item) -> _Item:
        if item.prepared is None:
            return item
        detector = item.detector
        assert detector is not None, "only a model prepares"
        return self._attempt(item, lambda: replace(item, prepared=None, scores=detector.infer(item.prepared)))

    def _attempt(self, item: _Item, work: Callable[[], _Item]) -> _Item:
        """Return what some work makes of a window; the window with its problem if it raises an error."""
        problems: list[BaseException] = []
        place = Place("window", item.window.number)
        for done in self._guard.attempt(place, lambda: (make() for make in (work,)), problems.append):
            return done
        return replace(item, prepared=None, problem=problems[0])

    def _write(self, item: _Item) -> _Item:
        if len(item):
            self._emit(item)
        if item.snapshot is not None:
            snapshot = item.snapshot
            self._save(lambda: snapshot.save(self.folder))
            self._fingerprints = {}
            self.accepted = _to_acknowledge(snapshot)
            if self._reader is not None:
                self._reader.keep_from = snapshot.position.segment
            remove_before(self.folder, snapshot.position)
            keep_reserve(self.folder, self.config.spool.bytes_in_reserve)
        # The kernel clears pages that were given back: after each window, that took a tenth of all time.
        if time.monotonic() - self._gave_back_at > _GIVE_BACK_S:
            give_back()
            self._gave_back_at = time.monotonic()
        return _Item(item.window, None)

    def _emit(self, item: _Item) -> None:
        started = time.monotonic()
        if item.problem is None:
            item = self._attempt(item, lambda: self._written(item))
        num_anomalous = 0 if item.scores is None else int(item.scores.anomalous.sum())
        num_flows, num_set_aside = len(item), 0
        if item.problem is not None:
            self._set_aside(item, item.problem)
            num_flows, num_set_aside = (0, len(item)) if item.scores is None else (len(item), len(item))
        self._fingerprints[str(item.window.number)] = fingerprint(item.window)
        committed = Committed(
            window=item.window.number,
            num_flows=self.committed.num_flows + num_flows,
            num_anomalous=self.committed.num_anomalous + num_anomalous,
            num_set_aside=self.committed.num_set_aside + num_set_aside,
            sinks=dict(self._states),
            settings=self.committed.settings,
            fingerprints=dict(self._fingerprints),
        )
        self._save(lambda: committed.save(self.folder))
        self.committed = committed
        self.latest = {
            "number": item.window.number,
            "flows": len(item),
            "anomalous": num_anomalous,
            "ended": item.window.time_us / 1e6,
            "written": time.time(),
            "write_s": round(time.monotonic() - started, 4),
        }

    def _written(self, item: _Item) -> _Item:
        """Write a window to all sinks."""
        scores = item.scores
        frame = item.window.flows.output() if scores is None else scores.output()
        for sink in self.config.sink:
            kept = frame.filter(frame["anomalous"]) if sink.keep == "anomalous" and scores is not None else frame
            scored = ScoredWindow(item.window.number, item.window.time_us, kept, self._spool_id)
            self._states[sink.address] = self.sinks[sink.address].write(scored)
        return item

    def _set_aside(self, item: _Item, problem: BaseException) -> None:
        """Keep the flows of a window that could not be scored, or not be written, in quarantine."""
        content = io.BytesIO()
        try:
            item.window.flows.output().write_ipc(content)
        except ENDING:
            raise
        except BaseException:  # then only its count is known
            content = io.BytesIO()
        place = Place("window", item.window.number)
        self._guard.set_aside(place, content.getvalue(), "arrow", problem, time=item.window.time_us / 1e6)

    def _save(self, save: Callable[[], None]) -> None:
        """Save state in the spool's folder, with the reserve if the disk is full. Raises SinkError."""
        try:
            save_with_reserve(self.folder, save)
        except OSError as error:
            raise SinkError(
                f"the spool {self.folder} cannot be written: {error.strerror}; make room on its disk"
            ) from error

    def _counts(self) -> dict[str, int]:
        counts = self.batches.counts()
        counts.add("quarantined_flows", self.committed.num_set_aside)
        return counts.as_dict()

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
            "counts": self._counts(),
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
