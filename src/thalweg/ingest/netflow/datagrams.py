"""Received datagrams, many in one buffer, and the parsing of their headers and sets."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from thalweg.runtime.jit import compiled

ARRIVED: Final = np.dtype(
    [
        ("offset", "i8"),  # of the payload in the buffer
        ("length", "i4"),  # bytes
        ("port", "u2"),  # source port
        ("unused", "u2"),
        ("time_us", "i8"),  # when it was received, microseconds since 1970
        ("hi", "u8"),  # source address in two halves, IPv4 mapped; see records.RECORD
        ("lo", "u8"),
    ]
)
"""One received datagram: its place in the buffer, its source and its time of arrival."""

HEADER: Final = np.dtype(
    [
        ("hi", "u8"),
        ("lo", "u8"),
        ("arrival_us", "i8"),
        ("export_us", "i8"),  # the exporter's clock when it sent the datagram
        ("uptime_ms", "u4"),  # v5, v9: milliseconds since the exporter started
        ("sequence", "u4"),
        ("domain", "u4"),  # observation domain, source id, or engine type * 256 + engine id
        ("exporter", "i4"),  # row of the exporter; -1 if the header is unreadable
        ("num_records", "u4"),  # decoded data records, to check the sequence
        ("claimed", "u2"),  # v5, v9: the count field of the header
        ("version", "u2"),
        ("sampling", "u2"),  # v5: sampling mode (2 bits) and interval (14 bits)
        ("length", "i4"),  # bytes of the datagram
        ("trouble", "u1"),  # index into TROUBLES
        ("complete", "u1"),  # 1 if all of its sets were decoded
        ("is_believed", "u1"),  # 1 if its clock is right, and the one by which it arrived is wrong by a day or more
    ],
    align=True,
)
"""The header of one datagram of any version."""

SET: Final = np.dtype(
    [
        ("datagram", "i4"),  # row of its header
        ("id", "u2"),  # 0 for the records of a v5 datagram
        ("version", "u2"),
        ("begin", "i8"),  # offsets of the set's content in the buffer
        ("end", "i8"),
    ]
)
"""One set (v9: FlowSet) of a datagram, with templates, options or data."""

TROUBLES: Final = ("", "short_datagrams", "unknown_versions", "truncated_datagrams", "malformed_sets")
"""What can be wrong with a datagram, as names of counts (`tally.MEANINGS`)."""
SHORT, UNKNOWN, _TRUNCATED, MALFORMED = 1, 2, 3, 4
_TOGETHER: Final = 4_096


@final
@dataclass(frozen=True, slots=True, eq=False)
class Datagrams:
    """Datagrams in order of arrival. buffer: (B,) uint8, all payloads. arrived: (D,) of ARRIVED.

    are_captured: whether they arrived by the clock of whoever wrote a file, not by ours.
    """

    buffer: npt.NDArray[np.uint8]
    arrived: npt.NDArray[np.void]
    are_captured: bool = False

    def __len__(self) -> int:
        return len(self.arrived)

    def parts(self, num: int = _TOGETHER) -> Iterator[Datagrams]:
        """Yield them, so many at a time: most of what some thousand become stays in the processor's cache."""
        for at in range(0, len(self), num):
            yield Datagrams(self.buffer, self.arrived[at : at + num])

    @classmethod
    def of(cls, payloads: Iterable[tuple[bytes, int, int, int]], *, are_captured: bool = False) -> Datagrams:
        """Join payloads into one buffer. payloads: (bytes, time_us, address_hi, address_lo) each."""
        rows, parts, at = [], [], 0
        for payload, time_us, hi, lo in payloads:
            rows.append((at, len(payload), 0, 0, time_us, hi, lo))
            parts.append(payload)
            at += len(payload)
        return cls(np.frombuffer(b"".join(parts), np.uint8), np.array(rows, ARRIVED), are_captured)


def invented() -> Datagrams:
    """Make a few datagrams with every kind of field; decoding them once compiles the decoder's loops."""
    v5 = struct.pack(">HHIIIIBBH", 5, 1, 1_000, 1, 0, 0, 0, 0, 0) + bytes(48)
    template = struct.pack(">18H", 257, 8, 8, 4, 12, 4, 1, 8, 86, 4, 152, 8, 153, 8, 226, 4, 82, 65_535)
    data = bytes(20) + b"\1" * 16 + bytes(4) + b"\1x"
    sets = struct.pack(">HH", 2, 4 + len(template)) + template + struct.pack(">HH", 257, 4 + len(data)) + data
    frame = bytes(12) + b"\x08\0" + struct.pack(">BBHHHBBH", 0x45, 0, 20, 0, 0, 0, 47, 0) + bytes(8)
    sets += struct.pack(">HHHHHH", 2, 12, 258, 1, 315, 34) + struct.pack(">HH", 258, 38) + frame
    ipfix = struct.pack(">HHIII", 10, 16 + len(sets), 1, 0, 0) + sets
    return Datagrams.of([(v5, 1_000_000, 0, 1), (ipfix, 1_000_000, 0, 2)])


def walk(datagrams: Datagrams) -> tuple[npt.NDArray[np.void], npt.NDArray[np.void]]:
    """Parse all headers and find all sets by their stated lengths, without reading past the end of a datagram.

    Returns: (D,) of HEADER; (S,) of SET, in order.
    Source: RFC 3954 section 5; RFC 7011 section 3; Cisco, NetFlow Services Solutions Guide (v5).
    """
    headers = np.zeros(len(datagrams), HEADER)
    room = 2 * len(datagrams) + 16  # enough for most calls
    while True:
        sets = np.zeros(room, SET)
        num = _walk(datagrams.buffer, datagrams.arrived, headers, sets)
        if num <= room:
            return headers, sets[:num]
        room = num


@compiled(inline=True)
def u16(buffer: Any, at: Any) -> Any:
    """Read a big-endian 16-bit number."""
    return (np.uint32(buffer[at]) << np.uint32(8)) | np.uint32(buffer[at + 1])


@compiled(inline=True)
def u32(buffer: Any, at: Any) -> Any:
    """Read a big-endian 32-bit number."""
    return (
        (np.uint32(buffer[at]) << np.uint32(24))
        | (np.uint32(buffer[at + 1]) << np.uint32(16))
        | (np.uint32(buffer[at + 2]) << np.uint32(8))
        | np.uint32(buffer[at + 3])
    )


@compiled()
def _walk(buffer: Any, arrived: Any, headers: Any, sets: Any) -> int:
    """Fill `headers`, fill `sets` as far as there is room, and return how many sets there are."""
    num = 0
    room = len(sets)
    for d in range(len(arrived)):
        begin = arrived[d].offset
        length = np.int64(arrived[d].length)
        header = headers[d]
        header.hi = arrived[d].hi
        header.lo = arrived[d].lo
        header.arrival_us = arrived[d].time_us
        header.exporter = -1
        header.trouble = 0
        header.complete = 1
        header.num_records = 0
        header.length = arrived[d].length
        if length < 2:
            header.trouble = SHORT
            continue
        version = u16(buffer, begin)
        header.version = version
        if version == 5:
            if length < 24:
                header.trouble = SHORT
                continue
            header.claimed = u16(buffer, begin + 2)
            header.uptime_ms = u32(buffer, begin + 4)
            header.export_us = np.int64(u32(buffer, begin + 8)) * 1_000_000 + np.int64(u32(buffer, begin + 12)) // 1000
            header.sequence = u32(buffer, begin + 16)
            header.domain = u16(buffer, begin + 20)
            header.sampling = u16(buffer, begin + 22)
            present = (length - 24) // 48
            claimed = np.int64(header.claimed)
            if present < claimed:
                header.trouble = _TRUNCATED
                claimed = present
            if claimed > 0:
                if num < room:
                    sets[num].datagram = d
                    sets[num].id = 0
                    sets[num].version = version
                    sets[num].begin = begin + 24
                    sets[num].end = begin + 24 + 48 * claimed
                num += 1
            continue
        if version == 9:
            if length < 20:
                header.trouble = SHORT
                continue
            header.claimed = u16(buffer, begin + 2)
            header.uptime_ms = u32(buffer, begin + 4)
            header.export_us = np.int64(u32(buffer, begin + 8)) * 1_000_000
            header.sequence = u32(buffer, begin + 12)
            header.domain = u32(buffer, begin + 16)
            at = begin + 20
            end = begin + length
        elif version == 10:
            if length < 16:
                header.trouble = SHORT
                continue
            claimed = np.int64(u16(buffer, begin + 2))
            header.export_us = np.int64(u32(buffer, begin + 4)) * 1_000_000
            header.sequence = u32(buffer, begin + 8)
            header.domain = u32(buffer, begin + 12)
            if claimed > length or claimed < 16:
                header.trouble = _TRUNCATED
                claimed = length
            at = begin + 16
            end = begin + claimed
        else:
            header.trouble = UNKNOWN
            continue
        while at + 4 <= end:
            id_ = u16(buffer, at)
            size = np.int64(u16(buffer, at + 2))
            if size < 4:
                # Zeros up to the end are padding, which some exporters add; anything else is malformed.
                for i in range(at, end):
                    if buffer[i] != 0:
                        header.trouble = MALFORMED
                        break
                break
            stop = at + size
            if stop > end:
                header.trouble = _TRUNCATED
                stop = end
            if num < room:
                sets[num].datagram = d
                sets[num].id = id_
                sets[num].version = version
                sets[num].begin = at + 4
                sets[num].end = stop
            num += 1
            at = stop
    return num
