"""Compiled loops give the same as plain NumPy and torch."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.addresses import IPV4, parse_addresses
from thalweg.graph import Adjacency, collapse, neighbours, undirected
from thalweg.graph import compiled as loops
from thalweg.graph.adjacency import propagate, two_steps
from thalweg.graph.flowgraph import FlowGraph

PAIRS = st.integers(1, 12).flatmap(
    lambda num: st.tuples(
        st.just(num), st.lists(st.tuples(st.integers(0, num - 1), st.integers(0, num - 1)), max_size=60)
    )
)


def graph_of(num_hosts: int, pairs: list[tuple[int, int]]) -> FlowGraph:
    src, dst = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).t().contiguous()
    attr = torch.arange(len(pairs), dtype=torch.float32)[:, None]
    octets, kind = torch.zeros(num_hosts, 16, dtype=torch.uint8), torch.full((num_hosts,), IPV4, dtype=torch.uint8)
    return collapse(src, dst, attr, octets, kind)


@given(PAIRS)
@settings(max_examples=60)
def test_channels_are_the_sorted_unique_pairs(of: tuple[int, list[tuple[int, int]]]) -> None:
    num, pairs = of
    graph = graph_of(num, pairs)
    unique = sorted(set(pairs))
    assert list(zip(graph.channel_src.tolist(), graph.channel_dst.tolist(), strict=True)) == unique
    assert [unique[c] for c in graph.channel.tolist()] == pairs
    assert graph.channel_size.tolist() == [pairs.count(pair) for pair in unique]
    # The flows of a channel keep their order.
    assert graph.order.tolist() == sorted(range(len(pairs)), key=lambda i: (pairs[i], i))
    ordered = graph.sorted()
    assert ordered.edge_attr[:, 0].tolist() == graph.order.tolist()
    assert list(zip(ordered.src.tolist(), ordered.dst.tolist(), strict=True)) == sorted(pairs)
    assert ordered.sorted() is ordered


@given(PAIRS)
@settings(max_examples=60)
def test_neighbours_are_those_of_both_directions(of: tuple[int, list[tuple[int, int]]]) -> None:
    num, pairs = of
    graph = graph_of(num, pairs)
    mine, other = neighbours(graph), undirected(graph.src, graph.dst, num)
    assert torch.equal(mine.start, other.start)
    assert torch.equal(mine.col, other.col)


@given(PAIRS, st.integers(0, 5))
@settings(max_examples=60)
def test_two_steps_are_the_square_between_kept_hosts(of: tuple[int, list[tuple[int, int]]], seed: int) -> None:
    num, pairs = of
    adjacency = neighbours(graph_of(num, pairs))
    keep = torch.from_numpy(np.random.default_rng(seed).permutation(num)[: 1 + num // 2])
    dense = dense_of(adjacency) + torch.eye(num)
    expected = (dense @ dense)[keep][:, keep].fill_diagonal_(0)
    assert torch.equal(two_steps(adjacency, keep, torch.float32), expected)


def dense_of(adjacency: Adjacency) -> torch.Tensor:
    num = len(adjacency.start) - 1
    dense = torch.zeros(num, num)
    dense[torch.repeat_interleave(adjacency.degree), adjacency.col] = 1
    return dense


def test_propagation_is_a_sparse_product() -> None:
    rng = np.random.default_rng(0)
    pairs = [(int(a), int(b)) for a, b in rng.integers(0, 2000, (3000, 2))]
    adjacency = neighbours(graph_of(2000, pairs))
    torch.manual_seed(0)
    x, factor, kept = torch.randn(2000, 5), torch.rand(2000), torch.randn(5)
    expected = factor[:, None] * (dense_of(adjacency) @ x + 2 * x) + kept
    assert torch.allclose(propagate(adjacency, x, factor, 2.0, kept), expected, atol=1e-5)


TEXTS = ["10.0.0.7", "255.255.255.255", "0.0.0.0", "1.2.3", "1.2.3.4.5", "256.1.1.1", "01.2.3.4", "1..2.3", ".1.2.3",
         "1.2.3.", "::1", "printer", "1.2.3.4 ", "1.2.3.a", "999999999999.1.1.1", "00.1.1.1", "1.2.3.04"]  # fmt: skip


@given(st.lists(st.sampled_from(TEXTS) | st.text("0123456789.", max_size=16), min_size=1, max_size=30))
@settings(max_examples=100)
def test_ipv4_is_parsed_as_by_parse_addresses(texts: list[str]) -> None:
    data = "".join(texts).encode()
    start = np.concatenate([[0], np.cumsum([len(text) for text in texts])])
    key = np.empty(len(texts), np.int64)
    loops.parse_v4(np.frombuffer(data + b" ", np.uint8), start, key, 0, len(texts))
    octets, kind = parse_addresses(pl.Series(texts))
    expected = np.ascontiguousarray(octets[:, 12:]).view(">u4").ravel()
    assert ((key >= 0) == (kind == IPV4)).all()
    assert (key[key >= 0] == expected[key >= 0]).all()


@pytest.mark.parametrize("num_distinct", [1, 3, 511, 512, 513, 40_000])
def test_numbers_come_in_order_of_first_appearance(num_distinct: int) -> None:
    rng = np.random.default_rng(0)
    key = rng.integers(0, 2**40, num_distinct)[rng.integers(0, num_distinct, 50_000)]
    code = np.empty(len(key), np.int64)
    first = loops.number(key, code)
    unique, at = np.unique(key, return_index=True)
    assert np.array_equal(first, np.sort(at))
    assert np.array_equal(key[first][code], key)
    assert len(first) == len(unique)


def test_reverse_channels_are_found() -> None:
    rng = np.random.default_rng(0)
    pairs = [(int(a), int(b)) for a, b in rng.integers(0, 30, (400, 2))]
    graph = graph_of(30, pairs)
    back = np.empty(graph.num_channels, np.int64)
    ends = graph.channel_src.numpy(), graph.channel_dst.numpy()
    loops.reverse_sizes(*ends, graph.channel_size.numpy(), 30, back)
    assert back.tolist() == [pairs.count((v, u)) for u, v in zip(*ends, strict=True)]


@given(PAIRS, st.integers(1, 3))
@settings(max_examples=60)
def test_equal_flows_of_a_channel_become_one_edge(of: tuple[int, list[tuple[int, int]]], num_kinds: int) -> None:
    num, pairs = of
    src, dst = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).t().contiguous()
    attr = torch.arange(2 * len(pairs), dtype=torch.float32).reshape(-1, 2) // 2 % num_kinds
    octets, kind = torch.zeros(num, 16, dtype=torch.uint8), torch.full((num,), IPV4, dtype=torch.uint8)
    graph = collapse(src, dst, attr, octets, kind)
    merged = graph.merged()
    flows = [(*pair, *row) for pair, row in zip(pairs, attr.tolist(), strict=True)]
    ends = zip(merged.src.tolist(), merged.dst.tolist(), strict=True)
    edges = [(*pair, *row) for pair, row in zip(ends, merged.edge_attr.tolist(), strict=True)]
    assert (merged.num_flows, merged.num_edges) == (len(flows), len(edges))
    assert merged.channel_size.tolist() == graph.channel_size.tolist()
    # Each flow gets an edge with its own attributes.
    assert [edges[e] for e in merged.by_flow(torch.arange(len(edges))).tolist()] == flows
    if merged.times is not None:
        assert sorted(set(flows)) == sorted(edges)
        assert merged.times.tolist() == [flows.count(edge) for edge in edges]
        assert merged.channel.tolist() == sorted(merged.channel.tolist())
        assert merged.channel_start.diff().tolist() == torch.bincount(merged.channel).tolist()
    else:
        assert [flows[i] for i in graph.order.tolist()] == edges


@given(st.lists(st.integers(0, 9), max_size=60))
def test_grouping_is_a_stable_sort(keys: list[int]) -> None:
    key = np.array(keys, np.int64)
    order, start = loops.sort(key, 10)
    assert order.tolist() == np.argsort(key, kind="stable").tolist()
    assert np.diff(start).tolist() == np.bincount(key, minlength=10).tolist()
