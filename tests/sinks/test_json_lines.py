"""The sink of JSON lines: every flow once over kills, full disks, rotation and files of somebody else."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.sinks.numbered import NOON_US, Killed, rows_in, window
from thalweg.errors import SinkError
from thalweg.sinks import json_lines
from thalweg.sinks.json_lines import JsonLines
from thalweg.sinks.sink import ScoredWindow
from thalweg.testing import check_sink


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


def test_json_lines_are_what_a_sink_is(tmp_path: Path) -> None:
    check_sink(lambda: JsonLines(tmp_path / "a.jsonl"), lambda: rows_in(tmp_path / "a.jsonl"))


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
    rows = range(2 * json_lines._ROWS + 5)
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
