"""Statistics of the training flows, so that later flows can be compared with them.

Shapes: E flows, M held-out flows, B bins of one attribute, W windows or pieces that stand for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Self, final

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from thalweg.detect.threshold import HELD_OUT_EVERY, held_out_blocks
from thalweg.errors import ConfigError
from thalweg.graph import host_keys, index_hosts
from thalweg.runtime.settings import value_of
from thalweg.tables import Flows

AMOUNTS: Final = ("fwd_bytes", "bwd_bytes", "duration_ms", "fwd_packets", "bwd_packets")
"""Attributes whose values have an order."""
CODES: Final = ("dst_port", "protocol")
"""Attributes whose numbers are codes without an order."""
ENDS: Final = ("src_addr", "dst_addr")

SOMEWHAT: Final = 0.1
"""The PSI that is "somewhat different" by custom; 2.5 times as much is "very different" """

_MOST_MEASURED: Final = 20_000
_NUM_BINS: Final = 10
_LEAST_BIN: Final = 0.02
_FLOOR: Final = 0.001
_LEAST_SPREAD: Final = 1e-3
_SIZES: Final = tuple(64 * 4**i for i in range(7))
_LEAST_PIECES: Final = 5
_MARGIN: Final = 1.5


def stability(observed: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the population stability index, Σ (p − q) ln(p / q), of shares along the last axis.

    It is zero if the shares are equal; for two normal distributions a distance d apart it tends to d². Shares must
    be positive: see `floored`. observed, expected: (…, B). Returns: (…).
    """
    psi: npt.NDArray[np.float64] = ((observed - expected) * np.log(observed / expected)).sum(axis=-1)
    return psi


def floored(count: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Turn counts along the last axis into shares of at least half a flow and at least 1 in 1,000.

    Without a floor one flow in a bin that was empty in training would outweigh all others.
    """
    num = np.maximum(count.sum(axis=-1, keepdims=True), 1)
    shares: npt.NDArray[np.float64] = np.maximum(count / num, np.maximum(0.5 / num, _FLOOR))
    return shares


def chance(num_bins: int, num_flows: int, num_reference: int) -> tuple[float, float]:
    """Return the PSI of two samples of the same flows: its mean, and three standard deviations.

    The PSI is then (1/n + 1/m) times a chi-squared of B − 1 degrees of freedom.
    Source: Yurdakul 2018, Statistical properties of the population stability index.
    """
    scale = 1 / max(num_flows, 1) + 1 / max(num_reference, 1)
    free = max(num_bins - 1, 1)
    return free * scale, 3 * float(np.sqrt(2 * free)) * scale


@final
@dataclass(frozen=True, slots=True, eq=False)
class Bins:
    """The intervals of one attribute, and how many held-out flows lie in each.

    edges: (B − 2,) rising; bin i holds what is above edge i − 1 and at most edge i; the last bin holds the flows
    that have no value. count: (B,) held-out flows.
    """

    edges: npt.NDArray[np.float64]
    count: npt.NDArray[np.int64]

    @classmethod
    def from_dict(cls, name: str, fields: Mapping[str, Any]) -> Self:
        """Read back the edges and counts of an attribute. Raises ConfigError if they are those of none."""
        if name not in (*AMOUNTS, *CODES):
            raise ConfigError(f"bins has no attribute {name!r}")
        edges = value_of(tuple[float, ...], fields["edges"], f"bins {name} edges")
        count = value_of(tuple[int, ...], fields["count"], f"bins {name} count")
        if len(count) != len(edges) + 2 or len(edges) > 2 * _NUM_BINS or not all(0 <= num < 2**63 for num in count):
            raise ConfigError(f"bins {name} has {len(edges)} edges and {len(count)} counts, or impossible ones")
        if any(one >= other for one, other in pairwise(edges)):
            raise ConfigError(f"the edges of bins {name} are not in order")
        return cls(np.asarray(edges, np.float64), np.asarray(count, np.int64))

    def place(self, values: pl.Series) -> npt.NDArray[np.int64]:
        """Return the bin of each value. Returns: (E,) int64 in [0, B)."""
        given = values.cast(pl.Float64)
        at = np.searchsorted(self.edges, given.fill_null(0.0).to_numpy(), side="left")
        return np.where(given.is_null().to_numpy(), len(self.edges) + 1, at)

    def counts(self, values: pl.Series) -> npt.NDArray[np.int64]:
        """Return how many values lie in each bin. Returns: (B,) int64."""
        return np.bincount(self.place(values), minlength=len(self.edges) + 2)


def _far(psi: npt.NDArray[np.float64]) -> float:
    return _MARGIN * float(np.quantile(psi, 0.99))


def find_edges(values: pl.Series) -> npt.NDArray[np.float64]:
    """Choose edges so that every bin holds a tenth of the values, or a single value that is more frequent.

    A value that a tenth of the flows share (zero bytes back, port 443) gets a bin of its own; no bin is left
    with less than one flow in fifty. Returns: (B − 2,) float64, rising; empty if all values are equal.
    """
    known = np.sort(values.drop_nulls().cast(pl.Float64).to_numpy())
    num = len(known)
    if not num:
        return np.zeros(0)
    steps = known[(np.arange(1, _NUM_BINS) * num) // _NUM_BINS]
    frequent = steps[1:][steps[1:] == steps[:-1]]
    wanted = np.unique(np.concatenate([steps, np.nextafter(frequent, -np.inf)]))
    kept: list[float] = []
    below = 0
    for edge in wanted:
        upto = int(np.searchsorted(known, edge, side="right"))
        if upto - below >= _LEAST_BIN * num and num - upto >= _LEAST_BIN * num:
            kept.append(float(edge))
            below = upto
    return np.asarray(kept)


@final
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrafficProfile:
    """The held-out flows in a few numbers, and how much these vary among pieces of the held-out flows.

    num_flows: M. bins: by attribute. num_unseen: held-out flows whose `src_addr`, `dst_addr` no training flow
    has, by end. logit_mean, logit_spread: of the held-out flows. usual: for each measure, how far windows of each
    of `_SIZES` stray among the flows that were fitted on, as far as there are enough. hosts: sorted uint32 keys of
    the training flows' hosts.
    """

    num_flows: int
    bins: Mapping[str, Bins]
    num_unseen: Mapping[str, int]
    logit_mean: float
    logit_spread: float
    usual: Mapping[str, tuple[float, ...]]
    hosts: npt.NDArray[np.uint32]

    @classmethod
    def fit(cls, flows: Flows, held_out: npt.NDArray[np.bool_], logit: npt.NDArray[np.float32]) -> Self:
        """Measure the held-out flows against the training flows.

        flows: E flows; held_out: (E,) bool; logit: (E,) float32 as the fitted model rates them.
        """
        used, checked = flows.filter(~held_out), flows.filter(held_out)
        _, _, table = index_hosts(used)
        hosts = np.unique(_short_keys(table.octets.numpy(), table.kind.numpy()))
        bins: dict[str, Bins] = {}
        for name in (*AMOUNTS, *CODES):
            if name in flows.frame.columns:
                empty = Bins(find_edges(used.frame[name]), np.zeros(0, np.int64))
                bins[name] = Bins(empty.edges, empty.counts(checked.frame[name]))
        new = unseen_ends(checked, hosts)
        rated = logit[held_out].astype(np.float64)
        mean, spread = (float(rated.mean()), float(rated.std())) if len(rated) else (0.0, 0.0)
        profile = cls(
            num_flows=len(checked),
            bins=bins,
            num_unseen={end: int(new[end].sum()) for end in ENDS},
            logit_mean=mean,
            # A spread of nothing, as of one heartbeat repeated, would make every later flow infinitely far.
            logit_spread=max(spread, _LEAST_SPREAD),
            usual={},
            hosts=hosts,
        )
        usual = {name: profile._strays(name, flows.frame[name]) for name in bins}
        usual |= profile._held_out_strays(new, rated, held_out_blocks(held_out))
        return cls(**{**{name: getattr(profile, name) for name in cls.__slots__}, "usual": usual})

    def _strays(self, name: str, values: pl.Series) -> tuple[float, ...]:
        """Return how far windows of each of `_SIZES` stray in one attribute, by all flows that were fitted on.

        All, since the held-out blocks are few: they can miss the nights.
        """
        place, num_bins = self.bins[name].place(values), len(self.bins[name].count)
        found = []
        for size in _SIZES:
            num = len(place) // size
            if num < _LEAST_PIECES:
                break
            at = np.repeat(np.arange(num) * num_bins, size) + place[: num * size]
            count = np.bincount(at, minlength=num * num_bins).reshape(num, num_bins)
            found.append(_far(self.attribute_psi(name, count, size)))
        return tuple(found)

    def _held_out_strays(
        self,
        new: Mapping[str, npt.NDArray[np.bool_]],
        logit: npt.NDArray[np.float64],
        block: npt.NDArray[np.int64],
    ) -> dict[str, tuple[float, ...]]:
        """Return the same for what only held-out flows can show: unseen hosts, and the logit. All (M,)."""
        found: dict[str, list[float]] = {name: [] for name in (*ENDS, "logit")}
        for piece in _pieces(block):
            inside = piece >= 0
            num = np.bincount(piece[inside])
            size = int(num[0])
            for end in ENDS:
                count = np.bincount(piece[inside & new[end]], minlength=len(num))
                found[end].append(_far(self.unseen_psi(end, count, size)))
            mean = np.bincount(piece[inside], weights=logit[inside]) / size
            found["logit"].append(_far(self.logit_psi(mean, size)))
        return {name: tuple(values) for name, values in found.items()}

    def attribute_psi(self, name: str, count: npt.NDArray[np.int64], num_flows: int) -> npt.NDArray[np.float64]:
        """Return an attribute's PSI above what chance alone gives. count: (…, B) flows by bin. Returns: (…)."""
        by_chance, _ = chance(count.shape[-1], num_flows, self.num_flows)
        return np.maximum(stability(floored(count), floored(self.bins[name].count)) - by_chance, 0.0)

    def unseen_psi(self, end: str, count: npt.NDArray[np.int64], num_flows: int) -> npt.NDArray[np.float64]:
        """Return the PSI of seen against unseen hosts at one end; zero if fewer are unseen than usually.

        count: (W,) flows whose host was never seen. Returns: (W,).
        """
        usual = np.asarray([self.num_flows - self.num_unseen[end], self.num_unseen[end]])
        now = np.stack([num_flows - count, count], axis=-1)
        by_chance, _ = chance(2, num_flows, self.num_flows)
        moved = stability(floored(now), floored(usual)) - by_chance
        return np.where(count * max(self.num_flows, 1) > num_flows * self.num_unseen[end], np.maximum(moved, 0.0), 0.0)

    def logit_psi(self, mean: npt.NDArray[np.float64], num_flows: int) -> npt.NDArray[np.float64]:
        """Return the square of how many standard deviations the mean logit lies below its usual place; zero if above.

        This is the PSI of two normal distributions so far apart. mean: (W,). Returns: (W,).
        """
        below = np.maximum((self.logit_mean - mean) / self.logit_spread, 0.0)
        by_chance, _ = chance(2, num_flows, self.num_flows)
        return np.maximum(below**2 - by_chance, 0.0)

    def limit(self, name: str, window: int, num_flows: int) -> float:
        """Return the PSI above which a window is somewhat different in one measure.

        window: how many flows it has; num_flows: how many of them were measured. The limit is 0.1 by custom;
        larger if such windows of the flows of the fit deviate further, or if so few flows were measured that chance
        alone does.
        """
        num_bins = len(self.bins[name].count) if name in self.bins else 2
        _, by_chance = chance(num_bins, num_flows, self.num_flows)
        known = [far for size, far in zip(_SIZES, self.usual[name], strict=False) if size <= window]
        return max(SOMEWHAT, by_chance, known[-1] if known else 0.0)

    def as_dict(self) -> dict[str, Any]:
        """Return all but the hosts as JSON values."""
        return {
            "num_flows": self.num_flows,
            "bins": {n: {"edges": b.edges.tolist(), "count": b.count.tolist()} for n, b in self.bins.items()},
            "num_unseen": dict(self.num_unseen),
            "logit_mean": self.logit_mean,
            "logit_spread": self.logit_spread,
            "usual": {name: list(values) for name, values in self.usual.items()},
        }

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the hosts, (H,) int32 by their bits."""
        return {"hosts": torch.from_numpy(self.hosts.view(np.int32).copy())}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Self:
        """Read back `as_dict()` and `tensors()`. Raises ConfigError if they fit together in no way."""
        num_flows = value_of(int, fields["num_flows"], "num_flows")
        bins = {name: Bins.from_dict(name, given) for name, given in fields["bins"].items()}
        num_unseen = {end: value_of(int, fields["num_unseen"][end], f"num_unseen {end}") for end in ENDS}
        mean, spread = (value_of(float, fields[name], name) for name in ("logit_mean", "logit_spread"))
        usual = value_of(Mapping[str, tuple[float, ...]], fields["usual"], "usual")
        hosts = tensors["hosts"].numpy()
        if num_flows < 0 or not all(0 <= num <= num_flows for num in num_unseen.values()) or spread < _LEAST_SPREAD:
            raise ConfigError(f"impossible: num_flows {num_flows}, num_unseen {num_unseen}, logit_spread {spread}")
        if set(usual) != {*bins, *ENDS, "logit"} or any(len(values) > len(_SIZES) for values in usual.values()):
            raise ConfigError(f"usual has up to {len(_SIZES)} numbers for each of {', '.join([*bins, *ENDS, 'logit'])}")
        if hosts.ndim != 1 or hosts.dtype != np.int32:
            raise ConfigError(f"hosts is {hosts.dtype} {hosts.shape}")
        hosts = hosts.view(np.uint32)
        if not (hosts[1:] > hosts[:-1]).all():
            raise ConfigError("hosts are not in order")
        return cls(
            num_flows=num_flows,
            bins=bins,
            num_unseen=num_unseen,
            logit_mean=mean,
            logit_spread=spread,
            usual=usual,
            hosts=hosts,
        )


def unseen_ends(flows: Flows, hosts: npt.NDArray[np.uint32]) -> dict[str, npt.NDArray[np.bool_]]:
    """Return for both ends of each flow whether its host is none of these. hosts: sorted. Returns: (E,) bool each."""
    src, dst, table = index_hosts(flows)
    keys = _short_keys(table.octets.numpy(), table.kind.numpy())
    if not len(hosts):
        new = np.ones(len(keys), bool)
    else:
        new = hosts[np.minimum(np.searchsorted(hosts, keys), len(hosts) - 1)] != keys
    return {"src_addr": new[src.numpy()], "dst_addr": new[dst.numpy()]}


def thinned(flows: Flows, logit: npt.NDArray[np.float32]) -> tuple[Flows, npt.NDArray[np.float32]]:
    """Return at most 20,000 flows, evenly spread: enough for every share here, at a tenth of the cost."""
    every = -(-len(flows) // _MOST_MEASURED)
    if every <= 1:
        return flows, logit
    return Flows(flows.frame.gather_every(every)), logit[::every]


def _short_keys(octets: npt.NDArray[np.uint8], kind: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    # 32 bits: of a million hosts, one unseen host in 4,000 is taken for a seen one, before and after alike.
    return (host_keys(octets, kind).view(np.uint64) >> np.uint64(32)).astype(np.uint32)


def _pieces(block: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """Cut the held-out flows into pieces that stand for windows of each of `_SIZES`, while there are enough.

    Up to the size of a block, a piece is a run of neighbours. A larger window also holds the training flows
    between the blocks, so that one held-out flow in eight stands for it, across blocks.

    block: (M,) rising. Returns: for each size (M,) int64, the number of the piece, −1 for a remainder.
    """
    num_flows = len(block)
    bounds = [0, *(np.flatnonzero(np.diff(block)) + 1).tolist(), num_flows]
    longest = max(end - begin for begin, end in pairwise(bounds))
    found = []
    for window in _SIZES:
        across = window > longest
        size = window // HELD_OUT_EVERY if across else window
        piece = np.full(num_flows, -1, np.int64)
        num = 0
        for begin, end in [(0, num_flows)] if across else pairwise(bounds):
            whole = (end - begin) // size
            piece[begin : begin + whole * size] = num + np.arange(whole * size) // size
            num += whole
        if num < _LEAST_PIECES:
            break
        found.append(piece)
    return found
