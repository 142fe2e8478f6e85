"""The decoder's last layers on a CPU: runs of flows that stay in the cache, from their attributes to their logits.

Shapes: E flows, P channels, F flow attributes, D width, R flows of a run, W inputs of a flow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from thalweg.graph import FlowGraph
from thalweg.runtime.jit import compiled
from thalweg.runtime.parallel import parallel_for

_ROUNDER: Final = np.float32(1.5 * 2**23)
"""Adding and subtracting it rounds to the nearest whole number: the sum has no bits left for a fraction."""
_ONE, _QUARTER = np.float32(1), np.float32(math.pi / 2)
_S3, _S5, _S7, _S9 = (np.float32((-1) ** (k // 2) / math.factorial(k)) for k in (3, 5, 7, 9))
_C2, _C4, _C6, _C8, _C10 = (np.float32((-1) ** (k // 2) / math.factorial(k)) for k in (2, 4, 6, 8, 10))

RUN: Final = 4_096
"""Flows of a run: its (R, D) rows fit into a core's cache; with fewer, threads wait too often for the interpreter."""


def decode_edges(
    base: Callable[[int, int], Tensor],
    graph: FlowGraph,
    of_flow: nn.Linear,
    last: nn.Sequential,
    num_own: int,
    num_waves: int,
) -> Tensor:
    """Rate flows; see `reference.decode_edges`. Float32, no gradients. Holds a few runs, and nothing of E × D or P × D.

    Matrix products are torch's, by the vendor's library; what lies between them is compiled.
    graph: sorted. Returns: (E,) logits, in its order.
    """
    out = torch.empty(graph.num_edges)
    attr, channel = graph.edge_attr, graph.channel
    middle, final = last[1], last[3]
    assert isinstance(middle, nn.Linear), "as `reference.decode_edges` says"
    assert isinstance(final, nn.Linear), "as `reference.decode_edges` says"
    of_own, of_waves = of_flow.weight.t()[: attr.shape[1]], of_flow.weight.t()[attr.shape[1] :]
    assert len(of_waves) == 2 * num_own * num_waves, "as `reference.sharpen` says"
    width = middle.in_features

    def runs(begin: int, end: int) -> None:
        waves = torch.empty(len(of_waves), RUN)
        hidden, after = torch.empty(RUN, width), torch.empty(RUN, width)
        with torch.inference_mode():
            for at in range(begin * RUN, min(end * RUN, graph.num_edges), RUN):
                own, channels = attr[at : at + RUN], channel[at : at + RUN]
                num = len(own)
                _sharpen(own.numpy(), num_waves, waves[:, :num].numpy())
                low, high = int(channels[0]), int(channels[-1]) + 1
                h, g = hidden[:num], after[:num]
                torch.index_select(base(low, high), 0, channels - low, out=h)
                h.addmm_(own, of_own).addmm_(waves[:, :num].t(), of_waves).add_(of_flow.bias)
                nn.functional.silu(h, inplace=True)
                torch.addmm(middle.bias, h, middle.weight.t(), out=g)
                nn.functional.silu(g, inplace=True)
                torch.addmm(final.bias, g, final.weight.t(), out=out[at : at + num, None])

    parallel_for(runs, -(-graph.num_edges // RUN), least=4)
    return out


def combine_ends(
    z: Tensor, src: Tensor, dst: Tensor, channel_src: Tensor, channel_dst: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the product and the sum of the rows of each channel's ends; see `reference.combine_ends`."""
    made = torch.empty(2, len(channel_src), z.shape[1])
    _combine(z.numpy(), src.numpy(), dst.numpy(), channel_src.numpy(), channel_dst.numpy(), made.numpy())
    return made[0], made[1]


@compiled()
def _combine(z: Any, src: Any, dst: Any, channel_src: Any, channel_dst: Any, made: Any) -> None:
    for c in range(len(channel_src)):
        u, v = channel_src[c], channel_dst[c]
        for d in range(z.shape[1]):
            made[0, c, d] = z[u, d] * z[v, d]
        for d in range(z.shape[1]):
            made[1, c, d] = src[u, d] + dst[v, d]


@compiled()
def _sharpen(own: Any, num_waves: int, waves: Any) -> None:
    """Compute the waves of the first attributes. own: (R, F). waves: (2 · waves · attributes, R): sin, then cos."""
    num_sharpened = len(waves) // (2 * num_waves)
    column = np.empty(len(own), np.float32)
    for f in range(num_sharpened):
        column[:] = own[: len(column), f]
        for w in range(num_waves):
            at = f * num_waves + w
            _wave(column, np.float32(1 << w), waves[at], waves[at + num_sharpened * num_waves])


# Attributes are clipped, so there is no NaN. Sums may not be reordered: the rounding constant depends on their order.
@compiled("contract", "nnan", "ninf", "nsz")
def _wave(own: Any, factor: Any, to_sin: Any, to_cos: Any) -> None:
    """Return sin and cos of own · factor · π/2. All (R,); factor: a power of two.

    own · factor is exact, and so is its distance r from the nearest whole number of quarter turns; on |r| ≤ 1/2 the
    series to r^9 and r^10 are within 2e-9.
    """
    for i in range(len(own)):
        x = own[i] * factor
        nearest = (x + _ROUNDER) - _ROUNDER
        quarter = np.int32(nearest) & np.int32(3)
        t = (x - nearest) * _QUARTER
        square = t * t
        sine = t * (_ONE + square * (_S3 + square * (_S5 + square * (_S7 + square * _S9))))
        cosine = _ONE + square * (_C2 + square * (_C4 + square * (_C6 + square * (_C8 + square * _C10))))
        odd = (quarter & np.int32(1)) != 0
        a = cosine if odd else sine
        b = sine if odd else cosine
        to_sin[i] = -a if quarter >= 2 else a
        to_cos[i] = -b if quarter == 1 or quarter == 2 else b
