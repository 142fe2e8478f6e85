"""`thalweg evaluate`: which flows are judged, and what is reported."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from tests.cli.conftest import NUM_FLOWS, QUICKLY
from tests.cli.process import succeed, thalweg


def test_evaluate_tells_a_person_how_the_model_did(folder: Path, traffic: pl.DataFrame) -> None:
    words = ("evaluate", "benign.thalweg", "traffic.csv", "--hosts", "--html", "report.html")
    done = succeed(*words, folder=folder)
    num_attacks = int(traffic["label"].sum())
    for said in (
        "AUROC",
        "FPR / budget",
        "average precision",
        f"1,200, {num_attacks}",
        "By attack",
        "beaconing",
        "Strangest of",
    ):
        assert said in done.out
    assert done.out.endswith("wrote report.html\n")
    report = (folder / "report.html").read_text()
    assert "benign.thalweg on traffic.csv" in report
    assert "port_scan" in report


def test_windows_unlike_the_training_flows_are_said_by_score_and_evaluate(folder: Path, traffic: pl.DataFrame) -> None:
    quiet = traffic.filter(pl.col("attack") == "Benign")
    quiet.with_columns(fwd_bytes=pl.col("fwd_bytes") * 1_000, src_addr=pl.lit("203.0.113.9")).write_csv(
        folder / "o.csv"
    )
    score = succeed("score", "benign.thalweg", "o.csv", "-o", "s.csv", folder=folder)
    evaluated = succeed("evaluate", "benign.thalweg", "o.csv", folder=folder)
    note = score.err.splitlines()[0]
    assert note.startswith("note: 3 of 4 windows are different from the training flows. Window ")
    assert "is very different from the training flows: " in note
    assert "100 % of flows come from hosts never seen" in note
    assert note.endswith("Fit again if this is the new normal.")
    assert evaluated.err.splitlines() == [note]
    drift = succeed("score", "benign.thalweg", "o.csv", "-o", "s.csv", "--json", folder=folder).json()["drift"]
    assert (drift["num_different"], len(drift["windows"])) == (3, 4)
    first = drift["windows"][0]
    assert (first["level"], first["rows"], first["unseen"]["src_addr"]) == ("very different", 300, 1.0)
    assert first["start"].startswith("2026-03-02T")
    assert first["psi"]["fwd_bytes"] > 1
    assert drift["windows"][3]["level"] == "too few flows to tell"


def test_evaluate_tells_a_machine_the_same(folder: Path, traffic: pl.DataFrame) -> None:
    found = succeed("evaluate", "benign.thalweg", "traffic.csv", "--json", "--hosts", folder=folder).json()
    succeed("score", "benign.thalweg", "traffic.csv", "-o", "scores.csv", folder=folder)
    scores = pl.read_csv(folder / "scores.csv")
    attacks, rest = scores.filter("label"), scores.filter(~pl.col("label"))
    assert (found["num_flows"], found["num_attacks"], found["num_skipped"]) == (NUM_FLOWS, attacks.height, 0)
    assert found["tpr"] == pytest.approx(attacks["anomalous"].mean())
    assert found["fpr"] == pytest.approx(rest["anomalous"].mean())
    assert found["num_hosts"] == traffic["src_addr"].n_unique()
    attackers = {host["src_addr"] for host in found["attacking_hosts"]}
    assert attackers == set(attacks["src_addr"])


def test_where_chooses_the_flows_to_judge(folder: Path, traffic: pl.DataFrame) -> None:
    chosen = "attack = 'Benign' OR attack = 'flood'"
    found = succeed("evaluate", "benign.thalweg", "traffic.csv", "--where", chosen, "--json", folder=folder).json()
    num_floods = traffic.filter(pl.col("attack") == "flood").height
    assert found["num_attacks"] == num_floods > 0
    assert found["num_flows"] == traffic.filter(~pl.col("label")).height + num_floods
    assert found["num_skipped"] == NUM_FLOWS - found["num_flows"]


@pytest.mark.parametrize("name", ["traffic.csv", "renamed copy.dat"])
def test_unseen_skips_just_the_flows_it_was_fitted_on(folder: Path, traffic: pl.DataFrame, name: str) -> None:
    (folder / "renamed copy.dat").write_bytes((folder / "traffic.csv").read_bytes())
    header = succeed("info", "benign.thalweg", "--json", folder=folder).json()
    num_fitted = header["summary"]["num_flows"] + header["threshold"]["num_flows"]
    benign = traffic.filter(pl.col("attack") == "Benign").height
    assert 0.4 * benign < num_fitted < 0.6 * benign
    found = succeed("evaluate", "benign.thalweg", name, "--unseen", "--json", folder=folder).json()
    assert found["num_skipped"] == num_fitted
    assert found["num_flows"] == NUM_FLOWS - num_fitted
    assert found["num_attacks"] == NUM_FLOWS - benign


def test_unseen_skips_nothing_of_another_file(folder: Path, traffic: pl.DataFrame) -> None:
    traffic.tail(500).write_csv(folder / "other.csv")
    found = succeed("evaluate", "benign.thalweg", "other.csv", "--unseen", "--json", folder=folder).json()
    assert (found["num_flows"], found["num_skipped"]) == (500, 0)


def test_unseen_over_several_files_recognises_each(folder: Path, traffic: pl.DataFrame) -> None:
    traffic.head(700).write_csv(folder / "a.csv")
    traffic.tail(500).write_csv(folder / "b.csv")
    succeed("fit", "a.csv", "b.csv", "-o", "m.thalweg", "--holdout", "0.3", *QUICKLY, folder=folder)
    header = succeed("info", "m.thalweg", "--json", folder=folder).json()
    num_fitted = header["summary"]["num_flows"] + header["threshold"]["num_flows"]
    skipped = [
        succeed("evaluate", "m.thalweg", *names, "--unseen", "--json", folder=folder).json()["num_skipped"]
        for names in (["b.csv", "a.csv"], ["a.csv"], ["b.csv"])
    ]
    assert skipped[0] == skipped[1] + skipped[2] == num_fitted


def test_unseen_cannot_recognise_standard_input(folder: Path) -> None:
    traffic = (folder / "traffic.csv").read_bytes()
    done = thalweg("evaluate", "benign.thalweg", "-", "--unseen", folder=folder, stdin=traffic)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: --unseen needs to recognise the file")
    succeed("fit", "-", "-o", "piped.thalweg", *QUICKLY, folder=folder, stdin=traffic)
    assert succeed("evaluate", "piped.thalweg", "traffic.csv", "--json", folder=folder).json()["num_skipped"] == 0
    done = thalweg("evaluate", "piped.thalweg", "traffic.csv", "--unseen", folder=folder)
    assert done.code == 2
    assert "not standard input" in done.err


def test_nothing_left_to_judge_is_an_error(folder: Path) -> None:
    done = thalweg("evaluate", "benign.thalweg", "traffic.csv", "--where", "fwd_bytes < 0", folder=folder)
    assert (done.code, done.err) == (2, "error: nothing is left to evaluate: all 1,200 flows were skipped\n")
