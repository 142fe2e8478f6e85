"""A window's flows by channel, for the published model's scoring: an index over them; the flows stay where they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from torch import Tensor

from thalweg.graph.compiled import sort
from thalweg.loops import Ints


@final
@dataclass(frozen=True, slots=True, eq=False)
class Channels:
    """N hosts, P channels (unique src -> dst pairs, by src, then dst), E flows.

    src, dst, size: (P,) int64, size in flows; channel: (E,) int64 of each flow; order: (E,) int64, the flows by
    channel, those of one channel as they came.
    """

    num_hosts: int
    src: Ints
    dst: Ints
    size: Ints
    channel: Ints
    order: Ints

    @classmethod
    def of(cls, edge_index: Tensor, num_hosts: int) -> Channels:
        """Find the channels of flows. edge_index: (2, E) int64 below N, on the CPU."""
        src, dst = edge_index.contiguous().numpy()
        by_dst, _ = sort(dst, num_hosts)
        by_src, _ = sort(src[by_dst], num_hosts)
        order = by_dst[by_src]
        from_, to = src[order], dst[order]
        begins = np.ones(len(order), bool)
        begins[1:] = (from_[1:] != from_[:-1]) | (to[1:] != to[:-1])
        first = np.flatnonzero(begins)
        channel = np.empty(len(order), np.int64)
        channel[order] = np.cumsum(begins) - 1
        size = np.diff(np.append(first, len(order)))
        return cls(num_hosts, from_[first], to[first], size, channel, order)
