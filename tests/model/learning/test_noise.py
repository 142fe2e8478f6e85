from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from thalweg.errors import ConfigError
from thalweg.model.learning.noise import SHAPES, Noise, NoiseConfig, Surroundings, draw_noise, draw_share

KNOWN = 50
RNG = np.random.default_rng(0)
SRC, DST = RNG.integers(0, KNOWN, (2, 300))
POOL = RNG.normal(0, 1, (1000, 3)).astype(np.float32)
AROUND = Surroundings(np.arange(300, 600), SRC, DST, POOL, np.arange(1000), KNOWN)


def draw(config: NoiseConfig, num: int = 4000, seed: int = 1) -> Noise:
    return draw_noise(np.random.default_rng(seed), config, num, AROUND)


def only(shape: str, **more: Any) -> NoiseConfig:
    return NoiseConfig(shapes=tuple(float(s == shape) for s in SHAPES), **more)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("new_hosts", [0.0, 1.0])
def test_each_shape_is_what_it_claims(shape: str, new_hosts: float) -> None:
    noise = draw(only(shape, new_hosts=new_hosts))
    channels = set(zip(SRC.tolist(), DST.tolist(), strict=True))
    for burst in np.unique(noise.burst):
        mine = noise.burst == burst
        src, dst = set(noise.src[mine].tolist()), set(noise.dst[mine].tolist())
        if shape == "flood":
            assert len(src) == len(dst) == 1
            assert (max(src | dst) >= KNOWN) == bool(new_hosts)
        if shape == "scan":
            assert len(src) == 1
            assert (min(dst) >= KNOWN) == bool(new_hosts)
        if shape == "gather":
            assert len(dst) == 1
            assert (min(src) >= KNOWN) == bool(new_hosts)
        if shape == "mesh":
            assert (min(src) >= KNOWN) == (min(dst) >= KNOWN) == bool(new_hosts)
        if shape == "surge":
            at = noise.like[mine] - 300
            assert (SRC[at] == noise.src[mine]).all()
            assert (DST[at] == noise.dst[mine]).all()
            assert (POOL[noise.like[mine]] == noise.edge_attr[mine]).all()
            assert noise.copied[mine].all()
        if shape in ("wrong", "surge"):
            assert set(zip(noise.src[mine].tolist(), noise.dst[mine].tolist(), strict=True)) <= channels
        if shape == "random":
            assert max(src | dst) < KNOWN
    if shape in ("scan", "gather"):
        widest = max(
            len(set(end[noise.burst == b].tolist())) for b in np.unique(noise.burst) for end in (noise.src, noise.dst)
        )
        assert widest > 10


def test_the_number_is_exact_and_bursts_span_orders_of_magnitude() -> None:
    sizes = np.concatenate([np.bincount(draw(NoiseConfig(), seed=s).burst) for s in range(40)])
    assert sizes.sum() == 40 * 4000
    assert (sizes <= 3).any()
    assert ((sizes > 30) & (sizes < 300)).any()
    assert (sizes > 1500).any()


def test_new_hosts_are_numbered_without_gaps_above_the_known_ones() -> None:
    noise = draw(NoiseConfig(new_hosts=1.0))
    assert max(noise.src.max(), noise.dst.max()) < KNOWN + noise.num_new


def test_borrowed_amounts_are_those_of_the_flow_they_are_like() -> None:
    for odds in ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0)):
        noise = draw(NoiseConfig(attributes=odds))
        assert (noise.like >= 0).all()
        assert (noise.edge_attr == POOL[noise.like]).all()


def test_own_amounts_are_those_of_real_flows_at_the_same_host() -> None:
    noise = draw(only("flood", attributes=(0.0, 1.0, 0.0, 0.0), new_hosts=0.0))
    at = noise.like - 300
    inside = (at >= 0) & (at < 300)
    assert inside.mean() > 0.9  # a host without flows there borrows from anywhere
    same = (SRC[at[inside]] == noise.src[inside]) | (DST[at[inside]] == noise.dst[inside])
    assert same.mean() > 0.9


def test_a_tool_repeats_a_few_messages() -> None:
    kinds = []
    for seed in range(8):
        noise = draw(only("flood", attributes=(0.0, 0.0, 1.0, 0.0)), seed=seed)
        assert not noise.copied.any()
        bursts = [noise.edge_attr[noise.burst == b] for b in np.unique(noise.burst)]
        kinds += [len(np.unique(burst, axis=0)) / len(burst) for burst in bursts if len(burst) > 100]
    assert min(kinds) < 0.33  # the same to the byte
    assert max(kinds) > 0.9  # nearly the same


def test_wide_attributes_reach_where_flows_are_rare() -> None:
    shares = [
        (np.abs(draw(only("flood", attributes=(0.0, 0.0, 0.0, 1.0)), num=2_000, seed=s).edge_attr) > 2).mean()
        for s in range(10)
    ]
    assert np.mean(shares) > 2 * (np.abs(POOL) > 2).mean()


def test_the_share_is_log_uniform_in_odds() -> None:
    rng = np.random.default_rng(3)
    shares = np.array([draw_share(rng, NoiseConfig(min_share=0.01, max_share=0.99), 5_000) for _ in range(2000)])
    assert 0.0099 < shares.min() < 0.012
    assert 0.988 < shares.max() < 0.9901
    assert abs(np.mean(shares < 0.5) - 0.5) < 0.05


def test_large_windows_may_hold_a_small_share() -> None:
    rng = np.random.default_rng(3)
    config = NoiseConfig(min_share=0.01, max_share=0.99, min_flows=100)
    shares = np.array([draw_share(rng, config, 1_000_000) for _ in range(2000)])
    assert 0.0001 <= shares.min() < 0.00012
    assert 0.2 < np.mean(shares < 0.01) < 0.5


def test_uniform_noise_is_single_random_pairs() -> None:
    noise = draw(NoiseConfig(uniform=True))
    assert len(noise.shape) == 4000
    assert noise.num_new == 0


def test_the_same_seed_gives_the_same_noise() -> None:
    a, b = draw(NoiseConfig()), draw(NoiseConfig())
    assert all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(Noise))


@pytest.mark.parametrize(
    "bad",
    [
        {"shapes": (1.0,)},
        {"new_hosts": 9.0},
        {"shapes": (0.0,) * 7},
        {"min_share": 0.0},
        {"min_flows": 0},
        {"max_share": 1.0},
    ],
)
def test_odds_that_cannot_be_meant(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        NoiseConfig(**bad)  # type: ignore[arg-type]


def test_whoever_sends_amounts_of_a_real_flow_names_it() -> None:
    real = {row.tobytes() for row in POOL}
    shares = []
    for seed in range(8):
        noise = draw(only("flood", attributes=(0.0, 0.0, 1.0, 0.0)), seed=seed)
        copies = np.asarray([row.tobytes() in real for row in noise.edge_attr])
        assert np.array_equal(copies, noise.like >= 0)
        assert (POOL[noise.like[copies]] == noise.edge_attr[copies]).all()
        shares.append(copies.mean())
    assert 0 < np.mean(shares) < 1
