"""Attention over flows on a GPU, in three passes that each read flows or channels once, in blocks.

Every sum takes two steps without atomic additions: within a block of rows sorted by host or channel, then over the
blocks. So a host that has all the flows slows nothing down, and sums are the same each time.

Shapes: N hosts, P channels, E flows, F flow attributes, D width, H heads of score width S, B rows of a block,
R sums of rows (host by host or channel by channel), C numbers of a row. In a kernel, names in capitals are compile-time
constants; there F, S, C are powers of two, padded with zeros.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from thalweg.graph import FlowGraph
from thalweg.model.kernels.gpu.edges import kernel, padded

_BLOCK: Final = 32
"""Rows per program: few, as their sums are products with a (B, B) table, all in registers."""
_PARTS: Final = 32
"""Blocks' sums that are added at once: the 6,250 of a host with 200,000 flows are 196 turns of a loop."""
_NUMBERS: Final = 2_048
"""Numbers that are added at once, by one warp of 32 threads: 64 for each, in registers."""


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

    Float32, no gradients. Attributes must be finite. Holds a weight per flow and head, and nothing of a head's width
    per flow or channel.
    Returns: (N, D), (N, H, F).
    """
    graph = graph.sorted()
    (num_hosts, width), num_attributes = value.shape, graph.edge_attr.shape[1]
    heads = len(weigh)
    if not graph.num_edges:
        return value.new_zeros(num_hosts, width), value.new_zeros(num_hosts, heads, num_attributes)
    ends = (graph.channel_src, graph.channel_dst)
    channel_peer, channel_target = ends if incoming else ends[::-1]
    hosts = peer.contiguous(), target.contiguous(), key_attr.contiguous(), weigh.contiguous()
    weight, mass = _weights(*hosts, graph, (channel_peer, channel_target), bound=bound, slope=slope)
    order = _by_target(graph, channel_target, num_hosts)
    sums = _attributes(order, graph.edge_attr, weight, num_hosts)
    whole = sums[:, :, -1:].clamp(min=1e-30)
    summed = _values(order, channel_peer, mass, value.contiguous())
    return (summed.view(num_hosts, heads, -1) / whole).flatten(1), sums[:, :, :-1] / whole


class _Order(NamedTuple):
    """Channels and flows in order of the hosts that attend to them.

    channel: (P,); host: (P,) their targets; first_channel: (N + 1,) where each target's begin.
    flow: (E,); host_of_flow: (E,); first_flow: (N + 1,). All int64.
    """

    channel: Tensor
    host: Tensor
    first_channel: Tensor
    flow: Tensor
    host_of_flow: Tensor
    first_flow: Tensor


def _by_target(graph: FlowGraph, channel_target: Tensor, num_hosts: int) -> _Order:
    channel = torch.argsort(channel_target, stable=True)
    host = channel_target.index_select(0, channel)
    first_channel = torch.searchsorted(host, torch.arange(num_hosts + 1, device=host.device))
    size = graph.channel_start.diff().index_select(0, channel)
    first = torch.nn.functional.pad(size.cumsum(0), (1, 0))  # (P + 1,) where each channel begins in the new order
    moved = graph.channel_start.index_select(0, channel) - first[:-1]
    num = graph.num_edges  # said below, so that nobody waits for the GPU to count it
    flow = torch.repeat_interleave(moved, size, output_size=num) + torch.arange(num, device=host.device)
    host_of_flow = torch.repeat_interleave(host, size, output_size=num)
    return _Order(channel, host, first_channel, flow, host_of_flow, first.index_select(0, first_channel))


def _weights(
    peer: Tensor,
    target: Tensor,
    key_attr: Tensor,
    weigh: Tensor,
    graph: FlowGraph,
    ends: tuple[Tensor, Tensor],
    *,
    bound: float,
    slope: float,
) -> tuple[Tensor, Tensor]:
    """Return the weights of flows in order of their channels (E, H), and what they add up to by channel (P, H).

    ends: peer and target of each channel, (P,) each.
    """
    (heads, score_width), (num, num_attributes) = weigh.shape, graph.edge_attr.shape
    blocks = triton.cdiv(num, _BLOCK)
    weight, parts = peer.new_empty(num, heads), peer.new_empty(graph.num_channels + blocks, heads)
    times = torch.ones_like(graph.channel, dtype=torch.int32) if graph.times is None else graph.times
    flows = graph.edge_attr, *graph.edge_attr.stride(), times, graph.channel, *ends
    given = peer, target, key_attr, weigh, *flows, weight, parts, bound, slope, num, num_attributes, score_width
    _weigh[(blocks,)](*given, BLOCK=_BLOCK, HEADS=heads, F=padded(num_attributes), S=padded(score_width))
    return weight, add_up(parts, graph.channel_start)


def _attributes(order: _Order, attr: Tensor, weight: Tensor, num_hosts: int) -> Tensor:
    """Return weighted sums of the attributes and, last, the sums of the weights: (N, H, F + 1)."""
    (num, num_attributes), heads = attr.shape, weight.shape[1]
    blocks = triton.cdiv(num, _BLOCK)
    parts = weight.new_empty(num_hosts + blocks, heads * (num_attributes + 1))
    given = order.flow, order.host_of_flow, weight, attr, *attr.stride(), parts, num, num_attributes
    _sum_attr[(blocks,)](*given, BLOCK=_BLOCK, HEADS=heads, F=padded(num_attributes + 1))
    return add_up(parts, order.first_flow).view(num_hosts, heads, num_attributes + 1)


def _values(order: _Order, channel_peer: Tensor, mass: Tensor, value: Tensor) -> Tensor:
    """Return weighted sums of the peers' values: (N, D)."""
    (num_channels, heads), (num_hosts, width) = mass.shape, value.shape
    blocks = triton.cdiv(num_channels, _BLOCK)
    parts = value.new_empty(num_hosts + blocks, width)
    given = order.channel, order.host, channel_peer, mass, value, parts, num_channels, width, width // heads
    _sum_value[(blocks,)](*given, BLOCK=_BLOCK, HEADS=heads, C=padded(width))
    return add_up(parts, order.first_channel)


def add_up(parts: Tensor, start: Tensor) -> Tensor:
    """Add the blocks' sums up. start: (R + 1,) where the rows of each sum begin, sorted. Returns: (R, C).

    parts: (R + blocks, C). Row r + b holds the part of sum r that lies in block b: as r and b grow along the rows, no
    two parts share a row, and those of one sum are adjacent. Other rows are never read.
    """
    out = parts.new_empty(len(start) - 1, parts.shape[1])
    columns = triton.next_power_of_2(parts.shape[1])
    at_once = max(min(_PARTS, _NUMBERS // columns), 1)
    _add_up[(len(out),)](parts, start, out, parts.shape[1], BLOCK=_BLOCK, PARTS=at_once, C=columns, num_warps=1)
    return out


@kernel
def _weigh(
    peer: tl.tensor, target: tl.tensor, key_attr: tl.tensor, weigh: tl.tensor,
    attr: tl.tensor, attr_row: tl.tensor, attr_column: tl.tensor, times: tl.tensor,
    channel: tl.tensor, channel_peer: tl.tensor, channel_target: tl.tensor,
    weight: tl.tensor, parts: tl.tensor, bound: tl.tensor, slope: tl.tensor,
    num_flows: tl.tensor, num_attributes: tl.tensor, score_width: tl.tensor,
    BLOCK: tl.constexpr, HEADS: tl.constexpr, F: tl.constexpr, S: tl.constexpr,
) -> None:  # fmt: skip
    """Fill `weight` (E, H), and `parts` (P + blocks, H) with what it adds up to by channel, for one block."""
    block = tl.program_id(0)
    i = block * BLOCK + tl.arange(0, BLOCK)
    is_flow = i < num_flows
    c = tl.load(channel + i, mask=is_flow, other=-1)
    before = tl.load(channel + i - 1, mask=is_flow & (i > block * BLOCK), other=-1)
    u = tl.load(channel_peer + c, mask=is_flow, other=0)
    v = tl.load(channel_target + c, mask=is_flow, other=0)
    f, s = tl.arange(0, F), tl.arange(0, S)
    is_attr, is_score = f < num_attributes, s < score_width
    at = i.to(tl.int64)[:, None] * attr_row + f[None, :] * attr_column
    e = tl.load(attr + at, mask=is_flow[:, None] & is_attr[None, :], other=0.0)
    often = tl.load(times + i, mask=is_flow, other=0).to(tl.float32)
    alike = c[:, None] == c[None, :]
    for h in tl.static_range(HEADS):
        k = h * score_width + s
        wanted = is_flow[:, None] & is_score[None, :]
        hidden = tl.load(peer + u[:, None] * (HEADS * score_width) + k[None, :], mask=wanted, other=0.0)
        hidden += tl.load(target + v[:, None] * (HEADS * score_width) + k[None, :], mask=wanted, other=0.0)
        to_key = key_attr + f[:, None] * (HEADS * score_width) + k[None, :]
        key = tl.load(to_key, mask=is_attr[:, None] & is_score[None, :], other=0.0)
        hidden += tl.dot(e, key, input_precision="ieee")
        hidden = tl.where(hidden > 0, hidden, slope * hidden)
        score = tl.sum(hidden * tl.load(weigh + k, mask=is_score, other=0.0)[None, :], 1)
        w = tl.exp(tl.minimum(tl.maximum(score, -bound), bound)) * often
        tl.store(weight + i.to(tl.int64) * HEADS + h, w, mask=is_flow)
        by_channel = tl.sum(tl.where(alike, w[None, :], 0.0), 1)
        tl.store(parts + (c + block) * HEADS + h, by_channel, mask=is_flow & (c != before))


@kernel
def _sum_attr(
    flow: tl.tensor, host: tl.tensor, weight: tl.tensor, attr: tl.tensor, attr_row: tl.tensor, attr_column: tl.tensor,
    parts: tl.tensor, num_flows: tl.tensor, num_attributes: tl.tensor,
    BLOCK: tl.constexpr, HEADS: tl.constexpr, F: tl.constexpr,
) -> None:  # fmt: skip
    """Fill `parts` (N + blocks, H · (F + 1)): attributes by weight, and weights, by target, for one block.

    flow, host: (E,) flows in order of their targets, and these.
    """
    block = tl.program_id(0)
    j = block * BLOCK + tl.arange(0, BLOCK)
    is_flow = j < num_flows
    i = tl.load(flow + j, mask=is_flow, other=0)
    v = tl.load(host + j, mask=is_flow, other=-1)
    before = tl.load(host + j - 1, mask=is_flow & (j > block * BLOCK), other=-1)
    f = tl.arange(0, F)
    wanted = is_flow[:, None] & (f < num_attributes)[None, :]
    e = tl.load(attr + i[:, None] * attr_row + f[None, :] * attr_column, mask=wanted, other=0.0)
    e = tl.where((f == num_attributes)[None, :], 1.0, e)
    for h in tl.static_range(HEADS):
        w = tl.load(weight + i * HEADS + h, mask=is_flow, other=0.0)
        to = parts + h * (num_attributes + 1)
        _keep_sums(to, HEADS * (num_attributes + 1), block, v, before, w[:, None] * e, f, num_attributes + 1)


@kernel
def _sum_value(
    order: tl.tensor, host: tl.tensor, channel_peer: tl.tensor, mass: tl.tensor, value: tl.tensor, parts: tl.tensor,
    num_channels: tl.tensor, width: tl.tensor, head_width: tl.tensor,
    BLOCK: tl.constexpr, HEADS: tl.constexpr, C: tl.constexpr,
) -> None:  # fmt: skip
    """Fill `parts` (N + blocks, D): the peers' values by weight, by target, for one block of channels.

    order, host: (P,) channels in order of their targets, and these; mass: (P, H).
    """
    block = tl.program_id(0)
    j = block * BLOCK + tl.arange(0, BLOCK)
    is_channel = j < num_channels
    c = tl.load(order + j, mask=is_channel, other=0)
    v = tl.load(host + j, mask=is_channel, other=-1)
    before = tl.load(host + j - 1, mask=is_channel & (j > block * BLOCK), other=-1)
    u = tl.load(channel_peer + c, mask=is_channel, other=0)
    d = tl.arange(0, C)
    wanted = is_channel[:, None] & (d < width)[None, :]
    rows = tl.load(value + u[:, None] * width + d[None, :], mask=wanted, other=0.0)
    rows *= tl.load(mass + c[:, None] * HEADS + (d // head_width)[None, :], mask=wanted, other=0.0)
    _keep_sums(parts, width, block, v, before, rows, d, width)


@kernel
def _keep_sums(
    parts: tl.tensor, parts_row: tl.tensor, block: tl.tensor, key: tl.tensor, before: tl.tensor, rows: tl.tensor,
    column: tl.tensor, num_columns: tl.tensor,
) -> None:  # fmt: skip
    """Add up the rows (B, C) of equal keys, and store each sum in the row that `_add_up` reads.

    key: (B,) sorted, -1 if there is no row; before: (B,) the key before, -1 for the block's first.
    """
    alike = (key[:, None] == key[None, :]).to(tl.float32)
    sums = tl.dot(alike, rows, input_precision="ieee")
    is_first = (key >= 0) & (key != before)
    to = parts + (key + block)[:, None] * parts_row + column[None, :]
    tl.store(to, sums, mask=is_first[:, None] & (column < num_columns)[None, :])


@kernel
def _add_up(
    parts: tl.tensor, start: tl.tensor, out: tl.tensor, num_columns: tl.tensor,
    BLOCK: tl.constexpr, PARTS: tl.constexpr, C: tl.constexpr,
) -> None:  # fmt: skip
    """Fill one row of `out` (R, C): see `add_up`."""
    r = tl.program_id(0).to(tl.int64)
    begin, end = tl.load(start + r), tl.load(start + r + 1)
    first, stop = begin // BLOCK, (end + BLOCK - 1) // BLOCK
    num_parts = tl.where(end > begin, stop - first, 0)
    row, column = tl.arange(0, PARTS), tl.arange(0, C)
    is_column = column < num_columns
    total = tl.zeros((PARTS, C), tl.float32)
    for at in range(0, num_parts, PARTS):
        part = at + row
        to = parts + (r + first + part)[:, None] * num_columns + column[None, :]
        total += tl.load(to, mask=(part < num_parts)[:, None] & is_column[None, :], other=0.0)
    tl.store(out + r * num_columns + column, tl.sum(total, 0), mask=is_column)
