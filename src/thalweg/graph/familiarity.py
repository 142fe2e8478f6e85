"""How familiar a flow is: how many hosts sent its amounts before, and how often its hosts and channel did.

Shapes: E flows, M levels, H levels that are also counted in the window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Self, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from thalweg.graph.hosts import mix

Keys = npt.NDArray[np.int64]

LEVELS: Final = (
    "fwd", "bwd", "fwd_bwd", "amounts", "src", "dst", "channel", "src_amounts", "dst_amounts", "channel_amounts",
)  # fmt: skip
"""What is counted: bytes each way, both together, with the duration too; hosts; and bytes with hosts."""

NUM_OF_AMOUNTS: Final = 4
"""Levels that hold no address; they come first, and count sources: a habit of one host is not the network's."""
OF_SRC: Final = (4, 6, 7, 9)
"""Levels that hold the source, by place in LEVELS."""
OF_DST: Final = (5, 6, 8, 9)
"""Levels that hold the destination."""

_SRC_AMOUNTS: Final = 7

_HERE: Final = (2, 4, 5, 6, 7, 8)
"""Levels that are also counted in the window itself."""
_TOLD, _TOLD_SURGE = (2, 6, 7, 8, 9), (0, 4, 5)
"""What hosts and channels hear of, by place in LEVELS and in _HERE: a host's own counts tell it nothing new."""

NUM_TOLD: Final = len(_TOLD) + len(_TOLD_SURGE)
"""How many of the features, the first ones, hosts and channels hear of; the rest only the decoder sees."""
NUM_FEATURES: Final = len(LEVELS) + 2 * len(_HERE)

_STEPS: Final = (256.0, 256.0, 16.0)
"""Steps a unit of log1p that an amount is counted in: 300 bytes and 301 are two, 1,500 and 1,501 are one."""


@final
class Familiarity:
    """Counts of what training flows were like, at each of LEVELS; an unseen one counts 0.

    keys: one sorted (V_l,) int64 array per level: 64-bit hashes. counts: (V_l,) float32 log1p of how many sources
    sent it, where the level holds no address, or of its training flows. num_flows: how many flows were counted.
    use_addresses: whether sources may be told apart; without, all levels count flows, and those with a host nothing.
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
        max_size: int = 262_144,
    ) -> tuple[Self, npt.NDArray[np.float32]]:
        """Count the flows where `learned`; of each level the `max_size` most frequent are kept.

        Also tells what each flow would have met without its own witness: of its amounts, had its source not been
        counted; else, had its own block of neighbours in time not been, as the next flows of a session are hardly
        witnesses of each other.

        src, dst: (E,) `host_keys` of the hosts; amounts: (E, 3) log1p of bytes each way and of the duration.
        Returns: the counts; (E, M) float32 log1p of what each flow met.
        """
        num = len(src)
        block = np.arange(num) * num_blocks // max(num, 1)
        sources, source = np.unique(src, return_inverse=True)
        keys, counts, met = [], [], np.zeros((num, len(LEVELS)), np.float32)
        for level, key in enumerate(_level_keys(src, dst, amounts)):
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
            met[:, level] = np.log1p(total[at] - own[pair])
            most = np.argsort(-total, kind="stable")[:max_size]
            kept = np.sort(most[total[most] > 0])
            keys.append(unique[kept])
            counts.append(np.log1p(total[kept]).astype(np.float32))
        return cls(keys, counts, int(learned.sum()), use_addresses=use_addresses), met

    def lookup(self, src: Keys, dst: Keys, amounts: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Tell how familiar flows are. Arguments as in `fit`. Returns: (E, M) float32 log1p of counts.

        Amounts that the source sent itself, both ways, count one source less.
        """
        met = np.zeros((len(src), len(LEVELS)), np.float32)
        for level, key in enumerate(_level_keys(src, dst, amounts)):
            known = self.keys[level]
            if len(known):
                # In order, one search follows the other through memory: five times as fast as at random.
                unique, back = np.unique(key, return_inverse=True)
                at = np.minimum(np.searchsorted(known, unique), len(known) - 1)
                met[:, level] = np.where(known[at] == unique, self.counts[level][at], 0)[back]
        if not self.use_addresses:
            return met
        others = np.expm1(met[:, :NUM_OF_AMOUNTS]) - (met[:, _SRC_AMOUNTS] > 0)[:, None]
        met[:, :NUM_OF_AMOUNTS] = np.log1p(np.maximum(others, 0))
        return met

    def meet_alike(
        self,
        rng: np.random.Generator,
        met: npt.NDArray[np.float32],
        src: Keys,
        dst: Keys,
        amounts: npt.NDArray[np.float32],
        num_real: int,
    ) -> None:
        """Let invented flows meet, of a host or channel that real ones of the window share, what such a real one met.

        A real flow meets the counts without its own block. Were all of them counted for noise, then every invented
        flow of a known host would be told by a larger count than any real one of it.

        met: (E, M), changed in place; src, dst, amounts: of the whole window, as in `fit`, the real flows first.
        """
        for level, key in enumerate(_level_keys(src, dst, amounts)):
            if level < NUM_OF_AMOUNTS:
                continue
            order = np.argsort(key[:num_real], kind="stable")
            real, invented = key[:num_real][order], key[num_real:]
            low, high = (np.searchsorted(real, invented, side=side) for side in ("left", "right"))
            there = np.flatnonzero(high > low)
            like = low[there] + (rng.random(len(there)) * (high - low)[there]).astype(np.int64)
            met[num_real + there, level] = met[order[like], level]

    def features(
        self, met: npt.NDArray[np.float32], src: Keys, dst: Keys, amounts: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """Put side by side what flows met in training, how many like them are here, and how far the rates differ.

        The last is the logarithm of (1 + flows here) / (1 + as many as the training's rate would give here): an attack
        whose every flow looks usual is still more of it than usual. One is added to each at the window's own scale, so
        that ten flows of a stranger are the same surprise in a small window as in a large one. Of amounts, sources
        stand for the flows that are to be expected.

        met: (E, M), as from `lookup`; src, dst, amounts: of the whole window, as in `fit`.
        Returns: (E, NUM_FEATURES) float32, scaled to suit a network; the first NUM_TOLD are for all to hear.
        """
        keys = _level_keys(src, dst, amounts)
        here = np.zeros((len(src), len(_HERE)), np.float32)
        for i, level in enumerate(_HERE):
            _, at, count = np.unique(keys[level], return_inverse=True, return_counts=True)
            here[:, i] = np.log1p(count)[at]
        expected = np.expm1(met[:, list(_HERE)]) * np.float32(max(len(src), 1) / max(self.num_flows, 1))
        surge = here - np.log1p(expected)
        rest = [i for i in range(len(LEVELS)) if i not in _TOLD]
        rest_surge = [i for i in range(len(_HERE)) if i not in _TOLD_SURGE]
        parts = [met[:, list(_TOLD)], surge[:, list(_TOLD_SURGE)], met[:, rest], surge[:, rest_surge], here]
        out: npt.NDArray[np.float32] = np.concatenate(parts, axis=1) * np.float32(0.25)
        return out

    def tensors(self) -> dict[str, Tensor]:
        """Return keys and counts, for a model file."""
        keys = {f"keys.{level}": torch.from_numpy(key) for level, key in enumerate(self.keys)}
        return keys | {f"counts.{level}": torch.from_numpy(count) for level, count in enumerate(self.counts)}

    @classmethod
    def restore(cls, tensors: Mapping[str, Tensor], num_flows: int, *, use_addresses: bool = True) -> Self:
        """Make it again from `tensors()`."""
        levels = range(len(LEVELS))
        return cls(
            [tensors[f"keys.{i}"].numpy() for i in levels],
            [tensors[f"counts.{i}"].numpy() for i in levels],
            num_flows,
            use_addresses=use_addresses,
        )


def _level_keys(src: Keys, dst: Keys, amounts: npt.NDArray[np.float32]) -> list[Keys]:
    fwd, bwd, duration = (
        mix(np.rint(amounts[:, i] * step).astype(np.int64).view(np.uint64) + np.uint64((i + 1) << 40))
        for i, step in enumerate(_STEPS)
    )
    both = mix(fwd ^ mix(bwd))
    source, sink = mix(src.view(np.uint64) ^ np.uint64(1)), mix(dst.view(np.uint64) ^ np.uint64(2))
    channel = mix(source ^ mix(sink))
    with_hosts = (mix(source ^ both), mix(sink ^ both), mix(channel ^ both))
    levels = (fwd, bwd, both, mix(both ^ duration), source, sink, channel, *with_hosts)
    return [key.view(np.int64) for key in levels]
