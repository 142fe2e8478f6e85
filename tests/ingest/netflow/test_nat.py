"""NAT on the exporter: both directions of a flow are between the same two hosts."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from tests.ingest.netflow.messages import FLOW, NOW_US, VARIABLE, Fields, decode, flow, ip, ipfix, v9, variable
from thalweg.ingest.netflow.decoder import Decoder
from thalweg.ingest.pairing.pairing import Pairing
from thalweg.ingest.records import address_text

NAT: Fields = (*FLOW, (225, 4), (226, 4), (227, 2), (228, 2))
HOST, OUTER, SERVER, CLIENT = "192.0.2.10", "203.0.113.77", "198.51.100.7", "198.51.100.99"
SIX: Fields = ((27, 16), (28, 16), (7, 2), (11, 2), (4, 1), (1, 4), (2, 4), (281, 16), (282, 16), (227, 2), (228, 2))


def end(text: str) -> tuple[bytes, bytes]:
    """Return the address and the port of HOST:PORT."""
    host, _, port = text.rpartition(":")
    return ipaddress.ip_address(host.strip("[]")).packed, int(port).to_bytes(2, "big")


def record(src: str, dst: str, post_src: str, post_dst: str, *, octets: int = 100, protocol: int = 6) -> bytes:
    """Return a record with its ends before and after NAT, HOST:PORT each."""
    (a, p), (b, q), (c, r), (d, s) = (end(one) for one in (src, dst, post_src, post_dst))
    return a + b + p + q + bytes([protocol]) + octets.to_bytes(4, "big") + (1).to_bytes(4, "big") + c + d + r + s


def lines(records: Any) -> list[str]:
    return [
        f"{address_text(int(one['src_hi']), int(one['src_lo']))}:{one['src_port']} "
        f"{address_text(int(one['dst_hi']), int(one['dst_lo']))}:{one['dst_port']} "
        f"{one['fwd_bytes']}/{one['bwd_bytes']}"
        for one in records
    ]


def flows_of(*payloads: bytes) -> tuple[list[str], dict[str, int]]:
    """Return the flows that datagrams become, and what the decoder counted."""
    decoder, pairing = Decoder(), Pairing()
    flows = [*pairing.feed(decode(decoder, *payloads), NOW_US), *pairing.flush()]
    return lines(flows), decoder.tally.as_dict()


REQUEST = record(f"{HOST}:40000", f"{SERVER}:443", f"{OUTER}:61000", f"{SERVER}:443", octets=2_089)
REPLY = record(f"{SERVER}:443", f"{OUTER}:61000", f"{SERVER}:443", f"{HOST}:40000", octets=32_000)


@pytest.mark.parametrize("message", [v9, ipfix])
@pytest.mark.parametrize("order", [(REQUEST, REPLY), (REPLY, REQUEST)])
def test_an_answer_goes_to_the_host_behind_source_nat(message: Any, order: tuple[bytes, bytes]) -> None:
    flows, counts = flows_of(message(templates={256: NAT}, data={256: order}))
    assert flows == [f"{HOST}:40000 {SERVER}:443 2089/32000"]
    assert counts == {"translated_destinations": 1}


def test_a_forwarded_port_leads_to_the_server_behind_it() -> None:
    there = record(f"{CLIENT}:50000", f"{OUTER}:8443", f"{CLIENT}:50000", f"{HOST}:443")
    back = record(f"{HOST}:443", f"{CLIENT}:50000", f"{OUTER}:8443", f"{CLIENT}:50000", octets=7)
    flows, counts = flows_of(v9(templates={256: NAT}, data={256: [there, back]}))
    assert flows == [f"{CLIENT}:50000 {HOST}:443 100/7"]
    assert counts == {"translated_destinations": 1}


def test_source_and_destination_may_both_be_translated() -> None:
    there = record(f"{HOST}:50000", f"{OUTER}:443", "192.0.2.1:61000", "192.0.2.20:8443")
    back = record("192.0.2.20:8443", "192.0.2.1:61000", f"{OUTER}:443", f"{HOST}:50000", octets=7)
    flows, counts = flows_of(v9(templates={256: NAT}, data={256: [back, there]}))
    assert flows == [f"{HOST}:50000 192.0.2.20:8443 100/7"]
    assert counts == {"translated_destinations": 2}


def test_many_hosts_share_one_outer_address_and_differ_by_port() -> None:
    there, back = [], []
    for i in range(50):
        host, outer, server = f"100.64.0.{i}:40000", f"{OUTER}:{1024 + i}", f"{SERVER}:443"
        there.append(record(host, server, outer, server, octets=1_000 + i))
        back.append(record(server, outer, server, host, octets=2_000 + i))
    flows, counts = flows_of(ipfix(templates={256: NAT}, data={256: [*there, *back]}))
    assert flows == [f"100.64.0.{i}:40000 {SERVER}:443 {1_000 + i}/{2_000 + i}" for i in range(50)]
    assert counts == {"translated_destinations": 50}


@pytest.mark.parametrize("ports", [(0, 0), (4_711, 815)])
def test_pings_of_many_hosts_find_their_answers(ports: tuple[int, int]) -> None:
    """Ports of ICMP stand for its type and code, or for an identifier after NAT."""
    fields = (*NAT, (32, 2))
    there, back = [], []
    for i in range(3):
        host, outer, server = f"100.64.0.{i}:0", f"{OUTER}:{ports[0] + i}", f"{SERVER}:{ports[1]}"
        there.append(record(host, server, outer, server, protocol=1, octets=10 + i) + b"\x08\x00")
        back.append(record(server, outer, server, host, protocol=1, octets=20 + i) + b"\x00\x00")
    flows, _ = flows_of(v9(templates={256: fields}, data={256: [*there, *back]}))
    assert [one.rpartition(":")[0].partition(":")[0] for one in flows] == [f"100.64.0.{i}" for i in range(3)]
    assert [one.split()[2] for one in flows] == [f"{10 + i}/{20 + i}" for i in range(3)]


@pytest.mark.parametrize(
    ("post_src", "post_dst"),
    [
        ("0.0.0.0:0", "0.0.0.0:0"),
        (f"{CLIENT}:50000", f"{HOST}:443"),
        ("0.0.0.0:50000", "0.0.0.0:444"),
        ("0.0.0.0:0", f"{HOST}:0"),
    ],
)
def test_zeros_and_equal_addresses_translate_nothing(post_src: str, post_dst: str) -> None:
    one = record(f"{CLIENT}:50000", f"{HOST}:443", post_src, post_dst)
    flows, counts = flows_of(v9(templates={256: NAT}, data={256: [one]}))
    assert flows == [f"{CLIENT}:50000 {HOST}:443 100/0"]
    assert counts == {}


def test_untranslated_ends_may_be_zero() -> None:
    there = record(f"{HOST}:40000", f"{SERVER}:443", f"{OUTER}:61000", "0.0.0.0:0")
    back = record(f"{SERVER}:443", f"{OUTER}:61000", "0.0.0.0:0", f"{HOST}:40000", octets=7)
    assert flows_of(v9(templates={256: NAT}, data={256: [there, back]}))[0] == [f"{HOST}:40000 {SERVER}:443 100/7"]


def test_a_port_alone_may_be_translated() -> None:
    there = record(f"{OUTER}:40000", f"{SERVER}:443", f"{OUTER}:61000", f"{SERVER}:443")
    back = record(f"{SERVER}:443", f"{OUTER}:61000", f"{SERVER}:443", f"{OUTER}:40000", octets=7)
    flows, counts = flows_of(v9(templates={256: NAT}, data={256: [there, back]}))
    assert flows == [f"{OUTER}:40000 {SERVER}:443 100/7"]
    assert counts == {"translated_destinations": 1}


def test_addresses_may_come_without_ports() -> None:
    """RouterOS 6.39 sends 225 and 226 alone; its ports mostly stay as they are."""
    there = flow(HOST, SERVER, (40_000, 443)) + ip(OUTER) + ip(SERVER)
    back = flow(SERVER, OUTER, (443, 40_000), octets=7) + ip(SERVER) + ip(HOST)
    flows, _ = flows_of(ipfix(templates={256: (*FLOW, (225, 4), (226, 4))}, data={256: [there, back]}))
    assert flows == [f"{HOST}:40000 {SERVER}:443 1000/7"]


def test_records_of_varying_length_are_translated_too() -> None:
    payload = ipfix(templates={256: (*NAT, (82, VARIABLE))}, data={256: [REPLY + variable(b"ether1")]})
    assert lines(decode(Decoder(), payload)) == [f"{SERVER}:443 {HOST}:40000 32000/0"]


@pytest.mark.parametrize("message", [v9, ipfix])
@pytest.mark.parametrize("inner", ["fd00::10", "2001:db8:1::", "::ffff:192.0.2.9", "::1"])
def test_ipv6_is_translated(message: Any, inner: str) -> None:
    there = record(f"[{inner}]:40000", "[2001:db8::7]:443", "[2001:db8:9::77]:61000", "[2001:db8::7]:443")
    back = record("[2001:db8::7]:443", "[2001:db8:9::77]:61000", "[2001:db8::7]:443", f"[{inner}]:40000", octets=7)
    flows, counts = flows_of(message(templates={256: SIX}, data={256: [there, back]}))
    shown = inner.removeprefix("::ffff:")
    assert flows == [f"{shown}:40000 2001:db8::7:443 100/7"]
    assert counts == {"translated_destinations": 1}
    zeros = record("[2001:db8::7]:443", f"[{inner}]:40000", "[::]:0", "[::]:0")
    assert lines(decode(Decoder(), message(templates={256: SIX}, data={256: [zeros]}))) == [
        f"2001:db8::7:443 {shown}:40000 100/0"
    ]


def test_nat64_pairs_an_ipv6_host_with_an_ipv4_server() -> None:
    counted: Fields = ((7, 2), (11, 2), (4, 1), (1, 4), (2, 4))
    out: Fields = ((27, 16), (28, 16), *counted, (225, 4), (226, 4), (227, 2), (228, 2))
    back: Fields = ((8, 4), (12, 4), *counted, (281, 16), (282, 16), (227, 2), (228, 2))
    there = record("[2001:db8::10]:40000", "[64:ff9b::c633:6407]:443", f"{OUTER}:61000", f"{SERVER}:443")
    answer = record(f"{SERVER}:443", f"{OUTER}:61000", "[64:ff9b::c633:6407]:443", "[2001:db8::10]:40000", octets=7)
    flows, _ = flows_of(ipfix(templates={256: out, 257: back}, data={256: [there], 257: [answer]}))
    assert flows == [f"2001:db8::10:40000 {SERVER}:443 100/7"]


def test_of_both_families_the_one_that_is_given_counts() -> None:
    fields = (*FLOW, (282, 16), (226, 4), (228, 2))
    start = flow(SERVER, OUTER, (443, 61_000))
    six = ipaddress.ip_address("2001:db8::10").packed
    data = [start + bytes(16) + ip(HOST) + b"\x9c\x40", start + six + bytes(4) + b"\x9c\x40"]
    assert lines(decode(Decoder(), ipfix(templates={256: fields}, data={256: data}))) == [
        f"{SERVER}:443 {HOST}:40000 1000/0",
        f"{SERVER}:443 2001:db8::10:40000 1000/0",
    ]


@pytest.mark.parametrize("ids", [(225, 226, 227, 228, 233), (40_001, 40_002, 40_003, 40_004, 40_005)])
def test_a_firewall_that_counts_both_ways_names_the_server_behind_it(ids: tuple[int, ...]) -> None:
    fields = [(8, 4), (12, 4), (7, 2), (11, 2), (4, 1), (231, 4), (232, 4)]
    fields += [(id_, 4) for id_ in ids[:2]] + [(id_, 2) for id_ in ids[2:4]] + [(ids[4], 1)]
    deleted = record(f"{CLIENT}:50000", f"{OUTER}:8443", "192.0.2.1:50000", f"{HOST}:443") + b"\2"
    flows, counts = flows_of(v9(templates={256: fields}, data={256: [deleted]}))
    assert flows == [f"{CLIENT}:50000 {HOST}:443 100/1"]
    assert counts == {"translated_destinations": 1}


def test_an_exporter_that_gives_both_directions_the_inner_address_is_believed() -> None:
    """FortiOS 5.4: of an answer, 226 is the public address, and 12 is the host."""
    fields = [(1, 4), (23, 4), (2, 4), (24, 4), (7, 2), (11, 2), (4, 1), (8, 4), (12, 4)]
    fields += [(225, 4), (226, 4), (227, 2), (228, 2)]
    counters = b"".join(one.to_bytes(4, "big") for one in (100, 0, 1, 0))
    answer = counters + b"\x01\xbb\x9c\x40\6" + ip(SERVER) + ip(HOST) + bytes(4) + ip(OUTER) + b"\0\0\x9c\x40"
    flows, counts = flows_of(v9(templates={256: fields}, data={256: [answer]}))
    assert flows == [f"{HOST}:40000 {SERVER}:443 0/100"]
    assert counts == {}
