"""The negatives: structured noise, bursts of invented flows that pass messages like real ones.

An autoencoder learns what exists by telling real edges from noise. A single random edge teaches it little about
floods and scans, where each flow alone looks normal, so noise comes in the shapes that any abuse of a network
must take: one to one, one to many, many to one, known channels with the wrong attributes, random pairs. No
labels and no signatures are used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from thalweg.errors import ConfigError

SHAPES: Final = ("flood", "scan", "gather", "wrong", "random")
ATTRIBUTES: Final = ("borrowed", "repeated", "wide")


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseConfig:
    """How noise is mixed.

    shapes: odds of each shape, in the order of SHAPES. attributes: odds, in the order of ATTRIBUTES.
    min_share, max_share: the share of noise in a training window is log-uniform in odds between these.
    new_hosts: how often a scan or gather uses never-seen hosts instead of known ones.

    Raises: ConfigError, where a number cannot be meant.
    """

    shapes: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0)
    attributes: tuple[float, ...] = (1.0, 1.0, 1.0)
    min_share: float = 0.03
    max_share: float = 0.97
    new_hosts: float = 0.5
    uniform: bool = False
    """one random pair at a time instead of bursts: only for the ablation"""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if len(self.shapes) != len(SHAPES) or len(self.attributes) != len(ATTRIBUTES):
            raise ConfigError(f"noise needs {len(SHAPES)} odds of shapes and {len(ATTRIBUTES)} of attributes")
        if min(*self.shapes, *self.attributes) < 0 or not sum(self.shapes) or not sum(self.attributes):
            raise ConfigError("odds are not negative, and not all zero")
        if not 0 <= self.new_hosts <= 1:
            raise ConfigError(f"new_hosts lies in [0, 1], not {self.new_hosts}")
        if not 0 < self.min_share <= self.max_share < 1:
            raise ConfigError(f"0 < min_share <= max_share < 1, not {self.min_share}, {self.max_share}")

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> NoiseConfig:
        """Read the fields back."""
        lists = {"shapes": tuple(fields["shapes"]), "attributes": tuple(fields["attributes"])}
        return cls(**{**fields, **lists})


@final
@dataclass(frozen=True, slots=True, eq=False)
class Noise:
    """K invented flows.

    src, dst: (K,) int64; below `num_known` a host of the training flows, from there on a new one.
    edge_attr: (K, F) float32; burst: (K,) int64 which burst each flow belongs to.
    shape: (num bursts,) int64 index into SHAPES. num_new: how many new hosts there are.
    """

    src: npt.NDArray[np.int64]
    dst: npt.NDArray[np.int64]
    edge_attr: npt.NDArray[np.float32]
    burst: npt.NDArray[np.int64]
    shape: npt.NDArray[np.int64]
    num_new: int


def draw_share(rng: np.random.Generator, config: NoiseConfig) -> float:
    """Draw a share of noise whose odds are log-uniform: one flow in thirty as often as all but one in thirty."""
    low, high = (np.log(s / (1 - s)) for s in (config.min_share, config.max_share))
    return float(1 / (1 + np.exp(-rng.uniform(low, high))))


def draw_noise(
    rng: np.random.Generator,
    config: NoiseConfig,
    *,
    num: int,
    src: npt.NDArray[np.int64],
    dst: npt.NDArray[np.int64],
    pool: npt.NDArray[np.float32],
    num_known: int,
) -> Noise:
    """Invent `num` flows for a window of real ones.

    src, dst: (E,) hosts of the window's real flows; pool: (M, F) attributes of flows from anywhere in the
    training data; num_known: hosts in the training data.
    """
    here = np.unique(np.concatenate([src, dst]))
    if config.uniform:
        pairs = rng.choice(here, (2, num))
        borrowed = _attributes(rng, "borrowed", num, pool)
        return Noise(pairs[0], pairs[1], borrowed, np.arange(num), np.full(num, SHAPES.index("random")), 0)
    sizes = _burst_sizes(rng, num)
    shape = rng.choice(len(SHAPES), size=len(sizes), p=_odds(config.shapes))
    out_src, out_dst, attrs = [], [], []
    num_new = 0
    kinds = rng.choice(len(ATTRIBUTES), size=len(sizes), p=_odds(config.attributes))
    new = rng.random(len(sizes)) < config.new_hosts
    for i, size in enumerate(sizes):
        s, d, num_new = _ends(rng, SHAPES[shape[i]], int(size), bool(new[i]), src, dst, here, num_known, num_new)
        out_src.append(s)
        out_dst.append(d)
        attrs.append(_attributes(rng, ATTRIBUTES[kinds[i]], int(size), pool))
    return Noise(
        np.concatenate(out_src),
        np.concatenate(out_dst),
        np.concatenate(attrs),
        np.repeat(np.arange(len(sizes)), sizes),
        shape,
        num_new,
    )


def _odds(weights: tuple[float, ...]) -> npt.NDArray[np.float64]:
    odds = np.asarray(weights, np.float64)
    odds /= odds.sum()
    return odds


def _burst_sizes(rng: np.random.Generator, num: int) -> npt.NDArray[np.int64]:
    """Cut `num` flows into bursts of log-uniform size, from 1 to all of them."""
    sizes: list[int] = []
    left = num
    while left > 0:
        sizes.append(min(int(np.exp(rng.uniform(0, np.log(num + 0.999)))), left))
        left -= sizes[-1]
    return np.asarray(sizes, np.int64)


def _ends(
    rng: np.random.Generator,
    shape: str,
    size: int,
    new: bool,
    src: npt.NDArray[np.int64],
    dst: npt.NDArray[np.int64],
    here: npt.NDArray[np.int64],
    num_known: int,
    num_new: int,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], int]:
    def one() -> int:
        return int(rng.choice(here))

    if shape == "wrong":  # real channels; only the attributes are wrong
        at = rng.integers(0, len(src), size=size if rng.random() < 0.5 else 1)
        return np.broadcast_to(src[at], size), np.broadcast_to(dst[at], size), num_new
    if shape == "random":
        return rng.choice(here, size), rng.choice(here, size), num_new
    if shape == "flood":
        if new:  # a stranger at one end
            num_new += 1
            pair = (num_known + num_new - 1, one())
            a, b = pair if rng.random() < 0.7 else pair[::-1]
        else:
            a, b = one(), one()
        return np.full(size, a), np.full(size, b), num_new
    if new:  # strangers, each on one flow or on a few
        num_many = max(1, int(size / np.exp(rng.uniform(0, np.log(4)))))
        many = num_known + num_new + rng.integers(0, num_many, size)
        num_new += num_many
    else:
        many = rng.choice(here, size)
    hub = np.full(size, one())
    return (hub, many, num_new) if shape == "scan" else (many, hub, num_new)


def _attributes(
    rng: np.random.Generator, kind: str, size: int, pool: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    if kind == "borrowed":
        return pool[rng.integers(0, len(pool), size)]
    if kind == "repeated":
        center, spread = pool[rng.integers(0, len(pool))], np.exp(rng.uniform(np.log(1e-3), np.log(0.3)))
    else:
        center = rng.uniform(pool.min(axis=0), pool.max(axis=0))
        spread = np.exp(rng.uniform(np.log(1e-3), np.log(1.0)))
    return np.asarray(center + spread * rng.normal(0, 1, (size, pool.shape[1])), np.float32)
