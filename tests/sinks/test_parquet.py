"""The sink of Parquet: every flow once over kills, full disks and folders that go away."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

import polars as pl
import pytest

from tests.sinks.numbered import NOON_US, Killed, window
from thalweg.errors import SinkError
from thalweg.sinks.parquet import HourlyParquet
from thalweg.testing import check_sink


def rows_below(folder: Path) -> list[int]:
    found: list[int] = pl.concat([pl.read_parquet(path) for path in sorted(folder.glob("*/*.parquet"))])[
        "row"
    ].to_list()
    return found


def test_parquet_by_hour_is_what_a_sink_is(tmp_path: Path) -> None:
    check_sink(lambda: HourlyParquet(tmp_path), lambda: rows_below(tmp_path))


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
    real = Path.write_bytes

    def cut(path: Path, content: bytes) -> None:
        real(path, content[:50])
        raise Killed

    monkeypatch.setattr(Path, "write_bytes", cut)
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)  # what is killed removes nothing
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

    def full(path: Path, content: bytes) -> None:
        path.write_text(str(content[:4]))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
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
