"""The adjacency of hosts: channels without direction, weight or self-loops, as one sparse matrix."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from torch import Tensor

from thalweg.graph import compiled
from thalweg.graph.flowgraph import FlowGraph
from thalweg.runtime import buffers
from thalweg.runtime.parallel import parallel_map, ranges_of_weight

_EDGES_AT_ONCE: Final = 8_192
"""Fewest edges in a range: waking a thread for fewer costs more than it saves."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Adjacency:
    """A symmetric matrix A of zeros and ones with an empty diagonal, over N hosts.

    col: (M,) int64 neighbours, grouped by host, ascending in each group; start: (N + 1,) int64, offset of each group.
    """

    col: Tensor
    start: Tensor

    @property
    def degree(self) -> Tensor:
        """(N,) int64 neighbours of each host."""
        return self.start.diff()

    def csr(self, dtype: torch.dtype) -> Tensor:
        """Return A as a sparse tensor. Returns: (N, N) CSR."""
        ones, num = torch.ones(len(self.col), dtype=dtype, device=self.col.device), len(self.start) - 1
        with warnings.catch_warnings():
            # Torch warns once per process that CSR is in beta; the product used here is tested against a dense one.
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
            return torch.sparse_csr_tensor(self.start, self.col, ones, (num, num), check_invariants=False)


def neighbours(graph: FlowGraph) -> Adjacency:
    """Return which hosts talk to each other, in either direction. The cost grows with the channels alone."""
    if graph.src.is_cuda:
        return undirected(graph.channel_src, graph.channel_dst, graph.num_hosts)
    near, start = compiled.link(graph.channel_src.numpy(), graph.channel_dst.numpy(), graph.num_hosts)
    return Adjacency(torch.from_numpy(near), torch.from_numpy(start))


def undirected(src: Tensor, dst: Tensor, num_hosts: int) -> Adjacency:
    """Return the adjacency of the pairs src[i], dst[i]; repeats and self-loops are ignored."""
    apart = src != dst
    a, b = src[apart], dst[apart]
    keys = torch.unique(torch.cat([a * num_hosts + b, b * num_hosts + a]))
    row = torch.div(keys, max(num_hosts, 1), rounding_mode="floor")
    start = torch.zeros(num_hosts + 1, dtype=torch.int64, device=keys.device)
    torch.cumsum(torch.bincount(row, minlength=num_hosts), 0, out=start[1:])
    return Adjacency(keys - row * num_hosts, start)


@final
class _SymmetricProduct(torch.autograd.Function):
    """A @ x for a symmetric constant A. The gradient is A @ grad; torch's own product would transpose A each time."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(matrix)
        return matrix @ x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        (matrix,) = ctx.saved_tensors
        return None, matrix @ grads[0].contiguous()


def symmetric_product(adjacency: Adjacency, x: Tensor) -> Tensor:
    """Return A x, with gradients. x: (N, D). Returns: (N, D), in float32 at least."""
    # Training may ask for half precision, in which torch has no sparse product.
    dtype = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        out: Tensor = _SymmetricProduct.apply(adjacency.csr(dtype), x.to(dtype))  # type: ignore[no-untyped-call]  # torch does not type apply
    return out


def propagate(adjacency: Adjacency, x: Tensor, factor: Tensor, own: float, kept: Tensor) -> Tensor:
    """Return factor · (A x + own · x) + kept, without gradients.

    x: (N, D); factor: (N,); kept: (N, D) or (D,). Returns: (N, D).
    """
    if x.is_cuda:
        return factor[:, None] * (adjacency.csr(x.dtype) @ x + own * x) + kept
    out = buffers.tensor(*x.shape, dtype=x.dtype)
    given = (
        adjacency.start.numpy(), adjacency.col.numpy(), x.numpy(), factor.numpy(), x.numpy().dtype.type(own),
        kept.expand(x.shape).numpy(), out.numpy(),
    )  # fmt: skip
    # Ranges hold equally many edges, not hosts: the first hosts are the busiest.
    ranges = ranges_of_weight(given[0], max(_EDGES_AT_ONCE, len(adjacency.col) // 16))
    parallel_map(lambda begin, end: compiled.propagate(*given, begin, end), ranges)
    return out


def two_steps(adjacency: Adjacency, keep: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the rows and columns `keep` of (A + I)² with an empty diagonal. Returns: (K, K) dense.

    (A + I)² = A² + 2A + I, and A²[keep, keep] = A[keep, :] A[:, keep]: only edges that touch a kept host count.
    """
    out = torch.zeros(len(keep), len(keep), dtype=dtype)
    given = adjacency.start.cpu().numpy(), adjacency.col.cpu().numpy(), keep.cpu().numpy()
    compiled.two_steps(*given, out.numpy())
    return out.to(keep.device)
