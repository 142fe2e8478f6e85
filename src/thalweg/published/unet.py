"""The published Graph U-Net on whole windows: PyTorch Geometric's numbers without its A².

Shapes: N hosts, K kept hosts of a level, D features.

Each level's graph is T = A transposed, so that a row is what one host receives. Level 0 is the flows themselves. Level
l + 1 is (T + I)² among the hosts kept, with an empty diagonal, weights kept. PyTorch Geometric forms it for all
hosts, which a window of 58,000 does not allow: 85 million entries at level 1, and nearly all pairs at level 2. Here
the levels are small dense matrices where few hosts are kept. Elsewhere they are never formed: what is asked of one
is its product with features, which is two products of the level below less the diagonal of its square. That
diagonal is the weight of the walks that return to their host, counted once a level.

Weights multiply at each level, and the diagonal is subtracted: in float64, as parallel flows make both large.

Source: Gao & Ji 2019, arXiv:1905.05178 (Graph U-Net); Kipf & Welling 2017, arXiv:1609.02907 (GCN, here in the
"improved" form: a host receives itself twice over).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Final, final

import numpy as np
import torch
from torch import Tensor, nn

from thalweg.graph import FlowGraph
from thalweg.published.sparse import CSR, Doubles, TwoSteps, times
from thalweg.runtime.parallel import even_ranges, parallel_map

_DENSE: Final = 1536
"""Kept hosts of level 1 up to which levels are dense: their products then cost less than walks along channels."""
_OWN: Final = 2.0
_RUN: Final = 1024
_DENSE_RUN: Final = 128
"""Hosts that a thread takes at once, if a host costs little, and if it costs a row of a dense matrix."""


class Level(ABC):
    """A graph over K hosts, a row for each that receives, without the hosts' flows to themselves."""

    own: Doubles
    """(K,) the weight of a host's own row in a convolution."""

    @abstractmethod
    def apply(self, x: Tensor, stay: float = 0.0) -> Tensor:
        """Return T @ x + stay x. x: (K, D) float64. Returns: (K, D) float64."""

    @abstractmethod
    def pooled(self, keep: Tensor) -> Level:
        """Return the level above: (T + I)² among the hosts `keep`, without its diagonal. keep: (K',) int64."""

    def convolve(self, conv: Any, x: Tensor) -> Tensor:
        """Return D^-1/2 (T + own) D^-1/2 x W + b, D the row sums of T + own.

        conv: PyTorch Geometric's GCNConv. x: (K, D) float32. Returns: (K, D') float32.
        """
        own = torch.from_numpy(self.own)[:, None]
        ones = torch.ones(len(x), 1, dtype=torch.float64)
        scale = (self.apply(ones) + own).rsqrt()
        scaled = x.new_empty(len(x), len(conv.bias), dtype=torch.float64)
        out = x.new_empty(scaled.shape)

        def begin(first: int, last: int) -> None:
            torch.mul(conv.lin(x[first:last]), scale[first:last], out=scaled[first:last])

        def end(first: int, last: int) -> None:
            summed = mixed[first:last].addcmul_(scaled[first:last], own[first:last]).mul_(scale[first:last])
            torch.add(summed, conv.bias, out=out[first:last])

        parallel_map(begin, even_ranges(len(x), _RUN))
        mixed = self.apply(scaled)
        parallel_map(end, even_ranges(len(x), _RUN))
        return out


@final
class FlowLevel(Level):
    """Level 0: as many edges as flows, so a channel weighs as many as it has.

    A host with flows to itself counts once in its own convolution, however many they are; any other, twice.
    """

    def __init__(self, graph: FlowGraph) -> None:
        src, dst, num_hosts = graph.channel_src.numpy(), graph.channel_dst.numpy(), graph.num_hosts
        apart = src != dst
        weight = graph.channel_size.numpy()[apart].astype(np.float64)
        self.matrix = CSR.of(dst[apart], src[apart], weight, (num_hosts, num_hosts))
        self.own = np.full(num_hosts, _OWN)
        self.own[src[~apart]] = 1.0

    def apply(self, x: Tensor, stay: float = 0.0) -> Tensor:
        """Return T @ x + stay x."""
        features = x.numpy()
        return torch.from_numpy(times(self.matrix, features, np.full(len(features), stay), features))

    def pooled(self, keep: Tensor) -> Level:
        """Return level 1: dense if it is small."""
        steps = TwoSteps.among(self.matrix.plus_identity(), keep.numpy())
        if len(keep) > _DENSE:
            return TwoStepLevel(steps)
        return DenseLevel(torch.from_numpy(steps.dense()).fill_diagonal_(0))


@final
class DenseLevel(Level):
    """A level as a matrix, its diagonal empty."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self.own = np.full(len(matrix), _OWN)

    def apply(self, x: Tensor, stay: float = 0.0) -> Tensor:
        """Return T @ x + stay x."""
        out = torch.empty_like(x)

        def run(first: int, last: int) -> None:
            torch.addmm(x[first:last], self.matrix[first:last], x, beta=stay, out=out[first:last])

        parallel_map(run, even_ranges(len(x), _DENSE_RUN))
        return out

    def pooled(self, keep: Tensor) -> Level:
        """Return the level above, dense again."""
        near = self.matrix.clone().fill_diagonal_(1)
        out, into = near[keep], near[:, keep]
        square = into.new_empty(len(keep), len(keep))

        def run(first: int, last: int) -> None:
            torch.mm(out[first:last], into, out=square[first:last])

        parallel_map(run, even_ranges(len(keep), _DENSE_RUN))
        return DenseLevel(square.fill_diagonal_(0))


@final
class TwoStepLevel(Level):
    """Level 1 as the product of two sparse matrices."""

    def __init__(self, steps: TwoSteps) -> None:
        self.steps = steps
        self.own = np.full(len(steps.closed), _OWN)

    def apply(self, x: Tensor, stay: float = 0.0) -> Tensor:
        """Return T @ x + stay x."""
        return torch.from_numpy(self.steps.apply(x.numpy(), stay))

    def pooled(self, keep: Tensor) -> Level:
        """Return level 2."""
        return SquaredLevel(self, keep, self.steps.closed_by_two(keep.numpy()))


@final
class SquaredLevel(Level):
    """Level 2 or 3, as the level below applied twice.

    closed: (K,), the diagonal of (T + I)² at the hosts kept, T the level below.
    """

    def __init__(self, below: TwoStepLevel | SquaredLevel, keep: Tensor, closed: Doubles) -> None:
        self.below, self.keep, self.closed = below, keep, torch.from_numpy(closed)[:, None]
        self.own = np.full(len(keep), _OWN)

    def apply(self, x: Tensor, stay: float = 0.0) -> Tensor:
        """Return T @ x + stay x."""
        y = x.new_zeros(len(self.below.own), x.shape[1])
        y[self.keep] = x
        y = self.below.apply(self.below.apply(y, 1.0), 1.0)
        return y[self.keep].addcmul_(stay - self.closed, x)

    def pooled(self, keep: Tensor) -> Level:
        """Return level 3. Raises ValueError above that, as the walks of more steps are not counted."""
        if not isinstance(self.below, TwoStepLevel):
            raise ValueError("the published Graph U-Net has three levels above the flows, not more")
        closed = self.below.steps.closed_by_four(self.keep.numpy(), keep.numpy())
        return SquaredLevel(self, keep, closed)


def embed(unet: Any, first: Tensor, graph: FlowGraph) -> Tensor:
    """Return the U-Net's output for the hosts; its first linear layer is applied already.

    unet: PyTorch Geometric's GraphUNet. first: (N, D) float32, the features times the first convolution's weights.
    Returns: (N, D) float32.
    """
    level: Level = FlowLevel(graph)
    x = level.convolve(_Done(unet.down_convs[0].bias), first).relu_()
    below: list[tuple[Level, Tensor, Tensor]] = []
    for pool, conv in zip(unet.pools, unet.down_convs[1:], strict=True):
        keep, rating = _best(pool, x)
        below.append((level, x, keep))
        level = level.pooled(keep)
        x = level.convolve(conv, x[keep].mul_(rating[:, None])).relu_()
    for i, conv in enumerate(unet.up_convs):
        level, skip, keep = below.pop()
        x = level.convolve(conv, skip.index_add_(0, keep, x))
        x = x.relu_() if i < len(unet.up_convs) - 1 else x
    return x


def _best(pool: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Choose the hosts to keep. Returns: which (K,), best first; their ratings tanh(x·p / |p|), (K,) float32.

    Ranked before the tanh, and in float64: as it saturates in float32, many hosts would be equally good.
    """
    direction = pool.select.weight[0].double()
    rating = x.double() @ direction / direction.norm()
    num_kept = -int(-pool.ratio * len(x) // 1)
    keep = rating.sort(descending=True, stable=True).indices[:num_kept]
    return keep, rating[keep].tanh().float()


@final
class _Done:
    """The first convolution without its linear layer, which is applied already."""

    def __init__(self, bias: nn.Parameter) -> None:
        self.bias = bias

    def lin(self, x: Tensor) -> Tensor:
        """Return x as it is."""
        return x
