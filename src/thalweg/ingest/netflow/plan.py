"""Plans how the records of a template are decoded: which field fills which column, by mapping.csv."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, final

import numpy as np
import numpy.typing as npt

from thalweg.ingest.netflow import extract
from thalweg.ingest.netflow.elements import Use, mapping
from thalweg.ingest.netflow.extract import STEP
from thalweg.ingest.netflow.options import INTERVAL_ELEMENTS, OptionsReader
from thalweg.ingest.netflow.templates import IPFIX, VARIABLE, Template
from thalweg.ingest.records import RECORD

NTOP: Final = 35632
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
    field with the exporter's start time. options: reads its options records, None if they change nothing. is_plain: its
    records are flows that are decoded alike for all exporters, but for their samplers.
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
    options: OptionsReader | None
    is_plain: bool

    @classmethod
    def of_options(cls, template: Template) -> DecodePlan:
        """Make the plan of an options template, whose records fill no columns."""
        empty = cls.of(Template(template.version, (), template.num_scope))
        return replace(empty, template=template, options=OptionsReader.of(template))

    @classmethod
    def of(cls, template: Template) -> DecodePlan:
        """Make the plan of a template; each column is filled by the field of the best rank."""
        offsets, at = [], 0
        for field in template.fields:
            offsets.append(at)
            at += 0 if field.length == VARIABLE else field.length
        chosen = _best_fields(template)
        steps: list[tuple[int, int, int, int, int]] = []

        def step(op: int, column: str, index: int, width: int, *, skip: int = 0, length: int = 0) -> None:
            slot = RECORD.fields[column][1] // width  # type: ignore[index]  # RECORD has fields
            size = length or template.fields[index].length
            steps.append((op, slot, skip if template.is_variable else offsets[index] + skip, size, index))

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
        for index in _other_fields("tcp_flags", template, chosen):
            step(extract.FLAGS, "tcp_flags", index, 2)
        known = 0
        for bit, column in ((1, "start"), (2, "end")):
            if column in chosen and chosen[column][1].unit in _TIMES:
                index, use = chosen[column]
                step(_TIMES[use.unit], f"{column}_us", index, 8)
                known |= bit
        if known != 3 and "duration" in chosen:
            index, use = chosen["duration"]
            op = extract.DURATION_MS if use.unit == "ms" else extract.DURATION_US
            step(op, "end_us" if known == 1 else "start_us", index, 8)
            known = 3 if known else 4
        if "icmp" in chosen:
            step(extract.PORT_IF_ICMP, "dst_port", chosen["icmp"][0], 2)
        elif "icmp_type" in chosen:
            step(extract.TYPE_IF_ICMP, "dst_port", chosen["icmp_type"][0], 2)
            if "icmp_code" in chosen:
                step(extract.CODE_IF_ICMP, "dst_port", chosen["icmp_code"][0], 2)
        sampled_by = next((name for name in ("sampler", "interface") if name in chosen), "")
        if sampled_by:
            step(extract.U64, "arrival_us", chosen[sampled_by][0], 8)
        if "event" in chosen:
            step(extract.U8, "continued", chosen["event"][0], 1)
        if "initiator" in chosen:
            step(extract.U8, "initiator", chosen["initiator"][0], 1)
        has_counts = any(column in chosen for column in ("fwd_bytes", "bwd_bytes", "fwd_packets"))
        is_flow = has_addresses and (has_counts or "event" in chosen) and not template.is_options
        has_uptimes = template.version == IPFIX and any(one[0] == extract.UPTIME for one in steps)
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
            options=None,
            is_plain=is_flow and not (template.is_variable or "event" in chosen or intervals or has_uptimes),
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


def _other_fields(column: str, template: Template, chosen: Mapping[str, tuple[int, Use]]) -> list[int]:
    """Return the other fields that fill a column; YAF sends the flags of the first packet and of the rest."""
    uses = mapping()
    return [
        index
        for index, field in enumerate(template.fields)
        if any(use.column == column for use in uses.get((field.pen, field.id), ()))
        and field.length
        and chosen[column][0] != index
    ]


def _address(template: Template, found: tuple[int, Use] | None, length: int) -> int | None:
    if found is None or template.fields[found[0]].length != length:
        return None
    return found[0]


def _best_fields(template: Template) -> dict[str, tuple[int, Use]]:
    """Return, by column, the field of the best rank and its use."""
    uses = mapping()
    has = {(field.pen, field.id) for field in template.fields}
    chosen: dict[str, tuple[int, Use]] = {}
    for index, field in enumerate(template.fields):
        for use in uses.get((field.pen, field.id), ()):
            if not field.length or not _applies(use, template, has):
                continue
            if use.column not in chosen or use.rank < chosen[use.column][1].rank:
                chosen[use.column] = index, use
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
