"""The negatives: structured noise, bursts of invented flows that pass messages like real ones.

An autoencoder learns what exists by separating real edges from noise. A single random edge teaches it little about
floods and scans, whose flows look normal one by one, so noise comes in the shapes that any abuse of a network
must take: one to one, one to many, many to one, known channels with the wrong attributes, random pairs. No
labels and no signatures are used.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from thalweg.errors import ConfigError

SHAPES: Final = ("flood", "scan", "gather", "mesh", "wrong", "surge", "random")
ATTRIBUTES: Final = ("borrowed", "own", "repeated", "wide")


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseConfig:
    """How noise is mixed.

    shapes: odds of each shape, in the order of SHAPES. attributes: odds, in the order of ATTRIBUTES.
    min_share, max_share: the share of noise in a training window is log-uniform in odds between these.
    min_flows: in large windows it begins at so many flows, if that is less: few bad ones among very many.
    new_hosts: how often a scan or gather uses never-seen hosts instead of known ones.

    Raises ConfigError if a value is out of range.
    """

    shapes: tuple[float, ...] = (1.0, 1.0, 1.0, 0.5, 1.0, 1.0, 0.5)
    """The relative frequency of each shape, in the order of SHAPES."""
    attributes: tuple[float, ...] = (1.0, 0.5, 1.0, 1.0)
    """The relative frequency of each kind of attributes, in the order of ATTRIBUTES."""
    min_share: float = 0.01
    """The smallest share of noise in a window; the odds of the share are log-uniform up to those of `max_share`."""
    min_flows: int = 100
    """The smallest number of noise flows in a window, if that is a smaller share than `min_share`: in large windows a
    few bad flows are among very many."""
    max_share: float = 0.997
    """The largest share of noise in a window."""
    new_hosts: float = 0.5
    """The share of bursts whose sources are invented hosts instead of known ones, and the same for destinations."""
    uniform: bool = False
    """One random pair at a time instead of bursts; only for the ablation."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if len(self.shapes) != len(SHAPES) or len(self.attributes) != len(ATTRIBUTES):
            raise ConfigError(f"noise needs {len(SHAPES)} odds of shapes and {len(ATTRIBUTES)} of attributes")
        if min(*self.shapes, *self.attributes) < 0 or not sum(self.shapes) or not sum(self.attributes):
            raise ConfigError("odds are not negative, and not all zero")
        if not 0 <= self.new_hosts <= 1:
            raise ConfigError(f"new_hosts lies in [0, 1], not {self.new_hosts}")
        if self.min_flows < 1:
            raise ConfigError(f"min_flows is at least 1, not {self.min_flows}")
        if not 0 < self.min_share <= self.max_share < 1:
            raise ConfigError(f"0 < min_share <= max_share < 1, not {self.min_share}, {self.max_share}")

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Noise:
    """K invented flows.

    src, dst: (K,) int64; below `num_known` a host of the training flows, from there on a new one.
    edge_attr: (K, F) float32; burst: (K,) int64 which burst each flow belongs to.
    like: (K,) int64 the training flow whose amounts these are, -1 if they are invented; copied: (K,) bool, whether
    its hosts are that flow's too.
    shape: (num bursts,) int64 index into SHAPES. num_new: how many new hosts there are.
    """

    src: npt.NDArray[np.int64]
    dst: npt.NDArray[np.int64]
    edge_attr: npt.NDArray[np.float32]
    like: npt.NDArray[np.int64]
    copied: npt.NDArray[np.bool_]
    burst: npt.NDArray[np.int64]
    shape: npt.NDArray[np.int64]
    num_new: int


def draw_share(rng: np.random.Generator, config: NoiseConfig, size: int) -> float:
    """Draw the share of noise in a window of `size` flows.

    Its odds are log-uniform: one flow in thirty is as frequent as all but one in thirty.
    """
    least = min(config.min_share, config.min_flows / max(size, 1))
    low, high = (np.log(s / (1 - s)) for s in (least, config.max_share))
    return float(1 / (1 + np.exp(-rng.uniform(low, high))))


@final
@dataclass(frozen=True, slots=True, eq=False)
class Surroundings:
    """The material of noise: the window's real flows, and flows from all the training data.

    rows: (E,) int64, the training flows in the window; src, dst: (E,) their hosts; edge_attr: (T, F) of all
    training flows; pool: (M,) int64 training flows to borrow amounts from; num_known: hosts in the training data.
    """

    rows: npt.NDArray[np.int64]
    src: npt.NDArray[np.int64]
    dst: npt.NDArray[np.int64]
    edge_attr: npt.NDArray[np.float32]
    pool: npt.NDArray[np.int64]
    num_known: int


def draw_noise(rng: np.random.Generator, config: NoiseConfig, num: int, around: Surroundings) -> Noise:
    """Invent `num` flows for a window of real ones."""
    here = np.unique(np.concatenate([around.src, around.dst]))
    if config.uniform:
        pairs = rng.choice(here, (2, num))
        like = rng.choice(around.pool, num)
        shape = np.full(num, SHAPES.index("random"))
        return Noise(pairs[0], pairs[1], around.edge_attr[like], like, np.zeros(num, bool), np.arange(num), shape, 0)
    sizes = _burst_sizes(rng, num)
    shape = rng.choice(len(SHAPES), size=len(sizes), p=_odds(config.shapes))
    kinds = rng.choice(len(ATTRIBUTES), size=len(sizes), p=_odds(config.attributes))
    strange = rng.random((len(sizes), 2)) < config.new_hosts
    num_new = 0
    parts: list[tuple[npt.NDArray[Any], ...]] = []
    for i, size in enumerate(int(s) for s in sizes):
        name = SHAPES[shape[i]]
        if name in ("wrong", "surge"):
            at = _flows_of_one(rng, around, size)
            src, dst = around.src[at], around.dst[at]
            if name == "surge":
                like = around.rows[at]
                parts.append((src, dst, around.edge_attr[like], like, np.ones(size, bool)))
                continue
        else:
            src, dst, num_new = _ends(
                rng, name, size, here, strange=strange[i], num_known=around.num_known, num_new=num_new
            )
        kind = ATTRIBUTES[kinds[i]]
        attr, like = _amounts(rng, kind, size, around, int(src[0]), int(dst[0]), own=name != "wrong")
        parts.append((src, dst, attr, like, np.zeros(size, bool)))
    src, dst, attr, like, copied = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Noise(src, dst, attr, like, copied, np.repeat(np.arange(len(sizes)), sizes), shape, num_new)


def _odds(weights: tuple[float, ...]) -> npt.NDArray[np.float64]:
    odds = np.asarray(weights, np.float64)
    odds /= odds.sum()
    return odds


def _burst_sizes(rng: np.random.Generator, num: int) -> npt.NDArray[np.int64]:
    """Cut `num` flows into bursts of log-uniform size, from 1 to all of them."""
    sizes: list[int] = []
    left = num
    while left > 0:
        sizes.append(min(_log_uniform(rng, num), left))
        left -= sizes[-1]
    return np.asarray(sizes, np.int64)


def _log_uniform(rng: np.random.Generator, most: int) -> int:
    """Draw a whole number from 1 to `most`, each order of magnitude as often as any other."""
    return min(int(np.exp(rng.uniform(0, np.log(most + 0.999)))), most)


def _spread(rng: np.random.Generator, size: int) -> int:
    return _log_uniform(rng, size) if rng.random() < 0.5 else size


def _flows_of_one(rng: np.random.Generator, around: Surroundings, size: int) -> npt.NDArray[np.int64]:
    """Draw real flows of the window, with repetition: of one channel, of one source, to one destination, or any."""
    one = int(rng.integers(len(around.src)))
    same = {
        0: lambda: (around.src == around.src[one]) & (around.dst == around.dst[one]),
        1: lambda: around.src == around.src[one],
        2: lambda: around.dst == around.dst[one],
    }.get(int(rng.integers(4)))
    among = np.arange(len(around.src)) if same is None else np.flatnonzero(same())
    return among[rng.integers(0, len(among), size)]


def _ends(
    rng: np.random.Generator,
    shape: str,
    size: int,
    here: npt.NDArray[np.int64],
    *,
    strange: npt.NDArray[np.bool_],
    num_known: int,
    num_new: int,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], int]:
    """Choose a burst's hosts, known or new: as many sources and destinations as its shape has."""
    if shape == "random":
        return rng.choice(here, size), rng.choice(here, size), num_new
    num_src = _spread(rng, size) if shape in ("gather", "mesh") else 1
    num_dst = _spread(rng, size) if shape in ("scan", "mesh") else 1
    ends = []
    for num, new in ((num_src, strange[0]), (num_dst, strange[1])):
        if new:
            hosts = num_known + num_new + np.arange(num)
            num_new += num
        else:
            hosts = rng.choice(here, min(num, len(here)), replace=False)
        # Each host takes part once if there are flows enough; the rest are drawn.
        turns = np.concatenate([hosts[:size], rng.choice(hosts, max(size - len(hosts), 0))])
        ends.append(rng.permutation(turns))
    return ends[0], ends[1], num_new


def _amounts(
    rng: np.random.Generator, kind: str, size: int, around: Surroundings, src: int, dst: int, *, own: bool
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Choose a burst's attributes. Returns: (size, F) float32; (size,) int64 like `Noise.like`."""
    if kind == "own" and own:
        hub = np.flatnonzero((around.src == src) | (around.dst == dst))
        if len(hub):
            like = around.rows[hub[rng.integers(0, len(hub), size)]]
            return around.edge_attr[like], like
    if kind in ("borrowed", "own"):
        like = around.pool[rng.integers(0, len(around.pool), size)]
        return around.edge_attr[like], like
    # A tool has a few messages that it sends again and again: to the byte, or nearly.
    num = _log_uniform(rng, min(size, 32))
    lent = around.pool[rng.integers(0, len(around.pool), (2_000 if kind == "wide" else num))]
    real = around.edge_attr[lent]
    jitter = 0.0
    if kind == "wide":
        center = rng.uniform(real.min(axis=0), real.max(axis=0), (num, real.shape[1]))
    else:
        jitter = (rng.random() < 0.5) * np.exp(rng.uniform(np.log(0.03), 0))
        center = real + jitter * rng.normal(0, 1, real.shape)
    spread = (rng.random() < 0.5) * np.exp(rng.uniform(np.log(1e-3), np.log(0.3)))
    weights = rng.exponential(size=num) ** 2
    at = rng.choice(num, size, p=weights / weights.sum())
    if kind == "repeated" and not jitter and not spread:
        return around.edge_attr[lent[at]], lent[at]
    attr = np.asarray(center[at] + spread * rng.normal(0, 1, center[at].shape), np.float32)
    return attr, np.full(size, -1)
