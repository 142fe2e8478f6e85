"""The layout of nfcapd files as nfdump 1.7 writes them, and the compiled loop that turns their blocks into records.

A file has a header and blocks, and a block holds records. The record of a flow has a header and elements in any order,
each with its type and length. Source: nfdump's public headers nffileV2.h, nfxV3.h, id.h and exporter.h. Numbers have
the byte order of the machine that wrote them; only little-endian files are read here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from thalweg.ingest.records import NO_TIME, Records, address_text
from thalweg.runtime.jit import compiled
from thalweg.tables import LAST_US

FILE_HEADER: Final = struct.Struct("<HHIqBBHIqII")
"""fileHeaderV2_s: magic, layout, nfdump's version, creation time, compression, encryption, blocks of the appendix,
creator, offset of the appendix, block size, number of blocks."""
BLOCK_HEADER: Final = struct.Struct("<IIHH")
"""dataBlock_s: number of records, size without this header, type, flags."""
MAGIC: Final = 0xA50C
LAYOUT: Final = 2
RECORD_BLOCK: Final = 3
MAX_BLOCK: Final = 1 << 28

_EXPORTER, _SAMPLER = 7, 15
_EXPORTER_INFO: Final = struct.Struct("<HHI16sHHI")
_SAMPLER_INFO: Final = struct.Struct("<HHHHqII")
_AF_INET: Final = 2
# By a sampler's id, its rank for records that name none: -3 overrides all, -1 has no id, -2 is the default.
_GENERAL: Final = {-3: 3, -1: 2, -2: 1}
_MAX_OTHERS: Final = 1 << 12
_MAX_SAMPLERS: Final = 256  # each flow that was sampled looks for its own
_LAST_MS: Final = LAST_US // 1000

BROKEN, EVENTS, REVERSED, WALKED, UNNAMED, FLOWS, UNTIMED, REFUSED, TRANSLATED = 0, 1, 2, 3, 4, 5, 6, 7, 8
"""Indices into `Sources.counts`: malformed flows left out, events left out, flows that end before they start, records
seen, flows of unknown exporters, flows as nfdump counts them, aggregated ones included, flows with a time that no
datetime can hold, samplers beyond the limit, and flows whose destination was replaced by the one after NAT."""


@final
@dataclass(frozen=True, slots=True)
class Header:
    """The header of a file."""

    layout: int
    version: int
    compression: int
    encryption: int

    @property
    def is_known(self) -> bool:
        """Whether its records have this layout: layout 2 of nfdump 1.7, released or built from its repository."""
        return self.layout == LAYOUT and self.version & 0x0FFF0000 == 0x01070000

    @property
    def is_plain(self) -> bool:
        """Whether its blocks are neither compressed nor encrypted."""
        return self.compression == 0 and self.encryption == 0


def header_of(first: bytes) -> Header | None:
    """Parse the header of a file; return None if it is not an nfcapd file. first: its first 40 bytes."""
    if len(first) < FILE_HEADER.size or int.from_bytes(first[:2], "little") != MAGIC:
        return None
    _, layout, version, _, compression, encryption, *_ = FILE_HEADER.unpack_from(first)
    return Header(layout, version, compression, encryption)


@final
class Sources:
    """The exporters of one file and their sampling, as the file states them among its flows.

    exporters: the names known so far; new ones are appended. unknown: the name for flows whose exporter the file does
    not name.
    """

    def __init__(self, exporters: list[str], unknown: str) -> None:
        self.counts: npt.NDArray[np.int64] = np.zeros(9, np.int64)
        self._exporters = exporters
        self._numbers = {name: number for number, name in enumerate(exporters)}
        self._index = np.full(1 << 16, -1, np.int64)
        self._sampling = np.ones(1 << 16, np.uint32)
        self._ranks: dict[int, int] = {}
        self._intervals: dict[tuple[int, int], int] = {}
        self._samplers: npt.NDArray[np.int64] = np.zeros((0, 3), np.int64)
        self._unknown = unknown

    def _numbered(self, name: str) -> int:
        if name not in self._numbers:
            self._numbers[name] = len(self._exporters)
            self._exporters.append(name)
        return self._numbers[name]

    def learn(self, block: npt.NDArray[np.uint8]) -> None:
        """Store the exporters and samplers that a block describes."""
        at, num = 0, _MAX_OTHERS
        places = np.empty(_MAX_OTHERS, np.int64)
        while num == _MAX_OTHERS:
            at, num = find_others(block, at, places)
            for place in places[:num]:
                self._learn_one(bytes(block[place : place + _EXPORTER_INFO.size]))
        samplers = [(*which, interval) for which, interval in self._intervals.items()]
        self._samplers = np.array(samplers, np.int64).reshape(-1, 3)

    def _learn_one(self, octets: bytes) -> None:
        kind, size = struct.unpack_from("<HH", octets)
        if kind == _EXPORTER and size >= _EXPORTER_INFO.size:
            _, _, _, address, family, sysid, _ = _EXPORTER_INFO.unpack_from(octets)
            hi, lo = struct.unpack("<QQ", address)
            if family == _AF_INET:
                hi, lo = 0, 0xFFFF << 32 | lo & 0xFFFFFFFF
            self._index[sysid] = self._numbered(address_text(hi, lo))
        elif kind == _SAMPLER and size >= _SAMPLER_INFO.size:
            _, _, sysid, _, ident, interval, space = _SAMPLER_INFO.unpack_from(octets)
            # RFC 5477, 8.2.2 and 8.2.3: `interval` packets are sampled, then `space` packets are skipped.
            sampling = min(max(round((interval + space) / interval), 1), 0xFFFFFFFF) if interval else 1
            if (sysid, ident) not in self._intervals and len(self._intervals) == _MAX_SAMPLERS:
                self.counts[REFUSED] += 1
                return
            self._intervals[sysid, ident] = sampling
            rank = _GENERAL.get(ident, 0)
            if rank >= self._ranks.get(sysid, 0):
                self._ranks[sysid], self._sampling[sysid] = rank, sampling

    def read(self, block: npt.NDArray[np.uint8], at: int, records: Records, row: int) -> tuple[int, int]:
        """Fill records from `row` on with the flows of a block from byte `at` on; return the next of both."""
        unnamed = self.counts[UNNAMED]
        unknown = self._numbers.get(self._unknown, len(self._exporters))
        at, row = read_flows(block, at, records, row, self._index, unknown, self._sampling, self._samplers, self.counts)
        if self.counts[UNNAMED] > unnamed:
            self._numbered(self._unknown)
        return int(at), int(row)


@compiled(inline=True)
def _u16(octets: Any, at: Any) -> Any:
    return np.int64(octets[at]) | np.int64(octets[at + 1]) << 8


@compiled(inline=True)
def _u32(octets: Any, at: Any) -> Any:
    value = np.uint64(0)
    for i in range(4):
        value |= np.uint64(octets[at + i]) << np.uint64(8 * i)
    return value


@compiled(inline=True)
def _u64(octets: Any, at: Any) -> Any:
    value = np.uint64(0)
    for i in range(8):
        value |= np.uint64(octets[at + i]) << np.uint64(8 * i)
    return value


@compiled(inline=True)
def _is_time(ms: Any) -> Any:
    return 0 <= ms <= _LAST_MS


@compiled()
def find_others(octets: Any, at: Any, places: Any) -> Any:
    """Find the records of exporters and samplers.

    octets: (B,) uint8, a block. places: (P,) int64, filled. Returns: where to continue; how many were found.
    """
    num = 0
    while at + 4 <= len(octets) and num < len(places):
        kind, size = _u16(octets, at), _u16(octets, at + 2)
        if size < 4 or at + size > len(octets):
            break
        if kind in (7, 15):
            places[num] = at
            num += 1
        at += size
    return at, num


@compiled()
def read_flows(
    octets: Any,
    at: Any,
    records: Any,
    row: Any,
    exporter: Any,
    unknown: Any,
    sampling: Any,
    samplers: Any,
    counts: Any,
) -> Any:
    """Decode the flows of a block until the block or `records` ends.

    octets: (B,) uint8. records: (R,) of RECORD, all zero from `row` on. exporter, sampling: (65536,) by the exporter's
    number; exporter is negative if unknown. samplers: (S, 3) int64: exporter, id, interval. counts: (9,) int64,
    added to. Returns: at, row.
    """
    while at + 4 <= len(octets) and row < len(records):
        kind, size = _u16(octets, at), _u16(octets, at + 2)
        if size < 4 or at + size > len(octets):
            break
        begin, end = at, at + size
        at = end
        counts[3] += 1
        if kind in (1, 10):
            counts[0] += 1
            counts[5] += 1  # a flow of nfdump 1.6, which this layout does not have
            continue
        if kind != 11:
            continue
        if size < 12:
            counts[0] += 1
            counts[5] += 1
            continue
        generic, v4, v6, misc, out, sampler, event = -1, -1, -1, -1, -1, -1, -1
        nat_v4, nat_v6, nat_ports = -1, -1, -1
        place, good = begin + 12, True
        for _ in range(_u16(octets, begin + 4)):
            if place + 4 > end:
                good = False
                break
            element, length = _u16(octets, place), _u16(octets, place + 2)
            if length < 4 or place + length > end:
                good = False
                break
            if element == 1 and length >= 52:
                generic = place + 4
            elif element == 2 and length >= 12:
                v4 = place + 4
            elif element == 3 and length >= 36:
                v6 = place + 4
            elif element == 4 and length >= 16:
                misc = place + 4
            elif element == 5 and length >= 28:
                out = place + 4
            elif element == 18 and length >= 12:
                sampler = place + 4
            elif element in (19, 25) and length >= 12:
                event = place + 4
            elif element == 20 and length >= 12:
                nat_v4 = place + 4
            elif element == 21 and length >= 36:
                nat_v6 = place + 4
            elif element == 22 and length >= 8:
                nat_ports = place + 4
            place += length
        flags = octets[begin + 10]
        counts[5] += max(np.int64(_u64(octets, out)), 1) if out >= 0 else 1
        packets = _u64(octets, generic + 24) if generic >= 0 else np.uint64(0)
        num_bytes = _u64(octets, generic + 32) if generic >= 0 else np.uint64(0)
        out_packets = _u64(octets, out + 8) if out >= 0 else np.uint64(0)
        out_bytes = _u64(octets, out + 16) if out >= 0 else np.uint64(0)
        if good and (flags & 1 or event >= 0) and not (packets | num_bytes | out_packets | out_bytes):
            counts[1] += 1
            continue
        if not good or generic < 0 or (v4 < 0 and v6 < 0):
            counts[0] += 1
            continue
        record = records[row]
        row += 1
        if v4 >= 0:
            record.src_hi, record.dst_hi = 0, 0
            record.src_lo = np.uint64(0xFFFF00000000) | _u32(octets, v4)
            record.dst_lo = np.uint64(0xFFFF00000000) | _u32(octets, v4 + 4)
        else:
            record.src_hi, record.src_lo = _u64(octets, v6), _u64(octets, v6 + 8)
            record.dst_hi, record.dst_lo = _u64(octets, v6 + 16), _u64(octets, v6 + 24)
        first, last = np.int64(_u64(octets, generic)), np.int64(_u64(octets, generic + 8))
        received = np.int64(_u64(octets, generic + 16))
        seen = np.int64(_u64(octets, event)) if event >= 0 else np.int64(0)
        untimed = not (_is_time(first) and _is_time(last) and _is_time(received) and _is_time(seen))
        if untimed:
            counts[6] += 1
            first, last = first if _is_time(first) else np.int64(0), last if _is_time(last) else np.int64(0)
            received = received if _is_time(received) else np.int64(0)
            seen = seen if _is_time(seen) else np.int64(0)
        if last == 0:
            # A teardown event of a firewall has only the time of the event.
            last = seen if event >= 0 else first
        if last == 0:
            last = received
        if first == 0:
            first = last
        if last < first:
            # nfdump 1.7.1 swaps the two if IPFIX gives them as system uptime (22 and 21).
            counts[2] += 1
            first, last = (last, first) if first - last < 86_400_000 else (first, first)
        record.start_us, record.end_us = first * 1000, last * 1000
        if last == 0 and untimed:
            record.start_us, record.end_us = NO_TIME, NO_TIME
        record.arrival_us = (received if received else last) * 1000
        record.fwd_packets, record.fwd_bytes = packets, num_bytes
        record.bwd_packets, record.bwd_bytes = out_packets, out_bytes
        record.two_way = 1 if out_packets | out_bytes else 0
        protocol = octets[generic + 44]
        record.protocol = protocol
        record.tcp_flags = octets[generic + 45] if protocol == 6 else 0
        record.src_port = 0 if protocol in (1, 58) else _u16(octets, generic + 40)
        record.dst_port = _u16(octets, generic + 42)
        # Whoever counts the opposite direction in OUT_BYTES gives the inner address already (FortiOS), but not the ASA.
        if out < 0 or event >= 0:
            hi, lo = np.uint64(0), np.uint64(0)
            if nat_v6 >= 0:
                hi, lo = _u64(octets, nat_v6 + 16), _u64(octets, nat_v6 + 24)
            if nat_v4 >= 0 and _u32(octets, nat_v4 + 4):
                hi, lo = np.uint64(0), np.uint64(0xFFFF00000000) | _u32(octets, nat_v4 + 4)
            if hi | lo:
                port = np.int64(record.dst_port)
                if nat_ports >= 0 and protocol not in (1, 58) and _u16(octets, nat_ports + 2):
                    port = _u16(octets, nat_ports + 2)
                if record.dst_hi != hi or record.dst_lo != lo or record.dst_port != port:
                    counts[8] += 1
                record.dst_hi, record.dst_lo, record.dst_port = hi, lo, port
        record.egress = 1 if misc >= 0 and octets[misc + 10] == 1 else 0
        sysid = _u16(octets, begin + 8)
        if exporter[sysid] >= 0:
            record.exporter = exporter[sysid]
        else:
            record.exporter = unknown
            counts[4] += 1
        record.sampling = 1
        if flags & 2:
            record.sampling = sampling[sysid]
            if sampler >= 0:
                ident = np.int64(_u64(octets, sampler))
                for i in range(len(samplers)):
                    if samplers[i, 0] == sysid and samplers[i, 1] == ident:
                        record.sampling = samplers[i, 2]
    return at, row
