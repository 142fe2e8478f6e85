"""Headers of packets: every layer below IP is stepped over, and nothing is read that is not there."""

from __future__ import annotations

import struct
from typing import Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ingest.captures.packets import icmp_packet, tcp_packet, udp_packet
from thalweg.ingest.packets import (
    ANY_IP,
    CISCO_HDLC,
    ETHERNET,
    GRE,
    IPV4,
    IPV6,
    MPLS,
    MPLS_PAYLOAD,
    PPP,
    PPPOE,
    carried_by,
    find_ip,
    ip_payload,
)

V4 = tcp_packet("192.0.2.1", "192.0.2.2", 40_000, 443).ip
V6 = udp_packet("2001:db8::1", "2001:db8::2", 53, 40_000, bytes(20)).ip
MACS = bytes.fromhex("2c6bf5d3cdc42c6bf5b054c4")
LABELS = bytes.fromhex("00010040 00020140")
FRAME = MACS + b"\x08\x00" + V4
KINDS: Final = (ANY_IP, CISCO_HDLC, ETHERNET, GRE, IPV4, IPV6, MPLS, MPLS_PAYLOAD, PPP, PPPOE, 0x88BE, 0x22EB, 0x8100)


def found(octets: bytes, kind: int) -> int:
    return int(find_ip(np.frombuffer(octets, np.uint8), 0, len(octets), kind))


def gre(flags: int, kind: int, *words: bytes) -> bytes:
    return struct.pack(">HH", flags, kind) + b"".join(words)


LAYERS: Final[dict[str, tuple[int, bytes, bytes]]] = {
    "IPv4": (ANY_IP, b"", V4),
    "IPv6": (ANY_IP, b"", V6),
    "Ethernet": (ETHERNET, MACS + b"\x08\x00", V4),
    "Ethernet, IPv6": (ETHERNET, MACS + b"\x86\xdd", V6),
    "VLAN": (ETHERNET, MACS + b"\x81\x00\x00\xe7\x08\x00", V4),
    "VLAN in VLAN": (ETHERNET, MACS + b"\x88\xa8\x00\x01\x81\x00\x00\xe7\x86\xdd", V6),
    "SNAP": (ETHERNET, MACS + b"\x00\x64\xaa\xaa\x03\0\0\0\x08\x00", V4),
    "MPLS": (ETHERNET, MACS + b"\x88\x47" + LABELS, V4),
    "MPLS, IPv6": (ETHERNET, MACS + b"\x88\x48" + LABELS, V6),
    "MPLS, pseudowire": (ETHERNET, MACS + b"\x88\x47" + LABELS + bytes(4) + MACS + b"\x08\x00", V4),
    "MPLS, pseudowire without control word": (MPLS, LABELS + MACS + b"\x08\x00", V4),
    "PPPoE": (ETHERNET, MACS + b"\x88\x64\x11\0\0\1\0\x96\x00\x21", V4),
    "PPPoE, short protocol, IPv6": (PPPOE, b"\x11\0\0\1\0\x96\x57", V6),
    "PPP": (PPP, b"\xff\x03\x00\x21", V4),
    "PPP, MPLS": (PPP, b"\x02\x81" + LABELS, V4),
    "Cisco HDLC": (CISCO_HDLC, b"\x0f\x00\x08\x00", V4),
    "GRE": (GRE, gre(0, IPV4), V4),
    "GRE with checksum, key and sequence": (GRE, gre(0xB000, IPV6, bytes(12)), V6),
    "GRE, Ethernet": (GRE, gre(0x2000, ETHERNET, bytes(4)) + MACS + b"\x81\x00\0\1\x08\x00", V4),
    "GRE, MPLS": (GRE, gre(0, MPLS) + LABELS, V4),
    "PPTP": (GRE, gre(0x3081, PPP, bytes(12)) + b"\xff\x03\x00\x21", V4),
    "ERSPAN I": (GRE, gre(0, 0x88BE) + MACS + b"\x08\x00", V4),
    "ERSPAN II": (GRE, gre(0x1000, 0x88BE, bytes(4), bytes(8)) + MACS + b"\x08\x00", V4),
    "ERSPAN III": (GRE, gre(0x1000, 0x22EB, bytes(4), bytes(12)) + MACS + b"\x08\x00", V4),
    "ERSPAN III and more": (GRE, gre(0x1000, 0x22EB, bytes(4), bytes(11) + b"\1", bytes(8)) + MACS + b"\x86\xdd", V6),
}


@pytest.mark.parametrize("name", LAYERS)
def test_ip_is_found_behind_every_layer_and_nothing_where_the_packet_is_cut(name: str) -> None:
    kind, before, ip = LAYERS[name]
    assert found(before + ip, kind) == len(before)
    for length in range(len(before) + 1):
        assert found((before + ip)[:length], kind) == -1, length


@pytest.mark.parametrize(
    ("kind", "octets"),
    [
        (ETHERNET, MACS + b"\x08\x06" + bytes(28)),  # ARP
        (ETHERNET, MACS + b"\x88\xcc" + bytes(28)),  # LLDP
        (ETHERNET, MACS + b"\x00\x26\x42\x42\x03" + bytes(35)),  # spanning tree
        (ETHERNET, MACS + b"\x08\x00" + V6),
        (ETHERNET, MACS + b"\x86\xdd" + V4),
        (ETHERNET, MACS + b"\x00\x64\xaa\xaa\x03\0\0\0\0\x01" + V4),  # a type that is none
        (GRE, gre(0x4000, IPV4) + V4),
        (GRE, gre(0, 1) + V4),
        (MPLS, b"\0\1\0\x40" * 500),  # without a bottom
        (PPP, b"\xc0\x21" + bytes(20)),
        (7, V4),
        (-1, V4),
    ],
)  # fmt: skip
def test_what_carries_no_ip_gives_none(kind: int, octets: bytes) -> None:
    assert found(octets, kind) == -1


@given(st.binary(max_size=200), st.sampled_from(KINDS), st.integers(0, 20), st.integers(0, 300))
def test_whatever_the_bytes_are_ip_is_within_them(octets: bytes, kind: int, at: int, end: int) -> None:
    end = min(end, len(octets))
    place = int(find_ip(np.frombuffer(octets, np.uint8), at, end, kind))
    assert place == -1 or (at <= place < end and octets[place] >> 4 in (4, 6))
    protocol, _, length = ip_payload(np.frombuffer(octets, np.uint8), at, end)
    assert 0 <= protocol < 256
    assert length == -1 or at + 20 <= end


def payload_of(octets: bytes) -> tuple[int, int, int]:
    protocol, payload, length = ip_payload(np.frombuffer(octets, np.uint8), 0, len(octets))
    return int(protocol), int(payload), int(length)


def ipv6(kind: int, *rest: bytes) -> bytes:
    return struct.pack(">IHBB", 6 << 28, sum(map(len, rest)), kind, 64) + bytes(32) + b"".join(rest)


UDP = bytes(8)


@pytest.mark.parametrize(
    ("octets", "wanted"),
    [
        (V4, (6, 20, 40)),
        (b"\x46" + V4[1:20] + bytes(4) + V4[20:], (6, 24, 40)),
        (V4[:6] + b"\x20\0" + V4[8:], (6, 20, 40)),  # the first fragment
        (V4[:6] + b"\x00\x10" + V4[8:], (6, -1, 40)),  # a later one
        (V4[:2] + b"\0\0" + V4[4:], (6, 20, 0)),
        (V6, (17, 40, 68)),
        (ipv6(17, UDP), (17, 40, 48)),
        (ipv6(0, b"\x2b\0" + bytes(6), b"\x3c\2" + bytes(22), b"\x11\0" + bytes(6), UDP), (17, 80, 88)),
        (ipv6(51, b"\x11\4" + bytes(22), UDP), (17, 64, 72)),
        (ipv6(44, b"\x11\0\0\1\0\0\0\7", UDP), (17, 48, 56)),
        (ipv6(44, b"\x11\0\0\x08\0\0\0\7", UDP), (17, -1, 56)),
        (ipv6(44, b"\x3c\0\0\1\0\0\0\7", b"\x11\0" + bytes(6), UDP), (17, 56, 64)),
        (ipv6(50, bytes(20)), (50, 40, 60)),
        (ipv6(0, b"\x11\xff" + bytes(6)), (17, 40 + 2048, 48)),  # an extension that is cut
        (ipv6(43, b"\x11\0"), (43, 40, 42)),
        (b"\x44" + V4[1:], (0, -1, -1)),
        (V4[:2] + b"\0\x13" + V4[4:], (0, -1, -1)),
        (V4[:19], (0, -1, -1)),
        (V6[:39], (0, -1, -1)),
        (b"\x55" + V4[1:], (0, -1, -1)),
        (b"", (0, -1, -1)),
    ],
)
def test_the_protocol_and_the_place_of_its_header_are_read_behind_all_extensions(
    octets: bytes, wanted: tuple[int, int, int]
) -> None:
    assert payload_of(octets) == wanted


def test_tunnels_are_known_by_their_protocol() -> None:
    assert [carried_by(protocol) for protocol in (4, 41, 47, 137, 143)] == [IPV4, IPV6, GRE, MPLS, ETHERNET]
    assert {carried_by(protocol) for protocol in (0, 1, 6, 17, 50, 58, 89, 132, 255)} == {-1}
    etherip = carried_by(97)
    assert found(b"\x30\x00" + FRAME, etherip) == 16
    assert payload_of(icmp_packet("10.0.0.1", "10.0.0.2", 8, 0).ip)[0] == 1
