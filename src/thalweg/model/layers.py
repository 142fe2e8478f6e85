"""The two layers that see a graph: attention over flows, and a Graph U-Net over hosts that never forms A².

Shapes: N hosts, P channels, E flows, F flow attributes, D width, H heads' width, K pooled hosts.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from thalweg.graph import Adjacency, FlowGraph
from thalweg.graph.adjacency import propagate, symmetric_product, two_steps
from thalweg.model.kernels import kernels_for
from thalweg.model.kernels.cpu.dropout import silu_dropout

_BOUND: Final = 30.0
"""Attention scores are clamped to ± this."""


class DropoutSiLU(nn.Module):
    """SiLU with dropout in training; one module, so that the weights after it keep their names."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """x: any shape. Returns: the same shape."""
        if self.training and self.share and x.dtype == torch.float32 and not x.is_cuda:
            return silu_dropout(x, self.share)
        return nn.functional.dropout(nn.functional.silu(x), self.share, training=self.training)


class FlowAttention(nn.Module):
    """Each host attends to its flows of one direction, by peer, host and attributes.

    For a flow i from peer u to target v with attributes e_i (F):
        s_i = a · LeakyReLU(Q h_v + K h_u + B e_i)          per head
        m_v = sum_i softmax_v(s)_i (V h_u + C e_i)
    The softmax is over all flows of v; parallel flows count separately.

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
        """Return each host's sum of messages. h: (N, D). Returns: (N, D); zeros for a host without such flows."""
        kernels = kernels_for(h)
        peer, target, value = (kernels.rowwise(layer, h) for layer in (self.key, self.query, self.value))
        summed, mean_attr = kernels.attend(
            peer,
            target,
            value,
            self.key_attr.weight.t(),
            self.weigh,
            graph,
            incoming=incoming,
            bound=_BOUND,
        )
        by_head = self.value_attr.weight.view(self.num_heads, -1, mean_attr.shape[2])
        of_attr = torch.block_diag(*by_head).t()  # type: ignore[no-untyped-call]  # (H·F, D), each head's on its own
        return kernels.rowwise(lambda summed, attr: summed + attr @ of_attr, summed, mean_attr.flatten(1))


class GraphConv(nn.Module):
    """x -> D^-1/2 (A + 2I) D^-1/2 x W + b, D the row sums of A + 2I.

    Source: Kipf & Welling 2017, arXiv:1609.02907, in the "improved" form that Graph U-Nets use.
    """

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.lin = nn.Linear(width_in, width_out, bias=False)
        self.bias = nn.Parameter(torch.zeros(width_out))

    def forward(self, x: Tensor, matrix: Tensor | Adjacency, row_sum: Tensor) -> Tensor:
        """x: (N, D_in); matrix: (N, N) symmetric, dense or neighbourhoods; row_sum: (N,). Returns: (N, D_out)."""
        scale = (row_sum + 2).rsqrt()[:, None]
        if isinstance(matrix, Adjacency) and not torch.is_grad_enabled() and not x.is_cuda:
            x = kernels_for(x).rowwise(lambda x, scale: self.lin(x) * scale, x, scale)
            return propagate(matrix, x, scale[:, 0], 2.0, self.bias)
        x = self.lin(x) * scale
        mixed = matrix @ x if isinstance(matrix, Tensor) else symmetric_product(matrix, x)
        return (mixed + 2 * x) * scale + self.bias


class GraphUNet(nn.Module):
    """Convolve, keep the best hosts, join those two steps apart, repeat; then go back up with skip connections.

    As in the paper, level l + 1 has the hosts of the k_l highest x·p / |p|, and the edges of (A + I)² among
    them. Only that k_l × k_l part is ever computed: A² of a busy network has hundreds of millions of entries.
    `max_pool` bounds k_1, so that the pooled levels are small dense matrices and the cost stays linear in the
    channels. If the bound does not bind, this equals PyTorch Geometric's GraphUNet(in, hidden, out, depth,
    pool_ratios=ratio, sum_res=True).

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
        matrix: Tensor | Adjacency = adjacency
        row_sum = adjacency.degree.to(x.dtype)
        levels: list[tuple[Tensor, Tensor | Adjacency, Tensor]] = []
        kept: list[Tensor] = []
        # A copy of all hosts' rows costs as much as a layer, so without gradients nothing is copied.
        in_place = not torch.is_grad_enabled()
        x = nn.functional.relu(self.down[0](x, matrix, row_sum), inplace=in_place)
        for direction, conv in zip(self.pool, self.down[1:], strict=True):
            levels.append((x, matrix, row_sum))
            rating = torch.tanh(x @ direction / direction.norm())
            num_kept = min(-int(-self.ratio * len(x) // 1), self.max_pool, len(x))
            keep = torch.topk(rating.detach(), num_kept).indices
            matrix = (
                two_steps(matrix, keep, x.dtype) if isinstance(matrix, Adjacency) else _two_steps_dense(matrix, keep)
            )
            row_sum = matrix.sum(1)
            kept.append(keep)
            x = x.index_select(0, keep) * rating.index_select(0, keep)[:, None]
            x = conv(x, matrix, row_sum).relu()
        for i, conv in enumerate(self.up):
            skip, matrix, row_sum = levels.pop()
            x = (skip.index_add_ if in_place else skip.index_add)(0, kept.pop(), x)
            x = conv(x, matrix, row_sum)
            x = x.relu() if i < len(self.up) - 1 else x
        return x


def _two_steps_dense(matrix: Tensor, keep: Tensor) -> Tensor:
    near = matrix.clone().fill_diagonal_(1)
    return (near[keep] @ near[:, keep]).fill_diagonal_(0)
