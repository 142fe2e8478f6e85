"""Anomal-E's network: one E-GraphSAGE layer, edge embeddings, deep graph infomax.

Shapes: N hosts, E flows, M directed edges, C channels (different directed pairs), F = 3 attributes.

Source: Caville, Lo, Layeghy & Portmann 2022, arXiv:2207.06819 (Anomal-E); Lo et al. 2022, arXiv:2103.16329
(E-GraphSAGE); Veličković et al. 2019, arXiv:1809.10341 (deep graph infomax).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final, final

import torch
from torch import Tensor, nn
from torch.nn import functional

_HIDDEN: Final = 128
_EMBEDDING: Final = 256


@final
@dataclass(frozen=True, slots=True, eq=False)
class UndirectedGraph:
    """A window with every flow as two directed edges, one each way; a flow from a host to itself is one edge.

    attr: (E, F) of the flows. flow: (M,) int64, whose attributes a directed edge carries. to: (M,) int64, the host
    it arrives at. channel_src, channel_dst: (C,) int64; share: (C,) of the directed edges, adds up to 1.
    """

    num_hosts: int
    attr: Tensor
    flow: Tensor
    to: Tensor
    channel_src: Tensor
    channel_dst: Tensor
    share: Tensor

    @classmethod
    def build(cls, src: Tensor, dst: Tensor, attr: Tensor, num_hosts: int) -> UndirectedGraph:
        """src, dst: (E,) int64; attr: (E, F)."""
        apart = (src != dst).nonzero().squeeze(1)
        flow = torch.cat([torch.arange(len(src)), apart])
        begin, end = torch.cat([src, dst[apart]]), torch.cat([dst, src[apart]])
        pair, count = torch.unique(begin * num_hosts + end, return_counts=True)
        return cls(
            num_hosts=num_hosts,
            attr=attr,
            flow=flow,
            to=end,
            channel_src=torch.div(pair, num_hosts, rounding_mode="floor"),
            channel_dst=pair % num_hosts,
            share=count.to(attr.dtype) / len(flow),
        )

    def incoming(self, order: Tensor | None = None) -> Tensor:
        """Return the mean attributes of the edges that arrive at each host.

        order: (M,) int64 permutation of the directed edges' attributes, the corruption; None for their own.
        Returns: (N, F).
        """
        flow = self.flow if order is None else self.flow[order]
        attr = self.attr.index_select(0, flow)
        total = torch.zeros(self.num_hosts, attr.shape[1], dtype=attr.dtype, device=attr.device)
        count = torch.bincount(self.to, minlength=self.num_hosts).clamp(min=1)[:, None]
        return total.index_add_(0, self.to, attr) / count

    def to_device(self, device: torch.device) -> UndirectedGraph:
        """Return the graph on another device."""
        names = ("attr", "flow", "to", "channel_src", "channel_dst", "share")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


@final
class AnomalENetwork(nn.Module):
    """h_v = ReLU(W [1 ‖ mean of incoming attributes]), z_uv = W₂ [h_u ‖ h_v], and a bilinear discriminator.

    1 is a vector of F ones, as in the original.
    """

    def __init__(self, num_attributes: int) -> None:
        super().__init__()
        self.host = nn.Linear(2 * num_attributes, _HIDDEN)
        nn.init.xavier_uniform_(self.host.weight, gain=nn.init.calculate_gain("relu"))
        self.edge = nn.Linear(2 * _HIDDEN, _EMBEDDING)
        bound = 1 / math.sqrt(_EMBEDDING)
        self.discriminator = nn.Parameter(torch.empty(_EMBEDDING, _EMBEDDING).uniform_(-bound, bound))

    def hosts(self, incoming: Tensor) -> Tensor:
        """incoming: (N, F). Returns: (N, 128)."""
        h: Tensor = functional.relu(self.host(torch.cat([torch.ones_like(incoming), incoming], dim=1)))
        return h

    def edges(self, h: Tensor, src: Tensor, dst: Tensor) -> Tensor:
        """h: (N, 128); src, dst: (C,) int64. Returns: (C, 256)."""
        z: Tensor = self.edge(torch.cat([h.index_select(0, src), h.index_select(0, dst)], dim=1))
        return z

    def infomax_loss(self, graph: UndirectedGraph, order: Tensor) -> Tensor:
        """Return the loss of separating the graph's edges from permuted ones, by a summary of the former.

        loss = BCE(z · W s, 1) + BCE(z' · W s, 0), s = sigmoid(mean z), over all M directed edges.

        All edges of a channel share z, so each channel is rated once and weighted. And z is linear in [h_u ‖ h_v]:
        its mean, and its product with W s, are taken of the hosts and never of (M, 256) embeddings.

        order: (M,) int64, the corruption. Returns: () loss.
        """
        h, h_corrupt = self.hosts(graph.incoming()), self.hosts(graph.incoming(order))
        mean_h = torch.cat(
            [self._host_share(graph.channel_src, graph) @ h, self._host_share(graph.channel_dst, graph) @ h]
        )
        direction = self.discriminator @ torch.sigmoid(self.edge(mean_h))  # (256,)
        real, corrupt = (self._along(direction, hosts, graph) for hosts in (h, h_corrupt))
        return (graph.share * (functional.softplus(-real) + functional.softplus(corrupt))).sum()

    def _host_share(self, host: Tensor, graph: UndirectedGraph) -> Tensor:
        zeros = torch.zeros(graph.num_hosts, dtype=graph.share.dtype, device=graph.share.device)
        return zeros.index_add_(0, host, graph.share)

    def _along(self, direction: Tensor, h: Tensor, graph: UndirectedGraph) -> Tensor:
        """Return z · direction. Returns: (C,)."""
        from_src, from_dst = torch.split(direction @ self.edge.weight, _HIDDEN)
        src, dst = (h @ from_src).index_select(0, graph.channel_src), (h @ from_dst).index_select(0, graph.channel_dst)
        along: Tensor = src + dst + direction @ self.edge.bias
        return along
