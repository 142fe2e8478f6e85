"""Templates that describe a tunnel: which of their fields are of the outer header, and which of the inner one."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Final

from thalweg.ingest.netflow.elements import Use, mapping
from thalweg.ingest.netflow.templates import Template

_PARTS: Final = {"src_v4": "src", "src_v6": "src", "dst_v4": "dst", "dst_v6": "dst"}
_HEADER: Final = ("src", "dst", "src_port", "dst_port", "protocol", "icmp", "icmp_type", "icmp_code")
"""The parts of a header by which a template shows that it has more than one: an element of these stands twice."""
_ALSO: Final = ("tcp_flags",)
"""Parts that every header may have."""
_COUNTS: Final = ("fwd_bytes", "fwd_packets", "bwd_bytes", "bwd_packets")
"""Counts, which belong to a header only if each header has them."""
_ALL: Final = {*_HEADER, *_ALSO, *_COUNTS}

_MAX_HEADERS: Final = 3
"""Headers of one template, which costs a plan for each; no exporter describes more."""

Part = tuple[str, int]
"""A part of a header, and the rank of the elements that state it."""


def fields_of_others(template: Template) -> list[frozenset[int]]:
    """Return, for each packet header that a template describes, the fields of the other headers; the outermost first.

    Headers that cannot be a flow's are left out: a flow needs both addresses, and a protocol if any header has one. If
    a template describes only one header, or too many, the list is empty.
    Source: RFC 7011 section 8: elements that stand twice are in the order in which they are in the packet.
    """
    elements = [(field.pen, field.id) for field in template.fields]
    if len(set(elements)) == len(elements):
        return []
    parts: dict[Part, list[int]] = defaultdict(list)
    for i, field in enumerate(template.fields):
        if field.length and (use := _use(elements[i])) is not None:
            parts[_PARTS.get(use.column, use.column), use.rank].append(i)
    num = max((_most(places, elements) for (name, _), places in parts.items() if name in _HEADER), default=1)
    if not 1 < num <= _MAX_HEADERS:
        return []
    header: dict[int, int] = {}
    for places in parts.values():
        header |= _by_occurrence(places, elements, num)
    begins = [min((i for i, of in header.items() if of == nth), default=0) for nth in range(num)]
    for (name, _), places in parts.items():
        if name not in _COUNTS:  # what stands once belongs to the header that has begun
            header |= {i: max(sum(begin <= i for begin in begins) - 1, 0) for i in places if i not in header}
    found = [frozenset(i for i, of in header.items() if of == nth) for nth in range(num)]
    has = [{name for (name, _), places in parts.items() if not fields.isdisjoint(places)} for fields in found]
    needed = {"src", "dst"} | ({"protocol"} if any("protocol" in names for names in has) else set())
    return [frozenset(header) - fields for fields, names in zip(found, has, strict=True) if needed <= names]


def _use(element: tuple[int, int]) -> Use | None:
    return next((use for use in mapping().get(element, ()) if _PARTS.get(use.column, use.column) in _ALL), None)


def _most(places: list[int], elements: list[tuple[int, int]]) -> int:
    """Return how often the most frequent element at some places stands there."""
    return max(Counter(elements[i] for i in places).values())


def _by_occurrence(places: list[int], elements: list[tuple[int, int]], num: int) -> dict[int, int]:
    """Return the header of each place of one part, if the part stands in each of `num` headers, else nothing.

    Addresses may be of another family in each header, or of both in each.
    """
    if len(places) == num:
        return {i: nth for nth, i in enumerate(places)}
    if _most(places, elements) < num:
        return {}
    seen: Counter[tuple[int, int]] = Counter()
    header: dict[int, int] = {}
    for i in places:
        header[i] = seen[elements[i]]
        seen[elements[i]] += 1
    return header
