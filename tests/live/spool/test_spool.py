"""The queue on disk: every whole entry is read once and in order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.live.spool.spools import BEGIN, all_batches, all_payloads, fill, parts, payload_of, payloads
from thalweg.ingest.captures.pcap import Datagram
from thalweg.ingest.feeds.exports import datagrams_of
from thalweg.ingest.netflow.datagrams import ARRIVED
from thalweg.live.spool.folder import SpoolPosition, segment_path, segments
from thalweg.live.spool.layout import DATAGRAM, MARK, PIECE, STOP
from thalweg.live.spool.reader import Batch, SpoolReader, remove_before, unread
from thalweg.live.spool.writer import SpoolConfig, SpoolWriter


def test_what_is_written_is_read_once_and_in_order_in_batches(folder: Path) -> None:
    writer = SpoolWriter(folder)
    writer.add(DATAGRAM, 10, b"one")
    writer.add(PIECE, 11, b"two", 7)
    writer.add(MARK, 12)
    writer.add(MARK, 13)
    writer.add(DATAGRAM, 14)
    writer.add(STOP, 15)
    reader = SpoolReader(folder, BEGIN)
    first, empty, last = reader.next(), reader.next(), reader.next()
    assert first is not None
    assert empty is not None
    assert last is not None
    assert parts(first) == (
        [b"one", b"two"],
        ([DATAGRAM, PIECE], [0, 7], [10, 11]),
        12,
        SpoolPosition(0, 126),
        False,
    )
    assert parts(empty) == ([], ([], [], []), 13, SpoolPosition(0, 166), False)
    assert parts(last) == ([b""], ([DATAGRAM], [0], [14]), 15, SpoolPosition(0, 246), True)
    assert (reader.next(), reader.position, writer.position) == (None, last.after, last.after)
    assert (writer.num_entries, writer.num_bytes) == (6, 246)
    assert (first.missed, first.damaged) == ((), ())


def test_entries_without_a_mark_are_not_read_before_it_comes(folder: Path) -> None:
    writer, reader = SpoolWriter(folder), SpoolReader(folder, BEGIN)
    writer.add(DATAGRAM, 1, b"a")
    assert reader.next() is None
    writer.add(DATAGRAM, 2, b"b")
    assert reader.next() is None
    writer.add(MARK, 3)
    batch = reader.next()
    assert batch is not None
    assert payloads(batch) == [b"a", b"b"]


def test_a_reader_that_was_there_first_waits_for_the_writer(folder: Path) -> None:
    reader = SpoolReader(folder, BEGIN)
    assert reader.next() is None
    fill(folder, 30, stop=True)
    found = []
    while batch := reader.next():
        found += payloads(batch)
        assert batch.missed == ()
    assert found == [payload_of(i) for i in range(30)]


def test_a_segment_that_ends_within_a_batch_ends_the_batch(folder: Path) -> None:
    fill(folder, 40, marked_every=13, stop=True)
    assert len(segments(folder)) > 5
    batches = all_batches(folder)
    assert [p for batch in batches for p in payloads(batch)] == [payload_of(i) for i in range(40)]
    assert len(batches) > 40 // 13 + 1
    for batch in batches:
        if batch.after.offset == 0:
            assert batch.time_us == batch.entries["time_us"][-1]
    assert [batch.stopped for batch in batches] == [False] * (len(batches) - 1) + [True]


@given(
    entries=st.lists(st.tuples(st.sampled_from([DATAGRAM, PIECE, MARK]), st.binary(max_size=300)), max_size=60),
    polls=st.lists(st.integers(0, 5), min_size=60, max_size=60),
    segment_bytes=st.integers(1, 2000),
    restarts=st.sets(st.integers(0, 59), max_size=4),
)
def test_batches_do_not_depend_on_when_they_are_asked_for(
    tmp_path_factory: pytest.TempPathFactory,
    entries: list[tuple[int, bytes]],
    polls: list[int],
    segment_bytes: int,
    restarts: set[int],
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    config = SpoolConfig(max_bytes=1 << 30, segment_bytes=segment_bytes)
    writer, reader = SpoolWriter(folder, config), SpoolReader(folder, BEGIN)
    emitted: list[Batch] = []

    def poll(most: int) -> None:
        while most and (batch := reader.next()):
            emitted.append(batch)
            most -= 1

    for i, (kind, payload) in enumerate(entries):
        writer.add(kind, i, b"" if kind == MARK else payload)
        poll(polls[i])
        if i in restarts:
            writer.close()
            writer = SpoolWriter(folder, config)
    writer.add(STOP, 99)
    writer.close()
    poll(1000)
    reader.close()
    at_once = all_batches(folder)
    assert [parts(batch) for batch in emitted] == [parts(batch) for batch in at_once]
    assert [p for batch in at_once for p in payloads(batch)] == [p for kind, p in entries if kind != MARK]
    for i, batch in enumerate(at_once):
        assert [parts(later) for later in unread(folder, batch.after)] == [parts(later) for later in at_once[i + 1 :]]


def test_a_batch_stays_valid_when_its_segment_is_removed(folder: Path) -> None:
    fill(folder, 30, stop=True)
    batches = all_batches(folder)
    remove_before(folder, batches[-1].after)
    assert segments(folder) == [batches[-1].after.segment]
    for number in segments(folder):
        segment_path(folder, number).unlink()
    assert [p for batch in batches for p in payloads(batch)] == [payload_of(i) for i in range(30)]


def test_other_files_in_the_folder_are_skipped(folder: Path) -> None:
    folder.mkdir()
    (folder / "notes.spool").write_text("not a segment")
    fill(folder, 5)
    assert segments(folder) == [0]
    assert all_payloads(folder) == [payload_of(i) for i in range(5)]


def test_datagrams_of_a_file_and_of_the_spool_reach_the_decoder_alike(folder: Path) -> None:
    payloads = [b"one", b"", b"three" * 100]
    writer = SpoolWriter(folder)
    for i, payload in enumerate(payloads):
        writer.add(DATAGRAM, 7 + i, payload)
    writer.add(MARK, 9)
    (batch,) = all_batches(folder)
    spooled = batch.datagrams()
    filed = datagrams_of([Datagram(7 + i, 0, 0, 0, payload) for i, payload in enumerate(payloads)])
    assert len(spooled) == len(filed) == 3
    for found in (spooled, filed):
        assert found.arrived.dtype == ARRIVED
        assert found.arrived["time_us"].tolist() == [7, 8, 9]
        assert [
            found.buffer[at : at + num].tobytes()
            for at, num in zip(found.arrived["offset"].tolist(), found.arrived["length"].tolist(), strict=True)
        ] == payloads
    assert len(datagrams_of([])) == 0
    assert np.shares_memory(spooled.buffer, batch.data)
