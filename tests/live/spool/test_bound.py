"""The spool stays within its bound: drops are reported, and what the reader needs stays."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.live.spool.spools import BEGIN, all_batches, datagram, fill, parts, payload_of, payloads
from thalweg.errors import ConfigError
from thalweg.live.spool import writer as spooling
from thalweg.live.spool.folder import (
    SpoolPosition,
    note_dropped,
    read_dropped,
    read_needed,
    segment_path,
    segments,
    write_needed,
)
from thalweg.live.spool.layout import DATAGRAM, MARK, PIECE
from thalweg.live.spool.reader import SpoolReader, remove_before
from thalweg.live.spool.writer import SpoolConfig, SpoolWriter


def overflow(folder: Path, num: int = 100) -> SpoolWriter:
    """Write three times what the spool may hold: five datagrams of 3 flows, two pieces and a mark, over and over."""
    writer = SpoolWriter(folder, SpoolConfig(max_bytes=8000, segment_bytes=1000))
    for i in range(num):
        for j in range(5):
            entry = datagram(3, f"{i}.{j}".encode())
            writer.write([entry], len(entry), 1, 3)
        for j in range(2):
            writer.add(PIECE, i, f"{i}.{j}".encode())
        writer.add(MARK, i)
    return writer


def test_beyond_its_bound_the_spool_loses_its_oldest_segments_and_tells_what_was_in_them(folder: Path) -> None:
    writer = overflow(folder)
    assert sum(segment_path(folder, number).stat().st_size for number in segments(folder)) <= 8000 + 1000 + 60
    dropped = read_dropped(folder)["segments"]
    there = segments(folder)
    assert sorted(dropped) == list(range(there[0]))
    batches = all_batches(folder)
    kinds = np.concatenate([batch.entries["kind"] for batch in batches])
    lost = {name: sum(row[name] for row in dropped.values()) for name in ("datagrams", "pieces", "flows")}
    assert lost["datagrams"] + int((kinds == DATAGRAM).sum()) == 500
    assert lost["pieces"] + int((kinds == PIECE).sum()) == 200
    assert lost["flows"] == 3 * lost["datagrams"] > 0
    assert writer.dropped == {"segments": len(dropped), **lost}
    assert batches[0].missed == tuple(range(there[0]))
    assert all(batch.missed == () for batch in batches[1:])


def test_what_the_reader_needs_is_never_dropped(folder: Path) -> None:
    writer = SpoolWriter(folder, SpoolConfig(max_bytes=2000, segment_bytes=200))
    reader = SpoolReader(folder, BEGIN, keep_from=0)
    for i in range(8):
        writer.add(PIECE, i, b"early" * 10)
        writer.add(MARK, i)
    first = [parts(batch) for batch in iter(reader.next, None)]
    needed = reader.position.segment
    assert read_needed(folder) == (0, needed)
    for i in range(80):
        writer.add(PIECE, i, b"late" * 10)
        writer.add(MARK, i)
    there = segments(folder)
    assert set(range(needed + 1)) <= set(there)
    assert there[-1] == writer.position.segment
    assert needed + 1 in read_dropped(folder)["segments"]
    again = all_batches(folder)
    assert [parts(batch) for batch in again[: len(first)]] == first
    missed = [number for batch in again for number in batch.missed]
    assert missed == sorted(read_dropped(folder)["segments"])
    later = list(iter(reader.next, None))
    assert [number for batch in later for number in batch.missed] == missed
    assert [parts(batch) for batch in later] == [parts(batch) for batch in again[len(first) :]]
    reader.close()


def test_what_a_killed_reader_had_read_stays_until_the_next_one_has_read_it_again(folder: Path) -> None:
    writer = SpoolWriter(folder, SpoolConfig(max_bytes=2000, segment_bytes=200))
    killed = SpoolReader(folder, BEGIN, keep_from=0)
    for i in range(8):
        writer.add(PIECE, i, b"early" * 10)
        writer.add(MARK, i)
    first = [parts(batch) for batch in iter(killed.next, None)]
    last = killed.position.segment
    killed.close()
    reader = SpoolReader(folder, BEGIN, keep_from=0)
    again = [reader.next()]
    for i in range(80):
        writer.add(PIECE, i, b"late" * 10)
        writer.add(MARK, i)
    assert min(read_dropped(folder)["segments"]) == last + 1
    again += iter(reader.next, None)
    assert [parts(batch) for batch in again[: len(first)] if batch is not None] == first
    assert [batch.missed for batch in again[: len(first)] if batch is not None] == [()] * len(first)
    reader.close()


def test_a_segment_that_vanishes_while_it_is_read_is_read_to_its_end(folder: Path) -> None:
    writer, reader = SpoolWriter(folder), SpoolReader(folder, BEGIN)
    writer.add(DATAGRAM, 1, b"one")
    writer.add(MARK, 1)
    assert reader.next() is not None
    segment_path(folder, 0).unlink()
    writer.add(DATAGRAM, 2, b"two")
    writer.add(MARK, 2)
    batch = reader.next()
    assert batch is not None
    assert (payloads(batch), batch.missed) == ([b"two"], ())


@pytest.mark.parametrize("removed", [(0,), (1,), (0, 1), (1, 2)])
def test_segments_that_somebody_removed_are_reported_once(folder: Path, removed: tuple[int, ...]) -> None:
    for _ in range(4):
        fill(folder, 5, config=SpoolConfig())
    for number in removed:
        segment_path(folder, number).unlink()
    batches = all_batches(folder)
    assert len(batches) == 4 - len(removed)
    assert [number for batch in batches for number in batch.missed] == list(removed)


def test_a_writer_never_begins_behind_the_reader(folder: Path) -> None:
    for _ in range(3):
        fill(folder, 5, config=SpoolConfig())
    write_needed(folder, 2, 2)
    place = all_batches(folder)[-1].after
    for number in segments(folder):
        segment_path(folder, number).unlink()
    fill(folder, 5, config=SpoolConfig())
    (batch,) = all_batches(folder, place)
    assert (payloads(batch), batch.missed) == ([payload_of(i) for i in range(5)], (2,))


def test_numbers_go_on_after_segments_that_were_dropped(folder: Path) -> None:
    overflow(folder).close()
    last = segments(folder)[-1]
    for number in segments(folder):
        segment_path(folder, number).unlink()
    writer = SpoolWriter(folder)
    assert max(read_dropped(folder)["segments"]) < writer.position.segment <= last + 1


def test_half_a_line_of_a_killed_writer_does_not_spoil_the_next(folder: Path) -> None:
    overflow(folder).close()
    known = read_dropped(folder)["segments"]
    with (folder / "dropped.jsonl").open("ab") as log:
        log.write(b'{"segment": 1000, "datagr\xff\x00')
    writer = overflow(folder)
    after = read_dropped(folder)["segments"]
    assert known.items() <= after.items()
    assert len(after) == len(known) + writer.dropped["segments"]
    assert 1000 not in after


@pytest.mark.parametrize("line", ["5", "[]", "null", "{}", '{"segment": "x"}', '{"segment": []}', ""])
def test_foreign_lines_among_the_dropped_are_skipped(folder: Path, line: str) -> None:
    folder.mkdir()
    (folder / "dropped.jsonl").write_text(f'{line}\n{{"segment": 3, "flows": 2}}\n')
    assert read_dropped(folder) == {"segments": {3: {"flows": 2}}, "last_segment": 3}


def test_a_full_disk_is_no_reason_not_to_drop(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def note(folder: Path, number: int, lost: Mapping[str, int]) -> None:
        if segment_path(folder, number).exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        note_dropped(folder, number, lost)

    monkeypatch.setattr(spooling, "note_dropped", note)
    writer = overflow(folder)
    assert sorted(read_dropped(folder)["segments"]) == list(range(segments(folder)[0]))
    assert writer.dropped["segments"] == segments(folder)[0]


def test_what_was_read_and_removed_does_not_count(folder: Path) -> None:
    writer = SpoolWriter(folder, SpoolConfig(max_bytes=2000, segment_bytes=500))
    reader = SpoolReader(folder, BEGIN, keep_from=0)
    for i in range(200):
        writer.add(PIECE, i, bytes(60))
        writer.add(MARK, i)
        for batch in iter(reader.next, None):
            reader.keep_from = batch.after.segment
            remove_before(folder, batch.after)
    assert writer.dropped["segments"] == 0
    assert writer.position.segment > 20
    assert writer.waiting_bytes == sum(segment_path(folder, n).stat().st_size for n in segments(folder)) < 2000
    reader.close()


def test_what_is_needed_and_was_removed_takes_no_room(folder: Path) -> None:
    writer = SpoolWriter(folder, SpoolConfig(max_bytes=2000, segment_bytes=500))
    while writer.position.segment < 3:
        writer.add(PIECE, 1, bytes(60))
    write_needed(folder, 0, 2)
    remove_before(folder, SpoolPosition(3, 0))
    while writer.position.segment < 6:
        writer.add(PIECE, 1, bytes(60))
    assert segments(folder) == [3, 4, 5, 6]
    assert writer.dropped["segments"] == 0


@pytest.mark.parametrize("content", ["", "5", "a b", "1 2 3", "\0\0"])
def test_a_damaged_note_of_what_is_needed_protects_nothing_and_stops_nobody(folder: Path, content: str) -> None:
    folder.mkdir()
    assert read_needed(folder) == (0, -1)
    (folder / "reading").write_text(content)
    assert read_needed(folder) == (0, -1)
    write_needed(folder, 3, 12)
    assert read_needed(folder) == (3, 12)


def test_a_spool_too_small_for_one_segment_is_refused() -> None:
    for max_bytes, segment_bytes in ((0, 0), (10, 11), (-1, 1)):
        with pytest.raises(ConfigError, match="at least one"):
            SpoolConfig(max_bytes=max_bytes, segment_bytes=segment_bytes)
    assert SpoolConfig(max_bytes=1 << 20).bytes_per_segment == 1 << 17
