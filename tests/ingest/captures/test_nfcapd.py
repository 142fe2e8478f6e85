"""nfcapd's files -> records: against nfdump's own JSON, and by hand for what no exporter sends."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.ingest.captures.packets import packed
from thalweg.errors import SourceError
from thalweg.ingest.captures.nfcapd.file import MAX_ROWS, read_nfcapd
from thalweg.ingest.records import RECORD, Records, address_halves, address_text, flows_of
from thalweg.sinks.json_lines import lines_of
from thalweg.tally import Tally

NFDUMP, NFCAPD = shutil.which("nfdump"), shutil.which("nfcapd")
VERSION = (
    re.search(r"(\d+)\.(\d+)", subprocess.run([NFDUMP, "-V"], capture_output=True, check=False).stdout.decode())
    if NFDUMP
    else None
)
needs_nfdump = pytest.mark.skipif(
    NFDUMP is None or NFCAPD is None or VERSION is None or VERSION.groups() != ("1", "7"),
    reason="nfdump and nfcapd 1.7 are not installed",
)
SECONDS = 1_700_000_000
DEADLINE_S = 20.0


# Export packets ------------------------------------------------------------------------------------------------------


def v5_datagrams(num: int = 90) -> list[bytes]:
    datagrams = []
    for begin in range(0, num, 30):
        records = b"".join(
            packed(f"10.1.{i}.1")
            + packed(f"10.2.0.{i % 250}")
            + struct.pack(">IHHIIIIHHxBBBHHBBH", 0, 1, 2, i + 1, 100 * i + 7, 1000 + 3 * i, 1000 + 5 * i, 1024 + i,
                          *((0x0303, 0, 1) if i % 9 == 0 else (443, i % 64, 6)), 0, 0, 0, 0, 0, 0)
            for i in range(begin, begin + 30)
        )  # fmt: skip
        datagrams.append(struct.pack(">HHIIIIBBH", 5, 30, 60_000, SECONDS, 250_000_000, begin, 0, 0, 0) + records)
    return datagrams


def v9_datagrams(num: int = 400) -> list[bytes]:
    """IPv4 and IPv6, with counters of both directions (element 23 and 24) in every third, and the direction seen."""
    fields = [(21, 4), (22, 4), (1, 4), (2, 4), (7, 2), (11, 2), (4, 1), (6, 1), (61, 1)]
    v4, v6, both = [(8, 4), (12, 4)], [(27, 16), (28, 16)], [(23, 4), (24, 4)]
    layouts = {256: v4 + fields, 257: v6 + fields, 258: v4 + fields + both, 259: v6 + fields + both}
    templates = b"".join(
        struct.pack(">HH", ident, len(layout)) + b"".join(struct.pack(">HH", *field) for field in layout)
        for ident, layout in layouts.items()
    )

    def flow(i: int) -> tuple[int, bytes]:
        six, two_way = i % 2, i % 3 == 0
        ends = (f"2001:db8::{i:x}", "2001:db8:1::53") if six else (f"10.3.{i % 200}.9", "192.0.2.53")
        ports = (0, 0x0800, 1) if i % 10 == 4 else (30000 + i, 53, 17) if i % 5 else (30000 + i, 443, 6)
        octets = packed(ends[0]) + packed(ends[1])
        octets += struct.pack(">IIIIHHBBB", 2000 + 9 * i, 2000 + 2 * i, 5000 + i, 3 + i, *ports, i % 256, i % 2)
        return 256 + six + 2 * two_way, octets + (struct.pack(">II", 9000 + i, 11 + i) if two_way else b"")

    datagrams = []
    for sequence, begin in enumerate(range(0, num, 20)):
        sets = struct.pack(">HH", 0, 4 + len(templates)) + templates if begin == 0 else b""
        for ident, octets in map(flow, range(begin, begin + 20)):
            padding = b"\0" * (-len(octets) % 4)
            sets += struct.pack(">HH", ident, 4 + len(octets) + len(padding)) + octets + padding
        datagrams.append(struct.pack(">HHIIII", 9, 20, 90_000, SECONDS, sequence, 1) + sets)
    return datagrams


# nfcapd and nfdump ---------------------------------------------------------------------------------------------------

Collect = Callable[..., Path]


def _waiting(port: int) -> int | None:
    """Return how many bytes wait at a UDP port, None if nobody listens."""
    for line in Path("/proc/net/udp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].split(":")[1], 16) == port:
            return int(fields[4].split(":")[1], 16)
    return None


def _until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "nfcapd does not come on"
        try:
            process.wait(0.01)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError("nfcapd has ended")


@pytest.fixture(scope="module")
def collect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collect]:
    """Let nfcapd write a file of datagrams."""

    def collect_(datagrams: list[bytes], *options: str) -> Path:
        assert NFCAPD is not None
        folder = tmp_path_factory.mktemp("nfcapd")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        command = [NFCAPD, "-p", str(port), "-b", "127.0.0.1", "-w", str(folder), "-t", "3600", *options]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _until(lambda: _waiting(port) is not None, process)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                for datagram in datagrams:
                    sender.sendto(datagram, ("127.0.0.1", port))
                    _until(lambda: _waiting(port) == 0, process)
            process.terminate()
            process.wait(DEADLINE_S)
        finally:
            process.kill()
            process.wait()
        (path,) = [found for found in folder.iterdir() if "current" not in found.name]
        return path

    return (yield collect_)


def rows_of_nfdump(path: Path) -> list[dict[str, Any]]:
    assert NFDUMP is not None
    done = subprocess.run(
        [NFDUMP, "-r", str(path), "-o", "json"], capture_output=True, check=True, env={**os.environ, "TZ": "UTC"}
    )
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def _us(text: str) -> int:
    return round(datetime.fromisoformat(text + "+00:00").timestamp() * 1000) * 1000


def expected(row: dict[str, Any], sampling: int) -> dict[str, int]:
    """Make of a row of nfdump's JSON what its record should be."""
    family = "4" if "src4_addr" in row else "6"
    values: dict[str, int] = {}
    for side in ("src", "dst"):
        values[f"{side}_hi"], values[f"{side}_lo"] = address_halves(row[f"{side}{family}_addr"])
    letters = row["tcp_flags"] if row["proto"] == 6 else ""
    flags = sum(1 << bit for bit, letter in enumerate(reversed(letters)) if letter != ".")
    icmp = "icmp_type" in row
    out_bytes, out_packets = row.get("out_bytes", 0), row.get("out_packets", 0)
    return values | {
        "start_us": _us(row["first"]),
        "end_us": _us(row["last"]),
        "arrival_us": _us(row["received"]),
        "fwd_bytes": row["in_bytes"],
        "fwd_packets": row["in_packets"],
        "bwd_bytes": out_bytes,
        "bwd_packets": out_packets,
        "src_port": 0 if icmp else row["src_port"],
        "dst_port": row["icmp_type"] * 256 + row["icmp_code"] if icmp else row["dst_port"],
        "protocol": row["proto"],
        "tcp_flags": flags,
        "egress": row.get("direction", 0),
        "two_way": int(bool(out_bytes or out_packets)),
        "exporter": 0,
        "sampling": sampling if row["sampled"] else 1,
        "initiator": 0,
        "continued": 0,
    }


def read(path: Path, exporters: list[str] | None = None) -> tuple[Records, dict[str, int]]:
    tally = Tally()
    runs = list(read_nfcapd(path, [] if exporters is None else exporters, tally=tally))
    assert all(0 < len(run) <= MAX_ROWS for run in runs)
    return np.concatenate(runs) if runs else np.zeros(0, RECORD), tally.as_dict()


def as_dicts(records: Records) -> list[dict[str, int]]:
    names = RECORD.names or ()
    return [{name: int(record[name]) for name in names} for record in records]


@needs_nfdump
@pytest.mark.parametrize("options", [(), ("-z",), ("-y",), ("-j",)])
@pytest.mark.parametrize("datagrams", [v5_datagrams(), v9_datagrams()], ids=["v5", "v9"])
def test_records_are_those_of_nfdumps_json_field_for_field(
    collect: Collect, datagrams: list[bytes], options: tuple[str, ...]
) -> None:
    path = collect(datagrams, *options)
    exporters: list[str] = []
    records, counts = read(path, exporters)
    rows = rows_of_nfdump(path)
    assert len(rows) == (90 if len(datagrams) == 3 else 400)
    assert as_dicts(records) == [expected(row, 1) for row in rows]
    assert (exporters, counts) == (["127.0.0.1"], {})


@needs_nfdump
def test_records_hold_what_the_exporter_sent(collect: Collect) -> None:
    records, _ = read(collect(v9_datagrams()))
    boot_ms = SECONDS * 1000 - 90_000
    assert records["start_us"].tolist() == [(boot_ms + 2000 + 2 * i) * 1000 for i in range(400)]
    assert records["end_us"].tolist() == [(boot_ms + 2000 + 9 * i) * 1000 for i in range(400)]
    assert records["fwd_bytes"].tolist() == [5000 + i for i in range(400)]
    assert records["bwd_packets"].tolist() == [0 if i % 3 else 11 + i for i in range(400)]
    assert address_text(int(records["src_hi"][21]), int(records["src_lo"][21])) == "2001:db8::15"
    assert set(records["egress"].tolist()) == {0, 1}


@needs_nfdump
def test_sampling_is_known_and_counters_are_scaled(collect: Collect) -> None:
    path = collect(v5_datagrams(), "-s", "7")
    records, _ = read(path)
    assert as_dicts(records) == [expected(row, 7) for row in rows_of_nfdump(path)]
    assert records["fwd_packets"].tolist() == [7 * (i + 1) for i in range(90)]
    assert set(records["sampling"].tolist()) == {7}


# Files by hand -------------------------------------------------------------------------------------------------------


def element(kind: int, body: bytes) -> bytes:
    return struct.pack("<HH", kind, 4 + len(body)) + body


def generic(first: int = 5000, last: int = 9000, received: int = 9500, packets: int = 3, num_bytes: int = 300) -> bytes:
    return element(1, struct.pack("<QQQQQHHBBBB", first, last, received, packets, num_bytes, 1024, 53, 17, 0, 0, 0))


V4 = element(2, struct.pack("<II", 0x0A000001, 0x0A000002))


def record(*elements: bytes, flags: int = 0, sysid: int = 1) -> bytes:
    body = b"".join(elements)
    return struct.pack("<HHHBBHBB", 11, 12 + len(body), len(elements), 0, 0, sysid, flags, 9) + body


def block(*records: bytes, num: int | None = None) -> bytes:
    body = b"".join(records)
    return struct.pack("<IIHH", len(records) if num is None else num, len(body), 3, 0) + body


def file_of(path: Path, *blocks: bytes, version: int = 0x01070100, compression: int = 0, layout: int = 2) -> Path:
    head = struct.pack("<HHIqBBHIqII", 0xA50C, layout, version, 0, compression, 0, 0, 0, 0, 0, len(blocks))
    path.write_bytes(head + b"".join(blocks))
    return path


def test_exporters_and_samplers_are_distinguished(tmp_path: Path) -> None:
    address = struct.pack("<QQ", *address_halves("2001:db8::9"))
    path = file_of(
        tmp_path / "a",
        block(
            struct.pack("<HHI16sHHI", 7, 32, 9, struct.pack("<QII", 0, 0x7F000001, 0), 2, 1, 0),
            struct.pack("<HHI16sHHI", 7, 32, 10, address, 10, 2, 0),
            struct.pack("<HHHHqII", 15, 24, 1, 0, 4, 1, 99),
            struct.pack("<HHHHqII", 15, 24, 1, 0, 5, 1, 9),
            struct.pack("<HHHHqII", 15, 24, 2, 0, -1, 1, 1),
            record(generic(), V4, element(18, struct.pack("<QHH", 4, 1, 0)), flags=2),
            record(generic(), V4, element(18, struct.pack("<QHH", 5, 1, 0)), flags=2),
            record(generic(), V4, flags=2, sysid=2),
            record(generic(), V4, sysid=2),
            record(generic(), V4, sysid=3),
        ),
    )  # fmt: skip
    exporters = ["before"]
    records, counts = read(path, exporters)
    assert exporters == ["before", "127.0.0.1", "2001:db8::9", "nfcapd"]
    assert records["exporter"].tolist() == [1, 1, 2, 2, 3]
    assert records["sampling"].tolist() == [100, 10, 2, 1, 1]
    assert counts == {}


def test_every_record_is_a_flow_or_counted(tmp_path: Path) -> None:
    event = element(19, struct.pack("<QIHBB", 7000, 0, 0, 1, 0))
    path = file_of(
        tmp_path / "a",
        block(
            record(generic(), V4),
            record(generic()),
            record(V4),
            record(generic(), V4[:6] + b"\0\0"),
            record(generic(0, 0, 0, 0, 0), V4, event, flags=1),
            record(generic(0, 0, 9500), V4, event, flags=1),
            record(generic(9000, 5000), V4),
            record(generic(90_000_000_000, 5000), V4),
            record(generic(0, 0, 0), V4),
            struct.pack("<HH", 10, 8) + bytes(4),
            struct.pack("<HH", 8, 8) + bytes(4),
        ),
        block(record(generic(), V4), struct.pack("<HH", 11, 0), num=5),
    )
    records, counts = read(path)
    assert (records["start_us"] // 1000).tolist() == [5000, 7000, 5000, 90_000_000_000, 0, 5000]
    assert (records["end_us"] // 1000).tolist() == [9000, 7000, 9000, 90_000_000_000, 0, 9000]
    assert counts == {"malformed_rows": 4 + 4, "event_records": 1, "reversed_times": 2}


@pytest.mark.parametrize(
    ("elements", "destination", "port"),
    [
        (
            (element(20, struct.pack("<II", 1, 0xC0A80009)), element(22, struct.pack("<HH", 1, 8080))),
            "192.168.0.9",
            8080,
        ),
        ((element(20, struct.pack("<II", 1, 0xC0A80009)),), "192.168.0.9", 53),
        ((element(20, struct.pack("<II", 1, 0)), element(22, struct.pack("<HH", 1, 8080))), "10.0.0.2", 53),
        ((element(20, struct.pack("<II", 1, 0x0A000002)), element(22, struct.pack("<HH", 1, 0))), "10.0.0.2", 53),
        ((element(21, struct.pack("<QQQQ", 1, 1, 0x20010DB8 << 32, 9)),), "2001:db8::9", 53),
        # With counters of the opposite direction the address is the inner one (FortiOS), unless of an event (ASA).
        ((element(20, struct.pack("<II", 0, 0xCB007101)), element(5, struct.pack("<QQQ", 1, 2, 3))), "10.0.0.2", 53),
        (
            (
                element(20, struct.pack("<II", 0, 0xC0A80009)),
                element(5, struct.pack("<QQQ", 1, 2, 3)),
                element(19, struct.pack("<QIHBB", 7000, 0, 0, 2, 0)),
            ),
            "192.168.0.9",
            53,
        ),
    ],
)
def test_the_destination_is_the_one_after_nat(
    tmp_path: Path, elements: tuple[bytes, ...], destination: str, port: int
) -> None:
    records, counts = read(file_of(tmp_path / "a", block(record(generic(), V4, *elements))))
    (one,) = records
    assert (address_text(int(one["dst_hi"]), int(one["dst_lo"])), one["dst_port"]) == (destination, port)
    assert counts == ({} if destination == "10.0.0.2" else {"translated_destinations": 1})


@needs_nfdump
def test_nat_that_nfcapd_wrote_is_read(collect: Collect) -> None:
    fields = ((8, 4), (12, 4), (7, 2), (11, 2), (4, 1), (1, 4), (2, 4), (22, 4), (21, 4), (225, 4), (226, 4), (227, 2),
              (228, 2))  # fmt: skip
    template = struct.pack(">HH", 256, len(fields)) + b"".join(struct.pack(">HH", *field) for field in fields)
    octets = packed("198.51.100.7") + packed("203.0.113.77") + struct.pack(">HHBIIII", 443, 61000, 6, 7, 1, 1000, 2000)
    octets += packed("198.51.100.7") + packed("192.0.2.10") + struct.pack(">HH", 443, 40000)
    sets = struct.pack(">HH", 0, 4 + len(template)) + template + struct.pack(">HH", 256, 4 + len(octets)) + octets
    records, counts = read(collect([struct.pack(">HHIIII", 9, 2, 90_000, SECONDS, 0, 1) + sets]))
    (one,) = records
    assert (address_text(int(one["dst_hi"]), int(one["dst_lo"])), one["dst_port"]) == ("192.0.2.10", 40000)
    assert counts == {"translated_destinations": 1}


def test_a_file_cut_anywhere_gives_its_whole_records(tmp_path: Path) -> None:
    first, second = block(*[record(generic(), V4)] * 3), block(record(generic(), V4))
    whole = file_of(tmp_path / "a", first, second).read_bytes()
    full = read(tmp_path / "a")[0]
    assert len(full) == 4
    for size in range(40, len(whole)):
        (tmp_path / "b").write_bytes(whole[:size])
        records, counts = read(tmp_path / "b")
        assert np.array_equal(records, full[: len(records)])
        if size in (40, 40 + len(first)):  # as a file does that is still being written
            assert (len(records), counts) == (3 * (size > 40), {})
        else:
            assert counts["damaged_files"] == 1
            # If the block's header is whole, it has the number of records.
            assert len(records) + counts.get("malformed_rows", 0) == (
                0 if size < 52 else 3 if size < 52 + len(first) else 4
            )


def test_runs_are_of_bounded_size_and_lose_nothing(tmp_path: Path) -> None:
    one = [record(generic(first=i), V4) for i in range(1, 1001)]
    path = file_of(tmp_path / "a", *[block(*one)] * 450)
    runs = list(read_nfcapd(path, [], tally=Tally()))
    assert [len(run) for run in runs] == [200_000, 200_000, 50_000]
    assert (np.concatenate(runs)["start_us"].reshape(450, 1000) == 1000 * np.arange(1, 1001)).all()


def test_what_cannot_be_read_is_refused_with_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    for content, message in ((b"", "is empty"), (b"src,dst\n", "not a file of nfcapd")):
        path.write_bytes(content)
        with pytest.raises(SourceError, match=message):
            read(path)
    with pytest.raises(SourceError, match="check the path"):
        read(tmp_path / "missing")
    with pytest.raises(SourceError, match=r"byte 40: the file is damaged"):
        read(file_of(path, struct.pack("<IIHH", 1, 1 << 30, 3, 0)))
    monkeypatch.setenv("PATH", str(tmp_path))
    for kind in ({"compression": 3}, {"layout": 1}, {"version": 0x01080000}):
        with pytest.raises(SourceError, match="apt-get install nfdump"):
            read(file_of(path, block(record(generic(), V4)), **kind))


def test_an_nfdump_that_writes_another_layout_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    older = file_of(tmp_path / "older", block(record(generic(), V4)), layout=1)
    program = tmp_path / "nfdump"
    program.write_text(f'#!/bin/sh\nwhile [ "$1" != -w ]; do shift; done\ncp {older} "$2"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(SourceError, match=r"install nfdump 1\.7"):
        read(file_of(tmp_path / "a", block(record(generic(), V4)), compression=3))


@needs_nfdump
def test_flows_that_nfdump_passes_over_in_silence_are_counted(collect: Collect, tmp_path: Path) -> None:
    content = bytearray(collect(v9_datagrams(), "-j").read_bytes())
    content[100:140] = bytes(40)
    (tmp_path / "a").write_bytes(content)
    records, counts = read(tmp_path / "a")
    assert (len(records), counts) == (0, {"malformed_rows": 400, "damaged_files": 1})


def test_times_that_no_datetime_holds_are_none(tmp_path: Path) -> None:
    far = (1 << 63) - 1
    path = file_of(
        tmp_path / "a",
        block(
            record(generic(far, far, far), V4),
            record(generic(1 << 63, 9000, 9500), V4),
            record(generic(5000, 253_402_300_800_000, 9500), V4),
            record(generic(), V4),
        ),
    )
    records, counts = read(path)
    flows = flows_of([records], ["nfcapd"])
    assert flows.frame["start"].is_null().to_list() == [True, False, False, False]
    assert (records["start_us"][1:] // 1000).tolist() == [9000, 5000, 5000]
    assert (records["end_us"][1:] // 1000).tolist() == [9000, 5000, 9000]
    assert counts == {"unreadable_values": 3}
    list(lines_of(flows.frame))


def test_samplers_are_bounded(tmp_path: Path) -> None:
    samplers = [struct.pack("<HHHHqII", 15, 24, 1, 0, ident, 1, 99) for ident in range(300)]
    path = file_of(
        tmp_path / "a", block(*samplers, record(generic(), V4, element(18, struct.pack("<QHH", 4, 1, 0)), flags=2))
    )
    records, counts = read(path)
    assert records["sampling"].tolist() == [100]
    assert counts == {"refused_samplers": 44}


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("exec sleep 60", "takes too long"),
        ("exec sleep 60 2>&-", "takes too long"),
        ("while :; do echo trouble >&2; done", "prints errors without end|trouble"),
        ("kill -SEGV $$", "nfdump ended with -11"),
    ],
)
def test_an_nfdump_that_fails_over_a_damaged_file_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, complaint: str
) -> None:
    (tmp_path / "nfdump").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "nfdump").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("thalweg.ingest.captures.nfcapd.file._LEAST_S", 0.3)
    path = file_of(tmp_path / "a", block(record(generic(), V4)), compression=1)
    with pytest.raises(SourceError, match=f"nfdump cannot read it .*{complaint}"):
        read(path)
