"""The loops over flows that NumPy has no name for, compiled. Each writes rows `begin` to `end` of its last arguments.

Shapes: E flows, N hosts, P channels, F flow attributes.

All are single-threaded and release the GIL: `parallel_for` hands them their rows.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from thalweg.runtime.jit import compiled


@compiled(inline=True)
def scatter(x: Any) -> Any:
    """Scatter a 64-bit number as `hosts.mix` does: splitmix64's finaliser."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@compiled()
def parse_v4(text: Any, start: Any, key: Any, begin: int, end: int) -> None:
    """Read dotted IPv4 addresses, as `addresses._V4` takes them.

    text: (T,) uint8; start: (K + 1,) int64, where each address begins. key: (K,) int64, the address, or −1.
    """
    for i in range(begin, end):
        value, octet, digits, dots = np.int64(0), np.int64(0), 0, 0
        bad = start[i + 1] - start[i] > 15
        if not bad:
            for at in range(start[i], start[i + 1]):
                digit = np.int64(text[at]) - 48
                if 0 <= digit <= 9:
                    # "01" is no octet: some read it as octal.
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
    """Number equal keys alike, in order of first appearance.

    key: (K,) int64, not negative. code: (K,) int64, filled. Returns: (N,) int64, where each number appeared first.
    """
    capacity = 512
    first = np.empty(capacity, np.int64)
    done, num = 0, 0
    while True:
        slots = np.full((4 * capacity, 2), -1, np.int64)
        mask = np.uint64(4 * capacity - 1)
        for old in range(num):
            at = scatter(np.uint64(key[first[old]])) & mask
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
    """Go on from `done` until all are numbered or `first` is full. slots: (S, 2) key and number, -1 where free."""
    mask = np.uint64(len(slots) - 1)
    for i in range(done, len(key)):
        wanted = key[i]
        at = scatter(np.uint64(wanted)) & mask
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
    """Find the channels, in order of (src, dst), by two counting sorts.

    src, dst: (E,) int64. order: (E,) int64, filled: the flows in order of their channels, else in their own;
    channel: (E,) int64, filled. Returns: (P + 1,) int64, where each channel begins in `order`.
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
    """Number the flows of each channel that are not alike, in order of first appearance.

    attr: (E, F) int32, the bits of attributes in channel order; start: as from `group`. edge_of: (E,) int64, filled.
    Returns: (K,) int64, where each edge appeared first; (P + 1,) int64, where the edges of each channel begin.
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
                mixed = scatter(mixed ^ np.uint64(attr[i, f]))
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
    """Sort places by a small key, equal ones in their order. key: (K,) int64 below `num`.

    Returns: (K,) int64 places by key; (num + 1,) int64, where those of each key begin.
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
    """Merge channels either way into neighbourhoods, without self-loops, each in order.

    channel_src, channel_dst: (P,) int64, in order of (src, dst), no pair twice.
    Returns: (M,) int64 neighbours; (N + 1,) int64, where those of each host begin.
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
    # Channels come by source, so that those into one host come in order of their sources.
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
    """Sum the attributes, and their squares, of each channel's flows; in float64, as squares nearly cancel later.

    attr: (K, F), in channel order; times: (K,) int32, how often each counts; start: (P + 1,), where a channel's begin.
    sums: (P, 2, F) float64, rows filled.
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
    """Add up at each host what its channels have. end: (P,) int64 hosts; size: (P,); sums: (P, S) float64.

    counts: (N, 2) float64 zeros, filled: flows, channels; at_host: (N, S) float64 zeros, filled.
    """
    for c in range(len(end)):
        host = end[c]
        counts[host, 0] += size[c]
        counts[host, 1] += 1
        for s in range(sums.shape[1]):
            at_host[host, s] += sums[c, s]


@compiled()
def reverse_sizes(channel_src: Any, channel_dst: Any, size: Any, num_hosts: int, back: Any) -> None:
    """Find how many flows go the other way. All (P,), channels in order of (src, dst). back: (P,), filled."""
    begin = np.zeros(num_hosts + 1, np.int64)
    for c in range(len(channel_src)):
        begin[channel_src[c] + 1] += 1
    for host in range(num_hosts):
        begin[host + 1] += begin[host]
    # By source, the destinations of each are visited in order: a finger on each host's list only moves on.
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
    """Turn sums and sums of squares into means and spreads, zeros where nothing was added up.

    num: (K,); sums: (K, 2, F) float64. out: (K, 2F), rows filled.
    """
    for k in range(begin, end):
        _mean_and_spread(num[k], sums[k], out[k], 0)


@compiled()
def describe_hosts(num: Any, sums: Any, out: Any, begin: int, end: int) -> None:
    """Put side by side what hosts did each way: logarithms of flows out, in, of peers out, in; `describe` of both.

    num: (2, N, 2) float64, flows and peers, out and in; sums: (2, N, 2, F) float64. out: (N, 4 + 4F), rows filled.
    """
    for host in range(begin, end):
        for way in range(2):
            flows, peers = num[way, host, 0], num[way, host, 1]
            out[host, way], out[host, 2 + way] = math.log1p(flows), math.log1p(peers)
            _mean_and_spread(flows, sums[way, host], out[host], 4 + 2 * sums.shape[3] * way)


@compiled()
def describe_channels(size: Any, reverse: Any, sums: Any, out: Any, begin: int, end: int) -> None:
    """Put side by side the logarithms of a channel's flows and of those the other way, and `describe`.

    size, reverse: (P,) int64; sums: (P, 2, F) float64. out: (P, 2 + 2F), rows filled.
    """
    for c in range(begin, end):
        out[c, 0], out[c, 1] = math.log1p(size[c]), math.log1p(reverse[c])
        _mean_and_spread(size[c], sums[c], out[c], 2)


# A + B C may become one rounding: vectors of it are what the loop's time depends on.
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
    """Count the ways of two steps between kept hosts: A² + 2A without its diagonal.

    start, col: as in `Adjacency`, over N hosts; keep: (K,) int64 hosts, none twice. out: (K, K) zeros, filled.
    """
    num_hosts = len(start) - 1
    at = np.zeros(num_hosts + 1, np.int64)
    for i in keep:
        for edge in range(start[i], start[i + 1]):
            at[col[edge] + 1] += 1
    for host in range(num_hosts):
        at[host + 1] += at[host]
    # The kept hosts beside each host.
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
            for way in range(at[via], at[via + 1]):
                out[place, beside[way]] += 1
        for edge in range(at[i], at[i + 1]):
            out[place, beside[edge]] += 2
        out[place, place] = 0
