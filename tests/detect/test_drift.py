from __future__ import annotations

from datetime import timedelta

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import make_flows
from thalweg.detect.detector import held_out_rows
from thalweg.detect.drift import Drift, DriftRecord, measure
from thalweg.detect.profile import Bins, TrafficProfile, find_edges, floored, stability
from thalweg.synthetic import SimulationConfig, simulate
from thalweg.tables import Flows, conform

NUM = 60_000


def rated(num: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(3, 1, num).astype(np.float32)


@pytest.fixture(scope="module")
def traffic() -> tuple[Flows, Flows]:
    """Every other flow of two days, to learn from, and the rest."""
    config = SimulationConfig(site="office", flows=2 * NUM, attacks="none", duration=timedelta(days=2), seed=3)
    flows = simulate(config)
    odd = np.arange(len(flows)) % 2 == 0
    return flows.filter(odd), flows.filter(~odd)


@pytest.fixture(scope="module")
def profile(traffic: tuple[Flows, Flows]) -> TrafficProfile:
    return TrafficProfile.fit(traffic[0], held_out_rows(NUM), rated(NUM))


def drift_of(profile: TrafficProfile, flows: Flows, **columns: pl.Expr) -> Drift:
    return measure(profile, Flows(flows.frame.with_columns(**columns)), rated(len(flows), 1))


@pytest.mark.parametrize(
    ("observed", "expected", "psi"),
    [
        ([0.5, 0.5], [0.5, 0.5], 0.0),
        ([0.5, 0.5], [0.25, 0.75], 0.25 * np.log(3)),
        ([0.2, 0.3, 0.5], [0.4, 0.3, 0.3], 0.2 * np.log(2) + 0.2 * np.log(5 / 3)),
    ],
)
def test_psi_by_hand(observed: list[float], expected: list[float], psi: float) -> None:
    assert stability(np.asarray(observed), np.asarray(expected)) == pytest.approx(psi)


def test_shares_have_a_floor_of_half_a_flow_and_of_one_in_a_thousand() -> None:
    assert floored(np.asarray([3, 0, 7])).tolist() == pytest.approx([0.3, 0.05, 0.7])
    assert floored(np.asarray([0, 100_000])).tolist() == pytest.approx([0.001, 1.0])


def test_a_value_that_many_flows_share_has_a_bin_of_its_own() -> None:
    rng = np.random.default_rng(0)
    values = pl.Series(np.concatenate([np.zeros(3_000), np.full(3_000, 52.0), rng.lognormal(4, 1, 4_000)]))
    edges = find_edges(values)
    bins = Bins(edges, np.zeros(0, np.int64))
    count = np.bincount(bins.place(values), minlength=len(edges) + 2)
    at_zero, at_52 = bins.place(pl.Series([0.0, 52.0]))
    assert (count[at_zero], count[at_52]) == (3_000, 3_000)
    assert (count[:-1] >= 200).all()
    assert bins.place(pl.Series([None, 1e12], dtype=pl.Float64)).tolist() == [len(edges) + 1, len(edges)]
    assert find_edges(pl.Series([5, 5, 5])).size == 0
    assert find_edges(pl.Series([], dtype=pl.Float64)).size == 0


@pytest.mark.parametrize("size", [100, 300, 1_000, 5_000, 20_000])
def test_a_fresh_sample_of_the_same_traffic_is_as_in_training(
    profile: TrafficProfile, traffic: tuple[Flows, Flows], size: int
) -> None:
    fresh = traffic[1]
    starts = np.linspace(0, len(fresh) - size, min(100, len(fresh) // size)).astype(int)
    levels = [drift_of(profile, fresh[at : at + size]).level for at in starts]
    assert np.mean([level == "as in training" for level in levels]) >= 0.95
    assert "very different" not in levels


@pytest.mark.parametrize("size", [300, 2_000, 50_000])
def test_ten_times_the_bytes_are_very_different_and_named(
    profile: TrafficProfile, traffic: tuple[Flows, Flows], size: int
) -> None:
    drift = drift_of(profile, traffic[1][-size:], fwd_bytes=pl.col("fwd_bytes") * 10)
    assert drift.level == "very different"
    assert drift.moved[0].startswith("bytes sent are larger (PSI ")
    assert f"bytes sent are larger (PSI {drift.psi['fwd_bytes']:.2f})" in drift.words()
    assert drift.words().endswith("Fit again if this is the new normal.")


@pytest.mark.parametrize("size", [300, 2_000, 50_000])
def test_hosts_that_are_all_new_are_very_different_and_named(
    profile: TrafficProfile, traffic: tuple[Flows, Flows], size: int
) -> None:
    drift = drift_of(profile, traffic[1][-size:], src_addr="172.16.0." + (pl.int_range(pl.len()) % 200).cast(pl.String))
    assert drift.level == "very different"
    assert drift.unseen["src_addr"] == 1.0
    assert "100 % of flows come from hosts never seen (usually 0.75 %)" in drift.words()


def test_a_flood_that_fills_the_window_is_very_different(profile: TrafficProfile, traffic: tuple[Flows, Flows]) -> None:
    one = traffic[1].frame[:1]
    flood = Flows(pl.concat([traffic[1].frame[:2_000], *([one] * 8_000)]))
    drift = measure(profile, flood, np.concatenate([rated(2_000), np.full(8_000, -4, np.float32)]))
    assert drift.level == "very different"
    assert any(
        words.startswith("flows look stranger on the whole (mean logit -2.6, usually 3.0)") for words in drift.moved
    )
    assert drift.shift == pytest.approx(-5.6, abs=0.1)


def test_each_change_is_said_in_its_own_words(profile: TrafficProfile, traffic: tuple[Flows, Flows]) -> None:
    window = traffic[1][:20_000]
    cases = {
        "durations are longer": {"duration_ms": pl.col("duration_ms") * 50 + 1_000},
        "bytes received are smaller": {"bwd_bytes": pl.lit(0, pl.UInt64)},
        "destination ports are other ones": {"dst_port": pl.lit(6_666, pl.UInt16)},
        "destination ports are missing more often": {"dst_port": pl.lit(None, pl.UInt16)},
    }
    for words, change in cases.items():
        drift = drift_of(profile, window, **change)
        assert drift.moved[0].startswith(words)
        assert len(drift.moved) == 1


def test_a_record_tells_the_worst_window_and_how_many(profile: TrafficProfile, traffic: tuple[Flows, Flows]) -> None:
    record = DriftRecord()
    for at in range(3):
        record.add(drift_of(profile, traffic[1][at * 10_000 : (at + 1) * 10_000]))
    assert record.words() is None
    bad = drift_of(profile, traffic[1][:10_000], fwd_bytes=pl.col("fwd_bytes") * 10)
    record.add(bad)
    words = record.words()
    assert words is not None
    assert words.startswith(
        f"1 of 4 windows is different from the training flows. Window 4, which starts {bad.start:%Y-%m-%d}"
    )
    as_dict = record.as_dict()
    assert (as_dict["num_different"], len(as_dict["windows"])) == (1, 4)
    assert as_dict["windows"][3]["level"] == "very different"
    assert as_dict["windows"][3]["rows"] == 10_000


def test_a_profile_is_the_same_after_a_round_trip(profile: TrafficProfile, traffic: tuple[Flows, Flows]) -> None:
    back = TrafficProfile.from_dict(profile.as_dict(), profile.tensors())
    window = traffic[1][:3_000]
    assert drift_of(back, window) == drift_of(profile, window)
    assert back.as_dict() == profile.as_dict()


def test_a_column_that_one_side_lacks_is_not_measured(profile: TrafficProfile, traffic: tuple[Flows, Flows]) -> None:
    fewer = Flows(traffic[1].frame[:1_000].drop("dst_port", "start"))
    drift = measure(profile, fewer, rated(1_000))
    assert "dst_port" not in drift.psi
    assert (drift.start, drift.end) == (None, None)


@settings(max_examples=40)
@given(
    num_fit=st.integers(50, 400),
    num=st.integers(0, 200),
    value=st.integers(0, 2**64 - 1),
    duration=st.floats(0, 1e300),
    constant=st.booleans(),
    logit=st.floats(-1e6, 1e6, width=32),
)
def test_odd_flows_are_measured_too(
    num_fit: int, num: int, value: int, duration: float, constant: bool, logit: float
) -> None:
    flows = make_flows(num_fit, seed=1)
    if constant:
        flows = Flows(flows.frame.with_columns(fwd_bytes=pl.lit(7, pl.UInt64), dst_port=pl.lit(None, pl.UInt16)))
    profile = TrafficProfile.fit(flows, held_out_rows(num_fit), np.full(num_fit, logit, np.float32))
    odd = conform(
        pl.DataFrame({"src_addr": ["a"], "dst_addr": ["::1"], "fwd_bytes": [value], "bwd_bytes": [0],
                      "duration_ms": [duration], "dst_port": [None]},
                     schema_overrides={"fwd_bytes": pl.UInt64, "dst_port": pl.UInt16})
    )  # fmt: skip
    window = Flows(pl.concat([odd.frame] * num) if num else odd.frame[:0])
    drift = measure(profile, window, np.full(num, -logit, np.float32))
    assert all(np.isfinite(value) for value in (*drift.psi.values(), *drift.strength.values(), drift.shift))
    assert (drift.level == "too few flows to tell") == (num < 50)
    assert drift.words()
    assert drift.is_different == (drift.level in ("somewhat different", "very different"))
