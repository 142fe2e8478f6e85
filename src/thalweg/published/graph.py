"""Flows -> the published reference's graph: hop-sum host features, scaled attributes, uniform negatives.

Shapes: N hosts, E flows, F = 3 flow attributes, D = 32 host features.

Source: gnn-netflow-ad of NVIDIA morpheus-experimental (Apache-2.0), written from its description.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, final

import polars as pl
import torch
from torch import Tensor

from thalweg.errors import ModelFormatError
from thalweg.graph import HostTable, index_hosts, octet_features
from thalweg.published.network import NUM_FEATURES
from thalweg.runtime.device import on_device
from thalweg.tables import Flows

NUM_HOPS: Final = 3
_ATTRIBUTES: Final = ("fwd_bytes", "bwd_bytes", "duration_ms")


@final
@dataclass(frozen=True, slots=True, eq=False)
class PublishedGraph:
    """One window, or several that share no host. Edge i is flow i.

    x: (N, 32) float32; edge_index: (2, E) int64; edge_attr: (E, 3) float32; host_window: (N,) int64.
    """

    x: Tensor
    edge_index: Tensor
    edge_attr: Tensor
    host_window: Tensor
    num_windows: int = 1

    @property
    def num_hosts(self) -> int:
        """N."""
        return self.x.shape[0]

    def to(self, device: torch.device) -> PublishedGraph:
        """Return the graph on another device."""
        x, edge_index, edge_attr, host_window = (
            on_device(tensor, device) for tensor in (self.x, self.edge_index, self.edge_attr, self.host_window)
        )
        return replace(self, x=x, edge_index=edge_index, edge_attr=edge_attr, host_window=host_window)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Preparation:
    """What turns flows into graphs; fitted once, on training flows, and kept in the model file.

    projection: (4, 32) float32, octets to features; mean, std: (3,) float64, of the raw attributes.
    """

    projection: Tensor
    mean: Tensor
    std: Tensor

    @classmethod
    def fit(cls, flows: Flows, generator: torch.Generator) -> Preparation:
        """Draw the projection from U(-1, 1) and measure the attributes' mean and spread."""
        projection = torch.rand(4, NUM_FEATURES, generator=generator) * 2 - 1
        raw = _raw_attributes(flows)
        std = raw.std(dim=0, correction=0)
        # As StandardScaler does: a constant attribute becomes 0, not a division by nothing.
        return cls(projection, raw.mean(dim=0), torch.where(std > 0, std, 1.0))

    @classmethod
    def restore(cls, tensors: Mapping[str, Tensor]) -> Preparation:
        """Return the preparation whose fields these tensors are.

        Raises ModelFormatError if one is missing or of another shape, or if a spread is not positive.
        """
        num = len(_ATTRIBUTES)
        for name, shape in (("projection", (4, NUM_FEATURES)), ("mean", (num,)), ("std", (num,))):
            if name not in tensors:
                raise ModelFormatError(f"published GAE: no tensor {name!r}; the file is incomplete")
            dtype = torch.float32 if name == "projection" else torch.float64
            if tuple(tensors[name].shape) != shape or tensors[name].dtype != dtype:
                raise ModelFormatError(f"published GAE: {name} is {tuple(tensors[name].shape)}, not {dtype} {shape}")
        if not (tensors["std"] > 0).all():
            raise ModelFormatError("published GAE: std is not positive")
        return cls(tensors["projection"], tensors["mean"], tensors["std"])

    def graph(self, flows: Flows) -> PublishedGraph:
        """Build the graph of one window."""
        src, dst, hosts = index_hosts(flows)
        return PublishedGraph(
            x=hop_sum(self.addresses(hosts), src, dst),
            edge_index=torch.stack([src, dst]),
            edge_attr=self.attributes(flows),
            host_window=torch.zeros(len(hosts), dtype=torch.int64),
        )

    def addresses(self, hosts: HostTable) -> Tensor:
        """Project the hosts' octets. Returns: (N, 32) float32."""
        # The reference knows only IPv4 and reads anything else as 0.0.0.0. The last four of the sixteen bytes
        # are an IPv4 address's own octets, and distinguish at least the interfaces of one IPv6 subnet.
        return octet_features(hosts.octets, hosts.kind)[:, 12:] @ self.projection

    def attributes(self, flows: Flows) -> Tensor:
        """Standardise the flows' attributes. Returns: (E, 3) float32."""
        return ((_raw_attributes(flows) - self.mean) / self.std).float()


def hop_sum(
    e0: Tensor,
    src: Tensor,
    dst: Tensor,
    num_hops: int = NUM_HOPS,
    average: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Sum the features of the hosts 0, 1, … hops along a host's outgoing flows, with nearer hops taken out of farther.

    With ê_0 = e_0 / |e_0|, and |.| each row's length:
        e_d = (D⁻¹A)^d ê_0 - sum over 1 ≤ i < d of (D⁻¹A)^(d-i) ê_i        ê_d = e_d / |e_d| / (d + 1)
        x = sum over d of ê_d
    A counts flows src -> dst, parallel ones each; D is its row sums. A host that opens no flow keeps ê_0.

    All powers share their first factor, e_d = D⁻¹A (e_(d-1) - ê_(d-1)), so each hop costs one sparse product.

    e0: (N, D); src, dst: (E,) int64; average: e -> D⁻¹A e, if there is a quicker way than flow by flow.
    Returns: (N, D).
    """
    num_out = torch.bincount(src, minlength=len(e0)).clamp(min=1).to(e0.dtype)[:, None]

    def by_flow(e: Tensor) -> Tensor:
        return torch.zeros_like(e).index_add_(0, src, e[dst]) / num_out

    average = average or by_flow
    unit = _unit_rows(e0)
    x, inner = unit, unit
    for hop in range(1, num_hops + 1):
        e = average(inner)
        part = _unit_rows(e) / (hop + 1)
        x, inner = x + part, e - part
    return x


def _unit_rows(e: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(e, dim=1, keepdim=True)
    return e / torch.where(length > 0, length, 1.0)


def uniform_negatives(edge_index: Tensor, num_hosts: int, num_negatives: int, generator: torch.Generator) -> Tensor:
    """Draw pairs of distinct hosts that no flow joins, each equally likely.

    Drawn with replacement: on graphs as sparse as these a repeat is rare, and the number never falls short.

    edge_index: (2, E) int64 on the CPU. Returns: (2, K) int64; K is 0 if every pair has a flow.
    """
    src, dst = edge_index
    apart = src != dst
    src, dst = src[apart], dst[apart]
    # Number the N(N-1) ordered pairs row by row, the diagonal skipped.
    taken = torch.unique(src * (num_hosts - 1) + dst - (dst > src).long())
    num_free = num_hosts * (num_hosts - 1) - len(taken)
    if num_free == 0:
        return torch.empty(2, 0, dtype=torch.int64)
    # The r-th free pair comes after as many taken ones as have at most r free pairs before them.
    rank = torch.randint(num_free, (num_negatives,), generator=generator)
    num_free_before = taken - torch.arange(len(taken))
    pair = rank + torch.searchsorted(num_free_before, rank, right=True)
    src = torch.div(pair, num_hosts - 1, rounding_mode="floor")
    dst = pair % (num_hosts - 1)
    return torch.stack([src, dst + (dst >= src).long()])


def join(graphs: Sequence[PublishedGraph]) -> PublishedGraph:
    """Put windows side by side in one graph, in order; they share no host."""
    if len(graphs) == 1:
        return graphs[0]
    sizes = torch.tensor([graph.num_hosts for graph in graphs])
    offsets = (sizes.cumsum(0) - sizes).tolist()
    return PublishedGraph(
        x=torch.cat([graph.x for graph in graphs]),
        edge_index=torch.cat([graph.edge_index + o for graph, o in zip(graphs, offsets, strict=True)], dim=1),
        edge_attr=torch.cat([graph.edge_attr for graph in graphs]),
        host_window=torch.repeat_interleave(sizes),
        num_windows=len(graphs),
    )


def _raw_attributes(flows: Flows) -> Tensor:
    return torch.from_numpy(flows.frame.select(pl.col(_ATTRIBUTES).cast(pl.Float64)).to_numpy(writable=True))
