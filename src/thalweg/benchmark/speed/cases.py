"""Traffic for speed benchmarks: windows of a network of a known size, from a seed.

How much each host sends follows a power law, as in real networks: a few hosts and a few channels carry most flows.
All flows are benign: each service has some sizes that recur exactly, and sizes that vary.

Shapes: N hosts, P channels, E flows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeAlias, final

import numpy as np
import numpy.typing as npt
import polars as pl

from thalweg.errors import ConfigError
from thalweg.tables import Flows, conform
from thalweg.windows import DEFAULT_SIZE

Ints: TypeAlias = npt.NDArray[np.int64]
Reals: TypeAlias = npt.NDArray[np.floating]

_LASTING: Final = 0.85
"""share of a window's channels that every window of the network has; the others are in one window only"""
_SKEW: Final = 1.0
"""exponent of the power law by which hosts are chosen: Zipf's. A host that sends many requests also receives many, like
resolvers, proxies and gateways: this, and not the number of channels, makes A·A of 20,000 hosts too large for memory"""
_ALL_PAIRS: Final = 2_000
"""up to this many hosts, pairs are drawn from a list of all"""
_NUM_SERVICES: Final = 48
_NUM_SIZES: Final = 24
"""sizes of a service that recur exactly"""
_BEGIN: Final = datetime(2026, 3, 2, 8, tzinfo=UTC)
_FLOWS_PER_S: Final = 20_000


@final
@dataclass(frozen=True, slots=True)
class Case:
    """A network of a size: hosts and channels in one window of `num_flows` flows.

    Raises ConfigError if no window can have that many hosts, channels and flows.
    """

    name: str
    num_hosts: int
    num_channels: int
    num_flows: int = DEFAULT_SIZE

    def __post_init__(self) -> None:
        """Check the numbers."""
        num_pairs = self.num_hosts * (self.num_hosts - 1)
        if not self.num_hosts <= self.num_channels <= min(num_pairs, self.num_flows):
            raise ConfigError(
                f"{self.num_flows:,} flows cannot run over {self.num_channels:,} channels of {self.num_hosts:,} hosts: "
                "each host needs a channel, each channel a flow, and there are N (N - 1) pairs"
            )

    def resized(self, num_flows: int) -> Case:
        """Return the network as it looks in windows of another number of flows.

        A longer window has more hosts and channels, but less than in proportion: hosts grow with the square root of its
        flows, channels with the power 3/4. Power laws of this kind are known from words in texts (Heaps' law).
        """
        factor = num_flows / self.num_flows
        num_hosts = max(round(self.num_hosts * factor**0.5), 3)
        most = min(int(0.75 * num_hosts * (num_hosts - 1)), int(0.9 * num_flows))
        num_channels = min(max(round(self.num_channels * factor**0.75), num_hosts), most)
        return Case(self.name, min(num_hosts, num_channels), num_channels, num_flows)


CASES: Final = {
    case.name: case
    for case in (
        Case("d50", 50, 1_600),
        Case("d200", 200, 17_000),
        Case("p2k", 2_000, 84_000),
        Case("p20k", 19_900, 148_000),
        Case("p60k", 58_000, 172_000),
    )
}
"""What `--cases` names: dense networks of 50 and 200 hosts, power-law networks of 2,000 to 58,000."""


def choose_cases(names: Sequence[str] | None) -> tuple[Case, ...]:
    """Return the cases of these names; all if None.

    Raises ConfigError if a name is unknown.
    """
    for name in names or ():
        if name not in CASES:
            raise ConfigError(f"--cases {name}: no such case; choose from {', '.join(CASES)}")
    return tuple(CASES.values()) if names is None else tuple(CASES[name] for name in names)


def growing(num_flows: int) -> Case:
    """Return a case whose hosts and channels are in proportion to its flows: 0.2 and 0.74 of them.

    If the cost of a window is linear, its seconds grow in proportion to flows and channels.
    """
    return Case("growing", max(num_flows // 5, 3), max(int(0.74 * num_flows), 3), num_flows)


@final
class Traffic:
    """The traffic of a case: any number of windows over the same hosts, each with flows of its own.

    85 % of the channels of a window are in every window. Equal cases and seeds give equal windows.
    """

    def __init__(self, case: Case, seed: int = 0) -> None:
        self.case = case
        self._seed = (seed, case.num_hosts, case.num_channels, case.num_flows)
        rng = np.random.default_rng([*self._seed, 0])
        num = case.num_hosts
        self._addresses = _addresses(num, rng)
        self._speaking = _power_law(num)[rng.permutation(num)]
        num_lasting = max(int(_LASTING * case.num_channels), num)
        self._lasting = self._pairs(rng, num_lasting, _spanning(num, self._speaking, rng))
        self._services = _Services(rng)

    def window(self, index: int) -> Flows:
        """Make one window: E flows over P channels of N hosts, in order of their start. index: 0 or more."""
        case = self.case
        rng = np.random.default_rng([*self._seed, 1, index])
        pairs = self._pairs(rng, case.num_channels, self._lasting)
        busy = 1.0 / (1.0 + rng.permutation(len(pairs)))
        extra = _choose(busy, case.num_flows - len(pairs), rng)
        channel = rng.permutation(np.concatenate([np.arange(len(pairs)), extra]))
        src, dst = np.divmod(pairs[channel], case.num_hosts)
        columns = self._services.flows(pairs[channel], rng)
        start = np.sort(rng.random(case.num_flows)) * (case.num_flows / _FLOWS_PER_S * 1e6)
        start_us = int(_BEGIN.timestamp() * 1e6) + index * int(case.num_flows / _FLOWS_PER_S * 1e6)
        frame = pl.DataFrame(
            {
                "start": pl.Series(start.astype(np.int64) + start_us).cast(pl.Datetime("us", "UTC")),
                "src_addr": self._addresses.gather(src),
                "dst_addr": self._addresses.gather(dst),
                **columns,
            }
        )
        return conform(frame, subject=f"case {case.name}", first_row=index * case.num_flows)

    def windows(self, num: int, first: int = 0) -> list[Flows]:
        """Make several windows in a row."""
        return [self.window(first + i) for i in range(num)]

    def _pairs(self, rng: np.random.Generator, num: int, given: Ints) -> Ints:
        """Add pairs to those given until there are `num`. Returns: (num,) src N + dst, all different."""
        n = self.case.num_hosts
        if n <= _ALL_PAIRS:
            every = np.arange(n * n)
            chance = np.outer(self._speaking, self._speaking).ravel()
            chance[:: n + 1] = 0
            chance[given] = 0
            # The first of exponential clocks to ring: drawn without replacement (Efraimidis & Spirakis 2006).
            clock = np.full(n * n, np.inf)
            np.divide(rng.exponential(size=n * n), chance, out=clock, where=chance > 0)
            new = num - len(given)
            return np.concatenate([given, every[np.argpartition(clock, new)[:new]]]) if new > 0 else given
        found = given
        while len(found) < num:
            many = 2 * (num - len(found)) + 100
            src, dst = _choose(self._speaking, many, rng), _choose(self._speaking, many, rng)
            drawn = (src * n + dst)[src != dst]
            drawn = np.unique(drawn[~np.isin(drawn, found)])
            found = np.concatenate([found, rng.permutation(drawn)])
        return found[:num]


def _power_law(num: int) -> Reals:
    chance: Reals = (1.0 + np.arange(num)) ** -_SKEW
    return chance


def _choose(chance: Reals, num: int, rng: np.random.Generator) -> Ints:
    edges = np.cumsum(chance)
    chosen: Ints = np.searchsorted(edges, rng.random(num) * edges[-1], side="right").clip(max=len(chance) - 1)
    return chosen


def _spanning(num: int, speaking: Reals, rng: np.random.Generator) -> Ints:
    """Give every host one channel, to or from a busy host."""
    own = np.arange(num)
    asks = rng.random(num) < 0.5
    other = _choose(speaking, num, rng)
    other = np.where(other == own, (own + 1) % num, other)
    return np.unique(np.where(asks, own * num + other, other * num + own))


def _addresses(num: int, rng: np.random.Generator) -> pl.Series:
    """Name hosts: the first few from private subnets, the others from anywhere, one in 25 of these by IPv6."""
    num_inside = min(num, max(num // 4, 200))
    inside = 0x0A000000 + np.cumsum(rng.integers(1, 6, num_inside))
    outside = np.unique(rng.integers(0x0B000000, 0xDF000000, 2 * (num - num_inside) + 8))
    outside = rng.permutation(outside)[: num - num_inside]
    octets = pl.DataFrame({"a": np.concatenate([inside, outside])}).select(
        pl.concat_str([((pl.col("a") // 256**i) % 256).cast(pl.String) for i in (3, 2, 1, 0)], separator=".")
    )
    v4 = octets.to_series()
    v6 = "2001:db8:" + v4.str.replace_all(".", ":", literal=True) + "::1"
    by_v6 = np.arange(num) % 25 == 24
    by_v6[:num_inside] = False
    return pl.DataFrame({"v4": v4, "v6": v6}).select(pl.when(pl.Series(by_v6)).then("v6").otherwise("v4")).to_series()


@final
class _Services:
    """What flows look like: each channel has a service, each service some sizes that recur and a spread."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._chance = _power_law(_NUM_SERVICES)
        self._fwd = np.exp(rng.normal(6.0, 1.2, _NUM_SERVICES))
        self._bwd = np.exp(rng.normal(7.5, 2.0, _NUM_SERVICES))
        self._ms = np.exp(rng.normal(3.5, 2.5, _NUM_SERVICES))
        spread = (_NUM_SERVICES, _NUM_SIZES)
        self._fwd_sizes = np.rint(self._fwd[:, None] * np.exp(rng.normal(0, 0.4, spread)))
        self._bwd_sizes = np.rint(self._bwd[:, None] * np.exp(rng.normal(0, 0.8, spread)))
        self._varying = rng.beta(0.8, 1.2, _NUM_SERVICES)

    def flows(self, pair: Ints, rng: np.random.Generator) -> dict[str, npt.NDArray[np.generic]]:
        """Draw bytes and durations of flows over these channels. pair: (E,). Returns: the columns, (E,) each."""
        num = len(pair)
        # The service follows from the channel's number, so that a channel keeps it from window to window.
        mixed = (pair.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
        edges = np.cumsum(self._chance)
        service = np.searchsorted(edges, mixed / 2.0**24 * edges[-1], side="right").clip(max=_NUM_SERVICES - 1)
        size = (_NUM_SIZES * rng.random(num) ** 2.5).astype(np.int64)
        varies = rng.random(num) < self._varying[service]
        fwd = np.where(varies, self._fwd[service] * np.exp(rng.normal(0, 0.8, num)), self._fwd_sizes[service, size])
        bwd = np.where(varies, self._bwd[service] * np.exp(rng.normal(0, 1.2, num)), self._bwd_sizes[service, size])
        ms = self._ms[service] * np.exp(rng.normal(0, 0.7, num))
        return {
            "duration_ms": np.floor(ms),  # whole milliseconds, as most exporters report
            "fwd_bytes": np.maximum(fwd, 40).astype(np.uint64),
            "bwd_bytes": bwd.astype(np.uint64),
        }
