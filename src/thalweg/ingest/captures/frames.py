"""Finds the UDP export packets in captured frames, and reassembles IP fragments."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias, final

import numpy as np

from thalweg.ingest.packets import (
    ANY_IP,
    CISCO_HDLC,
    ETHERNET,
    MPLS,
    PPP,
    PPPOE,
    carried_by,
    find_ip,
)
from thalweg.tally import Tally

Payload: TypeAlias = tuple[int, int, int, bytes]
"""Source address in two halves as in `records.RECORD`, source port, UDP payload."""

_UDP: Final = 17
_FRAGMENT: Final = 44
# IPv6 extension headers whose length is in units of 8 bytes, without the first 8 (RFC 8200; IANA's registry).
_EXTENSIONS: Final = frozenset({0, 43, 60, 135, 139, 140})
_AUTHENTICATION: Final = 51  # its length is in units of 4 bytes, without the first 8 (RFC 4302, 2.2)
_IP: Final = frozenset({b"\x08\x00", b"\x86\xdd"})
_MAPPED: Final = 0xFFFF << 32

# Cisco's NetFlow v5: a header of 24 bytes and 1 to 30 records of 48. v9: RFC 3954, 5.1. IPFIX: RFC 7011, 3.1.
_VERSIONS: Final = frozenset({b"\0\x05", b"\0\x09", b"\0\x0a"})
_V5_HEADER, _V5_RECORD, _V9_LEAST, _IPFIX_HEADER = 24, 48, 24, 16


# By link type (tcpdump.org): what a frame begins with, and where.
_KINDS: Final[Mapping[int, tuple[int, int]]] = MappingProxyType(
    {
        0: (ANY_IP, 4),  # the number and byte order of the address family differ between systems
        1: (ETHERNET, 0),
        9: (PPP, 0),
        12: (ANY_IP, 0),
        14: (ANY_IP, 0),
        50: (PPP, 0),
        51: (PPPOE, 0),
        101: (ANY_IP, 0),
        104: (CISCO_HDLC, 0),
        108: (ANY_IP, 4),
        113: (CISCO_HDLC, 12),  # a Linux header of 14 bytes, and then a type
        166: (PPP, 2),
        219: (MPLS, 0),
        228: (ANY_IP, 0),
        229: (ANY_IP, 0),
        276: (-1, 20),  # a Linux header that begins with the type
    }
)
LINK_TYPES: Final = frozenset(_KINDS)
"""The link types whose frames can be read."""
_COOKED2: Final = 276
_SERIAL: Final = frozenset({9, 50})
_CISCO: Final = frozenset({b"\x0f", b"\x8f"})
"""The first byte of Cisco's framing on a serial line, which has the link type of PPP."""
_MAX_HEADERS: Final = 8
"""IP headers that are read in one packet, for tunnels."""


def _ip_in(link_type: int, frame: bytes) -> int:
    """Return the offset of IP in a frame, -1 if it carries none."""
    if link_type == 1 and frame[12:14] in _IP:
        return 14
    if link_type not in _KINDS:
        return -1
    kind, at = _KINDS[link_type]
    if link_type == _COOKED2:
        kind = int.from_bytes(frame[:2])
    elif link_type in _SERIAL and frame[:1] in _CISCO:
        kind = CISCO_HDLC
    return _find_ip(frame, at, len(frame), kind)


def _find_ip(frame: bytes, at: int, end: int, kind: int) -> int:
    return int(find_ip(np.frombuffer(frame, np.uint8), at, min(end, len(frame)), kind))


def is_export(payload: bytes) -> bool:
    """Return whether a UDP payload has the header of NetFlow v5, v9 or IPFIX and the length that it needs."""
    version = payload[:2]
    if version == b"\0\x09":
        return len(payload) >= _V9_LEAST
    if version == b"\0\x0a":
        return _IPFIX_HEADER <= int.from_bytes(payload[2:4]) <= len(payload)
    return version == b"\0\x05" and 0 < int.from_bytes(payload[2:4]) * _V5_RECORD <= len(payload) - _V5_HEADER


class _IpPayload(NamedTuple):
    """What an IP packet carries. depth: how many IP headers there are up to its own."""

    time_us: int
    protocol: int
    source: tuple[int, int]
    depth: int


@final
class ExportFinder:
    """Finds the export packets in the frames of one capture.

    subject: the capture's name in counts. ports: the UDP ports that exporters send to; None recognises export packets
    by their header. tally: counts the packets left out.
    """

    def __init__(self, subject: str, ports: frozenset[int] | None, tally: Tally) -> None:
        self._subject, self._ports, self._tally = subject, ports, tally
        self._reassembly = _Reassembly()
        self._num_frames = 0

    def _count(self, name: str, num: int = 1) -> None:
        self._tally.add(name, num, f"{self._subject}, packet {self._num_frames}")

    def payload(self, time_us: int, link_type: int, frame: bytes, whole: bool) -> Payload | None:
        """Return the export packet in a frame, or None; the last fragment of a datagram returns the whole datagram.

        link_type: -1 if unknown. whole: whether the whole frame was captured.
        """
        self._num_frames += 1
        try:
            return self._ip(time_us, frame, _ip_in(link_type, frame), 1)
        except IndexError:
            # A header is truncated, by the capture or by the sender.
            self._count("other_packets" if whole else "truncated_packets")
            return None

    def close(self) -> None:
        """Count the fragments of datagrams that were never completed."""
        self._count("fragmented_packets", self._reassembly.clear())

    def _ip(self, time_us: int, frame: bytes, at: int, depth: int) -> Payload | None:
        """Return the export packet in an IP packet. depth: how many IP headers there are up to this one."""
        version = frame[at] >> 4 if at >= 0 and depth <= _MAX_HEADERS else 0
        if version == 4:
            return self._ipv4(time_us, frame, at, depth)
        if version == 6:
            return self._ipv6(time_us, frame, at, depth)
        self._count("other_packets")
        return None

    def _ipv4(self, time_us: int, frame: bytes, at: int, depth: int) -> Payload | None:
        begin = at + (frame[at] & 15) * 4
        # The length is 0 if the network card was to segment the packet.
        end = at + (frame[at + 2] << 8 | frame[at + 3] or len(frame) - at)
        place = frame[at + 6] << 8 | frame[at + 7]
        payload = _IpPayload(time_us, frame[at + 9], (0, _MAPPED | int.from_bytes(frame[at + 12 : at + 16])), depth)
        if place & 0x3FFF:
            key = frame[at + 12 : at + 20] + frame[at + 4 : at + 6] + frame[at + 9 : at + 10]
            data, offset, more = frame[begin:end], (place & 0x1FFF) * 8, bool(place & 0x2000)
            return self._fragment(payload, key, data, offset=offset, more=more, size=end - begin)
        return self._payload(payload, frame, begin, end)

    def _ipv6(self, time_us: int, frame: bytes, at: int, depth: int) -> Payload | None:
        kind, begin = frame[at + 6], at + 40
        end = at + 40 + (frame[at + 4] << 8 | frame[at + 5] or len(frame) - at - 40)
        source = frame[at + 8 : at + 24]
        while kind in _EXTENSIONS or kind == _AUTHENTICATION:
            size = (frame[begin + 1] + 1) * 8 if kind in _EXTENSIONS else (frame[begin + 1] + 2) * 4
            kind, begin = frame[begin], begin + size
        place, key = 0, b""
        if kind == _FRAGMENT:
            kind, place = frame[begin], frame[begin + 2] << 8 | frame[begin + 3]
            key = frame[at + 8 : at + 40] + frame[begin + 4 : begin + 8] + frame[begin : begin + 1]
            begin += 8
        payload = _IpPayload(time_us, kind, (int.from_bytes(source[:8]), int.from_bytes(source[8:])), depth)
        if place & 0xFFF9:
            data, offset, more = frame[begin:end], place & 0xFFF8, bool(place & 1)
            return self._fragment(payload, key, data, offset=offset, more=more, size=end - begin)
        return self._payload(payload, frame, begin, end)

    def _fragment(
        self, payload: _IpPayload, key: bytes, data: bytes, *, offset: int, more: bool, size: int
    ) -> Payload | None:
        if payload.protocol != _UDP and carried_by(payload.protocol) < 0:
            self._count("other_packets")
            return None
        if len(data) < size or size <= 0:
            self._count("truncated_packets")
            return None
        datagram, num_lost = self._reassembly.add(payload.time_us, key, offset, more, data)
        self._count("fragmented_packets", num_lost)
        return None if datagram is None else self._payload(payload, datagram, 0, len(datagram))

    def _payload(self, payload: _IpPayload, frame: bytes, begin: int, end: int) -> Payload | None:
        if payload.protocol == _UDP:
            return self._udp(frame, begin, end, payload.source)
        kind = carried_by(payload.protocol)
        at = _find_ip(frame, begin, end, kind) if kind >= 0 else -1
        return self._ip(payload.time_us, frame, at, payload.depth + 1)

    def _udp(self, frame: bytes, begin: int, end: int, address: tuple[int, int]) -> Payload | None:
        size = frame[begin + 4] << 8 | frame[begin + 5]
        end = min(end, begin + size) if size else end
        payload = frame[begin + 8 : end]
        port = frame[begin + 2] << 8 | frame[begin + 3]
        cut = len(frame) < end
        if self._ports is not None:
            is_export_packet = port in self._ports
        else:
            is_export_packet = payload[:2] in _VERSIONS or len(payload) < 2 if cut else is_export(payload)
        if not is_export_packet:
            self._count("other_packets")
            return None
        if cut:
            self._count("truncated_packets")
            return None
        return *address, frame[begin] << 8 | frame[begin + 1], payload


@final
@dataclass(slots=True)
class _PartialDatagram:
    time_us: int
    size: int = 0
    total: int = -1
    pieces: dict[int, bytes] = field(default_factory=dict)


@final
class _Reassembly:
    """Reassembles datagrams from IP fragments: at most 64 at once, each within 30 s."""

    NUM: Final = 64
    AGE_US: Final = 30_000_000  # RFC 791, 3.2 and RFC 8200, 4.5 say 15 s and 60 s

    def __init__(self) -> None:
        self._waiting: OrderedDict[bytes, _PartialDatagram] = OrderedDict()

    def add(self, time_us: int, key: bytes, offset: int, more: bool, data: bytes) -> tuple[bytes | None, int]:
        """Add a fragment; return its datagram if it is complete now, else None, and the number of fragments dropped."""
        num_lost = 0
        waiting = self._waiting.get(key)
        if waiting is not None and (offset in waiting.pieces or time_us - waiting.time_us > self.AGE_US):
            # Another datagram with the same identification.
            num_lost += len(self._waiting.pop(key).pieces)
            waiting = None
        if waiting is None:
            if len(self._waiting) == self.NUM:
                num_lost += len(self._waiting.popitem(last=False)[1].pieces)
            waiting = self._waiting[key] = _PartialDatagram(time_us)
        waiting.pieces[offset] = data
        waiting.size += len(data)
        if not more:
            waiting.total = offset + len(data)
        if waiting.total != waiting.size:
            return None, num_lost
        del self._waiting[key]
        datagram = b"".join(waiting.pieces[at] for at in sorted(waiting.pieces))
        at = 0
        for begin in sorted(waiting.pieces):
            if begin != at:  # overlapping fragments are an attack or damage (RFC 5722)
                return None, num_lost + len(waiting.pieces)
            at += len(waiting.pieces[begin])
        return datagram, num_lost

    def clear(self) -> int:
        """Drop all fragments, and return how many there were."""
        num = sum(len(waiting.pieces) for waiting in self._waiting.values())
        self._waiting.clear()
        return num
