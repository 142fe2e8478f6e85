"""The spool against kills, damage and full disks: whole entries are read, once, and nothing stalls."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.live.spool.spools import (
    BEGIN,
    all_batches,
    all_payloads,
    columns,
    entry_of,
    fill,
    parts,
    payload_of,
    payloads,
    write_one,
)
from thalweg.errors import SinkError
from thalweg.live.spool import writer as spooling
from thalweg.live.spool.entries import find_entries
from thalweg.live.spool.folder import (
    SpoolPosition,
    note_dropped,
    segment_path,
    segments,
    spool_id,
    write_needed,
)  # fmt: skip
from thalweg.live.spool.layout import DATAGRAM, ENTRY, MAGIC, MARK, PIECE
from thalweg.live.spool.reader import SpoolReader
from thalweg.live.spool.writer import SpoolConfig, SpoolWriter
from thalweg.live.suspects import PlaceNote
from thalweg.runtime.whole_file import partial_name


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
        assert writer.position == SpoolPosition(1, 0)
        writer.add(DATAGRAM, 9, b"after")
        writer.add(MARK, 10)
        writer.close()
        is_whole, is_cut = size == len(written), begin < size < len(written)
        wanted = [payload_of(i) for i in range(3 + is_whole)] + [b"after"]
        batches = all_batches(folder)
        assert [p for batch in batches for p in payloads(batch)] == wanted
        assert [batch.damaged for batch in batches if batch.damaged] == ([((0, 0),)] if is_cut else [])
        later = [first]
        while batch := early.next():
            later.append(batch)
        assert [parts(batch) for batch in later] == [parts(batch) for batch in batches]
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
    behind = int((entries["kind"][entries["offset"] > at] == DATAGRAM).sum())
    assert behind
    num_lost = behind if damage == "another byte" else 0  # a mark behind the damage says how many there were
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
    assert [batch.damaged for batch in batches if batch.damaged] == [((0, num_lost),)]


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


def test_a_place_beyond_the_end_of_its_segment_is_reported(folder: Path) -> None:
    fill(folder, 2, marked_every=2)
    fill(folder, 2, marked_every=2)
    (batch,) = all_batches(folder, SpoolPosition(0, 1 << 20))
    assert (batch.damaged, batch.after.segment) == (((0, 0),), 1)


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


_FULL: Final = """
import resource, signal, sys
from pathlib import Path
from tests.live.spool.spools import write_one
from thalweg.errors import SinkError
from thalweg.live.spool.writer import SpoolWriter
from thalweg.live.spool.layout import MARK

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
by_vectors = sys.argv[2] == "vectors"
writer = SpoolWriter(Path(sys.argv[1]))
write_one(writer, b"before", by_vectors=by_vectors)
resource.setrlimit(resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY))
for payload in (b"x" * 500, b"y" * 500):
    try:
        write_one(writer, payload, by_vectors=by_vectors)
        raise SystemExit("a full disk was not reported")
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
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    batches = all_batches(folder)
    assert [p for batch in batches for p in payloads(batch)] == [b"before", b"after"]
    assert [number for batch in batches for number, _ in batch.damaged] == [0, 1]


@pytest.mark.parametrize("by_vectors", [False, True])
def test_a_full_disk_is_reported_and_writing_goes_on_when_there_is_room(tiny_disk: Path, by_vectors: bool) -> None:
    ballast = tiny_disk / "ballast"
    ballast.write_bytes(bytes(200_000))
    folder = tiny_disk / "spool"
    writer, reader = SpoolWriter(folder, SpoolConfig(reserve_bytes=0)), SpoolReader(folder, BEGIN, keep_from=0)
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
    assert writer.position == SpoolPosition(0, segment_path(folder, 0).stat().st_size)
    assert all_batches(folder)[0].damaged == ()


@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_what_stands_in_the_place_of_a_segment_stops_nothing_and_is_not_touched(folder: Path, kind: str) -> None:
    writer = SpoolWriter(folder, SpoolConfig(max_bytes=1000, segment_bytes=1, reserve_bytes=0))
    writer.add(DATAGRAM, 1, b"one")
    foreign, target = segment_path(folder, 1), folder.parent / "target"
    target.write_bytes(b"of somebody else")
    if kind == "folder":
        foreign.mkdir()
    elif kind == "link":
        foreign.symlink_to(target)
    else:
        foreign.write_bytes(b"of another writer")
    writer.add(DATAGRAM, 2, b"two")
    writer.add(MARK, 4)
    writer.close()
    assert all_payloads(folder) == [b"one", b"two"]
    assert target.read_bytes() == b"of somebody else"


def test_a_link_in_the_spool_is_never_written_through(folder: Path) -> None:
    target = folder.parent / "target"
    target.write_bytes(b"of somebody else")
    folder.mkdir()
    for name in ("reading", "dropped.jsonl", "reserve", "place"):
        (folder / name).symlink_to(target)
    writer = SpoolWriter(folder, SpoolConfig(max_bytes=1000, segment_bytes=1))
    writer.add(DATAGRAM, 1, b"one")
    with pytest.raises(OSError, match="symbolic links"):
        note_dropped(folder, 0, {"datagrams": 1})
    with pytest.raises(OSError, match="symbolic links"):
        PlaceNote(folder)
    with pytest.raises(OSError, match="symbolic links"):
        write_needed(folder, 0, 1)
    partial_name(folder / "id").symlink_to(target)
    spool_id(folder)
    assert target.read_bytes() == b"of somebody else"


def test_a_segment_that_somebody_removes_is_followed_by_another(folder: Path) -> None:
    writer = SpoolWriter(folder, SpoolConfig(reserve_bytes=0))
    writer.add(DATAGRAM, 1, b"one")
    segment_path(folder, 0).unlink()
    assert writer.waiting_bytes == 0
    writer.add(DATAGRAM, 2, b"two")
    writer.add(MARK, 3)
    writer.close()
    assert all_payloads(folder) == [b"two"]


def test_a_folder_that_cannot_be_written_is_reported_with_the_next_step(tmp_path: Path) -> None:
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


def _killed_while_writing(folder: Path) -> None:
    """Write entries of every size until this process is killed."""
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
    command = (
        "import sys; from pathlib import Path; from tests.live.spool.test_damage import _killed_while_writing as w; "
    )
    numbers: list[int] = []
    last: tuple[Any, ...] = ()
    reader = SpoolReader(folder, BEGIN)
    process = subprocess.Popen(
        [sys.executable, "-c", command + "w(Path(sys.argv[1]))", str(folder)],
        stdout=subprocess.PIPE, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        while len(numbers) < 2000:
            if (batch := reader.next()) is not None:
                numbers += columns(batch, "time_us")[0]
                last = parts(batch)
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
    # It may have written nothing after what was read meanwhile; then its last segment had no end yet.
    if len(batches) > 1:
        assert parts(at_once[-1]) == parts(batches[-2])
    else:
        assert parts(at_once[-1])[:2] == last[:2]
    for batch in at_once:
        for payload, number in zip(payloads(batch), columns(batch, "time_us")[0], strict=True):
            assert payload == struct.pack("<I", number) * (1 + number % 500)
    reader.close()
