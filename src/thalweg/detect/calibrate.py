"""A threshold from a budget that a person can state, never from labels."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt
import polars as pl

from thalweg.errors import ConfigError

_TAIL_SHARE: Final = 0.1
_ENOUGH_ABOVE: Final = 10


@final
@dataclass(frozen=True, slots=True)
class Budget:
    """How many flows may be called anomalous when nothing is wrong: a share of all flows, or a number a day."""

    amount: float
    per_day: bool = False

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read a budget as people write it.

        >>> Budget.parse("0.01"), Budget.parse("20/day")
        (Budget(amount=0.01, per_day=False), Budget(amount=20.0, per_day=True))

        Raises: ConfigError, where it is neither a share in (0, 1) nor a positive number a day.
        """
        matched = re.fullmatch(r"\s*([0-9.eE+-]+)\s*(%?)\s*(/\s*day)?\s*", text)
        try:
            amount = float(matched.group(1)) / (100 if matched.group(2) else 1) if matched else np.nan
        except ValueError:
            amount = np.nan
        per_day = bool(matched and matched.group(3))
        if not amount > 0 or (not per_day and amount >= 1) or (per_day and matched and matched.group(2)):
            raise ConfigError(
                f"{text!r} is no budget: write a share of all flows such as 0.01 or 1%, or a number such as 20/day"
            )
        return cls(amount, per_day)

    def __str__(self) -> str:
        """Write it as `parse` reads it."""
        return f"{self.amount:g}/day" if self.per_day else f"{self.amount:g}"

    def share(self, start: pl.Series | None, num_flows: int) -> float:
        """Return the share of flows that the budget allows at the rate of these flows.

        start: their start times, needed for a budget per day; num_flows: how many they are.
        Raises: ConfigError, where a number per day is asked for and the flows carry no span of time.
        """
        if not self.per_day:
            return self.amount
        low, high = (None, None) if start is None else (start.min(), start.max())
        days = (high - low).total_seconds() / 86_400 if low is not None and high is not None else 0.0  # type: ignore[operator, union-attr]  # polars types min() for every dtype
        if days <= 0:
            raise ConfigError(
                f"the budget {self} needs flows that carry time, and these do not: state a share, such as 0.001"
            )
        return min(self.amount / (num_flows / days), 0.5)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Threshold:
    """Where anomalous begins: flows with a logit below `logit`.

    share: the share of usual flows that should fall below it; method: `quantile` where the held-out flows are
    enough to count, `tail` where a generalised Pareto tail had to be fitted to go beyond them; num_flows: how
    many held-out flows it rests on; budget: as it was stated.
    """

    logit: float
    share: float
    method: str
    num_flows: int
    budget: str

    @property
    def score(self) -> float:
        """The same threshold as a score, 1 - P(edge exists)."""
        return float(1 / (1 + np.exp(self.logit)))

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}


def find_threshold(logit: npt.NDArray[np.float32], share: float, budget: str) -> Threshold:
    """Find the logit below which `share` of usual flows fall.

    logit: (M,) of held-out unlabelled flows. Where at least 10 of them would fall below, it is their quantile;
    below that, a generalised Pareto distribution is fitted to their strangest tenth.
    Raises: ConfigError, where there are no held-out flows.
    Source: Pickands 1975 (peaks over threshold).
    """
    num = len(logit)
    if not num:
        raise ConfigError("no held-out flows to set a threshold on: fit on more flows")
    strange = -np.sort(logit).astype(np.float64)
    start = strange[int(_TAIL_SHARE * num)]
    excess = strange[strange > start] - start
    # Where many logits are equal, as with one heartbeat repeated, there is no tail to fit.
    if share * num >= _ENOUGH_ABOVE or num < 10 * _ENOUGH_ABOVE or len(excess) < max(_ENOUGH_ABOVE, 2 * share * num):
        at = float(np.quantile(strange, 1 - share, method="higher"))
        return Threshold(logit=-at, share=share, method="quantile", num_flows=num, budget=budget)
    from scipy.stats import genpareto  # most of a second, and only this branch needs it

    shape, _, scale = genpareto.fit(excess, floc=0)
    # A tail heavier than this is the fit's noise: it would put the threshold where nothing can reach it.
    shape = float(np.clip(shape, -0.5, 0.5))
    at = start + float(genpareto.ppf(1 - share * num / len(excess), shape, 0, scale))
    return Threshold(logit=-at, share=share, method="tail", num_flows=num, budget=budget)
