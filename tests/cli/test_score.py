"""`thalweg score`: what goes in comes out again, in order, with three more columns."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tests.cli.conftest import NUM_FLOWS
from tests.cli.process import ONE_THREAD, succeed, thalweg
from thalweg.tables import SCORE_COLUMNS

DATA = Path(__file__).parents[2].parent / "shared" / "data"


def scored(folder: Path, *inputs: str, output: str = "scores.csv", stdin: bytes = b"") -> pl.DataFrame:
    succeed("score", "benign.thalweg", *inputs, "-o", output, folder=folder, stdin=stdin)
    return pl.read_csv(folder / output)


@pytest.fixture(scope="module")
def expected(made: Path) -> pl.DataFrame:
    """What scoring `traffic.csv` gives."""
    return scored(made, "traffic.csv", output="expected.csv")


def test_a_csv_keeps_every_column_and_row_and_gets_three_more(expected: pl.DataFrame, traffic: pl.DataFrame) -> None:
    assert expected.columns == [*traffic.columns, *SCORE_COLUMNS]
    assert_frame_equal(expected.select(traffic.columns), traffic)
    assert expected["score"].is_between(0, 1).all()
    assert expected["score"].n_unique() > NUM_FLOWS / 2
    assert expected.sort("logit")["score"].is_sorted(descending=True)
    threshold = expected.filter("anomalous")["logit"].max()
    assert expected["anomalous"].to_list() == (expected["logit"] <= threshold).to_list()


def test_parquet_and_json_lines_hold_the_same_as_csv(folder: Path, expected: pl.DataFrame) -> None:
    found = []
    for name in ("scores.parquet", "scores.jsonl"):
        succeed("score", "benign.thalweg", "traffic.csv", "-o", name, folder=folder)
        found.append(pl.read_parquet(folder / name) if name.endswith("t") else pl.read_ndjson(folder / name))
    parquet, lines = found
    assert parquet.schema["score"] == parquet.schema["logit"] == pl.Float32
    assert parquet.schema["anomalous"] == pl.Boolean
    wanted = expected.drop("start")
    for table in (parquet, lines):
        assert table.columns == expected.columns
        assert_frame_equal(table.select(wanted.columns).cast(wanted.schema), wanted, rel_tol=1e-6)


def test_standard_input_to_standard_output(folder: Path, expected: pl.DataFrame) -> None:
    traffic = (folder / "traffic.csv").read_bytes()
    done = succeed("score", "benign.thalweg", "-", "-o", "-", folder=folder, stdin=traffic)
    assert_frame_equal(pl.read_csv(done.out.encode()), expected)
    said, slowest = done.err.splitlines()[-2:]
    assert said.startswith("scored 1,200 flows in ")
    assert slowest.startswith("the slowest stage is ")
    assert not (folder / "-").exists()


def test_what_each_stage_did_is_in_the_json(folder: Path) -> None:
    printed = succeed("score", "benign.thalweg", "traffic.csv", "-o", "scores.csv", "--json", folder=folder).json()
    assert list(printed["stages"]) == ["source", "window", "graph", "inference", "write"]
    assert {stage["flows"] for stage in printed["stages"].values()} == {NUM_FLOWS}
    assert printed["slowest_stage"] in printed["stages"]
    assert printed["dwell_s"]["median"] > 0


def test_gzip_files_a_glob_and_a_folder_are_read_in_order(
    folder: Path, traffic: pl.DataFrame, expected: pl.DataFrame
) -> None:
    (folder / "days").mkdir()
    parts = [traffic.slice(at, 500) for at in (0, 500, 1000)]
    for number, part in enumerate(parts):
        data = gzip.compress(part.write_csv().encode())
        (folder / "days" / f"{number}.csv.gz").write_bytes(data)
    names = [f"days/{number}.csv.gz" for number in range(3)]
    for inputs in (names, ["days/*.csv.gz"], ["days"]):
        assert_frame_equal(scored(folder, *inputs), expected)
    backwards = scored(folder, *reversed(names))
    assert_frame_equal(backwards.select(traffic.columns), pl.concat(reversed(parts)))


def test_parallel_flows_keep_different_scores(folder: Path, traffic: pl.DataFrame) -> None:
    # Three flows between the same two hosts, with other sizes; the first stands in the table twice more.
    sizes = pl.Series("fwd_bytes", [100, 5_000, 90_000_000, 100])
    twins = pl.concat([traffic.head(1)] * 4).with_columns(sizes)
    pl.concat([twins, traffic.tail(200)]).write_csv(folder / "twins.csv")
    logit = scored(folder, "twins.csv")["logit"].to_list()
    assert len(set(logit[:3])) == 3
    # Alike flows are alike but for the last bit: a vector's lanes and its rest may round differently.
    assert logit[3] == pytest.approx(logit[0], rel=1e-5)


def test_columns_with_the_result_s_names_are_renamed_and_counted(folder: Path, traffic: pl.DataFrame) -> None:
    own = traffic.head(400).with_columns(score=pl.lit("mine"), anomalous=pl.lit(7))
    own.write_csv(folder / "own.csv")
    done = succeed("score", "benign.thalweg", "own.csv", "-o", "scores.csv", "--json", folder=folder)
    found = pl.read_csv(folder / "scores.csv")
    assert found.columns == [*traffic.columns, "input_score", "input_anomalous", *SCORE_COLUMNS]
    assert found["input_score"].to_list() == ["mine"] * 400
    assert found["score"].dtype == pl.Float64
    assert done.json()["counts"] == {"renamed_columns": 2}
    assert done.err.count("\n") == 1
    assert done.err.startswith("note: 2 input columns renamed")


def test_malformed_rows_are_left_out_counted_and_said(folder: Path) -> None:
    lines = (folder / "traffic.csv").read_text().splitlines()
    for at in (7, 9):
        lines[at] = lines[at].replace(lines[at].split(",")[1], "never", 1)
    # A bracket in a name is no markup, and a long note stays on one line.
    name = f"a [b] [bold] {'long ' * 20}name.csv"
    (folder / name).write_text("\n".join(lines) + "\n")
    done = succeed("score", "benign.thalweg", name, "-o", "scores.csv", "--json", folder=folder)
    assert done.json()["counts"]["malformed_rows"] == 2
    assert done.json()["flows"] == NUM_FLOWS - 2
    assert f"(first: {name}, line 8)\n" in done.err
    assert pl.read_csv(folder / "scores.csv").height == NUM_FLOWS - 2


def test_a_reader_that_has_seen_enough_is_no_error(folder: Path, traffic: pl.DataFrame) -> None:
    (folder / "much").mkdir()
    for number in range(5):
        traffic.write_csv(folder / "much" / f"{number}.csv")
    process = subprocess.Popen(
        [sys.executable, "-m", "thalweg", "score", "benign.thalweg", "much", "-o", "-"],
        cwd=folder,
        env={**os.environ, **ONE_THREAD},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline().startswith(b"start,duration_ms,")
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 1


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


@pytest.mark.parametrize(
    "name",
    ["nf-toniot-v2-sample.csv.gz", "nf-botiot-v2-sample.csv.gz", "ctu13-20110816.binetflow.parquet", "iot23"],
)
def test_real_flows_come_out_as_they_went_in(folder: Path, name: str) -> None:
    if not (DATA / name).exists():
        pytest.skip(f"{name} is not here")
    if name.endswith(".parquet"):
        pl.scan_parquet(DATA / name).head(1000).sink_parquet(folder / "real.parquet")
        own = pl.read_parquet(folder / "real.parquet")
    elif name == "iot23":
        with (DATA / name / "34-1.conn.log.labeled").open() as log:
            (folder / "real.log").write_text("".join(next(log) for _ in range(1000)))
        own = None
    else:
        with gzip.open(DATA / name, "rt") as file:
            (folder / "real.csv").write_text("".join(next(file) for _ in range(1001)))
        own = pl.read_csv(folder / "real.csv")
    done = succeed("score", "benign.thalweg", "real.*", "-o", "scores.parquet", "--json", folder=folder).json()
    found = pl.read_parquet(folder / "scores.parquet")
    assert found.height == done["flows"] > 900
    assert found["logit"].n_unique() > 10
    if own is not None:
        assert found.columns == [*own.columns, *SCORE_COLUMNS]
        assert_frame_equal(found.select(own.columns), own, check_dtypes=False)
