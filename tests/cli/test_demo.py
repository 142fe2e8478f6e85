"""`thalweg demo`: it finds what it planted, and leaves everything in its folder."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from tests.cli.process import python


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
