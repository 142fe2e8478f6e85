"""Scoring with the published network on a CPU: the same numbers in a tenth of the time or less, and little memory.

Shapes: N hosts, P channels, E flows, F = 3 flow attributes, H = 4 heads.

PyTorch Geometric's execution gives each flow rows of 1,024 and of 768 numbers in every layer, and each level of the
U-Net the square of the one below. Here, what depends on hosts is computed once a host, what depends on a pair of
hosts once a channel, and what is left once a flow; no row of a flow is ever held: 700 bytes a flow at most, graph and
all, if hosts are few. `PublishedNetwork` stays what is trained, and what this is tested against.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from thalweg.graph import FlowGraph, collapse, index_hosts
from thalweg.published import decoder, unet
from thalweg.published.attention import attend
from thalweg.published.graph import Preparation, hop_sum
from thalweg.published.network import PublishedNetwork
from thalweg.published.sparse import CSR, times
from thalweg.runtime.parallel import even_ranges, parallel_map, run_on_leader
from thalweg.tables import Flows

_HOSTS_AT_ONCE: Final = 512


PublishedWindow = tuple[Tensor, FlowGraph]
"""Host features (N, 32), float32 on the CPU, and the graph, merged: what `rate` takes."""


def prepare(preparation: Preparation, flows: Flows) -> PublishedWindow:
    """Build the network's input from a window's flows."""
    src, dst, hosts = index_hosts(flows)
    graph = collapse(src, dst, preparation.attributes(flows), hosts.octets, hosts.kind).merged()
    x = run_on_leader(lambda: hop_sum(preparation.addresses(hosts), src, dst, average=averaging(graph)))
    return x, graph


def averaging(graph: FlowGraph) -> Callable[[Tensor], Tensor]:
    """Return the function that gives each host the mean of e over its outgoing flows: (N, D) -> (N, D), float32."""
    src, size = graph.channel_src.numpy(), graph.channel_size.numpy()
    share = (size / np.bincount(src, size, graph.num_hosts)[src]).astype(np.float32)
    walk = CSR.of(src, graph.channel_dst.numpy(), share, (graph.num_hosts, graph.num_hosts))
    return lambda e: torch.from_numpy(times(walk, e.numpy()))


@torch.no_grad()
def rate(network: PublishedNetwork, x: Tensor, graph: FlowGraph) -> Tensor:
    """Rate the flows of one window: log-odds that each edge exists, as the network does in evaluation mode.

    x: (N, 32); graph: merged, with the three attributes. Returns: (E,) float32, row i for flow i.
    """

    def encode_and_decode() -> Tensor:
        first = attention_block(network, x, graph)
        z = unet.embed(network.encoder.unet, first, graph)
        return graph.by_flow(decoder.rate(network, z, graph))

    return run_on_leader(encode_and_decode)


def attention_block(network: PublishedNetwork, x: Tensor, graph: FlowGraph) -> Tensor:
    """Compute GATv2, ELU, batch norm and the U-Net's first linear layer.

    A host's sum per head, of w_i (W x_u + b) with weights that sum to 1, is W times the mean of x_u, plus b: so the 32
    features are averaged, not the 256 made of them.

    x: (N, 32). Returns: (N, 256) float32.
    """
    encoder = network.encoder
    conv, norm = encoder.conv1, encoder.batch_norm
    num_hosts, heads, width = len(x), conv.heads, conv.out_channels
    src, dst, channel, attr, often = _with_loops(graph)
    peer, target = torch.empty(num_hosts, heads * width), torch.empty(num_hosts, heads * width)

    def ends_of(first: int, last: int) -> None:
        peer[first:last], target[first:last] = conv.lin_l(x[first:last]), conv.lin_r(x[first:last])

    parallel_map(ends_of, even_ranges(num_hosts, _HOSTS_AT_ONCE))
    share, _ = attend(
        peer,
        target,
        attr,
        key_attr=conv.lin_edge.weight.T,
        weigh=conv.att[0],
        channel=channel,
        channel_peer=src,
        channel_target=dst,
        slope=conv.negative_slope,
        times=often,
    )
    features = np.ascontiguousarray(x.numpy())
    mean = torch.empty(heads, num_hosts, x.shape[1])
    # A channel from a host to itself has no edges: the added self-loop replaces it.
    apart = np.concatenate([graph.channel_src.numpy() != graph.channel_dst.numpy(), np.ones(num_hosts, np.bool_)])
    which = np.flatnonzero(apart)
    channels = CSR.of(dst.numpy()[which], src.numpy()[which], which, (num_hosts, num_hosts))
    for head in range(heads):
        weights = replace(channels, value=share[:, head].numpy()[channels.value])
        mean[head] = torch.from_numpy(times(weights, features))
    by_head = conv.lin_l.weight.view(heads, width, -1).transpose(1, 2)  # (H, 32, 256)
    bias = conv.lin_l.bias + conv.bias
    # Batch norm in evaluation mode scales and shifts, so it goes into the linear layer after it.
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    shift = norm.bias.double() - norm.running_mean.double() * scale
    weight = encoder.unet.down_convs[0].lin.weight.double()  # (256, 1024)
    mix, constant = (weight * scale).T.float(), (weight @ shift).float()
    out = torch.empty(num_hosts, weight.shape[0])

    def run(first: int, last: int) -> None:
        h = torch.bmm(mean[:, first:last], by_head).transpose(0, 1).reshape(-1, heads * width)
        torch.addmm(constant, functional.elu(h.add_(bias), inplace=True), mix, out=out[first:last])

    parallel_map(run, even_ranges(num_hosts, _HOSTS_AT_ONCE))
    return out


def _with_loops(graph: FlowGraph) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Give every host one flow to itself, with the mean attributes of the flows that others send it.

    Flows from a host to itself are left out, as PyTorch Geometric's GATv2 does.

    Returns: src, dst (P + N,) of channels; of edges channel (K + N,), attr (K + N, 3), and how many flows each stands
    for (K + N,). A channel from a host to itself stays, without edges.
    """
    num_hosts, num_channels = graph.num_hosts, graph.num_channels
    from_, to = graph.channel_src.numpy(), graph.channel_dst.numpy()
    apart = np.flatnonzero((from_ != to)[graph.channel.numpy()])
    channel, attr = graph.channel.numpy()[apart], graph.edge_attr.numpy()[apart]
    often = np.ones(len(apart), np.int32) if graph.times is None else graph.times.numpy()[apart]
    target = to[channel]
    num_in = np.bincount(target, often, num_hosts).clip(min=1)
    sums = [np.bincount(target, attr[:, f] * often, num_hosts) for f in range(attr.shape[1])]
    mean = (np.stack(sums, axis=1) / num_in[:, None]).astype(np.float32)
    hosts = np.arange(num_hosts)
    parts = (
        np.concatenate([from_, hosts]),
        np.concatenate([to, hosts]),
        np.concatenate([channel, num_channels + hosts]),
        np.concatenate([attr, mean]),
        np.concatenate([often, np.ones(num_hosts, np.int32)]),
    )
    src, dst, channel_of, attributes, times_of = (torch.from_numpy(part) for part in parts)
    return src, dst, channel_of, attributes, times_of
