"""`thalweg benchmark throughput`: the sides, and what happens if memory runs out; nothing is timed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tests.cli.process import thalweg
from thalweg.benchmark.machine import OUT_OF_MEMORY
from thalweg.benchmark.speed.cases import CASES, Traffic
from thalweg.benchmark.speed.exact import exact_published, exact_thalweg, largest_error
from thalweg.benchmark.speed.profile import PARTS, REST
from thalweg.benchmark.speed.progress import PUBLISHED, REFERENCE, THALWEG, Report, StepProgress, failure_in_words
from thalweg.benchmark.speed.sides import Models, Timing, fit_briefly, make_sides
from thalweg.benchmark.speed.throughput import plan as throughput
from thalweg.benchmark.speed.throughput.plan import ThroughputPlan, parts_of, run_throughput, scale_figures
from thalweg.benchmark.speed.throughput.report import throughput_charts, write_throughput
from thalweg.benchmark.speed.throughput.steps import KINDS, Part
from thalweg.cli.app import benchmark
from thalweg.errors import ConfigError, SinkError

TINY = ThroughputPlan(
    cases=(CASES["p2k"],),
    num_flows=300,
    rounds=2,
    dwell_windows=2,
    sweep=True,
    sweep_sizes=(200, 400),
    sweep_windows=2,
    scale=True,
    scale_sizes=(200, 400),
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread: parallel tests with several would wait for one another at every small step."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def models() -> Models:
    return fit_briefly(Traffic(CASES["p2k"].resized(300)), seed=0)


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """A complete tiny run, without subprocesses."""

    def here(part: Part, memory: int | None, say: Callable[[str, int], None]) -> dict[str, dict[str, Any]]:
        say("begin", 0)
        del memory
        return {name: step() for name, step in KINDS[part["kind"]](part, set()).steps()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(throughput, "_measure_part", here)
        return run_throughput(TINY)


def test_every_side_rates_the_same_window(models: Models) -> None:
    flows = Traffic(CASES["p2k"].resized(300)).window(1)
    rated = {name: side(flows) for name, side in make_sides(models).items()}
    assert all(logit.shape == (300,) for logit in rated.values())
    np.testing.assert_allclose(rated[PUBLISHED], rated[REFERENCE], atol=1e-4)
    exact = exact_thalweg(models.detector.model, flows)
    assert exact.dtype == np.float64
    assert 0 < np.abs(rated[THALWEG] - exact).max() < 1e-3
    assert 0 < np.abs(rated[REFERENCE] - exact_published(models.published, flows)).max() < 1e-3


def test_errors_are_of_logits_and_of_scores() -> None:
    error = largest_error(np.array([0.0, 2.0, 50.0]), np.array([0.0, 2.0, 60.0]))
    assert [error["logit"], error["score"]] == pytest.approx([10, 0])
    assert largest_error(np.array([0.0]), np.array([1.0]))["score"] == pytest.approx(1 / (1 + np.e**-1) - 0.5)


def test_a_ratio_is_of_the_same_round() -> None:
    slow, fast = Timing([10, 4, 6], [10, 4, 6]), Timing([2, 2, 1], [3, 3, 3])
    figures = fast.as_dict(100, slow)
    assert (figures["ratio"], figures["seconds"], figures["flows_per_s"], figures["cpu_seconds"]) == (5, 2, 50, 3)
    assert slow.as_dict(100, None)["ratio"] is None


def test_everything_planned_is_measured(found: dict[str, Any]) -> None:
    (case,) = found["cases"]
    assert (case["flows"], case["hosts"]) == (300, CASES["p2k"].resized(300).num_hosts)
    assert set(case["sides"]) == {REFERENCE, PUBLISHED, THALWEG}
    assert case["sides"][REFERENCE]["ratio"] == 1
    for side in case["sides"].values():
        assert side["failed"] is None
        assert len(side["seconds_by_round"]) == 2
        assert side["largest_error"]["score"] < 1e-3
    # One stage at a time has no pace; one window at a time and pipelined have one.
    assert [row["pace"] for row in case["dwell"]] == [None] + [100_000, None] * 2
    assert [row["pace"] for row in case["pipelined_against"]] == [None, 100_000, None]
    assert [row["size"] for row in found["sweep"]] == [200] * 3 + [400] * 3
    assert all(row["num_flows"] == 2 * row["size"] for row in found["sweep"])
    assert [row["hosts"] for row in found["scale"]["rows"]] == [40, 80]
    assert np.isfinite(found["scale"]["slope"])
    planned = [name for part, names in parts_of(TINY) for name in names if part["kind"] == "case"]
    assert len(planned) == 3 + 1 + 1 + (1 + 2 * 2) + 2
    assert set(case["profile"]) == {*PARTS, REST}
    assert min(case["profile"].values()) > 0


def test_the_report_shows_it(found: dict[str, Any], tmp_path: Path) -> None:
    files = write_throughput(tmp_path, found)
    names = ["cases", "memory", "dwell", "sweep", "scale"]
    assert [p.name for p in files] == ["throughput.json", "throughput.html", *(f"throughput-{n}.png" for n in names)]
    assert json.loads(files[0].read_text())["cases"] == found["cases"]
    page = files[1].read_text()
    assert all(f'id="{name}"' in page for name in names)
    assert found["machine"]["cpu"] in page
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in files[2:])
    assert sorted(tmp_path.iterdir()) == sorted(files)
    with pytest.raises(SinkError):
        write_throughput(tmp_path / "nowhere", found)


def test_what_was_not_measured_is_not_drawn(found: dict[str, Any]) -> None:
    assert set(throughput_charts({**found, "cases": [], "sweep": []})) == {"scale"}
    assert not throughput_charts({**found, "cases": [], "sweep": [], "scale": scale_figures([])})


def test_a_slope_is_fitted_to_flows_and_channels() -> None:
    rows = [{"flows": n, "channels": n, "seconds": 3 * (2 * n / 1e6) ** 2} for n in (10, 1000, 50_000)]
    fitted = scale_figures([*rows, {"failed": OUT_OF_MEMORY}])
    assert (fitted["slope"], fitted["seconds_per_million"]) == (pytest.approx(2), pytest.approx(3))
    assert scale_figures(rows[:1])["slope"] is None


def test_a_process_that_dies_of_memory_is_started_again_without_that_side(monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[tuple[list[str], list[str]]] = []

    def run(part: Part, memory: int | None, rows: dict[str, Any], failed: list[str], say: object) -> str | None:
        del part, memory, say
        starts.append((list(rows), list(failed)))
        if not rows:
            rows["peak thalweg"] = {}
            return "peak reference"
        rows["rounds"] = {}
        return None

    monkeypatch.setattr(throughput, "_run_process", run)
    rows = throughput._measure_part({"case": "d50"}, None, lambda *_: None)
    assert starts == [([], []), (["peak thalweg", "peak reference"], ["reference"])]
    assert rows["peak reference"]["failed"] == OUT_OF_MEMORY
    assert list(rows) == ["peak thalweg", "peak reference", "rounds"]


def test_a_side_that_finds_no_memory_is_reported_and_the_others_go_on() -> None:
    plan = ThroughputPlan(
        cases=(CASES["d50"],),
        num_flows=30_000,
        rounds=1,
        sides=(REFERENCE, THALWEG),
        pace=1e6,
        dwell_windows=1,
        memory=400_000_000,
    )
    said: list[StepProgress] = []
    sides = run_throughput(plan, said.append)["cases"][0]["sides"]
    assert sides[REFERENCE]["failed"] == OUT_OF_MEMORY
    assert sides[REFERENCE]["flows_per_s"] is None
    assert failure_in_words(sides[REFERENCE]) == "out of memory at 0.4 GB"
    assert failure_in_words(sides[THALWEG]) is None
    assert sides[THALWEG]["failed"] is None
    assert sides[THALWEG]["flows_per_s"] > 0
    assert [now.done for now in said] == sorted(now.done for now in said)
    assert said[-1].total == said[-1].done + 1 == 10
    assert said[-1].seconds_left is not None


def test_the_command_prints_tables_or_json(
    found: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[ThroughputPlan] = []

    def run(plan: ThroughputPlan, report: Report) -> dict[str, Any]:
        plans.append(plan)
        report(StepProgress(3, 7, "d50: rounds", 90.0))
        return found

    monkeypatch.setattr(throughput, "run_throughput", run)
    words = [
        "throughput",
        "--cases",
        "d50,p2k",
        "--sides",
        "thalweg",
        "--rate",
        "5000",
        "--out",
        str(tmp_path / "a" / "b"),
    ]
    done = CliRunner().invoke(benchmark, [*words, "--memory", "0.5", "--quick"])
    assert done.exit_code == 0
    (plan,) = plans
    assert [case.name for case in plan.cases] == ["d50", "p2k"]
    assert (plan.sides, plan.pace, plan.memory, plan.rounds) == ((THALWEG,), 5_000, 500_000_000, 2)
    assert "3/7  d50: rounds  about 1 min 30 s left" in done.stderr
    for said in (
        "default model",
        "Windows of other sizes",
        "slope",
        found["machine"]["cpu"],
        "same allocator settings",
    ):
        assert said in done.stdout
    printed = json.loads(CliRunner().invoke(benchmark, [*words, "--json"]).stdout)
    assert printed["cases"] == found["cases"]
    assert all(Path(path).exists() for path in printed["written"])


@pytest.mark.parametrize(
    ("words", "say"),
    [
        ("--cases d60", "choose from d50, d200"),
        ("--sides pyg", "choose from reference, published, thalweg"),
        ("--flows 10", "at least 200 flows"),
        ("--rate 0", "more than 0 a second"),
        ("--memory -1", "--memory"),
    ],
)
def test_an_invalid_option_is_reported_before_any_work(tmp_path: Path, words: str, say: str) -> None:
    done = thalweg("benchmark", "throughput", *words.split(), folder=tmp_path)
    assert done.code == 2
    assert say in done.err
    assert not (tmp_path / "benchmark").exists()


def test_plans_check_themselves() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        replace(TINY, rounds=0)
    quick = ThroughputPlan(sweep=True).quick()
    assert quick.sweep
    assert max(quick.sweep_sizes) == 1_000_000
    assert quick.rounds < ThroughputPlan().rounds
