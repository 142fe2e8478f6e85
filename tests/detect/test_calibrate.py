from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from thalweg.detect.calibrate import Budget, find_threshold
from thalweg.errors import ConfigError

START = pl.Series(["2026-01-01", "2026-01-03"]).str.to_datetime(time_unit="us", time_zone="UTC")


@pytest.mark.parametrize(("text", "amount", "per_day"), [("0.01", 0.01, False), ("1%", 0.01, False),
                                                         ("1e-4", 1e-4, False),
                                                         ("20/day", 20, True), (" 5 / day", 5, True)])  # fmt: skip
def test_budgets_as_people_write_them(text: str, amount: float, per_day: bool) -> None:
    budget = Budget.parse(text)
    assert budget == Budget(amount, per_day)
    assert Budget.parse(str(budget)) == budget


@pytest.mark.parametrize("text", ["", "1", "0", "-1", "150%", "20/hour", "nan", "few", "1%/day", "1e", "--"])
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(ConfigError, match="no budget"):
        Budget.parse(text)


def test_a_number_a_day_becomes_a_share_at_the_data_s_own_rate() -> None:
    assert Budget.parse("20/day").share(START, 10_000) == pytest.approx(20 / 5_000)
    with pytest.raises(ConfigError, match="carry time"):
        Budget.parse("20/day").share(START[:1], 10_000)


@pytest.mark.parametrize("share", [0.05, 0.01, 1e-3, 1e-4])
def test_the_threshold_delivers_its_share_on_fresh_flows(share: float) -> None:
    rng = np.random.default_rng(0)
    kept = [
        (
            -rng.gamma(3.0, 1.0, 400_000)
            < find_threshold(-rng.gamma(3.0, 1.0, 20_000).astype(np.float32), share, "").logit
        ).mean()
        for _ in range(5)
    ]
    assert share / 2 < np.mean(kept) < share * 2


@pytest.mark.parametrize("num_lower", [0, 3, 30])
def test_logits_that_are_all_alike_have_no_tail(num_lower: int) -> None:
    logit = np.full(500, 2.0, np.float32)
    logit[:num_lower] = np.linspace(-3, -1, num_lower)
    for share in (0.01, 1e-3):
        threshold = find_threshold(logit, share, "")
        assert np.isfinite(threshold.logit)
        assert (logit < np.float32(threshold.logit)).mean() <= share


def test_few_flows_give_a_threshold_that_says_how() -> None:
    logit = np.random.default_rng(0).normal(0, 1, 5_000).astype(np.float32)
    assert find_threshold(logit, 0.01, "").method == "quantile"
    assert find_threshold(logit, 1e-4, "").method == "tail"
    assert find_threshold(logit, 1e-4, "").logit < logit.min() + 1.0
    assert find_threshold(logit[:20], 1e-4, "").method == "quantile"
    with pytest.raises(ConfigError, match="more flows"):
        find_threshold(logit[:0], 0.1, "")
