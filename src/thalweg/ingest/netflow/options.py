"""Options records, in which an exporter describes itself: how it samples and when it started."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final, final

from thalweg.ingest.netflow.templates import SCOPE, VARIABLE, Template

Values = dict[tuple[int, int], bytes]
"""The fields of a record by (enterprise number, element id); the last one if an element occurs twice."""

INTERVAL_ELEMENTS: Final = ((0, 50), (0, 34))
"""The elements that state an interval: one packet in this many was sampled."""
DECODING_ELEMENTS: Final = frozenset({*INTERVAL_ELEMENTS, (0, 305), (0, 309), (0, 311), (0, 160)})
"""The elements of options records that change how data records are decoded."""
_INTERFACES: Final = ((SCOPE, 2), (0, 10), (0, 141))
INTERFACE_BASE: Final = 1 << 32
"""Added to an interface number to make the key of the sampler on that interface."""
WHOLE_EXPORTER: Final = 1 << 33
"""The sampler key of options that name no sampler, and so hold for the whole exporter."""
MAX_SAMPLERS: Final = 1_024
"""Samplers of one exporter."""
MAX_RECORDS_READ: Final = 2 * MAX_SAMPLERS
"""Options records read in one set; samplers of more records would be refused."""


def records_in(content: bytes, template: Template) -> Iterator[list[bytes]]:
    """Yield the fields of each complete record in a data set, in the template's order.

    Source: RFC 7011 sections 3.4.3 and 7.
    """
    at = 0
    least = max(template.least_length, 1)
    while at + least <= len(content):
        fields = []
        for field in template.fields:
            length = field.length
            if length == VARIABLE:
                if at >= len(content):
                    return
                length = content[at]
                at += 1
                if length == 255:
                    if at + 2 > len(content):
                        return
                    (length,) = struct.unpack_from(">H", content, at)
                    at += 2
            if at + length > len(content):
                return
            fields.append(content[at : at + length])
            at += length
        yield fields


@final
class Sampling:
    """The sampling in one options record. interval: one packet in this many; sampler: its key, None for all."""

    __slots__ = ("interval", "sampler")

    def __init__(self, interval: int, sampler: int | None) -> None:
        self.interval = interval
        self.sampler = sampler


def values_of(template: Template, fields: list[bytes]) -> Values:
    """Return the fields of a record by enterprise number and element id."""
    return {(field.pen, field.id): value for field, value in zip(template.fields, fields, strict=True)}


def sampling_of(values: Values) -> Sampling | None:
    """Return the sampling that an options record states, None if it states none.

    IE 34 and 50: one packet in this many. 305 and 306: packets sampled, then packets skipped; 305 alone means the same
    as 34. 309 and 310: packets sampled, out of this many. 311: sampling probability.
    Source: RFC 5477; RFC 3954 section 8.
    """

    def number(id_: int) -> int:
        found = values.get((0, id_))
        return int.from_bytes(found, "big") if found and len(found) <= 8 else 0

    interval = 0
    if number(305) and (0, 306) in values:
        interval = round((number(305) + number(306)) / number(305))
    elif number(309):
        interval = round(number(310) / number(309))
    elif found := values.get((0, 311)):
        probability: Any = struct.unpack(">f" if len(found) == 4 else ">d", found)[0] if len(found) in (4, 8) else 0.0
        interval = round(1 / probability) if 0 < probability <= 1 and probability > 1e-9 else 0
    interval = interval or number(50) or number(34) or number(305)
    if not 0 < interval < 1 << 32:
        return None
    for id_ in (302, 48):
        if found := values.get((0, id_)):
            return Sampling(interval, int.from_bytes(found, "big") & 0xFFFF_FFFF)
    for key in _INTERFACES:
        if found := values.get(key):
            return Sampling(interval, INTERFACE_BASE + (int.from_bytes(found, "big") & 0xFFFF_FFFF))
    return Sampling(interval, None)
