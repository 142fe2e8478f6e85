"""How long flows wait for their scores, on a fake clock."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.conftest import make_flows
from thalweg.benchmark.speed.dwell import (
    ONE_STAGE,
    ONE_WINDOW,
    PIPELINED,
    Dwell,
    Scorer,
    compare_dwell,
    measure_dwell,
    one_stage_at_a_time,
    one_window_at_a_time,
    pipelined,
    streams,
)
from thalweg.detect import Detector
from thalweg.errors import ModelError
from thalweg.model.learning.training import TrainingConfig
from thalweg.model.thalweg import ThalwegModel
from thalweg.tables import Flows

FLOWS = make_flows(100)
Scored = Iterator[tuple[int, npt.NDArray[np.float32]]]


class Clock:
    """A clock that only sleeping and work advance."""

    def __init__(self) -> None:
        self.now = 50.0

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


def taking(seconds: float, clock: Clock) -> Scorer:
    """Return a scorer that takes this long for every window."""

    def scorer(windows: Iterator[Flows]) -> Scored:
        for i, flows in enumerate(windows):
            clock.pass_by(seconds)
            yield i, np.zeros(len(flows), np.float32)

    return scorer


def dwell(seconds: float, pace: float | None, num: int = 4) -> Dwell:
    clock = Clock()
    return measure_dwell(taking(seconds, clock), [FLOWS], num, pace, clock=lambda: clock.now, sleep=clock.pass_by)


def test_a_scorer_that_keeps_up_takes_its_own_time() -> None:
    found = dwell(0.25, pace=100)
    assert [found.p50_s, found.longest_s] == pytest.approx([0.25, 0.25])
    assert found.num_flows == 400
    assert found.seconds == pytest.approx(3.25)


def test_windows_that_wait_for_a_slow_scorer_have_arrived_all_the_same() -> None:
    found = dwell(3, pace=100)  # a window arrives every second
    assert found.longest_s == pytest.approx(3 * 4 - 3)
    assert found.p50_s == pytest.approx(6)
    assert found.p99_s == pytest.approx(9, abs=0.1)


def test_flat_out_a_window_arrives_when_it_is_taken() -> None:
    found = dwell(0.5, pace=None)
    assert (found.p50_s, found.longest_s, found.flows_per_s) == (0.5, 0.5, 200)


def test_a_pipeline_may_take_windows_before_it_gives_scores() -> None:
    clock = Clock()

    def two_behind(windows: Iterator[Flows]) -> Scored:
        held: list[int] = []
        for i, flows in enumerate(windows):
            clock.pass_by(1)
            held.append(len(flows))
            if i >= 2:
                yield i - 2, np.zeros(held[i - 2], np.float32)
        for i in range(len(held) - 2, len(held)):
            yield i, np.zeros(held[i], np.float32)

    found = measure_dwell(two_behind, [FLOWS], 5, None, clock=lambda: clock.now, sleep=clock.pass_by)
    assert found.p50_s == 3
    assert found.longest_s == 3


def test_scores_out_of_order_or_missing_are_refused() -> None:
    def swapped(windows: Iterator[Flows]) -> Scored:
        given = list(windows)
        yield from ((i, np.zeros(len(given[i]), np.float32)) for i in reversed(range(len(given))))

    def short(windows: Iterator[Flows]) -> Scored:
        yield from ((i, np.zeros(len(flows) - 1, np.float32)) for i, flows in enumerate(windows))

    def few(windows: Iterator[Flows]) -> Scored:
        yield 0, np.zeros(len(next(windows)), np.float32)

    for wrong, words in ((swapped, "window 1 instead of window 0"), (short, "not all"), (few, "1 windows of 2")):
        with pytest.raises(ModelError, match=words):
            measure_dwell(wrong, [FLOWS], 2, None)


def test_all_ways_of_scoring_give_the_same_scores() -> None:
    flows = make_flows(600, num_hosts=12)
    model = ThalwegModel(training=TrainingConfig(num_flows=1_000), window_size=200)
    detector = Detector(model, device="cpu").fit(flows)
    windows = [flows[at : at + 200] for at in (0, 200, 400)]
    in_turn, *others = (
        list(scorer(detector)(iter(windows))) for scorer in (one_window_at_a_time, one_stage_at_a_time, pipelined)
    )
    for other in others:
        assert [index for index, _ in other] == [0, 1, 2]
        for (_, one), (_, same) in zip(in_turn, other, strict=True):
            assert np.array_equal(one, same)


def test_one_stage_at_a_time_takes_all_windows_before_it_gives_any() -> None:
    flows = make_flows(400, num_hosts=12)
    detector = Detector(ThalwegModel(training=TrainingConfig(num_flows=1_000), window_size=200), device="cpu").fit(
        flows
    )
    taken: list[int] = []

    def windows() -> Iterator[Flows]:
        for at in (0, 200):
            taken.append(at)
            yield flows[at : at + 200]

    assert [(index, len(taken)) for index, _ in one_stage_at_a_time(detector)(windows())] == [(0, 2), (1, 2)]


def test_the_pipelined_stream_is_held_against_those_of_the_same_pace() -> None:
    def row(way: str, pace: float | None, speed: float, p50: float) -> dict[str, Any]:
        return {"way": way, "pace": pace, "flows_per_s": speed, "p50_s": p50}

    rows = [row(ONE_STAGE, None, 100, 10.0), row(ONE_WINDOW, 5, 4, 3.0), row(ONE_WINDOW, None, 100, 1.0)]
    rows += [row(PIPELINED, 5, 5, 1.5), row(PIPELINED, None, 150, 2.0), {"step": "x", "failed": "out of memory"}]
    assert compare_dwell(rows) == [
        {"way": ONE_STAGE, "pace": None, "speed_ratio": 1.5, "dwell_cut": 0.8},
        {"way": ONE_WINDOW, "pace": 5, "speed_ratio": 1.25, "dwell_cut": 0.5},
        {"way": ONE_WINDOW, "pace": None, "speed_ratio": 1.5, "dwell_cut": -1.0},
    ]
    assert streams(ONE_STAGE, 5.0, 2) == ((None, 8),)
    assert streams(PIPELINED, 5.0, 32) == ((5.0, 32), (None, 32))
