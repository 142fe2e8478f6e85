"""`thalweg benchmark detection` as people run it: killed, continued, and reported in tables, JSON and a report."""

from __future__ import annotations

import json
import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl
import pytest

from tests.cli.process import Running, succeed, thalweg
from thalweg.benchmark.detection.rows import ROW_COLUMNS, read_rows, row_file
from thalweg.synthetic import SimulationConfig, as_dialect, simulate
from thalweg.synthetic.dialects import Dialect

NUM: Final = 1_500
FILES: Final[dict[str, Dialect]] = {
    "NF-CSE-CIC-IDS2018.csv": "nf-v1",
    "nf-toniot-v2-sample.csv": "nf-v2",
    "NF-UNSW-NB15-v3.parquet": "nf-v3",
}
GOOD: Final = ("cicids2018-v1", "unsw-nb15-v3", "ton-iot-v2-sample")
BROKEN: Final = "bot-iot-v1"
WORDS: Final = (
    "benchmark",
    "detection",
    "--data",
    "sets",
    "--out",
    "out",
    "--quick",
    "--methods",
    "thalweg",
    "--effort",
)
TINY: Final = "0.0003"
"""Three training steps."""


@dataclass(frozen=True)
class Story:
    """A folder whose run was killed and then continued."""

    folder: Path
    kept: dict[str, int]
    """row files that were there when it was killed, with their times"""
    after: dict[str, int]
    """row files after the second run"""
    printed: Any
    said: str


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "out" / "rows").glob("*.parquet")}


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("benchmark")
    (folder / "sets").mkdir()
    for seed, (name, dialect) in enumerate(FILES.items()):
        frame = as_dialect(simulate(SimulationConfig(flows=NUM, seed=seed)), dialect)
        path = folder / "sets" / name
        if path.suffix == ".csv":
            frame.write_csv(path)
        else:
            frame.write_parquet(path)
    unlabelled = pl.read_csv(folder / "sets" / "NF-CSE-CIC-IDS2018.csv").drop("Label", "Attack")
    unlabelled.write_csv(folder / "sets" / "NF-BoT-IoT.csv")
    running = Running(*WORDS, TINY, "--workers", "1", folder=folder)
    running.wait_until(lambda: times(folder))
    running.kill(signal.SIGKILL)
    assert running.finish().code == -signal.SIGKILL
    kept = times(folder)
    done = succeed(*WORDS, TINY, "--workers", "2", "--json", folder=folder)
    return Story(folder, kept, times(folder), done.json(), done.err)


def test_a_killed_run_goes_on_where_it_was(story: Story) -> None:
    assert story.kept
    assert all(story.after[name] == written for name, written in story.kept.items())
    assert story.printed["jobs"] == 4
    assert story.printed["reused"] == len(story.kept)
    assert sorted(story.after) == sorted(
        row_file(Path(), name, "clean", "thalweg", 0, True).name for name in (*GOOD, BROKEN)
    )
    left = [path.name for path in (story.folder / "out" / "rows").iterdir() if path.suffix != ".parquet"]
    assert left == []


def test_versions_one_two_and_three_are_measured(story: Story) -> None:
    for name in GOOD:
        rows = read_rows(row_file(story.folder / "out" / "rows", name, "clean", "thalweg", 0, True))
        assert rows is not None
        (row,) = rows.rows(named=True)
        assert row["error"] is None
        assert 0 <= row["auroc"] <= 1
        assert 0 < row["peak_memory_mb"] < 5_000
        assert row["data_memory_mb"] <= row["peak_memory_mb"]
        assert row["num_train"] + row["num_test"] == NUM or row["timed"]
        assert row["timed"] == name.endswith("v3")
        assert (row["infected_rank"] is not None) == row["timed"]
        assert 2 <= len(json.loads(row["curve"])) <= 200
        bins = json.loads(row["histogram"])
        assert sum(bins["benign"]) + sum(bins["attack"]) == row["num_test"]
        assert {one["attack"] for one in json.loads(row["per_attack"])} > {"flood", "port_scan"}


def test_a_job_that_fails_is_a_row_and_no_end(story: Story) -> None:
    rows = read_rows(row_file(story.folder / "out" / "rows", BROKEN, "clean", "thalweg", 0, True))
    assert rows is not None
    assert "carry no labels" in rows["error"][0]
    assert story.printed["failed"] == 1
    assert "bot-iot-v1 thalweg seed 0" in story.said
    assert "FAILED" in story.said


def test_the_json_has_every_figure(story: Story) -> None:
    lines = {line["dataset"]: line for line in story.printed["lines"]}
    assert set(lines) == {*GOOD, BROKEN}
    assert set(lines[GOOD[0]]["metrics"]) <= set(ROW_COLUMNS)
    auroc = lines[GOOD[0]]["metrics"]["auroc"]
    assert auroc["sd"] is None
    assert auroc["seeds"] == 1
    assert lines[BROKEN]["metrics"] == {}
    assert [one["name"] for one in story.printed["not_given"]] == ["ctu13-20110816"]


def test_stale_and_failed_rows_are_done_again_and_a_person_sees_tables(story: Story) -> None:
    path = story.folder / "sets" / "NF-CSE-CIC-IDS2018.csv"
    path.write_bytes(path.read_bytes() + path.read_bytes().splitlines(keepends=True)[-1])
    done = succeed(*WORDS, TINY, folder=story.folder)
    changed = {name for name, written in times(story.folder).items() if story.after[name] != written}
    assert {name.split("~")[0] for name in changed} == {"cicids2018-v1", BROKEN}
    for said in ("Beside the published table", "87 / 15", "88 / 29", "chosen on test labels", "AUROC", *GOOD):
        assert said in done.out
    assert "not found in --data: CTU-13" in done.err
    assert "Stratosphere Laboratory" in done.err
    assert "2 of 4 jobs had been done before" in done.err


def test_the_report_fetches_nothing_and_holds_the_pictures(story: Story) -> None:
    page = (story.folder / "out" / "report.html").read_text(encoding="utf-8")
    markup = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"\bsrc=|\bhref=|@import|url\(|https?:", markup)
    assert "default-src 'none'" in page
    found = re.search(r"const specs=(\{.*?\});\nconst dark", page, re.DOTALL)
    assert found is not None
    specs = json.loads(found[1])
    assert {name.split("-")[0] for name in specs} == {"roc", "pr", "attacks", "calibration", "logits", "costs"}
    assert all(f'id="{name}"' in markup for name in specs)
    for said in (*GOOD, "Data sets that were not found", "Failed jobs", "Host by host", "Youden"):
        assert said in markup


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data", "nowhere"], "--data nowhere: there is no such folder"),
        (["--data", "empty"], "no data set is recognised"),
        (["--methods", "magic"], "--methods magic: no such method. Known: thalweg, thalweg/no-addresses"),
        (["--scenarios", "cleen"], "--scenarios cleen: no such scenario"),
        (["--scenarios", "from:ctu13-20110816"], "ctu13-20110816 is not in --data; there are"),
        (["--datasets", "mnist"], "--datasets mnist: no data set has that name"),
        (["--datasets", "ctu13-20110816"], "none of the chosen data sets is in --data"),
        (["--effort", "0"], "--effort is a factor above 0"),
    ],
)
def test_an_invalid_option_is_one_message(tmp_path: Path, words: list[str], said: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "NF-UNSW-NB15.csv").write_text("no,flows\n")
    given = words if "--data" in words else ["--data", "sets", *words]
    done = thalweg("benchmark", "detection", *given, folder=tmp_path)
    assert done.code == 2
    assert said in done.err
    assert done.out == ""


def test_ctrl_c_says_how_to_go_on(story: Story, tmp_path: Path) -> None:
    (tmp_path / "sets").symlink_to(story.folder / "sets")
    running = Running(*WORDS, TINY, "--workers", "1", folder=tmp_path)
    running.wait_until(lambda: list((tmp_path / "out" / "rows").glob(".*.log")))
    running.kill(signal.SIGINT)
    done = running.finish()
    assert done.code == 130
    assert "of 4 jobs done and kept in out/rows: the same command continues from there" in done.err
    assert not list((tmp_path / "out" / "rows").glob(".*"))


def test_two_runs_do_not_share_a_folder(story: Story, tmp_path: Path) -> None:
    (tmp_path / "sets").symlink_to(story.folder / "sets")
    running = Running(*WORDS, TINY, "--workers", "1", folder=tmp_path)
    running.wait_until(lambda: list((tmp_path / "out" / "rows").glob(".*.log")))
    second = thalweg(*WORDS, TINY, folder=tmp_path)
    running.kill(signal.SIGKILL)
    running.finish()
    assert second.code == 2
    assert "another run writes into out" in second.err
