"""Fit, score, save, load: a model of flows with a threshold."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeVar, final

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from thalweg.detect.drift import Drift, measure
from thalweg.detect.model_file import part_of, read_model, write_model
from thalweg.detect.profile import TrafficProfile
from thalweg.detect.threshold import HELD_OUT_EVERY, Budget, Calibration, Threshold, held_out_blocks, rate_per_day
from thalweg.errors import ConfigError, ModelError, NotFittedError, SchemaError
from thalweg.model.interface import FitSummary, FlowModel, Progress
from thalweg.model.thalweg import ThalwegModel
from thalweg.runtime.device import Device, pick_device
from thalweg.runtime.jit import compiled
from thalweg.runtime.parallel import parallel_for
from thalweg.runtime.settings import value_of
from thalweg.runtime.stages import Stage, for_each, run_stages
from thalweg.selection import Selection
from thalweg.tables import Flows, Scores, conform
from thalweg.tally import Tally
from thalweg.windows import Window, by_count, by_time

Preset = Literal["thalweg", "published"]
_Part = TypeVar("_Part")


def _published() -> type[FlowModel]:
    from thalweg.published.model import PublishedGAE  # PyTorch Geometric is slow to import

    return PublishedGAE


MODELS: Final[Mapping[str, Callable[[], type[FlowModel]]]] = {"thalweg": lambda: ThalwegModel, "published": _published}
"""Every kind of model that a detector can hold, by its name in model files."""

_NUM_BLOCKS: Final = 160
_MIN_FLOWS: Final = 50
_SHORTEST, _LONGEST = timedelta(milliseconds=1), timedelta(days=3660)
"""Of a window by the clock."""


def _model_class(kind: str) -> type[FlowModel]:
    if kind not in MODELS:
        raise ConfigError(f"no preset {kind!r}: choose from {', '.join(MODELS)}")
    return MODELS[kind]()


@final
@dataclass(frozen=True, slots=True, eq=False)
class PreparedWindow:
    """A window between `Detector.prepare` and `infer`. parts: the result of `FlowModel.prepare`."""

    flows: Flows
    parts: Any

    def __len__(self) -> int:
        return len(self.flows)


@final
class Detector:
    """Learns from unlabelled flows what is usual, and rates flows by how unusual they are.

    A high score means an unusual flow. Row i of the scores is row i of the flows.

    Args:
        model: any `FlowModel`; Thalweg's own by default.
        seed: the source of all randomness; the same seed and flows give the same scores to the last bit on one
            machine's CPU.
        device: `cpu`, `cuda`, or `auto` for a GPU if there is one.
        budget: how many flows may be called anomalous when nothing is wrong; "0.01" or "20/day".
        span: windows also end by the clock, which needs flows that carry time; if None, windows end by count alone.
    """

    def __init__(
        self,
        model: FlowModel | None = None,
        *,
        seed: int = 0,
        device: Device = "auto",
        budget: str | Budget = "0.01",
        span: timedelta | None = None,
    ) -> None:
        self.model = ThalwegModel() if model is None else model
        self.seed = seed
        self.budget = Budget.parse(budget) if isinstance(budget, str) else budget
        self._device = pick_device(device)
        self.span = span
        self.threshold: Threshold | None = None
        self.calibration: Calibration | None = None
        """The data for thresholds of other budgets; None before `fit`."""
        self.profile: TrafficProfile | None = None
        """The reference against which drift is measured; None before `fit`."""
        self.fitted_logit: npt.NDArray[np.float32] | None = None
        """(E,) the logits of the flows of `fit`, each left out of its own counts; not kept in the file."""
        self.summary: dict[str, Any] = {}
        """The training's flows, seconds and loss, and what the caller adds."""

    @classmethod
    def preset(cls, name: Preset = "thalweg", **options: Any) -> Self:
        """Return an unfitted detector with the named model and that model's own settings."""
        return cls(_model_class(name)(), **options)

    def fit(self, flows: Flows, *, progress: Callable[[Progress], None] | None = None) -> Self:
        """Learn from unlabelled flows and set the threshold from the budget.

        One flow in eight, in blocks spread over all flows, is held out: it is never learned from, and decides when
        training stops and where the threshold lies. Labels are not read.

        Raises ConfigError if there are too few flows, or if the budget is per day and the flows carry no time;
        SchemaError if a column is missing; ModelError if learning diverged.
        """
        if len(flows) < _MIN_FLOWS:
            raise ConfigError(f"{len(flows)} flows are too few to learn from: at least {_MIN_FLOWS} are needed")
        start = flows.frame["start"] if "start" in flows.frame.columns else None
        per_day = rate_per_day(start, len(flows))
        share = self.budget.share(per_day)
        if self.span is not None and (start is None or start.null_count() == len(flows)):
            raise SchemaError("windows by the clock need flows that carry time, and these do not: use --window COUNT")
        held_out = held_out_rows(len(flows))
        summary: FitSummary = self.model.fit(
            flows, held_out, seed=self.seed, device=self._device, progress=progress or (lambda _: None)
        )
        if summary.held_out_loss == math.inf:
            raise ModelError("learning diverged: no epoch had a finite held-out loss. Lower [training] learning_rate")
        # Held-out flows are rated among all the others, in windows as large as those that will be scored.
        parts, at = [], 0
        for window in self._windows([flows]):
            parts.append(self.model.fitted_logits(window.flows, slice(at, at + len(window))))
            at += len(window)
        self.fitted_logit = logit = np.concatenate(parts)
        self.calibration = Calibration.fit(logit[held_out], held_out_blocks(held_out), per_day, share)
        self.threshold = self.calibration.threshold(self.budget)
        self.profile = TrafficProfile.fit(flows, held_out, logit)
        self.summary = summary.as_dict()
        return self

    def score(self, flows: Flows) -> Scores:
        """Rate each flow by how unlikely its edge is, given its window.

        A high score means an unusual flow. Row i of the result is row i of `flows`, which may have any length: they are
        cut into windows of the model's size.

        Returns: (E,) float32 in [0, 1], and the float32 logit behind it.
        Raises NotFittedError before `fit` or `load`; SchemaError if a needed column is missing.
        Source: Kipf & Welling 2016, arXiv:1611.07308 (GAE); Gao & Ji 2019, arXiv:1905.05178 (Graph U-Net).
        """
        parts = list(self.score_stream([flows]))
        return self._scores(flows, np.concatenate([p.logit for p in parts]) if parts else np.zeros(0, np.float32))

    def score_stream(
        self, runs: Iterable[Flows], *, tally: Tally | None = None, overlapped: bool = False
    ) -> Generator[Scores, None, None]:
        """Rate a stream of flows window by window, in order, holding one window at a time.

        tally: counts late flows, if windows end by the clock. overlapped: read, build graphs and infer in parallel,
        each on another window, holding a few windows; the scores are the same. See `stages.run_stages`.
        """
        return run_stages([Stage("source", lambda _: runs), *self.stages(tally)], overlapped=overlapped)

    def stages(self, tally: Tally | None = None) -> tuple[Stage, ...]:
        """Return the steps from runs of flows to the scores of windows, for one run of `run_stages`.

        tally: counts late flows, if windows end by the clock.
        """
        return (
            Stage("window", lambda runs: self._windows(runs, tally)),
            Stage("graph", for_each(self.prepare)),
            Stage("inference", for_each(self.infer)),
        )

    def warm_up(self) -> None:
        """Rate a few invented flows, so that everything is compiled and read from disk.

        Call this before a rate is measured or shown. Raises NotFittedError before `fit` or `load`; ModelError if the
        weights are so large that scores are no numbers.
        """
        logit = self.score_window(Window(_invented_flows(), None, None)).logit
        if not np.isfinite(logit).all():
            raise ModelError("this model rates flows by NaN or infinity: its weights are out of range; fit it again")

    def _windows(self, runs: Iterable[Flows], tally: Tally | None = None) -> Iterator[Window]:
        if self.span is None:
            return by_count(runs, self.model.window_size)
        return by_time(runs, self.span, max_size=self.model.window_size, tally=tally)

    def score_window(self, window: Window) -> Scores:
        """Rate the flows of one window as one graph; raises the errors of `score`."""
        return self.infer(self.prepare(window))

    def prepare(self, window: Window) -> PreparedWindow:
        """Build the graph of a window, for `infer`: the first half of `score_window`."""
        self._fitted(self.threshold)
        return PreparedWindow(window.flows, self.model.prepare(window.flows))

    def infer(self, prepared: PreparedWindow) -> Scores:
        """Rate the flows of a window that was prepared by the same detector."""
        return self._scores(prepared.flows, self.model.infer(prepared.parts))

    def _scores(self, flows: Flows, logit: npt.NDArray[np.float32]) -> Scores:
        threshold = self._fitted(self.threshold)
        score = np.empty(len(logit), np.float32)
        parallel_for(partial(_strangeness, logit, score), len(logit))
        return Scores(flows, score, logit, logit < np.float32(threshold.logit))

    def threshold_for(self, budget: str | Budget) -> Threshold:
        """Find the threshold for another budget from the same fit; `self.threshold` stays as it is.

        To score with it, assign it to `threshold`.

        Raises NotFittedError before `fit` or `load`; ConfigError if it is no budget, or larger than the kept held-out
        flows can calibrate.
        """
        asked = Budget.parse(budget) if isinstance(budget, str) else budget
        return self._fitted(self.calibration).threshold(asked)

    def drift(self, scores: Scores) -> Drift:
        """Measure how far the flows of one window are from the training flows. scores: of one window.

        Raises NotFittedError before `fit` or `load`.
        """
        return measure(self._fitted(self.profile), scores.flows, scores.logit)

    def _fitted(self, part: _Part | None) -> _Part:
        if part is None:
            raise NotFittedError("this detector has not been fitted: call fit(flows), or Detector.load(path)")
        return part

    def save(self, path: str | Path) -> None:
        """Write the model, its threshold and its settings to one file.

        Raises NotFittedError before `fit` or `load`; SinkError if the file cannot be written.
        """
        calibration, profile = self._fitted(self.calibration), self._fitted(self.profile)
        header = {
            "kind": self.model.kind,
            "settings": self.model.settings(),
            "threshold": self._fitted(self.threshold).as_dict(),
            "calibration": calibration.as_dict(),
            "profile": profile.as_dict(),
            "seed": self.seed,
            "span_s": None if self.span is None else self.span.total_seconds(),
            "summary": self.summary,
        }
        tensors = self.model.tensors()
        tensors |= {f"calibration.{name}": value for name, value in calibration.tensors().items()}
        tensors |= {f"profile.{name}": value for name, value in profile.tensors().items()}
        write_model(Path(path), header, tensors)

    @classmethod
    def load(cls, path: str | Path, *, device: Device = "auto") -> Self:
        """Read a detector back; its scores are the same to the last bit on the same machine's CPU.

        Raises SourceError if there is no such file; ModelFormatError if it is foreign, truncated, of another format
        version, or if its parts do not fit together.
        """
        path, chosen = Path(path), pick_device(device)
        header, tensors = read_model(path)
        with part_of(path, "threshold"):
            threshold = Threshold.from_dict(header["threshold"])
        with part_of(path, "calibration"):
            calibration = Calibration.from_dict(header["calibration"], _part(tensors, "calibration"))
        with part_of(path, "profile"):
            profile = TrafficProfile.from_dict(header["profile"], _part(tensors, "profile"))
        with part_of(path, "span_s"):
            seconds = value_of(float | None, header["span_s"], "it")
            span = None if seconds is None else timedelta(seconds=seconds)
            if span is not None and not _SHORTEST <= span <= _LONGEST:
                raise ConfigError(f"a window spans {_SHORTEST} to {_LONGEST}, not {span}")
        with part_of(path, "seed"):
            seed = value_of(int, header["seed"], "it")
            if not 0 <= seed < 1 << 64:
                raise ConfigError(f"it lies in 0 to 2^64, not {seed}")
        with part_of(path, "summary"):
            _check_summary(header["summary"])
        with part_of(path, "kind"):
            kind = _model_class(header["kind"])
        with part_of(path, "settings"):
            model = kind.restore(tensors, header["settings"], chosen)
        detector = cls(model, seed=seed, device=device, budget=threshold.budget, span=span)
        detector.threshold = threshold
        detector.calibration, detector.profile = calibration, profile
        detector.summary = header["summary"]
        return detector


def _check_summary(summary: Mapping[str, Any]) -> None:
    """Check what of a summary is used later: which rows the model was fitted on. Raises ConfigError if it is wrong."""
    fitted_on = value_of(Mapping[str, Any], summary, "it").get("fitted_on")
    if fitted_on is None:
        return
    Selection.from_dict(value_of(Mapping[str, Any], fitted_on, "fitted_on")["selection"])
    for origin in value_of(tuple[Any, ...], fitted_on["origins"], "origins"):
        if origin is not None:
            value_of(str, value_of(Mapping[str, Any], origin, "an origin")["digest"], "a digest")


def held_out_rows(num_flows: int) -> npt.NDArray[np.bool_]:
    """Choose the flows to hold out: every eighth of 160 blocks, so that neighbours in time stay together.

    Returns: (num_flows,) bool.
    """
    block = np.arange(num_flows) * min(_NUM_BLOCKS, num_flows) // max(num_flows, 1)
    held: npt.NDArray[np.bool_] = block % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    return held


@compiled()
def _strangeness(logit: Any, score: Any, begin: int, end: int) -> None:
    """Fill rows of `score` (E,) with 1 - sigmoid(logit), in a form that overflows at neither end."""
    for i in range(begin, end):
        small = math.exp(-abs(np.float64(logit[i])))
        score[i] = (small if logit[i] > 0 else 1.0) / (1.0 + small)


def _invented_flows(num: int = 64) -> Flows:
    """Return flows of every kind: IPv4, IPv6, a host name, a flow from a host to itself, all columns."""
    i = np.arange(num)
    hosts = [*(f"192.0.2.{k}" for k in range(1, 10)), "2001:db8::1", "a name"]
    columns = {
        "start": (i * 1_000_000).astype("datetime64[us]"),
        "duration_ms": i * 10.0,
        "src_addr": [hosts[k % len(hosts)] for k in i],
        "dst_addr": [hosts[k * k % len(hosts)] for k in i],
        **dict.fromkeys(("fwd_bytes", "bwd_bytes"), i * 100),
        **dict.fromkeys(("src_port", "dst_port", "protocol", "tcp_flags", "fwd_packets", "bwd_packets"), i),
    }
    return conform(pl.DataFrame(columns))


def _part(tensors: Mapping[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
