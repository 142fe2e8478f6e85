"""Attention over flows on a CPU: weights by products in runs that stay in the cache, sums by compiled loops.

Shapes: N hosts, P channels, E flows, F flow attributes, D width, H heads, S score width, R flows of a run.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.graph import FlowGraph
from thalweg.graph import compiled as graph_loops
from thalweg.model.kernels.cpu.edges import RUN
from thalweg.runtime import buffers
from thalweg.runtime.jit import compiled
from thalweg.runtime.parallel import parallel_for, parallel_map, ranges_of_weight


def attend(
    peer: Tensor,
    target: Tensor,
    value: Tensor,
    key_attr: Tensor,
    weigh: Tensor,
    graph: FlowGraph,
    *,
    incoming: bool,
    bound: float,
    slope: float = 0.2,
) -> tuple[Tensor, Tensor]:
    """Weigh each host's flows by attention, and sum their values and attributes; see `reference.attend`.

    Float32, no gradients. Holds a weight per flow and head, and nothing of a head's width per flow or channel.
    Returns: (N, D), (N, H, F).
    """
    heads, score_width = weigh.shape
    ends = (graph.channel_src, graph.channel_dst)
    channel_peer, channel_target = ends if incoming else ends[::-1]
    graph = graph.sorted()
    attr, channel = graph.edge_attr, graph.channel
    add_heads = torch.block_diag(*weigh[:, :, None])  # type: ignore[no-untyped-call]  # (H·S, H)
    weight = torch.empty(graph.num_edges, heads)  # in channel order

    def runs(begin: int, end: int) -> None:
        hidden = torch.empty(RUN, heads * score_width)
        with torch.inference_mode():
            for at in range(begin * RUN, min(end * RUN, graph.num_edges), RUN):
                channels = channel[at : at + RUN]
                num = len(channels)
                low, high = int(channels[0]), int(channels[-1]) + 1
                pair = peer.index_select(0, channel_peer[low:high])
                pair += target.index_select(0, channel_target[low:high])
                h = hidden[:num]
                torch.index_select(pair, 0, channels - low, out=h)
                h.addmm_(attr[at : at + num], key_attr)
                torch.nn.functional.leaky_relu_(h, slope)
                w = weight[at : at + num]
                torch.mm(h, add_heads, out=w)
                w.clamp_(-bound, bound).exp_()
                if graph.times is not None:
                    w.mul_(graph.times[at : at + num, None])

    parallel_for(runs, -(-graph.num_edges // RUN), least=4)
    num_hosts = len(peer)
    by_target, start = graph_loops.sort(channel_target.numpy(), num_hosts)
    mass, whole = torch.empty(graph.num_channels, heads), torch.empty(num_hosts, heads)
    summed, mean_attr = buffers.tensor(num_hosts, value.shape[1]), buffers.tensor(num_hosts, heads, attr.shape[1])
    by_channel = mass.numpy()
    of_attr = weight.numpy(), graph.channel_start.numpy(), attr.numpy(), by_channel, whole.numpy(), mean_attr.numpy()
    by_head = [rows.view(len(rows), heads, rows.shape[1] // heads).numpy() for rows in (value, summed)]
    of_value = by_channel, channel_peer.numpy(), by_head[0], whole.numpy(), by_head[1]

    def hosts(begin: int, end: int) -> None:
        _sum_attr(by_target, start, *of_attr, begin, end)
        _sum_value(by_target, start, *of_value, begin, end)

    # By flows: hosts that are met first are the busiest.
    flows_before = np.concatenate([[0], np.cumsum(np.diff(graph.channel_start.numpy())[by_target])])[start]
    parallel_map(hosts, ranges_of_weight(flows_before, max(RUN, graph.num_edges // 16)))
    return summed, mean_attr


# Two loops, not one: the compiler vectorises each alone, and the pair is three times as fast.
# Sums may be reordered for that; there is no infinity, as weights are bounded.


@compiled("reassoc", "contract", "nsz")
def _sum_attr(
    by_target: Any, start: Any, weight: Any, channel_start: Any, attr: Any, mass: Any, whole: Any, mean_attr: Any,
    begin: int, end: int,
) -> None:  # fmt: skip
    """Sum weights, and attributes by weight, of some targets.

    by_target: (P,) channels; start: (N + 1,), the first entry of each target in it; weight: (E, H); channel_start:
    (P + 1,); attr: (E, F). Filled: mass (P, H), whole (N, H), mean_attr (N, H, F).
    """
    heads, num_attributes = weight.shape[1], attr.shape[1]
    sums, all_mass = np.empty((heads, num_attributes)), np.empty(heads)
    for v in range(begin, end):
        sums[:] = 0
        all_mass[:] = 0
        for at in range(start[v], start[v + 1]):
            c = by_target[at]
            for h in range(heads):
                total = 0.0
                for i in range(channel_start[c], channel_start[c + 1]):
                    w = np.float64(weight[i, h])
                    total += w
                    for f in range(num_attributes):
                        sums[h, f] += w * attr[i, f]
                mass[c, h] = total
                all_mass[h] += total
        for h in range(heads):
            whole[v, h] = max(all_mass[h], 1e-30)
            for f in range(num_attributes):
                mean_attr[v, h, f] = sums[h, f] / whole[v, h]


@compiled("reassoc", "contract", "nsz")
def _sum_value(
    by_target: Any, start: Any, mass: Any, peer: Any, value: Any, whole: Any, summed: Any, begin: int, end: int
) -> None:
    """Sum the peers' values by weight. peer: (P,); value: (N, H, D / H); the rest as in `_sum_attr`.

    Filled: summed (N, H, D / H).
    """
    heads, width = value.shape[1:]
    for v in range(begin, end):
        summed[v] = 0
        for at in range(start[v], start[v + 1]):
            c = by_target[at]
            u = peer[c]
            for h in range(heads):
                share = mass[c, h] / whole[v, h]
                # By three indices: the compiler makes no vectors unless it knows that an index is not negative.
                for d in range(width):
                    summed[v, h, d] += share * value[u, h, d]
