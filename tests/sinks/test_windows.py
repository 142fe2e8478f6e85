"""Sinks: every flow once over kills and full disks, and addresses that mean what they say."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.sinks.numbered import NOON_US, Killed, rows_in, window
from thalweg.errors import ConfigError, SinkError
from thalweg.sinks.windows import SINKS, HourlyParquet, JsonLines, Sink, StandardOutput, open_sink, open_sinks
from thalweg.testing import check_sink


def rows_below(folder: Path) -> list[int]:
    found: list[int] = pl.concat([pl.read_parquet(path) for path in sorted(folder.glob("*/*.parquet"))])[
        "row"
    ].to_list()
    return found


# All of them ---------------------------------------------------------------------------------------------------------


def test_every_sink_has_a_case() -> None:
    assert set(SINKS) == {"parquet", "jsonl", "-"}


def test_parquet_by_hour_is_what_a_sink_is(tmp_path: Path) -> None:
    check_sink(lambda: HourlyParquet(tmp_path), lambda: rows_below(tmp_path))


def test_json_lines_are_what_a_sink_is(tmp_path: Path) -> None:
    check_sink(lambda: JsonLines(tmp_path / "a.jsonl"), lambda: rows_in(tmp_path / "a.jsonl"))


def test_standard_output_gives_windows_as_lines(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    sink = StandardOutput()
    assert isinstance(sink, Sink)
    assert sink.open(None) == sink.write(window(0)) == {}
    sink.write(window(1, range(0)))
    sink.close()
    sink.open({})
    sink.write(window(2))
    assert [json.loads(line)["row"] for line in capsysbinary.readouterr().out.splitlines()] == [
        *range(10),
        *range(20, 30),
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_where_one_may_not_write_is_told(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    for sink in (HourlyParquet(tmp_path / "locked"), JsonLines(tmp_path / "locked" / "a.jsonl")):
        with pytest.raises(SinkError, match="cannot write"):
            sink.open(None)


# Parquet -------------------------------------------------------------------------------------------------------------


def test_windows_lie_in_folders_of_their_hour(tmp_path: Path) -> None:
    sink = HourlyParquet(tmp_path / "new" / "scores")
    sink.open(None)
    sink.write(window(7, time_us=NOON_US - 1))
    sink.write(window(123_456_789_012, time_us=NOON_US))
    found = sorted(str(path.relative_to(sink.folder)) for path in sink.folder.rglob("*") if path.is_file())
    assert found == [
        "2026-11-25T13/window-000000000007.parquet",
        "2026-11-25T14/window-123456789012.parquet",
    ]
    assert pl.read_parquet(sink.folder / found[0]).equals(window(7).frame)


def test_a_window_that_was_half_written_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = HourlyParquet(tmp_path)
    sink.open(None)
    sink.write(window(0))
    real = pl.DataFrame.write_parquet

    def cut(frame: pl.DataFrame, path: Path, **options: Any) -> None:
        real(frame, path, **options)
        os.truncate(path, 50)
        raise Killed

    monkeypatch.setattr(pl.DataFrame, "write_parquet", cut)
    with pytest.raises(Killed):
        sink.write(window(1))
    monkeypatch.undo()
    assert rows_below(tmp_path) == list(range(10))
    assert len(list(tmp_path.glob("*/.*"))) == 1
    again = HourlyParquet(tmp_path)
    again.open({})
    again.write(window(1))
    assert rows_below(tmp_path) == list(range(20))
    assert not list(tmp_path.glob("*/.*"))


def test_what_dead_processes_had_begun_is_removed_and_nothing_else(tmp_path: Path) -> None:
    hour = tmp_path / "2026-11-25T14"
    hour.mkdir()
    with subprocess.Popen(["true"]) as dead:
        dead.wait()
    parent = os.getppid()
    names = [
        f".window-000000000001.parquet.{dead.pid}.partial",
        f".window-000000000002.parquet.{parent}.partial",
        ".window-000000000003.parquet.x.partial",
        f".notes.{dead.pid}.partial",
        "window-000000000004.parquet",
    ]
    for name in names:
        (hour / name).touch()
    HourlyParquet(tmp_path).open(None)
    assert sorted(path.name for path in hour.iterdir()) == sorted(names[1:])
    assert [path.name for path in tmp_path.iterdir()] == [hour.name]


def test_a_folder_of_an_hour_that_was_removed_is_made_again(tmp_path: Path) -> None:
    sink = HourlyParquet(tmp_path / "scores")
    sink.open(None)
    sink.write(window(0))
    shutil.rmtree(tmp_path / "scores")
    sink.write(window(1))
    assert rows_below(tmp_path / "scores") == list(range(10, 20))


def test_a_disk_that_is_full_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = HourlyParquet(tmp_path)
    sink.open(None)

    def full(frame: pl.DataFrame, path: Path, **options: Any) -> None:
        del frame, options
        path.write_bytes(b"PAR1")
        raise pl.exceptions.ComputeError("parquet: underlying IO error: No space left on device (os error 28)")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    with pytest.raises(SinkError, match=r"No space left.*wait in the spool"):
        sink.write(window(0))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    monkeypatch.undo()
    sink.write(window(0))
    assert rows_below(tmp_path) == list(range(10))


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match="cannot write into"):
        HourlyParquet(tmp_path / "file" / "scores").open(None)


# Standard output -----------------------------------------------------------------------------------------------------


def test_a_reader_that_goes_away_is_told_as_a_broken_pipe() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with pytest.MonkeyPatch.context() as patch:
        stream = io.TextIOWrapper(io.BufferedWriter(io.FileIO(write_end, "w"), 16))
        patch.setattr(sys, "stdout", stream)
        with pytest.raises(BrokenPipeError):
            StandardOutput().write(window(0))
        stream.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_standard_output_that_is_full_is_told() -> None:
    with pytest.MonkeyPatch.context() as patch:
        stream = io.TextIOWrapper(io.BufferedWriter(io.FileIO("/dev/full", "w"), 16))
        patch.setattr(sys, "stdout", stream)
        with pytest.raises(SinkError, match="No space left"):
            StandardOutput().write(window(0))
        stream.close()


# Addresses -----------------------------------------------------------------------------------------------------------


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
    with pytest.raises(ConfigError, match="would come twice"):
        open_sinks([first, "other.jsonl", second])
