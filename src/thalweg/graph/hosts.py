"""The features of hosts and channels: address octets, prefixes, neighbourhood, and activity in this window."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Final, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from thalweg.addresses import IPV4, IPV6, NOT_IP
from thalweg.errors import ConfigError
from thalweg.graph import compiled, counting
from thalweg.graph.adjacency import Adjacency, propagate
from thalweg.graph.flowgraph import FlowGraph
from thalweg.runtime import buffers
from thalweg.runtime.hashing import mix
from thalweg.runtime.parallel import even_ranges, parallel_for, parallel_map

NUM_LEVELS: Final = 4
_MOST_PREFIXES: Final = 65_536
_V4_BITS: Final = (8, 16, 24, 32)
_V6_BITS: Final = (32, 48, 64, 128)


def octet_levels(kind: Tensor) -> Tensor:
    """Return the prefix level that covers each octet. Returns: (N, 16) int64, 0 (widest) to 3."""
    v4 = torch.tensor([0] * 12 + [0, 1, 2, 3], device=kind.device)
    v6 = torch.tensor([0] * 4 + [1] * 2 + [2] * 2 + [3] * 8, device=kind.device)
    return torch.where((kind == IPV6)[:, None], v6, v4)


@final
class PrefixVocabulary:
    """The address prefixes seen in training, numbered per level; 0 means unknown.

    Levels are /8, /16, /24, /32 for IPv4 and /32, /48, /64, /128 for IPv6. A host without an address has only its
    name, at the last level.

    keys: one sorted (V_l,) int64 array per level: 64-bit hashes of the prefixes.
    """

    def __init__(self, keys: Sequence[npt.NDArray[np.int64]]) -> None:
        self.keys = tuple(keys)

    @classmethod
    def fit(
        cls,
        octets: npt.NDArray[np.uint8],
        kind: npt.NDArray[np.uint8],
        num_flows: npt.NDArray[np.int64],
        *,
        num_levels: int = NUM_LEVELS,
        min_flows: int = 3,
        max_size: int = _MOST_PREFIXES,
    ) -> PrefixVocabulary:
        """Learn the prefixes that carry at least `min_flows` flows, at most `max_size` a level, busiest first.

        octets: (N, 16); kind: (N,); num_flows: (N,) flows of each host. num_levels: how many levels, the widest first.
        """
        levels = []
        for level, keys in enumerate(_prefix_keys(octets, kind)):
            if level >= num_levels:
                levels.append(np.zeros(0, np.int64))
                continue
            there = (kind != NOT_IP) | (level == NUM_LEVELS - 1)
            unique, at = np.unique(keys[there], return_inverse=True)
            flows = np.bincount(at, weights=num_flows[there], minlength=len(unique))
            busiest = np.argsort(-flows, kind="stable")[:max_size]
            levels.append(np.sort(unique[busiest[flows[busiest] >= min_flows]]))
        return cls(levels)

    @classmethod
    def restore(cls, keys: Sequence[npt.NDArray[np.int64]]) -> PrefixVocabulary:
        """Return the vocabulary with these keys. Raises ConfigError if they are no sorted sets of possible sizes."""
        for level, of_level in enumerate(keys):
            check_keys(of_level, _MOST_PREFIXES, f"vocabulary.{level}")
        return cls(keys)

    @property
    def sizes(self) -> tuple[int, ...]:
        """V_l of each level, without the number for unknown prefixes."""
        return tuple(len(keys) for keys in self.keys)

    def lookup(self, octets: Tensor, kind: Tensor) -> Tensor:
        """Return the numbers of each host's prefixes. An unknown host keeps those of its wider prefixes that are known.

        octets: (N, 16) uint8; kind: (N,) uint8. Returns: (N, 4) int64, 0 if unknown.
        """
        octet, kinds = octets.numpy(), kind.numpy()
        ids = np.zeros((NUM_LEVELS, len(kinds)), np.float32)
        for level, (known, slots) in enumerate(zip(self.keys, self._tables, strict=True)):
            if not len(known):
                continue
            keys = _level_keys(octet, kinds, level).view(np.uint64)
            parallel_for(partial(counting.look_up, keys, slots, ids[level]), len(kinds))
            if level < NUM_LEVELS - 1:
                ids[level, kinds == NOT_IP] = 0
        return torch.from_numpy(ids.T.astype(np.int64))

    @cached_property
    def _tables(self) -> list[npt.NDArray[np.uint64]]:
        """The numbers of each level's prefixes, from 1, as tables for `counting.look_up`."""
        return [counting.table(keys.view(np.uint64), np.arange(1, len(keys) + 1)) for keys in self.keys]


def check_keys(keys: npt.NDArray[np.int64], most: int, name: str) -> None:
    """Check keys that were read from a file. keys: (V,) int64.

    Raises ConfigError if they are not sorted, occur twice, or are more than `most`.
    """
    if keys.ndim != 1 or keys.dtype != np.int64 or len(keys) > most:
        raise ConfigError(f"{name} is {keys.dtype} {keys.shape}, and not up to {most:,} int64 keys")
    if not (keys[1:] > keys[:-1]).all():
        raise ConfigError(f"the keys of {name} are not in order")


def host_keys(octets: npt.NDArray[np.uint8], kind: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Return a key for each host that is the same in every process and version.

    octets: (N, 16); kind: (N,). Returns: (N,) int64, the key of its longest prefix.
    """
    return _level_keys(octets, kind, NUM_LEVELS - 1)


def _prefix_keys(octets: npt.NDArray[np.uint8], kind: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.int64]]:
    return [_level_keys(octets, kind, level) for level in range(NUM_LEVELS)]


def _level_keys(octets: npt.NDArray[np.uint8], kind: npt.NDArray[np.uint8], level: int) -> npt.NDArray[np.int64]:
    halves = np.ascontiguousarray(octets).view(">u8").astype(np.uint64).reshape(-1, 2)
    v4_bits, v6_bits = _V4_BITS[level], _V6_BITS[level]
    v4 = kind == IPV4
    high_mask = np.where(v4, _mask(64), _mask(min(v6_bits, 64)))
    low_mask = np.where(v4, _mask(32 + v4_bits), _mask(v6_bits - 64))
    tag = np.uint64(level * 256) + kind
    return mix(mix(mix(tag) ^ (halves[:, 0] & high_mask)) ^ (halves[:, 1] & low_mask)).view(np.int64)


def _mask(bits: int) -> np.uint64:
    return np.uint64(((1 << 64) - 1) ^ ((1 << (64 - max(bits, 0))) - 1))


@torch.no_grad()
def converge(e0: Tensor, adjacency: Adjacency, *, restart: float = 0.5, tol: float = 1e-3) -> Tensor:
    """Average each host's features over its neighbours, with restart, until no entry moves by more than `tol`.

    The fixed point of e = restart * e0 + (1 - restart) * D^-1 A e. Without the restart it would be one constant
    per connected component. A step moves an entry by at most (1 - restart) times the largest move of the step before,
    so the first step gives the number of steps: about 10 for 1e-3. No gradient flows back: a host's own features
    already learn from their direct use, and a gradient through this took half of the training time.

    e0: (N, D). Returns: (N, D); a host without neighbours keeps restart * e0.
    """
    if not e0.numel():
        return e0
    weight = (1 - restart) / adjacency.degree.clamp(min=1).to(e0.dtype)
    kept = restart * e0
    e = propagate(adjacency, e0, weight, 0.0, kept)
    moved = float((e - e0).abs().max())
    num_steps = math.ceil(math.log(tol / moved, 1 - restart)) if moved > tol else 0
    for _ in range(num_steps):
        e = propagate(adjacency, e, weight, 0.0, kept)
    return e


def activity(graph: FlowGraph, sums: Tensor) -> Tensor:
    """Return what each host does in this window, as a source and as a destination.

    sums: as from `channel_sums`. Returns: (N, 4 + 4F): log1p of flows out, in, distinct peers out, in; then mean and
    standard deviation of the attributes of flows out, then of flows in (zeros if there are no flows).
    """
    size, dtype = graph.channel_size, graph.edge_attr.dtype
    ends = graph.channel_src, graph.channel_dst
    num = sums.new_zeros(2, graph.num_hosts, 2)
    at_host = sums.new_zeros(2, graph.num_hosts, sums.shape[1])
    if sums.is_cuda:
        ones = torch.stack([size, torch.ones_like(size)], dim=1).to(num.dtype)
        for direction, end in enumerate(ends):
            num[direction].index_add_(0, end, ones)
            at_host[direction].index_add_(0, end, sums)
        counts = num.log1p().to(dtype).permute(1, 2, 0).flatten(1)
        spreads = (mean_and_spread(num[i, :, 0], at_host[i], dtype) for i in range(2))
        return torch.cat([counts, *spreads], dim=1)
    # One thread for outgoing flows, one for incoming ones: more threads would need sums of their own, to be added up.
    given = [(end.numpy(), size.numpy(), sums.numpy()) for end in ends]
    filled = [(num[i].numpy(), at_host[i].numpy()) for i in range(2)]
    parallel_map(lambda i, _: compiled.sum_at(*given[i], *filled[i]), even_ranges(2, 1))
    out = buffers.tensor(graph.num_hosts, 4 + 2 * sums.shape[1], dtype=dtype)
    ready = num.numpy(), at_host.view(2, graph.num_hosts, 2, sums.shape[1] // 2).numpy(), out.numpy()
    parallel_for(lambda begin, end: compiled.describe_hosts(*ready, begin, end), graph.num_hosts)
    return out


def channel_sums(graph: FlowGraph) -> Tensor:
    """Sum the attributes, and their squares, of each channel's flows. Returns: (P, 2F) float64.

    Float64, since the variance of nearly equal flows is the small difference of two large numbers.
    """
    if graph.src.is_cuda:
        attr = graph.edge_attr.double()
        both = torch.cat([attr, attr.square()], dim=1)
        both = both if graph.times is None else both * graph.times[:, None]
        return both.new_zeros(graph.num_channels, both.shape[1]).index_add_(0, graph.channel, both)
    attr = graph.sorted().edge_attr
    sums = torch.empty(graph.num_channels, 2 * attr.shape[1], dtype=torch.float64)
    times = np.ones(len(attr), np.int32) if graph.times is None else graph.times.numpy()
    ready = attr.numpy(), times, graph.channel_start.numpy(), _two(sums)
    parallel_for(lambda begin, end: compiled.sum_up(*ready, begin, end), graph.num_channels)
    return sums


def mean_and_spread(num: Tensor, sums: Tensor, dtype: torch.dtype) -> Tensor:
    """Return means and standard deviations, (K, 2F), from counts (K,), and sums and sums of squares (K, 2F) float64."""
    if sums.is_cuda:
        mean, square = (sums / num.clamp(min=1)[:, None]).chunk(2, dim=1)
        return torch.cat([mean, (square - mean * mean).clamp(min=0).sqrt()], dim=1).to(dtype)
    out = torch.empty(sums.shape, dtype=dtype)
    given = num.numpy(), _two(sums), out.numpy()
    parallel_for(lambda begin, end: compiled.describe(*given, begin, end), len(num))
    return out


def _two(halves: Tensor) -> npt.NDArray[np.float64]:
    """(K, 2F) -> (K, 2, F)."""
    two: npt.NDArray[np.float64] = halves.view(len(halves), 2, halves.shape[1] // 2).numpy()
    return two


def channel_features(graph: FlowGraph, sums: Tensor) -> Tensor:
    """Return the features of each channel. sums: as from `channel_sums`.

    Returns: (P, 2 + 2F): log1p of its flows and of the reverse channel's; mean and standard deviation of attributes.
    """
    size = graph.channel_size
    if size.is_cuda:
        keys = graph.channel_src * graph.num_hosts + graph.channel_dst
        back = graph.channel_dst * graph.num_hosts + graph.channel_src
        at = torch.searchsorted(keys, back).clamp(max=max(len(keys) - 1, 0))
        reverse = torch.where(keys[at] == back, size[at], torch.zeros_like(size))
        counts = torch.stack([size, reverse], dim=1).to(graph.edge_attr.dtype).log1p()
        return torch.cat([counts, mean_and_spread(size, sums, graph.edge_attr.dtype)], dim=1)
    returned = np.empty(len(size), np.int64)
    compiled.reverse_sizes(
        graph.channel_src.numpy(), graph.channel_dst.numpy(), size.numpy(), graph.num_hosts, returned
    )
    out = buffers.tensor(len(size), 2 + sums.shape[1], dtype=graph.edge_attr.dtype)
    given = size.numpy(), returned, _two(sums), out.numpy()
    parallel_for(lambda begin, end: compiled.describe_channels(*given, begin, end), len(size))
    return out
