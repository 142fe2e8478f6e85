"""Counters that run since a flow began -> what a flow added since its last record.

An exporter of totals repeats in each record of a flow all that it has reported of the flow before (octetTotalCount and
its kin, RFC 5102 section 5.10). What was reported last is kept by exporter, flow and start.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from thalweg.ingest.records import Records
from thalweg.runtime.jit import compiled
from thalweg.tally import Tally

COLUMNS: Final = ("fwd_bytes", "fwd_packets", "bwd_bytes", "bwd_packets")

_CAPACITY: Final = 262_144
"""Flows that are remembered; beyond it, the one that was reported longest ago is forgotten."""
_WAYS: Final = 8
_ROW: Final = 8
# Columns of a row: two hashes of exporter, flow and start; the end and the arrival of its last record, both in
# microseconds; the counters. Rows are uint64, as numba turns int64 with uint64 into float64.
_HASH, _CHECK, _END, _SEEN, _COUNTERS = range(5)
_STILL_RUNNING_US: Final = 1_800_000_000
"""A flow that was reported within this time may be reported again: the longest active timeout in common use."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Counting:
    """How the counters of a template run.

    totals: the columns that run since the flow began; none for a template of other counters. by_uptime: starts are
    relative to the exporter's start. has_end: records have an end.
    """

    totals: tuple[str, ...] = ()
    by_uptime: bool = False
    has_end: bool = True


@final
class Totals:
    """What flows with running totals have reported so far."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._rows = np.zeros((_CAPACITY, _ROW), np.uint64)  # mapped by the system only as it is needed
        self._is_empty = True

    def subtract(
        self,
        counting: Counting,
        records: Records,
        sets: npt.NDArray[np.void],
        headers: npt.NDArray[np.void],
        *,
        first_row: npt.NDArray[np.int64],
        num_rows: npt.NDArray[np.int64],
    ) -> npt.NDArray[np.bool_]:
        """Subtract from the totals of decoded, unfinished records what was reported before.

        first_row, num_rows: (S,) rows of each set. A record that continues another begins where that one ended.

        Returns: bool for each row of these sets, false if it adds nothing.
        """
        self._is_empty = False
        columns = np.array([column in counting.totals for column in COLUMNS])
        keep = np.ones(int(num_rows.sum()), bool)
        counts = np.zeros(2, np.int64)
        _subtract(
            records, sets, first_row, num_rows, headers, columns, counting.by_uptime, counting.has_end,
            self._rows, keep, counts,
        )  # fmt: skip
        self._tally.add("reduced_totals", int(counts[0]))
        self._tally.add("forgotten_totals", int(counts[1]))
        return keep

    def state(self) -> str:
        """Return what is remembered as base64 text, for `restore`."""
        if self._is_empty:
            return ""
        used = self._rows[self._rows[:, _HASH] != 0]
        return b64encode(used[np.argsort(used[:, _SEEN], kind="stable")].tobytes()).decode()

    def restore(self, state: str) -> None:
        """Continue from a saved `state`."""
        if not self._is_empty:
            self._rows[:] = 0
        self._is_empty = not state
        for row in np.frombuffer(b64decode(state), np.uint64).reshape(-1, _ROW):
            self._rows[_oldest(self._rows, row[_HASH])] = row


@compiled(inline=True)
def _mix(hash_: Any, word: Any) -> Any:
    mixed = (hash_ ^ np.uint64(word)) * np.uint64(0x9E3779B97F4A7C15)
    return mixed ^ (mixed >> np.uint64(29))


@compiled()
def _find(rows: Any, hash_: Any, check: Any) -> Any:
    """Return the row of a flow, −1 if there is none."""
    first = np.int64(hash_ >> np.uint64(20)) % (len(rows) // _WAYS) * _WAYS
    for way in range(_WAYS):
        if rows[first + way, _HASH] == hash_ and rows[first + way, _CHECK] == check:
            return first + way
    return -1


@compiled()
def _oldest(rows: Any, hash_: Any) -> Any:
    """Return the row for a new flow: an empty one, else that of the flow reported longest ago."""
    first = np.int64(hash_ >> np.uint64(20)) % (len(rows) // _WAYS) * _WAYS
    oldest = first
    for way in range(1, _WAYS):
        if rows[oldest, _HASH] == 0:
            break
        if rows[first + way, _HASH] == 0 or rows[first + way, _SEEN] < rows[oldest, _SEEN]:
            oldest = first + way
    return oldest


@compiled()
def _subtract(
    records: Any, sets: Any, first_row: Any, num_rows: Any, headers: Any, columns: Any, by_uptime: bool, has_end: bool,
    rows: Any, keep: Any, counts: Any,
) -> None:  # fmt: skip
    """Subtract what was reported before. columns: (4,) bool. keep: (R,) bool. counts: (2,), added to."""
    values, grown = np.zeros(4, np.uint64), np.zeros(4, np.uint64)
    at = -1
    for s in range(len(sets)):
        header = headers[sets[s].datagram]
        sender = _mix(_mix(_mix(_mix(np.uint64(0), header.hi), header.lo), header.domain), header.version)
        # The uptime of a start is exact; the exporter's clock in the header is cut to seconds.
        base = np.int64(0)
        if by_uptime:
            base = np.int64(header.export_us) - np.int64(header.uptime_ms) * 1000
        arrival = np.uint64(header.arrival_us) if header.arrival_us > 0 else np.uint64(0)
        for i in range(first_row[s], first_row[s] + num_rows[s]):
            record = records[i]
            at += 1
            start = np.int64(record.start_us)
            if start == 0:
                continue
            end = np.int64(record.end_us) - base
            ports = np.uint64(record.src_port) << np.uint64(32) | np.uint64(record.dst_port) << np.uint64(16)
            ports |= np.uint64(record.protocol) << np.uint64(8) | np.uint64(record.egress)
            hash_ = _mix(_mix(_mix(sender, record.src_hi), record.src_lo), record.dst_hi)
            hash_ = _mix(_mix(_mix(hash_, record.dst_lo), ports), start - base) | np.uint64(1)
            check = _mix(_mix(_mix(np.uint64(7), start - base), ports), record.src_lo ^ sender)
            check = _mix(_mix(_mix(check, record.dst_lo), record.src_hi), record.dst_hi)
            values[0], values[1] = record.fwd_bytes, record.fwd_packets
            values[2], values[3] = record.bwd_bytes, record.bwd_packets
            row = _find(rows, hash_, check)
            if row < 0:
                row = _oldest(rows, hash_)
                if rows[row, _HASH] != 0 and rows[row, _SEEN] + np.uint64(_STILL_RUNNING_US) > arrival:
                    counts[1] += 1
                rows[row, _HASH], rows[row, _CHECK] = hash_, check
                rows[row, _END], rows[row, _SEEN] = np.uint64(end), arrival
                for c in range(4):
                    rows[row, _COUNTERS + c] = values[c] if columns[c] else np.uint64(0)
                continue
            last = np.int64(rows[row, _END])
            is_later = has_end and end > last
            adds = False
            for c in range(4):
                grown[c] = values[c]
                if columns[c]:
                    before = rows[row, _COUNTERS + c]
                    if values[c] >= before:
                        grown[c] = values[c] - before
                        rows[row, _COUNTERS + c] = values[c]
                    elif is_later:  # the counter restarted, or ran over
                        rows[row, _COUNTERS + c] = values[c]
                    else:
                        grown[c] = np.uint64(0)
                adds = adds or grown[c] != 0
            rows[row, _SEEN] = arrival
            record.fwd_bytes, record.fwd_packets, record.bwd_bytes, record.bwd_packets = (
                grown[0], grown[1], grown[2], grown[3],
            )  # fmt: skip
            if not adds:
                keep[at] = False
                continue
            counts[0] += 1
            if is_later:
                if np.int64(record.start_us) < last + base:
                    record.start_us = last + base
                rows[row, _END] = np.uint64(end)
