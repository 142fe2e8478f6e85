"""Files of exports: each once, when it is whole, in the order of their names; nothing left out unseen."""

from __future__ import annotations

import gzip
import json
import os
import struct
from pathlib import Path

import pytest

from tests.ingest.captures.packets import udp_packet, write_pcap, write_pcapng
from thalweg.errors import ConfigError, SourceError
from thalweg.ingest.feeds.exports import ExportFeed, ExportReader, export_kind
from thalweg.ingest.feeds.feed import Feed, PieceReader, Position
from thalweg.ingest.netflow.datagrams import Datagrams
from thalweg.ingest.records import address_halves
from thalweg.testing import FakeClock
from thalweg.testing.feeds import rows_of

NFCAPD = b"\x0c\xa5" + bytes(60)


def opened(path: Path, position: Position | None = None, *, now: FakeClock | None = None) -> ExportFeed:
    feed = ExportFeed(f"pcap:{path}", path, now=now or FakeClock(4e9))
    feed.open(position)
    return feed


def names(feed: ExportFeed, folder: Path) -> list[str]:
    paths = [json.loads(piece.payload)["path"] for piece in feed.poll()]
    return [os.path.relpath(path, folder) for path in paths]


def touch(path: Path, content: bytes = b"x", *, at_s: float = 1e9) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (at_s, at_s))
    return path


def test_both_halves_are_what_the_protocols_say(tmp_path: Path) -> None:
    assert isinstance(ExportFeed("pcap:x", tmp_path), Feed)
    assert isinstance(ExportReader("pcap"), PieceReader)
    assert ExportFeed("pcap:x", tmp_path).name == "pcap:x"


def test_a_single_file_is_given_once_and_ends_the_feed(tmp_path: Path) -> None:
    path = touch(tmp_path / "a.pcap", at_s=4e9)
    feed = opened(path)
    before = feed.ended
    (piece,) = feed.poll()
    assert (before, feed.ended) == (False, True)
    assert not list(feed.poll())
    again = opened(path, piece.position)
    assert not list(again.poll())
    assert again.ended


def test_what_is_not_there_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="check the path"):
        opened(tmp_path / "none")
    with pytest.raises(ConfigError, match="not -1"):
        ExportFeed("pcap:x", tmp_path, settle_s=-1)


def test_files_of_a_folder_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b", "c/1", "a", "c/0", "c/.hidden", ".git/x", "nfcapd.current.77", ".a.partial"):
        touch(tmp_path / name)
    feed = opened(tmp_path)
    assert names(feed, tmp_path) == ["a", "b", "c/0", "c/1"]
    touch(tmp_path / "d")
    assert names(feed, tmp_path) == ["d"]
    assert not feed.ended
    assert not feed.tally


def test_a_file_is_taken_when_it_has_settled_or_a_later_one_is_there(tmp_path: Path) -> None:
    now = FakeClock(1000.0)
    touch(tmp_path / "1.pcap", at_s=1000)
    feed = opened(tmp_path, now=now)
    assert names(feed, tmp_path) == []
    now.advance(59)
    assert names(feed, tmp_path) == []
    touch(tmp_path / "1.pcap", b"xx", at_s=1059)
    now.advance(59)
    assert names(feed, tmp_path) == []
    touch(tmp_path / "2.pcap", at_s=1118)
    assert names(feed, tmp_path) == ["1.pcap"]
    now.advance(60)
    assert names(feed, tmp_path) == ["2.pcap"]
    assert not feed.tally


def test_files_of_nfcapd_are_whole_when_they_have_their_name(tmp_path: Path) -> None:
    now = FakeClock(1000.0)
    touch(tmp_path / "nfcapd.202603011000", NFCAPD, at_s=1000)
    assert names(opened(tmp_path, now=now), tmp_path) == ["nfcapd.202603011000"]


def test_what_comes_under_an_earlier_name_is_counted_once(tmp_path: Path) -> None:
    feed = opened(tmp_path)
    touch(tmp_path / "5")
    assert names(feed, tmp_path) == ["5"]
    touch(tmp_path / "3")
    touch(tmp_path / "4")
    touch(tmp_path / "6")
    assert names(feed, tmp_path) == ["6"]
    assert names(feed, tmp_path) == []
    assert feed.tally.as_dict() == {"passed_over_files": 2}
    (tmp_path / "4").unlink()
    assert names(feed, tmp_path) == []
    assert feed.tally.as_dict() == {"passed_over_files": 2}


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_file_that_grew_after_it_was_taken_is_counted(tmp_path: Path, is_restarted: bool) -> None:
    touch(tmp_path / "1")
    feed = opened(tmp_path)
    (piece,) = feed.poll()
    if is_restarted:
        feed = opened(tmp_path, json.loads(json.dumps(piece.position)))
    touch(tmp_path / "1", b"longer")
    assert names(feed, tmp_path) == []
    assert names(feed, tmp_path) == []
    assert feed.tally.as_dict() == {"passed_over_files": 1}


def test_what_was_there_before_a_restart_is_not_counted(tmp_path: Path) -> None:
    for name in ("1", "2", "3"):
        touch(tmp_path / name)
    pieces = list(opened(tmp_path).poll())
    feed = opened(tmp_path, pieces[1].position)
    assert names(feed, tmp_path) == ["3"]
    assert not feed.tally


def test_files_that_vanish_while_they_are_looked_at_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "1").symlink_to(tmp_path / "none")
    (tmp_path / "2").mkdir()
    os.mkfifo(tmp_path / "3")
    assert names(opened(tmp_path), tmp_path) == []


# Readings ------------------------------------------------------------------------------------------------------------


def piece(path: Path) -> bytes:
    return json.dumps({"path": str(path)}).encode()


def test_datagrams_of_captures_keep_their_time_and_sender(tmp_path: Path) -> None:
    payloads = [b"\0\x09" + n.to_bytes(30, "big") for n in range(3000)]
    packets = [udp_packet("10.0.0.7", "10.0.0.1", 4000, 2055, p, time_us=5 + i) for i, p in enumerate(payloads)]
    wanted = [(p, 5 + i, *address_halves("10.0.0.7")) for i, p in enumerate(payloads)]
    assert rows_of(ExportReader("pcap"), piece(write_pcap(tmp_path / "a", packets))) == wanted
    assert rows_of(ExportReader("pcap"), piece(write_pcapng(tmp_path / "b", packets))) == wanted


def test_the_clock_of_a_capture_is_not_taken_for_ours(tmp_path: Path) -> None:
    path = write_pcap(tmp_path / "a", [udp_packet("10.0.0.7", "10.0.0.1", 40000, 2055, b"\0\x09" + bytes(30))])
    (datagrams,) = ExportReader("pcap").read(piece(path), 7)
    assert isinstance(datagrams, Datagrams)
    assert datagrams.are_captured


def test_messages_of_ipfix_files_have_no_sender(tmp_path: Path) -> None:
    messages = [struct.pack(">HHIII", 10, 56, 1000 + n, n, 7) + bytes(40) for n in range(10)]
    path = tmp_path / "a.ipfix.gz"
    path.write_bytes(gzip.compress(b"".join(messages)))
    found = rows_of(ExportReader("ipfix"), piece(path))
    assert found == [(message, (1000 + n) * 1_000_000, 0, 0) for n, message in enumerate(messages)]


@pytest.mark.parametrize("kind", ["pcap", "ipfix", "nfcapd"])
def test_what_cannot_be_read_is_counted_by_why(tmp_path: Path, kind: str) -> None:
    reader = ExportReader(kind)
    for payload, name in {
        piece(tmp_path / "gone"): "vanished_files",
        piece(tmp_path): "unreadable_files",
        piece(touch(tmp_path / "empty", b"")): "empty_files",
        piece(touch(tmp_path / "foreign", b"no format of ours" * 9)): "unreadable_files",
    }.items():
        before = reader.tally[name]
        assert rows_of(reader, payload) == []
        assert reader.tally[name] == before + 1, payload
    for payload in (b"", b"5", b'{"path": 5}', b'{"file": "x"}', b"\xff"):
        with pytest.raises(SourceError, match="names no file"):
            rows_of(reader, payload)
    assert sum(reader.tally.as_dict().values()) == 4


@pytest.mark.parametrize(
    ("first", "kind"),
    [
        (b"\xd4\xc3\xb2\xa1", "pcap"), (b"\xa1\xb2\xc3\xd4", "pcap"), (b"\x4d\x3c\xb2\xa1", "pcap"),
        (b"\xa1\xb2\x3c\x4d", "pcap"), (b"\x0a\x0d\x0d\x0a", "pcap"), (b"\x0c\xa5\x02\0", "nfcapd"),
        (b"\xa5\x0c\0\x02", "nfcapd"), (b"\0\x0a\0\x38", "ipfix"), (b"", None), (b"\0", None), (b"ts,b", None),
    ],
)  # fmt: skip
def test_a_file_of_exports_is_known_by_its_first_bytes(first: bytes, kind: str | None) -> None:
    assert export_kind(first) == kind
