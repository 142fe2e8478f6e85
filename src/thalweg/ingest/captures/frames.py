"""Finds the UDP export packets in captured frames, and reassembles IP fragments."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, TypeAlias, final

from thalweg.tally import Tally

Payload: TypeAlias = tuple[int, int, int, bytes]
"""Source address in two halves as in `records.RECORD`, source port, UDP payload."""

_UDP: Final = 17
_FRAGMENT: Final = 44
# IPv6 extension headers whose length is in units of 8 bytes, without the first 8 (RFC 8200; IANA's registry).
_EXTENSIONS: Final = frozenset({0, 43, 60, 135, 139, 140})
_AUTHENTICATION: Final = 51  # its length is in units of 4 bytes, without the first 8 (RFC 4302, 2.2)
_TAGS: Final = frozenset({b"\x81\x00", b"\x88\xa8", b"\x91\x00"})
_IP: Final = frozenset({b"\x08\x00", b"\x86\xdd"})
_MAPPED: Final = 0xFFFF << 32

# Cisco's NetFlow v5: a header of 24 bytes and 1 to 30 records of 48. v9: RFC 3954, 5.1. IPFIX: RFC 7011, 3.1.
_VERSIONS: Final = frozenset({b"\0\x05", b"\0\x09", b"\0\x0a"})
_V5_HEADER, _V5_RECORD, _V9_LEAST, _IPFIX_HEADER = 24, 48, 24, 16


def _ethernet(frame: bytes) -> int:
    at = 12
    while (kind := frame[at : at + 2]) in _TAGS:
        at += 4
    return at + 2 if kind in _IP else -1


def _cooked(frame: bytes) -> int:
    at = 14
    while (kind := frame[at : at + 2]) in _TAGS:
        at += 4
    return at + 2 if kind in _IP else -1


def _cooked2(frame: bytes) -> int:
    return 20 if frame[:2] in _IP else -1


def _raw(frame: bytes) -> int:
    del frame
    return 0


def _loopback(frame: bytes) -> int:
    # The number and byte order of the address family differ between systems; IP's version field says which it is.
    del frame
    return 4


LINK_TYPES: Final[Mapping[int, Callable[[bytes], int]]] = MappingProxyType(
    {0: _loopback, 1: _ethernet, 12: _raw, 14: _raw, 101: _raw, 108: _loopback, 113: _cooked, 228: _raw, 229: _raw,
     276: _cooked2}
)  # fmt: skip
"""By link type (tcpdump.org): a function that returns the offset of IP in a frame, -1 if it carries no IP."""


def is_export(payload: bytes) -> bool:
    """Return whether a UDP payload has the header of NetFlow v5, v9 or IPFIX and the length that it needs."""
    version = payload[:2]
    if version == b"\0\x09":
        return len(payload) >= _V9_LEAST
    if version == b"\0\x0a":
        return _IPFIX_HEADER <= int.from_bytes(payload[2:4]) <= len(payload)
    return version == b"\0\x05" and 0 < int.from_bytes(payload[2:4]) * _V5_RECORD <= len(payload) - _V5_HEADER


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
        find = LINK_TYPES.get(link_type)
        at = -1 if find is None else find(frame)
        try:
            version = frame[at] >> 4 if at >= 0 else 0
            if version == 4:
                return self._ipv4(time_us, frame, at)
            if version == 6:
                return self._ipv6(time_us, frame, at)
        except IndexError:
            # A header is truncated, by the capture or by the sender.
            self._count("other_packets" if whole else "truncated_packets")
            return None
        self._count("other_packets")
        return None

    def close(self) -> None:
        """Count the fragments of datagrams that were never completed."""
        self._count("fragmented_packets", self._reassembly.clear())

    def _ipv4(self, time_us: int, frame: bytes, at: int) -> Payload | None:
        begin = at + (frame[at] & 15) * 4
        if frame[at + 9] != _UDP:
            self._count("other_packets")
            return None
        source = frame[at + 12 : at + 16]
        # The length is 0 if the network card was to segment the packet.
        end = at + (frame[at + 2] << 8 | frame[at + 3] or len(frame) - at)
        place = frame[at + 6] << 8 | frame[at + 7]
        address = (0, _MAPPED | int.from_bytes(source))
        if place & 0x3FFF:
            key = frame[at + 12 : at + 20] + frame[at + 4 : at + 6]
            data, offset, more = frame[begin:end], (place & 0x1FFF) * 8, bool(place & 0x2000)
            return self._fragment(time_us, key, data, offset=offset, more=more, size=end - begin, address=address)
        return self._udp(frame, begin, end, address)

    def _ipv6(self, time_us: int, frame: bytes, at: int) -> Payload | None:
        kind, begin = frame[at + 6], at + 40
        end = at + 40 + (frame[at + 4] << 8 | frame[at + 5] or len(frame) - at - 40)
        source = frame[at + 8 : at + 24]
        address = (int.from_bytes(source[:8]), int.from_bytes(source[8:]))
        while kind in _EXTENSIONS or kind == _AUTHENTICATION:
            size = (frame[begin + 1] + 1) * 8 if kind in _EXTENSIONS else (frame[begin + 1] + 2) * 4
            kind, begin = frame[begin], begin + size
        if kind == _FRAGMENT and frame[begin] == _UDP:
            place = frame[begin + 2] << 8 | frame[begin + 3]
            key = frame[at + 8 : at + 40] + frame[begin + 4 : begin + 8]
            begin += 8
            if place & 0xFFF9:
                data, offset, more = frame[begin:end], place & 0xFFF8, bool(place & 1)
                return self._fragment(time_us, key, data, offset=offset, more=more, size=end - begin, address=address)
            kind = _UDP
        if kind != _UDP:
            self._count("other_packets")
            return None
        return self._udp(frame, begin, end, address)

    def _fragment(
        self, time_us: int, key: bytes, data: bytes, *, offset: int, more: bool, size: int, address: tuple[int, int]
    ) -> Payload | None:
        if len(data) < size or size <= 0:
            self._count("truncated_packets")
            return None
        datagram, num_lost = self._reassembly.add(time_us, key, offset, more, data)
        self._count("fragmented_packets", num_lost)
        return None if datagram is None else self._udp(datagram, 0, len(datagram), address)

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
