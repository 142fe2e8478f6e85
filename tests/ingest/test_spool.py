"""The queue on disk: every whole entry once and in order, through kills, full disks, damage and bounds."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalweg.errors import ConfigError, SinkError
from thalweg.ingest import spool as spooling
from thalweg.ingest.spool import (
    Place,
    SpoolConfig,
    SpoolWriter,
    read_dropped,
    read_needed,
    segment_path,
    segments,
    write_needed,
)
from thalweg.ingest.spool_entries import DATAGRAM, ENTRY, MAGIC, MARK, PIECE, STOP
from thalweg.ingest.spool_reader import Batch, SpoolReader, find_entries, remove_before, unread

BEGIN: Final = Place(0, 0)
SMALL: Final = SpoolConfig(max_bytes=1 << 20, segment_bytes=400)
VECTOR: Final = np.dtype([("base", "u8"), ("length", "u8")])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def payloads(batch: Batch) -> list[bytes]:
    return [batch.data[at : at + num].tobytes() for at, num in zip(*columns(batch, "offset", "length"), strict=True)]


def columns(batch: Batch, *names: str) -> tuple[list[int], ...]:
    return tuple(batch.entries[name].tolist() for name in names)


def all_batches(folder: Path, place: Place = BEGIN) -> list[Batch]:
    return list(unread(folder, place))


def all_payloads(folder: Path, place: Place = BEGIN) -> list[bytes]:
    return [payload for batch in all_batches(folder, place) for payload in payloads(batch)]


def told(batch: Batch) -> tuple[Any, ...]:
    """Everything that a batch says, but for the buffer that it lies in."""
    return (payloads(batch), columns(batch, "kind", "source", "time_us"), batch.time_us, batch.after, batch.stopped)


def fill(folder: Path, num: int, *, config: SpoolConfig = SMALL, marked_every: int = 5, stop: bool = False) -> None:
    writer = SpoolWriter(folder, config)
    for i in range(num):
        writer.add(PIECE if i % 3 else DATAGRAM, i, payload_of(i), i % 250)
        if i % marked_every == marked_every - 1:
            writer.add(MARK, i)
    if stop:
        writer.add(STOP, num)
    writer.close()


def payload_of(i: int) -> bytes:
    return f"entry {i} ".encode() * (i % 7)


# Reading -------------------------------------------------------------------------------------------------------------


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
    assert told(first) == ([b"one", b"two"], ([DATAGRAM, PIECE], [0, 7], [10, 11]), 12, Place(0, 126), False)
    assert told(empty) == ([], ([], [], []), 13, Place(0, 166), False)
    assert told(last) == ([b""], ([DATAGRAM], [0], [14]), 15, Place(0, 246), True)
    assert (reader.next(), reader.place, writer.place) == (None, last.after, last.after)
    assert (writer.num_entries, writer.num_bytes) == (6, 246)
    assert first.missed == first.damaged == ()


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
    given_out: list[Batch] = []

    def poll(most: int) -> None:
        while most and (batch := reader.next()):
            given_out.append(batch)
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
    assert [told(batch) for batch in given_out] == [told(batch) for batch in at_once]
    assert [p for batch in at_once for p in payloads(batch)] == [p for kind, p in entries if kind != MARK]
    for i, batch in enumerate(at_once):
        assert [told(later) for later in unread(folder, batch.after)] == [told(later) for later in at_once[i + 1 :]]


def test_a_batch_stays_valid_when_its_segment_is_removed(folder: Path) -> None:
    fill(folder, 30, stop=True)
    batches = all_batches(folder)
    remove_before(folder, batches[-1].after)
    assert segments(folder) == [batches[-1].after.segment]
    for number in segments(folder):
        segment_path(folder, number).unlink()
    assert [p for batch in batches for p in payloads(batch)] == [payload_of(i) for i in range(30)]


def test_other_files_in_the_folder_are_passed_over(folder: Path) -> None:
    folder.mkdir()
    (folder / "notes.spool").write_text("not a segment")
    fill(folder, 5)
    assert segments(folder) == [0]
    assert all_payloads(folder) == [payload_of(i) for i in range(5)]


# Kills and damage ----------------------------------------------------------------------------------------------------


def test_a_writer_killed_at_any_byte_of_an_entry_costs_that_entry_alone(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    fill(whole, 4, config=SpoolConfig(), marked_every=3)
    written = segment_path(whole, 0).read_bytes()
    begin = len(written) - ENTRY.itemsize - len(payload_of(3))
    for size in range(begin, len(written) + 1):
        folder = tmp_path / f"killed at {size}"
        folder.mkdir()
        segment_path(folder, 0).write_bytes(written[:size])
        early = SpoolReader(folder, BEGIN)
        first = early.next()
        assert first is not None
        assert early.next() is None
        writer = SpoolWriter(folder)
        assert writer.place == Place(1, 0)
        writer.add(DATAGRAM, 9, b"after")
        writer.add(MARK, 10)
        writer.close()
        is_whole, is_cut = size == len(written), begin < size < len(written)
        wanted = [payload_of(i) for i in range(3 + is_whole)] + [b"after"]
        batches = all_batches(folder)
        assert [p for batch in batches for p in payloads(batch)] == wanted
        assert [batch.damaged for batch in batches if batch.damaged] == ([(0,)] if is_cut else [])
        later = [first]
        while batch := early.next():
            later.append(batch)
        assert [told(batch) for batch in later] == [told(batch) for batch in batches]
        assert [batch.damaged for batch in later] == [batch.damaged for batch in batches]
        early.close()


@pytest.mark.parametrize("damage", ["zeros after", "zeros inside", "another byte", "garbage after", "cut by hand"])
def test_damage_ends_its_segment_and_never_stops_the_reader(folder: Path, damage: str) -> None:
    fill(folder, 10, config=SpoolConfig(), marked_every=2)
    path = segment_path(folder, 0)
    content = bytearray(path.read_bytes())
    entries, _ = find_entries(np.frombuffer(bytes(content), np.uint8), 0)
    pieces = entries[entries["kind"] == PIECE]
    at = int(pieces["offset"][3])  # entry 5
    if damage == "zeros inside":
        content[at - ENTRY.itemsize :] = bytes(len(content) - at + ENTRY.itemsize)
    elif damage == "another byte":
        content[at + 2] ^= 0x20
    elif damage == "cut by hand":
        del content[at + 3 :]
    else:
        content += bytes(5000) if damage == "zeros after" else bytes(range(7, 256))
    path.write_bytes(content)
    fill(folder, 3, marked_every=3)
    batches = all_batches(folder)
    before = 10 if damage.endswith("after") else 5
    assert [p for batch in batches for p in payloads(batch)] == [payload_of(i) for i in [*range(before), 0, 1, 2]]
    assert [batch.damaged for batch in batches if batch.damaged] == [(0,)]


def test_an_entry_inside_a_payload_is_not_taken_for_one_behind_damage(folder: Path) -> None:
    inner = SpoolWriter(folder / "inner")
    inner.add(PIECE, 1, b"what somebody would like to be read")
    forged = segment_path(folder / "inner", 0).read_bytes()
    writer = SpoolWriter(folder)
    writer.add(DATAGRAM, 1, b"good")
    writer.add(DATAGRAM, 2, forged)
    writer.add(MARK, 3)
    writer.close()
    path = segment_path(folder, 0)
    content = bytearray(path.read_bytes())
    content[ENTRY.itemsize + 4] ^= 0xFF  # the magic of the second entry
    path.write_bytes(content)
    fill(folder, 1, marked_every=1)
    assert all_payloads(folder) == [b"good", payload_of(0)]


def test_a_place_beyond_the_end_of_its_segment_is_told(folder: Path) -> None:
    fill(folder, 2, marked_every=2)
    fill(folder, 2, marked_every=2)
    (batch,) = all_batches(folder, Place(0, 1 << 20))
    assert (batch.damaged, batch.after.segment) == ((0,), 1)


def test_entries_of_kinds_that_are_not_known_end_their_segment(folder: Path) -> None:
    writer = SpoolWriter(folder)
    writer.add(DATAGRAM, 1, b"known")
    writer.add(9, 2, b"of a later version")
    content = np.frombuffer(segment_path(folder, 0).read_bytes(), np.uint8)
    found, read_to = find_entries(content, 0)
    assert (found["kind"].tolist(), read_to) == ([DATAGRAM], ENTRY.itemsize + 5)


def test_more_entries_than_are_found_at_once_are_all_found() -> None:
    content = np.frombuffer(entry_of(b"") * 200_000 + entry_of(b"last"), np.uint8)
    found, read_to = find_entries(content, 0)
    assert (len(found), read_to) == (200_001, len(content))
    assert found["length"].tolist() == [0] * 200_000 + [4]


def test_a_length_beyond_all_memory_is_no_entry() -> None:
    header = np.zeros(1, ENTRY)
    header["magic"], header["kind"], header["length"] = MAGIC, DATAGRAM, 0xFFFF_FFFF
    found, read_to = find_entries(np.frombuffer(header.tobytes() + bytes(100), np.uint8), 0)
    assert (len(found), read_to) == (0, 0)


@given(st.binary(max_size=400))
def test_no_bytes_make_finding_entries_fail(content: bytes) -> None:
    found, read_to = find_entries(np.frombuffer(content, np.uint8), 0)
    assert read_to == int((found["length"] + ENTRY.itemsize).sum())
    assert read_to <= len(content)


# Full disks ----------------------------------------------------------------------------------------------------------


def vectors_of(entries: list[bytes]) -> tuple[npt.NDArray[np.void], int, list[Any]]:
    buffers = [ctypes.create_string_buffer(entry, len(entry)) for entry in entries]
    rows = [(ctypes.addressof(buffer), len(buffer)) for buffer in buffers]
    return np.array(rows, VECTOR), sum(map(len, entries)), buffers


def entry_of(payload: bytes, time_us: int = 5) -> bytes:
    header = np.zeros(1, ENTRY)
    header["magic"], header["kind"], header["length"], header["time_us"] = MAGIC, DATAGRAM, len(payload), time_us
    return header.tobytes() + payload


def write_one(writer: SpoolWriter, payload: bytes, *, by_vectors: bool) -> None:
    entry = entry_of(payload)
    if by_vectors:
        vectors, num_bytes, _kept = vectors_of([entry[: ENTRY.itemsize], entry[ENTRY.itemsize :]])
        writer.write_vectors(vectors, num_bytes, 1)
    else:
        writer.write([entry[: ENTRY.itemsize], entry[ENTRY.itemsize :]], len(entry), 1)


_FULL: Final = """
import resource, signal, sys
from pathlib import Path
from tests.ingest.test_spool import write_one
from thalweg.errors import SinkError
from thalweg.ingest.spool import SpoolWriter
from thalweg.ingest.spool_entries import MARK

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
by_vectors = sys.argv[2] == "vectors"
writer = SpoolWriter(Path(sys.argv[1]))
write_one(writer, b"before", by_vectors=by_vectors)
resource.setrlimit(resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY))
for payload in (b"x" * 500, b"y" * 500):
    try:
        write_one(writer, payload, by_vectors=by_vectors)
        raise SystemExit("a full disk was not told")
    except SinkError as error:
        assert "make room" in str(error), error
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
write_one(writer, b"after", by_vectors=by_vectors)
writer.add(MARK, 9)
assert writer.num_entries == 3, writer.num_entries
"""


@pytest.mark.parametrize("way", ["vectors", "parts"])
def test_after_a_file_could_not_grow_writing_goes_on_without_a_broken_entry(folder: Path, way: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FULL, str(folder), way],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    batches = all_batches(folder)
    assert [p for batch in batches for p in payloads(batch)] == [b"before", b"after"]
    assert [number for batch in batches for number in batch.damaged] == [0, 1]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    mount = shutil.which("mount")
    at = tmp_path / "disk"
    at.mkdir()
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(at)]
    if mount is None or os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield at
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)


@pytest.mark.parametrize("by_vectors", [False, True])
def test_a_full_disk_is_told_and_writing_goes_on_when_there_is_room(tiny_disk: Path, by_vectors: bool) -> None:
    ballast = tiny_disk / "ballast"
    ballast.write_bytes(bytes(200_000))
    folder = tiny_disk / "spool"
    writer, reader = SpoolWriter(folder), SpoolReader(folder, BEGIN)
    written: list[bytes] = []
    found: list[bytes] = []

    def read() -> None:
        while batch := reader.next():
            found.extend(payloads(batch))

    def write() -> None:
        for _ in range(60):
            payload = f"{len(written)} ".encode() * 1000
            write_one(writer, payload, by_vectors=by_vectors)
            written.append(payload)
            writer.add(MARK, 1)
            read()

    with pytest.raises(SinkError, match="No space left"):
        write()
    for _ in range(3):  # still full; each try begins nothing that stays
        with pytest.raises(SinkError, match="No space left"):
            write_one(writer, bytes(100_000), by_vectors=by_vectors)
    read()
    assert len(segments(folder)) <= 3
    ballast.unlink()
    write()
    assert len(written) > 60
    assert found == written == all_payloads(folder)
    reader.close()
    writer.close()


def test_writes_that_do_a_part_at_a_time_write_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_write, real_writev = os.write, os.writev

    def few_parts(file: int, parts: list[Any]) -> int:
        return real_writev(file, [bytes(parts[0])[:3]])

    def few_bytes(file: int, data: bytes) -> int:
        return real_write(file, data[:11])

    class Libc:
        calls = 0

        @classmethod
        def writev(cls, file: int, vectors: ctypes.c_void_p, num: int) -> int:
            """Be interrupted at first, and then write one byte."""
            del num
            cls.calls += 1
            if cls.calls == 1:
                ctypes.set_errno(errno.EINTR)
                return -1
            assert vectors.value is not None
            base = ctypes.cast(vectors, ctypes.POINTER(ctypes.c_uint64))[0]
            return real_write(file, ctypes.string_at(base, 1))

    monkeypatch.setattr(os, "writev", few_parts)
    monkeypatch.setattr(os, "write", few_bytes)
    monkeypatch.setattr(spooling, "_LIBC", Libc)
    writer = SpoolWriter(folder)
    for by_vectors in (False, True, True):
        write_one(writer, b"payload " * 40, by_vectors=by_vectors)
    writer.add(MARK, 1)
    assert all_payloads(folder) == [b"payload " * 40] * 3
    assert writer.place == Place(0, segment_path(folder, 0).stat().st_size)
    assert all_batches(folder)[0].damaged == ()


def test_a_segment_that_cannot_be_begun_is_told_and_tried_again(folder: Path) -> None:
    writer = SpoolWriter(folder, SpoolConfig(max_bytes=1000, segment_bytes=1))
    writer.add(DATAGRAM, 1, b"one")
    foreign = segment_path(folder, 1)
    foreign.write_bytes(b"of another writer")
    for _ in range(2):
        with pytest.raises(SinkError, match="File exists"):
            writer.add(DATAGRAM, 2, b"two")
    foreign.unlink()
    writer.add(DATAGRAM, 3, b"three")
    writer.add(MARK, 4)
    writer.close()
    assert all_payloads(folder) == [b"one", b"three"]


def test_a_folder_that_cannot_be_written_is_told_with_the_next_step(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match="choose another --spool"):
        SpoolWriter(tmp_path / "file" / "spool")


def test_a_closed_writer_writes_nothing(folder: Path) -> None:
    writer = SpoolWriter(folder)
    writer.close()
    writer.close()
    with pytest.raises(SinkError, match="Bad file descriptor"):
        writer.add(MARK, 1)


# Bounds --------------------------------------------------------------------------------------------------------------


def datagram(flows: int, payload: bytes) -> bytes:
    header = np.frombuffer(entry_of(payload), ENTRY, 1).copy()
    header["flows"] = flows
    return header.tobytes() + payload


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
    first = [told(batch) for batch in iter(reader.next, None)]
    needed = reader.place.segment
    assert read_needed(folder) == (0, needed)
    for i in range(80):
        writer.add(PIECE, i, b"late" * 10)
        writer.add(MARK, i)
    there = segments(folder)
    assert set(range(needed + 1)) <= set(there)
    assert there[-1] == writer.place.segment
    assert needed + 1 in read_dropped(folder)["segments"]
    again = all_batches(folder)
    assert [told(batch) for batch in again[: len(first)]] == first
    missed = [number for batch in again for number in batch.missed]
    assert missed == sorted(read_dropped(folder)["segments"])
    later = list(iter(reader.next, None))
    assert [number for batch in later for number in batch.missed] == missed
    assert [told(batch) for batch in later] == [told(batch) for batch in again[len(first) :]]
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
def test_segments_that_somebody_removed_are_told_once(folder: Path, removed: tuple[int, ...]) -> None:
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
    assert max(read_dropped(folder)["segments"]) < writer.place.segment <= last + 1


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
def test_foreign_lines_among_the_dropped_are_passed_over(folder: Path, line: str) -> None:
    folder.mkdir()
    (folder / "dropped.jsonl").write_text(f'{line}\n{{"segment": 3, "flows": 2}}\n')
    assert read_dropped(folder) == {"segments": {3: {"flows": 2}}, "last_segment": 3}


def test_a_full_disk_is_no_reason_not_to_drop(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = spooling._append_line

    def append(path: Path, line: str) -> None:
        if segment_path(folder, json.loads(line)["segment"]).exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, line)

    monkeypatch.setattr(spooling, "_append_line", append)
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
    assert writer.place.segment > 20
    assert writer.waiting_bytes == sum(segment_path(folder, n).stat().st_size for n in segments(folder)) < 2000
    reader.close()


def test_what_is_needed_and_was_removed_takes_no_room(folder: Path) -> None:
    writer = SpoolWriter(folder, SpoolConfig(max_bytes=2000, segment_bytes=500))
    while writer.place.segment < 3:
        writer.add(PIECE, 1, bytes(60))
    write_needed(folder, 0, 2)
    remove_before(folder, Place(3, 0))
    while writer.place.segment < 6:
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
    assert SpoolConfig.of(1 << 20) == SpoolConfig(max_bytes=1 << 20, segment_bytes=1 << 17)


def _killed_while_writing(folder: Path) -> None:
    """Write entries of every size until somebody kills this process."""
    writer = SpoolWriter(folder, SpoolConfig(max_bytes=1 << 30, segment_bytes=30_000))
    sys.stdout.write("begun\n")
    sys.stdout.flush()
    i = 0
    while True:
        writer.add(DATAGRAM, i, struct.pack("<I", i) * (1 + i % 500))
        if i % 10 == 9:
            writer.add(MARK, i)
        i += 1


def test_a_writer_that_is_killed_while_it_is_read_loses_nothing_that_was_whole(folder: Path) -> None:
    command = "import sys; from pathlib import Path; from tests.ingest.test_spool import _killed_while_writing as w; "
    numbers: list[int] = []
    reader = SpoolReader(folder, BEGIN)
    process = subprocess.Popen(
        [sys.executable, "-c", command + "w(Path(sys.argv[1]))", str(folder)],
        stdout=subprocess.PIPE, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        while len(numbers) < 2000:
            if (batch := reader.next()) is not None:
                numbers += columns(batch, "time_us")[0]
            assert process.poll() is None
    finally:
        process.kill()
        process.communicate()
    fill(folder, 1, marked_every=1)
    batches = list(iter(reader.next, None))
    for batch in batches[:-1]:
        numbers += columns(batch, "time_us")[0]
    assert payloads(batches[-1]) == [payload_of(0)]
    assert numbers == list(range(len(numbers)))
    at_once = all_batches(folder)[:-1]
    assert [told(batch) for batch in at_once][-1] == told(batches[-2])
    for batch in at_once:
        for payload, number in zip(payloads(batch), columns(batch, "time_us")[0], strict=True):
            assert payload == struct.pack("<I", number) * (1 + number % 500)
    reader.close()
