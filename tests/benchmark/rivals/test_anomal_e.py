"""Anomal-E: its network against the formulas written out, its training, what its detectors share."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.conftest import make_flows
from thalweg.benchmark.rivals import rival
from thalweg.benchmark.rivals.anomal_e import model as module
from thalweg.benchmark.rivals.anomal_e.model import HEADS, AnomalE, AnomalEConfig, EdgeEmbedding, anomal_e
from thalweg.benchmark.rivals.anomal_e.network import AnomalENetwork, UndirectedGraph
from thalweg.errors import ConfigError
from thalweg.model.interface import Progress
from thalweg.tables import Flows

CPU = torch.device("cpu")
FEW = AnomalEConfig(num_epochs=8)

# 0 -> 1 twice, 1 -> 0, 2 -> 1, 2 -> 2, 3 -> 0.
SRC, DST = torch.tensor([0, 0, 1, 2, 2, 3]), torch.tensor([1, 1, 0, 1, 2, 0])


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture
def attr() -> Tensor:
    return torch.rand(6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def network() -> AnomalENetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return AnomalENetwork(3).double()


def fit(model: AnomalE, flows: Flows, *, seed: int = 3) -> None:
    model.fit(flows, np.arange(len(flows)) % 5 == 0, seed=seed, device=CPU, progress=lambda _: None)


def test_the_graph_has_every_flow_there_and_back(attr: Tensor) -> None:
    graph = UndirectedGraph.build(SRC, DST, attr, 4)
    arrivals = sorted(zip(graph.to.tolist(), graph.flow.tolist(), strict=True))
    at = {0: [0, 1, 2, 5], 1: [0, 1, 2, 3], 2: [3, 4], 3: [5]}
    assert arrivals == [(host, flow) for host, flows in at.items() for flow in flows]
    mean = torch.stack([attr[flows].mean(0) for flows in at.values()])
    torch.testing.assert_close(graph.incoming(), mean)
    channels = list(zip(graph.channel_src.tolist(), graph.channel_dst.tolist(), strict=True))
    assert channels == [(0, 1), (0, 3), (1, 0), (1, 2), (2, 1), (2, 2), (3, 0)]
    torch.testing.assert_close(graph.share * 11, torch.tensor([3.0, 1, 3, 1, 1, 1, 1], dtype=torch.float64))


def edge_embedding(network: AnomalENetwork, incoming: dict[int, Tensor], u: int, v: int) -> Tensor:
    weight, one = dict(network.named_parameters()), torch.ones(3, dtype=torch.float64)

    def host(w: int) -> Tensor:
        return torch.relu(weight["host.weight"] @ torch.cat([one, incoming[w]]) + weight["host.bias"])

    return weight["edge.weight"] @ torch.cat([host(u), host(v)]) + weight["edge.bias"]


def test_the_loss_equals_the_formula_edge_by_edge(network: AnomalENetwork, attr: Tensor) -> None:
    graph = UndirectedGraph.build(SRC, DST, attr, 4)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(4))
    there = list(zip(SRC.tolist(), DST.tolist(), range(6), strict=True))
    edges = there + [(v, u, i) for u, v, i in there if u != v]

    def embed(flow: list[int]) -> Tensor:
        at = {w: [flow[k] for k, (_, v, _) in enumerate(edges) if v == w] for w in range(4)}
        incoming = {w: torch.stack([attr[i] for i in flows]).mean(0) for w, flows in at.items()}
        return torch.stack([edge_embedding(network, incoming, u, v) for u, v, _ in edges])

    own = [i for _, _, i in edges]
    z, z_corrupt = embed(own), embed([own[k] for k in order.tolist()])
    assert z.shape == (11, 256)
    direction = network.discriminator @ torch.sigmoid(z.mean(0))
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    one = torch.ones(11, dtype=torch.float64)
    expected = bce(z @ direction, one) + bce(z_corrupt @ direction, 0 * one)
    torch.testing.assert_close(network.infomax_loss(graph, order), expected, rtol=1e-10, atol=0)
    h = network.hosts(graph.incoming())
    torch.testing.assert_close(network.edges(h, SRC, DST), z[:6])


def test_training_lowers_the_loss_and_keeps_the_best_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rival, "_PROGRESS_S", 0.0)
    reports: list[Progress] = []
    model = anomal_e(AnomalEConfig(num_epochs=150))[1]
    flows = make_flows(400)
    summary = model.fit(flows, np.zeros(400, bool), seed=3, device=CPU, progress=reports.append)
    losses = [t.loss for t in reports]
    assert len(losses) == 150
    assert summary.best_epoch == int(np.argmin(losses)) + 1
    assert min(losses) < 0.6 * losses[0]
    assert reports[-1].share == 1
    # Another draw of the corruption, so not the same loss to the last digit.
    assert summary.held_out_loss < 0.8 * losses[0]


def test_flows_of_a_channel_share_a_score_and_directions_do_not() -> None:
    flows = make_flows(400)
    model = anomal_e(FEW)[3]
    fit(model, flows)
    logit = model.logits(flows)
    pairs = list(zip(flows.frame["src_addr"], flows.frame["dst_addr"], strict=True))
    by_pair = {pair: {float(s) for p, s in zip(pairs, logit, strict=True) if p == pair} for pair in set(pairs)}
    assert all(len(scores) == 1 for scores in by_pair.values())
    assert len(np.unique(logit)) > 10


def test_four_detectors_train_one_embedding_for_the_same_flows_and_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[int] = []
    train = EdgeEmbedding._train

    def watch(self: EdgeEmbedding, learned: Flows, judged: Flows, seed: int, *rest: object) -> object:
        trained.append(seed)
        return train(self, learned, judged, seed, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(EdgeEmbedding, "_train", watch)
    models = anomal_e(FEW)
    assert [model.name for model in models] == [f"anomal-e-{head}" for head in HEADS]
    for model in models:
        fit(model, make_flows(400))
    assert trained == [3]
    before = models[0].logits(make_flows(400))
    fit(models[1], make_flows(400), seed=4)
    fit(models[1], make_flows(300), seed=4)
    assert trained == [3, 4, 4]
    # What one of them learns later does not change what another has learned.
    np.testing.assert_array_equal(models[0].logits(make_flows(400)), before)


def test_detectors_learn_from_few_flows_and_rate_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, pieces = (anomal_e(AnomalEConfig(num_epochs=2, num_head_flows=50))[2] for _ in range(2))
    for model in (whole, pieces):
        fit(model, make_flows(400))
    expected = whole.logits(make_flows(400))
    monkeypatch.setattr(module, "_CHUNK", 7)
    np.testing.assert_allclose(pieces.logits(make_flows(400)), expected, rtol=1e-6)


def test_an_interrupt_keeps_the_best_state_so_far() -> None:
    def interrupt(_: Progress) -> None:
        raise KeyboardInterrupt

    model = anomal_e(FEW)[1]
    flows, held_out = make_flows(200), np.zeros(200, bool)
    summary = model.fit(flows, held_out, seed=3, device=CPU, progress=interrupt)
    assert (summary.stopped, summary.num_epochs, summary.best_epoch) == ("interrupted", 1, 1)
    assert np.isfinite(model.logits(flows)).all()


def test_settings_out_of_range() -> None:
    with pytest.raises(ConfigError, match="num_epochs must be above 0, not 0"):
        AnomalEConfig(num_epochs=0)
    with pytest.raises(ConfigError, match="no head 'knn' for Anomal-E: choose from cblof"):
        AnomalE("knn", EdgeEmbedding(FEW))
