"""Dialects of sensors, collectors and clouds: Suricata, AWS VPC flow logs, goflow2, pmacct."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import polars as pl

from thalweg.ingest.tabular.dialects.rules import (
    Dialect,
    Others,
    Rule,
    Schema,
    between,
    given,
    is_unset,
    is_zero_time,
    protocol,
    text,
    timestamp,
    value_of,
)

_DAY_MS: Final = 86_400_000
_LONGEST_MS: Final = 30 * _DAY_MS
"""As live, from the exporters themselves: see the table of times in docs/live.md."""
_ICMP: Final = ("icmp", "ipv6-icmp", "icmpv6", "icmp6", "1", "58")
_FLAGS: Final = {"FIN": 1, "SYN": 2, "RST": 4, "PSH": 8, "ACK": 16, "URG": 32, "ECE": 64, "CWR": 128}


def _number(source: str, schema: Schema) -> pl.Expr:
    return value_of(source, schema[source]).cast(pl.Int64, strict=False)


def _text(source: str, schema: Schema) -> pl.Expr:
    return value_of(source, schema[source]).cast(pl.String)


def _no_bytes(source: str) -> Rule:
    """Return 0 for the opposite direction of one-way records."""
    return Rule((source,), lambda schema: pl.lit(0, pl.UInt64))  # noqa: ARG005 - every rule takes the dtypes


def _icmp_port(port: str, proto: str, kind: str, code: str) -> Rule:
    """Read a port; for ICMP type * 256 + code, as in NetFlow."""

    def expr(schema: Schema) -> pl.Expr:
        is_icmp = pl.col(proto).cast(pl.String).str.strip_chars().str.to_lowercase().is_in(_ICMP)
        known = _number(kind, schema).is_not_null()
        message = _number(kind, schema) * 256 + _number(code, schema).fill_null(0)
        return pl.when(is_icmp & known).then(message).otherwise(_number(port, schema))

    return Rule((port, proto, kind, code), expr)


# Suricata: docs.suricata.io, EVE JSON format, event type flow.


def _is_other_event(event: str) -> Callable[[Schema], pl.Expr]:
    """Return an expression that is true for rows with another `event_type`."""

    def expr(schema: Schema) -> pl.Expr:
        return _text("event_type", schema) != event if "event_type" in schema else pl.lit(value=False)

    return expr


def _hexadecimal(source: str) -> Rule:
    def expr(schema: Schema) -> pl.Expr:
        return _text(source, schema).str.to_integer(base=16, strict=False)

    return Rule((source,), expr, checked=True)


_SURICATA: Final = Dialect(
    "suricata",
    frozenset({"event_type", "timestamp", "flow_id", "src_ip", "dest_ip", "proto"}),
    {
        "start": timestamp("flow.start"),
        "duration_ms": between("flow.start", "flow.end"),
        "src_addr": text("src_ip"),
        "dst_addr": text("dest_ip"),
        "fwd_bytes": given("flow.bytes_toserver"),
        "bwd_bytes": given("flow.bytes_toclient"),
        "src_port": given("src_port"),
        "dst_port": _icmp_port("dest_port", "proto", "icmp_type", "icmp_code"),
        "protocol": protocol("proto"),
        "tcp_flags": _hexadecimal("tcp.tcp_flags"),
        "fwd_packets": given("flow.pkts_toserver"),
        "bwd_packets": given("flow.pkts_toclient"),
    },
    dict.fromkeys(("tcp.tcp_flags", "proto", "flow.start", "flow.end"), pl.String()),
    others=Others(
        "other_events",
        ("event_type",),
        _is_other_event("flow"),
        re.compile(rb'"event_type"'),
        re.compile(rb'"event_type"\s*:\s*"flow"'),
    ),
    nested=True,
)


# AWS: docs.aws.amazon.com, VPC flow log records. Column names have dashes in text and underscores in Parquet.


def _vpc_addr(name: str, other: str) -> tuple[Rule, ...]:
    """Read the packet's address if both packet addresses are known, else the interface's address.

    One of each kind would make a pair of hosts that never communicated.
    """

    def of(packet: str, beside: str) -> Rule:
        def expr(schema: Schema) -> pl.Expr:
            known = ~is_unset(packet, schema[packet]) & ~is_unset(beside, schema[beside])
            return pl.when(known).then(_text(packet, schema)).otherwise(_text(name, schema))

        return Rule((packet, beside, name), expr)

    return (of(f"pkt-{name}", f"pkt-{other}"), of(f"pkt_{name}", f"pkt_{other}"), text(name))


def _has_no_data(schema: Schema) -> pl.Expr:
    for status in ("log-status", "log_status"):
        if status in schema:
            return _text(status, schema).is_in(["NODATA", "SKIPDATA"])
    sides = (is_unset(name, schema[name]) for name in ("srcaddr", "dstaddr", "bytes"))
    return pl.all_horizontal(sides)


_VPC: Final = Dialect(
    "vpc",
    frozenset({"srcaddr", "dstaddr", "bytes", "start", "end"}),
    {
        "start": timestamp("start"),
        "duration_ms": between("start", "end"),
        "src_addr": _vpc_addr("srcaddr", "dstaddr"),
        "dst_addr": _vpc_addr("dstaddr", "srcaddr"),
        "fwd_bytes": given("bytes"),
        "bwd_bytes": _no_bytes("bytes"),
        "src_port": given("srcport"),
        "dst_port": given("dstport"),
        "protocol": protocol("protocol"),
        "tcp_flags": (given("tcp-flags"), given("tcp_flags")),
        "fwd_packets": given("packets"),
        "exporter": (text("interface-id"), text("interface_id")),
    },
    dict.fromkeys(
        ("account-id", "interface-id", "vpc-id", "subnet-id", "instance-id", "srcaddr", "dstaddr", "pkt-srcaddr",
         "pkt-dstaddr", "action", "log-status", "type", "region", "az-id", "flow-direction", "timestamp"),
        pl.String(),
    ),
    unset="-",
    others=Others("no_data_rows", ("log-status", "log_status"), _has_no_data),
    one_way=True,
)  # fmt: skip


# goflow2: names of its own since version 2, names of its protobuf messages before.


def _scaled(count: str, rate: str) -> tuple[Rule, ...]:
    """Scale a count by the sampling rate, one packet in `rate`; a rate of 0 is unknown and read as 1.

    A product that does not fit in 64 bits becomes the largest 64-bit number.
    """

    def expr(schema: Schema) -> pl.Expr:
        number = value_of(count, schema[count]).cast(pl.UInt64, strict=False)
        interval = _number(rate, schema).fill_null(1).clip(1).cast(pl.UInt64)
        most = pl.lit((1 << 64) - 1, pl.UInt64)
        return pl.when(number > most // interval).then(most).otherwise(number * interval)

    return (Rule((count, rate), expr), given(count))


def _rate(source: str) -> Rule:
    def expr(schema: Schema) -> pl.Expr:
        return pl.when(_number(source, schema) > 0).then(_number(source, schema))

    return Rule((source,), expr)


def _since(start: str, received: str) -> Rule:
    """Read the start; or the time of receipt if the exporter sent 0, or a time over a day after the receipt."""

    def is_later(schema: Schema) -> pl.Expr:
        late = timestamp(start).expr(schema) - timestamp(received).expr(schema)
        return (late.dt.total_milliseconds() > _DAY_MS) & ~is_zero_time(received, schema[received])

    def expr(schema: Schema) -> pl.Expr:
        is_wrong = is_zero_time(start, schema[start]) | is_later(schema)
        return pl.when(is_wrong).then(timestamp(received).expr(schema)).otherwise(timestamp(start).expr(schema))

    return Rule((start, received), expr, checked=True, corrected=is_later)


_GOFLOW2: Final = Dialect(
    "goflow2",
    frozenset({"sampler_address", "src_addr", "dst_addr", "bytes", "packets", "time_flow_start_ns"}),
    {
        "start": (_since("time_flow_start_ns", "time_received_ns"), timestamp("time_flow_start_ns")),
        "duration_ms": between("time_flow_start_ns", "time_flow_end_ns", most_ms=_LONGEST_MS),
        "src_addr": text("src_addr"),
        "dst_addr": text("dst_addr"),
        "fwd_bytes": _scaled("bytes", "sampling_rate"),
        "bwd_bytes": _no_bytes("bytes"),
        "src_port": given("src_port"),
        "dst_port": (_icmp_port("dst_port", "proto", "icmp_type", "icmp_code"), given("dst_port")),
        "protocol": protocol("proto"),
        "tcp_flags": given("tcp_flags"),
        "fwd_packets": _scaled("packets", "sampling_rate"),
        "exporter": text("sampler_address"),
        "sampling": _rate("sampling_rate"),
    },
    one_way=True,
)
_GOFLOW1: Final = Dialect(
    "goflow2-v1",
    frozenset({"SamplerAddress", "SrcAddr", "DstAddr", "Bytes", "Packets", "TimeFlowStart"}),
    {
        "start": tuple(_since(name, "TimeReceived") for name in ("TimeFlowStartMs", "TimeFlowStart")),
        "duration_ms": (
            between("TimeFlowStartMs", "TimeFlowEndMs", most_ms=_LONGEST_MS),
            between("TimeFlowStart", "TimeFlowEnd", most_ms=_LONGEST_MS),
        ),
        "src_addr": text("SrcAddr"),
        "dst_addr": text("DstAddr"),
        "fwd_bytes": _scaled("Bytes", "SamplingRate"),
        "bwd_bytes": _no_bytes("Bytes"),
        "src_port": given("SrcPort"),
        "dst_port": (_icmp_port("DstPort", "Proto", "IcmpType", "IcmpCode"), given("DstPort")),
        "protocol": protocol("Proto"),
        "tcp_flags": (given("TcpFlags"), given("TCPFlags")),
        "fwd_packets": _scaled("Packets", "SamplingRate"),
        "exporter": text("SamplerAddress"),
        "sampling": _rate("SamplingRate"),
    },
    one_way=True,
)


# pmacct: its print, kafka and amqp plugins write the same JSON; CONFIG-KEYS in its repository.


def _tcp_flags(source: str) -> Rule:
    """Read TCP flags as a number, or as the list of names that `tcpflags_encode_as_array` writes."""

    def expr(schema: Schema) -> pl.Expr:
        value = _text(source, schema)
        named = pl.sum_horizontal(
            value.str.contains(flag, literal=True).cast(pl.UInt16) * bit for flag, bit in _FLAGS.items()
        )
        return pl.when(value.str.starts_with("[")).then(named.cast(pl.String)).otherwise(value)

    return Rule((source,), expr)


def _start_or_end(start: str, end: str) -> Rule:
    """Read the start; or the end if the start is not given."""

    def expr(schema: Schema) -> pl.Expr:
        read = timestamp(start).expr(schema)
        # If neither is given, there is no time.
        return (
            pl.when(~is_zero_time(start, schema[start]))
            .then(read)
            .when(~is_zero_time(end, schema[end]))
            .then(timestamp(end).expr(schema))
        )

    return Rule((start, end), expr, checked=True)


_PMACCT: Final = Dialect(
    "pmacct",
    frozenset({"ip_src", "ip_dst", "bytes", "packets", "timestamp_start", "timestamp_end"}),
    {
        "start": _start_or_end("timestamp_start", "timestamp_end"),
        "duration_ms": between("timestamp_start", "timestamp_end", most_ms=_LONGEST_MS),
        "src_addr": text("ip_src"),
        "dst_addr": text("ip_dst"),
        "fwd_bytes": given("bytes"),
        "bwd_bytes": _no_bytes("bytes"),
        "src_port": given("port_src"),
        "dst_port": given("port_dst"),
        "protocol": protocol("ip_proto"),
        "tcp_flags": _tcp_flags("tcp_flags"),
        "fwd_packets": given("packets"),
        "exporter": text("peer_ip_src"),
        "sampling": _rate("sampling_rate"),
    },
    {"tcp_flags": pl.String(), "ip_proto": pl.String()},
    others=Others("other_events", ("event_type",), _is_other_event("purge")),
    one_way=True,
)

# The CSV of its print plugin has names of its own.
_PMACCT_CSV: Final = Dialect(
    "pmacct-csv",
    frozenset({"SRC_IP", "DST_IP", "BYTES", "PACKETS", "TIMESTAMP_START", "TIMESTAMP_END"}),
    {
        "start": _start_or_end("TIMESTAMP_START", "TIMESTAMP_END"),
        "duration_ms": between("TIMESTAMP_START", "TIMESTAMP_END", most_ms=_LONGEST_MS),
        "src_addr": text("SRC_IP"),
        "dst_addr": text("DST_IP"),
        "fwd_bytes": given("BYTES"),
        "bwd_bytes": _no_bytes("BYTES"),
        "src_port": given("SRC_PORT"),
        "dst_port": given("DST_PORT"),
        "protocol": protocol("PROTOCOL"),
        "tcp_flags": _tcp_flags("TCP_FLAGS"),
        "fwd_packets": given("PACKETS"),
        "exporter": text("PEER_SRC_IP"),
        "sampling": _rate("SAMPLING_RATE"),
    },
    {"TCP_FLAGS": pl.String(), "PROTOCOL": pl.String()},
    one_way=True,
)

CLOUD_DIALECTS: Final = (_SURICATA, _VPC, _GOFLOW2, _GOFLOW1, _PMACCT, _PMACCT_CSV)
"""These are part of `recognition.DIALECTS`."""
