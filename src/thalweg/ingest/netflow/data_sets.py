"""Decodes the data sets of one template into records, and applies the fields that change others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from thalweg.ingest.netflow import extract
from thalweg.ingest.netflow.extract import count_translated, count_variable, fill_fixed, fill_variable, finish
from thalweg.ingest.netflow.options import INTERFACE_BASE, records_in
from thalweg.ingest.netflow.plan import DecodePlan
from thalweg.ingest.netflow.sequences import BY_USER
from thalweg.ingest.netflow.templates import IPFIX
from thalweg.ingest.netflow.totals import Totals
from thalweg.ingest.records import INITIATOR, RECORD, Records, no_records
from thalweg.tally import Tally

Ints = npt.NDArray[np.int64]
Structs = npt.NDArray[np.void]

_COUNTED_EVENTS: Final = (2, 5)
"""firewallEvent: flow deleted and flow updated, which always have counts; flow created, 1, may have some."""
_DENIED: Final = 3
_MAX_RECORDS: Final = 65_536
"""Records in one set, as each has at least a byte."""
_DIRECTION_KNOWN: Final = (1, 2)
"""biflowDirection: the initiator is known (RFC 5103 section 6.3)."""
_REVERSED: Final = 2
"""biflowDirection: the source is the responder (RFC 5103 section 6.3)."""
_ICMP: Final = (1, 58)
_BY_EXPORTER: Final = INITIATOR.index("exporter")
_OPPOSITES: Final = (
    ("src_hi", "dst_hi"), ("src_lo", "dst_lo"), ("src_port", "dst_port"), ("fwd_bytes", "bwd_bytes"),
    ("fwd_packets", "bwd_packets"),
)  # fmt: skip


@final
class RecordBuffer:
    """Memory for records that is reused by the next call, as fresh pages cost as much as decoding."""

    def __init__(self) -> None:
        self._rows = no_records()

    def rows(self, num: int) -> Records:
        """Return `num` uninitialised records, which overwrite those of the call before."""
        if len(self._rows) < num:
            self._rows = np.empty(num + num // 4, RECORD)
        return self._rows[:num]


def num_records_in(plan: DecodePlan, buffer: npt.NDArray[np.uint8], sets: Structs) -> tuple[Ints, int]:
    """Count the complete records of each set. Returns: (S,) int64; the number of sets that end within a record."""
    if not plan.template.is_variable:
        fixed: Ints = (sets["end"] - sets["begin"]) // plan.template.least_length
        return fixed, 0
    counts = np.zeros(len(sets), np.int64)
    return counts, count_variable(buffer, sets, _lengths(plan), _MAX_RECORDS, counts)


def fill_records(
    plan: DecodePlan,
    buffer: npt.NDArray[np.uint8],
    headers: Structs,
    sets: Structs,
    records: Records,
    *,
    first_row: Ints,
    num_rows: Ints,
    table: Structs,
    samplers: Mapping[int, int],
    init_ms: int,
    totals: Totals,
    tally: Tally,
) -> tuple[npt.NDArray[np.bool_] | None, npt.NDArray[np.bool_] | None]:
    """Decode data sets of one exporter and one template into their rows of `records`.

    headers: of all datagrams. first_row, num_rows: (S,) rows of each set. records: (R,), uninitialised in these rows.
    table: the exporters. samplers: intervals by sampler. init_ms: when the exporter started, milliseconds since 1970,
    0 if unknown. tally: counts what the exporter's NAT changes.

    Returns: bool for each row of these sets, true for flows; and true for what adds something to what was reported of
    its flow before. None if all are true.
    """
    timed = np.ones(len(sets), bool)
    if plan.template.version == IPFIX and (plan.steps["op"] == extract.UPTIME).any():
        timed = _set_uptimes(plan, buffer, headers, sets, init_ms)
    _fill(plan, buffer, headers, sets, records, first_row=first_row, num_rows=num_rows, has_samplers=bool(samplers))
    keep = adds = None
    if plan.has_interval:
        _check_intervals(records, rows_of(first_row, num_rows), table[headers["exporter"][sets["datagram"][0]]])
    if plan.has_nat:
        tally.add("translated_destinations", count_translated(first_row, num_rows, records.view(np.uint16)))
    if plan.counting.totals:
        adds = totals.subtract(plan.counting, records, sets, headers, first_row=first_row, num_rows=num_rows)
    if plan.has_event or plan.has_backward or plan.has_direction or (plan.sampled_by and samplers):
        keep = _apply_field_meanings(plan, records, rows_of(first_row, num_rows), samplers)
    if plan.section is not None:
        is_packet = plan.section.read(buffer, sets, first_row, num_rows, _lengths(plan), records)
        keep = is_packet if keep is None else keep & is_packet
    if timed.all():
        finish(records, sets, first_row, num_rows, headers, table, plan.known)
    else:
        finish(records, sets[timed], first_row[timed], num_rows[timed], headers, table, plan.known)
        if plan.untimed == 4:
            _keep_durations(plan, records, rows_of(first_row[~timed], num_rows[~timed]))
        finish(records, sets[~timed], first_row[~timed], num_rows[~timed], headers, table, plan.untimed)
    return keep, adds


def _fill(
    plan: DecodePlan,
    buffer: npt.NDArray[np.uint8],
    headers: Structs,
    sets: Structs,
    records: Records,
    *,
    first_row: Ints,
    num_rows: Ints,
    has_samplers: bool,
) -> None:
    """Decode data sets into their rows; records of a tunnel without an inner header have the outer one."""
    out, out16, out8 = records.view(np.uint64), records.view(np.uint16), records.view(np.uint8)
    steps = plan.steps if has_samplers else plan.unsampled
    if not plan.template.is_variable:
        size = plan.template.least_length
        fill_fixed(buffer, sets, first_row, num_rows, size, steps, headers, out, out16, out8)
    else:
        fill_variable(buffer, sets, first_row, num_rows, _lengths(plan), steps, headers, out, out16, out8)
    if plan.otherwise is None:
        return
    rows = rows_of(first_row, num_rows)
    empty = _have_no_addresses(records[rows])
    if empty.any():
        outer = no_records(len(rows))
        first = np.cumsum(num_rows) - num_rows
        _fill(
            plan.otherwise, buffer, headers, sets, outer,
            first_row=first, num_rows=num_rows, has_samplers=has_samplers,
        )  # fmt: skip
        records[rows[empty]] = outer[empty]


def _have_no_addresses(records: Records) -> npt.NDArray[np.bool_]:
    """Return which records have only unspecified addresses, :: or 0.0.0.0."""
    found: npt.NDArray[np.bool_] = np.ones(len(records), bool)
    for side in ("src", "dst"):
        found &= (records[f"{side}_hi"] == 0) & np.isin(records[f"{side}_lo"], (0, 0xFFFF_0000_0000))
    return found


def _keep_durations(plan: DecodePlan, records: Records, rows: Ints) -> None:
    """Put durations of records whose times are unknown where `finish` expects them: in start_us, negative."""
    lengths = records["end_us"][rows] - records["start_us"][rows]
    if (plan.steps["op"] == extract.UPTIME).sum() == 2:
        # Each of the two may have wrapped.
        lengths = (lengths // 1000).astype(np.uint32).astype(np.int32).astype(np.int64) * 1000
    records["start_us"][rows] = -lengths


def _apply_field_meanings(
    plan: DecodePlan, records: Records, rows: Ints, samplers: Mapping[int, int]
) -> npt.NDArray[np.bool_] | None:
    """Apply the fields that change the meaning of others. Returns: bool, true for flows; None if all are flows."""
    keep = _select_flows(plan, records, rows)
    if plan.sampled_by and samplers:
        _set_sampler_intervals(plan, records, rows, samplers)
    direction = records["initiator"][rows] if plan.has_direction else None
    if plan.has_backward and not plan.always_two_way:
        _count_egress_forward(records, rows)
    if plan.has_backward:
        two_way = ((records["bwd_bytes"] > 0) | (records["bwd_packets"] > 0))[rows] | plan.always_two_way
        records["two_way"][rows] = two_way
        is_certain = two_way if direction is None else two_way & np.isin(direction, _DIRECTION_KNOWN)
        records["initiator"][rows] = np.where(is_certain, _BY_EXPORTER, 0)
    elif plan.has_direction:
        records["initiator"][rows] = 0
    if direction is not None and (direction == _REVERSED).any():
        _swap_directions(records, rows[direction == _REVERSED])
    return keep


def _lengths(plan: DecodePlan) -> npt.NDArray[np.uint16]:
    """Return the lengths of the template's fields, (F,)."""
    return np.array([field.length for field in plan.template.fields], np.uint16)


def rows_of(first_row: Ints, num_rows: Ints) -> Ints:
    """Return the indices of all rows of these sets."""
    if len(first_row) == 1 or (first_row[1:] == first_row[:-1] + num_rows[:-1]).all():
        return np.arange(first_row[0], first_row[-1] + num_rows[-1])
    return np.concatenate([np.arange(first, first + num) for first, num in zip(first_row, num_rows, strict=True)])


def _select_flows(plan: DecodePlan, records: Records, rows: Ints) -> npt.NDArray[np.bool_] | None:
    """Return which records of a firewall are flows, and not the event that a flow has begun; None if all are."""
    if not plan.has_event:
        return None
    event = records["continued"][rows]
    records["continued"][rows] = 0
    keep: npt.NDArray[np.bool_] = event == _DENIED
    if plan.has_counts:
        of = records[rows]
        keep |= (
            np.isin(event, _COUNTED_EVENTS) | (of["fwd_bytes"] > 0) | (of["bwd_bytes"] > 0) | (of["fwd_packets"] > 0)
        )
    return keep


def _check_intervals(records: Records, rows: Ints, exporter: Any) -> None:
    """Note what records state of their own sampling; take it as not reported if it cannot be meant, and count it."""
    own = records["sampling"][rows]
    swapped = (own > extract.MAX_BELIEVED) & (own & 0xFFFF == 0)
    if swapped.any():
        records["sampling"][rows[swapped]] = 0
        own = own[~swapped]
        if exporter["sampled_by"] != BY_USER:
            exporter["disbelieved_intervals"] += swapped.sum()
    stated = own[own > 0]
    exporter["record_sampling"] = stated[-1] if len(stated) else 0


def _set_sampler_intervals(plan: DecodePlan, records: Records, rows: Ints, samplers: Mapping[int, int]) -> None:
    """Set the interval of each record by its sampler or interface, whose number is in `arrival_us` until now."""
    base = INTERFACE_BASE if plan.sampled_by == "interface" else 0
    found, which = np.unique(records["arrival_us"][rows], return_inverse=True)
    if not base and any(id_ < INTERFACE_BASE for id_ in samplers):
        samplers = {0: 1, **samplers}  # if a device numbers its samplers, records without one are not sampled
    ids = (base + (int(one) & 0xFFFF_FFFF) for one in found)
    intervals = np.array([samplers.get(id_, 0) for id_ in ids], np.uint32)[which]
    own = records["sampling"][rows]
    records["sampling"][rows] = np.where(own == 0, intervals, own)


def _count_egress_forward(records: Records, rows: Ints) -> None:
    """Move the counts of egress records to the forward direction if only OUT_BYTES or OUT_PKTS has any."""
    at = rows[(records["egress"][rows] == 1) & (records["fwd_packets"][rows] == 0) & (records["fwd_bytes"][rows] == 0)]
    for one, other in (("fwd_bytes", "bwd_bytes"), ("fwd_packets", "bwd_packets")):
        records[one][at] = records[other][at]
        records[other][at] = 0


def _swap_directions(records: Records, rows: Ints) -> None:
    """Swap source and destination, so that the source is the initiator."""
    swapped = records[rows]
    has_ports = ~np.isin(swapped["protocol"], _ICMP)
    for one, other in _OPPOSITES:
        of = has_ports if one == "src_port" else slice(None)
        swapped[one][of], swapped[other][of] = records[other][rows][of], records[one][rows][of]
    records[rows] = swapped


def _set_uptimes(
    plan: DecodePlan, buffer: npt.NDArray[np.uint8], headers: Structs, sets: Structs, init_ms: int
) -> npt.NDArray[np.bool_]:
    """Set the uptime in IPFIX headers from the exporter's start time. Returns: (S,) bool, whether it is known.

    Source: IPFIX headers have no uptime (RFC 7011); IE 160, systemInitTimeMilliseconds, gives the start time.
    """
    started = np.full(len(sets), init_ms, np.uint64)
    if plan.init is not None:
        for i, one in enumerate(sets):
            fields = next(records_in(buffer[one["begin"] : one["end"]].tobytes(), plan.template), None)
            started[i] = int.from_bytes(fields[plan.init][-8:], "big") if fields else 0
    since = headers["export_us"][sets["datagram"]].astype(np.uint64) // np.uint64(1000)
    headers["uptime_ms"][sets["datagram"]] = ((since - started) & np.uint64(0xFFFF_FFFF)).astype(np.uint32)
    known: npt.NDArray[np.bool_] = started != 0
    return known
