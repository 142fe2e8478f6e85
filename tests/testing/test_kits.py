"""The conformance kits pass a correct part and find each kind of fault."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from thalweg.detect import Detector
from thalweg.errors import NotFittedError
from thalweg.model.learning.training import TrainingConfig
from thalweg.model.thalweg import ThalwegModel
from thalweg.sinks.sink import ScoredWindow
from thalweg.tables import Flows, Scores
from thalweg.testing import FakeClock, check_detector, check_sink


def test_a_fake_clock_runs_only_when_advanced_and_only_forwards() -> None:
    now = FakeClock()
    begin = now()
    assert now() == begin > 1.6e9
    now.advance(0.5)
    now.advance(0)
    assert now() == begin + 0.5
    with pytest.raises(ValueError, match="backwards"):
        now.advance(-1)


# Sinks ---------------------------------------------------------------------------------------------------------------


class RowsSink:
    """Keeps rows in a list, with the fault that `fault` names."""

    def __init__(self, rows: list[int], fault: str = "") -> None:
        self._rows, self._fault = rows, fault

    def open(self, state: Mapping[str, Any] | None) -> Mapping[str, Any]:
        if state is not None and self._fault != "writes twice":
            del self._rows[state["num"] :]
        return self._state()

    def write(self, window: ScoredWindow) -> Mapping[str, Any]:
        rows = window.frame["row"].to_list()
        self._rows += rows[1:] if self._fault == "loses a row" else rows
        if self._fault == "changes frames":
            window.frame.insert_column(0, pl.Series("number", [window.number] * len(rows)))
        return self._state()

    def _state(self) -> Mapping[str, Any]:
        if self._fault == "has no state":
            return None  # type: ignore[return-value]  # as a sink might that was never type-checked
        return {"num": (len(self._rows),) if self._fault == "has a state that is no JSON" else len(self._rows)}

    def close(self) -> None:
        pass


def check_rows(fault: str = "") -> None:
    rows: list[int] = []
    check_sink(lambda: RowsSink(rows, fault), lambda: rows)


def test_the_kit_passes_a_sink_that_is_right() -> None:
    check_rows()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("writes twice", "missing or duplicated"),
        ("loses a row", "missing or duplicated"),
        ("has no state", "must return a state"),
        ("has a state that is no JSON", "JSON changes the state"),
        ("changes frames", "must not change the window"),
    ],
)
def test_the_kit_finds_what_is_wrong_with_a_sink(fault: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_rows(fault)


# Detectors -----------------------------------------------------------------------------------------------------------


def quick() -> Detector:
    model = ThalwegModel(training=TrainingConfig(steps=4, min_window=50), window_size=150)
    return Detector(model, seed=1, device="cpu")


def test_the_kit_passes_thalwegs_own_detector() -> None:
    check_detector(quick)


class ByteDetector:
    """Scores flows by their bytes times a fitted factor; `change` makes its scores wrong."""

    def __init__(self, change: Callable[[Scores], Scores] = lambda scores: scores, factor: float = 0.0) -> None:
        self._change, self._factor = change, factor
        self.model = SimpleNamespace(window_size=64)
        self.threshold = 5.0

    def fit(self, flows: Flows) -> ByteDetector:
        self._factor = 1 / float(flows.frame["fwd_bytes"].max())  # type: ignore[arg-type]  # there are some
        return self

    def score(self, flows: Flows) -> Scores:
        if not self._factor:
            raise NotFittedError("not yet")
        logit = (flows.frame["fwd_bytes"].to_numpy() * self._factor).astype(np.float32)
        return self._change(Scores(flows, logit, logit, logit > 5))

    def save(self, path: Path) -> None:
        path.write_text(str(self._factor))

    @classmethod
    def load(cls, path: Path, *, device: str) -> ByteDetector:
        del device
        return cls(factor=float(path.read_text()))


class RoundedDetector(ByteDetector):
    """Rounds its factor when it is saved."""

    def save(self, path: Path) -> None:
        path.write_text(f"{self._factor:.6f}")


def check_bytes(change: Callable[[Scores], Scores] = lambda scores: scores, kind: Any = ByteDetector) -> None:
    make: Any = lambda: kind(change)  # noqa: E731 - all that the kit asks of a detector
    check_detector(make, num_flows=120)


def test_the_kit_passes_a_detector_that_is_right() -> None:
    check_bytes()


def test_the_kit_finds_that_a_file_does_not_hold_all() -> None:
    with pytest.raises(AssertionError, match="the loaded detector gives different scores"):
        check_bytes(kind=RoundedDetector)


def test_the_kit_finds_that_a_detector_scores_unfitted() -> None:
    class Unfitted(ByteDetector):
        def __init__(self, change: Callable[[Scores], Scores]) -> None:
            super().__init__(change, 1.0)

    with pytest.raises(AssertionError, match="not fitted returns scores"):
        check_bytes(kind=Unfitted)


def _with(scores: Scores, logit: Any) -> Scores:
    return Scores(scores.flows, scores.score, np.asarray(logit, np.float32), scores.anomalous)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda scores: _with(scores, scores.logit[1:]), "scores for"),
        (lambda scores: _with(scores, scores.logit * np.nan), "not finite"),
        (lambda scores: _with(scores, np.sort(scores.logit)), "depends on its row|equal flows have different scores"),
        (lambda scores: _with(scores, scores.logit + np.arange(len(scores))), "depends on its row"),
        (lambda scores: _with(scores, scores.logit * 0), "all flows have the same score"),
        (lambda scores: Scores(scores.flows, scores.score + 2, scores.logit, scores.anomalous), "not from 0 to 1"),
    ],
)
def test_the_kit_finds_what_is_wrong_with_a_detector(change: Callable[[Scores], Scores], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_bytes(change)
