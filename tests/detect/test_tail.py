from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.detect.tail import find_cutoff, fit_pareto, share_range


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.3])
def test_a_pareto_tail_is_found_again(shape: float) -> None:
    uniform = np.random.default_rng(0).random(4_000)
    excess = -np.log(uniform) if shape == 0 else (uniform**-shape - 1) / shape
    found, scale = fit_pareto(np.sort(2 * excess))
    assert found == pytest.approx(shape, abs=0.06)
    assert scale == pytest.approx(2, rel=0.08)


def test_a_step_of_the_grid_on_zero_does_not_stop_the_fit() -> None:
    # Of 36 values with the ninth at 1 and the last at 3, the seventh step is 1/3 + (1 − √(26 / 6.5)) / 3 = 0.
    assert np.isfinite(fit_pareto(np.concatenate([np.linspace(0.1, 1, 9), np.linspace(1.1, 3, 27)]))).all()
    for step in (0.1, 0.25, 0.5):
        rounded = np.sort(np.ceil(np.random.default_rng(0).gamma(3, size=200) / step) * step)
        assert np.isfinite(fit_pareto(rounded)).all()


def test_a_place_knows_the_share_beyond_it() -> None:
    strange = np.sort(np.random.default_rng(0).exponential(size=3_000))[::-1]
    counted, fitted = (find_cutoff(strange, 3_000, share) for share in (0.1, 1e-4))
    assert (counted.method, fitted.method) == ("quantile", "tail")
    assert counted.share_beyond(counted.at, strange, 3_000) == pytest.approx(0.1, abs=1.5 / 3_000)
    assert fitted.share_beyond(fitted.at, strange, 3_000) == pytest.approx(1e-4)
    assert fitted.share_beyond(fitted.begin, strange, 3_000) == pytest.approx(fitted.weight)


@settings(max_examples=60)
@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=400), st.floats(1e-5, 0.5))
def test_any_logits_give_a_finite_place_and_an_ordered_range(values: list[float], share: float) -> None:
    strange = np.sort(np.asarray(values))[::-1]
    block = np.arange(len(strange)) % 7
    cutoff = find_cutoff(strange, len(strange), share)
    low, high = share_range(strange, block, 7, len(strange), share)
    assert np.isfinite(cutoff.at)
    assert 0 <= low <= high <= 1
    if cutoff.method == "quantile":
        assert (strange > cutoff.at).mean() <= share
