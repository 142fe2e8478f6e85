"""Which hosts are neighbours: channels without direction, weight or self-loops, as one sparse matrix."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from thalweg.graph.flowgraph import FlowGraph


@final
@dataclass(frozen=True, slots=True, eq=False)
class Adjacency:
    """A symmetric matrix A of zeros and ones with an empty diagonal, over N hosts.

    row, col: (M,) int64, sorted by row, each undirected neighbourhood twice; degree: (N,) neighbours of each host.
    """

    row: Tensor
    col: Tensor
    degree: Tensor

    def csr(self, dtype: torch.dtype) -> Tensor:
        """Return A as a sparse tensor. Returns: (N, N) CSR."""
        start = torch.zeros(len(self.degree) + 1, dtype=torch.int64, device=self.row.device)
        torch.cumsum(self.degree, 0, out=start[1:])
        return sparse_rows(
            start, self.col, torch.ones(len(self.col), dtype=dtype, device=self.row.device), len(self.degree)
        )


def sparse_rows(start: Tensor, col: Tensor, value: Tensor, num_cols: int) -> Tensor:
    """Return a CSR tensor of the rows that begin at `start` (R + 1,)."""
    with warnings.catch_warnings():
        # Torch says once a process that CSR is in beta; the two products used here are tested against dense ones.
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
        return torch.sparse_csr_tensor(start, col, value, (len(start) - 1, num_cols), check_invariants=False)


def neighbours(graph: FlowGraph) -> Adjacency:
    """Collapse a graph's channels to who talks with whom, either way. Cost grows with the channels alone."""
    return undirected(graph.channel_src, graph.channel_dst, graph.num_hosts)


def undirected(src: Tensor, dst: Tensor, num_hosts: int) -> Adjacency:
    """Return the neighbourhoods of pairs src[i], dst[i]; repeats and self-loops count for nothing."""
    apart = src != dst
    a, b = src[apart], dst[apart]
    keys = torch.unique(torch.cat([a * num_hosts + b, b * num_hosts + a]))
    row = torch.div(keys, max(num_hosts, 1), rounding_mode="floor")
    return Adjacency(row, keys - row * num_hosts, torch.bincount(row, minlength=num_hosts))


@final
class _SymmetricProduct(torch.autograd.Function):
    """A @ x for a symmetric constant A, whose gradient is A @ grad: torch's own would transpose A each time."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(matrix)
        return matrix @ x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        (matrix,) = ctx.saved_tensors
        return None, matrix @ grads[0].contiguous()


def symmetric_product(matrix: Tensor, x: Tensor) -> Tensor:
    """Return matrix @ x. matrix: (N, N) symmetric, sparse, constant; x: (N, D). Returns: (N, D)."""
    out: Tensor = _SymmetricProduct.apply(matrix, x)  # type: ignore[no-untyped-call]  # torch does not type apply
    return out
