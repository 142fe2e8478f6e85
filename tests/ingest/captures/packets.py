"""Packet captures made by hand: Ethernet frames of TCP, UDP and ICMP, whole conversations, pcap and pcapng files."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, final

FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
PSH: Final = 0x08
ACK: Final = 0x10
ETHERNET: Final = 1
MAX_SEGMENT: Final = 1460

_MACS: Final = bytes.fromhex("02000000000102000000000a")


@final
@dataclass(frozen=True, slots=True)
class Packet:
    """One captured Ethernet frame."""

    time_us: int
    octets: bytes

    @property
    def ip(self) -> bytes:
        """The frame without its Ethernet header."""
        return self.octets[14:]


@lru_cache(maxsize=1 << 16)
def packed(address: str) -> bytes:
    """Return an address as 4 or 16 bytes."""
    return ipaddress.ip_address(address).packed


def checksum(octets: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    octets += b"\0" * (len(octets) & 1)
    total: int = sum(struct.unpack(f">{len(octets) // 2}H", octets))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def ip_packet(
    src: str, dst: str, protocol: int, payload: bytes, *, time_us: int = 0, fragment: int = 0, ident: int = 0
) -> Packet:
    """Put a transport header and its payload into IPv4 or IPv6 and Ethernet. fragment: flags and offset, IPv4 only."""
    source, target = packed(src), packed(dst)
    if len(source) == 4:
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), ident, fragment, 64, protocol, 0) + source + target
        head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
        return Packet(time_us, b"".join((_MACS, b"\x08\x00", head, payload)))
    head = struct.pack(">IHBB", 6 << 28, len(payload), protocol, 64)
    return Packet(time_us, b"".join((_MACS, b"\x86\xdd", head, source, target, payload)))


def udp_packet(src: str, dst: str, src_port: int, dst_port: int, payload: bytes = b"", *, time_us: int = 0) -> Packet:
    """Make a UDP datagram; its checksum is left out."""
    datagram = struct.pack(">HHHH", src_port, dst_port, 8 + len(payload), 0) + payload
    return ip_packet(src, dst, 17, datagram, time_us=time_us)


def tcp_packet(
    src: str,
    dst: str,
    src_port: int,
    dst_port: int,
    *,
    flags: int = ACK,
    num_bytes: int = 0,
    seq: int = 0,
    ack: int = 0,
    time_us: int = 0,
) -> Packet:
    """Make a TCP segment with so many bytes of zeros; its checksum is left out."""
    head = struct.pack(">HHIIBBHHH", src_port, dst_port, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, 0x50, flags, 65535, 0, 0)
    return ip_packet(src, dst, 6, head + bytes(num_bytes), time_us=time_us)


def icmp_packet(src: str, dst: str, kind: int, code: int, *, num_bytes: int = 56, time_us: int = 0) -> Packet:
    """Make an ICMP message; between IPv6 addresses, an ICMPv6 one."""
    protocol = 1 if len(packed(src)) == 4 else 58
    return ip_packet(src, dst, protocol, struct.pack(">BBHI", kind, code, 0, 0) + bytes(num_bytes), time_us=time_us)


def tcp_conversation(
    client: str,
    server: str,
    client_port: int,
    server_port: int,
    *,
    start_us: int,
    request_bytes: int = 300,
    reply_bytes: int = 3000,
    step_us: int = 1000,
) -> Iterator[Packet]:
    """Give a connection from its SYN to the last ACK of its FINs, a packet every `step_us`.

    The client sends `request_bytes`, the server `reply_bytes` and an ACK to every second segment.
    """
    time_us, seqs = start_us, [1000, 5000]
    ends = ((client, server, client_port, server_port), (server, client, server_port, client_port))

    def send(side: int, flags: int, num_bytes: int = 0) -> Packet:
        nonlocal time_us
        packet = tcp_packet(
            *ends[side],
            flags=flags,
            num_bytes=num_bytes,
            seq=seqs[side],
            ack=seqs[1 - side] if flags & ACK else 0,
            time_us=time_us,
        )
        seqs[side] += num_bytes + (1 if flags & (SYN | FIN) else 0)
        time_us += step_us
        return packet

    yield send(0, SYN)
    yield send(1, SYN | ACK)
    yield send(0, ACK)
    for side, num_bytes in ((0, request_bytes), (1, reply_bytes)):
        for i, at in enumerate(range(0, num_bytes, MAX_SEGMENT)):
            yield send(side, ACK | PSH, min(MAX_SEGMENT, num_bytes - at))
            if i % 2:
                yield send(1 - side, ACK)
    yield send(0, FIN | ACK)
    yield send(1, FIN | ACK)
    yield send(0, ACK)


def udp_conversation(
    client: str,
    server: str,
    client_port: int,
    server_port: int,
    *,
    start_us: int,
    request_bytes: int = 40,
    reply_bytes: int = 120,
    step_us: int = 1000,
) -> Iterator[Packet]:
    """Give a question and its answer."""
    yield udp_packet(client, server, client_port, server_port, bytes(request_bytes), time_us=start_us)
    yield udp_packet(server, client, server_port, client_port, bytes(reply_bytes), time_us=start_us + step_us)


def write_pcap(
    path: Path,
    packets: Iterable[Packet],
    *,
    order: str = "<",
    nanoseconds: bool = False,
    link_type: int = ETHERNET,
    snaplen: int = 65535,
) -> Path:
    """Write a pcap file, cutting packets at `snaplen`; packets are taken as frames of `link_type`."""
    magic, scale = (0xA1B23C4D, 1000) if nanoseconds else (0xA1B2C3D4, 1)
    head = struct.Struct(f"{order}IIII")
    with path.open("wb") as stream:
        stream.write(struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, snaplen, link_type))
        for packet in packets:
            seconds, rest = divmod(packet.time_us, 1_000_000)
            octets = packet.octets[:snaplen]
            stream.write(head.pack(seconds, rest * scale, len(octets), len(packet.octets)) + octets)
    return path


def pcapng_block(kind: int, body: bytes, order: str = "<") -> bytes:
    """Frame a block of pcapng."""
    body += b"\0" * (-len(body) % 4)
    size = struct.pack(f"{order}I", 12 + len(body))
    return struct.pack(f"{order}I", kind) + size + body + size


def write_pcapng(
    path: Path,
    packets: Iterable[Packet],
    *,
    order: str = "<",
    tsresol: int | None = None,
    link_type: int = ETHERNET,
    snaplen: int = 0,
    simple: bool = False,
) -> Path:
    """Write a pcapng file of one section and one interface. tsresol: as in if_tsresol. simple: without times."""
    units = 1_000_000 if tsresol is None else 2 ** (tsresol & 127) if tsresol & 128 else 10**tsresol
    options = b"" if tsresol is None else struct.pack(f"{order}HHBxxx", 9, 1, tsresol) + bytes(4)
    with path.open("wb") as stream:
        stream.write(pcapng_block(0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1), order))
        stream.write(pcapng_block(1, struct.pack(f"{order}HHI", link_type, 0, snaplen) + options, order))
        for packet in packets:
            octets = packet.octets[: snaplen or None]
            if simple:
                body = struct.pack(f"{order}I", len(packet.octets)) + octets
                stream.write(pcapng_block(3, body, order))
                continue
            stamp = packet.time_us * units // 1_000_000
            head = struct.pack(f"{order}IIIII", 0, stamp >> 32, stamp & 0xFFFFFFFF, len(octets), len(packet.octets))
            stream.write(pcapng_block(6, head + octets, order))
    return path
