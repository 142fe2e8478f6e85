"""Files -> a model, files -> scores. For files, `ingest` and `model` meet only here; for streams, in `live`."""

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
"""Windows that wait before each stage. A second one took more memory and dwell time, and made nothing faster."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """The result of scoring files: numbers of flows, duration, counts of what was changed or left out, and drift.

    stages: source, window, graph, inference, write, each with its meter. dwell_s: (windows,) seconds from the reading
    of a window's last flow to the writing of its scores.
    """

    num_flows: int
    num_anomalous: int
    seconds: float
    tally: Tally
    drift: DriftRecord
    stages: tuple[Stage, ...]
    dwell_s: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
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
    """Scores and the labels that judge them, (E,) each; attack and start are None if the source lacks them."""

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
    """Fit a detector on the selected flows of files, and record the selection in its summary.

    reading: called with the number of flows read so far. Returns: the counts of reading.
    Raises SourceError if the selection leaves no flow, ModelError if training diverges, and whatever reading, selecting
    and fitting raise.
    """
    source = FileSource(paths, options)
    kept: list[Flows] = []
    origins: dict[str, Origin | None] = {}
    num_read = 0
    for run in source:
        origins.setdefault(run.origin.digest if run.origin else "", run.origin)
        chosen = run.filter(selection.mask(run))
        kept.append(Flows(chosen.frame))  # only the selection needs the source's own columns
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
    """Return which rows the model was not fitted on. Returns: (E,) bool.

    Raises ConfigError if rows cannot be recognised: those of the fit, or these, came from standard input.
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

    Reading, building graphs, inference and writing run in parallel, each on another window, or one after the other
    with `overlapped` off. The scores are the same. Memory holds a few windows, however many flows there are.

    watch: called with the stages before the first flow is read; their meters then show the progress.
    Raises whatever reading, scoring and writing raise.
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
        # Closed before the table, so that no stage writes to a closed file.
        with closing(run_stages(stages, overlapped=overlapped, bound=_BOUND)) as windows:
            for written in windows:
                num_flows += written.num_flows
                num_anomalous += written.num_anomalous
    tally = Tally()
    for part in (late, renamed, table.tally, source.tally):
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
    """Measures the seconds from reading a window's last flow to writing its scores. Two threads use it."""

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
    """Score the chosen rows of labelled files, and return what is needed to judge the scores.

    where: a SQL condition. unseen: leave out the rows that the model was fitted on. each: called with the number of
    flows scored so far.
    Raises SchemaError if there are no labels, SourceError if no flow is left, and whatever scoring raises.
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
