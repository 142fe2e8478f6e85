"""Records that hold the beginning of a packet: the flow is what its headers say."""

from __future__ import annotations

import struct
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ingest.captures.packets import icmp_packet, ip_packet, tcp_packet, udp_packet
from tests.ingest.netflow.messages import NOW_US, VARIABLE, Fields, decode, ip, ipfix, v9, variable
from thalweg.ingest.netflow.config import DecoderConfig, Header
from thalweg.ingest.netflow.decoder import Decoder
from thalweg.ingest.records import address_text

FRAME: Final[Fields] = ((10, 4), (14, 4), (61, 1), (312, 2), (315, VARIABLE))
"""What Juniper's routers send."""
TCP = tcp_packet("192.0.2.1", "192.0.2.2", 40_000, 443, flags=0x12, num_bytes=960)
UDP6 = udp_packet("2001:db8::1", "2001:db8::2", 53, 40_000, bytes(200))
INNER = ("192.0.2.1", 40_000, "192.0.2.2", 443, 6, 0x12, 1_000)
INNER6 = ("2001:db8::1", 53, "2001:db8::2", 40_000, 17, 0, 248)


Flow = tuple[str, int, str, int, int, int, int]
"""Addresses and ports, protocol, flags, bytes."""


def framed(octets: bytes, size: int | None = None, *, num: int = 128) -> bytes:
    """Return a record of FRAME, with the first `num` bytes of a frame."""
    return bytes(9) + struct.pack(">H", len(octets) if size is None else size) + variable(octets[:num])


def flow_of(record: Any) -> Flow:
    """Return what a record says; it is always one packet."""
    src, dst = (address_text(int(record[f"{side}_hi"]), int(record[f"{side}_lo"])) for side in ("src", "dst"))
    assert record["fwd_packets"] == 1
    protocol, flags, octets = (int(record[name]) for name in ("protocol", "tcp_flags", "fwd_bytes"))
    return src, int(record["src_port"]), dst, int(record["dst_port"]), protocol, flags, octets


def flows(
    *frames: bytes, fields: Fields = FRAME, header: Header = "inner", make: Any = ipfix, decoder: Decoder | None = None
) -> list[Flow]:
    decoder = decoder or Decoder(DecoderConfig(tunnel_header=header))
    return [flow_of(one) for one in decode(decoder, make(templates={256: fields}, data={256: frames}))]


def within(protocol: int, payload: bytes, *, fragment: int = 0) -> bytes:
    return ip_packet("198.51.100.1", "198.51.100.2", protocol, payload, fragment=fragment).octets


MACS = TCP.octets[:12]
PORTS = struct.pack(">HH", 5, 6) + bytes(8)
LAYERS: Final[dict[str, tuple[bytes, Flow]]] = {
    "Ethernet": (TCP.octets, INNER),
    "VLAN": (MACS + b"\x81\0\0\xe7\x08\0" + TCP.ip, INNER),
    "VLAN in VLAN, IPv6": (MACS + b"\x88\xa8\0\1\x81\0\0\xe7\x86\xdd" + UDP6.ip, INNER6),
    "MPLS": (MACS + b"\x88\x47\0\1\0\x40\0\1\1\x40" + TCP.ip, INNER),
    "PPPoE": (MACS + b"\x88\x64\x11\0\0\1\3\xea\0\x21" + TCP.ip, INNER),
    "IP in IP": (within(4, TCP.ip), INNER),
    "IPv6 in IP": (within(41, UDP6.ip), INNER6),
    "GRE": (within(47, b"\x20\0\x08\0" + bytes(4) + TCP.ip), INNER),
    "GRE, Ethernet": (within(47, b"\0\0\x65\x58" + UDP6.octets), INNER6),
    "SRv6": (ip_packet("fc00::1", "fc00::2", 4, TCP.ip).octets, INNER),
    "SRv6 with its segments": (ip_packet("fc00::1", "fc00::2", 43, b"\x04\2\4\0" + bytes(20) + TCP.ip).octets, INNER),
    "SRv6, Ethernet": (ip_packet("fc00::1", "fc00::2", 143, TCP.octets).octets, INNER),
    "three headers": (within(47, b"\0\0\x86\xdd" + ip_packet("fc00::1", "fc00::2", 4, TCP.ip).ip), INNER),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_innermost_header_is_read_behind_every_layer(name: str) -> None:
    octets, wanted = LAYERS[name]
    assert flows(framed(octets)) == [wanted]
    outer = flows(framed(octets), header="outer")
    if "VLAN" in name or name in ("Ethernet", "MPLS", "PPPoE"):
        assert outer == [wanted]
    else:
        assert outer[0][0] in ("198.51.100.1", "fc00::1")
        assert outer[0][-1] == len(octets) - 14
        assert outer[0][4] in (4, 41, 47, 143)


@pytest.mark.parametrize("name", LAYERS)
def test_a_section_that_is_cut_gives_the_headers_that_are_whole(name: str) -> None:
    octets, wanted = LAYERS[name]
    lengths = range(14, min(len(octets), 150))
    decoder = Decoder()
    found = {num: flows(framed(octets, num=num), decoder=decoder) for num in lengths}
    (whole,) = found[lengths[-1]]
    assert whole == wanted
    for num in lengths:
        for src, src_port, dst, dst_port, protocol, flags, size in found[num]:
            header = (src, dst, protocol, size)
            if header == (wanted[0], wanted[2], wanted[4], wanted[6]):
                assert (src_port, dst_port) in ((0, 0), (wanted[1], wanted[3]))
                assert flags in (0, wanted[5])
            else:
                assert (src, src_port, dst_port, flags) == (src, 0, 0, 0)
                assert src in ("198.51.100.1", "fc00::1")
                assert size <= len(octets) - 14
    none = sum(not of for of in found.values())
    assert decoder.exporters.totals()["other_records"] == decoder.tally["other_records"] == none
    assert 0 < none < 60


@pytest.mark.parametrize("make", [v9, ipfix])
@pytest.mark.parametrize(
    ("element", "before", "skipped"),
    [(315, b"", 0), (104, b"", 0), (313, b"", 14), (317, b"", 14), (317, bytes(4), 0)],
)
@pytest.mark.parametrize("length", [64, 128, VARIABLE])
def test_sections_of_every_kind_are_read_in_both_versions(
    make: Any, element: int, before: bytes, skipped: int, length: int
) -> None:
    octets = (before + TCP.octets[skipped:])[: min(length, 200)]
    content = variable(octets) if length == VARIABLE else octets
    assert flows(content, content, fields=((element, length),), make=make) == [INNER, INNER]


@pytest.mark.parametrize(
    ("octets", "wanted"),
    [
        (icmp_packet("10.0.0.1", "10.0.0.2", 8, 1).octets, ("10.0.0.1", 0, "10.0.0.2", 2_049, 1, 0, 84)),
        (icmp_packet("fd00::1", "fd00::2", 135, 0).octets, ("fd00::1", 0, "fd00::2", 34_560, 58, 0, 104)),
        (within(132, PORTS), ("198.51.100.1", 5, "198.51.100.2", 6, 132, 0, 32)),
        (within(50, bytes(range(40))), ("198.51.100.1", 0, "198.51.100.2", 0, 50, 0, 60)),
        # The first fragment has ports, the others have none, whatever their bytes are.
        (within(17, PORTS, fragment=0x2000), ("198.51.100.1", 5, "198.51.100.2", 6, 17, 0, 32)),
        (within(17, PORTS, fragment=0x2001), ("198.51.100.1", 0, "198.51.100.2", 0, 17, 0, 32)),
        (within(4, TCP.ip, fragment=0x0010), ("198.51.100.1", 0, "198.51.100.2", 0, 4, 0, 1_020)),
        # Padding of Ethernet is not the packet's.
        (within(17, b"")[:34] + b"\xff" * 26, ("198.51.100.1", 0, "198.51.100.2", 0, 17, 0, 20)),
    ],
)  # fmt: skip
def test_what_the_payload_begins_with_depends_on_the_protocol(octets: bytes, wanted: tuple[object, ...]) -> None:
    assert flows(framed(octets)) == [wanted]


def test_the_length_is_the_packets_own_and_that_of_the_frame_only_if_it_has_none() -> None:
    assert flows(framed(TCP.octets, 9_999)) == [INNER]
    for packet, at, num_ip in ((TCP, 16, 1_000), (UDP6, 18, 248)):
        unknown = packet.octets[:at] + b"\0\0" + packet.octets[at + 2 :]
        assert flows(framed(unknown))[0][-1] == num_ip
        assert flows(framed(unknown, 0))[0][-1] == 128 - 14
        assert flows(variable(unknown[:64]), fields=((315, VARIABLE),))[0][-1] == 64 - 14


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        TCP.octets[:33],
        UDP6.octets[:53],
        MACS + b"\x08\x06" + bytes(46),  # ARP
        MACS + b"\x08\0\x43" + TCP.ip[1:],
        MACS + b"\x08\0" + TCP.ip[:2] + b"\0\x13" + TCP.ip[4:],
        bytes(128),
        b"\xff" * 128,
    ],
)
def test_what_is_no_packet_of_ip_is_counted_and_no_flow(frame: bytes) -> None:
    decoder = Decoder()
    assert flows(framed(TCP.octets), framed(frame), framed(UDP6.octets), decoder=decoder) == [INNER, INNER6]
    total = decoder.exporters.totals()
    assert decoder.tally.as_dict() == {"other_records": 1}
    assert (total["other_records"], total["flows"], total["event_records"]) == (1, 2, 0)


def test_sections_that_do_not_begin_with_the_frame_or_are_of_802_11_are_not_read() -> None:
    for element in (409, 102, 408):
        decoder = Decoder()
        fields = ((element, 2), (315, VARIABLE))
        records = [struct.pack(">H", value) + variable(TCP.octets[:100]) for value in (0, 1, 2)]
        num = 2 if element == 408 else 1
        assert flows(*records, fields=fields, decoder=decoder) == [INNER] * num
        assert decoder.tally.as_dict() == {"other_records": 3 - num}


def test_sampling_and_times_hold_for_packets_too() -> None:
    decoder = Decoder(DecoderConfig(sampling={"*": 1_000}))
    fields = ((323, 8), *FRAME)
    record = struct.pack(">Q", NOW_US // 1_000 - 7_000) + framed(TCP.octets)
    (found,) = decode(decoder, ipfix(templates={256: fields}, data={256: [record]}))
    assert (found["fwd_bytes"], found["fwd_packets"], found["sampling"]) == (1_000_000, 1_000, 1_000)
    assert (found["start_us"], found["end_us"]) == (NOW_US - 7_000_000, NOW_US - 7_000_000)


@pytest.mark.parametrize(
    ("fields", "values", "wanted"),
    [
        # Addresses and counts of the record itself: the packet says nothing.
        (
            ((8, 4), (12, 4), (4, 1), (1, 4), (2, 4)),
            ip("10.0.0.1") + ip("10.0.0.2") + b"\x11" + struct.pack(">II", 77, 7),
            ("10.0.0.1", 17, 77, 7),
        ),
        # Addresses alone: the packet is counted.
        (((8, 4), (12, 4), (4, 1)), ip("10.0.0.1") + ip("10.0.0.2") + b"\x11", ("10.0.0.1", 17, 1_000, 1)),
        # Counts alone: the packet says whose they are.
        (((1, 4), (2, 4)), struct.pack(">II", 77, 7), ("192.0.2.1", 6, 77, 7)),
        (((2, 4),), struct.pack(">I", 7), ("192.0.2.1", 6, 1_000, 7)),
    ],
)  # fmt: skip
def test_a_packet_says_only_what_its_record_does_not(fields: Fields, values: bytes, wanted: tuple[object, ...]) -> None:
    record = values + variable(TCP.octets[:64])
    (found,) = decode(Decoder(), ipfix(templates={256: (*fields, (315, VARIABLE))}, data={256: [record]}))
    src = address_text(int(found["src_hi"]), int(found["src_lo"]))
    assert (src, *(int(found[name]) for name in ("protocol", "fwd_bytes", "fwd_packets"))) == wanted


@pytest.mark.parametrize(
    ("protocol", "num", "wanted"),
    [
        (6, 43, (40_000, 443, 0x12)),
        (6, 13, (40_000, 443, 0)),
        (6, 3, (0, 0, 0)),
        (17, 43, (40_000, 443, 0)),
        (1, 43, (0, 40_000, 0)),
        (47, 43, (0, 0, 0)),
    ],
)
def test_the_payload_of_ip_says_what_the_ports_are(protocol: int, num: int, wanted: tuple[int, ...]) -> None:
    fields = ((8, 4), (12, 4), (4, 1), (1, 4), (314, VARIABLE))
    values = ip("10.0.0.1") + ip("10.0.0.2") + bytes([protocol]) + struct.pack(">I", 77)
    for more, content in ((((210, 2),), b"\xff\xff"), (((7, 2), (11, 2)), struct.pack(">HH", 1, 2))):
        record = values + variable(TCP.octets[34 : 34 + num]) + content
        (found,) = decode(Decoder(), ipfix(templates={256: (*fields, *more)}, data={256: [record]}))
        assert found["fwd_bytes"] == 77
        ports = tuple(int(found[name]) for name in ("src_port", "dst_port", "tcp_flags"))
        assert ports == ((1, 2, 0) if len(more) == 2 else wanted)


@st.composite
def hostile(draw: st.DrawFn) -> bytes:
    """Draw a frame with some bytes changed, cut, or followed by another one."""
    octets = bytearray(draw(st.sampled_from([octets for octets, _ in LAYERS.values()])))
    for _ in range(draw(st.integers(0, 6))):
        octets[draw(st.integers(0, min(len(octets), 120) - 1))] = draw(st.integers(0, 255))
    cut = draw(st.integers(0, 140))
    return bytes(octets[:cut]) + draw(st.binary(max_size=40))


@given(
    st.lists(hostile(), min_size=1, max_size=8), st.sampled_from(["inner", "outer"]), st.sampled_from([313, 315, 317])
)
def test_no_packet_however_hostile_does_harm(frames: list[bytes], header: Header, element: int) -> None:
    decoder = Decoder(DecoderConfig(tunnel_header=header))
    fields = ((312, 2), (element, VARIABLE), (1, 4), (8, 4))
    marked = [b"\xff\xff" + variable(frame) + struct.pack(">I", 7_000 + i) + bytes(4) for i, frame in enumerate(frames)]
    found = decode(decoder, ipfix(templates={256: fields}, data={256: marked}))
    assert len(found) + decoder.tally["other_records"] == len(frames)
    assert (np.diff(found["fwd_bytes"].astype(int)) > 0).all()
    assert (found["fwd_packets"] == 1).all()
    sized = decode(decoder, ipfix(templates={257: FRAME}, data={257: [framed(frame, 0, num=255) for frame in frames]}))
    assert (sized["fwd_bytes"] <= 65_535 + 40).all()
