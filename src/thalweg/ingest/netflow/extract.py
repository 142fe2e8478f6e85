"""The hot loops that copy the bytes of data sets into records, all sets of one template at a time.

The outer loop is over fields and the inner one over the records of a set, so that each inner loop does one thing.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from thalweg.ingest.records import RECORD
from thalweg.runtime.jit import compiled

# What is done with a field. A slot is 8, 2 or 1 bytes of a record.
IPV4: Final = 1  # 4 bytes -> the lower half of a mapped address, 8 bytes
IPV4_IF_ANY: Final = 2  # the same unless it is 0.0.0.0, for templates that also have an IPv6 address
U64: Final = 3  # 1 to 8 bytes -> 8 bytes
U16: Final = 4  # 1 to 8 bytes -> 2 bytes; a larger number becomes 65,535
U8: Final = 5  # 1 to 8 bytes -> 1 byte, the lowest
PORT_IF_ICMP: Final = 6  # type * 256 + code -> dst_port, if the protocol is ICMP
TYPE_IF_ICMP: Final = 7  # the type only
CODE_IF_ICMP: Final = 8  # the code, added to the type
INTERVAL: Final = 9  # one packet in this many -> sampling
FLAGS: Final = 10  # or-ed with the flags already there
UPTIME: Final = 11  # this and the next five: a time -> microseconds since 1970, 8 bytes
SECONDS: Final = 12
MILLISECONDS: Final = 13
MICROSECONDS: Final = 14
NTP: Final = 15  # 64 bits, fraction of 2^32 (RFC 7011 section 6.1.9)
DELTA_US: Final = 16  # before the export time
DURATION_MS: Final = 17  # added to the start to get the end, or subtracted from the end to get the start
DURATION_US: Final = 18
SPACE: Final = 19  # packets skipped after each run, whose length `sampling` holds -> interval
POPULATION: Final = 20  # packets out of which the number that `sampling` holds is sampled -> interval
NTP_MICROSECONDS: Final = 21  # as NTP, but a fraction below 10^6 is microseconds
MORE_PORT_IF_ICMP: Final = 22  # or-ed with dst_port: of ICMPv6 beside one of ICMP, one of which is 0
MORE_TYPE_IF_ICMP: Final = 23  # the same of the type only
IS_ICMP: Final = 24  # a field of ICMP says that the protocol is ICMP, or ICMPv6 between IPv6 addresses
IS_ICMP_IF_ANY: Final = 25  # the same unless the field is 0
IS_TCP_IF_ANY: Final = 26  # a port of TCP says that the protocol is TCP, unless it is 0
IS_UDP_IF_ANY: Final = 27
NAT_IPV4: Final = 28  # this and the next two: the destination after NAT, unless 0; marks the record
NAT_IPV6: Final = 29
NAT_PORT: Final = 30  # of a record whose address is given after NAT, unless 0 or ICMP

STEP: Final = np.dtype([("op", "i4"), ("slot", "i4"), ("offset", "i4"), ("length", "i4"), ("index", "i4")], align=True)
"""One step, which decodes one field. slot: in units of its width. offset, length: bytes. index: of the field."""

MAX_BELIEVED: Final = 1_000_000
"""A larger interval whose two low bytes are 0 is a small one in the wrong byte order, as MikroTik sends it."""
_DISBELIEVED: Final = 0xFFFF_0000
"""Such an interval, which stands for any other one."""

WORDS: Final = RECORD.itemsize // 8
START_SLOT: Final = RECORD.fields["start_us"][1] // 8  # type: ignore[index]  # RECORD has fields
END_SLOT: Final = RECORD.fields["end_us"][1] // 8  # type: ignore[index]
_PROTOCOL: Final = RECORD.fields["protocol"][1]  # type: ignore[index]
_MARKS: Final = RECORD.fields["exporter"][1] // 2  # type: ignore[index]
"""Bits about the translation of a record, in `exporter` until the records are finished."""
HAS_NAT: Final = 1
IS_TRANSLATED: Final = 2
_SRC_HI_SLOT: Final = RECORD.fields["src_hi"][1] // 8  # type: ignore[index]
_SRC_LO_SLOT: Final = RECORD.fields["src_lo"][1] // 8  # type: ignore[index]

_MINUTE: Final = 60_000_000
_DAY: Final = 86_400_000_000
_NTP_EPOCH: Final = 2_208_988_800
_MAX_DURATION: Final = 1 << 42
"""The largest duration in either unit; its microseconds fit in 64 bits."""
_MAX_MICROSECONDS: Final = 1 << 52
"""As microseconds since 1970 the year 2112, as nanoseconds its February."""


@compiled(inline=True)
def _be16(buffer: Any, at: Any) -> Any:
    return (np.uint64(buffer[at]) << np.uint64(8)) | np.uint64(buffer[at + np.uint64(1)])


@compiled(inline=True)
def _be32(buffer: Any, at: Any) -> Any:
    return (
        (np.uint64(buffer[at]) << np.uint64(24))
        | (np.uint64(buffer[at + np.uint64(1)]) << np.uint64(16))
        | (np.uint64(buffer[at + np.uint64(2)]) << np.uint64(8))
        | np.uint64(buffer[at + np.uint64(3)])
    )


@compiled(inline=True)
def _be64(buffer: Any, at: Any) -> Any:
    return (_be32(buffer, at) << np.uint64(32)) | _be32(buffer, at + np.uint64(4))


@compiled(inline=True)
def _load(buffer: Any, at: Any, length: Any) -> Any:
    """Read a big-endian number of up to 8 bytes; of a longer one the last 8 bytes."""
    if length == 4:
        return _be32(buffer, at)
    if length == 2:
        return _be16(buffer, at)
    if length == 1:
        return np.uint64(buffer[at])
    if length == 8:
        return _be64(buffer, at)
    value = np.uint64(0)
    skip = max(length - 8, 0)
    for i in range(skip, length):
        value = (value << np.uint64(8)) | np.uint64(buffer[at + np.uint64(i)])
    return value


@compiled(inline=True)
def is_swapped(interval: Any) -> Any:
    """Return whether a sampling interval can only be in the wrong byte order."""
    return interval > np.uint64(MAX_BELIEVED) and interval & np.uint64(0xFFFF) == np.uint64(0)


@compiled(inline=True)
def _time_us(op: Any, value: Any, export_us: Any, uptime_ms: Any) -> Any:
    """Convert a time to microseconds since 1970."""
    if op == UPTIME:
        # The counter wraps after 49.7 days; the time is taken to be within 24.8 days of the export.
        ago = np.int64(np.int32(np.uint32(uptime_ms) - np.uint32(value)))
        return export_us - ago * 1000
    if op == MILLISECONDS:
        return np.int64(value) * 1000
    if op == SECONDS:
        return np.int64(value) * 1_000_000
    if op in (NTP, NTP_MICROSECONDS):
        seconds = np.int64(value >> np.uint64(32)) - _NTP_EPOCH
        fraction = value & np.uint64(0xFFFFFFFF)
        if seconds < 0:  # no exporter is that old: some send microseconds or nanoseconds since 1970
            return np.int64(value if value < np.uint64(_MAX_MICROSECONDS) else value // np.uint64(1000))
        if op == NTP_MICROSECONDS and fraction < np.uint64(1_000_000):
            return seconds * 1_000_000 + np.int64(fraction)
        return seconds * 1_000_000 + np.int64((fraction * np.uint64(1_000_000)) >> np.uint64(32))
    if op == DELTA_US:
        return export_us - np.int64(value)
    return np.int64(value)


@compiled(inline=True)
def _set_receiver(out: Any, out16: Any, word: Any, slot: Any, low: Any, high: Any, is_given: Any) -> None:
    """Set the destination of the record at `word` to the one after NAT, if there is one."""
    if is_given:
        marks = np.uint16(HAS_NAT)
        if out[word + slot] != low or out[word + slot - np.uint64(1)] != high:
            marks = np.uint16(HAS_NAT | IS_TRANSLATED)
            out[word + slot] = low
            out[word + slot - np.uint64(1)] = high
        out16[word * np.uint64(4) + np.uint64(_MARKS)] |= marks


@compiled(inline=True)
def _set_receiver_port(out16: Any, out8: Any, word: Any, slot: Any, value: Any) -> None:
    """Set the destination's port to the one after NAT, if there is one."""
    port = np.uint16(min(value, np.uint64(0xFFFF)))
    place, at = word * np.uint64(4) + slot, word * np.uint64(4) + np.uint64(_MARKS)
    protocol = out8[word * np.uint64(8) + np.uint64(_PROTOCOL)]
    if out16[at] != 0 and port != 0 and port != out16[place] and protocol not in (1, 58):
        out16[place] = port
        out16[at] |= np.uint16(IS_TRANSLATED)


@compiled(inline=True)
def _store(
    out: Any, out16: Any, out8: Any, row: Any, op: Any, slot: Any, value: Any, high: Any, export_us: Any, up: Any,
) -> None:  # fmt: skip
    """Execute one step on a value, for the record in row `row`. high: the upper half of an IPv6 address, else 0."""
    word = row * np.uint64(WORDS)
    if op == U64:
        out[word + np.uint64(slot)] = value
    elif op == U16:
        out16[word * np.uint64(4) + np.uint64(slot)] = np.uint16(min(value, np.uint64(0xFFFF)))
    elif op == U8:
        out8[word * np.uint64(8) + np.uint64(slot)] = np.uint8(value & np.uint64(0xFF))
    elif op == IPV4:
        out[word + np.uint64(slot)] = value | np.uint64(0xFFFF_0000_0000)
    elif op == IPV4_IF_ANY:
        if value != np.uint64(0):
            out[word + np.uint64(slot)] = value | np.uint64(0xFFFF_0000_0000)
            out[word + np.uint64(slot) - np.uint64(1)] = np.uint64(0)
    elif PORT_IF_ICMP <= op <= CODE_IF_ICMP:
        protocol = out8[word * np.uint64(8) + np.uint64(_PROTOCOL)]
        if protocol in (1, 58):
            if op == TYPE_IF_ICMP:
                value = (value & np.uint64(0xFF)) << np.uint64(8)
            elif op == CODE_IF_ICMP:
                value = (value & np.uint64(0xFF)) | np.uint64(out16[word * np.uint64(4) + np.uint64(slot)])
            out16[word * np.uint64(4) + np.uint64(slot)] = np.uint16(value & np.uint64(0xFFFF))
    elif op in (MORE_PORT_IF_ICMP, MORE_TYPE_IF_ICMP):
        if out8[word * np.uint64(8) + np.uint64(_PROTOCOL)] in (1, 58):
            more = value if op == MORE_PORT_IF_ICMP else (value & np.uint64(0xFF)) << np.uint64(8)
            place = word * np.uint64(4) + np.uint64(slot)
            out16[place] = np.uint16((np.uint64(out16[place]) | more) & np.uint64(0xFFFF))
    elif IS_ICMP <= op <= IS_UDP_IF_ANY:
        if op == IS_ICMP or value != np.uint64(0):
            is_v4 = out[word + np.uint64(_SRC_HI_SLOT)] == np.uint64(0) and out[
                word + np.uint64(_SRC_LO_SLOT)
            ] >> np.uint64(32) == np.uint64(0xFFFF)
            protocol = 6 if op == IS_TCP_IF_ANY else 17 if op == IS_UDP_IF_ANY else 1 if is_v4 else 58
            out8[word * np.uint64(8) + np.uint64(slot)] = np.uint8(protocol)
    elif op == FLAGS:
        place = word * np.uint64(4) + np.uint64(slot)
        out16[place] = np.uint16(np.uint64(out16[place]) | (value & np.uint64(0xFFFF)))
    elif op == INTERVAL:
        value = np.uint64(_DISBELIEVED) if is_swapped(value) else min(value, np.uint64(0xFFFF_FFFF))
        if value != np.uint64(0):
            out16[word * np.uint64(4) + np.uint64(slot)] = np.uint16(value & np.uint64(0xFFFF))
            out16[word * np.uint64(4) + np.uint64(slot) + np.uint64(1)] = np.uint16(
                (value >> np.uint64(16)) & np.uint64(0xFFFF)
            )
    elif op in (DURATION_MS, DURATION_US):
        length = min(value, np.uint64(_MAX_DURATION)) * np.uint64(1000 if op == DURATION_MS else 1)
        if slot == np.uint64(END_SLOT):
            out[word + slot] = out[word + np.uint64(START_SLOT)] + length
        else:
            out[word + slot] = out[word + np.uint64(END_SLOT)] - length
    elif op in (SPACE, POPULATION):
        place = word * np.uint64(4) + np.uint64(slot)
        taken = np.uint64(out16[place]) | np.uint64(out16[place + np.uint64(1)]) << np.uint64(16)
        if taken != np.uint64(0):
            of = min(value, np.uint64(0xFFFF_FFFF)) + (taken if op == SPACE else np.uint64(0))
            interval = min(max((of + taken // np.uint64(2)) // taken, np.uint64(1)), np.uint64(0xFFFF_FFFF))
            if is_swapped(value) or taken == np.uint64(_DISBELIEVED):
                interval = np.uint64(_DISBELIEVED)
            out16[place] = np.uint16(interval & np.uint64(0xFFFF))
            out16[place + np.uint64(1)] = np.uint16(interval >> np.uint64(16))
    elif op == NAT_IPV4:
        _set_receiver(out, out16, word, slot, value | np.uint64(0xFFFF_0000_0000), np.uint64(0), value != 0)
    elif op == NAT_IPV6:
        _set_receiver(out, out16, word, slot, value, high, value != 0 or high != 0)
    elif op == NAT_PORT:
        _set_receiver_port(out16, out8, word, slot, value)
    else:
        out[word + np.uint64(slot)] = np.uint64(_time_us(op, value, export_us, up))


@compiled()
def fill_fixed(
    buffer: Any, sets: Any, first_row: Any, num_rows: Any, size: int, steps: Any, headers: Any,
    out: Any, out16: Any, out8: Any,
) -> None:  # fmt: skip
    """Decode records of a fixed length; every byte of the rows is written.

    size: bytes of a record on the wire. first_row, num_rows: (S,) rows of each set. out, out16, out8: the records as
    words of 64, 16 and 8 bits.
    """
    length = np.uint64(size)
    for s in range(len(sets)):
        begin = np.uint64(sets[s].begin)
        first = np.uint64(first_row[s])
        num = np.uint64(num_rows[s])
        header = headers[sets[s].datagram]
        export_us = header.export_us
        uptime = header.uptime_ms
        for place in range(first * np.uint64(WORDS), (first + num) * np.uint64(WORDS)):
            out[place] = np.uint64(0)
        for p in range(len(steps)):
            op = steps[p].op
            width = steps[p].length
            slot = np.uint64(steps[p].slot)
            at = begin + np.uint64(steps[p].offset)
            word = first * np.uint64(WORDS) + slot
            if op == IPV4:
                for _ in range(num):
                    out[word] = _be32(buffer, at) | np.uint64(0xFFFF_0000_0000)
                    at += length
                    word += np.uint64(WORDS)
            elif op == U64 and width == 4:
                for _ in range(num):
                    out[word] = _be32(buffer, at)
                    at += length
                    word += np.uint64(WORDS)
            elif op == U64 and width == 8:
                for _ in range(num):
                    out[word] = _be64(buffer, at)
                    at += length
                    word += np.uint64(WORDS)
            elif op == U64:
                for _ in range(num):
                    out[word] = _load(buffer, at, width)
                    at += length
                    word += np.uint64(WORDS)
            elif op == U16 and width == 2:
                word = first * np.uint64(WORDS * 4) + slot
                for _ in range(num):
                    out16[word] = np.uint16(_be16(buffer, at))
                    at += length
                    word += np.uint64(WORDS * 4)
            elif op == U16 and width == 1:
                word = first * np.uint64(WORDS * 4) + slot
                for _ in range(num):
                    out16[word] = np.uint16(buffer[at])
                    at += length
                    word += np.uint64(WORDS * 4)
            elif op == U8 and width == 1:
                word = first * np.uint64(WORDS * 8) + slot
                for _ in range(num):
                    out8[word] = buffer[at]
                    at += length
                    word += np.uint64(WORDS * 8)
            elif op == UPTIME and width == 4:
                for _ in range(num):
                    ago = np.int64(np.int32(np.uint32(uptime) - np.uint32(_be32(buffer, at))))
                    out[word] = np.uint64(export_us - ago * 1000)
                    at += length
                    word += np.uint64(WORDS)
            elif op == MILLISECONDS and width == 8:
                for _ in range(num):
                    out[word] = _be64(buffer, at) * np.uint64(1000)
                    at += length
                    word += np.uint64(WORDS)
            elif op == NAT_IPV4:
                word = first * np.uint64(WORDS)
                for _ in range(num):
                    value = _be32(buffer, at)
                    _set_receiver(out, out16, word, slot, value | np.uint64(0xFFFF_0000_0000), np.uint64(0), value != 0)
                    at += length
                    word += np.uint64(WORDS)
            elif op == NAT_PORT and width == 2:
                word = first * np.uint64(WORDS)
                for _ in range(num):
                    _set_receiver_port(out16, out8, word, slot, _be16(buffer, at))
                    at += length
                    word += np.uint64(WORDS)
            else:
                row = first
                for _ in range(num):
                    high = _be64(buffer, at) if op == NAT_IPV6 else np.uint64(0)
                    _store(out, out16, out8, row, op, slot, _load(buffer, at, width), high, export_us, uptime)
                    at += length
                    row += np.uint64(1)


@compiled()
def count_variable(buffer: Any, sets: Any, lengths: Any, max_records: int, counts: Any) -> int:
    """Count the complete records of sets whose records differ in length, at most `max_records` per set.

    lengths: (F,) of the fields in the template. counts: (S,), filled.

    Returns: the number of sets with more than padding after the last complete record.
    Source: RFC 7011 sections 3.3.1 (padding) and 7.
    """
    num_broken = 0
    least = np.int64(0)
    for f in range(len(lengths)):
        least += np.int64(1 if lengths[f] == 65_535 else lengths[f])
    for s in range(len(sets)):
        num = 0
        at = np.int64(sets[s].begin)
        end = np.int64(sets[s].end)
        while num < max_records and at < end:
            begin = at
            for f in range(len(lengths)):
                at, length = next_field(buffer, at, end, lengths[f])
                if at + length > end:
                    at = end + 1
                    break
                at += length
            if at > end:
                # Padding is shorter than any record, whatever its bytes are; some exporters add more zeros.
                for i in range(begin, end if end - begin >= least else begin):
                    if buffer[i] != 0:
                        num_broken += 1
                        break
                break
            num += 1
        counts[s] = num
    return num_broken


@compiled(inline=True)
def next_field(buffer: Any, at: Any, end: Any, length: Any) -> Any:
    """Return the offset and length of a field; the offset is beyond `end` if the set ends within the length."""
    size = np.int64(length)
    if size == 65_535:
        if at >= end:
            return end + 1, np.int64(0)
        size = np.int64(buffer[at])
        at += 1
        if size == 255:
            if at + 2 > end:
                return end + 1, np.int64(0)
            size = (np.int64(buffer[at]) << 8) | np.int64(buffer[at + 1])
            at += 2
    return at, size


@compiled()
def fill_variable(
    buffer: Any, sets: Any, first_row: Any, num_rows: Any, lengths: Any, steps: Any, headers: Any,
    out: Any, out16: Any, out8: Any,
) -> None:  # fmt: skip
    """Decode records that differ in length; every byte of the rows is written.

    lengths: (F,) of the fields in the template. num_rows: (S,), the counts of `count_variable`.
    """
    places = np.zeros(len(lengths), np.int64)
    sizes = np.zeros(len(lengths), np.int64)
    for s in range(len(sets)):
        header = headers[sets[s].datagram]
        at = np.int64(sets[s].begin)
        end = np.int64(sets[s].end)
        for row in range(first_row[s], first_row[s] + num_rows[s]):
            for place in range(row * WORDS, (row + 1) * WORDS):
                out[place] = np.uint64(0)
            for f in range(len(lengths)):
                places[f], sizes[f] = next_field(buffer, at, end, lengths[f])
                at = places[f] + sizes[f]
            for p in range(len(steps)):
                length = min(sizes[steps[p].index], np.int64(steps[p].length))
                if length > 0:
                    first = np.uint64(places[steps[p].index] + steps[p].offset)
                    value = _load(buffer, first, length)
                    high = _be64(buffer, first) if steps[p].op == NAT_IPV6 else np.uint64(0)
                    _store(
                        out, out16, out8, np.uint64(row), steps[p].op, np.uint64(steps[p].slot), value, high,
                        header.export_us, header.uptime_ms,
                    )  # fmt: skip


@compiled()
def count_translated(first_row: Any, num_rows: Any, out16: Any) -> int:
    """Count the records that NAT_IPV4, NAT_IPV6 or NAT_PORT changed."""
    num = 0
    for s in range(len(first_row)):
        for row in range(first_row[s], first_row[s] + num_rows[s]):
            num += (out16[row * WORDS * 4 + _MARKS] & IS_TRANSLATED) != 0
    return num


@compiled()
def finish(records: Any, sets: Any, first_row: Any, num_rows: Any, headers: Any, table: Any, known: int) -> None:
    """Set the exporter and the times that records lack, correct impossible times, and scale counts by the sampling.

    known: 1 if the template has a start, 2 an end, 3 both, 4 only a duration, else 0. docs/live.md has the rules.
    """
    for s in range(len(sets)):
        header = headers[sets[s].datagram]
        at = header.exporter
        row = table[at]
        name = row.name
        interval = row.sampling
        if header.version == 5 and row.sampled_by <= 1:
            interval = np.uint32(header.sampling & 0x3FFF)
        by_user = row.sampled_by == 3
        arrival = header.arrival_us
        export = header.export_us
        # If an exporter's clock is off by more than a day, all its times are off by as much.
        offset = np.int64(0)
        if abs(export - arrival) > _DAY and header.is_believed == 0:
            offset = arrival - export
            export = arrival
        for i in range(first_row[s], first_row[s] + num_rows[s]):
            record = records[i]
            record.arrival_us = arrival
            record.exporter = name
            start = record.start_us
            end = record.end_us
            shift = offset
            last = start if known == 1 else end
            # Absolute times may still be right: in a replay, only the header is off. Relative times lie before it.
            if offset != 0 and (abs(last - arrival) <= _DAY or last > header.export_us + _MINUTE):
                shift = np.int64(0)
            if known == 3:
                start += shift
                end += shift
            elif known == 1:
                start += shift
                end = start
            elif known == 2:
                end += shift
                start = end
            elif known == 4:
                start += export
                end = export
            else:
                start = export
                end = export
            corrected = shift != 0 and 0 < known < 4
            length = end - start
            if length < 0 or length > 30 * _DAY:
                length = np.int64(0)
                corrected = True
            if end > export + _MINUTE or end < export - 7 * _DAY:
                end = export
                corrected = True
            if corrected:
                row.corrected_times += np.uint64(1)
            record.end_us = end
            record.start_us = end - length
            own = record.sampling
            if own == 0 or by_user:
                own = interval if interval != 0 else np.uint32(1)
                record.sampling = own
            if own > 1:
                factor = np.uint64(own)
                most = np.uint64(0xFFFF_FFFF_FFFF_FFFF) // factor
                record.fwd_bytes = min(record.fwd_bytes, most) * factor
                record.fwd_packets = min(record.fwd_packets, most) * factor
                record.bwd_bytes = min(record.bwd_bytes, most) * factor
                record.bwd_packets = min(record.bwd_packets, most) * factor
        row.flows += np.uint64(num_rows[s])
