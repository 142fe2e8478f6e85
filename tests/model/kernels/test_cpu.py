"""What scores on a CPU, held to the same in plain torch and float64: over random graphs, and at their edges."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.model.kernels.checks import (
    D,
    F,
    check_attention,
    check_decoder,
    decoder_parts,
    graphs,
    random_graph,
    repeated,
)
from thalweg.graph import channel_features, channel_sums
from thalweg.model.kernels import cpu, kernels_for, reference
from thalweg.runtime.parallel import run_on_leader

GRAPHS = graphs(0, 1, 2, 300, 5_000)


@given(GRAPHS, st.booleans(), st.sampled_from([0.1, 1.0]))
@settings(max_examples=60)
def test_attention_is_the_reference(of: tuple[int, int, int, int, float], incoming: bool, spread: float) -> None:
    check_attention(cpu, random_graph(*of), incoming, spread)


@pytest.mark.parametrize("incoming", [True, False])
def test_attention_of_edges_that_stand_for_several_flows(incoming: bool) -> None:
    merged = repeated(random_graph(1, 20, 40, 300))
    assert merged.times is not None
    check_attention(cpu, merged, incoming, 0.5)
    # The same as of the flows one by one.
    flows = merged.edge_of
    assert flows is not None
    apart = replace(
        merged,
        **{name: getattr(merged, name)[flows] for name in ("src", "dst", "channel", "edge_attr")},
        channel_start=torch.cat([torch.zeros(1, dtype=torch.int64), merged.channel_size.cumsum(0)]),
        times=None,
        edge_of=None,
    )
    torch.manual_seed(0)
    (peer, target, value), key, weigh = torch.randn(3, 20, D), torch.randn(F, D), torch.randn(2, D // 2)
    with torch.inference_mode():
        one, other = (
            cpu.attend(peer, target, value, key, weigh, graph, incoming=incoming, bound=30.0)
            for graph in (merged, apart)
        )
    for mine, theirs in zip(one, other, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)


@pytest.mark.parametrize("incoming", [True, False])
def test_attention_of_one_channel_with_many_flows(incoming: bool) -> None:
    check_attention(cpu, random_graph(0, 2, 1, 200_000), incoming, 0.5)


@given(GRAPHS)
@settings(max_examples=60)
def test_the_decoder_is_the_reference(of: tuple[int, int, int, int, float]) -> None:
    graph = random_graph(*of)
    if graph.num_flows:  # the decoder answers an empty window itself
        check_decoder(cpu, graph)


def test_the_decoder_of_one_channel_with_many_flows() -> None:
    check_decoder(cpu, random_graph(0, 2, 1, 200_000))


def test_rows_are_what_the_layers_make_of_them_all() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(7, 6), nn.LayerNorm(6), nn.SiLU())
    parts = [torch.randn(5_000, 3), torch.randn(5_000, 4)]
    with torch.inference_mode():
        made = cpu.rowwise(lambda *parts: layers(torch.cat(parts, dim=1)), *parts)
        assert torch.allclose(made, layers(torch.cat(parts, dim=1)), atol=1e-6)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_changes_no_bit(threads: int) -> None:
    graph = random_graph(3, 50, 120, 50_000)
    of_flow, last = decoder_parts(5)
    common = torch.randn(graph.num_channels, D, generator=torch.Generator().manual_seed(2))
    before = torch.get_num_threads()
    made: list[Tensor] = []
    try:
        for num in (3, threads):
            torch.set_num_threads(num)
            made.append(
                run_on_leader(
                    lambda: cpu.decode_edges(lambda begin, end: common[begin:end], graph, of_flow, last, 3, 5)
                )
            )
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
