"""The decoder's last layers on a GPU: blocks of flows, from their attributes to their logits in one pass.

Shapes: E flows, P channels, C channels of a run, F flow attributes, D width, B flows of a block. In a kernel a name in
capitals is known when it is compiled; there F and D are powers of two, padded with zeros.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Final

import triton
import triton.language as tl
from torch import Tensor, nn

from thalweg.graph import FlowGraph

_BLOCK: Final = 32
"""Flows per program: their (B, D) rows stay in registers."""
_PART: Final = 16
"""Numbers that a product is summed over at once: all 64 of a layer would need more registers than there are."""
_CHANNELS: Final = 65_536
"""Channels whose (C, D) rows are held at once."""
_VARYING: Final = {"num_flows", "num_channels", "first_channel", "begin", "end"}
_QUARTER: Final = tl.constexpr(math.pi / 2)


def kernel(body: Callable[..., None]) -> Any:
    """Compile a kernel for the GPU at hand when it is first launched; kept on disk for the next time.

    Of numbers that differ from window to window nothing is assumed, such as that 16 divides them: else some window
    would wait for a compiler again.
    """
    varying = [name for name in inspect.signature(body).parameters if name in _VARYING]
    return triton.jit(do_not_specialize=varying)(body)


def padded(num: int) -> int:
    """Return the size of a block that holds `num` columns and can be multiplied: a power of two, 16 or more."""
    size: int = triton.next_power_of_2(max(num, 16))
    return size


def decode_edges(
    base: Callable[[int, int], Tensor],
    graph: FlowGraph,
    of_flow: nn.Linear,
    last: nn.Sequential,
    num_own: int,
    num_waves: int,
) -> Tensor:
    """Rate flows; see `reference.decode_edges`. Float32, no gradients.

    Holds rows of 65,536 channels, and nothing of E × D.
    graph: sorted. Returns: (E,) logits, in its order, the same each time.
    """
    assert graph.is_sorted, "a run of channels is a run of flows"
    middle, final = last[1], last[3]
    assert isinstance(middle, nn.Linear), "as `reference.decode_edges` says"
    assert isinstance(final, nn.Linear), "as `reference.decode_edges` says"
    attr, num_attributes, width = graph.edge_attr, graph.edge_attr.shape[1], middle.in_features
    assert of_flow.in_features == num_attributes + 2 * num_own * num_waves, "as `reference.sharpen` says"
    layers = of_flow.weight, of_flow.bias, middle.weight, middle.bias, final.weight, final.bias
    sizes = num_attributes, num_own * num_waves, width
    pads = {"BLOCK": _BLOCK, "PART": _PART, "WAVES": max(num_waves, 1), "F": padded(num_attributes), "D": padded(width)}
    logit = attr.new_empty(graph.num_edges)
    first_flow = [*graph.channel_start[:-1:_CHANNELS].tolist(), graph.num_edges]
    for run, (begin, end) in enumerate(pairwise(first_flow)):
        first = run * _CHANNELS
        rows = base(first, min(first + _CHANNELS, graph.num_channels)).contiguous()
        flows = rows, first, graph.channel, attr, *attr.stride()
        _rate[(triton.cdiv(end - begin, _BLOCK),)](*flows, *layers, logit, begin, end, *sizes, **pads)
    return logit


@kernel
def _rate(
    base: tl.tensor, first_channel: tl.tensor, channel: tl.tensor,
    attr: tl.tensor, attr_row: tl.tensor, attr_column: tl.tensor,
    of_flow: tl.tensor, of_flow_bias: tl.tensor, middle: tl.tensor, middle_bias: tl.tensor,
    final: tl.tensor, final_bias: tl.tensor, logit: tl.tensor, begin: tl.tensor, end: tl.tensor,
    num_attributes: tl.tensor, num_sharpened: tl.tensor, width: tl.tensor,
    BLOCK: tl.constexpr, PART: tl.constexpr, WAVES: tl.constexpr, F: tl.constexpr, D: tl.constexpr,
) -> None:  # fmt: skip
    """Fill `logit` (E,) for a block of the flows from `begin` to `end`. base: (C, D) from `first_channel` on."""
    i = begin + tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    is_flow = i < end
    f, d = tl.arange(0, F), tl.arange(0, D)
    is_attr, is_width = f < num_attributes, d < width
    c = tl.load(channel + i, mask=is_flow, other=first_channel) - first_channel
    row = attr + i[:, None] * attr_row
    own = tl.load(row + f[None, :] * attr_column, mask=is_flow[:, None] & is_attr[None, :], other=0.0)
    num_inputs = num_attributes + 2 * num_sharpened
    after = tl.zeros((BLOCK, D), tl.float32)
    for part in range(0, D, PART):
        n = part + tl.arange(0, PART)
        is_part = n < width
        hidden = tl.load(base + c[:, None] * width + n[None, :], mask=is_flow[:, None] & is_part[None, :], other=0.0)
        hidden += tl.load(of_flow_bias + n, mask=is_part, other=0.0)[None, :]
        to_weight = of_flow + n[None, :] * num_inputs
        weight = tl.load(to_weight + f[:, None], mask=is_attr[:, None] & is_part[None, :], other=0.0)
        hidden += tl.dot(own, weight, input_precision="ieee")
        for some in range(0, num_sharpened, PART):
            k = some + tl.arange(0, PART)
            is_wave = k < num_sharpened
            x = tl.load(row + (k // WAVES)[None, :] * attr_column, mask=is_flow[:, None] & is_wave[None, :], other=0.0)
            sin, cos = _wave(x * (1 << (k % WAVES)).to(tl.float32)[None, :])
            to_wave = to_weight + num_attributes + k[:, None]
            wanted = is_wave[:, None] & is_part[None, :]
            hidden += tl.dot(sin, tl.load(to_wave, mask=wanted, other=0.0), input_precision="ieee")
            hidden += tl.dot(cos, tl.load(to_wave + num_sharpened, mask=wanted, other=0.0), input_precision="ieee")
        to_next = middle + d[None, :] * width + n[:, None]
        weight = tl.load(to_next, mask=is_part[:, None] & is_width[None, :], other=0.0)
        after += tl.dot(_silu(hidden), weight, input_precision="ieee")
    after += tl.load(middle_bias + d, mask=is_width, other=0.0)[None, :]
    rated = tl.sum(_silu(after) * tl.load(final + d, mask=is_width, other=0.0)[None, :], 1) + tl.load(final_bias)
    tl.store(logit + i, rated, mask=is_flow)


@kernel
def _wave(x: tl.tensor) -> tl.tensor:
    """Return sin and cos of x quarter turns. x: any shape, below 2^22.

    Its distance from the nearest whole number is exact in float32; x · π/2 would lose digits as x grows.
    """
    nearest = tl.floor(x + 0.5)
    angle = (x - nearest) * _QUARTER
    sin, cos = tl.sin(angle), tl.cos(angle)
    turn = nearest.to(tl.int32) & 3
    is_odd = (turn & 1) == 1
    turned_sin, turned_cos = tl.where(is_odd, cos, sin), tl.where(is_odd, sin, cos)
    is_negative = (turn == 1) | (turn == 2)
    return tl.where(turn >= 2, -turned_sin, turned_sin), tl.where(is_negative, -turned_cos, turned_cos)


@kernel
def _silu(x: tl.tensor) -> tl.tensor:
    """Return x / (1 + e^-x), without the exponential of a large number."""
    small = tl.exp(-tl.abs(x))
    return x * tl.where(x >= 0, 1.0, small) / (1.0 + small)
