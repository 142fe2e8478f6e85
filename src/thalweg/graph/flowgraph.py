"""A window of flows as a graph: every address a node, every flow its own directed edge."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from thalweg.addresses import IPV4, NOT_IP, parse_addresses
from thalweg.graph import compiled
from thalweg.graph.attributes import AttributeScaling
from thalweg.runtime.device import on_device
from thalweg.runtime.parallel import even_ranges, parallel_for, parallel_map
from thalweg.tables import Flows

if TYPE_CHECKING:
    from torch_geometric.data import Data

_Text: TypeAlias = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]
_NO_TEXT: Final[_Text] = (np.zeros(0, np.uint8), np.zeros(1, np.int64))

_NUM_V4: Final = 1 << 32
_MAX_DISTINCT: Final = 0.95
"""Largest share of distinct edges at which merging saves more than it costs."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class HostTable:
    """The hosts of some flows, in order of first appearance in all sources, then in all destinations.

    octets: (N, 16) uint8; kind: (N,) uint8, see `addresses`. first_row: (N,) where each first appears in `texts`.
    """

    texts: pl.Series
    first_row: npt.NDArray[np.int64]
    octets: Tensor
    kind: Tensor

    def __len__(self) -> int:
        return len(self.kind)

    @property
    def names(self) -> pl.Series:
        """(N,) names as they are first written."""
        return self.texts.gather(pl.Series(self.first_row)).rename("host")


@final
@dataclass(frozen=True, slots=True, eq=False)
class FlowGraph:
    """One window: N hosts, P channels (unique src -> dst pairs), E flows with F attributes. Edge i is flow i.

    octets: (N, 16) uint8; kind: (N,) uint8.
    src, dst: (E,) int64 host at each end of a flow; channel: (E,) int64, its channel.
    channel_src, channel_dst: (P,) int64, sorted by (src, dst).
    order: (E,) int64, the flows sorted by channel, in their own order within one; channel_start: (P + 1,) int64, offset
    of each channel in `order`; channel_size: (P,) int64, its flows. edge_attr: (E, F) float32, standardised.

    A model may use two other forms, in which edge i is not flow i. In `sorted()`, is_sorted is true and edge i is flow
    order[i]. In `merged()`, one edge stands for all flows of a channel with equal attributes: K ≤ E edges; times: (K,)
    int32, the flows of each edge; edge_of: (E,) int64, the edge of flow order[i]; src, dst, channel, edge_attr and
    channel_start are those of edges.
    """

    octets: Tensor
    kind: Tensor
    src: Tensor
    dst: Tensor
    channel: Tensor
    channel_src: Tensor
    channel_dst: Tensor
    channel_start: Tensor
    channel_size: Tensor
    order: Tensor
    edge_attr: Tensor
    is_sorted: bool = False
    times: Tensor | None = None
    edge_of: Tensor | None = None

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
        return self.order.shape[0]

    @property
    def num_edges(self) -> int:
        """E, or K if equal flows are merged."""
        return self.src.shape[0]

    def sorted(self) -> FlowGraph:
        """Return the graph with its edges sorted by channel, each channel a run; `order` stays as it is."""
        if self.is_sorted:
            return self
        moved = {name: getattr(self, name).index_select(0, self.order) for name in ("src", "dst", "edge_attr")}
        channel = torch.repeat_interleave(self.channel_size)
        return replace(self, **moved, channel=channel, is_sorted=True)

    def merged(self) -> FlowGraph:
        """Return the sorted graph with one edge for all flows of a channel whose attributes are equal to the bit.

        Such flows get the same score, so it is computed once. Most flows of a flood, and most small flows of a usual
        day, are such. If few flows are, the graph is only sorted. On the CPU.
        """
        if self.edge_of is not None:
            return self
        flows = self.sorted()
        edge_of = torch.empty_like(self.order)
        first, start = compiled.merge(
            flows.edge_attr.numpy().view(np.int32), flows.channel_start.numpy(), edge_of.numpy()
        )
        if len(first) > _MAX_DISTINCT * self.num_flows:
            return flows
        kept = torch.from_numpy(first)
        moved = {name: getattr(flows, name).index_select(0, kept) for name in ("src", "dst", "channel", "edge_attr")}
        times = torch.bincount(edge_of, minlength=len(first)).to(torch.int32)
        return replace(flows, **moved, channel_start=torch.from_numpy(start), times=times, edge_of=edge_of)

    def by_flow(self, of_edge: Tensor) -> Tensor:
        """Return the value of each flow's edge. of_edge: (K, …) of the sorted or merged graph. Returns: (E, …)."""
        of_place = of_edge if self.edge_of is None else of_edge.index_select(0, self.edge_of)
        return torch.empty_like(of_place).index_copy(0, self.order, of_place)

    def to(self, device: torch.device) -> FlowGraph:
        """Return the graph on another device."""
        if device == self.src.device:
            return self
        held = {name: getattr(self, name) for name in self.__slots__ if name != "is_sorted"}
        moved: dict[str, Any] = {name: on_device(one, device) for name, one in held.items() if one is not None}
        return replace(self, **moved)

    def to_pyg(self) -> Data:
        """Return the graph as a PyTorch Geometric `Data` object.

        Returns: Data with x (N, 16) octets / 255, edge_index (2, E), edge_attr (E, F); edge i is flow i.
        """
        from torch_geometric.data import Data  # a slow import that scoring does not need

        return Data(
            x=octet_features(self.octets, self.kind),
            edge_index=torch.stack([self.src, self.dst]),
            edge_attr=self.edge_attr,
        )


def octet_features(octets: Tensor, kind: Tensor) -> Tensor:
    """Return the octets of each address / 255; zeros if a host has no address.

    octets: (N, 16) uint8; kind: (N,) uint8. Returns: (N, 16) float32. An IPv4 address fills the last four,
    after the ff:ff of its IPv4-mapped form (RFC 4291).
    """
    return octets.float() / 255 * (kind != NOT_IP)[:, None]


def index_hosts(flows: Flows) -> tuple[Tensor, Tensor, HostTable]:
    """Number the hosts of some flows. Returns: src (E,), dst (E,) int64; the table of the N hosts.

    Two spellings of one address (2001:DB8::1 and 2001:db8:0::1) are one host.
    """
    ends = flows.frame["src_addr"], flows.frame["dst_addr"]
    num = 2 * len(flows)
    key = np.empty(num, np.int64)
    written: list[_Text] = [_NO_TEXT, _NO_TEXT]

    def encode(end: int, _: int) -> None:
        written[end] = _text(ends[end])

    parallel_map(encode, even_ranges(2, 1))
    for (text, start), keys in zip(written, np.split(key, 2), strict=True):
        parallel_for(partial(compiled.parse_v4, text, start, keys), len(flows))
    texts = pl.concat(ends, rechunk=False)
    octets, kind = _number_others(texts, np.flatnonzero(key < 0), key)
    code = np.empty(num, np.int64)
    first_row = compiled.number(key, code)
    kept = key[first_row]
    all_octets, all_kind = _v4_octets(kept), np.full(len(kept), IPV4, np.uint8)
    other = kept >= _NUM_V4
    all_octets[other], all_kind[other] = octets[kept[other] - _NUM_V4], kind[kept[other] - _NUM_V4]
    codes = torch.from_numpy(code)
    return (
        codes[: len(flows)],
        codes[len(flows) :],
        HostTable(texts, first_row, torch.from_numpy(all_octets), torch.from_numpy(all_kind)),
    )


def _text(column: pl.Series) -> _Text:
    """Return a column's texts end to end, (T,) uint8, and the offset of each, (K + 1,) int64."""
    starts = np.zeros(len(column) + 1, np.int64)
    np.cumsum(column.str.len_bytes().to_numpy(), out=starts[1:])
    return np.frombuffer(column.str.join("").item().encode(), np.uint8), starts


def _number_others(
    texts: pl.Series, rows: npt.NDArray[np.int64], key: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Give keys to hosts that are not written as IPv4. texts: (K,); rows: those hosts; key: (K,), filled at `rows`.

    Returns: octets (M, 16) and kind (M,) of the M distinct ones; a key of _NUM_V4 + m stands for the m-th of these.
    """
    if not len(rows):
        return np.zeros((0, 16), np.uint8), np.zeros(0, np.uint8)
    others = texts.gather(pl.Series(rows))
    distinct = others.unique(maintain_order=True)
    octets, kind = parse_addresses(distinct)
    whole = np.ascontiguousarray(np.concatenate([octets, kind[:, None]], axis=1)).view("V17").ravel()
    _, first, same = np.unique(whole, return_index=True, return_inverse=True)
    own = _NUM_V4 + same
    # ::ffff:10.0.0.7 is 10.0.0.7.
    mapped = kind == IPV4
    own[mapped] = np.ascontiguousarray(octets[mapped, 12:]).view(">u4").ravel()
    key[rows] = own[others.cast(pl.Enum(distinct)).to_physical().to_numpy()]
    return octets[first], kind[first]


def _v4_octets(key: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    octets = np.zeros((len(key), 16), np.uint8)
    octets[:, 10:12] = 0xFF
    octets[:, 12:] = key.astype(">u4").view(np.uint8).reshape(-1, 4)
    return octets


def collapse(src: Tensor, dst: Tensor, edge_attr: Tensor, octets: Tensor, kind: Tensor) -> FlowGraph:
    """Make the graph of flows whose hosts are numbered.

    src, dst: (E,) int64 rows of `octets` (N, 16) and `kind` (N,); every host must have a flow. On the CPU.
    """
    order, channel = torch.empty_like(src), torch.empty_like(src)
    start = torch.from_numpy(compiled.group(src.numpy(), dst.numpy(), len(kind), order.numpy(), channel.numpy()))
    first = order[start[:-1]]
    return FlowGraph(
        octets=octets,
        kind=kind,
        src=src,
        dst=dst,
        channel=channel,
        channel_src=src[first],
        channel_dst=dst[first],
        channel_start=start,
        channel_size=start.diff(),
        order=order,
        edge_attr=edge_attr,
    )


def build_graph(flows: Flows, scaling: AttributeScaling) -> tuple[FlowGraph, HostTable]:
    """Turn a window's flows into a graph. Returns: the graph; its hosts' names.

    Raises SchemaError if an attribute's column is missing.
    """
    src, dst, hosts = index_hosts(flows)
    edge_attr = torch.from_numpy(scaling.transform(flows))
    return collapse(src, dst, edge_attr, hosts.octets, hosts.kind), hosts
