"""The Thalweg autoencoder: from a window's graph to the log-odds that each of its edges exists.

Shapes: N hosts, P channels, E flows, F flow attributes, D width, L prefix levels.

    host      octets, prefixes, converged neighbourhood, activity        -> (N, D)
    encoder   attention over flows, in and out; Graph U-Net over hosts    -> z (N, D)
    channel   z_u, z_v, z_u * z_v, the channel's own statistics           -> (P, D)
    window    the global edge embedding: mean and spread of attributes    -> (1, D)
    flow      its attributes; all of the above                            -> logit (E,)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, final

import torch
from torch import Tensor, nn

from thalweg.errors import ConfigError
from thalweg.graph import (
    Adjacency,
    FlowGraph,
    activity,
    channel_features,
    channel_sums,
    converge,
    mean_and_spread,
    neighbours,
    octet_features,
    octet_levels,
)
from thalweg.graph.familiarity import NUM_FEATURES, NUM_SHARED
from thalweg.graph.hosts import NUM_LEVELS
from thalweg.model.kernels import kernels_for
from thalweg.model.layers import DropoutSiLU, FlowAttention, GraphUNet

_MOST: Final[Mapping[str, int]] = {
    "width": 1024, "prefix_width": 1024, "pool_depth": 16, "max_pool": 8192, "num_waves": 64,
}  # fmt: skip
"""The largest value of each setting that sizes the network; far above what is of use."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The shape of the autoencoder, and which of its parts are on (the ablations switch them off).

    Raises ConfigError if a value is out of range.
    """

    width: int = 64
    """D, the width of hosts, channels and hidden layers; even."""
    prefix_width: int = 16
    """The width of a prefix's learned vector."""
    prefix_levels: int = 3
    """How many prefixes of an address have a learned vector, widest first: 3 is up to /24 (IPv6: /64). With 4, each
    busy host has a vector of its own, and the model memorises the training flows; counts of what hosts did are given
    to it anyway."""
    pool_depth: int = 3
    """How many pooled levels the Graph U-Net has."""
    pool_ratio: float = 0.5
    """The share of hosts that each pooled level keeps."""
    max_pool: int = 512
    """The most hosts that a pooled level keeps."""
    num_waves: int = 5
    """How many frequencies each of a flow's own attributes is expanded into."""
    dropout: float = 0.1
    """The share of activations of hosts and of the decoder that are dropped in training, so that the model relies on
    no single cue."""
    use_addresses: bool = True
    """Hosts are distinguished by their addresses and prefixes."""
    use_graph: bool = True
    """Hosts receive their activity and, by attention, their flows."""
    use_unet: bool = True
    """A Graph U-Net runs over the hosts; only with `use_graph`."""
    use_window: bool = True
    """The decoder receives the window's global edge embedding."""
    use_channel: bool = True
    """The decoder receives the channel's statistics."""
    use_neighbourhood: bool = True
    """Hosts receive their converged neighbourhood."""
    use_familiarity: bool = True
    """Flows carry their counts in the training flows and in the window."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.width < 2 or self.width % 2 or self.prefix_width < 1:
            raise ConfigError(
                f"width must be even and positive, prefix_width positive: {self.width}, {self.prefix_width}"
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout lies in [0, 1), not {self.dropout}")
        if not 0 <= self.prefix_levels <= NUM_LEVELS:
            raise ConfigError(f"prefix_levels lies in 0 to {NUM_LEVELS}, not {self.prefix_levels}")
        for name, most in _MOST.items():
            if getattr(self, name) > most:
                raise ConfigError(f"{name} is at most {most:,}, not {getattr(self, name):,}")
        if self.num_waves < 0:
            raise ConfigError(f"num_waves is not negative: {self.num_waves}")
        if not 0 < self.pool_ratio <= 1 or self.max_pool < 1 or self.pool_depth < 1:
            raise ConfigError("pool_ratio lies in (0, 1]; max_pool and pool_depth are at least 1")

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


class HostEncoder(nn.Module):
    """What a host is, before attention to any flow: (N, D).

    An octet counts only if the host's prefix is known up to it: an unseen host looks like its subnet, and an
    unseen subnet like any other. In training, known prefixes are cut short at random (prefix dropout) to teach that.
    """

    def __init__(self, config: ModelConfig, num_attributes: int, vocabulary: tuple[int, ...]) -> None:
        super().__init__()
        self.config = config
        self.prefixes = nn.ModuleList([_prefix_table(size, config.prefix_width) for size in vocabulary])
        num_own = 16 + config.prefix_width + NUM_LEVELS
        num_activity = 4 + 4 * num_attributes
        num_in = num_own * (2 if config.use_neighbourhood else 1) + (num_activity if config.use_graph else 0)
        self.mix = nn.Sequential(
            nn.Linear(num_in, config.width),
            nn.LayerNorm(config.width),
            nn.SiLU(),
            nn.Linear(config.width, config.width),
        )

    def forward(self, graph: FlowGraph, prefix_ids: Tensor, adjacency: Adjacency, sums: Tensor) -> Tensor:
        """prefix_ids: (N, L) int64, 0 if unknown; sums: as from `channel_sums`. Returns: (N, D)."""
        kernels = kernels_for(next(self.mix.parameters()))
        if not self.config.use_addresses:
            prefix_ids = torch.zeros_like(prefix_ids)
        own = kernels.rowwise(self._own, graph.octets, graph.kind, prefix_ids)
        parts = [own]
        if self.config.use_neighbourhood:
            parts.append(converge(own, adjacency))
        if self.config.use_graph:
            parts.append(activity(graph, sums))
        return kernels.rowwise(lambda *parts: self.mix(torch.cat(parts, dim=1)), *parts)

    def _own(self, octets: Tensor, kind: Tensor, prefix_ids: Tensor) -> Tensor:
        """Concatenate the known octets, the sum of the prefixes' vectors, and which prefixes are known."""
        known = prefix_ids > 0  # (N, L)
        of_octets = octet_features(octets, kind) * known.gather(1, octet_levels(kind))
        prefix = torch.stack([table(prefix_ids[:, i]) for i, table in enumerate(self.prefixes)]).sum(0)
        return torch.cat([of_octets, prefix, known.to(of_octets.dtype)], dim=1)


def _prefix_table(size: int, width: int) -> nn.Embedding:
    table = nn.Embedding(size + 1, width)  # row 0 stands for every unknown prefix
    nn.init.normal_(table.weight, std=0.1)
    return table


class Encoder(nn.Module):
    """Hosts with what attention to their flows and the Graph U-Net over their surroundings add: z (N, D)."""

    def __init__(self, config: ModelConfig, num_attributes: int, vocabulary: tuple[int, ...]) -> None:
        super().__init__()
        self.config = config
        self.hosts = HostEncoder(config, num_attributes, vocabulary)
        if config.use_graph:
            # These names are keys in model files.
            self.hear_in = FlowAttention(config.width, num_attributes)
            self.hear_out = FlowAttention(config.width, num_attributes)
            self.join = nn.Sequential(
                nn.Linear(3 * config.width, config.width), nn.LayerNorm(config.width), DropoutSiLU(config.dropout)
            )
        if config.use_graph and config.use_unet:
            self.unet = GraphUNet(
                config.width,
                config.width,
                config.width,
                depth=config.pool_depth,
                ratio=config.pool_ratio,
                max_pool=config.max_pool,
            )
            self.settle = nn.LayerNorm(config.width)

    def forward(self, graph: FlowGraph, prefix_ids: Tensor, sums: Tensor) -> Tensor:
        """Arguments as in `HostEncoder.forward`. Returns: (N, D)."""
        adjacency = neighbours(graph)
        h: Tensor = self.hosts(graph, prefix_ids, adjacency, sums)
        if not self.config.use_graph:
            return h
        rowwise = kernels_for(h).rowwise
        views = h, self.hear_in(h, graph, incoming=True), self.hear_out(h, graph, incoming=False)
        z = rowwise(lambda *parts: self.join(torch.cat(parts, dim=1)), *views)
        if self.config.use_unet:
            z = rowwise(lambda z, around: self.settle(z + around), z, self.unet(z, adjacency))
        return z


class Decoder(nn.Module):
    """The log-odds of each edge from its ends, its channel, its window and its own attributes.

    The first layer is a linear map of their concatenation. It is computed part by part: once per window, once per
    host, once per channel, once per flow.
    """

    def __init__(self, config: ModelConfig, num_attributes: int, num_own: int, num_all: int) -> None:
        super().__init__()
        self.config = config
        self.num_own = num_own
        width = config.width
        num_channel = 2 + 2 * num_attributes
        self.of_src = nn.Linear(width, width, bias=False)
        self.of_dst = nn.Linear(width, width, bias=False)
        self.of_pair = nn.Linear(width, width, bias=False)
        if config.use_channel:
            self.of_channel = nn.Sequential(
                nn.Linear(num_channel, width), nn.SiLU(), nn.Linear(width, width, bias=False)
            )
        if config.use_window:
            self.of_window = nn.Sequential(
                nn.Linear(2 * num_attributes, width), nn.SiLU(), nn.Linear(width, width, bias=False)
            )
        self.of_flow = nn.Linear(num_all + num_own * 2 * config.num_waves, width)
        self.last = nn.Sequential(
            DropoutSiLU(config.dropout), nn.Linear(width, width), DropoutSiLU(config.dropout), nn.Linear(width, 1)
        )

    def forward(self, z: Tensor, graph: FlowGraph, sums: Tensor) -> Tensor:
        """z: (N, D); graph: with all attributes, sorted; sums: of the shared attributes, as from `channel_sums`.

        Returns: (E,) logits, in the graph's order. (E, D) is never held.
        """
        kernels = kernels_for(z)
        window = self.of_window(global_edge_features(graph, sums)) if self.config.use_window else z.new_zeros(1)
        src = kernels.rowwise(lambda z: self.of_src(z) + window, z)
        dst = kernels.rowwise(self.of_dst, z)  # (N, D)
        features = channel_features(graph, sums) if self.config.use_channel else None

        def base(begin: int, end: int) -> Tensor:
            """Return the part of the first layer that a channel's flows share: (end - begin, D)."""
            ends = graph.channel_src[begin:end], graph.channel_dst[begin:end]
            product, common = kernels.combine_ends(z, src, dst, *ends)
            common = torch.addmm(common, product, self.of_pair.weight.t())
            if features is None:
                return common
            rest: Tensor = self.of_channel(features[begin:end])
            return common + rest

        if not graph.num_edges:
            return z.new_zeros(0)
        return kernels.decode_edges(base, graph, self.of_flow, self.last, self.num_own, self.config.num_waves)


def global_edge_features(graph: FlowGraph, sums: Tensor) -> Tensor:
    """Return the mean and spread of the attributes of all flows of the window: (1, 2F).

    sums: as from `channel_sums`.
    """
    num = torch.tensor([graph.num_flows], device=sums.device)
    return mean_and_spread(num, sums.sum(0, keepdim=True), graph.edge_attr.dtype)


class Autoencoder(nn.Module):
    """Encoder and decoder together.

    On a CPU, scoring holds at most about 3.5 kB per host (a dozen rows of the width), the sums of each channel, and 40
    bytes per flow besides the graph; nothing as large as flows or channels times the width.
    """

    def __init__(self, config: ModelConfig, num_own: int, vocabulary: tuple[int, ...]) -> None:
        super().__init__()
        self.config = config
        self.num_shared = num_own + (NUM_SHARED if config.use_familiarity else 0)
        num_attributes = num_own + (NUM_FEATURES if config.use_familiarity else 0)
        self.encoder = Encoder(config, self.num_shared, vocabulary)
        self.decoder = Decoder(config, self.num_shared, num_own, num_attributes)

    def forward(self, graph: FlowGraph, prefix_ids: Tensor) -> Tensor:
        """prefix_ids: (N, L) int64. Returns: (E,) logits; lower is stranger."""
        # Sorted by channel, so that what a channel's flows share is read once.
        flows = graph.sorted()
        shared = replace(flows, edge_attr=flows.edge_attr[:, : self.num_shared])
        sums = channel_sums(shared)
        logits: Tensor = self.decoder(self.encoder(shared, prefix_ids, sums), flows, sums)
        return flows.by_flow(logits)
