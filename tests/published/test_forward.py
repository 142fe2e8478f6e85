"""The published graph autoencoder, the whole way from flows to logits, against its formulas in loops and float64.

Source: the formulas of gnn-netflow-ad (NVIDIA morpheus-experimental), GATv2 (arXiv:2105.14491), GCN
(arXiv:1609.02907) and Graph U-Nets (arXiv:1905.05178), in the variants that PyTorch Geometric documents.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
import torch

from thalweg.published.graph import Preparation, PublishedGraph
from thalweg.published.model import PublishedConfig, PublishedGAE
from thalweg.published.network import PublishedNetwork
from thalweg.tables import Flows, conform

Array = npt.NDArray[np.float64]
Weights = dict[str, Array]

# Twelve hosts, so that three poolings leave 6, 3 and 2; parallel flows, both directions, a flow to oneself, and a
# host that opens none.
PAIRS = [
    (0, 1), (0, 1), (1, 0), (1, 2), (2, 3), (3, 3), (3, 4), (4, 0), (5, 6), (6, 5), (6, 7), (7, 8), (8, 5), (8, 9),
    (9, 0), (10, 2), (10, 11), (2, 10), (0, 5), (1, 7),
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def address(host: int) -> str:
    return f"10.{host % 4}.{7 * host}.{20 + host}"


def flows() -> Flows:
    rng = np.random.default_rng(3)
    amounts = rng.lognormal(5, 2, (3, len(PAIRS)))
    frame = {"src_addr": [address(u) for u, _ in PAIRS], "dst_addr": [address(v) for _, v in PAIRS]}
    columns = {"fwd_bytes": amounts[0].astype(np.uint64), "bwd_bytes": amounts[1].astype(np.uint64)}
    return conform(pl.DataFrame({**frame, **columns, "duration_ms": amounts[2]}))


def numbered(table: Flows) -> list[tuple[int, int]]:
    """Number hosts in order of first appearance among sources, then destinations."""
    names = list(dict.fromkeys([*table.frame["src_addr"], *table.frame["dst_addr"]]))
    pairs = zip(table.frame["src_addr"], table.frame["dst_addr"], strict=True)
    return [(names.index(u), names.index(v)) for u, v in pairs]


def host_features(table: Flows, projection: Array) -> Array:
    names = list(dict.fromkeys([*table.frame["src_addr"], *table.frame["dst_addr"]]))
    e0 = np.array([[int(octet) / 255 for octet in name.split(".")] for name in names]) @ projection
    walk = np.zeros((len(names), len(names)))
    for u, v in numbered(table):
        walk[u, v] += 1
    walk /= walk.sum(axis=1, keepdims=True).clip(min=1)

    def unit(e: Array) -> Array:
        length = np.linalg.norm(e, axis=1, keepdims=True)
        return np.asarray(e / np.where(length > 0, length, 1))

    parts = [unit(e0)]
    for d in range(1, 4):
        e = np.linalg.matrix_power(walk, d) @ parts[0]
        for i in range(1, d):
            e = e - np.linalg.matrix_power(walk, d - i) @ parts[i]
        parts.append(unit(e) / (d + 1))
    return np.asarray(sum(parts))


def attributes(table: Flows) -> Array:
    raw = table.frame.select("fwd_bytes", "bwd_bytes", "duration_ms").cast(pl.Float64).to_numpy()
    return np.asarray((raw - raw.mean(axis=0)) / raw.std(axis=0))


def linear(w: Weights, name: str, x: Array) -> Array:
    return np.asarray(x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", np.zeros(1)))


def elu(x: Array) -> Array:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def gatv2(w: Weights, x: Array, pairs: list[tuple[int, int]], attr: Array) -> Array:
    """Four heads; each host also has one flow to itself, with the mean attributes of the flows from others."""
    name = "encoder.conv1"
    left, right = linear(w, f"{name}.lin_l", x), linear(w, f"{name}.lin_r", x)
    out = np.zeros((len(x), 1024))
    for v in range(len(x)):
        incoming = [(u, attr[i]) for i, (u, to) in enumerate(pairs) if to == v and u != v]
        mean = np.mean([e for _, e in incoming], axis=0) if incoming else np.zeros(3)
        incoming.append((v, mean))
        for head in range(4):
            part = slice(256 * head, 256 * (head + 1))
            logits = []
            for u, e in incoming:
                s = left[u, part] + right[v, part] + linear(w, f"{name}.lin_edge", e)[part]
                logits.append(w[f"{name}.att"][0, head] @ np.where(s > 0, s, 0.2 * s))
            share = np.exp(logits) / np.exp(logits).sum()
            out[v, part] = sum(a * left[u, part] for a, (u, _) in zip(share, incoming, strict=True))
    return np.asarray(out + w[f"{name}.bias"])


def gcn(w: Weights, name: str, x: Array, a: Array) -> Array:
    """The improved variant: a self-loop weighs 2, or 1 where the graph has one of its own."""
    own = np.where(np.diag(a) > 0, 1.0, 2.0)
    looped = a - np.diag(np.diag(a)) + np.diag(own)
    root = np.sqrt(looped.sum(axis=0))
    return np.asarray((looped / root / root[:, None]).T @ linear(w, f"{name}.lin", x) + w[f"{name}.bias"])


def unet(w: Weights, x: Array, a: Array) -> Array:
    name = "encoder.unet"
    x = np.maximum(gcn(w, f"{name}.down_convs.0", x, a), 0)
    xs, graphs = [x], [a]
    kept: list[npt.NDArray[np.int64]] = []
    for depth in range(3):
        looped = a - np.diag(np.diag(a)) + np.eye(len(a))
        square = looped @ looped
        square -= np.diag(np.diag(square))
        direction = w[f"{name}.pools.{depth}.select.weight"][0]
        score = np.tanh(x @ direction / np.linalg.norm(direction))
        keep = np.argsort(-score)[: math.ceil(len(x) / 2)]
        x, a = x[keep] * score[keep, None], square[np.ix_(keep, keep)]
        x = np.maximum(gcn(w, f"{name}.down_convs.{depth + 1}", x, a), 0)
        xs, graphs, kept = [*xs, x], [*graphs, a], [*kept, keep]
    for step, depth in enumerate((2, 1, 0)):
        up = np.zeros_like(xs[depth])
        up[kept[depth]] = x
        x = gcn(w, f"{name}.up_convs.{step}", xs[depth] + up, graphs[depth])
        x = np.maximum(x, 0) if step < 2 else x
    return x


def logits_by_formula(w: Weights, table: Flows, projection: Array) -> Array:
    pairs, attr = numbered(table), attributes(table)
    h = elu(gatv2(w, host_features(table, projection), pairs, attr))
    norm = "encoder.batch_norm"
    h = (h - w[f"{norm}.running_mean"]) / np.sqrt(w[f"{norm}.running_var"] + 1e-5)
    h = h * w[f"{norm}.weight"] + w[f"{norm}.bias"]
    a = np.zeros((len(h), len(h)))
    for u, v in pairs:
        a[u, v] += 1
    z = unet(w, h, a)
    g = linear(w, "global_edge_embedding.mlp.0", attr.mean(axis=0))
    g = linear(w, "global_edge_embedding.mlp.2", np.maximum(g, 0))
    logit = []
    for (u, v), e in zip(pairs, attr, strict=True):
        own = np.maximum(linear(w, "decoder.fc_edge", e), 0)
        around = np.maximum(linear(w, "decoder.fc_global", g), 0)
        hidden = elu(linear(w, "decoder.fc1", np.concatenate([z[u] * z[v], own, around])))
        logit.append(linear(w, "decoder.fc", hidden)[0])
    return np.array(logit)


def random_network() -> PublishedNetwork:
    """Weights that leave no part without effect: batch norm with statistics, no bias of zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        network = PublishedNetwork().eval()
        for name, weight in network.state_dict().items():
            if name.endswith("running_var"):
                weight.uniform_(0.5, 2)
            elif name.endswith(("bias", "running_mean", "batch_norm.weight")):
                weight.normal_(0.2, 0.3)
        for weight in network.decoder.fc.parameters():
            weight.data.mul_(5)
    return network


def in_numpy(network: PublishedNetwork) -> Weights:
    return {name: weight.double().numpy() for name, weight in network.state_dict().items()}


def test_the_forward_pass_equals_the_formulas() -> None:
    table, network = flows(), random_network()
    preparation = Preparation.fit(table, torch.Generator().manual_seed(1))
    expected = logits_by_formula(in_numpy(network), table, preparation.projection.double().numpy())
    assert expected.std() > 0.05
    graph = preparation.graph(table)
    exact: PublishedGraph = replace(
        graph,
        x=torch.from_numpy(host_features(table, preparation.projection.double().numpy())),
        edge_attr=torch.from_numpy(attributes(table)),
    )
    network = network.double()
    with torch.no_grad():
        z = network.encode(exact.x, exact.edge_index, exact.edge_attr)
        logit = network.decode(z, exact.edge_index, exact.edge_attr, exact.host_window, 1)
    np.testing.assert_allclose(logit.numpy(), expected, rtol=1e-8, atol=1e-10)


def test_the_model_gives_the_formulas_logits() -> None:
    table = flows()
    model = PublishedGAE(PublishedConfig(window_size=10, num_epochs=3))
    model.fit(table, np.zeros(len(table), bool), seed=4, device=torch.device("cpu"), progress=lambda _: None)
    assert model._network is not None
    assert model._preparation is not None
    projection = model._preparation.projection.double().numpy()
    expected = logits_by_formula(in_numpy(model._network), table, projection)
    np.testing.assert_allclose(model.logits(table), expected, rtol=2e-4, atol=2e-4)
