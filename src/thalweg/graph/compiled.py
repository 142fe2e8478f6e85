"""Compiled loops over flows, hosts and channels that NumPy has no function for.

Shapes: E flows, N hosts, P channels, F flow attributes.

All are single-threaded and release the GIL. A loop with `begin` and `end` fills only these rows of its output
arguments, so that `runtime.parallel` can divide the rows among threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from thalweg.runtime.hashing import mix
from thalweg.runtime.jit import compiled

mix64: Callable[[Any], Any] = compiled(inline=True)(mix)
"""`mix` for one number, inside compiled loops."""


@compiled()
def parse_v4(text: Any, start: Any, key: Any, begin: int, end: int) -> None:
    """Parse dotted IPv4 addresses by the same rule as `addresses._V4`.

    text: (T,) uint8, the texts end to end; start: (K + 1,) int64, offset of each. key: (K,) int64, rows filled with
    the address as a number, −1 if the text is none.
    """
    for i in range(begin, end):
        value, octet, digits, dots = np.int64(0), np.int64(0), 0, 0
        bad = start[i + 1] - start[i] > 15
        if not bad:
            for at in range(start[i], start[i + 1]):
                digit = np.int64(text[at]) - 48
                if 0 <= digit <= 9:
                    # "01" is no octet: some parsers read it as octal.
                    bad |= (digits > 0) & (octet == 0)
                    octet = octet * 10 + digit
                    digits += 1
                else:
                    bad |= (digit != 46 - 48) | (digits == 0) | (octet > 255)
                    value = value * 256 + octet
                    octet, digits = np.int64(0), 0
                    dots += 1
        good = not bad and dots == 3 and digits > 0 and octet <= 255
        key[i] = value * 256 + octet if good else -1


@compiled()
def number(key: Any, code: Any) -> Any:
    """Give equal keys the same number, 0, 1, 2, … in order of first appearance.

    key: (K,) int64, not negative. code: (K,) int64, filled with the numbers. Returns: (N,) int64, the row at which
    each number appears first.
    """
    capacity = 512
    first = np.empty(capacity, np.int64)
    done, num = 0, 0
    while True:
        slots = np.full((4 * capacity, 2), -1, np.int64)
        mask = np.uint64(4 * capacity - 1)
        for old in range(num):
            at = mix64(np.uint64(key[first[old]])) & mask
            while slots[at, 0] >= 0:
                at = (at + np.uint64(1)) & mask
            slots[at, 0], slots[at, 1] = key[first[old]], old
        done, num = _number_some(key, code, slots, first, done, num)
        if done == len(key):
            return first[:num].copy()
        capacity *= 4
        grown = np.empty(capacity, np.int64)
        grown[:num] = first[:num]
        first = grown


@compiled()
def _number_some(key: Any, code: Any, slots: Any, first: Any, done: int, num: int) -> Any:
    """Continue at row `done` until all keys are numbered or `first` is full. Returns: rows done, numbers given.

    slots: (S, 2) key and number, -1 if free.
    """
    mask = np.uint64(len(slots) - 1)
    for i in range(done, len(key)):
        wanted = key[i]
        at = mix64(np.uint64(wanted)) & mask
        while slots[at, 0] != wanted and slots[at, 0] >= 0:
            at = (at + np.uint64(1)) & mask
        if slots[at, 0] < 0:
            if num == len(first):
                return i, num
            slots[at, 0], slots[at, 1] = wanted, num
            first[num] = i
            num += 1
        code[i] = slots[at, 1]
    return len(key), num


@compiled()
def group(src: Any, dst: Any, num_hosts: int, order: Any, channel: Any) -> Any:
    """Number the channels in order of (src, dst), by two counting sorts.

    src, dst: (E,) int64. order: (E,) int64, filled with the flows sorted by channel, in their own order within one;
    channel: (E,) int64, filled with each flow's channel. Returns: (P + 1,) int64, offset of each channel in `order`.
    """
    num = len(src)
    by_dst, _ = sort(dst, num_hosts)
    by_src, _ = sort(src[by_dst], num_hosts)
    order[:] = by_dst[by_src]
    start = np.empty(num + 1, np.int64)
    num_channels = 0
    for place in range(num):
        i = order[place]
        if place == 0 or src[i] != src[order[place - 1]] or dst[i] != dst[order[place - 1]]:
            start[num_channels] = place
            num_channels += 1
        channel[i] = num_channels - 1
    start[num_channels] = num
    return start[: num_channels + 1].copy()


@compiled()
def merge(attr: Any, start: Any, edge_of: Any) -> Any:
    """Merge the flows of a channel that have equal attributes into one edge, numbered in order of first appearance.

    attr: (E, F) int32, the attributes' bits, sorted by channel; start: as from `group`. edge_of: (E,) int64, filled
    with each flow's edge.
    Returns: (K,) int64, the first flow of each edge; (P + 1,) int64, offset of each channel's edges.
    """
    first = np.empty(len(attr), np.int64)
    edge_start = np.empty(len(start), np.int64)
    slots = np.empty(64, np.int64)
    num = 0
    for c in range(len(start) - 1):
        edge_start[c] = num
        size = start[c + 1] - start[c]
        num_slots = 2
        while num_slots < 2 * size:
            num_slots *= 2
        if num_slots > len(slots):
            slots = np.empty(2 * num_slots, np.int64)
        slots[:num_slots] = -1
        mask = np.uint64(num_slots - 1)
        for i in range(start[c], start[c + 1]):
            mixed = np.uint64(0)
            for f in range(attr.shape[1]):
                mixed = mix64(mixed ^ np.uint64(attr[i, f]))
            at = mixed & mask
            while slots[at] >= 0 and not _same(attr, first[slots[at]], i):
                at = (at + np.uint64(1)) & mask
            if slots[at] < 0:
                slots[at], first[num] = num, i
                num += 1
            edge_of[i] = slots[at]
    edge_start[len(start) - 1] = num
    return first[:num].copy(), edge_start


@compiled(inline=True)
def _same(rows: Any, i: int, j: int) -> Any:
    same = True
    for f in range(rows.shape[1]):
        same = same and rows[i, f] == rows[j, f]
    return same


@compiled()
def sort(key: Any, num: int) -> Any:
    """Return the stable order that sorts `key`, by counting. key: (K,) int64, from 0 to num - 1.

    Returns: (K,) int64 positions in order of their key; (num + 1,) int64, offset of each key's positions.
    """
    start = np.zeros(num + 1, np.int64)
    for i in range(len(key)):
        start[key[i] + 1] += 1
    for k in range(num):
        start[k + 1] += start[k]
    at = start[:-1].copy()
    place = np.empty(len(key), np.int64)
    for i in range(len(key)):
        place[at[key[i]]] = i
        at[key[i]] += 1
    return place, start


@compiled()
def link(channel_src: Any, channel_dst: Any, num_hosts: int) -> Any:
    """List each host's neighbours in either direction, ascending, without itself.

    channel_src, channel_dst: (P,) int64, sorted by (src, dst), no pair twice.
    Returns: (M,) int64 neighbours, grouped by host; (N + 1,) int64, offset of each group.
    """
    num_channels = len(channel_src)
    out_at = np.zeros(num_hosts + 1, np.int64)
    in_at = np.zeros(num_hosts + 1, np.int64)
    for c in range(num_channels):
        out_at[channel_src[c] + 1] += 1
        in_at[channel_dst[c] + 1] += 1
    for host in range(num_hosts):
        out_at[host + 1] += out_at[host]
        in_at[host + 1] += in_at[host]
    # Channels are sorted by source, so this pass lists each host's sources in ascending order.
    back = np.empty(num_channels, np.int64)
    fill = in_at.copy()
    for c in range(num_channels):
        back[fill[channel_dst[c]]] = channel_src[c]
        fill[channel_dst[c]] += 1
    near = np.empty(2 * num_channels, np.int64)
    start = np.empty(num_hosts + 1, np.int64)
    num = 0
    for host in range(num_hosts):
        start[host] = num
        a, b = out_at[host], in_at[host]
        while a < out_at[host + 1] or b < in_at[host + 1]:
            if b >= in_at[host + 1] or (a < out_at[host + 1] and channel_dst[a] <= back[b]):
                peer = channel_dst[a]
                if b < in_at[host + 1] and back[b] == peer:
                    b += 1
                a += 1
            else:
                peer = back[b]
                b += 1
            if peer != host:
                near[num] = peer
                num += 1
    start[num_hosts] = num
    return near[:num].copy(), start


@compiled("contract")
def sum_up(attr: Any, times: Any, start: Any, sums: Any, begin: int, end: int) -> None:
    """Sum the attributes, and their squares, of each channel's flows.

    In float64: the variance is later the small difference of two large sums. attr: (K, F), sorted by channel; times:
    (K,) int32, how often each counts; start: (P + 1,), offset of each channel. sums: (P, 2, F) float64, rows filled.
    """
    for c in range(begin, end):
        sums[c] = 0.0
        for i in range(start[c], start[c + 1]):
            for f in range(attr.shape[1]):
                x = np.float64(attr[i, f])
                sums[c, 0, f] += x * times[i]
                sums[c, 1, f] += x * x * times[i]


@compiled()
def sum_at(end: Any, size: Any, sums: Any, counts: Any, at_host: Any) -> None:
    """Add up, for each host, the flows, number and sums of its channels.

    end: (P,) int64, the host at one end of each channel; size: (P,) flows; sums: (P, S) float64.
    counts: (N, 2) float64 zeros, filled: flows, channels; at_host: (N, S) float64 zeros, filled: sums.
    """
    for c in range(len(end)):
        host = end[c]
        counts[host, 0] += size[c]
        counts[host, 1] += 1
        for s in range(sums.shape[1]):
            at_host[host, s] += sums[c, s]


@compiled()
def reverse_sizes(channel_src: Any, channel_dst: Any, size: Any, num_hosts: int, back: Any) -> None:
    """Look up the size of each channel's reverse, 0 if there is none. All (P,), sorted by (src, dst); back: filled."""
    begin = np.zeros(num_hosts + 1, np.int64)
    for c in range(len(channel_src)):
        begin[channel_src[c] + 1] += 1
    for host in range(num_hosts):
        begin[host + 1] += begin[host]
    # Sources ascend, so the cursor at[v] into the destinations of each host only moves forward.
    at = begin[:-1].copy()
    for c in range(len(channel_src)):
        u, v = channel_src[c], channel_dst[c]
        while at[v] < begin[v + 1] and channel_dst[at[v]] < u:
            at[v] += 1
        back[c] = size[at[v]] if at[v] < begin[v + 1] and channel_dst[at[v]] == u else 0


@compiled(inline=True)
def _mean_and_spread(num: Any, sums: Any, out: Any, at: int) -> None:
    # sums: (2, F), of values and of squares; out: a row, of which 2F from `at` on are filled.
    width = sums.shape[1]
    share = 1.0 / max(num, 1)
    for f in range(width):
        mean = sums[0, f] * share
        out[at + f] = mean
        out[at + width + f] = math.sqrt(max(sums[1, f] * share - mean * mean, 0.0))


@compiled()
def describe(num: Any, sums: Any, out: Any, begin: int, end: int) -> None:
    """Turn sums and sums of squares into means and standard deviations, zeros if nothing was added up.

    num: (K,); sums: (K, 2, F) float64. out: (K, 2F), rows filled.
    """
    for k in range(begin, end):
        _mean_and_spread(num[k], sums[k], out[k], 0)


@compiled()
def describe_hosts(num: Any, sums: Any, out: Any, begin: int, end: int) -> None:
    """Write the activity of hosts: log1p of flows out, in, of peers out, in; mean and spread of attributes out, in.

    num: (2, N, 2) float64, flows and peers, out and in; sums: (2, N, 2, F) float64. out: (N, 4 + 4F), rows filled.
    """
    for host in range(begin, end):
        for direction in range(2):
            flows, peers = num[direction, host, 0], num[direction, host, 1]
            out[host, direction], out[host, 2 + direction] = math.log1p(flows), math.log1p(peers)
            _mean_and_spread(flows, sums[direction, host], out[host], 4 + 2 * sums.shape[3] * direction)


@compiled()
def describe_channels(size: Any, reverse: Any, sums: Any, out: Any, begin: int, end: int) -> None:
    """Write the features of channels: log1p of flows and of the reverse channel's; mean and spread of attributes.

    size, reverse: (P,) int64; sums: (P, 2, F) float64. out: (P, 2 + 2F), rows filled.
    """
    for c in range(begin, end):
        out[c, 0], out[c, 1] = math.log1p(size[c]), math.log1p(reverse[c])
        _mean_and_spread(size[c], sums[c], out[c], 2)


# A fused multiply-add, which rounds once, is allowed: the loop's speed depends on vectors of it.
@compiled("contract")
def propagate(start: Any, col: Any, x: Any, factor: Any, own: Any, kept: Any, out: Any, begin: int, end: int) -> None:
    """Compute factor · (A x + own · x) + kept; see `adjacency.propagate`. out: (N, D), rows filled."""
    width = x.shape[1]
    total = np.empty(width, x.dtype)
    for v in range(begin, end):
        for d in range(width):
            total[d] = own * x[v, d]
        for at in range(start[v], start[v + 1]):
            u = col[at]
            for d in range(width):
                total[d] += x[u, d]
        for d in range(width):
            out[v, d] = factor[v] * total[d] + kept[v, d]


@compiled()
def two_steps(start: Any, col: Any, keep: Any, out: Any) -> None:
    """Compute A² + 2A between kept hosts, with an empty diagonal: the walks of two steps, and each edge twice.

    start, col: as in `Adjacency`, over N hosts; keep: (K,) int64 hosts, none twice. out: (K, K) zeros, filled.
    """
    num_hosts = len(start) - 1
    at = np.zeros(num_hosts + 1, np.int64)
    for i in keep:
        for edge in range(start[i], start[i + 1]):
            at[col[edge] + 1] += 1
    for host in range(num_hosts):
        at[host + 1] += at[host]
    # The kept neighbours of each host.
    beside = np.empty(at[num_hosts], np.int32)
    fill = at[:-1].copy()
    for place in range(len(keep)):
        for edge in range(start[keep[place]], start[keep[place] + 1]):
            beside[fill[col[edge]]] = place
            fill[col[edge]] += 1
    for place in range(len(keep)):
        i = keep[place]
        for edge in range(start[i], start[i + 1]):
            via = col[edge]
            for next_edge in range(at[via], at[via + 1]):
                out[place, beside[next_edge]] += 1
        for edge in range(at[i], at[i + 1]):
            out[place, beside[edge]] += 2
        out[place, place] = 0
