"""The cutoff that a given share of flows exceed, also beyond the strangest held-out flow.

Strangeness is −logit. T: the number of kept held-out flows, the strangest ones, strangest first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, final

import numpy as np
import numpy.typing as npt

CutoffMethod = Literal["quantile", "tail"]

# Three vary more than a well fitted tail does, but a tail with a far cluster in it, as real ones have, fits badly.
_ENOUGH_ABOVE: Final = 3
_LEAST_IN_TAIL: Final = 10
_TAIL_SHARE: Final = 0.1
_MOST_IN_TAIL: Final = 200
_HEAVIEST: Final = 0.5
_NUM_RESAMPLES: Final = 200
_NEARLY_ZERO: Final = 1e-6
# Twenty blocks vary less than the flows they stand for: a nominal 95 % holds in about 90 % of cases.
_ENDS: Final = (0.025, 0.975)


@final
@dataclass(frozen=True, slots=True)
class Cutoff:
    """A strangeness, and how it was found; for a tail, its beginning, weight, shape and scale."""

    at: float
    method: CutoffMethod
    begin: float = np.inf
    weight: float = 0.0
    shape: float = 0.0
    scale: float = 1.0

    def share_beyond(self, at: float, strange: npt.NDArray[np.float64], num: int) -> float:
        """Return the share of flows stranger than `at`, as this cutoff estimates it. strange: (T,) falling."""
        if at <= self.begin:
            return float(np.searchsorted(-strange, -at, side="left")) / num
        reach = (at - self.begin) / self.scale
        if abs(self.shape) < 1e-9:
            return self.weight * float(np.exp(-reach))
        return self.weight * float(max(1 + self.shape * reach, 0.0) ** (-1 / self.shape))


def find_cutoff(strange: npt.NDArray[np.float64], num: int, share: float) -> Cutoff:
    """Find the strangeness that `share` of flows exceed.

    If at least three of the held-out flows exceed it, or there are fewer than a hundred, it is that of a held-out flow.
    Else a generalised Pareto distribution is fitted to the excesses of the strangest tenth, 200 at most, over the next
    one: in a longer tail, flows that are not strange at all would determine the fit of the far end.

    strange: (T,) falling; num: how many held-out flows there are, T or more.
    Source: Pickands 1975 (peaks over threshold); docs/model.md has what other rules did.
    """
    allowed = share * num
    in_tail = min(int(_TAIL_SHARE * num), _MOST_IN_TAIL)
    # Rounding must not make 9,999 of a budget of 10,000.
    counted = Cutoff(float(strange[min(int((num - 1) * share * (1 + 1e-12)), len(strange) - 1)]), "quantile")
    if allowed >= _ENOUGH_ABOVE or num < 10 * _LEAST_IN_TAIL:
        return counted
    begin = float(strange[in_tail])
    excess = strange[:in_tail][strange[:in_tail] > begin] - begin
    # If many logits are equal, as with one heartbeat repeated, there is no tail to fit.
    if len(excess) < max(_LEAST_IN_TAIL, 2 * allowed):
        return counted
    shape, scale = fit_pareto(excess[::-1])
    # A tail heavier than this is the fit's noise: it would put the threshold where nothing can reach it.
    shape = float(np.clip(shape, -_HEAVIEST, _HEAVIEST))
    weight = len(excess) / num
    times = weight / share
    reach = np.log(times) if abs(shape) < 1e-9 else (times**shape - 1) / shape
    return Cutoff(begin + scale * float(reach), "tail", begin, weight, shape, scale)


def fit_pareto(excess: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Fit a generalised Pareto distribution. excess: (K,) positive, rising. Returns: shape, scale.

    The estimate is as good as maximum likelihood, always exists, and needs no iteration.
    Source: Zhang & Stephens 2009, Technometrics 51(3), 316–325.
    """
    num = len(excess)
    grid = np.arange(1, 20 + int(np.sqrt(num)) + 1)
    quarter = excess[int(num / 4 + 0.5) - 1]
    theta = 1 / excess[-1] + (1 - np.sqrt(len(grid) / (grid - 0.5))) / (3 * quarter)
    # A step of the grid can fall on 0, the exponential distribution, for which both sides of the ratio below vanish.
    theta = np.where(np.abs(theta * excess[-1]) < _NEARLY_ZERO, _NEARLY_ZERO / excess[-1], theta)
    k = -np.log1p(-theta[:, None] * excess).mean(axis=1)
    likelihood = num * (np.log(theta / k) + k - 1)
    weight = np.exp(likelihood - likelihood.max())
    best = float((theta * weight).sum() / weight.sum())
    shape = float(np.log1p(-best * excess).mean())
    if abs(best) < 1e-12:
        return 0.0, float(excess.mean())
    return shape, -shape / best


def share_range(
    strange: npt.NDArray[np.float64], block: npt.NDArray[np.integer], num_blocks: int, num: int, share: float
) -> tuple[float, float]:
    """Return the range in which the realised share lies in about nine cases of ten.

    The held-out blocks are resampled with replacement, and the cutoff is found again for each sample. Blocks are
    resampled and not flows because neighbouring flows are alike. If a tail is extrapolated, the range assumes that the
    tail continues as it begins.

    strange, block: (T,), strangest first, and the block of each. Source: Künsch 1989 (block bootstrap).
    """
    found = find_cutoff(strange, num, share)
    rng = np.random.default_rng(0)
    shares = np.empty(_NUM_RESAMPLES)
    for i in range(_NUM_RESAMPLES):
        times = np.bincount(rng.integers(0, num_blocks, num_blocks), minlength=num_blocks)
        again = np.repeat(strange, times[block])
        if not len(again):
            shares[i] = 1.0
            continue
        shares[i] = found.share_beyond(find_cutoff(again, num, share).at, strange, num)
    low, high = np.quantile(shares, _ENDS)
    return float(low), float(high)
