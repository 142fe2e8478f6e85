"""Data sets of one template -> rows of a table of records, with what needs a look at single fields."""

from __future__ import annotations

from typing import Final, final

import numpy as np
import numpy.typing as npt

from thalweg.ingest.netflow import extract
from thalweg.ingest.netflow.extract import count_variable, fill_fixed, fill_variable, finish
from thalweg.ingest.netflow.options import INTERFACE, records_in
from thalweg.ingest.netflow.plan import Plan
from thalweg.ingest.netflow.templates import IPFIX
from thalweg.ingest.records import INITIATOR, RECORD, Records, no_records

Ints = npt.NDArray[np.int64]
Structs = npt.NDArray[np.void]

_ENDED: Final = (2, 5)
"""Flow deleted and flow updated: a firewall has counted by then. With 1, flow created, it may have."""
_DENIED: Final = 3
_MAX_RECORDS: Final = 65_536
"""In one set: each has a byte at least."""
_OPENED: Final = (1, 2)
"""biflowDirection: who opened the flow is known (RFC 5103 section 6.3)."""
_REVERSED: Final = 2
"""biflowDirection: the source is the one that answered (RFC 5103 section 6.3)."""
_ICMP: Final = (1, 58)
_BY_EXPORTER: Final = INITIATOR.index("exporter")
_MIRRORED: Final = (
    ("src_hi", "dst_hi"), ("src_lo", "dst_lo"), ("src_port", "dst_port"), ("fwd_bytes", "bwd_bytes"),
    ("fwd_packets", "bwd_packets"),
)  # fmt: skip


@final
class Room:
    """Rows to be filled, in memory that is kept for the next call: fresh pages cost as much as decoding."""

    def __init__(self) -> None:
        self._rows = no_records()

    def rows(self, num: int) -> Records:
        """Return so many records in the place of those before, with anything in them."""
        if len(self._rows) < num:
            self._rows = np.empty(num + num // 4, RECORD)
        return self._rows[:num]


def num_records_in(plan: Plan, buffer: npt.NDArray[np.uint8], sets: Structs) -> tuple[Ints, int]:
    """Count the whole records of each set. Returns: (S,); how many sets end within a record."""
    if not plan.template.is_variable:
        fixed: Ints = (sets["end"] - sets["begin"]) // plan.template.least_length
        return fixed, 0
    counts = np.zeros(len(sets), np.int64)
    return counts, count_variable(buffer, sets, _lengths(plan), _MAX_RECORDS, counts)


def fill_records(
    plan: Plan,
    buffer: npt.NDArray[np.uint8],
    headers: Structs,
    sets: Structs,
    first_row: Ints,
    num_rows: Ints,
    records: Records,
    table: Structs,
    samplers: dict[int, int],
    init_ms: int,
) -> npt.NDArray[np.bool_] | None:
    """Fill the rows of some sets of one exporter.

    headers: of all datagrams. first_row, num_rows: (S,) of each set. records: (R,), with anything in these rows.
    table: of exporters. samplers: intervals by sampler. init_ms: when the exporter started, 0 where it has not said.

    Returns: (rows of these sets,) bool, those that are flows; None where all are.
    """
    template = plan.template
    out, out16, out8 = records.view(np.uint64), records.view(np.uint16), records.view(np.uint8)
    timed = np.ones(len(sets), bool)
    steps = plan.steps if samplers else plan.unsampled
    if template.version == IPFIX and (plan.steps["op"] == extract.UPTIME).any():
        timed = _set_uptimes(plan, buffer, headers, sets, init_ms)
    if not template.is_variable:
        fill_fixed(buffer, sets, first_row, num_rows, template.least_length, steps, headers, out, out16, out8)
    else:
        fill_variable(buffer, sets, first_row, num_rows, _lengths(plan), steps, headers, out, out16, out8)
    keep = None
    if plan.has_event or plan.has_backward or plan.has_direction or (plan.sampled_by and samplers):
        keep = _look_at_fields(plan, records, rows_of(first_row, num_rows), samplers)
    if timed.all():
        finish(records, sets, first_row, num_rows, headers, table, plan.known)
    else:
        finish(records, sets[timed], first_row[timed], num_rows[timed], headers, table, plan.known)
        finish(records, sets[~timed], first_row[~timed], num_rows[~timed], headers, table, 0)
    return keep


def _look_at_fields(plan: Plan, records: Records, rows: Ints, samplers: dict[int, int]) -> npt.NDArray[np.bool_] | None:
    """Do what one field means for others. Returns: as `fill_records`."""
    keep = _flows_among(plan, records, rows)
    if plan.sampled_by and samplers:
        _undo_by_sampler(plan, records, rows, samplers)
    direction = records["initiator"][rows] if plan.has_direction else None
    if plan.has_backward and not plan.surely_two_way:
        _count_egress_forward(records, rows)
    if plan.has_backward:
        two_way = ((records["bwd_bytes"] > 0) | (records["bwd_packets"] > 0))[rows] | plan.surely_two_way
        records["two_way"][rows] = two_way
        surely = two_way if direction is None else two_way & np.isin(direction, _OPENED)
        records["initiator"][rows] = np.where(surely, _BY_EXPORTER, 0)
    elif plan.has_direction:
        records["initiator"][rows] = 0
    if direction is not None and (direction == _REVERSED).any():
        _turn_round(records, rows[direction == _REVERSED])
    return keep


def _lengths(plan: Plan) -> npt.NDArray[np.uint16]:
    """Return the fields' lengths. (F,)."""
    return np.array([field.length for field in plan.template.fields], np.uint16)


def rows_of(first_row: Ints, num_rows: Ints) -> Ints:
    """Return the numbers of all rows of some sets."""
    if len(first_row) == 1 or (first_row[1:] == first_row[:-1] + num_rows[:-1]).all():
        return np.arange(first_row[0], first_row[-1] + num_rows[-1])
    return np.concatenate([np.arange(first, first + num) for first, num in zip(first_row, num_rows, strict=True)])


def _flows_among(plan: Plan, records: Records, rows: Ints) -> npt.NDArray[np.bool_] | None:
    """Tell which records of a firewall are flows and not news of one that has only begun."""
    if not plan.has_event:
        return None
    event = records["continued"][rows]
    records["continued"][rows] = 0
    keep: npt.NDArray[np.bool_] = event == _DENIED
    if plan.has_counts:
        of = records[rows]
        keep |= np.isin(event, _ENDED) | (of["fwd_bytes"] > 0) | (of["bwd_bytes"] > 0) | (of["fwd_packets"] > 0)
    return keep


def _undo_by_sampler(plan: Plan, records: Records, rows: Ints, samplers: dict[int, int]) -> None:
    base = INTERFACE if plan.sampled_by == "interface" else 0
    found, which = np.unique(records["arrival_us"][rows], return_inverse=True)
    if not base and any(name < INTERFACE for name in samplers):
        samplers = {0: 1, **samplers}  # by a device that names its samplers, what has none is not sampled
    named = (base + (int(one) & 0xFFFF_FFFF) for one in found)
    intervals = np.array([samplers.get(name, 0) for name in named], np.uint32)[which]
    own = records["sampling"][rows]
    records["sampling"][rows] = np.where(own == 0, intervals, own)


def _count_egress_forward(records: Records, rows: Ints) -> None:
    """Count one way what was counted where it left: in OUT_BYTES of a template that has IN_BYTES, too."""
    at = rows[(records["egress"][rows] == 1) & (records["fwd_packets"][rows] == 0) & (records["fwd_bytes"][rows] == 0)]
    for one, other in (("fwd_bytes", "bwd_bytes"), ("fwd_packets", "bwd_packets")):
        records[one][at] = records[other][at]
        records[other][at] = 0


def _turn_round(records: Records, rows: Ints) -> None:
    """Make the source of these the one that opened the flow."""
    turned = records[rows]
    has_ports = ~np.isin(turned["protocol"], _ICMP)
    for one, other in _MIRRORED:
        of = has_ports if one == "src_port" else slice(None)
        turned[one][of], turned[other][of] = records[other][rows][of], records[one][rows][of]
    records[rows] = turned


def _set_uptimes(
    plan: Plan, buffer: npt.NDArray[np.uint8], headers: Structs, sets: Structs, init_ms: int
) -> npt.NDArray[np.bool_]:
    """Put how long the exporter runs into headers that do not say it. Returns: (S,), where it is known.

    Source: RFC 7011 has no uptime in its header; IE 160, systemInitTimeMilliseconds, stands for it.
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
