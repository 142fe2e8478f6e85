"""Random graphs, and what a body of the kernels must make of them: the same as `reference` in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from thalweg.addresses import IPV4
from thalweg.graph import FlowGraph, collapse
from thalweg.model.kernels import Kernels, reference
from thalweg.model.layers import DropoutSiLU
from thalweg.runtime.parallel import Ints

D, F, H, S = 8, 5, 2, 4
CPU = torch.device("cpu")


def random_graph(seed: int, num_hosts: int, num_channels: int, num_flows: int, scale: float = 1.0) -> FlowGraph:
    """Return a graph where some hosts have no flow, some channels lead to themselves, and some have many flows."""
    rng = np.random.default_rng(seed)
    ends = rng.integers(0, num_hosts, (2, num_channels))[:, (rng.random(num_flows) ** 3 * num_channels).astype(int)]
    return graph_of(ends[0], ends[1], (rng.normal(size=(num_flows, F)) * scale).clip(-8, 8), num_hosts)


def graph_of(src: Ints, dst: Ints, attr: npt.NDArray[np.float64], num_hosts: int) -> FlowGraph:
    octets, kind = torch.zeros(num_hosts, 16, dtype=torch.uint8), torch.full((num_hosts,), IPV4, dtype=torch.uint8)
    ends = torch.from_numpy(src.copy()), torch.from_numpy(dst.copy())
    return collapse(*ends, torch.from_numpy(attr.astype(np.float32)), octets, kind).sorted()


def repeated(graph: FlowGraph, seed: int = 0) -> FlowGraph:
    """Return the graph with each edge standing for one to four flows."""
    times = np.random.default_rng(seed).integers(1, 5, graph.num_edges)
    again = torch.from_numpy(np.repeat(np.arange(graph.num_edges), times))
    ends = graph.src[again], graph.dst[again]
    merged = collapse(*ends, graph.edge_attr[again], graph.octets, graph.kind).merged()
    assert not graph.num_edges or merged.times is not None or merged.num_edges > 0.95 * merged.num_flows
    return merged


def graphs(*num_flows: int) -> st.SearchStrategy[tuple[int, int, int, int, float]]:
    """Arguments of `random_graph`."""
    return st.tuples(
        st.integers(0, 10_000),
        st.integers(1, 60),
        st.integers(1, 200),
        st.sampled_from(num_flows),
        st.sampled_from([0.0, 1.0, 1e3]),
    )


def in_float64(graph: FlowGraph) -> FlowGraph:
    return replace(graph, edge_attr=graph.edge_attr.double())


def check_attention(
    kernels: Kernels,
    graph: FlowGraph,
    incoming: bool,
    spread: float,
    *,
    width: int = D,
    heads: int = H,
    score_width: int = S,
    device: torch.device = CPU,
) -> None:
    torch.manual_seed(0)
    num, both = graph.num_hosts, heads * score_width
    peer, target, value = torch.randn(num, both) * spread, torch.randn(num, both) * spread, torch.randn(num, width)
    key_attr, weigh = torch.randn(both, F).t(), torch.randn(heads, score_width)  # as layers give it: a transpose

    def attend(by: Kernels, graph: FlowGraph, move: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        hosts = move(peer), move(target), move(value)
        return by.attend(*hosts, move(key_attr), move(weigh), graph, incoming=incoming, bound=30.0)

    with torch.inference_mode():
        got = attend(kernels, graph.to(device), lambda part: part.to(device))
        expected = attend(reference, in_float64(graph), Tensor.double)
    for mine, other in zip(got, expected, strict=True):
        assert mine.shape == other.shape
        assert mine.dtype == torch.float32
        assert torch.allclose(mine.cpu().double(), other, atol=2e-5, rtol=1e-4)


def decoder_parts(num_waves: int, width: int = D) -> tuple[nn.Linear, nn.Sequential]:
    torch.manual_seed(1)
    last = nn.Sequential(DropoutSiLU(0.5), nn.Linear(width, width), DropoutSiLU(0.5), nn.Linear(width, 1)).eval()
    return nn.Linear(F + 2 * 3 * num_waves, width), last


def check_decoder(
    kernels: Kernels, graph: FlowGraph, *, width: int = D, num_waves: int = 5, device: torch.device = CPU
) -> None:
    of_flow, last = decoder_parts(num_waves, width)
    common = torch.randn(graph.num_channels, width)
    wide, there = common.double(), common.to(device)
    with torch.inference_mode():
        got = kernels.decode_edges(
            lambda begin, end: there[begin:end], graph.to(device), of_flow.to(device), last.to(device), 3, num_waves
        )
        layers = of_flow.to(CPU).double(), last.to(CPU).double()
        expected = reference.decode_edges(lambda begin, end: wide[begin:end], in_float64(graph), *layers, 3, num_waves)
    assert got.shape == (graph.num_flows,)
    assert torch.allclose(got.cpu().double(), expected, atol=1e-5)
