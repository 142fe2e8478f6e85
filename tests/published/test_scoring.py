"""The published model's scoring path against PyTorch Geometric's execution of the same network in float64.

The Graph U-Net keeps the better half of the hosts, three times over. Which half is decided by comparing numbers, and
where two hosts at the cut are nearly as good, float32 may choose the other one: then both results are right, and
differ. So a comparison first makes sure that in float64 the cut is clear at every level, and passes over graphs where
it is not. Hosts that are alike in all they have and do stand equal at any precision; random features leave none.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.sparse
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch_geometric.nn.pool.select import SelectTopK

from tests.conftest import make_flows
from thalweg.graph import FlowGraph, collapse
from thalweg.published import decoder, scoring, unet
from thalweg.published.graph import hop_sum
from thalweg.published.model import PublishedConfig, PublishedGAE
from thalweg.published.network import PublishedNetwork
from thalweg.published.sparse import CSR, TwoSteps, times

CLEAR = 3e-5
"""How far apart the last kept and the first dropped host must be, as a share of the largest; float32 is wrong by a
tenth of it or less."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module")
def network(_one_thread: None) -> PublishedNetwork:
    """Weights that leave no part without effect: batch norm with statistics, no bias of zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        network = PublishedNetwork().eval()
        for name, weight in network.state_dict().items():
            if name.endswith("running_var"):
                weight.uniform_(0.5, 2)
            elif name.endswith(("bias", "running_mean", "batch_norm.weight")):
                weight.normal_(0.2, 0.3)
    return network


@pytest.fixture(scope="module")
def exact(network: PublishedNetwork) -> PublishedNetwork:
    return copy.deepcopy(network).double()


def clear_cut(exact: PublishedNetwork, x: Tensor, edge_index: Tensor, attr: Tensor) -> tuple[Tensor, bool]:
    """Return PyTorch Geometric's logits in float64, and whether every level's cut is clear."""
    gaps: list[float] = []

    def look(pool: SelectTopK, inputs: tuple[Any, ...], _: Any) -> None:
        rating = inputs[0] @ pool.weight[0] / pool.weight.norm()
        ranked = rating.sort(descending=True).values
        num_kept = -(-len(ranked) // 2)
        if num_kept < len(ranked):
            gaps.append(((ranked[num_kept - 1] - ranked[num_kept]) / ranked.abs().max()).item())

    hooks = [pool.select.register_forward_hook(look) for pool in exact.encoder.unet.pools]
    with torch.no_grad():
        z = exact.encode(x.double(), edge_index, attr.double())
        window = torch.zeros(len(x), dtype=torch.int64)
        logit = exact.decode(z, edge_index, attr.double(), window, 1)
    for hook in hooks:
        hook.remove()
    return logit, min(gaps, default=1.0) > CLEAR


def graph(
    num_hosts: int, num_flows: int, seed: int, *, num_outliers: int = 0, crowded: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Hosts of very different degree, flows to oneself among the others, all hosts on a flow where there are enough."""
    rng = np.random.default_rng(seed)
    popular = rng.random(num_hosts) ** 4 + 1e-3
    ends = rng.choice(num_hosts, (2, num_flows), p=popular / popular.sum())
    ends[0, :num_hosts] = np.arange(num_hosts)[:num_flows]
    ends = np.concatenate([ends, np.repeat(ends[:, :1], crowded, axis=1)], axis=1)
    ends = rng.permutation(ends, axis=1)
    # Standardised attributes repeat a lot, and a few are hundreds of deviations away.
    attr = rng.normal(0, 1, (ends.shape[1], 3)).round(1)
    attr[rng.integers(0, len(attr), num_outliers)] *= 300
    x = torch.from_numpy(rng.normal(0, 1, (num_hosts, 32))).float()
    return x, torch.from_numpy(ends), torch.from_numpy(attr).float()


def merged(edge_index: Tensor, attr: Tensor, num_hosts: int) -> FlowGraph:
    octets, kind = torch.zeros(num_hosts, 16, dtype=torch.uint8), torch.zeros(num_hosts, dtype=torch.uint8)
    return collapse(edge_index[0].contiguous(), edge_index[1].contiguous(), attr, octets, kind).merged()


def compare(network: PublishedNetwork, exact: PublishedNetwork, x: Tensor, edge_index: Tensor, attr: Tensor) -> bool:
    expected, clear = clear_cut(exact, x, edge_index, attr)
    if clear:
        logit = scoring.rate(network, x, merged(edge_index, attr, len(x)))
        assert logit.dtype == torch.float32
        scale = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(logit.double(), expected, atol=1e-5 * scale, rtol=0)
        torch.testing.assert_close(logit.double().sigmoid(), expected.sigmoid(), atol=1e-5, rtol=0)
    return clear


@pytest.mark.parametrize("dense", [0, 10_000])
@settings(max_examples=20)
@given(num_hosts=st.integers(1, 60), num_flows=st.integers(1, 250), seed=st.integers(0, 10_000))
def test_logits_are_pytorch_geometrics_in_float64(
    network: PublishedNetwork, exact: PublishedNetwork, dense: int, num_hosts: int, num_flows: int, seed: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unet, "_DENSE", dense)
        assume(compare(network, exact, *graph(num_hosts, num_flows, seed)))


@pytest.mark.parametrize("dense", [0, 10_000])
def test_a_bigger_window_with_thousands_of_parallel_flows_and_outliers(
    network: PublishedNetwork, exact: PublishedNetwork, dense: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unet, "_DENSE", dense)
    num_clear = sum(compare(network, exact, *graph(300, 1500, seed, num_outliers=5, crowded=3000)) for seed in range(6))
    assert num_clear >= 2


@pytest.mark.parametrize(
    "pairs",
    [[(0, 0)], [(0, 0), (0, 0)], [(0, 1)], [(0, 1), (1, 0), (1, 1)], [(0, 1), (2, 3), (4, 5), (6, 7)]],
    ids=["one host", "one host twice", "one flow", "both ways", "no neighbours in common"],
)
def test_the_smallest_windows(network: PublishedNetwork, exact: PublishedNetwork, pairs: list[tuple[int, int]]) -> None:
    edge_index = torch.tensor(pairs).T.contiguous()
    num_hosts = int(edge_index.max()) + 1
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(num_hosts, 32, generator=generator)
    attr = torch.randn(len(pairs), 3, generator=generator)
    assert compare(network, exact, x, edge_index, attr)


def test_parallel_flows_keep_a_score_each_in_the_order_they_came(network: PublishedNetwork) -> None:
    x, edge_index, attr = graph(5, 40, 1)
    logit = scoring.rate(network, x, merged(edge_index, attr, 5))
    turned = scoring.rate(network, x, merged(edge_index.flip(1), attr.flip(0), 5))
    torch.testing.assert_close(turned.flip(0), logit, atol=1e-5, rtol=1e-5)
    assert len(torch.unique(logit)) == len(torch.unique(torch.cat([edge_index.T.float(), attr], dim=1), dim=0))


def test_the_number_of_threads_changes_only_what_torch_rounds(network: PublishedNetwork) -> None:
    x, edge_index, attr = graph(200, 3000, 4)
    flows = merged(edge_index, attr, 200)
    once = scoring.rate(network, x, flows)
    assert torch.equal(scoring.rate(network, x, flows), once)
    torch.set_num_threads(2)
    try:
        torch.testing.assert_close(scoring.rate(network, x, flows), once, atol=1e-5, rtol=1e-5)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("common", [1, 4, 10**9])
def test_common_and_rare_patterns_are_one_layer(
    network: PublishedNetwork, exact: PublishedNetwork, common: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "_COMMON", common)
    monkeypatch.setattr(decoder, "_RUN", 70)
    _, edge_index, attr = graph(20, 500, 3, num_outliers=3)
    z = torch.randn(20, 256, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = exact.decode(z.double(), edge_index, attr.double(), torch.zeros(20, dtype=torch.int64), 1)
        flows = merged(edge_index, attr, 20)
        logit = flows.by_flow(decoder.rate(network, z, flows))
    torch.testing.assert_close(logit.double(), expected, atol=1e-5, rtol=1e-5)


def test_elu_is_exact_to_float32_everywhere() -> None:
    x = np.concatenate([np.linspace(-100, 100, 20_001), -np.geomspace(1e-30, 1e30, 500), [0.0]]).astype(np.float32)
    ours = np.array([decoder._elu(value) for value in x])
    expected = np.where(x > 0, x, np.expm1(np.minimum(x, 0).astype(np.float64)))
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=2e-7)


def dense_levels(near: npt.NDArray[np.float64], *kept: npt.NDArray[np.int64]) -> list[npt.NDArray[np.float64]]:
    levels = []
    for keep in kept:
        square = (near @ near)[np.ix_(keep, keep)]
        levels.append(square - np.diag(np.diag(square)))
        near = levels[-1] + np.eye(len(keep))
    return levels


def sparse(matrix: Any) -> CSR:
    row, col = np.nonzero(matrix)
    return CSR.of(row, col, matrix[row, col], matrix.shape)


def test_walks_that_return_are_those_of_the_squares() -> None:
    rng = np.random.default_rng(0)
    graph = rng.poisson(0.1, (60, 60)).astype(np.float64)
    np.fill_diagonal(graph, 1)
    kept = [rng.permutation(60)[:31], rng.permutation(31)[:16], rng.permutation(16)[:9]]
    first, second, _ = dense_levels(graph, *kept)
    steps = TwoSteps.among(sparse(graph), kept[0])
    np.testing.assert_array_equal(steps.dense() - np.diag(steps.closed), first)
    x = rng.normal(size=(31, 5))
    np.testing.assert_allclose(steps.apply(x), first @ x, atol=1e-9)
    near = first + np.eye(31)
    np.testing.assert_allclose(steps.closed_by_two(kept[1]), np.diag(near @ near)[kept[1]])
    near = second + np.eye(16)
    np.testing.assert_allclose(steps.closed_by_four(kept[1], kept[2]), np.diag(near @ near)[kept[2]])


def test_sparse_rows_times_columns() -> None:
    rng = np.random.default_rng(1)
    matrix = scipy.sparse.random_array((40, 30), density=0.2, rng=rng, format="csr")
    x = rng.normal(size=(30, 7))
    np.testing.assert_allclose(times(sparse(matrix.toarray()), x), matrix @ x, atol=1e-12)


def test_a_matrix_has_the_entries_of_scipys_in_the_same_order() -> None:
    rng = np.random.default_rng(2)
    theirs = scipy.sparse.random_array((40, 40), density=0.2, rng=rng, format="csr")
    theirs.setdiag(0)
    theirs.eliminate_zeros()
    row, col, value = scipy.sparse.find(theirs)
    places = rng.permutation(len(row))
    ours = CSR.of(row[places].astype(np.int64), col[places].astype(np.int64), value[places], theirs.shape)
    keep = rng.permutation(40)[:17]
    for made, expected in (
        (ours, theirs),
        (ours.plus_identity(), theirs + scipy.sparse.eye_array(40, format="csr")),
        (ours.rows(keep), theirs[keep]),
        (ours.columns(keep), theirs[:, keep]),
        (ours.columns(keep).transposed(), theirs[:, keep].T.tocsr()),
    ):
        assert (made.num_rows, made.num_cols) == expected.shape
        for name, part in zip(("indptr", "indices", "data"), made.arrays(), strict=True):
            np.testing.assert_array_equal(part, getattr(expected, name))


def test_hop_sums_by_channel_are_those_by_flow() -> None:
    _, edge_index, attr = graph(12, 90, 0)
    e0 = torch.rand(12, 32)
    src, dst = edge_index
    by_channel = hop_sum(e0, src, dst, average=scoring.averaging(merged(edge_index, attr, 12)))
    torch.testing.assert_close(by_channel, hop_sum(e0, src, dst), atol=1e-6, rtol=1e-5)


def test_the_model_scores_by_this_path_what_its_network_gives() -> None:
    flows = make_flows(300)
    model = PublishedGAE(PublishedConfig(window_size=150, num_epochs=1))
    model.fit(flows, np.zeros(300, bool), seed=1, device=torch.device("cpu"), progress=lambda _: None)
    preparation, network = model._fitted()
    whole = preparation.graph(flows)
    expected, clear = clear_cut(copy.deepcopy(network).double(), whole.x, whole.edge_index, whole.edge_attr)
    assert clear
    np.testing.assert_allclose(model.logits(flows), expected.numpy(), atol=1e-5)
