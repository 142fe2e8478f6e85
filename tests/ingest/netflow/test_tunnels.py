"""Templates in which elements stand twice, for the outer and the inner header of a tunnel: never a mixture of both."""

from __future__ import annotations

import struct
from typing import Any, Final

import pytest

from tests.ingest.netflow.messages import VARIABLE, Fields, decode, ip, ipfix, v9
from thalweg.errors import ConfigError
from thalweg.ingest.netflow.config import DecoderConfig, Header
from thalweg.ingest.netflow.decoder import Decoder
from thalweg.ingest.records import address_halves, address_text

V4: Final[Fields] = ((8, 4), (12, 4))
V6: Final[Fields] = ((27, 16), (28, 16))
PORTS: Final[Fields] = ((7, 2), (11, 2))
PROTOCOL: Final[Fields] = ((4, 1),)
FLAGS: Final[Fields] = ((6, 1),)
COUNTS: Final[Fields] = ((1, 4), (2, 4))
NONE_V4: Final = bytes(8)


def v6(*texts: str) -> bytes:
    return b"".join(half.to_bytes(8, "big") for text in texts for half in address_halves(text))


def ports(src: int, dst: int) -> bytes:
    return struct.pack(">HH", src, dst)


COUNTED = struct.pack(">II", 1_000, 10)
OUTER_V6 = v6("2001:db8::1", "2001:db8::2")
INNER_V6 = v6("fd00::1", "fd00::2")
INNER_V4 = ip("192.0.2.1") + ip("192.0.2.2")
OUTER_V4 = ip("198.51.100.1") + ip("198.51.100.2")
OUTER = ("2001:db8::1", 4_789, "2001:db8::2", 4_790, 17)
INNER = ("192.0.2.1", 40_000, "192.0.2.2", 443, 6)


def headers(record: Any) -> tuple[str, int, str, int, int]:
    src, dst = (address_text(int(record[f"{side}_hi"]), int(record[f"{side}_lo"])) for side in ("src", "dst"))
    return src, int(record["src_port"]), dst, int(record["dst_port"]), int(record["protocol"])


def flow(fields: Fields, values: bytes, header: Header = "inner", make: Any = ipfix) -> Any:
    (record,) = decode(
        Decoder(DecoderConfig(tunnel_header=header)), make(templates={256: fields}, data={256: [values]})
    )
    return record


WAYS: Final[dict[str, tuple[Fields, bytes]]] = {
    "one header after the other": (
        (*COUNTS, *V6, *PORTS, *PROTOCOL, *V4, *PORTS, *PROTOCOL),
        COUNTED + OUTER_V6 + ports(4_789, 4_790) + b"\x11" + INNER_V4 + ports(40_000, 443) + b"\x06",
    ),
    "each element beside itself": (
        ((27, 16), (8, 4), (28, 16), (12, 4), (7, 2), (7, 2), (11, 2), (11, 2), (4, 1), (4, 1), *COUNTS),
        v6("2001:db8::1") + ip("192.0.2.1") + v6("2001:db8::2") + ip("192.0.2.2")
        + struct.pack(">HHHHBB", 4_789, 40_000, 4_790, 443, 17, 6) + COUNTED,
    ),
    "all addresses first": (
        (*V6, *V4, *PROTOCOL, *PORTS, *PROTOCOL, *PORTS, *COUNTS),
        OUTER_V6 + INNER_V4 + b"\x11" + ports(4_789, 4_790) + b"\x06" + ports(40_000, 443) + COUNTED,
    ),
}  # fmt: skip


@pytest.mark.parametrize("make", [v9, ipfix])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("is_variable", [False, True])
def test_the_inner_header_makes_the_flow_unless_the_outer_one_is_wanted(way: str, make: Any, is_variable: bool) -> None:
    fields, values = WAYS[way]
    if is_variable:
        fields, values = ((82, VARIABLE), *fields), b"\x04eth0" + values
    inner, outer = flow(fields, values, make=make), flow(fields, values, "outer", make)
    assert (headers(inner), headers(outer)) == (INNER, OUTER)
    for record in (inner, outer):
        assert (record["fwd_bytes"], record["fwd_packets"]) == (1_000, 10)


@pytest.mark.parametrize(
    ("fields", "values", "inner", "outer"),
    [
        (  # both of one family
            (*V4, *PROTOCOL, *V4, *PROTOCOL, *PORTS),
            OUTER_V4 + b"\x2f" + INNER_V4 + b"\x06" + ports(40_000, 443),
            INNER, ("198.51.100.1", 0, "198.51.100.2", 0, 47),
        ),
        (
            (*V6, *PROTOCOL, *PORTS, *V6, *PROTOCOL),
            OUTER_V6 + b"\x11" + ports(4_789, 4_790) + INNER_V6 + b"\x3a",
            ("fd00::1", 0, "fd00::2", 0, 58), OUTER,
        ),
        (  # ICMP within: its ports are not the outer ones
            (*V6, *PORTS, *PROTOCOL, *V4, *PROTOCOL, (32, 2)),
            OUTER_V6 + ports(4_789, 4_790) + b"\x11" + INNER_V4 + b"\x01\x08\x00",
            ("192.0.2.1", 0, "192.0.2.2", 2_048, 1), OUTER,
        ),
        (  # each header of both families
            (*V4, *V6, *PROTOCOL, *V4, *V6, *PROTOCOL),
            NONE_V4 + OUTER_V6 + b"\x04" + INNER_V4 + bytes(32) + b"\x06",
            ("192.0.2.1", 0, "192.0.2.2", 0, 6), ("2001:db8::1", 0, "2001:db8::2", 0, 4),
        ),
        (  # a second header without addresses, or without a protocol, is none
            (*V4, *PORTS, *PROTOCOL, *PORTS, *PROTOCOL),
            INNER_V4 + ports(40_000, 443) + b"\x06" + ports(1, 2) + b"\x03",
            INNER, INNER,
        ),
        (
            (*V6, *PROTOCOL, *PORTS, *V6),
            OUTER_V6 + b"\x11" + ports(4_789, 4_790) + INNER_V6,
            OUTER, OUTER,
        ),
        (  # only the inner addresses have a protocol
            (*V4, *V4, *PROTOCOL, *PORTS),
            OUTER_V4 + INNER_V4 + b"\x06" + ports(40_000, 443),
            INNER, INNER,
        ),
        (  # flags and ICMP of the outer header alone
            (*V6, *PROTOCOL, *FLAGS, (139, 2), *V4, *PROTOCOL),
            OUTER_V6 + b"\x3a\x02\x80\x00" + INNER_V4 + b"\x06",
            ("192.0.2.1", 0, "192.0.2.2", 0, 6), ("2001:db8::1", 0, "2001:db8::2", 32_768, 58),
        ),
        (  # three headers
            (*V6, *PROTOCOL, *V6, *PROTOCOL, *V4, *PROTOCOL, *PORTS),
            OUTER_V6 + b"\x29" + INNER_V6 + b"\x04" + INNER_V4 + b"\x06" + ports(40_000, 443),
            INNER, ("2001:db8::1", 0, "2001:db8::2", 0, 41),
        ),
    ],
)  # fmt: skip
def test_ports_and_protocol_are_of_the_header_whose_addresses_are_taken(
    fields: Fields, values: bytes, inner: tuple[object, ...], outer: tuple[object, ...]
) -> None:
    fields, values = (*fields, *COUNTS), values + COUNTED
    assert headers(flow(fields, values)) == inner
    assert headers(flow(fields, values, "outer")) == outer


@pytest.mark.parametrize("make", [v9, ipfix])
@pytest.mark.parametrize("is_variable", [False, True])
def test_records_without_an_inner_header_are_those_of_the_outer_one(make: Any, is_variable: bool) -> None:
    fields, tunnelled = WAYS["one header after the other"]
    plain = tunnelled[:45] + bytes(13)
    if is_variable:
        fields, tunnelled, plain = (*fields, (82, VARIABLE)), tunnelled + b"\x02ab", plain + b"\0"
    records = [tunnelled, plain, plain, tunnelled]
    found = decode(Decoder(), make(templates={256: fields}, data={256: records}), make(data={256: [plain]}))
    assert [headers(record) for record in found] == [INNER, OUTER, OUTER, INNER, OUTER]
    assert found["fwd_bytes"].tolist() == [1_000] * 5


def test_flags_and_counts_are_of_the_header_if_each_has_some() -> None:
    header = (*V4, *PORTS, *PROTOCOL, *FLAGS, *COUNTS)
    values = [
        OUTER_V4 + ports(1, 2) + b"\x06\x02" + struct.pack(">II", 1_100, 10),
        INNER_V4 + ports(40_000, 443) + b"\x06\x10" + struct.pack(">II", 1_000, 9),
    ]
    found = {name: flow((*header, *header), b"".join(values), name) for name in ("inner", "outer")}
    assert [int(found["inner"][name]) for name in ("tcp_flags", "fwd_bytes", "fwd_packets")] == [0x10, 1_000, 9]
    assert [int(found["outer"][name]) for name in ("tcp_flags", "fwd_bytes", "fwd_packets")] == [0x02, 1_100, 10]


def test_flows_in_one_tunnel_stay_apart() -> None:
    fields, values = WAYS["one header after the other"]
    answer = values[:45] + ip("192.0.2.2") + ip("192.0.2.1") + ports(443, 40_000) + b"\x06"
    found = decode(Decoder(), ipfix(templates={256: fields}, data={256: [values, answer]}))
    assert [headers(record)[:4] for record in found] == [INNER[:4], (*INNER[2:4], *INNER[:2])]


@pytest.mark.parametrize("num", [4, 100])
def test_a_template_of_more_headers_than_there_are_is_read_as_one_of_the_first(num: int) -> None:
    fields, values = (*V4, *PROTOCOL, *PORTS), INNER_V4 + b"\x06" + ports(40_000, 443)
    last = OUTER_V4 + b"\x11" + ports(1, 2)
    assert headers(flow((*COUNTS, *fields * num), COUNTED + values + last * (num - 1))) == INNER


def test_elements_that_stand_twice_but_are_no_header_change_nothing() -> None:
    fields = ((10, 4), (210, 1), *V4, *PORTS, *PROTOCOL, (10, 4), *FLAGS, (210, 1), *FLAGS, *COUNTS)
    values = bytes(5) + INNER_V4 + ports(40_000, 443) + b"\x06" + bytes(4) + b"\x02\0\x10" + COUNTED
    record = flow(fields, values)
    assert headers(record) == INNER
    assert record["tcp_flags"] == 0x12


def test_a_header_that_is_neither_is_refused() -> None:
    with pytest.raises(ConfigError, match='"inner" or "outer", not "both"'):
        DecoderConfig(tunnel_header="both")  # type: ignore[arg-type]
