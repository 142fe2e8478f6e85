"""The compiled attention against a plain one in float64, and that one against a loop."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from thalweg.published.attention import attend


@dataclass(frozen=True)
class Case:
    """The arguments of `attend`."""

    peer: Tensor
    target: Tensor
    attr: Tensor
    key_attr: Tensor
    weigh: Tensor
    channel: Tensor
    channel_peer: Tensor
    channel_target: Tensor


def plainly(
    peer: Tensor,
    target: Tensor,
    attr: Tensor,
    *,
    key_attr: Tensor,
    weigh: Tensor,
    channel: Tensor,
    channel_peer: Tensor,
    channel_target: Tensor,
    slope: float = 0.2,
    times: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The same in plain torch, in any precision."""
    num_hosts, (heads, width) = len(peer), weigh.shape
    host = channel_target[channel]
    hidden = functional.leaky_relu(peer[channel_peer[channel]] + target[host] + attr @ key_attr, slope)
    score = (hidden.view(-1, heads, width) * weigh).sum(-1)  # (E, H)
    # Less the target's largest, so that any finite score is safe to exponentiate.
    peak = score.new_full((num_hosts, heads), -torch.inf)
    peak = peak.scatter_reduce(0, host[:, None].expand(-1, heads), score.detach(), "amax")
    weight = (score - peak[host]).exp()
    weight = weight if times is None else weight * times[:, None]
    mass = weight.new_zeros(num_hosts, heads).index_add(0, host, weight)
    weight = weight / mass[host]
    share = weight.new_zeros(len(channel_peer), heads).index_add(0, channel, weight)
    weighed = weight[:, :, None] * attr[:, None, :]
    return share, weighed.new_zeros(num_hosts, heads, attr.shape[1]).index_add(0, host, weighed)


def case(
    num_hosts: int = 6,
    num_channels: int = 9,
    num_flows: int = 40,
    num_attributes: int = 3,
    heads: int = 2,
    width: int = 8,
    spread: float = 1,
    seed: int = 0,
) -> Case:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def numbers(below: int, num: int) -> Tensor:
        return torch.randint(below, (num,), generator=generator)

    return Case(
        normal(num_hosts, heads * width),
        normal(num_hosts, heads * width),
        normal(num_flows, num_attributes) * spread,
        normal(num_attributes, heads * width),
        normal(heads, width) / width,
        numbers(num_channels, num_flows),
        numbers(num_hosts, num_channels),
        numbers(num_hosts, num_channels),
    )


def attended(case: Case) -> tuple[Tensor, Tensor]:
    return attend(**vars(case))


def exactly(case: Case) -> tuple[Tensor, Tensor]:
    return plainly(**{name: v.double() if v.is_floating_point() else v for name, v in vars(case).items()})


def test_the_reference_is_the_softmax_over_each_listeners_flows() -> None:
    peer, target, attr, key_attr, weigh, channel, channel_peer, channel_target = vars(case()).values()
    share, mean_attr = exactly(case())
    for head in range(2):
        part = slice(8 * head, 8 * head + 8)
        for v in range(6):
            scores = {}
            for i, c in enumerate(channel.tolist()):
                if channel_target[c] == v:
                    x = peer[channel_peer[c], part] + target[v, part] + attr[i] @ key_attr[:, part]
                    scores[i] = (torch.where(x > 0, x, 0.2 * x) @ weigh[head]).item()
            whole = sum(math.exp(s) for s in scores.values())
            weights = {i: math.exp(s) / whole for i, s in scores.items()}
            heard = sum((w * attr[i] for i, w in weights.items()), torch.zeros(3))
            torch.testing.assert_close(mean_attr[v, head].float(), heard, atol=1e-5, rtol=1e-5)
            for c in np.flatnonzero(channel_target == v):
                expected = sum(w for i, w in weights.items() if channel[i] == c)
                assert share[c, head].item() == pytest.approx(expected, abs=1e-5)


@settings(max_examples=60)
@given(
    st.builds(
        case,
        num_hosts=st.integers(1, 30),
        num_channels=st.integers(1, 60),
        num_flows=st.integers(0, 200),
        num_attributes=st.integers(1, 5),
        heads=st.integers(1, 4),
        width=st.sampled_from([1, 7, 16, 33]),
        seed=st.integers(0, 1000),
    )
)
def test_compiled_attention_is_the_references(case: Case) -> None:
    share, mean_attr = attended(case)
    exact_share, exact_mean = exactly(case)
    assert share.dtype == mean_attr.dtype == torch.float32
    torch.testing.assert_close(share.double(), exact_share, atol=1e-5, rtol=0)
    torch.testing.assert_close(mean_attr.double(), exact_mean, atol=1e-5, rtol=1e-5)


def test_thousands_of_flows_on_one_channel_add_up() -> None:
    crowded = case(num_hosts=2, num_channels=1, num_flows=30_000)
    share, mean_attr = attended(crowded)
    exact_share, exact_mean = exactly(crowded)
    torch.testing.assert_close(share.double(), exact_share, atol=1e-6, rtol=0)
    torch.testing.assert_close(mean_attr.double(), exact_mean, atol=1e-6, rtol=1e-5)
    assert torch.allclose(share.sum(0), torch.ones(2))


def test_scores_of_any_size_are_safe() -> None:
    extreme = case(spread=1e6)
    share, mean_attr = attended(extreme)
    exact_share, _ = exactly(extreme)
    assert mean_attr.isfinite().all()
    # Scores of hundreds of thousands: float32 still tells the largest of each target.
    torch.testing.assert_close(share.double(), exact_share, atol=1e-3, rtol=0)


def test_hosts_and_channels_without_flows_are_zero() -> None:
    some = case(num_hosts=4, num_channels=3, num_flows=5)
    quiet = Case(*vars(some).values())
    quiet.channel[:] = 1
    share, mean_attr = attended(quiet)
    has_flows = torch.arange(4) == quiet.channel_target[1]
    assert share[[0, 2]].abs().sum() == 0
    assert mean_attr[~has_flows].abs().sum() == 0
    torch.testing.assert_close(share[1], torch.ones(2))


def test_the_number_of_threads_changes_no_bit() -> None:
    wide = case(num_hosts=50, num_channels=400, num_flows=60_000)
    before = torch.get_num_threads()
    results = []
    try:
        for num in (1, 2, 3):
            torch.set_num_threads(num)
            results.append(attended(wide))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_the_order_of_flows_changes_only_the_rounding() -> None:
    forth = case(num_flows=300)
    turned = Case(*(v.flip(0) if name in ("attr", "channel") else v for name, v in vars(forth).items()))
    for a, b in zip(attended(forth), attended(turned), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_a_flow_that_stands_for_several_weighs_as_much() -> None:
    one = case()
    times = torch.from_numpy(np.random.default_rng(0).integers(1, 5, len(one.attr))).to(torch.int32)
    again = torch.repeat_interleave(times)
    apart = replace(one, attr=one.attr[again], channel=one.channel[again])
    for weigh in (attend, plainly):
        weighed, added = weigh(**vars(one), times=times), weigh(**vars(apart))
        for mine, other in zip(weighed, added, strict=True):
            torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-5)
