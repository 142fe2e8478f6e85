"""Sinks: every flow once over kills, full disks and rotation, and addresses that mean what they say."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import polars as pl
import pytest

from thalweg import sinks as sinking
from thalweg.errors import ConfigError, SinkError
from thalweg.sinks import (
    SINKS,
    HourlyParquet,
    JsonLines,
    ScoredWindow,
    Sink,
    StandardOutput,
    open_sink,
    open_sinks,
)
from thalweg.testing import check_sink

NOON_US: Final = int(datetime(2026, 11, 25, 14, 0, tzinfo=UTC).timestamp()) * 1_000_000


def window(number: int, rows: range | None = None, *, time_us: int = NOON_US) -> ScoredWindow:
    """A window of ten flows, by their numbers."""
    rows = range(10 * number, 10 * number + 10) if rows is None else rows
    return ScoredWindow(
        number, time_us, pl.DataFrame({"row": pl.Series(rows, dtype=pl.UInt64), "score": [0.5] * len(rows)})
    )


def rows_in(path: Path) -> list[int]:
    content = path.read_bytes()
    assert content.endswith(b"\n") or not content
    return [json.loads(line)["row"] for line in content.splitlines()]


def rows_below(folder: Path) -> list[int]:
    found: list[int] = pl.concat([pl.read_parquet(path) for path in sorted(folder.glob("*/*.parquet"))])[
        "row"
    ].to_list()
    return found


class Killed(Exception):  # noqa: N818 - what happens to a process, and no error
    """Stands for a kill: nothing after it is done."""


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


# JSON lines ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scores.jsonl"


@pytest.fixture
def opened(path: Path) -> Iterator[Callable[[Any], tuple[JsonLines, Any]]]:
    """Open the sink, as one that was killed would be opened with what was noted last."""
    begun: list[JsonLines] = []

    def open_(state: Any = None) -> tuple[JsonLines, Any]:
        begun.append(JsonLines(path))
        return begun[-1], begun[-1].open(None if state is None else json.loads(json.dumps(state)))

    yield open_
    for sink in begun:
        sink.close()


Opened = Callable[..., tuple[JsonLines, Any]]


def killed_within(sink: JsonLines, number: int, num_bytes: int) -> None:
    """Write only so many bytes of a window."""
    real = os.write

    def cut(file: int, data: Any) -> int:
        real(file, bytes(data)[:num_bytes])
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", cut)
        with pytest.raises(Killed):
            sink.write(window(number))


@pytest.mark.parametrize("num_bytes", [0, 1, 23, 24, 25, 100, 10_000])
def test_a_window_that_was_half_written_is_cut_off(path: Path, opened: Opened, num_bytes: int) -> None:
    sink, state = opened()
    killed_within(sink, 0, num_bytes)
    sink, state = opened(state)
    assert rows_in(path) == []
    state = sink.write(window(0))
    killed_within(sink, 1, num_bytes)
    sink, state = opened(state)
    assert rows_in(path) == list(range(10))
    sink.write(window(1))
    assert rows_in(path) == list(range(20))


def test_lines_of_somebody_else_stay(path: Path, opened: Opened) -> None:
    path.write_text('{"row":100}\n{"row":101}')
    sink, state = opened()
    killed_within(sink, 0, 30)
    sink, state = opened(state)
    sink.write(window(0))
    assert rows_in(path) == [100, 101, *range(10)]


def test_a_write_that_fails_leaves_no_half_window(path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    sink, _ = opened()
    sink.write(window(0))
    real = os.write

    def full(file: int, data: Any) -> int:
        if os.fstat(file).st_size > 280:
            raise OSError(28, "No space left on device")
        return real(file, bytes(data)[:33])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(SinkError, match=r"No space left.*wait in the spool"):
        sink.write(window(1))
    assert rows_in(path) == list(range(10))
    monkeypatch.undo()
    sink.write(window(1))
    assert rows_in(path) == list(range(20))


@pytest.mark.parametrize("is_made_again", [False, True])
def test_a_file_that_is_renamed_is_begun_anew(path: Path, opened: Opened, is_made_again: bool) -> None:
    sink, _ = opened()
    sink.write(window(0))
    path.rename(path.with_suffix(".jsonl.1"))
    if is_made_again:
        path.touch()
    state = sink.write(window(1))
    sink, state = opened(state)
    sink.write(window(2))
    assert rows_in(path.with_suffix(".jsonl.1")) == list(range(10))
    assert rows_in(path) == list(range(10, 30))


@pytest.mark.parametrize("name", ["scores.jsonl.1", "scores-20261125.jsonl"])
def test_half_a_window_is_cut_off_where_the_file_was_renamed_meanwhile(path: Path, opened: Opened, name: str) -> None:
    sink, _ = opened()
    state = sink.write(window(0))
    killed_within(sink, 1, 100)
    path.rename(path.with_name(name))
    sink, state = opened(state)
    sink.write(window(1))
    assert rows_in(path.with_name(name)) == list(range(10))
    assert rows_in(path) == list(range(10, 20))


def test_a_file_that_was_removed_is_begun_anew(path: Path, opened: Opened) -> None:
    sink, _ = opened()
    sink.write(window(0))
    path.unlink()
    state = sink.write(window(1))
    assert rows_in(path) == list(range(10, 20))
    path.unlink()
    sink, _ = opened(state)
    sink.write(window(2))
    assert rows_in(path) == list(range(20, 30))


def test_a_file_that_was_cut_to_nothing_goes_on(path: Path, opened: Opened) -> None:
    sink, _ = opened()
    sink.write(window(0))
    shutil.copy(path, path.with_suffix(".copy"))
    os.truncate(path, 0)
    state = sink.write(window(1))
    assert rows_in(path) == list(range(10, 20))
    os.truncate(path, 0)
    sink, _ = opened(state)
    sink.write(window(2))
    assert rows_in(path) == list(range(20, 30))


@pytest.mark.parametrize("num_before", [1, 30])
def test_after_a_cut_and_a_kill_in_one_window_no_line_is_lost_or_broken(
    path: Path, opened: Opened, num_before: int
) -> None:
    sink, _ = opened()
    state = sink.write(window(0, range(num_before)))
    os.truncate(path, 0)
    killed_within(sink, 1, 200)
    sink, _ = opened(state)
    sink.write(window(1))
    found = rows_in(path)
    assert found[-10:] == list(range(10, 20))
    assert set(found) == set(range(10, 20))


def test_a_file_of_another_content_is_never_cut_at_the_known_place(path: Path, opened: Opened) -> None:
    sink, _ = opened()
    state = sink.write(window(0))
    content = "".join(f'{{"row":{n}}}\n' for n in range(500, 600))
    with path.open("r+") as file:
        file.write(content)
    opened(state)
    assert rows_in(path) == list(range(500, 600))


@pytest.mark.parametrize("state", [{}, {"bytes": 5}, {"bytes": 5, "inode": 1}, {"bytes": 5, "inode": 1, "check": "x"}])
def test_what_other_versions_noted_stops_nobody(path: Path, opened: Opened, state: dict[str, Any]) -> None:
    path.write_text('{"row":1}\n')
    opened(state)
    assert rows_in(path) == [1]


def test_numbers_that_are_not_finite_become_null(path: Path, opened: Opened) -> None:
    sink, _ = opened()
    frame = pl.DataFrame({"logit": [math.nan, math.inf, -math.inf, None, 1.5]})
    sink.write(ScoredWindow(0, NOON_US, frame))
    assert [json.loads(line)["logit"] for line in path.read_text().splitlines()] == [None, None, None, None, 1.5]
    assert "NaN" not in path.read_text()


def test_times_and_large_numbers_are_written_as_json_can_hold_them(path: Path, opened: Opened) -> None:
    sink, _ = opened()
    start = pl.Series([datetime(2026, 3, 1, 10, 0, 0, 250_000, UTC)], dtype=pl.Datetime("us", "UTC"))
    sink.write(
        ScoredWindow(0, NOON_US, pl.DataFrame({"start": start, "fwd_bytes": pl.Series([2**64 - 1], dtype=pl.UInt64)}))
    )
    (found,) = map(json.loads, path.read_text().splitlines())
    assert datetime.fromisoformat(found["start"]) == start[0]
    assert found["fwd_bytes"] == 2**64 - 1


def test_large_windows_are_written_in_parts_and_whole(path: Path, opened: Opened) -> None:
    sink, _ = opened()
    rows = range(2 * sinking._ROWS + 5)
    sink.write(window(0, rows))
    assert rows_in(path) == list(rows)


def test_what_lines_cannot_be_added_to_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path, tmp_path / "pipe", tmp_path / "none" / "a.jsonl"):
        with pytest.raises(SinkError, match=r"cannot write .*--to"):
            JsonLines(place).open(None)


def test_a_folder_that_goes_away_is_told(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    sink = JsonLines(tmp_path / "there" / "a.jsonl")
    sink.open(None)
    shutil.rmtree(tmp_path / "there")
    for _ in range(2):
        with pytest.raises(SinkError, match="wait in the spool"):
            sink.write(window(0))
    (tmp_path / "there").mkdir()
    sink.write(window(0))
    assert rows_in(sink.path) == list(range(10))
    sink.close()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match="cannot write into"):
        HourlyParquet(tmp_path / "file" / "scores").open(None)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_where_one_may_not_write_is_told(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    for sink in (HourlyParquet(tmp_path / "locked"), JsonLines(tmp_path / "locked" / "a.jsonl")):
        with pytest.raises(SinkError, match="cannot write"):
            sink.open(None)


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
