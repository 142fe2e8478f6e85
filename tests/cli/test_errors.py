"""Every error is one message that names its subject, exit code 2, and no half result."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import save_file

from tests.cli.process import thalweg
from thalweg.detect.model_file import FORMAT_VERSION

SCORE = "score benign.thalweg {} -o scores.csv"
FIT = "fit {} -o m.thalweg --config tiny.toml"


def missing_column(folder: Path) -> None:
    text = (folder / "traffic.csv").read_text()
    (folder / "bad.csv").write_text(text.replace("fwd_bytes", "fwd_byts", 1))


def empty_file(folder: Path) -> None:
    (folder / "bad.csv").touch()


def only_a_header(folder: Path) -> None:
    (folder / "bad.csv").write_text((folder / "traffic.csv").read_text().splitlines(keepends=True)[0])


def folder_without_flows(folder: Path) -> None:
    (folder / "bad.csv").mkdir()
    (folder / "bad.csv" / "notes.txt").write_text("no flows here")


def truncated_gzip(folder: Path) -> None:
    (folder / "bad.csv").write_bytes(gzip.compress((folder / "traffic.csv").read_bytes())[:-500])


def another_schema(folder: Path) -> None:
    pl.DataFrame({"name": ["a"], "price": [1.5]}).write_parquet(folder / "bad.csv")


def damaged_parquet(folder: Path) -> None:
    pl.read_csv(folder / "traffic.csv").write_parquet(folder / "bad.csv")
    (folder / "bad.csv").write_bytes((folder / "bad.csv").read_bytes()[:-200])


def malformed_row(folder: Path) -> None:
    lines = (folder / "traffic.csv").read_text().splitlines()
    lines[41] = lines[41].replace(lines[41].split(",")[1], "-5", 1)
    (folder / "bad.csv").write_text("\n".join(lines))


def no_time(folder: Path) -> None:
    pl.read_csv(folder / "traffic.csv").drop("start").write_csv(folder / "bad.csv")


def no_labels(folder: Path) -> None:
    pl.read_csv(folder / "traffic.csv").drop("label").write_csv(folder / "bad.csv")


def too_few(folder: Path) -> None:
    pl.read_csv(folder / "traffic.csv").head(20).write_csv(folder / "bad.csv")


def later_file_has_more_columns(folder: Path) -> None:
    pl.read_csv(folder / "traffic.csv").with_columns(extra=1).write_csv(folder / "bad.csv")


def nothing_wrong(folder: Path) -> None:
    """Leave the folder as it is: only the command is wrong."""


@pytest.mark.parametrize(
    ("words", "make", "said"),
    [
        (SCORE, missing_column, "bad.csv: no column for 'fwd_bytes' (did you mean 'fwd_byts'?)"),
        (SCORE, empty_file, "bad.csv is empty"),
        (SCORE, only_a_header, "bad.csv holds a header but no flows"),
        (SCORE, folder_without_flows, "bad.csv: the folder holds no flow files"),
        (SCORE, truncated_gzip, "bad.csv: the gzip data ends early, after "),
        (SCORE, another_schema, "bad.csv: no column for "),
        (SCORE, damaged_parquet, "bad.csv: the Parquet file is damaged"),
        (SCORE, nothing_wrong, "bad.csv: no such file"),
        (SCORE.format("nothing-*.csv"), nothing_wrong, "nothing-*.csv: no file matches"),
        (SCORE + " --strict", malformed_row, "bad.csv, line 42: duration_ms is "),
        (SCORE.format("traffic.csv bad.csv"), later_file_has_more_columns, "a later file has columns"),
        (SCORE.format("traffic.csv --dialect nfdump"), nothing_wrong, "no dialect named 'nfdump': the known ones are"),
        (SCORE.format("traffic.csv --map src_addr"), nothing_wrong, "--map 'src_addr': write it as"),
        (SCORE.format("traffic.csv --map sender=x"), nothing_wrong, "--map sender=x: no declared column has that name"),
        (SCORE.format("traffic.csv --map src_addr=x"), nothing_wrong, "--map src_addr=x names a column that is not"),
        ("score benign.thalweg traffic.csv -o scores.xlsx", nothing_wrong, "scores.xlsx: the ending chooses"),
        ("score benign.thalweg traffic.csv -o no/scores.csv", nothing_wrong, "there is no folder no; make it first"),
        ("score benign.thalweg traffic.csv -o - --json", nothing_wrong, "both write to standard output"),
        ("evaluate benign.thalweg bad.csv", no_labels, "these flows carry no labels to judge by"),
        ("evaluate benign.thalweg traffic.csv --html no/r.html", nothing_wrong, "there is no folder no; make it first"),
        (FIT, too_few, "20 flows are too few to learn from"),
        (FIT + " --budget 20/day", no_time, "the budget 20/day needs flows that carry time"),
        (FIT.format("traffic.csv --budget 3"), nothing_wrong, "'3' is no budget"),
        (FIT.format("traffic.csv --holdout 1"), nothing_wrong, "--holdout is a share of the rows"),
        (FIT.format("traffic.csv --where colour='red'"), nothing_wrong, "cannot evaluate --where \"colour='red'\""),
        (FIT.format("traffic.csv --where fwd_bytes"), nothing_wrong, "--where 'fwd_bytes' is not a condition"),
        (FIT.format("traffic.csv --where fwd_bytes<0"), nothing_wrong, "chooses none of the 1,200 flows read"),
        (FIT.format("traffic.csv --preset published"), nothing_wrong, "--preset published is fixed"),
        (FIT.format("traffic.csv --weights no.pt"), nothing_wrong, "--weights is for --preset published"),
        ("fit traffic.csv -o m.thalweg --preset published --weights no.pt", nothing_wrong, "weights no.pt: No such"),
        ("fit traffic.csv -o no/m.thalweg", nothing_wrong, "there is no folder no; make it first"),
        ("simulate s.csv --attacks flod", nothing_wrong, "no attack named 'flod'. Known: "),
        ("simulate no/s.csv --flows 2000", nothing_wrong, "there is no folder no; make it first"),
        ("demo --out traffic.csv", nothing_wrong, "cannot make the folder traffic.csv"),
    ],
)
def test_what_is_wrong_is_said_in_one_message(
    folder: Path, words: str, make: Callable[[Path], None], said: str
) -> None:
    make(folder)
    fails(folder, words.format("bad.csv"), said)


def fails(folder: Path, words: str, said: str) -> None:
    before = {path.name for path in folder.iterdir()}
    done = thalweg(*words.split(" "), folder=folder)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert said in done.err
    assert {path.name for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[training]\nspeed = 3\n", "[training] has no setting 'speed'. Known: "),
        (
            "[trainig]\nsteps = 3\n",
            "has no section [trainig]: did you mean [training]? Known: [map], [model], [training], [noise]",
        ),
        ("[model]\nwidth = 8.5\n", "[model] width is a whole number, not 8.5"),
        ("[model]\nwidth = 7\n", "width must be even"),
        ("width = = 8\n", "bad.toml is not TOML: "),
    ],
)
def test_an_invalid_setting_is_one_message(folder: Path, text: str, said: str) -> None:
    (folder / "bad.toml").write_text(text)
    fails(folder, "fit traffic.csv -o m.thalweg --config bad.toml --window 300 --steps 12", said)


def test_a_training_that_diverges_writes_no_model(folder: Path) -> None:
    (folder / "wild.toml").write_text((folder / "tiny.toml").read_text() + "learning_rate = 1e30\n")
    done = thalweg("fit", "traffic.csv", "-o", "m.thalweg", "--config", "wild.toml", "--steps", "4", folder=folder)
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[-1].startswith("error: learning diverged: ")
    assert not (folder / "m.thalweg").exists()


def no_model(path: Path) -> None:
    path.unlink()


def foreign_model(path: Path) -> None:
    path.write_text("once upon a time " * 100)


def another_program_s_model(path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, path)


def truncated_model(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def newer_model(path: Path) -> None:
    header = json.dumps({"format_version": FORMAT_VERSION + 1})
    save_file({"weight": torch.zeros(3)}, path, metadata={"thalweg": header})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (no_model, "no model file benign.thalweg: make one with `thalweg fit"),
        (foreign_model, "benign.thalweg is not a Thalweg model"),
        (another_program_s_model, "is a safetensors file, but not one of Thalweg's"),
        (truncated_model, "benign.thalweg is truncated"),
        (newer_model, f"benign.thalweg has format version {FORMAT_VERSION + 1}"),
    ],
)
def test_a_model_file_that_cannot_be_used_is_said(folder: Path, make: Callable[[Path], None], said: str) -> None:
    make(folder / "benign.thalweg")
    fails(folder, SCORE.format("traffic.csv"), said)
    fails(folder, "info benign.thalweg", said)
