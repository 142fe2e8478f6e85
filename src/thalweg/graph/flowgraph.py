"""A window of flows as a graph: every address a node, every flow its own directed edge."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import numpy as np
import polars as pl
import pyarrow as pa
import torch
from torch import Tensor

from thalweg.addresses import NOT_IP, parse_addresses
from thalweg.graph.attributes import AttributeScaling
from thalweg.tables import Flows

if TYPE_CHECKING:
    from torch_geometric.data import Data


@final
@dataclass(frozen=True, slots=True, eq=False)
class HostTable:
    """The hosts of some flows, in order of first appearance among all sources, then all destinations.

    names: (N,) as written; octets: (N, 16) uint8; kind: (N,) uint8, see `addresses`.
    """

    names: pl.Series
    octets: Tensor
    kind: Tensor

    def __len__(self) -> int:
        return len(self.kind)


@final
@dataclass(frozen=True, slots=True, eq=False)
class FlowGraph:
    """One window: N hosts, P channels (unique src -> dst pairs), E flows with F attributes. Edge i is flow i.

    octets: (N, 16) uint8; kind: (N,) uint8.
    src, dst: (E,) int64 host of each flow's two ends; channel: (E,) int64.
    channel_src, channel_dst: (P,) int64, ordered by (src, dst); channel_size: (P,) int64 flows on it.
    edge_attr: (E, F) float32, standardised.
    """

    octets: Tensor
    kind: Tensor
    src: Tensor
    dst: Tensor
    channel: Tensor
    channel_src: Tensor
    channel_dst: Tensor
    channel_size: Tensor
    edge_attr: Tensor

    @property
    def num_hosts(self) -> int:
        """N."""
        return self.kind.shape[0]

    @property
    def num_channels(self) -> int:
        """P."""
        return self.channel_src.shape[0]

    @property
    def num_flows(self) -> int:
        """E."""
        return self.src.shape[0]

    def to(self, device: torch.device) -> FlowGraph:
        """Return the graph on another device."""
        if device == self.src.device:
            return self
        return replace(self, **{name: on_device(getattr(self, name), device) for name in self.__slots__})

    def to_pyg(self) -> Data:
        """Return the graph as PyTorch Geometric keeps it.

        Returns: Data with x (N, 16) octets / 255, edge_index (2, E), edge_attr (E, F); edge i is flow i.
        """
        from torch_geometric.data import Data  # a slow import that scoring does not need

        return Data(
            x=octet_features(self.octets, self.kind),
            edge_index=torch.stack([self.src, self.dst]),
            edge_attr=self.edge_attr,
        )


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on another device; to a GPU from pinned memory, so that the current stream waits and not we."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def octet_features(octets: Tensor, kind: Tensor) -> Tensor:
    """Return the octets of each address / 255; zeros where a host has no address.

    octets: (N, 16) uint8; kind: (N,) uint8. Returns: (N, 16) float32. An IPv4 address fills the last four,
    behind the ff:ff of its IPv4-mapped form (RFC 4291).
    """
    return octets.float() / 255 * (kind != NOT_IP)[:, None]


def index_hosts(flows: Flows) -> tuple[Tensor, Tensor, HostTable]:
    """Number the hosts of some flows. Returns: src (E,), dst (E,) int64; the table of the N hosts.

    Two spellings of one address (2001:DB8::1 and 2001:db8:0::1) are one host.
    """
    text = pl.concat([flows.frame["src_addr"], flows.frame["dst_addr"]]).to_arrow()
    encoded = pa.chunked_array([text] if isinstance(text, pa.Array) else text).combine_chunks()
    dictionary = encoded.dictionary_encode()
    names = pl.Series("host", dictionary.dictionary)
    codes = torch.from_numpy(dictionary.indices.to_numpy(zero_copy_only=False).astype(np.int64))
    octets, kind = parse_addresses(names)
    keys = np.ascontiguousarray(np.concatenate([octets, kind[:, None]], axis=1)).view("V17").ravel()
    _, first, same = np.unique(keys, return_index=True, return_inverse=True)
    if len(first) < len(names):
        order = np.argsort(first)
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        codes = torch.from_numpy(rank[same])[codes]
        keep = first[order]
        names, octets, kind = names.gather(pl.Series(keep)), octets[keep], kind[keep]
    num = len(flows)
    return codes[:num], codes[num:], HostTable(names, torch.from_numpy(octets), torch.from_numpy(kind))


def collapse(src: Tensor, dst: Tensor, edge_attr: Tensor, octets: Tensor, kind: Tensor) -> FlowGraph:
    """Make the graph of flows whose hosts are numbered: find the channels, keep the order of the flows.

    src, dst: (E,) int64 rows of `octets` (N, 16) and `kind` (N,); every host must be on some flow.
    """
    num_hosts = kind.shape[0]
    keys, channel, size = torch.unique(src * num_hosts + dst, return_inverse=True, return_counts=True)
    return FlowGraph(
        octets=octets,
        kind=kind,
        src=src,
        dst=dst,
        channel=channel,
        channel_src=torch.div(keys, max(num_hosts, 1), rounding_mode="floor"),
        channel_dst=keys % max(num_hosts, 1),
        channel_size=size,
        edge_attr=edge_attr,
    )


def build_graph(flows: Flows, scaling: AttributeScaling) -> tuple[FlowGraph, HostTable]:
    """Turn a window's flows into a graph. Returns: the graph; its hosts' names.

    Raises: SchemaError, where an attribute's column is missing.
    """
    src, dst, hosts = index_hosts(flows)
    edge_attr = torch.from_numpy(scaling.transform(flows))
    return collapse(src, dst, edge_attr, hosts.octets, hosts.kind), hosts
