"""IPFIX files -> messages."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import pytest

from thalweg.errors import SourceError
from thalweg.ingest.captures.ipfix import read_messages
from thalweg.ingest.captures.pcap import BATCH_BYTES, Datagram
from thalweg.tally import Tally

EXAMPLE = Path(__file__).parents[3].parent / "shared" / "captures" / "ipfix-file" / "example_flows.ipfix"


def message(seconds: int, num_bytes: int = 40) -> bytes:
    return struct.pack(">HHIII", 10, 16 + num_bytes, seconds, 0, 7) + bytes(num_bytes)


def read(path: Path) -> tuple[list[Datagram], dict[str, int]]:
    tally = Tally()
    return [one for batch in read_messages(path, tally=tally) for one in batch], tally.as_dict()


def test_messages_come_in_order_with_their_export_time(tmp_path: Path) -> None:
    messages = [message(1_700_000_000 + i, 4 * i) for i in range(3000)]
    for name, content in (("a", b"".join(messages)), ("a.gz", gzip.compress(b"".join(messages)))):
        (tmp_path / name).write_bytes(content)
        assert read(tmp_path / name) == (
            [Datagram((1_700_000_000 + i) * 1_000_000, 0, 0, 0, messages[i]) for i in range(3000)],
            {},
        )
    batches = [sum(len(one.payload) for one in batch) for batch in read_messages(tmp_path / "a", tally=Tally())]
    assert max(batches) <= BATCH_BYTES + 65_535


def test_a_file_cut_anywhere_gives_its_whole_messages(tmp_path: Path) -> None:
    whole = message(1) + message(2) + message(3)
    for size in range(1, len(whole)):
        (tmp_path / "a").write_bytes(whole[:size])
        found, counts = read(tmp_path / "a")
        assert len(found) == size // len(message(1))
        assert counts == ({} if size % len(message(1)) == 0 else {"truncated_packets": 1})


def test_a_damaged_file_gives_what_comes_before_and_then_names_the_place(tmp_path: Path) -> None:
    for bad in (struct.pack(">HHIII", 9, 56, 0, 0, 0), struct.pack(">HHIII", 10, 15, 0, 0, 0)):
        (tmp_path / "a").write_bytes(message(1) + bad + message(3))
        batches = read_messages(tmp_path / "a", tally=Tally())
        assert len(next(batches)) == 1
        with pytest.raises(SourceError, match="byte 56: the file is damaged"):
            next(batches)


def test_what_is_no_ipfix_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"src,dst\n")
    with pytest.raises(SourceError, match="not an IPFIX file"):
        read(tmp_path / "a")
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(SourceError, match="is empty"):
        read(tmp_path / "a")


@pytest.mark.skipif(not EXAMPLE.exists(), reason="the example file of real exports is not at hand")
def test_the_real_file_has_68_messages() -> None:
    found, counts = read(EXAMPLE)
    assert (len(found), counts) == (68, {})
    assert sum(len(one.payload) for one in found) == EXAMPLE.stat().st_size
