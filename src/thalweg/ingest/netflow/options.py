"""Options records, in which an exporter describes itself: how it samples and when it started."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from thalweg.ingest.netflow.extract import is_swapped
from thalweg.ingest.netflow.templates import SCOPE, VARIABLE, Template
from thalweg.runtime.jit import compiled

INTERVAL_ELEMENTS: Final = ((0, 50), (0, 34))
"""The elements that state an interval: one packet in this many was sampled."""
DECODING_ELEMENTS: Final = frozenset({*INTERVAL_ELEMENTS, (0, 305), (0, 309), (0, 311), (0, 160)})
"""The elements of options records that change how data records are decoded."""
INTERFACE_BASE: Final = 1 << 32
"""Added to an interface number to make the key of the sampler on that interface."""
WHOLE_EXPORTER: Final = 1 << 33
"""The sampler key of options that name no sampler, and so hold for the whole exporter."""
MAX_SAMPLERS: Final = 1_024
"""Samplers of one exporter."""
_MAX_RECORDS_READ: Final = 2 * MAX_SAMPLERS
"""Options records read in one set; samplers of more records would be refused."""

_READ: Final = (
    (0, 160), (0, 34), (0, 50), (0, 305), (0, 306), (0, 309), (0, 310), (0, 311),
    (0, 302), (0, 48), (SCOPE, 2), (0, 10), (0, 141),
)  # fmt: skip
"""The elements that are read: (enterprise number, element id)."""
_STARTED, _I34, _I50, _TAKEN, _SKIPPED, _SIZE, _POPULATION, _PROBABILITY, _SAMPLER, _INTERFACE, _END = (
    0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 13
)  # fmt: skip
"""Their places in _READ: those from _SAMPLER on name a sampler, those from _INTERFACE on an interface."""


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
@dataclass(frozen=True, slots=True, eq=False)
class Stated:
    """What the options records of one template state.

    intervals: one packet in so many, by sampler. init_ms: when the exporter started, None if they do not state it.
    num_disbelieved: intervals that are too large to be meant.
    """

    intervals: dict[int, int]
    init_ms: int | None
    num_disbelieved: int


@final
@dataclass(frozen=True, slots=True, eq=False)
class OptionsReader:
    """Reads the options records of one template.

    lengths: (F,) of the fields that are not empty. places: (P,) the index of each element of _READ in these, -1 if the
    template has none; the last one if an element occurs twice. least: bytes of the shortest record.
    """

    lengths: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]
    least: int

    @classmethod
    def of(cls, template: Template) -> OptionsReader | None:
        """Find the elements in a template; None if none of them changes how data records are decoded."""
        pens, ids, numbers = zip(*template.fields, strict=True)
        last = dict(zip(zip(pens, ids, strict=True), range(len(ids)), strict=True))
        if DECODING_ELEMENTS.isdisjoint(last):
            return None
        lengths = np.array(numbers, np.int64)
        index = np.cumsum(lengths > 0) - 1
        index[lengths == 0] = -1
        places = np.array([index[last[one]] if one in last else -1 for one in _READ], np.int64)
        return cls(lengths[lengths > 0], places, template.least_length)

    def read(self, buffer: npt.NDArray[np.uint8], sets: npt.NDArray[np.void]) -> Stated:
        """Read the records of data sets, in order; of the intervals of one sampler the last one counts."""
        most = np.minimum((sets["end"] - sets["begin"]) // self.least, _MAX_RECORDS_READ).sum()
        samplers, intervals = np.empty((2, int(most)), np.int64)
        num, num_disbelieved, has_init, init_ms = _read(
            buffer, sets, self.lengths, self.places, self.least, samplers, intervals
        )
        stated = dict(zip(samplers[:num].tolist(), intervals[:num].tolist(), strict=True))
        return Stated(stated, int(init_ms) if has_init else None, num_disbelieved)


@compiled()
def _read(buffer: Any, sets: Any, lengths: Any, places: Any, least: Any, samplers: Any, intervals: Any) -> Any:
    """Fill the sampler and interval of each record that states one.

    Returns: their number; intervals that are not believed; whether a start is stated, and the last one.

    IE 34 and 50: one packet in this many. 305 and 306: packets sampled, then packets skipped; 305 alone means the same
    as 34. 309 and 310: packets sampled, out of this many. 311: sampling probability.
    Source: RFC 5477; RFC 3954 section 8; RFC 7011 section 7 (lengths).
    """
    num, num_disbelieved, has_init, init_ms = 0, 0, False, np.uint64(0)
    begins, sizes = np.zeros(len(lengths), np.int64), np.zeros(len(lengths), np.int64)
    values, present = np.zeros(_END, np.uint64), np.zeros(_END, np.int64)
    bits = np.zeros(1, np.uint64)
    for s in range(len(sets)):
        at, end = np.int64(sets[s].begin), np.int64(sets[s].end)
        for _ in range(_MAX_RECORDS_READ):
            if at + least > end:
                break
            for f in range(len(lengths)):
                size = lengths[f]
                if size == VARIABLE:
                    if at >= end:
                        at = end + 1
                        break
                    size = np.int64(buffer[at])
                    at += 1
                    if size == 255:
                        if at + 2 > end:
                            at = end + 1
                            break
                        size = (np.int64(buffer[at]) << 8) | np.int64(buffer[at + 1])
                        at += 2
                begins[f], sizes[f] = at, size
                at += size
                if at > end:
                    break
            if at > end:
                break
            for p in range(_END):
                values[p], present[p] = np.uint64(0), 0
                if places[p] >= 0:
                    present[p] = sizes[places[p]]
                    last = begins[places[p]] + present[p]
                    for i in range(max(begins[places[p]], last - 8), last):
                        values[p] = (values[p] << np.uint64(8)) | np.uint64(buffer[i])
            if present[_STARTED]:
                has_init, init_ms = True, values[_STARTED]
            is_doubtful = False
            for p in range(_I34, _PROBABILITY):
                if present[p] > 8:
                    values[p] = np.uint64(0)  # no number is as long
                is_doubtful |= is_swapped(values[p])
            if is_doubtful:
                num_disbelieved += 1
                continue
            interval = 0.0
            if values[_TAKEN] and present[_SKIPPED]:
                interval = np.rint(np.float64(values[_SKIPPED]) / np.float64(values[_TAKEN]) + 1.0)
            elif values[_SIZE]:
                interval = np.rint(np.float64(values[_POPULATION]) / np.float64(values[_SIZE]))
            elif present[_PROBABILITY] == 8 or present[_PROBABILITY] == 4:
                bits[0] = values[_PROBABILITY]
                probability = bits.view(np.float64)[0]
                if present[_PROBABILITY] == 4:
                    probability = np.float64(bits.view(np.float32)[0])  # the machine is little endian
                if 1e-9 < probability <= 1:
                    interval = np.rint(1 / probability)
            if interval == 0:
                for p in (_I50, _I34, _TAKEN):
                    if values[p]:
                        interval = np.float64(values[p])
                        break
            if interval >= 2**32:
                num_disbelieved += 1
            if not 0 < interval < 2**32:
                continue
            sampler = np.int64(WHOLE_EXPORTER)
            for p in range(_SAMPLER, _END):
                if present[p]:
                    sampler = np.int64(values[p] & np.uint64(0xFFFF_FFFF))
                    if p >= _INTERFACE:
                        sampler += INTERFACE_BASE
                    break
            samplers[num], intervals[num] = sampler, np.int64(interval)
            num += 1
    return num, num_disbelieved, has_init, init_ms
