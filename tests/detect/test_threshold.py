from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest

from thalweg.detect.detector import held_out_rows
from thalweg.detect.threshold import Budget, Calibration, Threshold, held_out_blocks, rate_per_day
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
    assert Budget.parse("20/day").share(rate_per_day(START, 10_000)) == pytest.approx(20 / 5_000)
    with pytest.raises(ConfigError, match="carry time"):
        Budget.parse("20/day").share(rate_per_day(START[:1], 10_000))


def find_threshold(logit: npt.NDArray[np.float32], share: float) -> Threshold:
    return Calibration.fit(logit, share=share).threshold(Budget(share))


@pytest.mark.parametrize("share", [0.05, 0.01, 1e-3, 1e-4])
@pytest.mark.parametrize("shape", ["normal", "exponential", "standard_t"])
def test_the_threshold_delivers_its_share_on_fresh_flows(share: float, shape: str) -> None:
    rng = np.random.default_rng(0)

    def draw(num: int) -> npt.NDArray[np.float32]:
        args = (3,) if shape == "standard_t" else ()
        drawn: npt.NDArray[np.float64] = getattr(rng, shape)(*args, size=num)
        return -drawn.astype(np.float32)

    fresh = draw(1_000_000)
    kept = [float((fresh < find_threshold(draw(20_000), share).logit).mean()) for _ in range(8)]
    assert share / 1.5 < np.median(kept) < share * 1.5


@pytest.mark.parametrize("num_lower", [0, 3, 30])
def test_logits_that_are_all_alike_have_no_tail(num_lower: int) -> None:
    logit = np.full(500, 2.0, np.float32)
    logit[:num_lower] = np.linspace(-3, -1, num_lower)
    for share in (0.01, 1e-3):
        threshold = find_threshold(logit, share)
        assert np.isfinite(threshold.logit)
        assert (logit < np.float32(threshold.logit)).mean() <= share


def test_few_flows_give_a_threshold_that_says_how() -> None:
    logit = np.random.default_rng(0).normal(0, 1, 5_000).astype(np.float32)
    assert find_threshold(logit, 0.01).method == "quantile"
    assert find_threshold(logit, 1e-4).method == "tail"
    assert find_threshold(logit, 1e-4).logit < logit.min() + 1.0
    assert find_threshold(logit[:20], 1e-4).method == "quantile"
    with pytest.raises(ConfigError, match="more flows"):
        find_threshold(logit[:0], 0.1)


def test_the_range_holds_the_realised_share_in_about_nine_cases_of_ten() -> None:
    rng = np.random.default_rng(0)
    block = np.arange(5_000) // 250
    fresh = np.sort(-rng.normal(size=400_000))
    inside = 0
    for _ in range(60):
        threshold = Calibration.fit(-rng.normal(size=5_000).astype(np.float32), block).threshold(Budget(0.01))
        realised = int(np.searchsorted(fresh, threshold.logit)) / len(fresh)
        assert threshold.low_share is not None
        assert threshold.high_share is not None
        inside += int(threshold.low_share <= realised <= threshold.high_share)
    assert 48 <= inside <= 60


def test_flows_that_are_alike_in_blocks_are_worth_fewer_flows() -> None:
    rng = np.random.default_rng(0)
    block = np.arange(20_000) // 1_000
    apart = -rng.normal(size=20_000).astype(np.float32)
    alike = apart - rng.normal(0, 0.7, 20).astype(np.float32)[block]
    sure, unsure = (Calibration.fit(logit, block).threshold(Budget(0.01)) for logit in (apart, alike))
    assert sure.is_certain
    assert not unsure.is_certain
    assert unsure.flows_needed > 2 * sure.flows_needed


def test_a_budget_beyond_the_data_is_never_certain_and_names_the_flows_it_takes() -> None:
    logit = np.random.default_rng(0).normal(size=27_000).astype(np.float32)
    threshold = find_threshold(logit, 1e-4)
    assert threshold.is_certain is False
    assert threshold.flows_needed == 1_400_000
    enough = find_threshold(logit, 0.01)
    assert enough.is_certain


def test_another_budget_is_told_from_what_was_kept_as_it_was_from_all() -> None:
    logit = np.random.default_rng(0).normal(size=30_000).astype(np.float32)
    calibration = Calibration.fit(logit, held_out_blocks(held_out_rows(240_000)), flows_per_day=1e6)
    assert (len(calibration.logit), calibration.num_blocks) == (3_000, 20)
    assert calibration.threshold(Budget(0.01)).logit == np.quantile(logit, 0.01, method="lower")
    assert calibration.threshold(Budget.parse("100/day")).share == pytest.approx(1e-4)
    back = Calibration.from_dict(calibration.as_dict(), calibration.tensors())
    assert back.threshold(Budget(0.001)) == calibration.threshold(Budget(0.001))
    with pytest.raises(ConfigError, match=r"up to 0.1: state a smaller budget"):
        calibration.threshold(Budget(0.2))
    assert len(Calibration.fit(logit, share=0.3).logit) == 9_000
    assert len(Calibration.fit(np.zeros(2_000_000, np.float32)).logit) == 100_000
    with pytest.raises(ConfigError, match="carry time"):
        Calibration.fit(logit).threshold(Budget.parse("20/day"))
