"""A threshold from a budget that a person can state, never from labels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self, final, get_args

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from thalweg.detect.tail import CutoffMethod, find_cutoff, share_range
from thalweg.errors import ConfigError
from thalweg.runtime.settings import make_settings, value_of

TOLERANCE: Final = 1.5
"""A budget is kept if the realised share is within this factor of it."""

MIN_BEYOND: Final = 17
"""A count of so many flows beyond a threshold varies by at most that factor in nine cases of ten (Poisson)."""

HELD_OUT_EVERY: Final = 8
"""One flow in so many is held out."""

_KEPT_SHARE: Final = 0.1
_LEAST_KEPT: Final = 1_000
_MOST_KEPT: Final = 100_000
_MOST_BLOCKS: Final = 1_000_000
_LARGEST_LOGIT: Final = float(np.finfo(np.float32).max)


@final
@dataclass(frozen=True, slots=True)
class Budget:
    """How many flows may be called anomalous when nothing is wrong: a share of all flows, or a number a day."""

    amount: float
    """The share, or the number."""
    per_day: bool = False
    """`amount` is a number of flows a day, not a share."""

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Parse a budget: a share, a percentage, or a number a day.

        >>> Budget.parse("0.01"), Budget.parse("20/day")
        (Budget(amount=0.01, per_day=False), Budget(amount=20.0, per_day=True))

        Raises ConfigError if it is neither a share in (0, 1) nor a positive number a day.
        """
        matched = re.fullmatch(r"\s*([0-9.eE+-]+)\s*(%?)\s*(/\s*day)?\s*", text)
        try:
            amount = float(matched.group(1)) / (100 if matched.group(2) else 1) if matched else np.nan
        except ValueError:
            amount = np.nan
        per_day = bool(matched and matched.group(3))
        if not 0 < amount < np.inf or (not per_day and amount >= 1) or (per_day and matched and matched.group(2)):
            raise ConfigError(
                f"{text!r} is no budget: write a share of all flows such as 0.01 or 1%, or a number such as 20/day"
            )
        return cls(amount, per_day)

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        return f"{self.amount:g}/day" if self.per_day else f"{self.amount:g}"

    def share(self, flows_per_day: float | None) -> float:
        """Return the share of flows that the budget allows at a rate. flows_per_day: None if it is not known.

        Raises ConfigError if a number per day is asked for and the flows carry no span of time.
        """
        if not self.per_day:
            return self.amount
        if flows_per_day is None:
            raise ConfigError(
                f"the budget {self} needs flows that carry time, and these do not: state a share, such as 0.001"
            )
        return min(self.amount / flows_per_day, 0.5)


def rate_per_day(start: pl.Series | None, num_flows: int) -> float | None:
    """Return how many flows a day these are; None if they carry no span of time. start: their start times."""
    low, high = (None, None) if start is None else (start.min(), start.max())
    days = (high - low).total_seconds() / 86_400 if low is not None and high is not None else 0.0  # type: ignore[operator, union-attr]  # polars types min() for every dtype
    return num_flows / days if days > 0 else None


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Threshold:
    """The logit below which a flow is anomalous, and how certain it is."""

    logit: float
    """Flows with a logit below this are anomalous."""
    share: float
    """The share of usual flows that should fall below `logit`."""
    method: str
    """`quantile` if there are enough held-out flows to count, `tail` if a generalised Pareto tail was fitted to
    extrapolate beyond them."""
    num_flows: int
    """How many held-out flows set it."""
    budget: str
    """The budget as it was stated."""
    low_share: float
    """The realised share of flows like the held-out ones is at least this in about nine cases of ten."""
    high_share: float
    """The other end of that range."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 0 < self.share <= 1 or min(self.low_share, self.high_share) < 0:
            raise ConfigError(f"shares lie in [0, 1], not {self.share}, {self.low_share}, {self.high_share}")
        if self.num_flows < 1 or self.method not in get_args(CutoffMethod) or not abs(self.logit) <= _LARGEST_LOGIT:
            raise ConfigError(
                f"a threshold is a number, set by at least one flow and by one of "
                f"{', '.join(get_args(CutoffMethod))}: {self.logit}, {self.num_flows}, {self.method!r}"
            )

    @property
    def score(self) -> float:
        """The same threshold as a score, 1 - P(edge exists)."""
        return float(1 / (1 + np.exp(self.logit)))

    @property
    def is_certain(self) -> bool:
        """Whether the held-out flows are enough to keep the budget within a factor of 1.5.

        An extrapolated tail is never certain: a small far cluster in it would not be seen.
        """
        within = self.low_share * TOLERANCE >= self.share >= self.high_share / TOLERANCE
        return within and self.method == "quantile" and self.share * self.num_flows >= MIN_BEYOND

    @property
    def flows_needed(self) -> int:
        """About how many flows a fit needs for the budget to be certain: an estimate from the range's width."""
        needed = MIN_BEYOND / self.share
        if self.method == "quantile" and self.low_share and self.high_share:
            width = max(self.high_share / self.share, self.share / self.low_share)
            needed = max(needed, self.num_flows * (np.log(width) / np.log(TOLERANCE)) ** 2)
        exact = needed * HELD_OUT_EVERY
        step = 10 ** max(int(np.log10(exact)) - 1, 0)
        return int(np.ceil(exact / step) * step)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Return the threshold whose `as_dict` gave these fields. Raises ConfigError if they are none."""
        made = make_settings(cls, fields, "header")
        Budget.parse(made.budget)
        return made

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}


@final
@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """The strangest held-out flows, from which thresholds for other budgets are found without a refit.

    num_flows: M held-out flows in all. num_blocks: the blocks of neighbours they came in. flows_per_day: of the
    training flows, None if they carry no time. logit: (T,) float32, rising; block: (T,) int32: the strangest
    tenth, but at least 1,000 and at most 100,000, if there are so many.
    """

    num_flows: int
    num_blocks: int
    flows_per_day: float | None
    logit: npt.NDArray[np.float32]
    block: npt.NDArray[np.int32]

    @classmethod
    def fit(
        cls,
        logit: npt.NDArray[np.float32],
        block: npt.NDArray[np.integer] | None = None,
        flows_per_day: float | None = None,
        share: float = 0.0,
    ) -> Self:
        """Keep the strangest of the held-out flows.

        logit: (M,) of held-out unlabelled flows; block: (M,) which block each came in, from 0; by default each is
        a block of its own; share: the largest share for which a threshold must be found.
        Raises ConfigError if there are none.
        """
        num = len(logit)
        if not num:
            raise ConfigError("no held-out flows to set a threshold on: fit on more flows")
        blocks = np.arange(num) if block is None else block
        most = max(min(max(int(_KEPT_SHARE * num), _LEAST_KEPT), _MOST_KEPT), int(np.ceil(share * num)))
        kept = np.argsort(logit, kind="stable")[:most]
        return cls(num, int(blocks.max()) + 1, flows_per_day, logit[kept], blocks[kept].astype(np.int32))

    def threshold(self, budget: Budget) -> Threshold:
        """Find the logit below which the budget's share of usual flows fall, and how certain that is.

        Raises ConfigError if the budget is per day and there is no rate, or if it is larger than the kept flows can
        calibrate.
        """
        share, num = budget.share(self.flows_per_day), self.num_flows
        if share * num > len(self.logit):
            raise ConfigError(
                f"budget {budget}: this model kept its strangest {len(self.logit):,} of {num:,} held-out flows, which "
                f"set thresholds up to {len(self.logit) / num:.2g}: state a smaller budget, or fit again with this one"
            )
        strange = -self.logit.astype(np.float64)
        cutoff = find_cutoff(strange, num, share)
        low, high = share_range(strange, self.block, self.num_blocks, num, share)
        return Threshold(
            logit=-cutoff.at,
            share=share,
            method=cutoff.method,
            num_flows=num,
            budget=str(budget),
            low_share=low,
            high_share=high,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers as JSON values."""
        return {"num_flows": self.num_flows, "num_blocks": self.num_blocks, "flows_per_day": self.flows_per_day}

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the kept flows' logits (T,) float32 and blocks (T,) int32."""
        return {"logit": torch.from_numpy(self.logit.copy()), "block": torch.from_numpy(self.block.copy())}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Self:
        """Read back `as_dict()` and `tensors()`. Raises ConfigError if they fit together in no way."""
        num, num_blocks = (value_of(int, fields[name], name) for name in ("num_flows", "num_blocks"))
        rate = value_of(float | None, fields["flows_per_day"], "flows_per_day")
        logit, block = tensors["logit"].numpy(), tensors["block"].numpy()
        if not 1 <= num_blocks <= min(num, _MOST_BLOCKS) or (rate is not None and rate <= 0):
            raise ConfigError(f"impossible: num_flows {num}, num_blocks {num_blocks}, flows_per_day {rate}")
        if logit.shape != block.shape or logit.ndim != 1 or logit.dtype != np.float32 or block.dtype != np.int32:
            raise ConfigError(f"logit is {logit.dtype} {logit.shape}, block {block.dtype} {block.shape}")
        if not min(num, _LEAST_KEPT) <= len(logit) <= num or not (logit[1:] >= logit[:-1]).all():
            raise ConfigError(f"logit holds {len(logit):,} of {num:,} flows, or they are not in order")
        if not ((block >= 0) & (block < num_blocks)).all():
            raise ConfigError(f"block names blocks beyond the {num_blocks:,}")
        return cls(num, num_blocks, rate, logit, block)


def held_out_blocks(held_out: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Number the runs of neighbouring held-out flows.

    held_out: (E,) bool. Returns: (M,) int64 for the held-out ones alone, rising from 0.
    """
    return np.cumsum(np.diff(np.flatnonzero(held_out), prepend=-2) > 1) - 1
