"""The kernels in plain torch, in any precision and with gradients; the compiled ones are tested against these.

Shapes: N hosts, P channels, E flows, F flow attributes, D width, H heads of width S.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg.graph import FlowGraph

AT_ONCE: Final = 32_768
"""Flows per step if each needs a row of its own, so that (E, D) is never held."""


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
    """Weigh each host's flows in one direction by attention, and sum their values and attributes.

    For a flow i on a channel from peer u to target v, with attributes e_i, per head:
        s_i = a · LeakyReLU(peer_u + target_v + e_i B)        w_i = softmax_v(s)_i
    Scores are kept between ±bound, so that they need no maximum per target to be safe: 2.5 million times e^30 is far
    below float32's largest number.

    peer, target: (N, H·S), head by head; value: (N, D), head by head; B = key_attr: (F, H·S); a = weigh: (H, S).
    slope: of the LeakyReLU below zero.
    Returns: (N, D) the weighted mean of the peers' values; (N, H, F) the weighted mean of the flows' attributes; zeros
    for a host that has no such flows.
    Source: Brody, Alon & Yahav 2022, arXiv:2105.14491 (GATv2).
    """
    ends = (graph.channel_src, graph.channel_dst)
    channel_peer, channel_target = ends if incoming else ends[::-1]
    at = graph.dst if incoming else graph.src
    (num_hosts, width), heads = value.shape, len(weigh)
    num_attributes = graph.edge_attr.shape[1]
    # Once per channel what depends on hosts alone, then once per flow: (P, H·S) before (E, H·S).
    pair = target.index_select(0, channel_target) + peer.index_select(0, channel_peer)
    add_heads = torch.block_diag(*weigh[:, :, None])  # type: ignore[no-untyped-call]  # (H·S, H)
    # Sums stay in float32 in mixed precision: a host may have millions of weights.
    dtype = torch.promote_types(value.dtype, torch.float32)
    zeros = partial(value.new_zeros, dtype=dtype)
    mass = zeros(num_hosts, heads)
    by_channel = zeros(graph.num_channels, heads)
    attr_sum = zeros(num_hosts, heads * num_attributes)
    for run in (slice(i, i + AT_ONCE) for i in range(0, graph.num_edges, AT_ONCE)):
        channel, attr, host = graph.channel[run], graph.edge_attr[run], at[run]
        hidden = functional.leaky_relu(pair.index_select(0, channel) + attr @ key_attr, slope)
        score = (hidden @ add_heads).to(dtype)  # (at most AT_ONCE, H)
        weight = score.clamp(-bound, bound).exp()
        weight = weight if graph.times is None else weight * graph.times[run, None]
        mass = mass.index_add(0, host, weight)
        by_channel = by_channel.index_add(0, channel, weight)
        weighed = (weight[:, :, None] * attr[:, None, :]).view(-1, heads * num_attributes)
        attr_sum = attr_sum.index_add(0, host, weighed)
    # A peer's value is the same for all flows of a channel, so their weights are added up first.
    mass = mass.clamp(min=1e-30)
    share = by_channel / mass.index_select(0, channel_target)
    messages = value.view(num_hosts, heads, -1).index_select(0, channel_peer) * share[:, :, None]
    summed = zeros(num_hosts, width).index_add(0, channel_target, messages.view(-1, width))
    return summed, attr_sum.view(num_hosts, heads, num_attributes) / mass[:, :, None]


def decode_edges(
    base: Callable[[int, int], Tensor],
    graph: FlowGraph,
    of_flow: nn.Linear,
    last: nn.Sequential,
    num_own: int,
    num_waves: int,
) -> Tensor:
    """Rate flows: last(the row of their channel + of_flow(their sharpened attributes)).

    base: returns the rows (C, D) of the channels from one number up to another. graph: with all attributes.
    last: activation, linear, activation, linear to one number. num_own, num_waves: see `sharpen`.
    Returns: (E,) logits. (E, D) is never held.
    """
    runs = (slice(i, i + AT_ONCE) for i in range(0, graph.num_channels, AT_ONCE))
    bases = torch.cat([base(run.start, min(run.stop, graph.num_channels)) for run in runs])  # (P, D)
    parts = [
        last(bases.index_select(0, channel) + of_flow(sharpen(attr, num_own, num_waves))).squeeze(1)
        for channel, attr in zip(
            torch.split(graph.channel, AT_ONCE), torch.split(graph.edge_attr, AT_ONCE), strict=True
        )
    ]
    return torch.cat(parts)


def sharpen(attr: Tensor, num_own: int, num_waves: int) -> Tensor:
    """Add waves of growing frequency of the first `num_own` attributes, so that 48 bytes differ from 52.

    attr: (E, F). Returns: (E, F + 2 · num_own · num_waves): attributes; sin, then cos, of π/2 2^w times each.
    Source: Tancik et al. 2020, arXiv:2006.10739 (Fourier features).
    """
    waves = torch.pi / 2 * 2.0 ** torch.arange(num_waves, dtype=attr.dtype, device=attr.device)
    phase = (attr[:, :num_own, None] * waves).flatten(1)
    return torch.cat([attr, phase.sin(), phase.cos()], dim=1)


def combine_ends(
    z: Tensor, src: Tensor, dst: Tensor, channel_src: Tensor, channel_dst: Tensor
) -> tuple[Tensor, Tensor]:
    """Return z_u · z_v and src_u + dst_v for channels u -> v. z, src, dst: (N, D). Returns: two (C, D)."""
    product = z.index_select(0, channel_src) * z.index_select(0, channel_dst)
    return product, src.index_select(0, channel_src) + dst.index_select(0, channel_dst)


def rowwise(layers: Callable[..., Tensor], *parts: Tensor) -> Tensor:
    """Return layers(*parts); each row depends on the same row of each part alone. parts: (N, …). Returns: (N, D)."""
    return layers(*parts)
