"""Addresses, labels, names of columns and names of files that are written to harm whoever looks at them."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Final

import polars as pl
import pytest

from tests.cli.process import Finished, succeed, thalweg

EVIL: Final = "\x1b]0;x\x07\x9b2J\u202e\u2066\u2028\x7f\u200b"
NAME: Final = f"evil{EVIL}\nnote: forged.csv"


@pytest.fixture
def hostile(folder: Path, traffic: pl.DataFrame) -> Path:
    label = pl.when(pl.col("attack") != "Benign").then(pl.lit(f"<!--<script>{EVIL}")).otherwise("attack")
    host = pl.when(pl.int_range(pl.len()) % 7 == 0).then(pl.lit(f"=cmd|' '!A1 {EVIL}")).otherwise("src_addr")
    found = traffic.with_columns(attack=label, src_addr=host).rename({"sampling": f"own {EVIL}"}, strict=False)
    found.write_csv(folder / NAME)
    return folder


def shown(finished: Finished) -> str:
    """Check what a command printed, and return it."""
    text = finished.out + finished.err
    assert text.replace("\n", "").isprintable(), repr(text)
    assert "\nnote: forged" not in text
    return text


def test_no_command_prints_them_raw(hostile: Path) -> None:
    found = shown(succeed("evaluate", "benign.thalweg", NAME, "--hosts", "--html", "r.html", folder=hostile))
    assert "<!--<script>\\x1b]0;x\\x07\\x9b2J\\u202e" in found
    shown(succeed("score", "benign.thalweg", NAME, "-o", "s.jsonl", folder=hostile))
    shown(succeed("fit", NAME, "-o", f"m{EVIL}.thalweg", "--steps", "1", "--config", "tiny.toml", folder=hostile))
    shown(succeed("info", f"m{EVIL}.thalweg", folder=hostile))
    for wrong in (
        ("score", "benign.thalweg", f"absent{EVIL}.csv", "-o", "x.csv"),
        ("score", NAME, NAME, "-o", "x.csv"),
        ("score", "benign.thalweg", NAME, "-o", f"no{EVIL}/x.csv"),
        ("score", "benign.thalweg", NAME, "-o", f"x{EVIL}"),
        ("evaluate", "benign.thalweg", NAME, "--where", f"src_addr = {EVIL}"),
        ("evaluate", "benign.thalweg", NAME, "--where", f"\"{EVIL}\" = '{EVIL}'"),
        ("evaluate", "benign.thalweg", NAME, "--map", f"label={EVIL}"),
        ("fit", NAME, "-o", "x.thalweg", "--dialect", EVIL),
        ("info", NAME, NAME),
        (EVIL,),
        ("run", "benign.thalweg", "--from", f"log:{EVIL}", "--to", EVIL),
    ):
        finished = thalweg(*wrong, folder=hostile)
        assert finished.code == 2
        assert "\\x1b]0;x" in shown(finished)


def test_json_lines_escape_them_and_mean_the_same(hostile: Path) -> None:
    succeed("score", "benign.thalweg", NAME, "-o", "s.jsonl", folder=hostile)
    text = (hostile / "s.jsonl").read_text()
    assert text.replace("\n", "").isprintable()
    given = pl.read_csv(hostile / NAME)
    assert [json.loads(line)["src_addr"] for line in text.splitlines()] == given["src_addr"].to_list()


def test_csv_starts_no_formula_and_counts_that(hostile: Path) -> None:
    finished = succeed("score", "benign.thalweg", NAME, "-o", "s.csv", "--json", folder=hostile)
    given, found = pl.read_csv(hostile / NAME), pl.read_csv(hostile / "s.csv")
    guarded = given["src_addr"].str.starts_with("=")
    assert finished.json()["counts"]["guarded_cells"] == guarded.sum() > 0
    assert found["src_addr"].filter(guarded).to_list() == ["'" + one for one in given["src_addr"].filter(guarded)]
    assert found["src_addr"].filter(~guarded).equals(given["src_addr"].filter(~guarded))


def test_csv_on_a_terminal_is_escaped() -> None:
    ours, theirs = pty.openpty()
    frame = f"pl.DataFrame({{'a': [{EVIL!r}]}})"
    code = (
        "import os, sys\nimport polars as pl\nfrom thalweg.sinks.table_file import STDOUT, write_table\n"
        f"os.dup2({theirs}, 1)\nwrite_table(STDOUT, [{frame}])\n"
    )
    os.set_inheritable(theirs, True)
    subprocess.run([sys.executable, "-c", code], check=True, close_fds=False)
    os.close(theirs)
    text = os.read(ours, 10_000).decode()
    os.close(ours)
    assert "\\x1b]0;x\\x07\\x9b2J\\u202e" in text
    assert text.replace("\r\n", "").isprintable()
