"""Every command, as people type it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from safetensors.torch import load_file

from tests.cli.conftest import NUM_FLOWS, QUICKLY
from tests.cli.process import ONE_THREAD, succeed, thalweg
from thalweg import __version__

COMMANDS = (
    "demo",
    "fit",
    "score",
    "evaluate",
    "info",
    "simulate",
    "benchmark",
    "benchmark detection",
    "benchmark throughput",
    "benchmark ingest",
    "benchmark training",
)
DIALECTS = ("thalweg", "nf-v1", "nf-v2", "nf-v3", "binetflow", "zeek")
SLOW = {"torch", "polars", "numpy", "scipy", "sklearn", "pyarrow", "altair"}


def python(*args: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **ONE_THREAD}
    return subprocess.run([sys.executable, *args], cwd=folder, env=environment, capture_output=True, text=True)


def test_the_module_runs_like_the_command(tmp_path: Path) -> None:
    for program in ([sys.executable, "-m", "thalweg"], [str(Path(sys.executable).with_name("thalweg"))]):
        done = subprocess.run([*program, "--version"], cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"thalweg {__version__}\n", "")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_has_an_example_and_does_not_wait_for_torch(tmp_path: Path, command: str) -> None:
    say = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr))"
    words = [*command.split(), "--help"]
    code = f"{say}; sys.argv = ['thalweg', *{words}]; from thalweg.cli.app import main; main()"
    done = python("-c", code, folder=tmp_path)
    assert done.returncode == 0
    assert "thalweg.cli.app" in done.stderr.split()
    assert not SLOW & set(done.stderr.split())
    assert f"Example: thalweg {command} " in done.stdout if command else "thalweg demo" in done.stdout


def test_a_mistyped_command_or_option_ends_with_code_2(tmp_path: Path) -> None:
    for words in (["fti"], ["fit", "x.csv"], ["info", "--bogus", "m"], ["fit", "x.csv", "-o", "m", "--steps", "0"]):
        done = thalweg(*words, folder=tmp_path)
        assert (done.code, done.out) == (2, "")
        assert "Usage: thalweg" in done.err


def test_the_demo_finds_its_attacks_and_leaves_everything_in_its_folder(tmp_path: Path) -> None:
    done = python("-m", "thalweg", "demo", "--out", "here", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "here"
    names = ["busy.parquet", "office.thalweg", "quiet.parquet", "report.html", "scores.parquet"]
    assert sorted(path.name for path in out.iterdir()) == names
    busy, scores = pl.read_parquet(out / "busy.parquet"), pl.read_parquet(out / "scores.parquet")
    assert scores.select(busy.columns).equals(busy)
    caught = scores.filter("label")["anomalous"].mean()
    false_alarms = scores.filter(~pl.col("label"))["anomalous"].mean()
    assert isinstance(caught, float)
    assert isinstance(false_alarms, float)
    assert caught > 0.5 > 0.2 > false_alarms
    assert f"caught {100 * caught:.1f} % of the attack flows with {100 * false_alarms:.1f} % false alarms" in (
        done.stdout
    )
    report = (out / "report.html").read_text()
    assert "<html" in report
    assert (out / "report.html").as_uri() in done.stdout


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_simulate_writes_is_read_back_in_every_dialect(folder: Path, dialect: str) -> None:
    done = succeed("simulate", "like.csv", "--flows", "1000", "--as", dialect, "--seed", "5", folder=folder)
    assert done.err == "wrote 1,000 flows to like.csv\n"
    found = succeed("evaluate", "benign.thalweg", "like.csv", "--json", folder=folder).json()
    assert found["num_flows"] == 1000
    assert found["num_attacks"] > 50
    assert ("false_alerts_per_day" in found and found["false_alerts_per_day"] is None) == (
        dialect in ("nf-v1", "nf-v2")
    ), "NF-v1 and v2 have no time"


def test_a_model_can_be_fitted_on_any_dialect_and_scores_the_others(folder: Path) -> None:
    succeed("simulate", "like.jsonl", "--flows", "1000", "--as", "zeek", "--seed", "5", folder=folder)
    succeed("simulate", "like.parquet", "--flows", "1000", "--as", "nf-v3", "--seed", "5", folder=folder)
    succeed("fit", "like.jsonl", "-o", "zeek.thalweg", *QUICKLY, folder=folder)
    done = succeed("score", "zeek.thalweg", "like.parquet", "-o", "scores.parquet", "--json", folder=folder).json()
    assert (done["flows"], done["output"], done["counts"]) == (1000, "scores.parquet", {})
    assert pl.read_parquet(folder / "scores.parquet").width == pl.read_parquet(folder / "like.parquet").width + 3


def test_simulated_flows_come_on_standard_output_and_the_same_for_a_seed(tmp_path: Path) -> None:
    words = ("simulate", "-", "--flows", "50", "--attacks", "none", "--seed")
    first, again, other = (succeed(*words, seed, folder=tmp_path).out for seed in ("1", "1", "2"))
    assert first == again != other
    assert len(first.splitlines()) == 51


def test_fit_says_what_it_learned_and_info_says_it_again(folder: Path) -> None:
    done = succeed("fit", "traffic.csv", "-o", "m.thalweg", *QUICKLY, folder=folder)
    first, second, third, fourth = done.out.splitlines()
    assert first.startswith("learned from 1,06")
    assert second.startswith("a flow is anomalous above score ")
    assert third.startswith(
        "budget 0.01: 140 held-out flows are too few to tell within a factor of 1.5 (expect a share "
    )
    assert "; fit on about 14,000 flows, or state a larger budget" in third
    assert fourth == "wrote m.thalweg"
    assert done.err.startswith("epoch 1/2  loss ")
    told = succeed("info", "m.thalweg", folder=folder).out.splitlines()
    assert told[:3] == ["m.thalweg: thalweg, format version 4, seed 0", second, third]
    header = succeed("info", "m.thalweg", "--json", folder=folder).json()
    assert header["settings"]["shape"]["width"] == 8
    assert header["settings"]["window_size"] == 300
    assert header["settings"]["training"]["steps"] == 4
    assert header["summary"]["num_flows"] + header["threshold"]["num_flows"] == NUM_FLOWS
    assert f"  stopped: {header['summary']['stopped']!r}".replace("'", '"') in told


def test_fit_tells_each_epoch_once_with_its_own_held_out_loss(folder: Path) -> None:
    (folder / "epochs.toml").write_text((folder / "tiny.toml").read_text().replace("epochs = 2", "epochs = 3"))
    words = ("--steps", "6", "--config", "epochs.toml", "--json")
    done = succeed("fit", "traffic.csv", "-o", "m.thalweg", *words, folder=folder)
    lines = done.err.splitlines()
    assert [line.split()[1] for line in lines] == ["1/3", "2/3", "3/3"]
    summary = done.json()["summary"]
    assert f"held out {summary['held_out_loss']:.4f}" in lines[summary["best_epoch"] - 1]


def test_the_published_preset_goes_through_the_same_commands(folder: Path, traffic: pl.DataFrame) -> None:
    traffic.head(300).write_csv(folder / "few.csv")
    succeed("fit", "few.csv", "-o", "gae.thalweg", "--preset", "published", "--window", "150", folder=folder)
    assert succeed("info", "gae.thalweg", "--json", folder=folder).json()["kind"] == "published"
    succeed("score", "gae.thalweg", "few.csv", "-o", "scores.csv", folder=folder)
    scores = pl.read_csv(folder / "scores.csv")
    assert scores.select(traffic.columns).equals(traffic.head(300))
    assert scores["score"].n_unique() > 250
    found = succeed("evaluate", "gae.thalweg", "traffic.csv", "--json", folder=folder).json()
    assert found["num_flows"] == NUM_FLOWS


def test_the_same_seed_gives_the_same_model_and_the_same_scores(folder: Path) -> None:
    for name, seed in (("one", "4"), ("two", "4"), ("three", "5")):
        succeed("fit", "traffic.csv", "-o", f"{name}.thalweg", "--seed", seed, *QUICKLY, folder=folder)
    for name in ("one", "two"):
        succeed("score", f"{name}.thalweg", "traffic.csv", "-o", f"{name}.csv", folder=folder)
    one, two, three = (load_file(folder / f"{name}.thalweg") for name in ("one", "two", "three"))
    assert one.keys() == two.keys()
    assert all(one[name].numpy().tobytes() == two[name].numpy().tobytes() for name in one)
    assert any(one[name].numpy().tobytes() != three[name].numpy().tobytes() for name in one)
    assert (folder / "one.csv").read_bytes() == (folder / "two.csv").read_bytes()


@pytest.mark.parametrize(("budget", "share"), [("0.02", 0.02), ("2%", 0.02), ("20/day", None)])
def test_a_budget_becomes_the_share_of_flows_it_allows(
    folder: Path, traffic: pl.DataFrame, budget: str, share: float | None
) -> None:
    words = ("fit", "traffic.csv", "-o", "m.thalweg", "--budget", budget, *QUICKLY, "--json")
    threshold = succeed(*words, folder=folder).json()["threshold"]
    start = traffic["start"].str.to_datetime(time_zone="UTC")
    days = (start.max() - start.min()).total_seconds() / 86_400  # type: ignore[operator, union-attr]  # polars types min() for every dtype
    assert threshold["share"] == pytest.approx(share or 20 * days / NUM_FLOWS)
    assert threshold["budget"] == budget.replace("2%", "0.02")


def test_a_budget_is_restated_without_fitting_again(folder: Path) -> None:
    named = {}
    for budget in ("0.01", "0.1", "20/day"):
        words = ("score", "benign.thalweg", "traffic.csv", "-o", "scores.csv", "--budget", budget, "--json")
        named[budget] = succeed(*words, folder=folder).json()["anomalous"]
    plain = succeed("score", "benign.thalweg", "traffic.csv", "-o", "scores.csv", "--json", folder=folder).json()
    assert named["0.01"] == plain["anomalous"] < named["0.1"]
    done = thalweg("score", "benign.thalweg", "traffic.csv", "-o", "scores.csv", "--budget", "2", folder=folder)
    assert done.code == 2
    assert "is no budget" in done.err
    found = succeed("evaluate", "benign.thalweg", "traffic.csv", "--budget", "0.1", "--json", folder=folder).json()
    assert found["threshold"]["share"] == found["budget_check"]["share"] == 0.1
    assert found["num_anomalous"] == named["0.1"]
    assert found["budget_check"]["ratio"] == pytest.approx(found["fpr"] / 0.1)


def test_command_line_options_win_over_the_configuration_file(folder: Path) -> None:
    (folder / "map.toml").write_text(
        (folder / "tiny.toml").read_text() + 'steps = 3\n[map]\nsrc_addr = "elsewhere"\n[noise]\nmax_share = 0.9\n'
    )
    words = ("--config", "map.toml", "--steps", "5", "--map", "src_addr=dst_addr", "--window", "300")
    header = succeed("fit", "traffic.csv", "-o", "m.thalweg", *words, folder=folder)
    assert "learned from" in header.out
    settings = succeed("info", "m.thalweg", "--json", folder=folder).json()["settings"]
    assert settings["training"]["steps"] == 5
    assert settings["training"]["noise"]["max_share"] == 0.9


def test_extended_attributes_learn_from_more_columns(folder: Path) -> None:
    succeed("fit", "traffic.csv", "-o", "m.thalweg", "--attributes", "extended", *QUICKLY, folder=folder)
    succeed("score", "m.thalweg", "traffic.csv", "-o", "scores.csv", folder=folder)
    settings = succeed("info", "m.thalweg", "--json", folder=folder).json()["settings"]
    assert settings["attributes"] == "extended"
    assert pl.read_csv(folder / "scores.csv").height == NUM_FLOWS
