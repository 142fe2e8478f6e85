"""The chain: read, choose, fit; read, cut, score, write. The only place where ingest and model meet."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt
import polars as pl

from thalweg.detect import Detector, DriftRecord
from thalweg.errors import ConfigError, SchemaError, SourceError
from thalweg.ingest import FileSource, ReadOptions
from thalweg.model import Progress
from thalweg.runtime.memory import give_back
from thalweg.runtime.stages import Stage, for_each, run_stages, slowest
from thalweg.selection import Selection, evaluate_condition
from thalweg.sinks.table_file import TableFile
from thalweg.tables import Flows, Origin, Scores, concat
from thalweg.tally import Tally

_BOUND: Final = 1
"""Windows that wait before each stage: a second one takes memory and time in the queue, and made nothing faster."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """What scoring a stream did: how many flows, how many anomalous, seconds, what was counted, and the drift.

    stages: source, window, graph, inference, write, each with its meter. dwell_s: (windows,) seconds from when the
    last flow of a window had been read until its scores were written.
    """

    num_flows: int
    num_anomalous: int
    seconds: float
    tally: Tally
    drift: DriftRecord
    stages: tuple[Stage, ...]
    dwell_s: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return it for machines."""
        return {
            "flows": self.num_flows,
            "anomalous": self.num_anomalous,
            "seconds": round(self.seconds, 3),
            "flows_per_s": round(self.num_flows / max(self.seconds, 1e-9)),
            "stages": {stage.name: stage.meter.as_dict() for stage in self.stages},
            "slowest_stage": slowest(self.stages).name,
            "dwell_s": {
                "median": round(median(self.dwell_s), 3) if self.dwell_s else None,
                "most": round(max(self.dwell_s), 3) if self.dwell_s else None,
            },
            "counts": self.tally.as_dict(),
            "drift": self.drift.as_dict(),
        }


@final
@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """Scores beside the labels they are judged by, (E,) each; attack and start where the source has them."""

    logit: npt.NDArray[np.float32]
    anomalous: npt.NDArray[np.bool_]
    label: npt.NDArray[np.bool_]
    attack: pl.Series | None
    start: pl.Series | None
    src_addr: pl.Series
    tally: Tally
    seconds: float
    num_skipped: int
    drift: DriftRecord


def fit_files(
    detector: Detector,
    paths: Sequence[Path],
    options: ReadOptions,
    selection: Selection,
    *,
    progress: Callable[[Progress], None],
    reading: Callable[[int], None] = lambda _: None,
) -> Tally:
    """Fit a detector on the chosen flows of some files and have it remember which these were.

    reading: told the number of flows read so far. Returns: what reading counted.
    Raises: SourceError, where the selection leaves none; ModelError, where learning diverged; else as
    reading, selecting and fitting do.
    """
    source = FileSource(paths, options)
    kept: list[Flows] = []
    origins: dict[str, Origin | None] = {}
    num_read = 0
    for run in source:
        origins.setdefault(run.origin.digest if run.origin else "", run.origin)
        chosen = run.filter(selection.mask(run))
        kept.append(Flows(chosen.frame))  # the source's own columns have served their purpose: selection
        num_read += len(run)
        reading(num_read)
    flows = concat(kept)
    if not len(flows):
        raise SourceError(f"--where {selection.where!r} chooses none of the {num_read:,} flows read")
    detector.fit(flows, progress=progress)
    detector.summary["fitted_on"] = {
        "selection": selection.as_dict(),
        "origins": [{"name": o.name, "digest": o.digest} if o else None for o in origins.values()],
    }
    detector.summary["counts"] = source.tally.as_dict()
    return source.tally


def unseen_rows(detector: Detector, run: Flows) -> npt.NDArray[np.bool_]:
    """Tell which rows the model was not fitted on. Returns: (E,) bool.

    Raises: ConfigError, where rows cannot be told apart: they came from standard input, then or now.
    """
    fitted = detector.summary.get("fitted_on")
    if fitted is None or run.origin is None or None in fitted["origins"]:
        raise ConfigError("--unseen needs to recognise the file: fit on files and evaluate files, not standard input")
    if run.origin.digest not in {origin["digest"] for origin in fitted["origins"]}:
        return np.ones(len(run), bool)
    return ~Selection.from_dict(fitted["selection"]).mask(run)


def score_files(
    detector: Detector,
    paths: Sequence[Path],
    options: ReadOptions,
    output: Path,
    *,
    overlapped: bool = True,
    watch: Callable[[Sequence[Stage]], None] = lambda _: None,
) -> Scored:
    """Score files, window by window, into one table that appears when it is complete.

    Reading, building graphs, inference and writing run at once, each on another window; with `overlapped` off, one
    after the other. The scores are the same. Memory holds a few windows, however many flows there are.

    watch: told of the stages before the first flow is read; their meters go on by themselves.
    Raises: as reading, scoring and writing do.
    """
    source = FileSource(paths, options)
    late, renamed, drift, dwell = Tally(), Tally(), DriftRecord(), _Dwell()
    num_flows = num_anomalous = 0
    begun = time.perf_counter()
    with TableFile(output) as table:

        def write(scores: Scores) -> _Written:
            table.write(scores.output(renamed))
            dwell.written(len(scores))
            drift.add(detector.drift(scores))
            give_back()
            return _Written(len(scores), int(scores.anomalous.sum()))

        stages = (
            Stage("source", lambda _: dwell.reading(source)),
            *detector.stages(late),
            Stage("write", for_each(write)),
        )
        watch(stages)
        # Closed before the table is: no stage writes into a file that is not open any more.
        with closing(run_stages(stages, overlapped=overlapped, bound=_BOUND)) as windows:
            for written in windows:
                num_flows += written.num_flows
                num_anomalous += written.num_anomalous
    tally = Tally()
    for part in (late, renamed, source.tally):
        tally.merge(part)
    seconds = time.perf_counter() - begun
    return Scored(num_flows, num_anomalous, seconds, tally, drift, stages, tuple(dwell.seconds))


@final
@dataclass(frozen=True, slots=True)
class _Written:
    num_flows: int
    num_anomalous: int

    def __len__(self) -> int:
        return self.num_flows


@final
class _Dwell:
    """How long each window's last flow is here before its scores are written. Two threads use it, one end each."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._num_written = 0
        self._read: deque[tuple[int, float]] = deque()

    def reading(self, runs: Iterable[Flows]) -> Iterator[Flows]:
        num_read = 0
        for run in runs:
            num_read += len(run)
            self._read.append((num_read, time.perf_counter()))
            yield run
            del run

    def written(self, num_flows: int) -> None:
        self._num_written += num_flows
        while self._read[0][0] < self._num_written:
            self._read.popleft()
        self.seconds.append(time.perf_counter() - self._read[0][1])


def score_labelled(
    detector: Detector,
    paths: Sequence[Path],
    options: ReadOptions,
    *,
    where: str | None = None,
    unseen: bool = False,
    each: Callable[[int], None] = lambda _: None,
) -> Labelled:
    """Score the chosen rows of labelled files and keep what judging needs.

    where: a SQL condition; unseen: leave out the rows the model was fitted on. each: told the number of flows
    scored so far.
    Raises: SchemaError, where there are no labels; SourceError, where nothing is left; else as scoring does.
    """
    source = FileSource(paths, options)
    num_skipped = 0

    def chosen() -> Iterator[Flows]:
        nonlocal num_skipped
        for run in source:
            if "label" not in run.frame.columns:
                raise SchemaError(
                    "these flows carry no labels to judge by: name the column that says attack or not, "
                    "with --map label=COLUMN (0/1 or true/false)"
                )
            keep = np.ones(len(run), bool)
            if where is not None:
                keep &= evaluate_condition(where, run)
            if unseen:
                keep &= unseen_rows(detector, run)
            num_skipped += int((~keep).sum())
            yield Flows(run.filter(keep).frame)

    frames, logits, anomalous = [], [], []
    num = 0
    begun = time.perf_counter()
    tally, drift = Tally(), DriftRecord()
    with closing(detector.score_stream(chosen(), tally=tally, overlapped=True)) as windows:
        for scores in windows:
            columns = [c for c in ("label", "attack", "start", "src_addr") if c in scores.flows.frame.columns]
            frames.append(scores.flows.frame.select(columns))
            logits.append(scores.logit)
            anomalous.append(scores.anomalous)
            drift.add(detector.drift(scores))
            num += len(scores)
            each(num)
    if not num:
        raise SourceError(f"nothing is left to evaluate: all {num_skipped:,} flows were skipped")
    tally.merge(source.tally)
    frame = pl.concat(frames, how="diagonal")
    known = frame["label"].is_not_null()
    if not known.any():
        raise SchemaError("no label could be read as yes or no: map a 0/1 column, and class names with --map attack=")
    tally.add("unlabelled_flows", int((~known).sum()))
    frame, judged = frame.filter(known), known.to_numpy()
    return Labelled(
        np.concatenate(logits)[judged],
        np.concatenate(anomalous)[judged],
        frame["label"].to_numpy(),
        frame["attack"] if "attack" in frame.columns else None,
        frame["start"] if "start" in frame.columns else None,
        frame["src_addr"],
        tally,
        time.perf_counter() - begun,
        num_skipped,
        drift,
    )
