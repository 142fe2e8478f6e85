"""The table of exporters, and what headers say about each one: its clock, and datagrams lost by sequence number."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from thalweg.runtime.jit import compiled

EXPORTER: Final = np.dtype(
    [
        ("hi", "u8"),
        ("lo", "u8"),
        ("domain", "u4"),
        ("version", "u4"),  # 5, 9 or 10
        ("name", "u4"),  # index into `Names.texts`, as in RECORD
        ("in_use", "u4"),
        ("first_us", "i8"),  # arrival of the first datagram, microseconds since 1970
        ("last_us", "i8"),  # arrival of the latest datagram
        ("clock_error_us", "i8"),  # exporter's clock minus ours, at the latest datagram
        ("export_us", "i8"),  # exporter's clock in the latest datagram in order
        ("last_sequence", "u4"),  # its sequence number
        ("has_last", "u4"),
        ("last_records", "i8"),  # its records, -1 if one of its sets could not be decoded
        ("unit", "u4"),  # what its sequence numbers count, an index into UNITS
        ("doubted_resets", "u4"),  # not yet counted, as another unit would explain them
        ("doubted_reordered", "u4"),
        ("doubted_lost", "i8"),
        ("evidence", "i8"),  # for each other unit, 8 bits each, from the lowest
        ("sampling", "u4"),  # interval: one packet in this many; 0 if unknown
        ("sampled_by", "u4"),  # source of the interval, an index into SAMPLED_BY
        ("record_sampling", "u4"),  # the latest interval in a record's own fields; 0 if none
        ("borrowed_sampling", "u4"),  # the latest interval that the options of another domain gave a record
        ("num_fields", "u4"),  # of all its templates
        # Counts.
        ("datagrams", "u8"),
        ("bytes", "u8"),
        ("flows", "u8"),  # records that became flows
        ("lost", "u8"),  # by sequence number: flows (v5), datagrams (v9), records (IPFIX)
        ("reordered_datagrams", "u8"),
        ("sequence_resets", "u8"),
        ("malformed", "u8"),  # datagrams with at least one error
        ("other_records", "u8"),
        ("event_records", "u8"),
        ("broken_records", "u8"),
        ("held_sets", "u8"),
        ("sets_without_template", "u8"),
        ("corrected_times", "u8"),
        ("changed_templates", "u8"),  # while in use
        ("disbelieved_intervals", "u8"),
        ("skipped_sets", "u8"),  # by the budget of work
    ],
    align=True,
)
"""One exporter: an address, an observation domain and a version, with its own templates and sequence numbers."""
COUNTS: Final = tuple(name for name in EXPORTER.names or () if EXPORTER[name] == np.uint64 and name not in ("hi", "lo"))
"""The columns that are counters."""
SAMPLED_BY: Final = ("nobody", "v5 header", "options", "--sampling")
"""The source of an exporter's sampling interval, by `sampled_by`."""
BY_USER: Final = 3
UNITS: Final = (
    "as its version says",
    "datagrams",
    "records",
    "records or flows",
    "records, its own included",
    "nothing",
)
"""What sequence numbers count, by `unit`.

v5 counts flows, which are its records; v9 datagrams (RFC 3954 section 5.1); IPFIX records (RFC 7011 section 3.1). Not
all exporters do: softflowd 0.9 counts flows in v9, of one or two records each; VMware's switches count the records of a
message before they send it; some count messages in IPFIX, and some always send 0.
"""
_DATAGRAMS, _RECORDS, _FLOWS, _INCLUSIVE, _NOTHING = 1, 2, 3, 4, 5
_FITS, _ENOUGH = 2, 5
"""The evidence of one number that only another unit explains, and how much makes an exporter use that unit."""
_MAX_DELAY_US: Final = 10_000_000
"""The longest delay of a datagram in the network, microseconds."""
_MAX_LOST, _MAX_REORDERED = 100_000_000, 100_000
"""Larger gaps mean that the exporter restarted."""


@compiled()
def count_headers(table: Any, headers: Any, lengths: Any) -> None:
    """Count the datagrams and bytes of each exporter, and record its clock and v5 sampling interval."""
    for d in range(len(headers)):
        at = headers[d].exporter
        if at < 0:
            continue
        row = table[at]
        row.datagrams += np.uint64(1)
        row.bytes += np.uint64(lengths[d])
        row.last_us = max(row.last_us, headers[d].arrival_us)
        row.clock_error_us = headers[d].export_us - headers[d].arrival_us
        if headers[d].trouble != 0:
            row.malformed += np.uint64(1)
        if headers[d].version == 5 and row.sampled_by <= 1:
            interval = np.uint32(headers[d].sampling & 0x3FFF)  # the upper two bits are the mode
            row.sampling = max(interval, np.uint32(1))
            row.sampled_by = np.uint32(1)


@compiled()
def check_sequences(table: Any, headers: Any) -> None:
    """Count what was lost or reordered, and restarts of exporters, by sequence numbers; see UNITS."""
    for d in range(len(headers)):
        header = headers[d]
        at = header.exporter
        if at < 0:
            continue
        row = table[at]
        num = np.int64(header.num_records) if header.complete != 0 else np.int64(-1)
        if row.has_last != 0:
            unit = row.unit
            if unit == 0:
                unit = np.uint32(_DATAGRAMS if header.version == 9 else _RECORDS)
            step = np.int64(np.int32(np.uint32(header.sequence - row.last_sequence)))
            least, most = _steps(unit, row.last_records, num)
            gap = step - most if step > most else min(step - least, np.int64(0))
            is_late = -_MAX_REORDERED < gap < 0 and row.export_us - _MAX_DELAY_US <= header.export_us <= row.export_us
            if most < 0:
                pass  # a set of the datagram could not be decoded: how many records it has is unknown
            elif gap == 0:
                if row.evidence != 0:
                    _weigh(row, unit, step, num)
            elif step < 0 and is_late:
                # The datagram was counted as lost and has now arrived; the latest one in order stays. A datagram
                # sent after the others, or long before them by its clock, means that the exporter restarted.
                row.reordered_datagrams += np.uint64(1)
                late = np.int64(1) if unit == _DATAGRAMS else np.int64(header.num_records)
                doubted = min(late, row.doubted_lost)
                row.doubted_lost -= doubted
                row.lost -= min(np.uint64(late - doubted), row.lost)
                continue
            else:
                row.doubted_lost += gap if 0 < gap < _MAX_LOST else 0
                row.doubted_reordered += 1 if is_late else 0
                row.doubted_resets += 0 if is_late or 0 < gap < _MAX_LOST else 1
                _weigh(row, unit, step, num)
        row.has_last = np.uint32(1)
        row.last_sequence = header.sequence
        row.last_records = num
        row.export_us = header.export_us


@compiled(inline=True)
def _steps(unit: Any, before: Any, own: Any) -> Any:
    """Return the least and the most by which a number may exceed the one before; the most is -1 if that is unknown.

    before, own: records of both datagrams, -1 if unknown.
    """
    least = most = np.int64(before)
    if unit == _DATAGRAMS:
        least = most = np.int64(1)
    elif unit == _NOTHING:
        least = most = np.int64(0)
    elif unit == _FLOWS:
        least = (most + 1) // 2
    elif unit == _INCLUSIVE:
        most = np.int64(own)
        least = (most + 1) // 2
    return least, most


@compiled()
def _weigh(row: Any, unit: Any, step: Any, own: Any) -> None:
    """Weigh by one number what sequence numbers count, and adopt another unit if enough speaks for it.

    Doubted counts are dropped then, or become final when nothing speaks for another unit any more.
    """
    least, most = _steps(unit, row.last_records, own)
    fits = least <= step <= most
    evidence = np.int64(0)
    for other in range(1, len(UNITS)):
        shift = 8 * (other - 1)
        found = (row.evidence >> shift) & 255
        lower, upper = _steps(other, row.last_records, own)
        if other == unit or (upper >= 0 and not lower <= step <= upper):
            found = 0
        elif upper >= 0 and not fits:
            found += _FITS
        elif upper - lower > most - least:  # both explain it, but the exporter's unit more exactly
            found = max(found - 1, 0)
        if found >= _ENOUGH:
            row.unit = np.uint32(other)
            row.doubted_lost = row.doubted_reordered = row.doubted_resets = 0
            evidence = np.int64(0)
            break
        evidence |= np.int64(found) << shift
    row.evidence = evidence
    if evidence == 0:
        row.lost += np.uint64(row.doubted_lost)
        row.reordered_datagrams += np.uint64(row.doubted_reordered)
        row.sequence_resets += np.uint64(row.doubted_resets)
        row.doubted_lost = row.doubted_reordered = row.doubted_resets = 0
