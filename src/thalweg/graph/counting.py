"""Counting, compiled: the hashes that flows are counted by, the counts of a training and of a window.

Shapes: E flows, L levels of `familiarity.LEVELS`, H levels that are also counted in the window.

Written as the loops of `compiled`: rows `begin` to `end` of the last arguments are filled.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from thalweg.graph.compiled import scatter
from thalweg.loops import compiled

NUM_TABLED: Final = 65_536
"""Logarithms of whole numbers below this are looked up."""


@compiled(inline=True)
def _amount_key(amount: Any, step: float, place: int) -> Any:
    return scatter(np.uint64(np.int64(np.rint(amount * np.float32(step)))) + (np.uint64(place) << np.uint64(40)))


@compiled()
def level_keys(src: Any, dst: Any, amounts: Any, keys: Any, begin: int, end: int) -> None:
    """Hash what flows are counted by, at each level of `familiarity.LEVELS`.

    src, dst: (E,) int64 `host_keys`; amounts: (E, 3) float32. keys: (E, L) uint64, rows filled.
    """
    for i in range(begin, end):
        fwd = _amount_key(amounts[i, 0], 256.0, 1)
        bwd = _amount_key(amounts[i, 1], 256.0, 2)
        duration = _amount_key(amounts[i, 2], 16.0, 3)
        both = scatter(fwd ^ scatter(bwd))
        source = scatter(np.uint64(src[i]) ^ np.uint64(1))
        sink = scatter(np.uint64(dst[i]) ^ np.uint64(2))
        channel = scatter(source ^ scatter(sink))
        keys[i, 0], keys[i, 1], keys[i, 2] = fwd, bwd, both
        keys[i, 3] = scatter(both ^ duration)
        keys[i, 4], keys[i, 5], keys[i, 6] = source, sink, channel
        keys[i, 7] = scatter(source ^ both)
        keys[i, 8] = scatter(sink ^ both)
        keys[i, 9] = scatter(channel ^ both)


@compiled()
def fill_table(key: Any, count: Any, slot_key: Any, slot_count: Any) -> None:
    """Put counts under their keys. key: (V,) uint64; count: (V,). The slots: a power of two, counts all 0."""
    mask = np.uint64(len(slot_key) - 1)
    for v in range(len(key)):
        at = key[v] & mask
        while slot_count[at] > 0:
            at = (at + np.uint64(1)) & mask
        slot_key[at], slot_count[at] = key[v], count[v]


@compiled()
def look_up(keys: Any, level: int, slot_key: Any, slot_count: Any, found: Any, begin: int, end: int) -> None:
    """Find the counts of one level, 0 where there is none. keys: (E, L) uint64; found: (E, L), one column filled."""
    mask = np.uint64(len(slot_key) - 1)
    for i in range(begin, end):
        key = keys[i, level]
        at = key & mask
        while slot_count[at] > 0 and slot_key[at] != key:
            at = (at + np.uint64(1)) & mask
        found[i, level] = slot_count[at]


@compiled()
def count_here(keys: Any, level: int, here: Any, column: int) -> None:
    """Count how often each flow's key of one level occurs among all. here: (E, H) float32, one column filled."""
    num = len(keys)
    num_slots = 1024
    while num_slots < 2 * num:
        num_slots *= 2
    mask = np.uint64(num_slots - 1)
    slot_key = np.zeros(num_slots, np.uint64)
    slot_count = np.zeros(num_slots, np.int32)
    slot = np.empty(num, np.uint32)
    for i in range(num):
        key = keys[i, level]
        at = key & mask
        while slot_count[at] > 0 and slot_key[at] != key:
            at = (at + np.uint64(1)) & mask
        slot_key[at] = key
        slot_count[at] += 1
        slot[i] = np.uint32(at)
    for i in range(num):
        here[i, column] = slot_count[slot[i]]


@compiled(inline=True)
def _of_whole(value: Any, tabled: Any) -> Any:
    # tabled: of 0, 1, 2, …; value: a whole number.
    return tabled[np.int64(value)] if value < len(tabled) else np.float32(math.log1p(value))


@compiled()
def tell(
    met: Any, here: Any, ratio: float, log1p: Any, log1p_expected: Any, met_place: Any, surge_place: Any,
    here_place: Any, here_level: Any, scale: float, out: Any, begin: int, end: int,
) -> None:  # fmt: skip
    """Put side by side what each flow met, how far the rates differ, and how many are here; see `features`.

    met: (E, L) and here: (E, H) counts; ratio: window's flows over training's; log1p, log1p_expected: (T,) of whole
    numbers, the latter of them times the ratio; …_place: the column of each in `out`; here_level: (H,) its place in L.
    out: (E, L + 2H) float32, rows filled.
    """
    for i in range(begin, end):
        for level in range(met.shape[1]):
            out[i, met_place[level]] = np.float32(scale) * _of_whole(met[i, level], log1p)
        for h in range(here.shape[1]):
            now = _of_whole(here[i, h], log1p)
            count = met[i, here_level[h]]
            if count < len(log1p_expected):
                expected = log1p_expected[np.int64(count)]
            else:
                expected = np.float32(math.log1p(count * ratio))
            out[i, surge_place[h]] = np.float32(scale) * (now - expected)
            out[i, here_place[h]] = np.float32(scale) * now
