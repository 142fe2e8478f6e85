"""Dialects of sensors, collectors and clouds, from small hand-written logs."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from thalweg.errors import SchemaError
from thalweg.ingest import read
from thalweg.ingest.feeds.logs.reader import LogReader
from thalweg.ingest.tabular.dialects.recognition import recognise

FLOW: dict[str, Any] = {
    "timestamp": "2026-03-01T10:00:05.000001+0100", "flow_id": 1, "in_iface": "eth0", "event_type": "flow",
    "src_ip": "10.0.0.1", "src_port": 50000, "dest_ip": "10.0.0.2", "dest_port": 443, "proto": "TCP",
    "app_proto": "tls",
    "flow": {
        "pkts_toserver": 10, "pkts_toclient": 8, "bytes_toserver": 1420, "bytes_toclient": 9800,
        "start": "2026-03-01T10:00:00.250000+0100", "end": "2026-03-01T10:00:01.500000+0100", "age": 1,
        "state": "closed", "reason": "timeout", "alerted": False,
    },
    "tcp": {"tcp_flags": "1b", "tcp_flags_ts": "1b", "syn": True},
}  # fmt: skip
PING: dict[str, Any] = {
    "timestamp": "2026-03-01T10:00:06.000001+0100", "flow_id": 2, "event_type": "flow", "src_ip": "fe80::1",
    "dest_ip": "fe80::2", "proto": "IPv6-ICMP", "icmp_type": 128, "icmp_code": 0,
    "flow": {
        "pkts_toserver": 1, "pkts_toclient": 0, "bytes_toserver": 70, "bytes_toclient": 0,
        "start": "2026-03-01T10:00:00.000000+0100", "end": "2026-03-01T10:00:00.000000+0100", "age": 0,
    },
}  # fmt: skip
STATS: dict[str, Any] = {"timestamp": "2026-03-01T10:00:05.1+0100", "event_type": "stats", "stats": {"uptime": 8}}
ALERT: dict[str, Any] = FLOW | {"event_type": "alert", "flow": {"bytes_toserver": "many"}, "tcp": "none", "x": [1]}
NETFLOW: dict[str, Any] = FLOW | {"event_type": "netflow", "netflow": {"pkts": 1}}
SPEC = '"event_type":"flow" is text here'


def log(path: Path, *lines: dict[str, Any] | str, spaced: bool = False) -> Path:
    separators = None if spaced else (",", ":")
    texts = [line if isinstance(line, str) else json.dumps(line, separators=separators) for line in lines]
    path.write_text("\n".join(texts) + "\n")
    return path


@pytest.mark.parametrize("spaced", [False, True])
def test_suricata_flows_among_other_events(tmp_path: Path, spaced: bool) -> None:
    quoting = STATS | {"note": SPEC}
    path = log(tmp_path / "eve.json", STATS, FLOW, ALERT, NETFLOW, quoting, PING, spaced=spaced)
    flows = read(path)
    assert flows.frame.to_dicts() == [
        {
            "row": 1, "start": datetime(2026, 3, 1, 9, 0, 0, 250_000, UTC), "duration_ms": 1250.0,
            "src_addr": "10.0.0.1", "dst_addr": "10.0.0.2", "fwd_bytes": 1420, "bwd_bytes": 9800,
            "src_port": 50000, "dst_port": 443, "protocol": 6, "tcp_flags": 0x1B, "fwd_packets": 10,
            "bwd_packets": 8,
        },
        {
            "row": 5, "start": datetime(2026, 3, 1, 9, tzinfo=UTC), "duration_ms": 0.0, "src_addr": "fe80::1",
            "dst_addr": "fe80::2", "fwd_bytes": 70, "bwd_bytes": 0, "src_port": None, "dst_port": 128 * 256,
            "protocol": 58, "tcp_flags": None, "fwd_packets": 1, "bwd_packets": 0,
        },
    ]  # fmt: skip
    assert flows.tally.as_dict() == {"other_events": 4}
    assert "line 1" in flows.tally.lines()[0]
    assert flows.source is not None
    assert "flow.start" not in flows.source.columns
    assert json.loads(flows.source["flow"][0]) == FLOW["flow"]


def test_suricata_flows_that_begin_deep_in_the_log(tmp_path: Path) -> None:
    num = 40_000
    path = tmp_path / "eve.json"
    stats = json.dumps(ALERT, separators=(",", ":")) + "\n"
    path.write_text(stats * num + json.dumps(FLOW) + "\n" + "{broken\n")
    flows = read(path)
    assert flows.frame.select("row", "duration_ms", "fwd_bytes", "src_port").row(0) == (num, 1250.0, 1420, 50000)
    assert flows.tally["other_events"] == num
    assert flows.tally["malformed_rows"] == 1


def test_flags_that_are_not_hexadecimal_are_counted(tmp_path: Path) -> None:
    path = log(tmp_path / "eve.json", FLOW | {"tcp": {"tcp_flags": "none"}}, FLOW)
    flows = read(path)
    assert flows.frame["tcp_flags"].to_list() == [None, 27]
    assert flows.tally.as_dict() == {"unreadable_values": 1}


def test_values_inside_objects_can_be_mapped(tmp_path: Path) -> None:
    row = {"a": "10.0.0.1", "b": "10.0.0.2", "n": {"up": 5, "down": 6}, "took": 7}
    mapping = {"src_addr": "a", "dst_addr": "b", "fwd_bytes": "n.up", "bwd_bytes": "n.down", "duration_ms": "took"}
    flows = read(log(tmp_path / "x.json", row, row | {"n": "gone"}, row), mapping=mapping)
    assert flows.frame["fwd_bytes"].to_list() == [5, 5]
    assert flows.tally.as_dict() == {"malformed_rows": 1}
    with pytest.raises(SchemaError, match=r"did you mean 'n\.down'"):
        read(log(tmp_path / "x.json", row), mapping=mapping | {"bwd_bytes": "n.don"})


VPC = (
    "version account-id interface-id srcaddr dstaddr srcport dstport protocol packets bytes start end action log-status"
)
VPC_ROWS = (
    "2 012345678901 eni-1 172.31.16.139 172.31.16.21 20641 22 6 20 4249 1418530010 1418530070 ACCEPT OK\n"
    "2 012345678901 eni-1 - - - - - - - 1418530010 1418530070 - NODATA\n"
    "2 012345678901 eni-1 172.31.9.69 172.31.9.12 49761 3389 6 1 40 1418530010 1418530010 REJECT OK\n"
    "2 012345678901 eni-1 - - - - - - - 1418530010 1418530070 - SKIPDATA\n"
)


@pytest.mark.parametrize("kind", ["header", "no header", "prefixed", "gzip", "parquet"])
def test_vpc(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "vpc.log"
    text = VPC_ROWS if kind == "no header" else f"{VPC}\n{VPC_ROWS}"
    if kind == "prefixed":
        text = "".join(f"2014-12-14T04:07:50.000Z {line}\n" for line in VPC_ROWS.splitlines())
    path.write_bytes(gzip.compress(text.encode()) if kind == "gzip" else text.encode())
    if kind == "parquet":
        frame = pl.read_csv(path, separator=" ", null_values="-", schema_overrides={"account-id": pl.String})
        path = tmp_path / "vpc.parquet"
        frame.rename(lambda name: name.replace("-", "_")).write_parquet(path)
    flows = read(path)
    first = datetime(2014, 12, 14, 4, 6, 50, tzinfo=UTC)
    assert flows.frame.drop("row").rows() == [
        (first, 60_000.0, "172.31.16.139", "172.31.16.21", 4249, 0, 20641, 22, 6, 20, "eni-1"),
        (first, 0.0, "172.31.9.69", "172.31.9.12", 40, 0, 49761, 3389, 6, 1, "eni-1"),
    ]
    assert flows.frame["row"].to_list() == [0, 2]
    assert flows.tally.as_dict() == {"no_data_rows": 2}
    assert flows.source is not None
    assert flows.source["action"].to_list() == ["ACCEPT", "REJECT"]
    assert flows.source[:, "account_id" if kind == "parquet" else "account-id"].to_list() == ["012345678901"] * 2


def test_vpc_addresses_are_those_of_the_packet_where_both_are_known(tmp_path: Path) -> None:
    path = log(
        tmp_path / "vpc.log",
        "srcaddr dstaddr bytes start end pkt-srcaddr pkt-dstaddr tcp-flags",
        "10.0.0.5 10.0.1.5 840 1700000000 1700000060 10.9.9.9 10.0.1.5 2",
        "10.0.0.6 10.0.1.6 840 1700000000 1700000060 - 10.8.8.8 -",
        "- - - 1700000000 1700000060 - - -",
    )
    flows = read(path)
    assert flows.frame.select("src_addr", "dst_addr", "tcp_flags").rows() == [
        ("10.9.9.9", "10.0.1.5", 2),
        ("10.0.0.6", "10.0.1.6", None),
    ]
    assert flows.tally.as_dict() == {"no_data_rows": 1}


GOFLOW: dict[str, Any] = {
    "type": "IPFIX", "time_received_ns": 1767324720787460121, "sequence_num": 65361, "sampling_rate": 0,
    "sampler_address": "192.168.88.1", "time_flow_start_ns": 1767324720000000000,
    "time_flow_end_ns": 1767324721500000000, "bytes": 143, "packets": 2, "src_addr": "192.168.89.2",
    "dst_addr": "192.168.88.30", "etype": "IPv4", "proto": "UDP", "src_port": 53, "dst_port": 55743,
    "tcp_flags": 0, "icmp_type": 0, "icmp_code": 0, "as_path": [],
}  # fmt: skip


def test_goflow2(tmp_path: Path) -> None:
    sampled = GOFLOW | {"type": "SFLOW_5", "sampling_rate": 100, "packets": 1, "proto": "TCP", "tcp_flags": 18}
    timeless = GOFLOW | {"time_flow_start_ns": 0, "time_flow_end_ns": 0, "proto": "ICMP", "icmp_type": 8, "dst_port": 0}
    flows = read(log(tmp_path / "goflow.json", GOFLOW, sampled, timeless))
    start, later = datetime(2026, 1, 2, 3, 32, tzinfo=UTC), datetime(2026, 1, 2, 3, 32, 0, 787_460, UTC)
    ends = ("192.168.89.2", "192.168.88.30")
    assert flows.frame.drop("row").rows() == [
        (start, 1500.0, *ends, 143, 0, 53, 55743, 17, 0, 2, "192.168.88.1", None),
        (start, 1500.0, *ends, 14300, 0, 53, 55743, 6, 18, 100, "192.168.88.1", 100),
        (later, 0.0, *ends, 143, 0, 53, 2048, 1, 0, 2, "192.168.88.1", None),
    ]
    assert not flows.tally


@pytest.mark.parametrize(
    ("octets", "rate", "scaled"),
    [
        (2**63, 2, 2**64 - 1),
        (2**63 - 1, 2, 2**64 - 2),
        (2**64 - 1, 1, 2**64 - 1),
        (2**33, 2**32 - 1, 2**64 - 1),
        (0, 2**32 - 1, 0),
    ],
)
def test_counts_that_are_scaled_beyond_64_bits_stay_at_the_largest(octets: int, rate: int, scaled: int) -> None:
    from thalweg.ingest.tabular.dialects.collectors import _scaled

    schema = pl.Schema({"bytes": pl.UInt64, "sampling_rate": pl.UInt64})
    frame = pl.DataFrame({"bytes": [octets], "sampling_rate": [rate]}, schema=schema)
    assert frame.select(_scaled("bytes", "sampling_rate")[0].expr(schema)).item() == scaled


def test_goflow2_with_times_as_text(tmp_path: Path) -> None:
    times = {"time_flow_start_ns": "2026-01-02T03:32:00Z", "time_flow_end_ns": "2026-01-02T03:32:01.5Z"}
    flows = read(log(tmp_path / "goflow.json", GOFLOW | times))
    assert flows.frame.select("start", "duration_ms").row(0) == (datetime(2026, 1, 2, 3, 32, tzinfo=UTC), 1500.0)


@pytest.mark.parametrize("unit", ["", "Ms"])
def test_goflow2_before_version_2(tmp_path: Path, unit: str) -> None:
    row = {
        "Type": 2, "TimeReceived": 1727959923, "SequenceNum": 20362, "SamplingRate": 10, "SamplerAddress": "10.0.0.9",
        "TimeFlowStart": 1727959921, "TimeFlowEnd": 1727959923, "Bytes": 944, "Packets": 3, "SrcAddr": "10.154.20.12",
        "DstAddr": "10.154.20.13", "Proto": 6, "SrcPort": 9010, "DstPort": 443, "TcpFlags": 27,
    }  # fmt: skip
    if unit:
        row |= {"TimeFlowStartMs": 1727959921518, "TimeFlowEndMs": 1727959921619}
    frame = read(log(tmp_path / "old.json", row)).frame
    assert frame["start"][0] == datetime(2024, 10, 3, 12, 52, 1, 518_000 if unit else 0, UTC)
    assert frame.drop("row", "start").row(0) == (
        101.0 if unit else 2000.0, "10.154.20.12", "10.154.20.13", 9440, 0, 9010, 443, 6, 27, 30, "10.0.0.9", 10,
    )  # fmt: skip


def test_pmacct(tmp_path: Path) -> None:
    row: dict[str, Any] = {
        "label": {}, "peer_ip_src": "192.168.100.1", "ip_src": "213.3.216.138", "ip_dst": "213.3.216.137",
        "port_src": 44187, "port_dst": 179, "tcp_flags": ["ACK", "PSH"], "ip_proto": "tcp", "tos": 192,
        "timestamp_start": "1691258320.000000", "timestamp_end": "1691258321.500000", "packets": 1, "flows": None,
        "bytes": 60,
    }  # fmt: skip
    purge = {"event_type": "purge", "tcp_flags": "27", "timestamp_start": "2026-01-01 00:00:00.5"}
    purge |= {"timestamp_end": "2026-01-01 00:00:01", "ip_proto": "gre"}
    flows = read(log(tmp_path / "m.json", row, row | purge, {"event_type": "purge_close", "writer_id": "w"}))
    ends = ("213.3.216.138", "213.3.216.137")
    assert flows.frame.drop("row").rows() == [
        (datetime(2023, 8, 5, 17, 58, 40, tzinfo=UTC), 1500.0, *ends, 60, 0, 44187, 179, 6, 24, 1, "192.168.100.1"),
        (datetime(2026, 1, 1, 0, 0, 0, 500_000, UTC), 500.0, *ends, 60, 0, 44187, 179, 47, 27, 1, "192.168.100.1"),
    ]
    assert flows.tally.as_dict() == {"other_events": 1}


def test_neighbours_are_not_claimed() -> None:
    table = ["event_type", "timestamp", "duration_ms", "src_addr", "dst_addr", "fwd_bytes", "bwd_bytes", "start", "end"]
    assert recognise(table).dialect == "thalweg"
    assert recognise(table).others is None
    assert recognise([*GOFLOW]).dialect == "goflow2"
    assert recognise(VPC.split()).one_way
    with pytest.raises(SchemaError, match="no column for 'duration_ms'"):
        recognise(["ip_src", "ip_dst", "bytes", "packets", "event_type"])


ZEEK: dict[str, Any] = {
    "ts": 1700000000.5, "id.orig_h": "192.0.2.1", "id.orig_p": 40000, "id.resp_h": "198.51.100.7", "id.resp_p": 443,
    "proto": "tcp", "duration": 1.5, "orig_bytes": 300, "resp_bytes": 4000, "conn_state": "SF",
}  # fmt: skip
DNS: dict[str, Any] = {
    "ts": 1700000000.5, "uid": "C", "id.orig_h": "192.0.2.1", "id.orig_p": 5353, "id.resp_h": "198.51.100.53",
    "id.resp_p": 53, "proto": "udp", "query": "example.com",
}  # fmt: skip


@pytest.mark.parametrize("spaced", [False, True])
def test_other_logs_of_zeek_in_the_same_stream_are_no_flows(tmp_path: Path, spaced: bool) -> None:
    conn, dns = {"_path": "conn", **ZEEK}, {"_path": "dns", **DNS}
    files = {"_path": "files", "ts": 1.5, "fuid": "F"}
    long = {"_path": "conn_long", **ZEEK}
    path = log(tmp_path / "z.json", files, dns, conn, long, dns, conn | {"conn_state": None}, conn, spaced=spaced)
    flows = read(path)
    assert flows.frame.select("row", "duration_ms", "fwd_bytes", "dst_port").rows() == [
        (2, 1500.0, 300, 443),
        (6, 1500.0, 300, 443),
    ]
    assert flows.tally.as_dict() == {"other_events": 5}


@pytest.mark.parametrize("dialect", [None, "zeek"])
def test_a_stream_of_zeek_may_begin_with_other_logs(tmp_path: Path, dialect: str | None) -> None:
    num = 60_000
    dns = json.dumps({"_path": "dns", **DNS}) + "\n"
    path = tmp_path / "z.json"
    path.write_text(dns * num + json.dumps({"_path": "conn", **ZEEK}) + "\n")
    flows = read(path, dialect=dialect)
    assert flows.frame.select("row", "fwd_bytes", "src_port").row(0) == (num, 300, 40000)
    assert flows.tally["other_events"] == num
    assert "label" not in flows.frame.columns
    reader = LogReader()
    assert not list(reader.read((dns * 3).encode(), 0))
    assert reader.tally.as_dict() == {"other_events": 3}


def test_rows_of_zeek_without_a_state_are_no_flows(tmp_path: Path) -> None:
    flows = read(log(tmp_path / "z.json", ZEEK, DNS, ZEEK))
    assert (len(flows), flows.tally.as_dict()) == (2, {"other_events": 1})


PMACCT_FLOW: dict[str, Any] = {
    "event_type": "purge", "ip_src": "192.0.2.1", "ip_dst": "198.51.100.7", "bytes": 840, "packets": 10,
    "timestamp_start": "2024-05-01 10:00:00.000000", "timestamp_end": "2024-05-01 10:00:05.000000",
}  # fmt: skip


@pytest.mark.parametrize(
    ("start", "end", "wanted_ms", "counts"),
    [
        ("2024-05-01 10:00:00.5", "2024-05-01 10:00:05.5", 5000.0, {}),
        ("2024-05-01 10:00:00.5", "0000-00-00 00:00:00.000000", 0.0, {"corrected_times": 1}),
        ("2024-05-01 10:00:00.5", "1970-01-01 00:00:00.000000", 0.0, {"corrected_times": 1}),
        ("2024-05-01 10:00:00.5", "1970-01-01T00:00:00Z", 0.0, {"corrected_times": 1}),
        ("2024-05-01 10:00:00.5", 0, 0.0, {"corrected_times": 1}),
        ("2024-05-01 10:00:00.5", None, 0.0, {"corrected_times": 1}),
        ("2024-05-01 10:00:00.5", "2024-05-01 09:00:00", 0.0, {"corrected_times": 1}),
        ("2024-05-01 10:00:00.5", "2024-06-01 10:00:00", 0.0, {"corrected_times": 1}),
    ],
)
def test_an_end_that_is_missing_or_impossible_gives_no_duration(
    tmp_path: Path, start: object, end: object, wanted_ms: float, counts: dict[str, int]
) -> None:
    times = {"timestamp_start": start, "timestamp_end": end}
    flows = read(log(tmp_path / "p.json", PMACCT_FLOW, PMACCT_FLOW | times))
    assert flows.frame["duration_ms"].to_list() == [5000.0, wanted_ms]
    assert flows.frame["start"][1] == datetime(2024, 5, 1, 10, 0, 0, 500_000, UTC)
    assert flows.tally.as_dict() == counts


def test_a_start_that_is_missing_is_the_end(tmp_path: Path) -> None:
    zero = {"timestamp_start": "0000-00-00 00:00:00"}
    soon = zero | {"timestamp_end": "soon"}
    flows = read(log(tmp_path / "p.json", PMACCT_FLOW | zero, PMACCT_FLOW | soon, PMACCT_FLOW))
    assert flows.frame["start"][0] == datetime(2024, 5, 1, 10, 0, 5, tzinfo=UTC)
    assert flows.frame["duration_ms"].to_list() == [0.0, 0.0, 5000.0]
    assert flows.tally["corrected_times"] == 2


def test_goflow2_ends_of_zero_and_starts_after_the_receipt(tmp_path: Path) -> None:
    start, received = GOFLOW["time_flow_start_ns"], GOFLOW["time_received_ns"]
    rows = [
        {"time_flow_end_ns": 0},
        {"time_flow_start_ns": 0},
        {"time_flow_end_ns": start - 5_000_000_000},
        {"time_flow_start_ns": 5008454549467889664, "time_flow_end_ns": 5008454549467889664},
    ]
    flows = read(log(tmp_path / "g.json", GOFLOW, *(GOFLOW | row for row in rows)))
    assert flows.frame["duration_ms"].to_list() == [1500.0, 0.0, 0.0, 0.0, 0.0]
    first, seen = (datetime.fromtimestamp(ns // 1000 / 1e6, UTC) for ns in (start, received))
    assert flows.frame["start"].to_list() == [first, first, seen, first, seen]
    assert flows.tally.as_dict() == {"corrected_times": 4}


@pytest.mark.parametrize("end", ["2026-03-01T09:00:00.000000+0100", None])
def test_suricata_flows_that_end_before_they_start_last_no_time(tmp_path: Path, end: str | None) -> None:
    odd = FLOW | {"flow": FLOW["flow"] | {"end": end}}
    flows = read(log(tmp_path / "eve.json", FLOW, odd))
    assert flows.frame["duration_ms"].to_list() == [1250.0, 0.0]
    assert flows.tally.as_dict() == {"corrected_times": 1}


def test_the_csv_of_pmacct(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text(
        "PEER_SRC_IP,SRC_IP,DST_IP,SRC_PORT,DST_PORT,TCP_FLAGS,PROTOCOL,TIMESTAMP_START,TIMESTAMP_END,PACKETS,BYTES\n"
        "203.0.113.1,192.0.2.1,198.51.100.7,4000,443,27,tcp,2024-05-01 10:00:00.5,2024-05-01 10:00:05.5,10,840\n"
        "203.0.113.1,192.0.2.1,198.51.100.7,4000,443,27,tcp,2024-05-01 10:00:00.5,0000-00-00 00:00:00,10,840\n"
    )
    flows = read(path)
    flow = ("192.0.2.1", "198.51.100.7", 840, 0, 4000, 443, 6, 27, 10, "203.0.113.1")
    first = datetime(2024, 5, 1, 10, 0, 0, 500_000, UTC)
    assert flows.frame.drop("row").rows() == [(first, 5000.0, *flow), (first, 0.0, *flow)]
    assert flows.tally.as_dict() == {"corrected_times": 1}
