"""Hashing of 64-bit numbers, the same in every process, on every machine and in every version."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

Bits = TypeVar("Bits", np.uint64, npt.NDArray[np.uint64])


def mix(x: Bits) -> Bits:
    """Scatter 64-bit numbers over all of their range; collisions below 1e-9 among a million.

    x: one uint64 or an array of them; compiled loops inline it. Source: the finaliser of splitmix64 (Steele, Lea and
    Flood, 2014).
    """
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
