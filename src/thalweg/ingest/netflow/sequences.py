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
        ("export_us", "i8"),  # exporter's clock in the datagram before `sequence`
        ("sequence", "u4"),  # the next number expected
        ("has_sequence", "u4"),
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
_MAX_DELAY_US: Final = 10_000_000
"""The longest delay of a datagram in the network, microseconds."""


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
    """Count what was lost or reordered, and restarts of exporters, by sequence numbers.

    A header's number is the count of flows (v5), datagrams (v9) or data records (IPFIX) sent before this datagram.
    Source: RFC 3954 section 5.1; RFC 7011 section 3.1.
    """
    for d in range(len(headers)):
        header = headers[d]
        at = header.exporter
        if at < 0:
            continue
        row = table[at]
        step = np.uint32(1) if header.version == 9 else np.uint32(header.num_records)
        if row.has_sequence != 0:
            gap = np.int64(np.uint32(header.sequence - row.sequence))
            if gap >= 2**31:
                gap -= 2**32
            if 0 < gap < 100_000_000:
                row.lost += np.uint64(gap)
            elif -100_000 < gap < 0 and row.export_us - _MAX_DELAY_US <= header.export_us <= row.export_us:
                # The datagram was counted as lost and has now arrived; the next number expected stays. A datagram
                # sent after the others, or long before them by its clock, means that the exporter restarted.
                row.reordered_datagrams += np.uint64(1)
                late = np.uint64(step)
                row.lost -= min(late, row.lost)
                continue
            elif gap != 0:
                row.sequence_resets += np.uint64(1)
        # The number of records in an IPFIX message is unknown if one of its sets could not be decoded.
        row.has_sequence = np.uint32(1 if header.version == 9 or header.complete != 0 else 0)
        row.sequence = np.uint32(header.sequence + step)
        row.export_us = header.export_us
