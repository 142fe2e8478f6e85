"""The published decoder for all flows of a window at once: the same numbers, an eighth of the arithmetic or less.

Shapes: P channels, E flows, F = 3 flow attributes, D = 256 latent, R = 768 hidden, K patterns.

The first layer sees [z_u * z_v | own | around] side by side, so it is the sum of three: of the window, once; of the
channel, once for all its flows; of the flow. The last, W relu(A e + a), is affine in the flow's three attributes as
long as the same of its 256 ReLUs are open: flows are grouped by which are open, and each pattern that is common
enough gets its R x 3 matrix and its constant. The rest goes through the layer as it is.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from thalweg.graph import FlowGraph
from thalweg.graph.compiled import sort
from thalweg.published.network import NUM_ATTRIBUTES, PublishedNetwork
from thalweg.runtime.jit import ANY_ORDER, compiled
from thalweg.runtime.parallel import Ints, even_ranges, parallel_map

Floats = npt.NDArray[np.float32]
Words = npt.NDArray[np.uint64]

_RUN: Final = 4096
"""Flows, and so channels, that a thread takes at once: their R numbers per channel are 12 MB."""
_COMMON: Final = 4
"""Flows that a pattern needs to be worth a matrix: making it costs as much as the layer for F + 1 flows."""
_PATTERNS: Final = 256
_WORD: Final = 64
_C1, _C2, _C3 = np.float32(0.6931471749169125), np.float32(0.24022609743599038), np.float32(0.05549927754654275)
_C4, _C5, _C6 = np.float32(0.009597169027562656), np.float32(0.0012917894609989022), np.float32(0.0001149808659035246)


def rate(network: PublishedNetwork, z: Tensor, graph: FlowGraph) -> Tensor:
    """Rate each edge: log-odds that it exists.

    z: (N, D) float32; graph: merged, E edges here. Returns: (E,) float32, row i for edge i.
    """
    decoder, embedding = network.decoder, network.global_edge_embedding
    on_pair, on_own, on_around = torch.split(decoder.fc1.weight, z.shape[1], dim=1)  # (R, D) each
    attr, of_edge = graph.edge_attr, graph.channel.numpy()
    mean = (attr.double() if graph.times is None else attr.double() * graph.times[:, None]).sum(0) / graph.num_flows
    around = functional.relu(decoder.fc_global(embedding.mlp(mean.float())))  # (D,)
    constant = decoder.fc1.bias + on_around @ around  # (R,)
    attributes, ending = attr.contiguous().numpy(), decoder.fc.weight[0].detach().contiguous().numpy()
    pattern, table = _patterns(decoder.fc_edge.weight, decoder.fc_edge.bias, on_own, attributes)
    logit = np.empty(len(attr), np.float32)

    def run(first: int, last: int) -> None:
        flows, channel = np.arange(first, last), of_edge[first:last]
        begin, end = int(channel[0]), int(channel[-1]) + 1
        src, dst = (e[begin:end] for e in (graph.channel_src, graph.channel_dst))
        pair = torch.addmm(constant, z.index_select(0, src).mul_(z.index_select(0, dst)), on_pair.T)
        # By pattern, as a pattern's table fills the cache of a core; those without one come first.
        by_pattern, starts = sort(pattern[flows] + 1, len(table) + 1)
        flows, channel = flows[by_pattern], channel[by_pattern] - begin
        rare = torch.from_numpy(flows[: starts[1]])
        own = torch.mm(functional.relu(decoder.fc_edge(attr[rare])), on_own.T)
        _rate(flows, channel, pattern, attributes, pair.numpy(), own.numpy(), table, ending, logit)

    parallel_map(run, even_ranges(len(attr), _RUN))
    return torch.from_numpy(logit).add_(decoder.fc.bias)


def _patterns(weight: Tensor, bias: Tensor, on_own: Tensor, attr: Floats) -> tuple[Ints, Floats]:
    """Find the common patterns of open ReLUs, and what `on_own` makes of each.

    weight: (D, F), bias: (D,): of the ReLUs; on_own: (R, D); attr: (E, F).
    Returns: the pattern of each flow (E,), -1 if it is rare; the patterns' tables (K, F + 1, R): what hidden
    unit r is in a flow with attributes e is the sum over f of table[k, f, r] e_f, and table[k, F, r].
    """
    latent = len(bias)
    words = np.empty((len(attr), -(-latent // _WORD)), np.uint64)
    by_attribute = weight.T.detach().contiguous().numpy()
    parallel_map(_open, even_ranges(len(attr), 4 * _RUN), attr, by_attribute, bias.detach().numpy(), words)
    number, example = _distinct(words)
    common = np.bincount(number, minlength=len(example)) >= _COMMON
    renumbered = np.where(common, np.cumsum(common) - 1, -1)
    bits = np.unpackbits(words[example[common]].astype("<u8").view(np.uint8), axis=1, bitorder="little")
    is_open = torch.from_numpy(bits[:, :latent]).float()  # (K, D)
    affine = torch.cat([weight.T, bias[None]])  # (F + 1, D)
    table = torch.empty(len(is_open), len(affine), len(on_own))

    def run(first: int, last: int) -> None:
        rows = (is_open[first:last, None] * affine).view(-1, latent)
        torch.mm(rows, on_own.T, out=table[first:last].view(-1, len(on_own)))

    parallel_map(run, even_ranges(len(is_open), _PATTERNS))
    return renumbered[number], table.numpy()


@compiled(*ANY_ORDER)
def _open(first: int, last: int, attr: Floats, weight: Floats, bias: Floats, words: Words) -> None:
    """Write down, a bit each, which ReLUs are open. weight: (F, D); words: (E, D / 64, rounded up)."""
    latent = len(bias)
    before = np.empty(latent, np.float32)
    for flow in range(first, last):
        for d in range(latent):
            before[d] = bias[d]
        for f in range(attr.shape[1]):
            amount = attr[flow, f]
            for d in range(latent):
                before[d] += amount * weight[f, d]
        for w in range(words.shape[1]):
            word = np.uint64(0)
            for d in range(w * _WORD, min(latent, (w + 1) * _WORD)):
                word |= np.uint64(before[d] > 0) << np.uint64(d - w * _WORD)
            words[flow, w] = word


@compiled(*ANY_ORDER)
def _distinct(words: Words) -> tuple[Ints, Ints]:
    """Number the distinct rows as they first appear. Returns: each row's number (E,); where each appeared (K,)."""
    num_rows, num_words = words.shape
    num_slots = 1
    while num_slots < 2 * num_rows:
        num_slots *= 2
    slots = np.full(num_slots, -1, np.int64)
    number = np.empty(num_rows, np.int64)
    example = np.empty(num_rows, np.int64)
    num_found = 0
    for row in range(num_rows):
        mixed = np.uint64(0)
        for w in range(num_words):
            # Fibonacci hashing, Knuth vol. 3, 6.4.
            mixed = (mixed ^ words[row, w]) * np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(29)
        slot = np.int64(mixed & np.uint64(num_slots - 1))
        while True:
            known = slots[slot]
            if known < 0:
                slots[slot] = num_found
                example[num_found] = row
                number[row] = num_found
                num_found += 1
                break
            same = True
            for w in range(num_words):
                same = same and words[example[known], w] == words[row, w]
            if same:
                number[row] = known
                break
            slot = (slot + 1) & (num_slots - 1)
    return number, example[:num_found].copy()


@compiled(*ANY_ORDER)
def _elu(x: np.float32) -> np.float32:
    """ELU in operations that all have a vector form: e^x = 2^n 2^f, with n whole and f in (-1, 0].

    2^f is 1 + f times a polynomial that equals (2^f - 1) / f at Chebyshev's nodes: wrong by 6e-9 at most, a tenth of
    what float32 can distinguish from 1. If e^x is below 2^-30, the result is -1 anyway.
    """
    y = min(x, np.float32(0)) * np.float32(1.4426950408889634)
    y = max(y, np.float32(-30))
    n = np.int32(y)
    f = y - np.float32(n)
    p = _C6
    p = p * f + _C5
    p = p * f + _C4
    p = p * f + _C3
    p = p * f + _C2
    p = p * f + _C1
    p = p * f + np.float32(1)
    # Numba computes in 64 bits unless 32 are asked for, and few machines turn eight of those into floats at once.
    power = np.float32(np.int32(1 << ((n + 30) & 31))) * np.float32(2.0**-30)
    return max(x, np.float32(0)) + (p * power - np.float32(1))


@compiled(*ANY_ORDER)
def _rate(
    flows: Ints,
    channel: Ints,
    pattern: Ints,
    attr: Floats,
    pair: Floats,
    own: Floats,
    table: Floats,
    ending: Floats,
    logit: Floats,
) -> None:
    """Fill `logit` (E,) for the flows of a run.

    flows, channel: (C,) each flow's number and its row of `pair`. pattern: (E,) each flow's table, or -1; the flows
    without one come first, and each has its row of `own`. ending: (R,), the last layer.
    """
    width = len(ending)
    for i in range(len(flows)):
        flow = flows[i]
        common = pair[channel[i]]
        total = np.float32(0)
        if pattern[flow] >= 0:
            m = table[pattern[flow]]
            a, b, c = attr[flow, 0], attr[flow, 1], attr[flow, 2]
            by_a, by_b, by_c, rest = m[0], m[1], m[2], m[3]
            for r in range(width):
                x = common[r] + rest[r] + a * by_a[r] + b * by_b[r] + c * by_c[r]
                total += ending[r] * _elu(x)
        else:
            row = own[i]
            for r in range(width):
                total += ending[r] * _elu(common[r] + row[r])
        logit[flow] = total


assert NUM_ATTRIBUTES == 3  # _rate spells out three
