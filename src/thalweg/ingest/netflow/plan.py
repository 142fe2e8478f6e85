"""A template's fields -> what is done with each, by the table of elements and columns in mapping.csv."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

import numpy as np
import numpy.typing as npt

from thalweg.ingest.netflow import extract
from thalweg.ingest.netflow.elements import Use, mapping
from thalweg.ingest.netflow.extract import PLAN
from thalweg.ingest.netflow.options import ONE_IN, TOLD
from thalweg.ingest.netflow.templates import VARIABLE, Template
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
    "src_port": extract.PAIR,
    "dst_port": extract.PAIR,
    "tcp_flags": extract.PAIR,
    "protocol": extract.BYTE,
    "egress": extract.BYTE,
    "fwd_bytes": extract.WIDE,
    "fwd_packets": extract.WIDE,
    "bwd_bytes": extract.WIDE,
    "bwd_packets": extract.WIDE,
}
_COUNTERPARTS: Final[Mapping[tuple[int, int], tuple[int, int]]] = {(0, 232): (0, 231), (0, 299): (0, 298)}
"""What a responder sent, and what the initiator did."""


_ARRIVAL_SLOT: Final = RECORD.fields["arrival_us"][1] // 8  # type: ignore[index]  # RECORD has fields


@final
@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """How records of one template are read.

    steps: (P,) of PLAN, in the order to be done. known: 1 where there is a start, 2 an end, 3 both, 4 only a
    duration, which then stands in start_us, below zero. unsampled: the steps where no sampler is to be looked up.
    is_flow: whether they are flows at all. sampled_by: `sampler` or `interface`, whose number is in arrival_us
    until the records are finished; empty where there is none. has_event: whether `continued` holds, until then, a
    firewall's event. surely_two_way: whether the other direction is reported even where it had no packet. init: the
    field that says when the exporter started. tells: whether options of this template say something that later
    records are read by.
    """

    template: Template
    steps: npt.NDArray[np.void]
    unsampled: npt.NDArray[np.void]
    known: int
    is_flow: bool
    has_backward: bool
    surely_two_way: bool
    has_counts: bool
    has_event: bool
    has_direction: bool
    sampled_by: str
    init: int | None
    tells: bool

    @classmethod
    def of(cls, template: Template) -> Plan:
        """Choose the best field for every column."""
        offsets, at = [], 0
        for field in template.fields:
            offsets.append(at)
            at += 0 if field.length == VARIABLE else field.length
        chosen = _choose(template)
        steps: list[tuple[int, int, int, int, int]] = []

        def step(op: int, column: str, index: int, width: int, *, skip: int = 0, length: int = 0) -> None:
            slot = RECORD.fields[column][1] // width  # type: ignore[index]  # RECORD has fields
            size = length or template.fields[index].length
            steps.append((op, slot, skip if template.is_variable else offsets[index] + skip, size, index))

        addressed = True
        for side in ("src", "dst"):
            v6 = _address(template, chosen.get(f"{side}_v6"), 16)
            v4 = _address(template, chosen.get(f"{side}_v4"), 4)
            if v6 is not None:
                step(extract.WIDE, f"{side}_hi", v6, 8, length=8)
                step(extract.WIDE, f"{side}_lo", v6, 8, skip=8, length=8)
            if v4 is not None:
                step(extract.IPV4 if v6 is None else extract.IPV4_IF_ANY, f"{side}_lo", v4, 8)
            addressed &= v6 is not None or v4 is not None
        for column, op in _OPS.items():
            if column in chosen:
                index, _ = chosen[column]
                step(op, column, index, {extract.WIDE: 8, extract.BYTE: 1}.get(op, 2))
        for op, index in _sampling(template, chosen):
            step(op, "sampling", index, 2)
        for index in _others("tcp_flags", template, chosen):
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
            step(extract.WIDE, "arrival_us", chosen[sampled_by][0], 8)
        if "event" in chosen:
            step(extract.BYTE, "continued", chosen["event"][0], 1)
        if "initiator" in chosen:
            step(extract.BYTE, "initiator", chosen["initiator"][0], 1)
        has_counts = any(column in chosen for column in ("fwd_bytes", "bwd_bytes", "fwd_packets"))
        backward = [chosen[column] for column in ("bwd_bytes", "bwd_packets") if column in chosen]
        return cls(
            template=template,
            steps=np.array(steps, PLAN),
            unsampled=np.array([one for one in steps if one[1] != _ARRIVAL_SLOT or one[0] != extract.WIDE], PLAN),
            known=known,
            is_flow=addressed and (has_counts or "event" in chosen) and not template.is_options,
            has_backward=bool(backward),
            surely_two_way=any(not use.condition and _is_answer(template, index) for index, use in backward),
            has_counts=has_counts,
            has_event="event" in chosen,
            has_direction="initiator" in chosen,
            sampled_by=sampled_by,
            init=chosen["init"][0] if "init" in chosen else None,
            tells=any((field.pen, field.id) in TOLD for field in template.fields),
        )


def _sampling(template: Template, chosen: Mapping[str, tuple[int, Use]]) -> list[tuple[int, int]]:
    """Return what is done with which field, so that sampling is one packet in so many; see options.sampling_of."""
    of = {column: index for column, (index, _) in chosen.items()}
    if "sampling" in of and chosen["sampling"][1].unit == "packets" and "space" in of:
        return [(extract.INTERVAL, of["sampling"]), (extract.SPACE, of["space"])]
    if "sampling_size" in of and "sampling_population" in of:
        return [(extract.INTERVAL, of["sampling_size"]), (extract.POPULATION, of["sampling_population"])]
    one_in = (i for i, field in enumerate(template.fields) if (field.pen, field.id) in ONE_IN and field.length)
    return [(extract.INTERVAL, next(one_in, of["sampling"]))] if "sampling" in of else []


def _is_answer(template: Template, index: int) -> bool:
    """Tell whether a field counts the other direction: Huawei sends 232 without 231, and 0 in it, one way."""
    has = {(field.pen, field.id) for field in template.fields}
    counterpart = _COUNTERPARTS.get((template.fields[index].pen, template.fields[index].id))
    return counterpart is None or counterpart in has


def _others(column: str, template: Template, chosen: Mapping[str, tuple[int, Use]]) -> list[int]:
    """Return the other fields that fill a column: YAF has the flags of the first packet, and of the rest."""
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


def _choose(template: Template) -> dict[str, tuple[int, Use]]:
    """Return, by column, the index of the field with the lowest rank, and its use."""
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
    in_is_there = (0, 1) in has or (0, 2) in has
    answers = in_is_there and (template.version == 9 or any(pen == NTOP for pen, _ in has))
    match use.condition:
        case "":
            return True
        case "reverse":  # OUT_BYTES beside IN_BYTES is the other direction in v9 and with nProbe
            return answers
        case "forward":  # alone, it is what left the exporter
            return not in_is_there
        case other:
            raise AssertionError(f"mapping.csv: no condition {other!r}")
