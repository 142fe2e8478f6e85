"""A table under its name: whole, or not at all."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from thalweg.errors import ConfigError, SinkError
from thalweg.runtime.whole_file import check_folder
from thalweg.sinks.table_file import STDOUT, TableFile, check_output, write_table

ENDINGS = ("csv", "jsonl", "parquet")
FRAME = pl.DataFrame({"a": [1, 2], "b": ["x", None], "c": [0.5, 1e-9]})


def read(path: Path) -> pl.DataFrame:
    match path.suffix:
        case ".csv":
            return pl.read_csv(path)
        case ".jsonl":
            return pl.read_ndjson(path)
        case _:
            return pl.read_parquet(path)


@pytest.mark.parametrize(
    "text", ["=1+1", "+1+1", "-1+cmd|'/C calc'!A0", "@SUM(1)", "\t=1", " =1", "\r@x", "\uff1d1", "--x", "-x"]
)
def test_text_that_a_spreadsheet_computes_is_guarded_in_csv_alone(tmp_path: Path, text: str) -> None:
    frame = pl.DataFrame({text: [text, "a", None], "kind": pl.Series([text, "b", "b"], dtype=pl.Categorical)})
    for ending in ENDINGS:
        with TableFile(tmp_path / f"t.{ending}") as table:
            table.write(frame)
        found = read(tmp_path / f"t.{ending}")
        guarded = "'" if ending == "csv" else ""
        assert found.columns == [f"{guarded}{text}", "kind"]
        assert found["kind"].to_list() == [f"{guarded}{text}", "b", "b"]
        assert found.to_series(0).to_list() == [f"{guarded}{text}", "a", None]
        assert table.tally.as_dict() == ({"guarded_cells": 2} if guarded else {})


def test_names_of_columns_are_no_patterns(tmp_path: Path) -> None:
    names = ["*", "^.*$", "=x", "'=x", "", "plain"]
    frame = pl.DataFrame({name: [f"={place}"] for place, name in enumerate(names)})
    for ending in ENDINGS:
        with TableFile(tmp_path / f"t.{ending}") as table:
            table.write(frame)
    assert (tmp_path / "t.csv").read_text().splitlines() == [
        "*,^.*$,''=x,'=x,\"\",plain",
        ",".join(f"'={i}" for i in range(6)),
    ]
    assert read(tmp_path / "t.parquet").equals(frame)


def test_numbers_dashes_and_arrows_are_no_formulas(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"a": ["-", "+", "-1.5e3", "+7", "->", "  ->", "<->", "10.0.0.1", "::1", "a=b", ""], "n": range(-5, 6)}
    )
    with TableFile(tmp_path / "t.csv") as table:
        table.write(frame)
    assert (tmp_path / "t.csv").read_bytes() == frame.write_csv().encode()
    assert not table.tally


def dead_pid() -> int:
    """Return the id of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        return process.pid


@pytest.mark.parametrize("ending", ENDINGS)
def test_frames_come_one_after_the_other(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"t.{ending}"
    heights: list[int] = []
    write_table(path, [FRAME, FRAME.head(1), FRAME.clear()], lambda frame: heights.append(frame.height))
    assert read(path).equals(pl.concat([FRAME, FRAME.head(1)]))
    assert heights == [2, 1, 0]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_later_frame_is_fitted_to_the_first(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"t.{ending}"
    reordered = FRAME.select("c", "b", "a").with_columns(pl.col("a").cast(pl.Int32))
    write_table(path, [FRAME, FRAME.drop("b"), reordered])
    found = read(path)
    assert found.columns == ["a", "b", "c"]
    assert found["a"].to_list() == [1, 2] * 3
    assert found["b"].to_list() == ["x", None, None, None, "x", None]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    ("second", "said"),
    [
        (FRAME.with_columns(d=1, e=2), r"a later file has columns that the first lacks \(d, e\): score the files"),
        (FRAME.with_columns(a=pl.lit("ten")), r"column a is Int64 in the first file and String in a later .*apart"),
        (FRAME.with_columns(a=pl.lit(12.7)), r"column a is Int64 in the first file and Float64 in a later .*apart"),
    ],
)
def test_a_frame_that_does_not_fit_ends_it_and_leaves_nothing(
    tmp_path: Path, ending: str, second: pl.DataFrame, said: str
) -> None:
    with pytest.raises(SinkError, match=said):
        write_table(tmp_path / f"t.{ending}", [FRAME, second])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("trouble", [ValueError, KeyboardInterrupt])
def test_trouble_while_writing_keeps_the_older_table(tmp_path: Path, ending: str, trouble: type[BaseException]) -> None:
    path = tmp_path / f"t.{ending}"
    write_table(path, [FRAME])

    def frames() -> Iterator[pl.DataFrame]:
        yield FRAME.head(1)
        assert len(list(tmp_path.glob(".*.partial"))) == 1
        raise trouble

    with pytest.raises(trouble):
        write_table(path, frames())
    assert read(path).equals(FRAME)
    assert list(tmp_path.iterdir()) == [path]


def test_the_table_appears_at_the_end_only(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    with TableFile(path) as table:
        table.write(FRAME)
        assert not path.exists()
        assert [p.name for p in tmp_path.iterdir()] == [f".t.csv.{os.getpid()}.partial"]
    assert path.exists()


def test_what_dead_processes_left_is_removed_and_what_live_ones_write_is_not(tmp_path: Path) -> None:
    # A name with a bracket is no pattern.
    path, dead, live = tmp_path / "t[1].csv", dead_pid(), os.getppid()
    left = tmp_path / f".t[1].csv.{dead}.partial"
    others = {
        tmp_path / f".t[1].csv.{live}.partial",
        tmp_path / f".u.csv.{dead}.partial",
        tmp_path / ".t[1].csv.old.partial",
        tmp_path / f"t[1].csv.{dead}.partial",
    }
    for name in (left, *others):
        name.touch()
    write_table(path, [FRAME])
    assert set(tmp_path.iterdir()) == {path, *others}


def test_standard_output_gets_csv_with_one_header(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=written))
    write_table(STDOUT, [FRAME, FRAME])
    assert written.getvalue().splitlines() == [b"a,b,c", b"1,x,0.5", b"2,,1e-9", b"1,x,0.5", b"2,,1e-9"]


@pytest.mark.parametrize("name", ["t.xlsx", "t", "t.csv.gz", "t.CSV"])
def test_the_ending_chooses_the_format(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"use one of \.parquet, \.csv, \.jsonl, or -"):
        check_output(tmp_path / name)
    with pytest.raises(ConfigError):
        TableFile(tmp_path / name)


def test_a_place_that_cannot_hold_a_file_is_said_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match=r"is a folder: name a file in it"):
        check_output(tmp_path / "folder.csv")
    for missing in (tmp_path / "none" / "t.csv", tmp_path / "file" / "t.csv"):
        with pytest.raises(SinkError, match="there is no folder"):
            check_folder(missing)
    check_output(STDOUT)
    check_output(tmp_path / "t.csv")
