"""GATv2 attention over the flows of a window, compiled for a CPU: float32, without gradients.

Shapes: N hosts, P channels, E flows, F flow attributes, H heads of width S.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from thalweg.graph.compiled import sort
from thalweg.runtime.jit import ANY_ORDER, compiled
from thalweg.runtime.parallel import Ints, parallel_map, ranges_of_weight

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

_FLOWS_AT_ONCE: Final = 8192
"""Flows of one range: enough that handing it to a thread costs nothing, few enough that no thread waits long."""


def attend(
    peer: Tensor,
    target: Tensor,
    attr: Tensor,
    *,
    key_attr: Tensor,
    weigh: Tensor,
    channel: Tensor,
    channel_peer: Tensor,
    channel_target: Tensor,
    slope: float = 0.2,
    times: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Weigh each target's flows by attention; add the weights up per channel, and the attributes per target.

    For a flow i on a channel from peer u to target v, with attributes e_i, per head:
        s_i = a · LeakyReLU(peer_u + target_v + e_i B)        w_i = softmax_v(s)_i
        share of a channel: the sum of w_i over its flows       mean_attr of a target: sum of w_i e_i
    A message that depends on the peer alone needs no more than `share`: V h_u is the same for all flows of a
    channel. What it holds of the attributes linearly needs no more than `mean_attr`.

    Holds a score per flow and head, and nothing of a head's width per flow or channel. Weights are added up in
    float64. One thread takes all the flows of a channel. F must be at least 1.

    peer, target: (N, H·S), head by head; attr: (E, F), B = key_attr: (F, H·S), a = weigh: (H, S).
    channel: (E,) int64 below P, in any order; channel_peer, channel_target: (P,) int64 below N.
    slope: of the LeakyReLU below zero. times: (E,) how many flows each stands for, one if not given.
    Returns: share (P, H), which sums to 1 over the channels of a target that has flows, 0 for a channel
    without; mean_attr (N, H, F), zeros for a target without flows. Both float32.
    Source: Brody, Alon & Yahav 2022, arXiv:2105.14491 (GATv2).
    """
    num_hosts, heads = len(peer), len(weigh)
    num_channels, num_attributes = len(channel_peer), attr.shape[1]
    order, start = sort(channel.numpy(), num_channels)
    ends = (channel_peer.numpy(), channel_target.numpy())
    score = np.empty((len(order), heads), np.float32)
    peak = np.empty((num_channels, heads), np.float32)
    ranges = ranges_of_weight(start, _FLOWS_AT_ONCE)
    peers, targets, keys = (_plain(part).reshape(len(part), heads, -1) for part in (peer, target, key_attr))
    given = (peers, targets, _plain(attr), keys, _plain(weigh))
    parallel_map(_score, ranges, order, start, *ends, *given, np.float32(slope), score, peak)
    peak_of_target = _largest(ends[1], peak, num_hosts)
    mass = np.empty((num_channels, heads), np.float64)
    attr_mass = np.empty((num_channels, heads, num_attributes), np.float64)
    often = np.ones(len(order), np.int32) if times is None else times.numpy()
    parallel_map(_weigh, ranges, order, start, ends[1], given[2], often, score, peak_of_target, mass, attr_mass)
    share, mean_attr = _normalised(ends[1], mass, attr_mass, num_hosts)
    return torch.from_numpy(share), torch.from_numpy(mean_attr)


def _plain(values: Tensor) -> Any:
    return values.detach().float().contiguous().numpy()


@compiled(*ANY_ORDER)
def _score(
    first: int,
    last: int,
    order: Ints,
    start: Ints,
    channel_peer: Ints,
    channel_target: Ints,
    peer: Floats,
    target: Floats,
    attr: Floats,
    key_attr: Floats,
    weigh: Floats,
    slope: float,
    score: Floats,
    peak: Floats,
) -> None:
    """Fill `score` (E, H), in channel order, and `peak` (P, H), the largest of each channel."""
    heads, width = weigh.shape
    last_attr = attr.shape[1] - 1
    pair, hidden = np.empty(width, np.float32), np.empty(width, np.float32)
    for channel in range(first, last):
        u, v = channel_peer[channel], channel_target[channel]
        for head in range(heads):
            theirs, ours, weights, last_key = peer[u, head], target[v, head], weigh[head], key_attr[last_attr, head]
            for s in range(width):
                pair[s] = theirs[s] + ours[s]
            best = np.float32(-np.inf)
            for place in range(start[channel], start[channel + 1]):
                flow = order[place]
                # The first attribute starts the sum and the last goes into the score: two passes over `hidden` less.
                first_key, amount = key_attr[0, head], attr[flow, 0] if last_attr else np.float32(0)
                for s in range(width):
                    hidden[s] = pair[s] + amount * first_key[s]
                for f in range(1, last_attr):
                    key, amount = key_attr[f, head], attr[flow, f]
                    for s in range(width):
                        hidden[s] += amount * key[s]
                amount = attr[flow, last_attr]
                total = np.float32(0)
                for s in range(width):
                    x = hidden[s] + amount * last_key[s]
                    total += weights[s] * (x if x > 0 else slope * x)
                score[place, head] = total
                best = max(best, total)
            peak[channel, head] = best


@compiled(*ANY_ORDER)
def _largest(channel_target: Ints, peak: Floats, num_hosts: int) -> Floats:
    """Return the largest score that each target has. peak: (P, H). Returns: (N, H)."""
    largest = np.full((num_hosts, peak.shape[1]), np.float32(-np.inf))
    for channel in range(len(channel_target)):
        v = channel_target[channel]
        for head in range(peak.shape[1]):
            largest[v, head] = max(largest[v, head], peak[channel, head])
    return largest


@compiled(*ANY_ORDER)
def _weigh(
    first: int,
    last: int,
    order: Ints,
    start: Ints,
    channel_target: Ints,
    attr: Floats,
    times: npt.NDArray[np.int32],
    score: Floats,
    peak: Floats,
    mass: Doubles,
    attr_mass: Doubles,
) -> None:
    """Fill `mass` (P, H), a channel's weights added up, and `attr_mass` (P, H, F), with its attributes times them."""
    heads, num_attributes = score.shape[1], attr.shape[1]
    for channel in range(first, last):
        v = channel_target[channel]
        mass[channel] = 0
        attr_mass[channel] = 0
        for place in range(start[channel], start[channel + 1]):
            flow = order[place]
            for head in range(heads):
                weight = times[flow] * math.exp(np.float64(score[place, head]) - np.float64(peak[v, head]))
                mass[channel, head] += weight
                for f in range(num_attributes):
                    attr_mass[channel, head, f] += weight * attr[flow, f]


@compiled(*ANY_ORDER)
def _normalised(channel_target: Ints, mass: Doubles, attr_mass: Doubles, num_hosts: int) -> tuple[Floats, Floats]:
    """Divide by each target's whole weight. Returns: share (P, H), mean_attr (N, H, F)."""
    num_channels, heads, num_attributes = attr_mass.shape
    whole = np.zeros((num_hosts, heads))
    whole_attr = np.zeros((num_hosts, heads, num_attributes))
    for channel in range(num_channels):
        v = channel_target[channel]
        for head in range(heads):
            whole[v, head] += mass[channel, head]
            for f in range(num_attributes):
                whole_attr[v, head, f] += attr_mass[channel, head, f]
    share = np.zeros((num_channels, heads), np.float32)
    mean_attr = np.zeros((num_hosts, heads, num_attributes), np.float32)
    for channel in range(num_channels):
        for head in range(heads):
            if mass[channel, head] > 0:
                share[channel, head] = mass[channel, head] / whole[channel_target[channel], head]
    for v in range(num_hosts):
        for head in range(heads):
            if whole[v, head] > 0:
                for f in range(num_attributes):
                    mean_attr[v, head, f] = whole_attr[v, head, f] / whole[v, head]
    return share, mean_attr
