"""Captures of conversations whose flows are known, and these flows as an exporter should report them."""

from __future__ import annotations

import ipaddress
import struct
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import polars as pl

from tests.ingest.captures.packets import (
    ACK,
    RST,
    SYN,
    Packet,
    icmp_packet,
    tcp_conversation,
    tcp_packet,
    udp_conversation,
    udp_packet,
)

_Way = tuple[str, str, int, int, int]
_ICMP: Final = (1, 58)
_FLAGS: Final = "CEUAPRSF"
"""From the highest bit down, as nfdump writes them."""


class OneWay(NamedTuple):
    """One direction of a flow. dst_port: of ICMP, type * 256 + code; first_ms, last_ms: since 1970."""

    src: str
    dst: str
    src_port: int
    dst_port: int
    protocol: int
    num_bytes: int
    num_packets: int
    first_ms: int
    last_ms: int
    flags: int


def now_ms() -> int:
    """Return the clock, in whole milliseconds: exporters cut off the rest."""
    return time.time_ns() // 1_000_000


def conversations(net: int, begin_ms: int, *, num: int = 150, ipv6: bool = True) -> list[Packet]:
    """Make a few seconds of traffic within 10.NET.0.0/16 and 2001:db8:NET::/48, in order.

    Many flows between the same two hosts at once, ports changed over between them, connections without an answer,
    refused ones, long ones, ICMP.
    """
    packets: list[Packet] = []
    for i in range(num):
        start = (begin_ms + 10 * i) * 1000
        pair = f"10.{net}.0.{i % 7 + 1}", f"10.{net}.9.{i % 3 + 1}"
        packets += tcp_conversation(*pair, 40_000 + i, (443, 22, 8443)[i % 3], start_us=start, reply_bytes=700 * i)
        packets += udp_conversation(pair[0], f"10.{net}.9.53", 50_000 + i, 53, start_us=start + 2000)
        if ipv6:
            pair6 = f"2001:db8:{net}::{i % 5 + 1:x}", f"2001:db8:{net}:9::1"
            packets += tcp_conversation(*pair6, 41_000 + i, 443, start_us=start + 3000, request_bytes=5000)
            packets += udp_conversation(*pair6, 42_000 + i, 123, start_us=start + 3000)
        if i % 10 == 0:
            packets += _odd_ones(net, i, start + 4000, ipv6)
    packets += (udp_packet(f"10.{net}.3.1", f"10.{net}.3.2", 7000, 7001, bytes(1400), time_us=(begin_ms + 5 * i) * 1000)
                for i in range(300))  # fmt: skip
    return sorted(packets, key=lambda packet: packet.time_us)


def _odd_ones(net: int, i: int, start: int, ipv6: bool) -> Iterator[Packet]:
    src, dst = f"10.{net}.1.1", f"10.{net}.8.{i + 1}"
    yield tcp_packet(src, dst, 45_000 + i, 3389, flags=SYN, time_us=start)
    yield tcp_packet(src, dst, 45_000 + i, 3389, flags=SYN, time_us=start + 1_000_000)
    yield tcp_packet(src, dst, 46_000 + i, 25, flags=SYN, time_us=start)
    yield tcp_packet(dst, src, 25, 46_000 + i, flags=RST | ACK, time_us=start + 1000)
    for one, other in ((20_000, 21_000), (21_000, 20_000)):
        yield from udp_conversation(src, dst, one, other, start_us=start)
    yield icmp_packet(src, dst, 8, 0, time_us=start)
    yield icmp_packet(dst, src, 0, 0, time_us=start + 1000)
    yield icmp_packet(dst, src, 3, 3, time_us=start + 2000)
    if ipv6:
        src, dst = f"2001:db8:{net}:1::1", f"2001:db8:{net}:8::{i + 1:x}"
        yield icmp_packet(src, dst, 128, 0, time_us=start)
        yield icmp_packet(dst, src, 129, 0, time_us=start + 1000)


def true_flows(packets: Iterable[Packet], *, shift_ms: int = 0) -> Counter[OneWay]:
    """Return what an exporter reports that keeps both directions as one flow, as softflowd and nfprobe do: both then
    have the times of the first and the last packet of either.
    """
    ways: dict[_Way, list[int]] = {}
    spans: dict[tuple[int, frozenset[tuple[str, int]]], list[int]] = {}
    for packet in packets:
        way, num_bytes, flags = _header(packet.ip)
        total = ways.setdefault(way, [0, 0, 0])
        total[0] += num_bytes
        total[1] += 1
        total[2] |= flags
        at = packet.time_us // 1000 + shift_ms
        spans.setdefault(_flow_of(way), [at, at])[1] = at
    found: Counter[OneWay] = Counter()
    for way, (num_bytes, num_packets, flags) in ways.items():
        first, last = spans[_flow_of(way)]
        found[OneWay(*way, num_bytes, num_packets, first, last, flags)] += 1
    return found


def _flow_of(way: _Way) -> tuple[int, frozenset[tuple[str, int]]]:
    src, dst, src_port, dst_port, protocol = way
    return protocol, frozenset(((src, src_port), (dst, dst_port)))


def _header(ip: bytes) -> tuple[_Way, int, int]:
    if ip[0] >> 4 == 4:
        size, protocol, at, width = int.from_bytes(ip[2:4], "big"), ip[9], 12, 4
    else:
        size, protocol, at, width = 40 + int.from_bytes(ip[4:6], "big"), ip[6], 8, 16
    src, dst = (str(ipaddress.ip_address(ip[i : i + width])) for i in (at, at + width))
    rest = ip[at + 2 * width :]
    if protocol in _ICMP:
        return (src, dst, 0, rest[0] * 256 + rest[1], protocol), size, 0
    src_port, dst_port = struct.unpack_from(">HH", rest)
    return (src, dst, src_port, dst_port, protocol), size, rest[13] if protocol == 6 else 0


def written_flows(flows: pl.DataFrame) -> Counter[OneWay]:
    """Return Thalweg's flows, one direction at a time: an answer comes as a flow that has only `bwd_*`."""
    found: Counter[OneWay] = Counter()
    for row in flows.iter_rows(named=True):
        first = round(row["start"].timestamp() * 1000)
        span = first, first + round(row["duration_ms"])
        src, dst, src_port, dst_port = row["src_addr"], row["dst_addr"], row["src_port"], row["dst_port"]
        if row["fwd_packets"]:
            num = row["fwd_bytes"], row["fwd_packets"]
            found[OneWay(src, dst, src_port, dst_port, row["protocol"], *num, *span, row["tcp_flags"])] += 1
        if row["bwd_packets"]:
            if row["protocol"] not in _ICMP:
                src_port, dst_port = dst_port, src_port
            num = row["bwd_bytes"], row["bwd_packets"]
            found[OneWay(dst, src, src_port, dst_port, row["protocol"], *num, *span, row["tcp_flags"])] += 1
    return found


def untimed(flows: Counter[OneWay]) -> Counter[OneWay]:
    """Return flows without their times."""
    found: Counter[OneWay] = Counter()
    for flow, num in flows.items():
        found[flow._replace(first_ms=0, last_ms=0)] += num
    return found


def nfdump_flows(records: Iterable[Mapping[str, Any]]) -> Counter[OneWay]:
    """Return nfdump's records (`-o json`)."""
    return Counter(_nfdump_flow(record) for record in records)


def _nfdump_flow(record: Mapping[str, Any]) -> OneWay:
    protocol = record["proto"]
    ports = record.get("src_port", 0), record.get("dst_port", 0)
    if protocol in _ICMP:
        ports = 0, record["icmp_type"] * 256 + record["icmp_code"]
    flags = record.get("tcp_flags", "........") if protocol == 6 else "........"
    src, dst = (
        str(ipaddress.ip_address(record.get(f"{side}4_addr") or record[f"{side}6_addr"])) for side in ("src", "dst")
    )
    first, last = (_milliseconds(record[name]) for name in ("first", "last"))
    bits = sum(128 >> i for i, letter in enumerate(flags) if letter == _FLAGS[i])
    return OneWay(src, dst, *ports, protocol, record["in_bytes"], record["in_packets"], first, last, bits)


def _milliseconds(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)
