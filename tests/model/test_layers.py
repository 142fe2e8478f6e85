from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_geometric.nn import GraphUNet as PygGraphUNet

from tests.conftest import make_flows
from thalweg.graph import AttributeScaling, build_graph, undirected
from thalweg.model.kernels.cpu.dropout import silu_dropout
from thalweg.model.layers import DropoutSiLU, FlowAttention, GraphUNet


@pytest.mark.parametrize(("num", "pairs", "depth"), [(5, 6, 3), (40, 80, 3), (40, 80, 1), (200, 600, 4), (60, 0, 2)])
def test_the_unet_is_pytorch_geometrics_in_float64(num: int, pairs: int, depth: int) -> None:
    torch.manual_seed(num)
    adjacency = undirected(torch.randint(0, num, (pairs,)), torch.randint(0, num, (pairs,)), num)
    ours = GraphUNet(8, 16, 4, depth=depth).double()
    theirs = PygGraphUNet(8, 16, 4, depth).double()
    for mine, other in zip([*ours.down, *ours.up], [*theirs.down_convs, *theirs.up_convs], strict=True):
        torch.nn.init.normal_(mine.bias)
        other.lin.weight.data, other.bias.data = mine.lin.weight.data, mine.bias.data
    for direction, pool in zip(ours.pool, theirs.pools, strict=True):
        pool.select.weight.data = direction.data[None]
    x = torch.randn(num, 8, dtype=torch.float64)
    expected = theirs(x, torch.stack([torch.repeat_interleave(adjacency.degree), adjacency.col]))
    assert torch.allclose(ours(x, adjacency), expected, atol=1e-12)


def test_the_bound_on_pooled_hosts_keeps_the_levels_small() -> None:
    num = 5_000
    hub = torch.zeros(num - 1, dtype=torch.int64)
    adjacency = undirected(hub, torch.arange(1, num), num)  # one hub: A² would be full
    out = GraphUNet(4, 8, 4, max_pool=64)(torch.randn(num, 4), adjacency)
    assert out.shape == (num, 4)
    assert out.isfinite().all()


@pytest.mark.parametrize("incoming", [True, False])
def test_attention_is_the_softmax_over_all_flows_of_a_host(incoming: bool) -> None:
    flows = make_flows(60, num_hosts=12)
    graph, _ = build_graph(flows, AttributeScaling.fit(flows))
    torch.manual_seed(0)
    layer = FlowAttention(8, 3, num_heads=2, score_width=4)
    h = torch.randn(graph.num_hosts, 8)
    peer, listener = (graph.src, graph.dst) if incoming else (graph.dst, graph.src)
    e = graph.edge_attr
    hidden = torch.nn.functional.leaky_relu(layer.query(h)[listener] + layer.key(h)[peer] + layer.key_attr(e), 0.2)
    score = torch.einsum("ehs,hs->eh", hidden.view(-1, 2, 4), layer.weigh)
    message = (layer.value(h)[peer] + layer.value_attr(e)).view(-1, 2, 4)
    expected = torch.zeros(graph.num_hosts, 2, 4)
    for v in range(graph.num_hosts):
        mine = listener == v
        expected[v] = (torch.softmax(score[mine], 0)[:, :, None] * message[mine]).sum(0)
    got = layer(h, graph, incoming=incoming)
    assert np.allclose(got.detach(), expected.reshape(-1, 8).detach(), atol=1e-5)


def test_dropout_is_for_training_alone_and_has_no_weights() -> None:
    layer = DropoutSiLU(0.5)
    x = torch.linspace(1, 2, 1000)
    assert not layer.state_dict()
    dropped = layer(x)
    assert 0.4 < (dropped == 0).float().mean() < 0.6
    assert torch.allclose(dropped[dropped != 0], 2 * torch.nn.functional.silu(x)[dropped != 0])
    assert torch.equal(layer.eval()(x), torch.nn.functional.silu(x))


def test_silu_with_dropout_on_a_cpu_is_torchs() -> None:
    x = torch.randn(64, 1000, generator=torch.Generator().manual_seed(0), requires_grad=True)
    torch.manual_seed(1)
    out = silu_dropout(x, 0.25)
    kept = out != 0
    assert float(kept.float().mean()) == pytest.approx(0.75, abs=0.01)
    expected = torch.nn.functional.silu(x) * kept / 0.75
    assert torch.allclose(out, expected, atol=1e-6)
    grad = torch.randn_like(x)
    (own,) = torch.autograd.grad(out, x, grad, retain_graph=True)
    (theirs,) = torch.autograd.grad(expected, x, grad)
    assert torch.allclose(own, theirs, atol=1e-6)
    torch.manual_seed(1)
    assert torch.equal(silu_dropout(x, 0.25), out)
    assert not torch.equal(silu_dropout(x, 0.25), out)


def test_dropout_of_none_or_nearly_all() -> None:
    x = torch.randn(7, 13)
    assert torch.allclose(silu_dropout(x, 0.0), torch.nn.functional.silu(x))
    assert torch.isfinite(silu_dropout(x, 0.9999)).all()
    assert silu_dropout(torch.zeros(0, 4), 0.1).shape == (0, 4)
