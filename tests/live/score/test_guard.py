"""What raises an error is set aside, counted and kept, and the same again after a restart."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import polars as pl
import pytest

from tests.live.score.test_batches import BEGIN_US, put
from tests.live.score.test_restart import config, written
from tests.live.senders import datagram, name_of
from thalweg.errors import SinkError
from thalweg.ingest.assembler import Assembler
from thalweg.ingest.feeds.feed import Piece, pack_piece
from thalweg.ingest.netflow.datagrams import Datagrams
from thalweg.ingest.netflow.decoder import Decoder
from thalweg.ingest.records import Records
from thalweg.ingest.sources import UdpConfig, source_at
from thalweg.live.config import RunConfig
from thalweg.live.score.quarantine import Quarantine
from thalweg.live.score.scorer import Scorer
from thalweg.live.score.snapshot import Snapshot
from thalweg.live.spool.folder import SpoolPosition
from thalweg.live.spool.layout import MARK, PIECE, STOP
from thalweg.live.spool.writer import SpoolWriter
from thalweg.live.suspects import Place, PlaceNote, Suspects, note_death
from thalweg.sinks.parquet import HourlyParquet
from thalweg.sinks.sink import ScoredWindow

LINE = b'{"src_addr":"10.9.9.%d","dst_addr":"10.0.0.2","src_port":%d,"duration_ms":1,"fwd_bytes":1,"bwd_bytes":1}\n'


class PanicError(BaseException):
    """As a library in another language raises it: no Exception."""


@pytest.fixture
def settings(tmp_path: Path) -> RunConfig:
    sources = (UdpConfig(address="udp://:0"), source_at(f"log:{tmp_path}/a.jsonl"))
    return config(tmp_path, source=sources)


@pytest.fixture
def spooled(tmp_path: Path) -> Path:
    """A spool of datagrams, two of them bad, and pieces of a log, one of them bad."""
    writer, now = SpoolWriter(tmp_path / "spool"), BEGIN_US
    for payload in (datagram(0), b"bad one", datagram(30), b"bad two", datagram(60)):
        put(writer, payload, now, "10.0.0.1")
    for line in (LINE % (1, 1), b"bad piece\n", LINE % (2, 2)):
        writer.add(PIECE, now, pack_piece(Piece(line, {"offset": 1})), 1)
    writer.add(MARK, now + 1_000_000)
    put(writer, datagram(90), now + 2_000_000, "10.0.0.1")
    writer.add(STOP, now + 3_000_000)
    writer.close()
    return tmp_path


@pytest.fixture
def bad(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the decoder and the readers fail on what is bad."""
    decode, read = Decoder.decode, Assembler.read

    def decode_or_fail(self: Decoder, given: Datagrams) -> Records:
        for one in given.arrived:
            begin = int(one["offset"])
            if given.buffer[begin : begin + int(one["length"])].tobytes().startswith(b"bad"):
                raise PanicError("a bug")
        return decode(self, given)

    def read_or_fail(self: Assembler, source: int, piece: Piece, arrival_us: int) -> Iterator[Any]:
        if piece.payload.startswith(b"bad"):
            yield from read(self, source, Piece(LINE % (9, 9), piece.position), arrival_us)
            raise PanicError("a bug, after a run")
        yield from read(self, source, piece, arrival_us)

    monkeypatch.setattr(Decoder, "decode", decode_or_fail)
    monkeypatch.setattr(Assembler, "read", read_or_fail)


@pytest.mark.usefixtures("bad")
def test_what_fails_is_kept_and_counted_and_all_else_is_written(
    spooled: Path, settings: RunConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    scorer = Scorer(settings)
    scorer.run()
    assert written(spooled) == Counter([*map(name_of, range(120)), *((f"10.9.9.{n}", n) for n in (1, 2, 9))])
    counts = scorer.batches.counts().as_dict()
    assert (counts["quarantined_datagrams"], counts["quarantined_pieces"]) == (2, 1)
    kept = sorted((spooled / "spool" / "quarantine").iterdir())
    assert [path.read_bytes() for path in kept if path.suffix != ".json"] == [b"bad one", b"bad two", b"bad piece\n"]
    reasons = [json.loads(path.read_text())["reason"] for path in kept if path.suffix == ".json"]
    assert reasons == ["PanicError: a bug", "PanicError: a bug", "PanicError: a bug, after a run"]
    assert "set aside datagram-" in capfd.readouterr().err


@pytest.mark.usefixtures("bad")
def test_a_restart_from_any_snapshot_counts_the_same(spooled: Path, settings: RunConfig) -> None:
    first = Scorer(settings)
    first.run()
    (spooled / "spool" / "snapshot.npz").unlink()  # as after a kill before it
    second = Scorer(settings)
    second.run()
    assert second.batches.counts().as_dict() == first.batches.counts().as_dict()
    assert written(spooled) == Counter([*map(name_of, range(120)), *((f"10.9.9.{n}", n) for n in (1, 2, 9))])
    third = Scorer(settings)
    snapshot = Snapshot.load(spooled / "spool")
    assert snapshot is not None
    third.batches.restore(snapshot)
    assert third.batches.counts().as_dict() == first.batches.counts().as_dict()


@pytest.mark.parametrize("error", [PanicError("out of range"), ValueError("out of range")])
def test_a_window_that_no_sink_takes_is_kept_with_its_flows(
    tmp_path: Path, settings: RunConfig, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    writer = SpoolWriter(tmp_path / "spool")
    for number in range(10):
        put(writer, datagram(30 * number), BEGIN_US + number, "10.0.0.1")
    writer.add(STOP, BEGIN_US + 1_000)
    writer.close()
    write = HourlyParquet.write

    def write_or_fail(self: HourlyParquet, window: ScoredWindow) -> object:
        if window.number == 1:
            raise error
        return write(self, window)

    monkeypatch.setattr(HourlyParquet, "write", write_or_fail)
    scorer = Scorer(settings)
    scorer.run()
    assert sum(written(tmp_path).values()) == 200
    (kept,) = (tmp_path / "spool" / "quarantine").glob("*.arrow")
    assert pl.read_ipc(kept).height == 100
    assert (scorer.committed.num_flows, scorer.committed.num_set_aside) == (200, 100)


def test_a_full_disk_is_no_reason_to_set_anything_aside(
    tmp_path: Path, settings: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = SpoolWriter(tmp_path / "spool")
    put(writer, datagram(0), BEGIN_US, "10.0.0.1")
    writer.add(STOP, BEGIN_US + 1_000)
    writer.close()

    with monkeypatch.context() as patch:
        patch.setattr(HourlyParquet, "write", Mock(side_effect=SinkError("cannot write: No space left on device")))
        with pytest.raises(SinkError):
            Scorer(settings).run()
    assert not (tmp_path / "spool" / "quarantine").exists()
    Scorer(settings).run()
    assert written(tmp_path) == Counter(map(name_of, range(30)))


@pytest.mark.parametrize(("code", "deaths"), [(-11, 2), (-6, 2), (1, 2), (-9, 3)])
def test_so_many_deaths_at_a_place_make_it_guilty(tmp_path: Path, code: int, deaths: int) -> None:
    place = Place("piece", 3, 77)
    note = PlaceNote(tmp_path)
    note.start_batch(SpoolPosition(3, 0))
    note.enter(place)  # not careful: it proves nothing
    note_death(tmp_path, 1, code)
    assert Suspects.load(tmp_path) == Suspects()  # of another process
    note_death(tmp_path, os.getpid(), code)
    suspects = Suspects.load(tmp_path)
    assert (suspects.is_suspect(place), suspects.careful_until) == (False, SpoolPosition(3, 0))
    for number in range(deaths):
        assert not Suspects.load(tmp_path).is_guilty(place)
        note = PlaceNote(tmp_path)
        note.is_careful = True
        note.start_batch(SpoolPosition(3, 0))
        note.enter(place)
        note_death(tmp_path, os.getpid(), code)
        note_death(tmp_path, os.getpid(), code)  # noted once
        assert Suspects.load(tmp_path).is_suspect(place), number
    assert Suspects.load(tmp_path).is_guilty(place)
    note = PlaceNote(tmp_path)
    note.is_careful = True
    note.enter(place)
    note.leave()
    note_death(tmp_path, os.getpid(), code)
    assert set(Suspects.load(tmp_path).points) == {place.name}


def test_damaged_notes_of_deaths_are_none(tmp_path: Path) -> None:
    (tmp_path / "place").write_bytes(b"x")
    note_death(tmp_path, 1, -11)
    for text in ("", "{", "[]", '{"points": 3, "until": [1, 2]}', '{"points": {"a": "x"}, "until": [1, 2]}'):
        (tmp_path / "suspects.json").write_text(text)
        assert Suspects.load(tmp_path) == Suspects()


def test_a_quarantine_is_bounded_and_survives_a_full_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from thalweg.live.score import quarantine

    monkeypatch.setattr(quarantine, "_MAX_FILES", 6)
    monkeypatch.setattr(quarantine, "_MAX_BYTES", 100)
    kept = Quarantine(tmp_path)
    assert kept.keep(Place("piece", 0, 1), bytes(90), "piece", ValueError("a"))
    assert not kept.keep(Place("piece", 0, 2), bytes(20), "piece", ValueError("b"))
    assert kept.keep(Place("piece", 0, 1), bytes(95), "piece", ValueError("a"))  # the same again
    again = Quarantine(tmp_path)
    assert not again.keep(Place("piece", 0, 3), bytes(20), "piece", ValueError("b"))
    for number in range(10):
        again.keep(Place("datagram", 0, number), b"", "bin", ValueError("c"))
    assert len(list((tmp_path / "quarantine").glob("*.bin"))) < 6


def test_a_link_is_no_quarantine(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "quarantine").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SinkError, match="is a link"):
        Quarantine(tmp_path)


def test_datagrams_are_taken_some_at_a_time() -> None:
    given = Datagrams.of((b"x", 0, 0, number) for number in range(5))
    assert [part.arrived["lo"].tolist() for part in given.parts(2)] == [[0, 1], [2, 3], [4]]
    assert np.concatenate([part.arrived for part in given.parts()]).tolist() == given.arrived.tolist()
