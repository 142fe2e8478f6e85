"""How familiar a flow is: how many hosts sent its amounts in training, and how often its hosts and channel occurred.

Shapes: E flows, M levels, H levels that are also counted in the window, F own attributes of a flow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Final, Self, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from thalweg.errors import ConfigError
from thalweg.graph import counting
from thalweg.graph.hosts import check_keys
from thalweg.runtime import buffers
from thalweg.runtime.parallel import even_ranges, parallel_for, parallel_map

Keys = npt.NDArray[np.int64]
FlowKeys = npt.NDArray[np.uint64]

LEVELS: Final = (
    "fwd", "bwd", "fwd_bwd", "amounts", "src", "dst", "channel", "src_amounts", "dst_amounts", "channel_amounts",
)  # fmt: skip
"""What flows are counted by: bytes each way, both together, both with the duration; hosts; bytes with hosts."""

NUM_OF_AMOUNTS: Final = 4
"""How many levels hold no address. They come first, and count sources: a habit of one host is not the network's."""
OF_SRC: Final = (4, 6, 7, 9)
"""Levels that hold the source, by index in LEVELS."""
OF_DST: Final = (5, 6, 8, 9)
"""Levels that hold the destination, by index in LEVELS."""

_SRC_AMOUNTS: Final = 7

_WINDOW_LEVELS: Final = (2, 4, 5, 6, 7, 8)
"""Levels that are also counted in the window itself, by index in LEVELS."""
_SHARED_LEVELS, _SHARED_SURGES = (2, 6, 7, 8, 9), (0, 4, 5)
"""What hosts and channels also receive, by index in LEVELS and in _WINDOW_LEVELS. The counts of a host itself are not
among them, since they add nothing to what is known of it."""

NUM_SHARED: Final = len(_SHARED_LEVELS) + len(_SHARED_SURGES)
"""How many of the features, the first ones, hosts and channels also receive; only the decoder sees the rest."""
NUM_FEATURES: Final = len(LEVELS) + 2 * len(_WINDOW_LEVELS)

_MOST_KEYS: Final = 262_144
_LARGEST_COUNT: Final = np.log1p(np.float32(2**32 - 1))
"""See `counting.table`."""

_FEW: Final = 4_096
"""One thread counts windows of up to this many flows."""


@final
class Familiarity:
    """Counts of the training flows at each of LEVELS; a key that training did not see counts 0.

    keys: one sorted (V_l,) int64 array per level: 64-bit hashes. counts: (V_l,) float32, log1p of the number of
    sources at levels without an address, of flows at the others. num_flows: how many flows were counted.
    use_addresses: whether hosts may be distinguished. If not, levels without an address count flows, and the others
    count nothing.
    """

    def __init__(
        self,
        keys: Sequence[Keys],
        counts: Sequence[npt.NDArray[np.float32]],
        num_flows: int,
        *,
        use_addresses: bool = True,
    ) -> None:
        self.keys, self.counts, self.num_flows = tuple(keys), tuple(counts), num_flows
        self.use_addresses = use_addresses

    @classmethod
    def fit(
        cls,
        src: Keys,
        dst: Keys,
        amounts: npt.NDArray[np.float32],
        learned: npt.NDArray[np.bool_],
        *,
        use_addresses: bool = True,
        num_blocks: int = 16,
        max_size: int = _MOST_KEYS,
    ) -> tuple[Self, npt.NDArray[np.float32]]:
        """Count the flows that `learned` marks; each level keeps its `max_size` most frequent keys.

        No flow may vouch for itself, so the counts returned for each flow leave some flows out: those of its own source
        at levels without an address, and those of its own block of neighbours in time at the others. A whole block,
        because the flows of one session are hardly independent witnesses.

        src, dst: (E,) `host_keys` of the hosts; amounts: (E, 3) log1p of forward bytes, backward bytes and duration;
        learned: (E,) bool. Returns: the familiarity; (M, E) float32 counts for each flow.
        """
        num = len(src)
        block = np.arange(num) * num_blocks // max(num, 1)
        sources, source = np.unique(src, return_inverse=True)
        keys, counts, flow_counts = [], [], np.zeros((len(LEVELS), num), np.float32)
        for level, key in enumerate(flow_keys(src, dst, amounts).view(np.int64)):
            unique, at = np.unique(key, return_inverse=True)
            if not use_addresses and level >= NUM_OF_AMOUNTS:
                keys.append(np.zeros(0, np.int64))
                counts.append(np.zeros(0, np.float32))
                continue
            of_amounts = level < NUM_OF_AMOUNTS and use_addresses
            part, num_parts = (source, len(sources)) if of_amounts else (block, num_blocks)
            pairs, pair = np.unique(at * max(num_parts, 1) + part, return_inverse=True)
            own = np.bincount(pair[learned], minlength=len(pairs))
            if of_amounts:
                own = np.minimum(own, 1)
            total = np.zeros(len(unique), np.int64)
            np.add.at(total, pairs // max(num_parts, 1), own)
            flow_counts[level] = total[at] - own[pair]
            most = np.argsort(-total, kind="stable")[:max_size]
            kept = np.sort(most[total[most] > 0])
            keys.append(unique[kept])
            counts.append(np.log1p(total[kept]).astype(np.float32))
        return cls(keys, counts, int(learned.sum()), use_addresses=use_addresses), flow_counts

    def lookup(self, keys: FlowKeys) -> npt.NDArray[np.float32]:
        """Return the training counts of flows. keys: (M, E), see `flow_keys`. Returns: (M, E) float32.

        If the flow's own source sent its bytes in training, levels without an address count one source less.
        """
        flow_counts = buffers.array(*keys.shape)

        def some(begin: int, end: int) -> None:
            for key, slots, found in zip(keys, self._tables, flow_counts, strict=True):
                if len(slots):
                    counting.look_up(key, slots, found, begin, end)
                else:
                    found[begin:end] = 0
            if self.use_addresses:
                others = flow_counts[:NUM_OF_AMOUNTS, begin:end]
                np.maximum(others - (flow_counts[_SRC_AMOUNTS, begin:end] > 0), 0, out=others)

        parallel_for(some, keys.shape[1])
        return flow_counts

    @cached_property
    def _tables(self) -> list[FlowKeys]:
        return [
            counting.table(key.view(np.uint64), np.rint(np.expm1(count.astype(np.float64))))
            for key, count in zip(self.keys, self.counts, strict=True)
        ]

    def copy_counts(
        self,
        rng: np.random.Generator,
        flow_counts: npt.NDArray[np.float32],
        keys: FlowKeys,
        num_real: int,
    ) -> None:
        """Give invented flows the counts of a random real flow with the same key, at the levels that hold an address.

        The counts of a real flow leave out its own block (see `fit`). With the full counts, an invented flow of a
        known host would have a larger count than any real flow of that host, and a model could recognise it.

        flow_counts: (M, E) counts, changed in place; keys: (M, E), of the whole window, the real flows first.
        """
        for level, key in enumerate(keys.view(np.int64)):
            if level < NUM_OF_AMOUNTS:
                continue
            order = np.argsort(key[:num_real], kind="stable")
            real, invented = key[:num_real][order], key[num_real:]
            low, high = (np.searchsorted(real, invented, side=side) for side in ("left", "right"))
            there = np.flatnonzero(high > low)
            like = low[there] + (rng.random(len(there)) * (high - low)[there]).astype(np.int64)
            flow_counts[level, num_real + there] = flow_counts[level, order[like]]

    def append_features(
        self,
        attr: npt.NDArray[np.float32],
        flow_counts: npt.NDArray[np.float32],
        keys: FlowKeys,
        times: npt.NDArray[np.int32] | None = None,
    ) -> npt.NDArray[np.float32]:
        """Append to the flows' own attributes their training counts, their window counts and their surges.

        A surge is the logarithm of (1 + flows in the window) / (1 + flows expected at the training's rate): an attack
        whose every flow looks usual still has more flows than usual. One is added at the window's own scale, so that
        ten flows of an unknown host are equally surprising in a small window and in a large one. For amounts, the
        number of sources stands for the number of flows in training.

        attr: (E, F); flow_counts: (M, E) counts, as from `lookup`; keys: (M, E), of the whole window; times: (E,)
        int32, how many flows each edge stands for, by default one.
        Returns: (E, F + NUM_FEATURES) float32, scaled to suit a network; hosts and channels receive the first
        F + NUM_SHARED.
        """
        num, num_own = attr.shape
        here = buffers.array(len(_WINDOW_LEVELS), num)
        times = np.ones(num, np.int32) if times is None else times

        def count(begin: int, end: int) -> None:
            for i in range(begin, end):
                counting.count_in_window(keys[_WINDOW_LEVELS[i]], times, here[i])

        parallel_map(count, even_ranges(len(_WINDOW_LEVELS), 1 if num > _FEW else len(_WINDOW_LEVELS)))
        ratio = max(int(times.sum()), 1) / max(self.num_flows, 1)
        out = buffers.array(num, num_own + NUM_FEATURES)
        log1p_expected = np.log1p(_WHOLE * ratio).astype(np.float32)
        count_place, surge_place, here_place = (num_own + place for place in _PLACES)

        def some(begin: int, end: int) -> None:
            out[begin:end, :num_own] = attr[begin:end]
            counting.write_features(
                flow_counts, here, ratio, _LOG1P, log1p_expected, count_place, surge_place, here_place,
                _WINDOW_LEVELS_ARRAY, 0.25, out, begin, end,
            )  # fmt: skip

        parallel_for(some, num)
        return out

    def tensors(self) -> dict[str, Tensor]:
        """Return keys and counts, for a model file."""
        keys = {f"keys.{level}": torch.from_numpy(key) for level, key in enumerate(self.keys)}
        return keys | {f"counts.{level}": torch.from_numpy(count) for level, count in enumerate(self.counts)}

    @classmethod
    def restore(cls, tensors: Mapping[str, Tensor], num_flows: int, *, use_addresses: bool = True) -> Self:
        """Return the familiarity whose `tensors()` these are. Raises ConfigError if they fit together in no way."""
        if num_flows < 0:
            raise ConfigError(f"the number of flows that were counted is not negative: {num_flows}")
        keys = [tensors[f"keys.{i}"].numpy() for i in range(len(LEVELS))]
        counts = [tensors[f"counts.{i}"].numpy() for i in range(len(LEVELS))]
        for level, (key, count) in enumerate(zip(keys, counts, strict=True)):
            check_keys(key, _MOST_KEYS, f"familiarity.keys.{level}")
            if count.shape != key.shape or count.dtype != np.float32:
                raise ConfigError(f"familiarity.counts.{level} is {count.dtype} {count.shape}, for {len(key):,} keys")
            if not ((count > 0) & (count <= _LARGEST_COUNT)).all():
                raise ConfigError(f"familiarity.counts.{level} holds what is no logarithm of a count")
        return cls(keys, counts, num_flows, use_addresses=use_addresses)


def flow_keys(src: Keys, dst: Keys, amounts: npt.NDArray[np.float32]) -> FlowKeys:
    """Hash each flow's key at each of LEVELS. Arguments as in `Familiarity.fit`. Returns: (M, E) uint64."""
    keys = buffers.array(len(LEVELS), len(src), dtype=np.uint64)
    parallel_for(lambda begin, end: counting.level_keys(src, dst, amounts, keys, begin, end), len(src))
    return keys


def _places() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the columns of the features: training counts (M,), surges (H,), window counts (H,)."""
    training, surge = np.empty(len(LEVELS), np.int64), np.empty(len(_WINDOW_LEVELS), np.int64)
    met_order = [*_SHARED_LEVELS, *(i for i in range(len(LEVELS)) if i not in _SHARED_LEVELS)]
    surge_order = [*_SHARED_SURGES, *(i for i in range(len(_WINDOW_LEVELS)) if i not in _SHARED_SURGES)]
    num_shared = len(_SHARED_LEVELS)
    for place, level in enumerate(met_order):
        training[level] = place if place < num_shared else place + len(_SHARED_SURGES)
    for place, i in enumerate(surge_order):
        surge[i] = num_shared + place if place < len(_SHARED_SURGES) else len(LEVELS) + place
    return training, surge, len(LEVELS) + len(_WINDOW_LEVELS) + np.arange(len(_WINDOW_LEVELS))


_PLACES: Final = _places()
_WINDOW_LEVELS_ARRAY: Final = np.asarray(_WINDOW_LEVELS)
_WHOLE: Final = np.arange(counting.NUM_TABLED, dtype=np.float64)
_LOG1P: Final = np.log1p(_WHOLE).astype(np.float32)
