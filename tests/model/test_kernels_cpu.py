"""What scores on a CPU, held to the same in plain torch and float64: over random graphs, and at their edges."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from thalweg.addresses import IPV4
from thalweg.graph import FlowGraph, channel_features, channel_sums, collapse
from thalweg.model.kernels import cpu, kernels_for, reference
from thalweg.model.layers import DropoutSiLU

D, F, H, S = 8, 5, 2, 4


def random_graph(seed: int, num_hosts: int, num_channels: int, num_flows: int, scale: float = 1.0) -> FlowGraph:
    """Return a graph where some hosts have no flow, some channels lead to themselves, and some have many flows."""
    rng = np.random.default_rng(seed)
    ends = rng.integers(0, num_hosts, (2, num_channels))[:, (rng.random(num_flows) ** 3 * num_channels).astype(int)]
    attr = torch.from_numpy((rng.normal(size=(num_flows, F)) * scale).clip(-8, 8).astype(np.float32))
    octets, kind = torch.zeros(num_hosts, 16, dtype=torch.uint8), torch.full((num_hosts,), IPV4, dtype=torch.uint8)
    return collapse(torch.from_numpy(ends[0].copy()), torch.from_numpy(ends[1].copy()), attr, octets, kind).sorted()


GRAPHS = st.tuples(
    st.integers(0, 10_000),
    st.integers(1, 60),
    st.integers(1, 200),
    st.sampled_from([0, 1, 2, 300, 5_000]),
    st.sampled_from([0.0, 1.0, 1e3]),
)


def in_float64(graph: FlowGraph) -> FlowGraph:
    return replace(graph, edge_attr=graph.edge_attr.double())


def check_hearing(graph: FlowGraph, incoming: bool, spread: float) -> None:
    torch.manual_seed(0)
    num = graph.num_hosts
    peer, listener, value = torch.randn(num, H * S) * spread, torch.randn(num, H * S) * spread, torch.randn(num, D)
    key_attr, weigh = torch.randn(F, H * S), torch.randn(H, S)
    given = peer, listener, value, key_attr, weigh
    wide = peer.double(), listener.double(), value.double(), key_attr.double(), weigh.double()
    with torch.inference_mode():
        got = cpu.hear(*given, graph, incoming=incoming, bound=30.0)
        expected = reference.hear(*wide, in_float64(graph), incoming=incoming, bound=30.0)
    for mine, other in zip(got, expected, strict=True):
        assert mine.shape == other.shape
        assert torch.allclose(mine.double(), other, atol=2e-5, rtol=1e-4)


@given(GRAPHS, st.booleans(), st.sampled_from([0.1, 1.0]))
@settings(max_examples=60, deadline=None)
def test_hearing_is_the_reference(of: tuple[int, int, int, int, float], incoming: bool, spread: float) -> None:
    check_hearing(random_graph(*of), incoming, spread)


@pytest.mark.parametrize("incoming", [True, False])
def test_hearing_of_one_channel_with_many_flows(incoming: bool) -> None:
    check_hearing(random_graph(0, 2, 1, 200_000), incoming, 0.5)


def decoder_parts(num_waves: int) -> tuple[nn.Linear, nn.Sequential]:
    torch.manual_seed(1)
    last = nn.Sequential(DropoutSiLU(0.5), nn.Linear(D, D), DropoutSiLU(0.5), nn.Linear(D, 1)).eval()
    return nn.Linear(F + 2 * 3 * num_waves, D), last


def check_tail(graph: FlowGraph) -> None:
    of_flow, last = decoder_parts(5)
    common = torch.randn(graph.num_channels, D)
    with torch.inference_mode():
        got = cpu.tail(lambda begin, end: common[begin:end], graph, of_flow, last, 3, 5)
        wide = common.double()
        expected = reference.tail(
            lambda begin, end: wide[begin:end], in_float64(graph), of_flow.double(), last.double(), 3, 5
        )
    assert got.shape == (graph.num_flows,)
    assert torch.allclose(got.double(), expected, atol=1e-5)


@given(GRAPHS)
@settings(max_examples=60, deadline=None)
def test_the_tail_is_the_reference(of: tuple[int, int, int, int, float]) -> None:
    graph = random_graph(*of)
    if graph.num_flows:  # the decoder answers an empty window itself
        check_tail(graph)


def test_the_tail_of_one_channel_with_many_flows() -> None:
    check_tail(random_graph(0, 2, 1, 200_000))


def test_rows_are_what_the_layers_make_of_them_all() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(7, 6), nn.LayerNorm(6), nn.SiLU())
    parts = [torch.randn(5_000, 3), torch.randn(5_000, 4)]
    with torch.inference_mode():
        assert torch.allclose(cpu.by_rows(layers, parts), layers(torch.cat(parts, dim=1)), atol=1e-6)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_changes_no_bit(threads: int) -> None:
    graph = random_graph(3, 50, 120, 20_000)
    of_flow, last = decoder_parts(5)
    common = torch.randn(graph.num_channels, D, generator=torch.Generator().manual_seed(2))
    before = torch.get_num_threads()
    made: list[Tensor] = []
    try:
        for num in (3, threads):
            torch.set_num_threads(num)
            with torch.inference_mode():
                made.append(cpu.tail(lambda begin, end: common[begin:end], graph, of_flow, last, 3, 5))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*made)


def test_spreads_of_alike_flows_are_nothing() -> None:
    # The difference of two large numbers, which float32 would not see vanish.
    graph = random_graph(0, 1, 1, 50_000, scale=0.0)
    graph.edge_attr[:] = 7.3
    assert channel_features(graph, channel_sums(graph))[0, 2 + F :].abs().max() < 1e-6


def test_gradients_and_float64_are_the_references() -> None:
    assert kernels_for(torch.zeros(1)) is reference
    with torch.no_grad():
        assert kernels_for(torch.zeros(1)) is cpu
        assert kernels_for(torch.zeros(1, dtype=torch.float64)) is reference
