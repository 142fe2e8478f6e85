"""The two layers that see a graph: attention over flows, and a Graph U-Net over hosts that never forms A².

Shapes: N hosts, P channels, E flows, F flow attributes, D width, H heads' width, K pooled hosts.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from thalweg.graph import Adjacency, FlowGraph
from thalweg.graph.adjacency import sparse_rows, symmetric_product

AT_ONCE: Final = 32_768
"""Flows taken at once where each has a row of its own: (E, H) is never held, and a run's rows stay in the cache."""


class DropoutSiLU(nn.Module):
    """SiLU, of which a share of the numbers is left out in training; one module, so that weights keep their names."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """Any shape. Returns: the same."""
        return nn.functional.dropout(nn.functional.silu(x), self.share, training=self.training)


class FlowAttention(nn.Module):
    """Each host listens to its flows one way, weighing them by attention over peer, itself and attributes.

    For a flow i from peer u to listener v with attributes e_i (F):
        s_i = a · LeakyReLU(Q h_v + K h_u + B e_i)          per head
        m_v = sum_i softmax_v(s)_i (V h_u + C e_i)
    The softmax is over all flows of v, parallel ones each on its own.

    Source: Brody, Alon & Yahav 2022, arXiv:2105.14491 (GATv2), with attributes also in the message.
    """

    def __init__(self, width: int, num_attributes: int, num_heads: int = 2, score_width: int = 16) -> None:
        super().__init__()
        self.num_heads, self.score_width = num_heads, score_width
        self.query = nn.Linear(width, num_heads * score_width)
        self.key = nn.Linear(width, num_heads * score_width, bias=False)
        self.key_attr = nn.Linear(num_attributes, num_heads * score_width, bias=False)
        self.weigh = nn.Parameter(torch.randn(num_heads, score_width) * score_width**-0.5)
        self.value = nn.Linear(width, width, bias=False)
        self.value_attr = nn.Linear(num_attributes, width, bias=False)

    def forward(self, h: Tensor, graph: FlowGraph, *, incoming: bool) -> Tensor:
        """Return what each host hears. h: (N, D). Returns: (N, D); zeros for a host without such flows."""
        ends = (graph.channel_src, graph.channel_dst)
        peer, listener = ends if incoming else ends[::-1]
        at = graph.dst if incoming else graph.src
        num_hosts, width = h.shape
        heads, num_attributes = self.num_heads, graph.edge_attr.shape[1]
        # Once per channel what depends on hosts alone, then once per flow: (P, H) before (E, H).
        pair = self.query(h).index_select(0, listener) + self.key(h).index_select(0, peer)
        mass = h.new_zeros(num_hosts, heads)
        by_channel = h.new_zeros(graph.num_channels, heads)
        attr_heard = h.new_zeros(num_hosts, heads * num_attributes)
        for run in (slice(i, i + AT_ONCE) for i in range(0, graph.num_flows, AT_ONCE)):
            channel, attr, ear = graph.channel[run], graph.edge_attr[run], at[run]
            hidden = nn.functional.leaky_relu(pair.index_select(0, channel) + self.key_attr(attr), 0.2)
            score = (hidden.view(-1, heads, self.score_width) * self.weigh).sum(-1)  # (at most AT_ONCE, heads)
            # Bounded scores need no maximum per listener to be safe: 200,000 e^30 is far below float32's largest.
            weight = score.clamp(-30, 30).exp()
            mass = mass.index_add(0, ear, weight)
            by_channel = by_channel.index_add(0, channel, weight)
            weighed = (weight[:, :, None] * attr[:, None, :]).view(-1, heads * num_attributes)
            attr_heard = attr_heard.index_add(0, ear, weighed)
        # V h_u is one per channel, so its flows' weights are added up first; the attributes likewise.
        mass = mass.clamp(min=1e-30)
        share = by_channel / mass.index_select(0, listener)
        value = self.value(h).view(num_hosts, heads, -1).index_select(0, peer) * share[:, :, None]
        heard = h.new_zeros(num_hosts, width).index_add(0, listener, value.view(-1, width))
        mean_attr = attr_heard.view(num_hosts, heads, num_attributes) / mass[:, :, None]
        by_head = self.value_attr.weight.view(heads, width // heads, num_attributes)
        return heard + torch.einsum("nhf,hdf->nhd", mean_attr, by_head).reshape(num_hosts, width)


class GraphConv(nn.Module):
    """x -> D^-1/2 (A + 2I) D^-1/2 x W + b, D the row sums of A + 2I.

    Source: Kipf & Welling 2017, arXiv:1609.02907, in the "improved" form that Graph U-Nets use.
    """

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.lin = nn.Linear(width_in, width_out, bias=False)
        self.bias = nn.Parameter(torch.zeros(width_out))

    def forward(self, x: Tensor, matrix: Tensor, row_sum: Tensor) -> Tensor:
        """x: (N, D_in); matrix: (N, N) symmetric, dense or sparse; row_sum: (N,). Returns: (N, D_out)."""
        scale = (row_sum + 2).rsqrt()[:, None]
        x = self.lin(x) * scale
        mixed = matrix @ x if matrix.layout == torch.strided else symmetric_product(matrix, x)
        return (mixed + 2 * x) * scale + self.bias


class GraphUNet(nn.Module):
    """Convolve, keep the best hosts, connect those two steps apart, go deeper; then come back up with skips.

    As in the paper, level l + 1 has the hosts of the k_l highest x·p / |p|, and the edges of (A + I)² among
    them. Only that k_l × k_l part is ever computed: A² of a busy network has hundreds of millions of entries.
    `max_pool` bounds k_1, so that the pooled levels are small dense matrices and the cost stays linear in the
    channels. Equal to PyTorch Geometric's GraphUNet(in, hidden, out, depth, pool_ratios=ratio, sum_res=True)
    wherever the bound does not bind.

    Source: Gao & Ji 2019, arXiv:1905.05178.
    """

    def __init__(
        self,
        width_in: int,
        width: int,
        width_out: int,
        *,
        depth: int = 3,
        ratio: float = 0.5,
        max_pool: int = 512,
    ) -> None:
        super().__init__()
        self.ratio, self.max_pool = ratio, max_pool
        self.down = nn.ModuleList([GraphConv(width_in if i == 0 else width, width) for i in range(depth + 1)])
        self.pool = nn.ParameterList([nn.Parameter(torch.randn(width) * width**-0.5) for _ in range(depth)])
        self.up = nn.ModuleList([GraphConv(width, width_out if i == depth - 1 else width) for i in range(depth)])

    def forward(self, x: Tensor, adjacency: Adjacency) -> Tensor:
        """x: (N, D_in). Returns: (N, D_out)."""
        matrix, row_sum = adjacency.csr(x.dtype), adjacency.degree.to(x.dtype)
        levels: list[tuple[Tensor, Tensor, Tensor]] = []
        kept: list[Tensor] = []
        x = self.down[0](x, matrix, row_sum).relu()
        for level, (direction, conv) in enumerate(zip(self.pool, self.down[1:], strict=True)):
            levels.append((x, matrix, row_sum))
            rating = torch.tanh(x @ direction / direction.norm())
            num_kept = min(-int(-self.ratio * len(x) // 1), self.max_pool, len(x))
            keep = torch.topk(rating.detach(), num_kept).indices
            matrix = _two_steps(adjacency, keep, x.dtype) if level == 0 else _two_steps_dense(matrix, keep)
            row_sum = matrix.sum(1)
            kept.append(keep)
            x = x.index_select(0, keep) * rating.index_select(0, keep)[:, None]
            x = conv(x, matrix, row_sum).relu()
        for i, conv in enumerate(self.up):
            skip, matrix, row_sum = levels.pop()
            x = skip.index_add(0, kept.pop(), x)
            x = conv(x, matrix, row_sum)
            x = x.relu() if i < len(self.up) - 1 else x
        return x


def _two_steps(adjacency: Adjacency, keep: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the rows and columns `keep` of (A + I)² with an empty diagonal. Returns: (K, K) dense.

    (A + I)² = A² + 2A + I, and A²[keep, keep] = A[keep, :] A[:, keep]: only edges that touch a kept host count.
    """
    num_hosts, num_kept = len(adjacency.degree), len(keep)
    place = torch.full((num_hosts,), -1, dtype=torch.int64, device=keep.device)
    place[keep] = torch.arange(num_kept, device=keep.device)
    touches = place[adjacency.row] >= 0
    at, peer = place[adjacency.row[touches]], adjacency.col[touches]
    order = torch.argsort(at, stable=True)
    at, peer = at[order], peer[order]
    among = place[peer] >= 0
    direct = torch.zeros(num_kept, num_kept, dtype=dtype, device=keep.device)
    direct[at[among], place[peer[among]]] = 2.0
    # A[:, keep] is the transpose of A[keep, :], sorted by peer instead.
    back = torch.argsort(peer, stable=True)
    ones = torch.ones(len(at), dtype=dtype, device=keep.device)
    rows = sparse_rows(_starts(at, num_kept), peer, ones, num_hosts)
    cols = sparse_rows(_starts(peer, num_hosts), at[back], ones, num_kept)
    both = (rows @ cols).to_dense() + direct
    return both.fill_diagonal_(0)


def _two_steps_dense(matrix: Tensor, keep: Tensor) -> Tensor:
    near = matrix.clone().fill_diagonal_(1)
    return (near[keep] @ near[:, keep]).fill_diagonal_(0)


def _starts(sorted_rows: Tensor, num_rows: int) -> Tensor:
    counts = torch.bincount(sorted_rows, minlength=num_rows)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])
