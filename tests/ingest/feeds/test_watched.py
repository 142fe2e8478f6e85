"""A folder that is watched: what counts as a file of it, and the reasons to call one complete."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from thalweg.errors import SourceError
from thalweg.ingest.feeds.watched import (
    WatchedFile,
    WatchedFolder,
    damage_counted,
    has_later_name,
    pack_paths,
    split_paths,
    unchanged_for,
    unpack_paths,
    written_before,
)
from thalweg.tally import Tally
from thalweg.testing import FakeClock


def complete(watched: WatchedFolder) -> list[str]:
    return [name for name, file in watched.files().items() if watched.is_complete(file)]


def test_regular_files_that_are_wanted_are_found_by_their_sorted_paths(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("c.csv", "b/1.csv", "a.csv", "a.txt", ".d.csv", ".hidden/e.csv"):
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / "f.csv")
    watched = WatchedFolder(tmp_path, wants=lambda name: name.endswith(".csv"), rules=())
    files = watched.files()
    assert list(files) == ["a.csv", "b/1.csv", "c.csv"]
    assert [file.path for file in files.values()] == [tmp_path / name for name in files]
    assert [file.is_last for file in files.values()] == [False, False, True]


def test_a_file_is_complete_if_one_rule_holds(tmp_path: Path) -> None:
    clock = FakeClock(1000.0)
    for name in ("1", "2"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (990, 990))
    watched = WatchedFolder(tmp_path, wants=bool, rules=(has_later_name, unchanged_for(5)), now=clock)
    assert complete(watched) == ["1"]
    clock.advance(5)
    assert complete(watched) == ["1", "2"]
    (tmp_path / "2").write_text("more")
    assert complete(watched) == ["1"]
    by_its_time = WatchedFolder(tmp_path, wants=bool, rules=(written_before(15, clock),))
    assert complete(by_its_time) == ["1", "2"]
    os.utime(tmp_path / "2", (991, 991))
    assert complete(by_its_time) == ["1"]


def test_a_file_that_is_gone_when_a_rule_reads_it_is_not_complete(tmp_path: Path) -> None:
    def reads(file: WatchedFile) -> bool:
        return bool(file.path.read_bytes())

    (tmp_path / "1").write_text("x")
    watched = WatchedFolder(tmp_path, wants=bool, rules=(reads,))
    (file,) = watched.files().values()
    assert watched.is_complete(file)
    file.path.unlink()
    assert not watched.is_complete(file)


def test_a_piece_names_one_file_or_many(tmp_path: Path) -> None:
    for paths in ([tmp_path / "a"], [tmp_path / "a", tmp_path / "b"]):
        packed = pack_paths(paths, {}).payload
        assert unpack_paths(packed) == paths
        assert [unpack_paths(one) for one in split_paths(packed)] == [[path] for path in paths]
    with pytest.raises(SourceError, match="names no file"):
        unpack_paths(b"[]")
    assert split_paths(b"[]") == [b"[]"]


def test_what_cannot_be_read_is_counted_as_gone_or_unreadable(tmp_path: Path) -> None:
    tally = Tally()
    for path in (tmp_path / "none", tmp_path):
        with damage_counted(path, tally):
            raise PermissionError(13, "Permission denied")
    assert tally.as_dict() == {"vanished_files": 1, "unreadable_files": 1}
