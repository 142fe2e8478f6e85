"""Prints the table in docs/model.md of how well rules for the threshold keep their budget.

    python studies/thresholds.py [REPEATS]

Held-out flows are drawn from known distributions of strangeness. Each rule sets a threshold on M of them, and the share
of the whole distribution beyond it is compared with the budget. 200 repeats take five minutes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import stats

from thalweg.detect.tail import find_place, fit_pareto, share_range

Sample = npt.NDArray[np.float64]
Rule = Callable[[Sample, float], float]

SIZES: Final = (500, 2_000, 10_000, 50_000, 200_000)
BUDGETS: Final = (1e-2, 1e-3, 1e-4)
_STEP: Final = 0.1


def _cluster(rng: np.random.Generator, num: int) -> Sample:
    return np.where(rng.random(num) < 0.003, rng.normal(8, 0.5, num), rng.normal(size=num))


SHAPES: Final[dict[str, tuple[Callable[[np.random.Generator, int], Sample], Callable[[float], float]]]] = {
    "Gaussian": (lambda rng, num: rng.normal(size=num), stats.norm.sf),
    "exponential": (lambda rng, num: rng.exponential(size=num), stats.expon.sf),
    "heavy tail (Student t, 3)": (lambda rng, num: rng.standard_t(3, num), stats.t(3).sf),
    "0.3 % in a far cluster": (_cluster, lambda at: 0.997 * stats.norm.sf(at) + 0.003 * stats.norm(8, 0.5).sf(at)),
    "many ties (Gamma in steps)": (
        lambda rng, num: np.floor(rng.gamma(3, size=num) / _STEP) * _STEP,
        lambda at: stats.gamma(3).sf((np.floor(at / _STEP + 1e-4) + 1) * _STEP),
    ),
    "bounded (Beta)": (lambda rng, num: rng.beta(3, 3, num), stats.beta(3, 3).sf),
}
"""Each distribution's sampler, and its share beyond a value."""


def _level(strange: Sample, share: float, num_tail: int, fit: Callable[[Sample], tuple[float, float]]) -> float:
    begin = strange[num_tail]
    excess = strange[:num_tail][strange[:num_tail] > begin] - begin
    shape, scale = fit(excess[::-1])
    shape = float(np.clip(shape, -0.5, 0.5))
    return float(begin + stats.genpareto.ppf(1 - share * len(strange) / len(excess), shape, 0, scale))


def _likeliest(excess: Sample) -> tuple[float, float]:
    shape, _, scale = stats.genpareto.fit(excess, floc=0)
    return shape, scale


def _by_moments(excess: Sample) -> tuple[float, float]:
    """Fit by probability-weighted moments. Source: Hosking & Wallis 1987, Technometrics 29(3)."""
    first = excess.mean()
    second = (excess * (1 - (np.arange(len(excess)) + 0.65) / len(excess))).mean()
    return 2 - first / (first - 2 * second), 2 * first * second / (first - 2 * second)


def _quantile(strange: Sample, share: float) -> float:
    return float(strange[int((len(strange) - 1) * share * (1 + 1e-12))])


def _tenth(fit: Callable[[Sample], tuple[float, float]]) -> Rule:
    return lambda strange, share: _level(strange, share, len(strange) // 10, fit)


RULES: Final[dict[str, Rule]] = {
    "quantile": _quantile,
    "tenth, maximum likelihood": _tenth(_likeliest),
    "tenth, weighted moments": _tenth(_by_moments),
    "200, Zhang-Stephens": lambda strange, share: _level(strange, share, min(len(strange) // 10, 200), fit_pareto),
    "Thalweg": lambda strange, share: find_place(strange, len(strange), share).at,
}


def main(repeats: int) -> None:
    """Print for each rule how often the realised rate is within a factor of 1.5 and of 3 of the budget."""
    print(f"{repeats} repeats; percent within a factor of 1.5 / 3; columns: {', '.join(SHAPES)}, all")
    ratios: dict[tuple[str, int, float, str], list[float]] = {}
    covered: dict[tuple[int, float], list[bool]] = {}
    for shape, (draw, beyond) in SHAPES.items():
        for size in SIZES:
            for repeat in range(repeats):
                rng = np.random.default_rng([repeat, size])
                strange = np.sort(draw(rng, size))[::-1]
                for budget in BUDGETS:
                    for name, rule in RULES.items():
                        # A fit to the 200 strangest flows does not reach a threshold with more flows beyond it.
                        if name.startswith("200") and budget * size > 200:
                            continue
                        realised = float(beyond(rule(strange, budget)))
                        ratios.setdefault((name, size, budget, shape), []).append(realised / budget)
                        if name == "Thalweg" and repeat < 20:
                            low, high = share_range(strange, rng.integers(0, 20, size), 20, size, budget)
                            covered.setdefault((size, budget), []).append(low <= realised <= high)
    for size in SIZES:
        for budget in BUDGETS:
            inside = np.mean(covered[size, budget])
            print(f"\nM = {size:,}, budget {budget:g}, {size * budget:g} flows beyond; range holds {inside:.0%}")
            for name in RULES:
                cells = [np.asarray(ratios.get((name, size, budget, shape), [])) for shape in SHAPES]
                if any(len(cell) for cell in cells):
                    print(f"  {name:26}", *map(_cell, [*cells, np.concatenate(cells)]))


def _cell(ratio: Sample) -> str:
    within = [100 * np.mean((ratio > 1 / factor) & (ratio < factor)) for factor in (1.5, 3.0)]
    return f"{within[0]:3.0f}/{within[1]:3.0f}"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
