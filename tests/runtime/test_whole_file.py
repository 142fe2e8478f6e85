"""A file under its name: whole, or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from thalweg.errors import SinkError
from thalweg.runtime.whole_file import check_folder, partial_name, remove_leftovers, whole_file


def dead_pid() -> int:
    """Return the id of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        return process.pid


@pytest.mark.parametrize("durable", [True, False])
def test_it_appears_when_the_block_ends_and_is_synced_if_it_is_to_be_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_ino))
    with whole_file(path, durable=durable) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
        assert partial == partial_name(path)
        inode = partial.stat().st_ino
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
    assert synced == ([inode] if durable else [])


@pytest.mark.parametrize("trouble", [ValueError, OSError, KeyboardInterrupt])
def test_trouble_keeps_what_was_there_and_leaves_nothing_else(tmp_path: Path, trouble: type[BaseException]) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")

    def write() -> None:
        with whole_file(path) as partial:
            partial.write_text("half")
            raise trouble

    with pytest.raises(trouble):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "none" / "a.json"):
        pass


def test_only_what_dead_processes_left_of_the_same_file_is_removed(tmp_path: Path) -> None:
    path, dead, live = tmp_path / "a[1].json", dead_pid(), os.getppid()
    left = tmp_path / f".a[1].json.{dead}.partial"
    others = {
        tmp_path / f".a[1].json.{live}.partial",
        tmp_path / f".a[1].json.old.{dead}.partial",
        tmp_path / f".b.json.{dead}.partial",
        tmp_path / ".a[1].json.old.partial",
        tmp_path / ".a[1].json.partial",
        tmp_path / f"a[1].json.{dead}.partial",
    }
    for name in (left, *others):
        name.touch()
    remove_leftovers(path)
    assert set(tmp_path.iterdir()) == others


def test_a_place_that_cannot_hold_a_file_is_known_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check_folder(tmp_path / "new")
    check_folder(tmp_path / "file")
    with pytest.raises(SinkError, match="is a folder: name a file in it"):
        check_folder(tmp_path)
    for missing in (tmp_path / "none" / "a", tmp_path / "file" / "a"):
        with pytest.raises(SinkError, match="there is no folder"):
            check_folder(missing)
