"""Watching a folder: every complete file once, also over restarts."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from thalweg.errors import ConfigError, SourceError
from thalweg.ingest import ReadOptions
from thalweg.ingest.feeds.feed import Feed, Piece, PieceReader, Position
from thalweg.ingest.feeds.folder import FolderFeed, FolderReader
from thalweg.ingest.records import Records
from thalweg.tables import Flows

CSV = "duration_ms,src_addr,dst_addr,fwd_bytes,bwd_bytes,src_port\n"


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def row(port: int) -> str:
    return f"1,10.0.0.1,10.0.0.2,3,4,{port}\n"


def parquet(path: Path, *ports: int) -> None:
    pl.read_csv((CSV + "".join(map(row, ports))).encode()).write_parquet(path)


def opened(path: Path, clock: Clock, position: Position | None = None, *, only_new: bool = False) -> FolderFeed:
    feed = FolderFeed(path, now=clock, only_new=only_new)
    feed.open(position)
    return feed


def ports(pieces: Iterable[Piece], reader: FolderReader | None = None) -> list[int]:
    reader = reader or FolderReader()
    runs = [run for piece in pieces for run in reader.read(piece.payload, 0)]
    return [port for run in runs if isinstance(run, Flows) for port in run.frame["src_port"].to_list()]


def test_a_folder_feed_and_its_reading_are_what_the_protocols_say(tmp_path: Path) -> None:
    assert isinstance(FolderFeed(tmp_path), Feed)
    assert isinstance(FolderReader(), PieceReader)


def test_a_file_is_taken_when_it_has_settled(tmp_path: Path) -> None:
    clock = Clock()
    feed = opened(tmp_path, clock)
    path = tmp_path / "a.csv"
    path.write_text(CSV + row(1))
    assert not list(feed.poll())
    clock.time += 1.5
    with path.open("a") as file:
        file.write(row(2))
    assert not list(feed.poll())
    clock.time += 1.5
    assert not list(feed.poll())
    clock.time += 0.5
    assert ports(feed.poll()) == [1, 2]
    clock.time += 10
    assert not list(feed.poll())
    assert not feed.tally
    assert not feed.ended


def test_parquet_is_taken_as_soon_as_it_has_its_end(tmp_path: Path) -> None:
    feed = opened(tmp_path, Clock())
    parquet(tmp_path / "whole.parquet", 1)
    content = (tmp_path / "whole.parquet").read_bytes()
    (tmp_path / "half.parquet").write_bytes(content[: len(content) // 2])
    pl.read_parquet(content).write_ipc(tmp_path / "b.arrow")
    assert sorted(ports(feed.poll())) == [1, 1]
    (tmp_path / "half.parquet").write_bytes(content)
    assert ports(feed.poll()) == [1]


def test_files_inside_and_packed_ones_are_taken_and_names_in_use_skipped(tmp_path: Path) -> None:
    clock = Clock()
    feed = opened(tmp_path, clock)
    (tmp_path / "day=1").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "day=1" / "a.csv.gz").write_bytes(gzip.compress((CSV + row(1)).encode()))
    for name in (".b.csv", ".hidden/c.csv", "d.csv.tmp", "e.csv.partial", "f.crdownload", "notes"):
        (tmp_path / name).write_text(CSV + row(2))
    list(feed.poll())
    clock.time += 2
    pieces = list(feed.poll())
    assert ports(pieces) == [1]
    assert json.loads(pieces[0].payload) == {"path": str(tmp_path / "day=1" / "a.csv.gz")}


@pytest.mark.parametrize("only_new", [False, True])
def test_files_that_were_there_before(tmp_path: Path, only_new: bool) -> None:
    parquet(tmp_path / "old.parquet", 1)
    feed = opened(tmp_path, Clock(), only_new=only_new)
    parquet(tmp_path / "new.parquet", 2)
    assert sorted(ports(feed.poll())) == ([2] if only_new else [1, 2])


def test_files_are_taken_oldest_first(tmp_path: Path) -> None:
    for number, name in enumerate(["c", "a", "b"]):
        parquet(tmp_path / f"{name}.parquet", number)
        os.utime(tmp_path / f"{name}.parquet", (1000 + number, 1000 + number))
    assert ports(opened(tmp_path, Clock()).poll()) == [0, 1, 2]


def test_a_feed_that_is_killed_after_any_piece_takes_each_file_once(tmp_path: Path) -> None:
    for number in range(6):
        parquet(tmp_path / f"{number}.parquet", number)
        os.utime(tmp_path / f"{number}.parquet", (1000 + number, 1000 + number))
    pieces = list(opened(tmp_path, Clock()).poll())
    assert len(pieces) == 6
    parquet(tmp_path / "6.parquet", 6)
    for cut in range(1, 7):
        position = json.loads(json.dumps(pieces[cut - 1].position))
        rest = list(opened(tmp_path, Clock(), position).poll())
        assert ports([*pieces[:cut], *rest]) == list(range(7))
    (tmp_path / "0.parquet").unlink()
    (last,) = opened(tmp_path, Clock(), pieces[-1].position).poll()
    assert len(last.position["done"]) == 6


def test_what_a_caller_did_not_fetch_is_given_at_the_next_call(tmp_path: Path) -> None:
    for number in range(3):
        parquet(tmp_path / f"{number}.parquet", number)
        os.utime(tmp_path / f"{number}.parquet", (1000 + number, 1000 + number))
    feed = opened(tmp_path, Clock())
    first = next(feed.poll())
    assert ports([first, *feed.poll()]) == [0, 1, 2]


def test_positions_of_very_many_files_stay_bounded(tmp_path: Path) -> None:
    for number in range(1500):
        (tmp_path / f"{number}.csv").write_text(CSV + row(number))
    clock = Clock()
    feed = opened(tmp_path, clock)
    list(feed.poll())
    clock.time += 2
    pieces = list(feed.poll())
    assert len(pieces) < 900
    named = [path for piece in pieces for path in np.atleast_1d(json.loads(piece.payload)["path"])]
    assert sorted(named) == sorted(str(path) for path in tmp_path.iterdir())
    assert ports(pieces[-1:]) == [int(Path(path).stem) for path in named[-len(ports(pieces[-1:])) :]]


def test_a_file_that_changes_is_read_again_and_counted(tmp_path: Path) -> None:
    feed = opened(tmp_path, Clock())
    parquet(tmp_path / "a.parquet", 1)
    assert ports(feed.poll()) == [1]
    parquet(tmp_path / "a.parquet", 2, 3)
    assert ports(feed.poll()) == [2, 3]
    assert feed.tally.as_dict() == {"changed_files": 1}


def test_files_that_are_gone_damaged_or_empty_are_counted(tmp_path: Path) -> None:
    def piece(name: str) -> Piece:
        return Piece(json.dumps({"path": str(tmp_path / name)}).encode(), {})

    parquet(tmp_path / "whole.parquet", 1)
    content = (tmp_path / "whole.parquet").read_bytes()
    (tmp_path / "bad.parquet").write_bytes(content[:-30] + b"x" * 26 + content[-4:])
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    reader = FolderReader()
    names = ["gone.csv", "bad.parquet", "empty.csv", "other.csv", "whole.parquet"]
    assert ports(map(piece, names), reader) == [1]
    assert reader.tally.as_dict() == {"vanished_files": 1, "unreadable_files": 2, "empty_files": 1}
    with pytest.raises(SourceError, match="names no file"):
        list(reader.read(b"nonsense", 0))


def test_one_way_files_become_records_in_bounded_runs(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "version": 5, "account_id": "1", "interface_id": "eni-7", "srcaddr": "10.0.0.1", "dstaddr": "10.0.0.2",
            "srcport": list(range(5)), "dstport": 443, "protocol": 6, "packets": 2, "bytes": 80,
            "start": 1_700_000_000, "end": 1_700_000_060, "action": "ACCEPT", "log_status": "OK", "tcp_flags": 2,
        }
    )  # fmt: skip
    frame.write_parquet(tmp_path / "vpc.parquet")
    feed = opened(tmp_path, Clock())
    (piece,) = feed.poll()
    reader = FolderReader(ReadOptions(chunk_rows=2))
    runs: list[Records] = [run for run in reader.read(piece.payload, 9) if isinstance(run, np.ndarray)]
    assert [len(run) for run in runs] == [2, 2, 1]
    whole = np.concatenate(runs)
    assert whole["src_port"].tolist() == list(range(5))
    assert whole["start_us"][0] == 1_700_000_000_000_000
    assert whole["end_us"][0] == 1_700_000_060_000_000
    assert whole["two_way"].sum() == 0
    assert {reader.exporters[at] for at in whole["exporter"]} == {"eni-7"}


def test_what_cannot_be_watched(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such folder"):
        opened(tmp_path / "no", Clock())
    with pytest.raises(ConfigError, match="settle"):
        FolderFeed(tmp_path, settle_s=-1)
