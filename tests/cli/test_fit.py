"""`thalweg fit`: what it learns, prints and writes, and the options that determine it."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from safetensors.torch import load_file

from tests.cli.conftest import NUM_FLOWS, QUICKLY
from tests.cli.process import succeed


def test_a_model_can_be_fitted_on_any_dialect_and_scores_the_others(folder: Path) -> None:
    succeed("simulate", "like.jsonl", "--flows", "1000", "--as", "zeek", "--seed", "5", folder=folder)
    succeed("simulate", "like.parquet", "--flows", "1000", "--as", "nf-v3", "--seed", "5", folder=folder)
    succeed("fit", "like.jsonl", "-o", "zeek.thalweg", *QUICKLY, folder=folder)
    done = succeed("score", "zeek.thalweg", "like.parquet", "-o", "scores.parquet", "--json", folder=folder).json()
    assert (done["flows"], done["output"], done["counts"]) == (1000, "scores.parquet", {})
    assert pl.read_parquet(folder / "scores.parquet").width == pl.read_parquet(folder / "like.parquet").width + 3


def test_fit_says_what_it_learned_and_info_says_it_again(folder: Path) -> None:
    done = succeed("fit", "traffic.csv", "-o", "m.thalweg", *QUICKLY, folder=folder)
    first, second, third, fourth = done.out.splitlines()
    assert first.startswith("learned from 1,06")
    assert second.startswith("a flow is anomalous above score ")
    assert third.startswith(
        "budget 0.01: 140 held-out flows are too few to know this within a factor of 1.5 (expect a share "
    )
    assert "; fit on about 14,000 flows, or state a larger budget" in third
    assert fourth == "wrote m.thalweg"
    assert done.err.startswith("epoch 1/2  loss ")
    printed = succeed("info", "m.thalweg", folder=folder).out.splitlines()
    assert printed[:3] == ["m.thalweg: thalweg, format version 4, seed 0", second, third]
    header = succeed("info", "m.thalweg", "--json", folder=folder).json()
    assert header["settings"]["shape"]["width"] == 8
    assert header["settings"]["window_size"] == 300
    assert header["settings"]["training"]["steps"] == 4
    assert header["summary"]["num_flows"] + header["threshold"]["num_flows"] == NUM_FLOWS
    assert f"  stopped: {header['summary']['stopped']!r}".replace("'", '"') in printed


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
