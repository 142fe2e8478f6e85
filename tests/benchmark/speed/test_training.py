"""`thalweg benchmark training`: which flows are counted, and how figures are computed; nothing is timed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.cli.process import succeed, thalweg
from thalweg.benchmark.speed import training as training_speed
from thalweg.benchmark.speed.cases import CASES
from thalweg.benchmark.speed.training import TrainingPlan, run_training
from thalweg.errors import ConfigError, ModelError
from thalweg.model import Progress
from thalweg.published import model as published

# Long enough for two reports on any machine: a training reports its progress four times a second.
CASE = CASES["d200"].resized(60_000)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread: parallel tests with several would wait for one another at every small step."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def progress_at(share: float, shown: float, seconds: float) -> Progress:
    """Return the progress of a training after this many flows and seconds."""
    left = seconds * (1 - share) / share
    return Progress(
        epoch=1, num_epochs=1, share=share, loss=0.0, held_out_loss=None, flows_per_s=shown / seconds, seconds_left=left
    )


def test_flows_shown_are_found_in_what_a_training_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "process_time", lambda: 2 * now)
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    meter = training_speed._Meter()
    for share, shown, now in ((0.1, 1_000_000, 10.0), (0.5, 1_500_000, 13.0), (0.9, 3_000_000, 20.0), (1.0, 9e9, 99.0)):
        meter(progress_at(share, shown, now))
    assert meter.per_million() == {"cpu_s_per_million": pytest.approx(10), "s_per_million": pytest.approx(5)}


def test_a_training_that_is_too_short_says_so() -> None:
    with pytest.raises(ModelError, match="too short"):
        training_speed._Meter().per_million()
    with pytest.raises(ConfigError, match="three windows"):
        TrainingPlan(cases=(CASE,), reference_flows=100)


def test_the_noise_that_the_reference_is_shown_counts() -> None:
    costs = {"cpu_s_per_million": 8.0, "s_per_million": 4.0}
    figures = training_speed._figures(
        CASE, {"reference": [costs] * 3, "thalweg": [{name: cost / 4 for name, cost in costs.items()}] * 3}
    )
    assert figures["ratio"] == 4
    reference, own = figures["sides"]["reference"], figures["sides"]["thalweg"]
    assert reference["cpu_s_per_epoch"] == pytest.approx(8 * 2 * 0.06)
    assert reference["cpu_s_whole_recipe"] == pytest.approx(9 * reference["cpu_s_per_epoch"])
    assert own["cpu_s_whole_recipe"] == pytest.approx(2 * 6)


def test_both_learn_from_the_same_traffic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "_PROGRESS_S", 0.0)  # however fast the machine is, it reports more than once
    said: list[str] = []
    found = run_training(
        TrainingPlan(cases=(CASE,), rounds=1, steps=15, reference_flows=60_000), lambda now: said.append(now.now)
    )
    assert said == ["d200: reference", "d200: thalweg"]
    (case,) = found["cases"]
    for side in case["sides"].values():
        assert side["cpu_s_per_million"] > 0
    assert case["ratio"] > 0


def test_the_command_prints_a_table_and_keeps_the_figures(tmp_path: Path) -> None:
    words = "benchmark training --cases d50 --flows 60000 --steps 15 --quick --out made"
    done = succeed(*words.split(), folder=tmp_path)
    assert "per million flows" in done.out
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["training.json"]
    assert thalweg("benchmark", "training", "--flows", "100", folder=tmp_path).code == 2
