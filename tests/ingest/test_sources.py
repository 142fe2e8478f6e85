"""Every source of `thalweg run`, checked against the same contract."""

from __future__ import annotations

import gzip
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import polars as pl
import pytest

from tests.ingest.captures.packets import udp_packet, write_pcap
from thalweg.errors import ConfigError
from thalweg.ingest.feeds.feed import Feed, Piece, PieceReader, pack_piece, unpack_piece
from thalweg.ingest.options import ReadOptions
from thalweg.ingest.sources import SOURCES, SourceConfig, UdpConfig, open_feed, open_reader, source_at
from thalweg.runtime.settings import as_values
from thalweg.testing import check_feed
from thalweg.testing.feeds import rows_of

START: Final = 1_700_000_000
_PER_PORTION: Final = 40

More = Callable[[int], int]
"""Puts the i-th portion there, and returns how many rows it has."""


def numbers(portion: int) -> range:
    return range(portion * _PER_PORTION, (portion + 1) * _PER_PORTION)


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def settled(path: Path) -> None:
    """Set the time of a file to long ago."""
    os.utime(path, (START, START))


ZEEK_HEADER: Final = (
    "#separator \\x09\n#set_separator\t,\n#empty_field\t(empty)\n#unset_field\t-\n#path\tconn\n"
    "#fields\tts\tuid\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\tduration\torig_bytes\tresp_bytes\tconn_state\n"
    "#types\ttime\tstring\taddr\tport\taddr\tport\tenum\tinterval\tcount\tcount\tstring\n"
)


def zeek_line(n: int) -> str:
    return f"{START + n}.5\tC{n}\t10.0.0.1\t{1024 + n}\t10.0.0.2\t443\ttcp\t0.25\t{n}\t200\tSF\n"


def eve_line(n: int) -> str:
    times = {"start": "2026-03-01T10:00:00.000000+0000", "end": "2026-03-01T10:00:01.500000+0000"}
    sizes = {"pkts_toserver": 1, "pkts_toclient": 2, "bytes_toserver": n, "bytes_toclient": 9}
    event = {
        "timestamp": "2026-03-01T10:00:05.000001+0000", "event_type": "flow", "src_ip": "10.0.0.1", "proto": "TCP",
        "src_port": 1024 + n, "dest_ip": "10.0.0.2", "dest_port": 443, "flow": sizes | times,
    }  # fmt: skip
    return json.dumps(event, separators=(",", ":")) + "\n"


def log_of(path: Path, line: Callable[[int], str], header: str = "") -> More:
    """A log that grows and is renamed once."""

    def more(portion: int) -> int:
        if portion == 2:
            path.rename(path.with_name(f"{path.name}.1"))
        if portion in (0, 2):
            append(path, header)
        append(path, "".join(map(line, numbers(portion))))
        return _PER_PORTION

    return more


def zeek(folder: Path) -> tuple[str, More]:
    return f"zeek:{folder}/conn.log", log_of(folder / "conn.log", zeek_line, ZEEK_HEADER)


def suricata(folder: Path) -> tuple[str, More]:
    return f"suricata://{folder}/eve.json", log_of(folder / "eve.json", eve_line)


def log(folder: Path) -> tuple[str, More]:
    def line(n: int) -> str:
        return f"0.5,10.0.0.1,10.0.0.2,{n},4,{n}\n"

    header = "duration_ms,src_addr,dst_addr,fwd_bytes,bwd_bytes,src_port\n"
    return f"log:{folder}/flows.csv", log_of(folder / "flows.csv", line, header)


def parquets(scheme: str, columns: Callable[[int], dict[str, Any]]) -> Callable[[Path], tuple[str, More]]:
    def make(folder: Path) -> tuple[str, More]:
        def more(portion: int) -> int:
            for part in range(2):
                rows = [columns(n) for n in numbers(portion) if n % 2 == part]
                (folder / f"hour-{portion}").mkdir(exist_ok=True)
                pl.DataFrame(rows).write_parquet(folder / f"hour-{portion}" / f"{part}.parquet")
            return _PER_PORTION

        return f"{scheme}:{folder}", more

    return make


def vpc_row(n: int) -> dict[str, Any]:
    return {
        "version": 2, "account_id": "1", "interface_id": f"eni-{n % 3}", "srcaddr": "10.0.0.1", "dstaddr": "10.0.0.2",
        "srcport": n, "dstport": 443, "protocol": 6, "packets": 3, "bytes": 100 + n, "start": START, "end": START + 5,
        "action": "ACCEPT", "log_status": "OK",
    }  # fmt: skip


def table_row(n: int) -> dict[str, Any]:
    ends = {"src_addr": "10.0.0.1", "dst_addr": "10.0.0.2", "src_port": n}
    return ends | {"duration_ms": 1.5, "fwd_bytes": 5, "bwd_bytes": 6}


def exports(scheme: str, write: Callable[[Path, range], Any]) -> Callable[[Path], tuple[str, More]]:
    """Files of one folder, two in each portion, the first in a folder of its own."""

    def make(folder: Path) -> tuple[str, More]:
        def more(portion: int) -> int:
            rows = numbers(portion)
            (folder / f"{portion}").mkdir()
            half = _PER_PORTION // 2
            for path, part in ((folder / f"{portion}" / "a", rows[:half]), (folder / f"{portion}b", rows[half:])):
                write(path, part)
                settled(path)
            return _PER_PORTION

        return f"{scheme}:{folder}", more

    return make


def write_exports(path: Path, rows: range) -> None:
    packets = [
        udp_packet("10.0.0.7", "10.0.0.1", 4000, 2055, b"\0\x09" + n.to_bytes(30, "big"), time_us=n) for n in rows
    ]
    write_pcap(path, packets)


def write_messages(path: Path, rows: range) -> None:
    content = b"".join(struct.pack(">HHIII", 10, 56, START + n, n, 7) + bytes(40) for n in rows)
    path.write_bytes(gzip.compress(content) if rows[0] % 80 else content)


def write_nfcapd(path: Path, rows: range) -> None:
    """Write a plain file of nfcapd's, layout 2, as nfdump 1.7 does: an IPv4 record for each row."""

    def element(kind: int, body: bytes) -> bytes:
        return struct.pack("<HH", kind, 4 + len(body)) + body

    records = b""
    for n in rows:
        body = element(1, struct.pack("<QQQQQHHBBBB", 5000, 9000, 9500, 3, 300, 1024 + n, 53, 17, 0, 0, 0))
        body += element(2, struct.pack("<II", 0x0A000001, 0x0A000002))
        records += struct.pack("<HHHBBHBB", 11, 12 + len(body), 2, 0, 0, 1, 0, 9) + body
    block = struct.pack("<IIHH", len(rows), len(records), 3, 0) + records
    path.write_bytes(struct.pack("<HHIqBBHIqII", 0xA50C, 2, 0x01070100, 0, 0, 0, 0, 0, 0, 0, 1) + block)


CASES: Final[dict[str, Callable[[Path], tuple[str, More]] | None]] = {
    "udp": None,  # no feed: datagrams go from the socket into the spool; see test_udp.py
    "zeek": zeek,
    "suricata": suricata,
    "log": log,
    "vpc": parquets("vpc", vpc_row),
    "folder": parquets("folder", table_row),
    "pcap": exports("pcap", write_exports),
    "ipfix": exports("ipfix", write_messages),
    "nfcapd": exports("nfcapd", write_nfcapd),
    "kafka": None,  # needs a broker; see test_kafka.py
}


def test_every_source_has_a_case() -> None:
    assert list(CASES) == list(SOURCES)


@pytest.mark.parametrize("scheme", [scheme for scheme, case in CASES.items() if case is not None])
def test_a_source_gives_every_row_once_over_kills(scheme: str, tmp_path: Path) -> None:
    case = CASES[scheme]
    assert case is not None
    address, more = case(tmp_path)
    check_feed(lambda: feed_of(address), lambda: reader_of(address), more)


def feed_of(address: str) -> Feed:
    feed = open_feed(source_at(address))
    assert isinstance(feed, Feed)
    return feed


def reader_of(address: str) -> PieceReader:
    reader = open_reader(address, ReadOptions())
    assert reader is not None
    return reader


@pytest.mark.parametrize("scheme", ["pcap", "ipfix", "nfcapd"])
def test_damaged_and_empty_files_are_counted_and_the_next_ones_read(scheme: str, tmp_path: Path) -> None:
    case = CASES[scheme]
    assert case is not None
    address, more = case(tmp_path)
    more(0)
    (whole, *_) = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    content = whole.read_bytes()
    for i, damaged in enumerate((content[: len(content) * 2 // 3], b"no such format" * 9, b"", content[:3])):
        (tmp_path / f"1{i}").write_bytes(damaged)
        settled(tmp_path / f"1{i}")
    more(2)
    feed, reader = feed_of(address), reader_of(address)
    feed.open(None)
    pieces = list(feed.poll())
    num_rows = sum(len(rows_of(reader, piece.payload)) for piece in pieces)
    assert 2 * _PER_PORTION <= num_rows < 3 * _PER_PORTION
    counts = reader.tally.as_dict()
    assert counts["empty_files"] == 1
    assert sum(counts.values()) >= 4
    assert set(counts) <= {
        "empty_files", "unreadable_files", "damaged_files", "truncated_packets", "malformed_rows"
    }, counts  # fmt: skip


# Addresses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("eve.json", "suricata"), ("eve-2026.json", "suricata"), ("conn.log", "log"), ("a.json", "log"),
        ("trace.pcap", "pcap"), ("trace.pcapng", "pcap"), ("trace.cap.gz", "pcap"), ("a.ipfix", "ipfix"),
        ("nfcapd.202603011000", "nfcapd"), ("folder", "folder"), ("flows", "nfcapd"),
    ],
)  # fmt: skip
def test_a_bare_path_is_known_by_what_it_is(tmp_path: Path, name: str, scheme: str) -> None:
    path = tmp_path / name
    if "." in name:
        path.write_text("x")
    else:
        path.mkdir()
        if scheme == "nfcapd":
            (path / "nfcapd.202603011000").write_text("x")
    assert type(open_feed(source_at(str(path)))) is type(open_feed(source_at(f"{scheme}:{path}")))
    assert type(open_reader(str(path), ReadOptions())) is type(open_reader(f"{scheme}:{path}", ReadOptions()))


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("udp://:2055", "", 2055), ("udp://0.0.0.0:9995", "0.0.0.0", 9995), ("udp://[::1]:4739", "::1", 4739),
        ("udp://localhost:0/", "localhost", 0),
    ],
)  # fmt: skip
def test_udp_addresses(address: str, host: str, port: int) -> None:
    found = source_at(address, allow=("10.0.0.0/8",), buffer_bytes=1 << 20, from_start=True)
    assert found == UdpConfig(address=address, allow=("10.0.0.0/8",), buffer_bytes=1 << 20)
    assert isinstance(found, UdpConfig)
    assert (found.host, found.port) == (host, port)
    assert open_reader(address, ReadOptions()) is None


@pytest.mark.parametrize(
    "address", ["udp://", "udp://host", "udp://:x", "udp://:70000", "udp://:2055/path", "tcp://:2055", "zeek:", "x"]
)
def test_what_means_nothing_is_refused(address: str) -> None:
    with pytest.raises(ConfigError):
        source_at(address)


def test_a_source_takes_the_settings_of_its_kind_and_no_others() -> None:
    made = SourceConfig.from_values({"address": "zeek:/var/log/conn.log", "from_start": True}, "[[source]]")
    assert as_values(made) == {"address": "zeek:/var/log/conn.log", "from_start": True}
    with pytest.raises(
        ConfigError, match=r"\[\[source\]\] zeek:/x: has no setting 'allow'. Known: address, from_start"
    ):
        SourceConfig.from_values({"address": "zeek:/x", "allow": []}, "[[source]]")
    with pytest.raises(ConfigError, match="lacks an address"):
        SourceConfig.from_values({"from_start": True}, "[[source]]")


@pytest.mark.parametrize("position", [{}, {"last": "a" * 100_000}, {"a": [1, None, "ä"]}])
@pytest.mark.parametrize("payload", [b"", b"\0" * 10, b"x" * 100_000])
def test_a_piece_and_its_position_are_packed_and_unpacked(position: dict[str, Any], payload: bytes) -> None:
    piece = Piece(payload, position)
    assert unpack_piece(pack_piece(piece)) == piece
