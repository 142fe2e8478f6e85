"""`thalweg benchmark ingest`: both sides read the same rows of every kind of file; nothing is timed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.cli.process import succeed, thalweg
from thalweg.benchmark.speed.files import KINDS, choose_kinds, run_ingest
from thalweg.errors import ConfigError
from thalweg.ingest import read
from thalweg.synthetic import SimulationConfig, as_dialect, simulate

NUM = 1_200


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("files")
    figures = run_ingest(KINDS, NUM, 1, 0, folder)
    assert not list(folder.iterdir())
    return figures


def test_every_kind_is_read_by_both(found: dict[str, Any]) -> None:
    assert [row["kind"] for row in found["files"]] == list(KINDS)
    for row in found["files"]:
        for side in ("thalweg", "polars"):
            assert row[side]["rows_per_s"] == pytest.approx(NUM / row[side]["seconds"])
            assert row[side]["mb_per_s"] == pytest.approx(row["file_mb"] / row[side]["seconds"])
        assert row["ratio"] == pytest.approx(row["polars"]["seconds"] / row["thalweg"]["seconds"])


@pytest.mark.parametrize("name", list(KINDS))
def test_a_file_holds_the_flows_it_was_made_of(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    flows = simulate(SimulationConfig(flows=NUM, seed=1))
    path = tmp_path / f"flows{kind.suffix}"
    kind.write(as_dialect(flows, kind.dialect), path)
    read_back = read(path)
    # Of bytes, Zeek's reader takes the payload.
    same = ["src_addr", "dst_addr"] + (["fwd_bytes"] if kind.dialect != "zeek" else [])
    assert read_back.frame.select(same).equals(flows.frame.select(same))
    assert kind.read(path).height == NUM


def test_a_row_that_is_lost_is_noticed(tmp_path: Path) -> None:
    kind = KINDS["csv"]

    def short(frame: pl.DataFrame, path: Path) -> None:
        kind.write(frame.head(NUM - 1), path)

    lossy = type(kind)(kind.dialect, kind.suffix, short, kind.read)
    with pytest.raises(AssertionError, match="read 1199 rows of 1200"):
        run_ingest({"csv": lossy}, NUM, 1, 0, tmp_path)
    assert not list(tmp_path.iterdir())


def test_kinds_are_chosen_by_how_their_names_begin() -> None:
    assert list(choose_kinds(("zeek", "csv.gz"))) == ["csv.gz", "zeek log"]
    assert list(choose_kinds(None)) == list(KINDS)
    with pytest.raises(ConfigError, match=r"--formats pcap: no such format; choose from csv; csv, nf-v1"):
        choose_kinds(("pcap",))


def test_the_command_prints_a_table_and_keeps_the_figures(tmp_path: Path) -> None:
    words = "benchmark ingest --parts files --rows 1500 --rounds 1 --formats parquet,arrow --out made"
    done = succeed(*words.split(), folder=tmp_path)
    assert "1,500 flows from a file" in done.out
    assert "parquet" in done.out
    assert "csv" not in done.out
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["ingest.json"]
    assert thalweg("benchmark", "ingest", "--rows", "10", folder=tmp_path).code == 2
