"""Captures -> export packets: every format, link type, fragment and cut."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from tests.ingest.captures.packets import (
    Packet,
    ip_packet,
    packed,
    tcp_conversation,
    udp_packet,
    write_pcap,
    write_pcapng,
)
from thalweg.errors import SourceError
from thalweg.ingest.captures.frames import LINK_TYPES
from thalweg.ingest.captures.pcap import BATCH, Datagram, read_datagrams
from thalweg.ingest.netflow.datagrams import Datagrams
from thalweg.ingest.records import address_halves
from thalweg.tally import Tally

START = 1_700_000_000_123_456
V9 = b"\0\x09" + bytes(30)
V5 = b"\0\x05\0\x02" + bytes(20 + 96)
IPFIX = b"\0\x0a\0\x20" + bytes(28)


def exports(payload: bytes = V9, num: int = 3, src: str = "10.0.0.7") -> list[Packet]:
    dst = "10.0.0.1" if len(packed(src)) == 4 else "2001:db8::1"
    return [udp_packet(src, dst, 40000 + i, 2055, payload, time_us=START + i) for i in range(num)]


def read(path: Path, ports: set[int] | None = None) -> tuple[list[Datagram], dict[str, int]]:
    tally = Tally()
    batches = list(read_datagrams(path, ports=ports, tally=tally))
    assert all(0 < len(batch) <= BATCH for batch in batches)
    return [datagram for batch in batches for datagram in batch], tally.as_dict()


def wanted(packets: list[Packet], payload: bytes = V9, src: str = "10.0.0.7") -> list[Datagram]:
    return [Datagram(packet.time_us, *address_halves(src), 40000 + i, payload) for i, packet in enumerate(packets)]


def ppp(packet: Packet) -> bytes:
    """Return a packet behind PPP's number for its protocol."""
    return (b"\x00\x21" if packet.ip[0] >> 4 == 4 else b"\x57") + packet.ip


def tunnelled(packet: Packet, protocol: int, payload: bytes) -> bytes:
    """Return a frame with another IP header around a payload."""
    return ip_packet("198.51.100.1", "198.51.100.2", protocol, payload, time_us=packet.time_us).octets


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("nanoseconds", [False, True])
def test_pcap_of_either_byte_order_and_resolution_gives_its_export_packets(
    tmp_path: Path, order: str, nanoseconds: bool
) -> None:
    packets = exports()
    path = write_pcap(tmp_path / "a.pcap", packets, order=order, nanoseconds=nanoseconds)
    assert read(path) == (wanted(packets), {})


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("tsresol", [None, 6, 9, 128 | 30])
def test_pcapng_of_either_byte_order_and_any_resolution_gives_its_export_packets(
    tmp_path: Path, order: str, tsresol: int | None
) -> None:
    packets = exports()
    found, counts = read(write_pcapng(tmp_path / "a.pcapng", packets, order=order, tsresol=tsresol))
    assert counts == {}
    assert [one.payload for one in found] == [V9] * 3
    assert all(abs(one.time_us - packet.time_us) <= 1 for one, packet in zip(found, packets, strict=True))


def test_pcapng_with_simple_packets_and_a_second_section_of_the_other_order_is_read(tmp_path: Path) -> None:
    simple = write_pcapng(tmp_path / "a", exports(), simple=True).read_bytes()
    second = write_pcapng(tmp_path / "b", exports(), order=">").read_bytes()
    (tmp_path / "c").write_bytes(second + simple)
    found, counts = read(tmp_path / "c")
    assert (len(found), counts) == (6, {})
    assert [one.time_us for one in found[3:]] == [START + 2] * 3


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress])
def test_a_compressed_capture_reads_like_a_plain_one(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    packets = exports(num=2000)
    plain = write_pcap(tmp_path / "a.pcap", packets)
    (tmp_path / "a.pcap.z").write_bytes(pack(plain.read_bytes()))
    assert read(tmp_path / "a.pcap.z") == (wanted(packets), {})


@pytest.mark.parametrize(
    ("link_type", "frame"),
    [
        (1, lambda packet: packet.octets[:12] + bytes.fromhex("88a80001 81000002") + packet.octets[12:]),
        (113, lambda packet: bytes(14) + packet.octets[12:]),
        (276, lambda packet: packet.octets[12:14] + bytes(18) + packet.ip),
        *((kind, lambda packet: packet.ip) for kind in (12, 14, 101, 228, 229)),
        (0, lambda packet: struct.pack("<I", 2) + packet.ip),
        (108, lambda packet: struct.pack(">I", 24) + packet.ip),
        (1, lambda packet: packet.octets[:12] + b"\x88\x47\0\1\0\x40\0\2\1\x40" + packet.ip),
        (1, lambda packet: packet.octets[:12] + b"\x88\x64\x11\0\0\1\0\xff" + ppp(packet)),
        (1, lambda packet: tunnelled(packet, 47, b"\0\0" + packet.octets[12:14] + packet.ip)),
        (1, lambda packet: tunnelled(packet, 47, b"\x10\0\x88\xbe" + bytes(12) + packet.octets)),
        (1, lambda packet: tunnelled(packet, 41 if packet.ip[0] >> 4 == 6 else 4, packet.ip)),
        (1, lambda packet: tunnelled(packet, 4, ip_packet("10.9.0.1", "10.9.0.2", 143, packet.octets).ip)),
        (9, lambda packet: b"\xff\x03" + ppp(packet)),
        (9, lambda packet: ppp(packet)),
        (9, lambda packet: b"\x0f\0" + packet.octets[12:]),
        (50, lambda packet: b"\xff\x03" + ppp(packet)),
        (50, lambda packet: b"\x8f\0" + packet.octets[12:]),
        (51, lambda packet: b"\x11\0\0\1\0\xff" + ppp(packet)),
        (104, lambda packet: b"\x0f\0" + packet.octets[12:]),
        (166, lambda packet: b"\1\x03" + ppp(packet)),
        (219, lambda packet: b"\0\1\1\x40" + packet.ip),
        (113, lambda packet: bytes(14) + b"\x81\0\0\5" + packet.octets[12:]),
        (276, lambda packet: b"\x81\0" + bytes(18) + b"\0\5" + packet.octets[12:]),
        (276, lambda packet: b"\x88\x47" + bytes(18) + b"\0\1\1\x40" + packet.ip),
    ],
)
@pytest.mark.parametrize("src", ["10.0.0.7", "2001:db8::7"])
def test_every_link_type_and_both_versions_of_ip_are_read(
    tmp_path: Path, link_type: int, frame: Callable[[Packet], bytes], src: str
) -> None:
    packets = exports(src=src)
    framed = [Packet(packet.time_us, frame(packet)) for packet in packets]
    assert read(write_pcap(tmp_path / "a", framed, link_type=link_type)) == (wanted(packets, src=src), {})
    assert read(write_pcapng(tmp_path / "b", framed, link_type=link_type)) == (wanted(packets, src=src), {})
    assert link_type in LINK_TYPES


@pytest.mark.parametrize("payload", [V5, V9, IPFIX])
def test_only_what_begins_like_an_export_packet_is_taken_unless_ports_are_given(tmp_path: Path, payload: bytes) -> None:
    other = [*tcp_conversation("10.0.0.2", "10.0.0.3", 4000, 443, start_us=START), *exports(payload[:15])]
    path = write_pcap(tmp_path / "a", [*exports(payload), *other, Packet(START, b"\1" * 60)])
    assert read(path) == (wanted(exports(), payload), {"other_packets": len(other) + 1})
    assert len(read(path, ports={2055})[0]) == 6
    assert read(path, ports={4739})[0] == []


def test_options_and_extension_headers_are_stepped_over_and_padding_is_left_off(tmp_path: Path) -> None:
    datagram = struct.pack(">HHHH", 40000, 2055, 8 + len(V9), 0) + V9
    ipv4 = ip_packet("10.0.0.7", "10.0.0.1", 17, datagram).octets
    with_options = (
        ipv4[:14] + b"\x46" + ipv4[15:16] + struct.pack(">H", 24 + len(datagram)) + ipv4[18:34] + bytes(4) + datagram
    )
    extended = ip_packet(
        "2001:db8::7", "2001:db8::1", 0, bytes([60, 0]) + bytes(6) + bytes([17, 1]) + bytes(14) + datagram
    )
    path = write_pcap(tmp_path / "a", [Packet(START, with_options + bytes(9)), Packet(START, extended.octets)])
    found, counts = read(path)
    assert ([one.payload for one in found], counts) == ([V9, V9], {})


def fragments(payload: bytes, src: str = "10.0.0.7", size: int = 512, ident: int = 5) -> list[Packet]:
    datagram = struct.pack(">HHHH", 40000, 2055, 8 + len(payload), 0) + payload
    pieces = []
    for at in range(0, len(datagram), size):
        more = at + size < len(datagram)
        if len(packed(src)) == 4:
            piece = ip_packet(src, "10.0.0.1", 17, datagram[at : at + size], fragment=at // 8 | more << 13, ident=ident)
        else:
            head = struct.pack(">BBHI", 17, 0, at | more, ident)
            piece = ip_packet(src, "2001:db8::1", 44, head + datagram[at : at + size])
        pieces.append(Packet(START, piece.octets))
    return pieces


@pytest.mark.parametrize("src", ["10.0.0.7", "2001:db8::7"])
@pytest.mark.parametrize("turn", [1, -1])
def test_fragments_are_put_together_in_any_order(tmp_path: Path, src: str, turn: int) -> None:
    payload = V9 + bytes(range(256)) * 10
    found, counts = read(write_pcap(tmp_path / "a", fragments(payload, src)[::turn]))
    assert (found, counts) == ([Datagram(START, *address_halves(src), 40000, payload)], {})


def test_fragments_of_a_tunnel_are_put_together_and_those_of_anything_else_left_out(tmp_path: Path) -> None:
    (packet,) = exports(V9 + bytes(1_000), num=1)
    for protocol, payload in ((47, b"\0\0\x65\x58" + packet.octets), (4, packet.ip), (6, packet.ip)):
        pieces = [
            Packet(START, ip_packet("10.9.0.1", "10.9.0.2", protocol, payload[at : at + 512], fragment=place).octets)
            for at, place in ((0, 0x2000), (512, 0x2040), (1_024, 0x0080))
        ]
        found, counts = read(write_pcap(tmp_path / "a", pieces))
        assert found == ([] if protocol == 6 else wanted([packet], V9 + bytes(1_000)))
        assert counts == ({"other_packets": 3} if protocol == 6 else {})


def test_a_tunnel_in_a_tunnel_without_end_is_left_out(tmp_path: Path) -> None:
    (packet,) = exports(num=1)
    for num, is_read in ((7, True), (8, False), (1_000, False)):
        octets = packet.ip
        for _ in range(num):
            octets = ip_packet("10.9.0.1", "10.9.0.2", 4, octets).ip
        found, counts = read(write_pcap(tmp_path / "a", [Packet(START, octets)], link_type=101))
        assert (len(found), counts) == ((1, {}) if is_read else (0, {"other_packets": 1}))


def test_fragments_without_the_others_are_counted_and_hold_bounded_memory(tmp_path: Path) -> None:
    payload = V9 + bytes(2000)
    lost = [packet for ident in range(200) for packet in fragments(payload, ident=ident)[:-1]]
    again = fragments(payload, ident=199)  # its number is reused
    found, counts = read(write_pcap(tmp_path / "a", lost + again))
    assert [one.payload for one in found] == [payload]
    assert counts == {"fragmented_packets": len(lost)}


def test_packets_cut_by_the_snaplen_are_counted(tmp_path: Path) -> None:
    for snaplen in (30, 44, 60):
        assert read(write_pcap(tmp_path / "a", exports(), snaplen=snaplen)) == ([], {"truncated_packets": 3})
        assert read(write_pcapng(tmp_path / "b", exports(), snaplen=snaplen)) == ([], {"truncated_packets": 3})


@pytest.mark.parametrize("write", [write_pcap, write_pcapng])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_capture_cut_anywhere_gives_its_whole_packets(
    tmp_path: Path, write: Callable[[Path, list[Packet]], Path], pack: Callable[[bytes], bytes]
) -> None:
    packets = exports()
    whole = pack(write(tmp_path / "a", packets).read_bytes())
    for size in range(100, len(whole), 7):
        (tmp_path / "b").write_bytes(whole[:size])
        found, counts = read(tmp_path / "b")
        assert found == wanted(packets)[: len(found)]
        assert sum(counts.values()) <= 1
        assert set(counts) <= {"truncated_packets"}
    (tmp_path / "b").write_bytes(whole)
    assert len(read(tmp_path / "b")[0]) == 3


@pytest.mark.parametrize("write", [write_pcap, write_pcapng])
def test_a_damaged_capture_gives_what_comes_before_and_then_names_the_place(
    tmp_path: Path, write: Callable[[Path, list[Packet]], Path]
) -> None:
    path = write(tmp_path / "a", exports())
    with path.open("ab") as stream:
        stream.write(b"\xff" * 100)
    size = path.stat().st_size - 100
    batches = read_datagrams(path, tally=Tally())
    assert len(next(batches)) == 3
    with pytest.raises(SourceError, match=rf"byte {size}: the capture is damaged"):
        next(batches)


def test_what_is_no_capture_is_refused_with_the_next_step(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for content, message in (
        (b"", "is empty"),
        (b"src,dst\n1,2\n", "neither pcap nor pcapng"),
        (b"\xd4\xc3\xb2\xa1", "is truncated"),
    ):
        path.write_bytes(content)
        with pytest.raises(SourceError, match=message):
            read(path)
    with pytest.raises(SourceError, match="link type 105 is not known; capture on"):
        read(write_pcap(path, exports(), link_type=105))
    with pytest.raises(SourceError, match="check the path"):
        read(tmp_path / "missing")
    damaged = bytearray(gzip.compress(write_pcap(path, exports(num=500)).read_bytes()))
    damaged[200:220] = bytes(20)
    path.write_bytes(damaged)
    with pytest.raises(SourceError, match="the gzip data is damaged"):
        read(path)


@pytest.mark.parametrize(("resolution", "num_wrong"), [(0, 3), (128, 3), (127, 0), (255, 0)])
def test_times_of_packets_that_no_datetime_holds_are_counted(tmp_path: Path, resolution: int, num_wrong: int) -> None:
    octets = bytearray(write_pcapng(tmp_path / "a", exports(), tsresol=6).read_bytes())
    octets[octets.index(struct.pack("<HHB", 9, 1, 6)) + 4] = resolution
    whole = struct.pack("<IIII", 0, START >> 32, START & 0xFFFFFFFF, len(exports()[0].octets))
    at = octets.index(whole) + 4
    octets[at : at + 8] = b"\xff" * 8
    (tmp_path / "a").write_bytes(octets)
    datagrams, counts = read(tmp_path / "a")
    assert len(Datagrams.of((one.payload, one.time_us, 0, 0) for one in datagrams)) == 3
    assert counts == ({"unreadable_values": num_wrong} if num_wrong else {})
