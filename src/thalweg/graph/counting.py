"""Compiled loops of `familiarity`: hash flows, look up training counts, count a window, write features.

Shapes: E flows, L levels of `familiarity.LEVELS`, H levels that are also counted in the window.

As in `compiled`, a loop with `begin` and `end` fills only these flows of its output arguments. Keys and counts have one
row per level, since each level is read on its own.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from thalweg.graph.compiled import mix64
from thalweg.runtime.jit import compiled

NUM_TABLED: Final = 65_536
"""Logarithms of whole numbers below this are looked up in a table."""


@compiled(inline=True)
def _amount_key(amount: Any, step: float, place: int) -> Any:
    return mix64(np.uint64(np.int64(np.rint(amount * np.float32(step)))) + (np.uint64(place) << np.uint64(40)))


@compiled()
def level_keys(src: Any, dst: Any, amounts: Any, keys: Any, begin: int, end: int) -> None:
    """Hash each flow's key at each level of `familiarity.LEVELS`.

    src, dst: (E,) int64 `host_keys`; amounts: (E, 3) float32. keys: (L, E) uint64, columns filled.
    """
    source = sink = channel = np.uint64(0)
    for i in range(begin, end):
        # If flows are sorted by channel, the hosts of a channel are hashed once.
        if i == begin or src[i] != src[i - 1] or dst[i] != dst[i - 1]:
            source = mix64(np.uint64(src[i]) ^ np.uint64(1))
            sink = mix64(np.uint64(dst[i]) ^ np.uint64(2))
            channel = mix64(source ^ mix64(sink))
        fwd = _amount_key(amounts[i, 0], 256.0, 1)
        bwd = _amount_key(amounts[i, 1], 256.0, 2)
        duration = _amount_key(amounts[i, 2], 16.0, 3)
        both = mix64(fwd ^ mix64(bwd))
        keys[0, i], keys[1, i], keys[2, i] = fwd, bwd, both
        keys[3, i] = mix64(both ^ duration)
        keys[4, i], keys[5, i], keys[6, i] = source, sink, channel
        keys[7, i] = mix64(source ^ both)
        keys[8, i] = mix64(sink ^ both)
        keys[9, i] = mix64(channel ^ both)


def table(key: npt.NDArray[np.uint64], count: npt.NDArray[np.number]) -> npt.NDArray[np.uint64]:
    """Build a hash table of counts for `look_up`. key, count: (V,), counts from 1 to 2^32 - 1.

    A slot holds the upper half of a key and its count, so that a table is half as large and twice as much of it stays
    in the cache. The lower half of a key chooses the slot. A key that is not in the table matches an occupied slot by
    chance once in 2^32. Returns: (S,) slots, S a power of two, or 0 if V is 0; a free slot is 0.
    """
    slots = np.zeros(1 << (2 * len(key)).bit_length() if len(key) else 0, np.uint64)
    _fill(key, count.astype(np.uint64), slots)
    return slots


@compiled()
def _fill(key: Any, count: Any, slots: Any) -> None:
    mask = np.uint64(len(slots) - 1)
    for v in range(len(key)):
        at = key[v] & mask
        while slots[at] != 0:
            at = (at + np.uint64(1)) & mask
        slots[at] = ((key[v] >> np.uint64(32)) << np.uint64(32)) | count[v]


@compiled()
def look_up(key: Any, slots: Any, found: Any, begin: int, end: int) -> None:
    """Look up the counts of keys, 0 for an absent one. key: (E,) uint64; slots: see `table`. found: (E,) float32."""
    mask = np.uint64(len(slots) - 1)
    last, count = np.uint64(0), np.float32(0)
    for i in range(begin, end):
        # If flows are sorted by channel, a key often equals the one before.
        if i == begin or key[i] != last:
            last = key[i]
            at, upper = last & mask, last >> np.uint64(32)
            slot = slots[at]
            while slot != 0 and slot >> np.uint64(32) != upper:
                at = (at + np.uint64(1)) & mask
                slot = slots[at]
            count = np.float32(slot & np.uint64(0xFFFFFFFF))
        found[i] = count


@compiled()
def count_in_window(key: Any, times: Any, here: Any) -> None:
    """Count how often each flow's key of one level occurs in the window.

    key: (E,) uint64; times: (E,) int32, how often each counts. here: (E,) float32, filled.
    """
    # A small table fits into the cache; if the keys turn out to be too many for it, counting restarts with a large one.
    if not _count_up_to(key, times, here, 4096):
        _count_up_to(key, times, here, len(key))


@compiled()
def _count_up_to(key: Any, times: Any, here: Any, most: int) -> Any:
    """Count, but give up at more than `most` different keys. Returns: whether all were counted."""
    num_slots = 1024
    while num_slots < 2 * most:
        num_slots *= 2
    mask = np.uint64(num_slots - 1)
    slot_key = np.zeros(num_slots, np.uint64)
    slot_count = np.zeros(num_slots, np.int32)
    slot = np.empty(len(key), np.uint32)
    num_different = 0
    for i in range(len(key)):
        at = key[i] & mask
        while slot_count[at] > 0 and slot_key[at] != key[i]:
            at = (at + np.uint64(1)) & mask
        if slot_count[at] == 0:
            if num_different == most:
                return False
            num_different += 1
            slot_key[at] = key[i]
        slot_count[at] += times[i]
        slot[i] = np.uint32(at)
    for i in range(len(key)):
        here[i] = slot_count[slot[i]]
    return True


@compiled(inline=True)
def _log1p_of_whole(value: Any, tabled: Any) -> Any:
    # tabled: log1p of 0, 1, 2, …; value: a whole number.
    return tabled[np.int64(value)] if value < len(tabled) else np.float32(math.log1p(value))


@compiled()
def write_features(
    flow_counts: Any, here: Any, ratio: float, log1p: Any, log1p_expected: Any, count_place: Any, surge_place: Any,
    here_place: Any, here_level: Any, scale: float, out: Any, begin: int, end: int,
) -> None:  # fmt: skip
    """Write each flow's training counts, surges and window counts; see `Familiarity.append_features`.

    flow_counts: (L, E) training counts; here: (H, E) window counts; ratio: the window's flows over the training's;
    log1p: (T,) of 0, 1, 2, …; log1p_expected: (T,) of these times the ratio; …_place: the column of each in `out`;
    here_level: (H,) the index of each in L; scale: factor of every feature.
    out: (E, …) float32, rows filled at these columns.
    """
    for i in range(begin, end):
        for level in range(len(flow_counts)):
            out[i, count_place[level]] = np.float32(scale) * _log1p_of_whole(flow_counts[level, i], log1p)
        for h in range(len(here)):
            now = _log1p_of_whole(here[h, i], log1p)
            count = flow_counts[here_level[h], i]
            if count < len(log1p_expected):
                expected = log1p_expected[np.int64(count)]
            else:
                expected = np.float32(math.log1p(count * ratio))
            out[i, surge_place[h]] = np.float32(scale) * (now - expected)
            out[i, here_place[h]] = np.float32(scale) * now
