"""Captured frames -> the export packets that they carry over UDP, fragments put together."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, TypeAlias, final

from thalweg.tally import Tally

Payload: TypeAlias = tuple[int, int, int, bytes]
"""Source address in two halves as in `RECORD`, source port, UDP payload."""

_UDP: Final = 17
_FRAGMENT: Final = 44
# Extension headers of IPv6 that count their length in 8 bytes, after the first 8 (RFC 8200; IANA's registry).
_EXTENSIONS: Final = frozenset({0, 43, 60, 135, 139, 140})
_AUTHENTICATION: Final = 51  # counts in 4 bytes, after the first 8 (RFC 4302, 2.2)
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
    # The family's number differs between systems, and so does the order of its bytes; IP's own version tells.
    del frame
    return 4


LINK_TYPES: Final[Mapping[int, Callable[[bytes], int]]] = MappingProxyType(
    {0: _loopback, 1: _ethernet, 12: _raw, 14: _raw, 101: _raw, 108: _loopback, 113: _cooked, 228: _raw, 229: _raw,
     276: _cooked2}
)  # fmt: skip
"""Where IP begins in a frame, -1 for nowhere, by the link types of tcpdump.org."""


def is_export(payload: bytes) -> bool:
    """Tell whether a UDP payload begins as NetFlow v5, v9 or IPFIX does and is as long as that needs."""
    version = payload[:2]
    if version == b"\0\x09":
        return len(payload) >= _V9_LEAST
    if version == b"\0\x0a":
        return _IPFIX_HEADER <= int.from_bytes(payload[2:4]) <= len(payload)
    return version == b"\0\x05" and 0 < int.from_bytes(payload[2:4]) * _V5_RECORD <= len(payload) - _V5_HEADER


@final
class Carried:
    """Finds export packets in the frames of one capture.

    subject: what to call the capture in counts. ports: the UDP ports that exporters send to; None goes by what the
    payload begins with. tally: where to count packets that are left out.
    """

    def __init__(self, subject: str, ports: frozenset[int] | None, tally: Tally) -> None:
        self._subject, self._ports, self._tally = subject, ports, tally
        self._fragments = _Fragments()
        self._num_frames = 0

    def _count(self, name: str, num: int = 1) -> None:
        self._tally.add(name, num, f"{self._subject}, packet {self._num_frames}")

    def payload(self, time_us: int, link_type: int, frame: bytes, whole: bool) -> Payload | None:
        """Return what a frame carries, or None; one that completes a datagram of fragments carries all of it.

        link_type: -1 for one that is not known. whole: whether all that was sent was captured.
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
            # A header is cut short, by the capture or by the sender.
            self._count("other_packets" if whole else "truncated_packets")
            return None
        self._count("other_packets")
        return None

    def close(self) -> None:
        """Count the fragments whose others never came."""
        self._count("fragmented_packets", self._fragments.clear())

    def _ipv4(self, time_us: int, frame: bytes, at: int) -> Payload | None:
        begin = at + (frame[at] & 15) * 4
        if frame[at + 9] != _UDP:
            self._count("other_packets")
            return None
        source = frame[at + 12 : at + 16]
        # 0 where the network card was to cut the packet up.
        end = at + (frame[at + 2] << 8 | frame[at + 3] or len(frame) - at)
        place = frame[at + 6] << 8 | frame[at + 7]
        address = (0, _MAPPED | int.from_bytes(source))
        if place & 0x3FFF:
            key = frame[at + 12 : at + 20] + frame[at + 4 : at + 6]
            return self._fragment(
                time_us, key, (place & 0x1FFF) * 8, bool(place & 0x2000), frame[begin:end], end - begin, address
            )
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
                return self._fragment(
                    time_us, key, place & 0xFFF8, bool(place & 1), frame[begin:end], end - begin, address
                )
            kind = _UDP
        if kind != _UDP:
            self._count("other_packets")
            return None
        return self._udp(frame, begin, end, address)

    def _fragment(
        self, time_us: int, key: bytes, offset: int, more: bool, data: bytes, size: int, address: tuple[int, int]
    ) -> Payload | None:
        if len(data) < size or size <= 0:
            self._count("truncated_packets")
            return None
        datagram, num_lost = self._fragments.add(time_us, key, offset, more, data)
        self._count("fragmented_packets", num_lost)
        return None if datagram is None else self._udp(datagram, 0, len(datagram), address)

    def _udp(self, frame: bytes, begin: int, end: int, address: tuple[int, int]) -> Payload | None:
        size = frame[begin + 4] << 8 | frame[begin + 5]
        end = min(end, begin + size) if size else end
        payload = frame[begin + 8 : end]
        port = frame[begin + 2] << 8 | frame[begin + 3]
        cut = len(frame) < end
        if self._ports is not None:
            wanted = port in self._ports
        else:
            wanted = payload[:2] in _VERSIONS or len(payload) < 2 if cut else is_export(payload)
        if not wanted:
            self._count("other_packets")
            return None
        if cut:
            self._count("truncated_packets")
            return None
        return *address, frame[begin] << 8 | frame[begin + 1], payload


@final
@dataclass(slots=True)
class _Unfinished:
    time_us: int
    size: int = 0
    total: int = -1
    pieces: dict[int, bytes] = field(default_factory=dict)


@final
class _Fragments:
    """Datagrams of which some fragments have come: at most 64, and none that began over 30 s ago."""

    NUM: Final = 64
    AGE_US: Final = 30_000_000  # RFC 791, 3.2 and RFC 8200, 4.5 say 15 s and 60 s

    def __init__(self) -> None:
        self._waiting: OrderedDict[bytes, _Unfinished] = OrderedDict()

    def add(self, time_us: int, key: bytes, offset: int, more: bool, data: bytes) -> tuple[bytes | None, int]:
        """Take a fragment in; return its datagram where it is the last to come, and how many fragments were lost."""
        num_lost = 0
        waiting = self._waiting.get(key)
        if waiting is not None and (offset in waiting.pieces or time_us - waiting.time_us > self.AGE_US):
            # Another datagram under the same number.
            num_lost += len(self._waiting.pop(key).pieces)
            waiting = None
        if waiting is None:
            if len(self._waiting) == self.NUM:
                num_lost += len(self._waiting.popitem(last=False)[1].pieces)
            waiting = self._waiting[key] = _Unfinished(time_us)
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
            if begin != at:  # pieces that overlap are an attack, or damage (RFC 5722)
                return None, num_lost + len(waiting.pieces)
            at += len(waiting.pieces[begin])
        return datagram, num_lost

    def clear(self) -> int:
        """Forget all; return how many fragments there were."""
        num = sum(len(waiting.pieces) for waiting in self._waiting.values())
        self._waiting.clear()
        return num
