"""Plans how the records of a template are decoded: which field fills which column, by mapping.csv."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, final

import numpy as np
import numpy.typing as npt

from thalweg.ingest.netflow import extract
from thalweg.ingest.netflow.config import Header
from thalweg.ingest.netflow.elements import Use, mapping
from thalweg.ingest.netflow.extract import STEP
from thalweg.ingest.netflow.options import INTERVAL_ELEMENTS, OptionsReader
from thalweg.ingest.netflow.sections import SectionPlan
from thalweg.ingest.netflow.templates import IPFIX, VARIABLE, Template
from thalweg.ingest.netflow.totals import COLUMNS, Counting
from thalweg.ingest.netflow.tunnels import fields_of_others
from thalweg.ingest.records import RECORD

NTOP: Final = 35632
_CITRIX: Final = 5951
"""The enterprise whose NetScalers put microseconds where RFC 7011 section 6.1.9 wants a fraction of 2^32."""
_TIMES: Final[Mapping[str, int]] = {
    "uptime_ms": extract.UPTIME,
    "s": extract.SECONDS,
    "ms": extract.MILLISECONDS,
    "us": extract.MICROSECONDS,
    "ntp64": extract.NTP,
    "delta_us": extract.DELTA_US,
}
_OPS: Final[Mapping[str, int]] = {
    "src_port": extract.U16,
    "dst_port": extract.U16,
    "tcp_flags": extract.U16,
    "protocol": extract.U8,
    "egress": extract.U8,
    "fwd_bytes": extract.U64,
    "fwd_packets": extract.U64,
    "bwd_bytes": extract.U64,
    "bwd_packets": extract.U64,
}
_COUNTERPARTS: Final[Mapping[tuple[int, int], tuple[int, int]]] = {(0, 232): (0, 231), (0, 299): (0, 298)}
"""Counters of the responder, and the initiator's counters that belong to them."""


_TRANSPORTS: Final[Mapping[tuple[int, int], tuple[str, int]]] = {
    (0, 180): ("src_port", extract.IS_UDP_IF_ANY),
    (0, 181): ("dst_port", extract.IS_UDP_IF_ANY),
    (0, 182): ("src_port", extract.IS_TCP_IF_ANY),
    (0, 183): ("dst_port", extract.IS_TCP_IF_ANY),
}
"""Ports of one protocol alone: their columns, and what else they say."""

_ARRIVAL_SLOT: Final = RECORD.fields["arrival_us"][1] // 8  # type: ignore[index]  # RECORD has fields


@final
@dataclass(frozen=True, slots=True, eq=False)
class DecodePlan:
    """How the records of one template are decoded.

    steps: (P,) of STEP, in order of execution. unsampled: the steps for an exporter that has no samplers. known: 1 if
    the template has a start, 2 an end, 3 both, 4 only a duration, which is then in start_us as a negative number.
    is_flow: its records are flows. has_backward: it counts the opposite direction. always_two_way: it reports the
    opposite direction even if that had no packet. has_event: `continued` holds a firewall event until the records are
    finished. has_direction: `initiator` holds a biflowDirection until then. sampled_by: `sampler` or `interface`, whose
    number is in arrival_us until then, or "" for neither. has_interval: its records state their own sampling. init: the
    field with the exporter's start time. has_nat: `exporter` holds marks about the translation until the records are
    finished. counting: how its counters run. options: reads its options records, None if they change nothing. is_plain:
    its records are flows that are decoded alike for all exporters, but for their samplers.
    """

    template: Template
    steps: npt.NDArray[np.void]
    unsampled: npt.NDArray[np.void]
    known: int
    is_flow: bool
    has_backward: bool
    always_two_way: bool
    has_counts: bool
    has_event: bool
    has_direction: bool
    sampled_by: str
    has_interval: bool
    init: int | None
    has_nat: bool
    counting: Counting
    untimed: int
    otherwise: DecodePlan | None
    section: SectionPlan | None
    options: OptionsReader | None
    is_plain: bool

    @classmethod
    def of_options(cls, template: Template) -> DecodePlan:
        """Make the plan of an options template, whose records fill no columns."""
        empty = cls.of(Template(template.version, (), template.num_scope))
        return replace(empty, template=template, options=OptionsReader.of(template))

    @classmethod
    def of(cls, template: Template, header: Header = "inner") -> DecodePlan:
        """Make the plan of a template; each column is filled by the field of the best rank.

        header: which one makes a flow if the template describes the headers of a tunnel.
        """
        outermost, *inner = fields_of_others(template) or [frozenset[int]()]
        plan = cls._of(template, outermost, None, header)
        for unused in inner if header == "inner" else ():
            plan = cls._of(template, unused, plan, header)
        return plan

    @classmethod
    def _of(
        cls, template: Template, unused: frozenset[int], otherwise: DecodePlan | None, header: Header
    ) -> DecodePlan:
        """Make a plan that leaves the fields `unused` alone."""
        offsets, at, is_variable = [], 0, template.is_variable
        for field in template.fields:
            offsets.append(at)
            at += 0 if field.length == VARIABLE else field.length
        chosen = _best_fields(template, unused)
        steps: list[tuple[int, int, int, int, int]] = []

        def step(op: int, column: str, index: int, width: int, *, skip: int = 0, length: int = 0) -> None:
            slot = RECORD.fields[column][1] // width  # type: ignore[index]  # RECORD has fields
            size = length or template.fields[index].length
            steps.append((op, slot, skip if is_variable else offsets[index] + skip, size, index))

        has_addresses = True
        for side in ("src", "dst"):
            v6 = _address(template, chosen.get(f"{side}_v6"), 16)
            v4 = _address(template, chosen.get(f"{side}_v4"), 4)
            if v6 is not None:
                step(extract.U64, f"{side}_hi", v6, 8, length=8)
                step(extract.U64, f"{side}_lo", v6, 8, skip=8, length=8)
            if v4 is not None:
                step(extract.IPV4 if v6 is None else extract.IPV4_IF_ANY, f"{side}_lo", v4, 8)
            has_addresses &= v6 is not None or v4 is not None
        for column, op in _OPS.items():
            if column in chosen:
                index, _ = chosen[column]
                step(op, column, index, {extract.U64: 8, extract.U8: 1}.get(op, 2))
        intervals = _sampling(template, chosen)
        for op, index in intervals:
            step(op, "sampling", index, 2)
        for index in _other_fields("tcp_flags", template, chosen, unused):
            step(extract.FLAGS, "tcp_flags", index, 2)
        for op, column, index in _transports(template, chosen, unused):
            step(op, column, index, 1 if column == "protocol" else 2)
        known, relative = 0, 0
        for bit, column in ((1, "start"), (2, "end")):
            if column in chosen and chosen[column][1].unit in _TIMES:
                index, use = chosen[column]
                step(_time_op(template, use.unit), f"{column}_us", index, 8)
                known |= bit
                relative |= bit if use.unit == "uptime_ms" else 0
        if known != 3 and "duration" in chosen:
            index, use = chosen["duration"]
            op = extract.DURATION_MS if use.unit == "ms" else extract.DURATION_US
            step(op, "end_us" if known == 1 else "start_us", index, 8)
            relative |= 3 if relative else 0
            known = 3 if known else 4
        for op, index in _icmp(template, chosen, unused):
            step(op, "dst_port", index, 2)
        sampled_by = next((name for name in ("sampler", "interface") if name in chosen), "")
        if sampled_by:
            step(extract.U64, "arrival_us", chosen[sampled_by][0], 8)
        if "event" in chosen:
            step(extract.U8, "continued", chosen["event"][0], 1)
        if "initiator" in chosen:
            step(extract.U8, "initiator", chosen["initiator"][0], 1)
        has_nat = _has_nat(chosen)
        if has_nat:
            for column, op, size in (("receiver_v4", extract.NAT_IPV4, 4), ("receiver_v6", extract.NAT_IPV6, 16)):
                receiver = _address(template, chosen.get(column), size)
                if receiver is not None:
                    step(op, "dst_lo", receiver, 8)
            if "receiver_port" in chosen:
                step(extract.NAT_PORT, "dst_port", chosen["receiver_port"][0], 2)
        has_counts = any(column in chosen for column in ("fwd_bytes", "bwd_bytes", "fwd_packets"))
        columns = {column: index for column, (index, _) in chosen.items()}
        section = SectionPlan.of(template, columns, has_addresses, header)
        has_packets = section is not None and section.parts > 0
        is_flow = (has_packets or (has_addresses and (has_counts or "event" in chosen))) and not template.is_options
        counting = _counting(chosen)
        has_uptimes = template.version == IPFIX and any(one[0] == extract.UPTIME for one in steps)
        differs = template.is_variable or "event" in chosen or bool(intervals) or has_uptimes
        backward = [chosen[column] for column in ("bwd_bytes", "bwd_packets") if column in chosen]
        return cls(
            template=template,
            steps=np.array(steps, STEP),
            unsampled=np.array([one for one in steps if one[1] != _ARRIVAL_SLOT or one[0] != extract.U64], STEP),
            known=known,
            is_flow=is_flow,
            has_backward=bool(backward),
            always_two_way=any(not use.condition and _counts_responder(template, index) for index, use in backward),
            has_counts=has_counts,
            has_event="event" in chosen,
            has_direction="initiator" in chosen,
            sampled_by=sampled_by,
            has_interval=bool(intervals),
            init=chosen["init"][0] if "init" in chosen else None,
            has_nat=has_nat,
            counting=counting,
            untimed=4 if relative == 3 else known & ~relative,
            otherwise=otherwise,
            section=section,
            options=None,
            is_plain=is_flow and not (differs or section is not None or otherwise is not None or counting.totals),
        )


def _has_nat(chosen: Mapping[str, tuple[int, Use]]) -> bool:
    """Return whether records give their destination after NAT.

    FortiOS, which counts the opposite direction in OUT_BYTES, gives an answer the inner address as its destination.
    """
    counts_both = any(chosen[one][1].condition == "reverse" for one in ("bwd_bytes", "bwd_packets") if one in chosen)
    return not counts_both and ("receiver_v4" in chosen or "receiver_v6" in chosen)


def _counting(chosen: Mapping[str, tuple[int, Use]]) -> Counting:
    """Return how the counters of a template run; totals need an exact start, by which a flow is recognised."""
    start = chosen.get("start", chosen.get("end") if "duration" in chosen else None)
    if start is None or start[1].unit not in _TIMES or start[1].unit == "delta_us":
        return Counting()
    used = {column: chosen[column] for column in COLUMNS if column in chosen}
    return Counting(
        totals=tuple(column for column, (_, use) in used.items() if use.unit.startswith("total_")),
        by_uptime=start[1].unit == "uptime_ms",
        has_end="end" in chosen or "duration" in chosen,
    )


def _sampling(template: Template, chosen: Mapping[str, tuple[int, Use]]) -> list[tuple[int, int]]:
    """Return the steps that compute a sampling interval, (op, field) each; see `options.sampling_of`."""
    of = {column: index for column, (index, _) in chosen.items()}
    if "sampling" in of and chosen["sampling"][1].unit == "packets" and "space" in of:
        return [(extract.INTERVAL, of["sampling"]), (extract.SPACE, of["space"])]
    if "sampling_size" in of and "sampling_population" in of:
        return [(extract.INTERVAL, of["sampling_size"]), (extract.POPULATION, of["sampling_population"])]
    one_in = (
        i for i, field in enumerate(template.fields) if (field.pen, field.id) in INTERVAL_ELEMENTS and field.length
    )
    return [(extract.INTERVAL, next(one_in, of["sampling"]))] if "sampling" in of else []


def _counts_responder(template: Template, index: int) -> bool:
    """Return whether a field counts the responder; Huawei sends 232 without 231, always 0, in one-way records."""
    has = {(field.pen, field.id) for field in template.fields}
    counterpart = _COUNTERPARTS.get((template.fields[index].pen, template.fields[index].id))
    return counterpart is None or counterpart in has


def _other_fields(
    column: str, template: Template, chosen: Mapping[str, tuple[int, Use]], unused: frozenset[int]
) -> list[int]:
    """Return the other fields that fill a column; YAF sends the flags of the first packet and of the rest."""
    uses = mapping()
    return [
        index
        for index, field in enumerate(template.fields)
        if index not in unused
        and any(use.column == column for use in uses.get((field.pen, field.id), ()))
        and field.length
        and chosen[column][0] != index
    ]


def _transports(
    template: Template, chosen: Mapping[str, tuple[int, Use]], unused: frozenset[int]
) -> Iterator[tuple[int, str, int]]:
    """Yield the steps by which fields of one protocol fill the columns of all, (op, column, field) each.

    A template may have the ports of TCP and of UDP, one of which is 0; it may have no protocol, as that is clear.
    """
    for index, field in enumerate(template.fields):
        of = _TRANSPORTS.get((field.pen, field.id))
        if of is None or not field.length or index in unused:
            continue
        column, op = of
        index_chosen, use = chosen[column]
        if use.rank > 1 and index_chosen != index:
            yield extract.FLAGS, column, index
        if "protocol" not in chosen:
            yield op, "protocol", index
    if "protocol" not in chosen and (found := chosen.get("icmp") or chosen.get("icmp_type")):
        has_ports = "src_port" in chosen or "dst_port" in chosen
        yield extract.IS_ICMP_IF_ANY if has_ports else extract.IS_ICMP, "protocol", found[0]


def _icmp(
    template: Template, chosen: Mapping[str, tuple[int, Use]], unused: frozenset[int]
) -> Iterator[tuple[int, int]]:
    """Yield the steps that put the type and code of ICMP into dst_port, (op, field) each.

    A template may have fields of ICMP and of ICMPv6; those of the other one are 0.
    """
    if "icmp" in chosen:
        yield extract.PORT_IF_ICMP, chosen["icmp"][0]
        yield from ((extract.MORE_PORT_IF_ICMP, i) for i in _other_fields("icmp", template, chosen, unused))
    elif "icmp_type" in chosen:
        yield extract.TYPE_IF_ICMP, chosen["icmp_type"][0]
        yield from ((extract.MORE_TYPE_IF_ICMP, i) for i in _other_fields("icmp_type", template, chosen, unused))
        if "icmp_code" in chosen:
            codes = [chosen["icmp_code"][0], *_other_fields("icmp_code", template, chosen, unused)]
            yield from ((extract.CODE_IF_ICMP, i) for i in codes)


def _time_op(template: Template, unit: str) -> int:
    if unit == "ntp64" and any(field.pen == _CITRIX for field in template.fields):
        return extract.NTP_MICROSECONDS
    return _TIMES[unit]


def _address(template: Template, found: tuple[int, Use] | None, length: int) -> int | None:
    if found is None or template.fields[found[0]].length != length:
        return None
    return found[0]


def _best_fields(template: Template, unused: frozenset[int]) -> dict[str, tuple[int, Use]]:
    """Return, by column, the field of the best rank and its use, and none of those that are `unused`."""
    uses = mapping()
    has = {(field.pen, field.id) for field in template.fields}
    chosen: dict[str, tuple[int, Use]] = {}
    for index, field in enumerate(template.fields):
        for use in uses.get((field.pen, field.id), ()):
            if not field.length or index in unused or not _applies(use, template, has):
                continue
            if use.column not in chosen or use.rank < chosen[use.column][1].rank:
                chosen[use.column] = index, use
    times = [column for column in ("start", "end") if column in chosen]
    uptimes = [column for column in times if chosen[column][1].unit == "uptime_ms"]
    if template.version == IPFIX and "duration" in chosen and len(times) == 2 and len(uptimes) == 1:
        del chosen[uptimes[0]]  # the other time and the duration need no start of the exporter
    return chosen


def _applies(use: Use, template: Template, has: set[tuple[int, int]]) -> bool:
    has_in = (0, 1) in has or (0, 2) in has
    is_reverse = has_in and (template.version == 9 or any(pen == NTOP for pen, _ in has))
    match use.condition:
        case "":
            return True
        case "reverse":  # beside IN_BYTES, OUT_BYTES counts the opposite direction in v9 and in nProbe's IPFIX
            return is_reverse
        case "forward":  # alone, OUT_BYTES counts the flow itself, at egress
            return not has_in
        case other:
            raise AssertionError(f"mapping.csv: no condition {other!r}")
