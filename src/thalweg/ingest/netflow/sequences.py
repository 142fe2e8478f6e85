"""One row of counts for each exporter: what headers say of its clock and of what was lost on the way."""

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
        ("name", "u4"),  # index into the names that flows carry
        ("in_use", "u4"),
        ("first_us", "i8"),  # arrivals
        ("last_us", "i8"),
        ("clock_error_us", "i8"),  # exporter's clock minus ours, at its latest datagram
        ("export_us", "i8"),  # exporter's clock at the datagram that `sequence` follows
        ("sequence", "u4"),  # expected next
        ("has_sequence", "u4"),
        ("sampling", "u4"),  # one packet in so many; 0 where nobody has said
        ("sampled_by", "u4"),  # 0 unknown, 1 v5 header, 2 options, 3 the user
        ("num_fields", "u4"),  # of all its templates
        # Counts.
        ("datagrams", "u8"),
        ("bytes", "u8"),
        ("flows", "u8"),  # records that became flows
        ("lost", "u8"),  # by the sequence: flows (v5), datagrams (v9), records (IPFIX)
        ("reordered_datagrams", "u8"),
        ("sequence_resets", "u8"),
        ("malformed", "u8"),  # datagrams that are not what they claim, in one place or more
        ("other_records", "u8"),
        ("event_records", "u8"),
        ("broken_records", "u8"),
        ("held_sets", "u8"),
        ("sets_without_template", "u8"),
        ("corrected_times", "u8"),
    ],
    align=True,
)
"""One exporter: an address, an observation domain and a version, each with templates and a sequence of its own."""
COUNTS: Final = tuple(name for name in EXPORTER.names or () if EXPORTER[name] == np.uint64 and name not in ("hi", "lo"))
"""The columns that count something."""
SAMPLED_BY: Final = ("nobody", "v5 header", "options", "--sampling")
"""Who said how an exporter samples."""
_LATEST: Final = 10_000_000
"""Microseconds that the network may keep a datagram back."""


@compiled()
def note_headers(table: Any, headers: Any, lengths: Any) -> None:
    """Count datagrams and bytes, and follow each exporter's clock."""
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
            interval = np.uint32(headers[d].sampling & 0x3FFF)  # above it is the mode
            row.sampling = max(interval, np.uint32(1))
            row.sampled_by = np.uint32(1)


@compiled()
def check_sequences(table: Any, headers: Any) -> None:
    """Count what is missing between datagrams, what came late, and where an exporter began anew.

    v5 numbers flows, v9 export packets, IPFIX data records, each of what it has sent before this datagram.
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
            elif -100_000 < gap < 0 and row.export_us - _LATEST <= header.export_us <= row.export_us:
                # It had been counted as missing, and is here now; what is expected next stays. One that was sent
                # after the others, or long before them by its clock, comes from an exporter that began anew.
                row.reordered_datagrams += np.uint64(1)
                late = np.uint64(step)
                row.lost -= min(late, row.lost)
                continue
            elif gap != 0:
                row.sequence_resets += np.uint64(1)
        # What an IPFIX message held is not known where one of its sets could not be decoded.
        row.has_sequence = np.uint32(1 if header.version == 9 or header.complete != 0 else 0)
        row.sequence = np.uint32(header.sequence + step)
        row.export_us = header.export_us
