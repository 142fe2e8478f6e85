"""Addresses of sinks: each means what it says, and no two the same place."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from thalweg.errors import ConfigError, SinkError
from thalweg.sinks import SINKS, open_sink, open_sinks
from thalweg.sinks.json_lines import JsonLines
from thalweg.sinks.parquet import HourlyParquet
from thalweg.sinks.stdout import StandardOutput


def test_every_sink_has_a_case() -> None:
    assert set(SINKS) == {"parquet", "jsonl", "-"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_where_one_may_not_write_is_told(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    for sink in (HourlyParquet(tmp_path / "locked"), JsonLines(tmp_path / "locked" / "a.jsonl")):
        with pytest.raises(SinkError, match="cannot write"):
            sink.open(None)


def test_checking_that_sinks_can_be_opened_needs_no_polars(tmp_path: Path) -> None:
    code = (
        "import sys; from thalweg.sinks import open_sinks\n"
        f"for sink in open_sinks(['{tmp_path}/scores/', '{tmp_path}/a.jsonl', '-']).values(): sink.open(None)\n"
        "print(sorted({'polars', 'numpy', 'pyarrow', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("address", "made"),
    [
        ("-", "-"), ("scores", "parquet scores"), ("scores/", "parquet scores"), ("day.jsonl/", "parquet day.jsonl"),
        ("/srv/scores.d/", "parquet /srv/scores.d"), ("a/b.jsonl", "jsonl a/b.jsonl"), ("b.ndjson", "jsonl b.ndjson"),
        ("b.json", "jsonl b.json"), ("parquet:x.d", "parquet x.d"), ("parquet:///srv/x", "parquet /srv/x"),
        ("jsonl:/srv/x", "jsonl /srv/x"), ("jsonl://x", "jsonl x"), ("jsonl:parquet:x", "jsonl parquet:x"),
        ("./a:b/c.jsonl", "jsonl a:b/c.jsonl"),
    ],
)  # fmt: skip
def test_addresses_mean_what_they_say(address: str, made: str) -> None:
    sink = open_sink(address)
    if isinstance(sink, HourlyParquet):
        assert made == f"parquet {sink.folder}"
    elif isinstance(sink, JsonLines):
        assert made == f"jsonl {sink.path}"
    else:
        assert made == "-"


@pytest.mark.parametrize(
    "address", ["", "scores.csv", "a.parquet", "parquet:", "jsonl:", "jsonl://", "-:x", "kafka:topic", "https://a/b"]
)
def test_what_means_nothing_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=f"--to {address}"):
        open_sink(address)


def test_a_folder_that_is_there_is_one_whatever_its_name(tmp_path: Path) -> None:
    for name in ("scores.csv", "a.jsonl", "kafka:topic"):
        (tmp_path / name).mkdir()
        assert isinstance(open_sink(str(tmp_path / name)), HourlyParquet)


def test_several_sinks_are_known_by_their_addresses(tmp_path: Path) -> None:
    addresses = [f"{tmp_path}/scores/", f"{tmp_path}/a.jsonl", f"jsonl:{tmp_path}/b", "-"]
    found = open_sinks(addresses)
    assert list(found) == addresses
    assert [type(sink) for sink in found.values()] == [HourlyParquet, JsonLines, JsonLines, StandardOutput]
    assert open_sinks([]) == {}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("-", "-"), ("scores", "scores"), ("scores", "scores/"), ("scores", "parquet:./x/../scores"),
        ("a.jsonl", "jsonl:a.jsonl"), ("a.jsonl", "link/a.jsonl"),
    ],
)  # fmt: skip
def test_two_sinks_of_one_place_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, second: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="would be written there twice"):
        open_sinks([first, "other.jsonl", second])
