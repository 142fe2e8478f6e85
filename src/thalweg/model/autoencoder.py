"""The Thalweg autoencoder: from a window's graph to the log-odds that each of its edges exists.

Shapes: N hosts, P channels, E flows, F flow attributes, D width, L prefix levels.

    host      octets, prefixes, converged neighbourhood, activity        -> (N, D)
    encoder   attention over flows, both ways; Graph U-Net over hosts     -> z (N, D)
    channel   z_u, z_v, z_u * z_v, the channel's own statistics           -> (P, D)
    window    the global edge embedding: mean and spread of attributes    -> (1, D)
    flow      its attributes; all of the above                            -> logit (E,)
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, final

import torch
from torch import Tensor, nn

from thalweg.errors import ConfigError
from thalweg.graph import (
    FlowGraph,
    activity,
    channel_sums,
    converge,
    mean_and_spread,
    neighbours,
    octet_features,
    octet_levels,
)
from thalweg.graph.familiarity import NUM_FEATURES, NUM_TOLD
from thalweg.graph.hosts import NUM_LEVELS
from thalweg.model.layers import AT_ONCE, DropoutSiLU, FlowAttention, GraphUNet


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The shape of the autoencoder, and which of its parts are on (the ablations switch them off).

    prefix_levels: prefixes with a learned vector, widest first: 3 is up to /24 (IPv6: /64), with 4 each busy host
    has a vector of its own, by which training is learned by heart; what hosts did is counted anyway. dropout: share
    of the numbers of hosts and of the decoder's layers that are left out in training, so that no cue stands alone.

    Raises: ConfigError, where a number cannot be meant.
    """

    width: int = 64
    prefix_width: int = 16
    prefix_levels: int = 3
    pool_depth: int = 3
    pool_ratio: float = 0.5
    max_pool: int = 512
    num_waves: int = 5
    dropout: float = 0.1
    use_addresses: bool = True
    use_graph: bool = True
    use_unet: bool = True
    use_window: bool = True
    use_channel: bool = True
    use_neighbourhood: bool = True
    use_familiarity: bool = True

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
        if not 0 < self.pool_ratio <= 1 or self.max_pool < 1 or self.pool_depth < 1:
            raise ConfigError("pool_ratio lies in (0, 1]; max_pool and pool_depth are at least 1")

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


class HostEncoder(nn.Module):
    """What a host is, before any flow is heard: (N, D).

    An octet counts only as far as the host's prefix is known: an unseen host looks like its subnet, and an
    unseen subnet like any other. In training, `known` is cut short at random (prefix dropout) to teach that.
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

    def forward(self, graph: FlowGraph, prefix_ids: Tensor) -> Tensor:
        """prefix_ids: (N, L) int64, 0 where unknown. Returns: (N, D)."""
        if not self.config.use_addresses:
            prefix_ids = torch.zeros_like(prefix_ids)
        known = prefix_ids > 0  # (N, L)
        octets = octet_features(graph.octets, graph.kind) * known.gather(1, octet_levels(graph.kind))
        prefix = torch.stack([table(prefix_ids[:, i]) for i, table in enumerate(self.prefixes)]).sum(0)
        own = torch.cat([octets, prefix, known.to(octets.dtype)], dim=1)
        parts = [own]
        if self.config.use_neighbourhood:
            parts.append(converge(own, neighbours(graph)))
        if self.config.use_graph:
            parts.append(activity(graph))
        out: Tensor = self.mix(torch.cat(parts, dim=1))
        return out


def _prefix_table(size: int, width: int) -> nn.Embedding:
    table = nn.Embedding(size + 1, width)  # row 0 stands for every unknown prefix
    nn.init.normal_(table.weight, std=0.1)
    return table


class Encoder(nn.Module):
    """Hosts that have heard their flows and seen their surroundings at every resolution: z (N, D)."""

    def __init__(self, config: ModelConfig, num_attributes: int, vocabulary: tuple[int, ...]) -> None:
        super().__init__()
        self.config = config
        self.hosts = HostEncoder(config, num_attributes, vocabulary)
        if config.use_graph:
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

    def forward(self, graph: FlowGraph, prefix_ids: Tensor) -> Tensor:
        """Returns: (N, D)."""
        h: Tensor = self.hosts(graph, prefix_ids)
        if not self.config.use_graph:
            return h
        heard = [h, self.hear_in(h, graph, incoming=True), self.hear_out(h, graph, incoming=False)]
        z: Tensor = self.join(torch.cat(heard, dim=1))
        if self.config.use_unet:
            z = self.settle(z + self.unet(z, neighbours(graph)))
        return z


class Decoder(nn.Module):
    """The log-odds of each edge from its ends, its channel, its window and its own attributes.

    The first layer is a linear map of all of these side by side; it is computed part by part, each where it
    varies: once a window, once a host, once a channel, once a flow.
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
        self.waves: Tensor
        self.register_buffer("waves", torch.pi / 2 * 2.0 ** torch.arange(config.num_waves), persistent=False)
        self.last = nn.Sequential(
            DropoutSiLU(config.dropout), nn.Linear(width, width), DropoutSiLU(config.dropout), nn.Linear(width, 1)
        )

    def forward(self, z: Tensor, graph: FlowGraph, flow_attr: Tensor) -> Tensor:
        """z: (N, D). Returns: (E,) logits. (E, D) is never held."""
        src, dst = self.of_src(z), self.of_dst(z)  # (N, D)
        features = channel_features(graph) if self.config.use_channel else None
        bases = []
        for run in (slice(i, i + AT_ONCE) for i in range(0, graph.num_channels, AT_ONCE)):
            u, v = graph.channel_src[run], graph.channel_dst[run]
            base = self.of_pair(z.index_select(0, u) * z.index_select(0, v))
            base = base + src.index_select(0, u) + dst.index_select(0, v)
            bases.append(base if features is None else base + self.of_channel(features[run]))
        base = torch.cat(bases) if bases else z.new_zeros(0, z.shape[1])  # (P, D)
        if self.config.use_window:
            base = base + self.of_window(global_edge_features(graph))
        parts = [
            self.last(base.index_select(0, channel) + self.of_flow(self.sharpen(attr))).squeeze(1)
            for channel, attr in zip(torch.split(graph.channel, AT_ONCE), torch.split(flow_attr, AT_ONCE), strict=True)
        ]
        return torch.cat(parts) if parts else z.new_zeros(0)

    def sharpen(self, attr: Tensor) -> Tensor:
        """Add waves of growing frequency, so that 48 bytes and 52 can be told apart. Returns: (E, F (1 + 2 waves)).

        Source: Tancik et al. 2020, arXiv:2006.10739 (Fourier features).
        """
        phase = (attr[:, : self.num_own, None] * self.waves).flatten(1)
        return torch.cat([attr, phase.sin(), phase.cos()], dim=1)


def channel_features(graph: FlowGraph) -> Tensor:
    """Describe each channel. Returns: (P, 2 + 2F): log1p of its flows and of the reverse channel's, mean, spread."""
    total, square = channel_sums(graph)
    size = graph.channel_size.to(total.dtype)
    keys = graph.channel_src * graph.num_hosts + graph.channel_dst
    back = graph.channel_dst * graph.num_hosts + graph.channel_src
    at = torch.searchsorted(keys, back).clamp(max=max(len(keys) - 1, 0))
    reverse = torch.where(keys[at] == back, size[at], torch.zeros_like(size))
    return torch.cat([size.log1p()[:, None], reverse.log1p()[:, None], *mean_and_spread(size, total, square)], dim=1)


def global_edge_features(graph: FlowGraph) -> Tensor:
    """Describe the window's flows as a whole. Returns: (1, 2F): mean and spread of the attributes."""
    attr = graph.edge_attr
    if not len(attr):
        return attr.new_zeros(1, 2 * attr.shape[1])
    return torch.cat([attr.mean(0), attr.std(0, correction=0)])[None]


class Autoencoder(nn.Module):
    """Encoder and decoder together."""

    def __init__(self, config: ModelConfig, num_own: int, vocabulary: tuple[int, ...]) -> None:
        super().__init__()
        self.config = config
        self.num_told = num_own + (NUM_TOLD if config.use_familiarity else 0)
        num_attributes = num_own + (NUM_FEATURES if config.use_familiarity else 0)
        self.encoder = Encoder(config, self.num_told, vocabulary)
        self.decoder = Decoder(config, self.num_told, num_own, num_attributes)

    def forward(self, graph: FlowGraph, prefix_ids: Tensor) -> Tensor:
        """prefix_ids: (N, L) int64. Returns: (E,) logits; lower is stranger."""
        told = replace(graph, edge_attr=graph.edge_attr[:, : self.num_told].contiguous())
        out: Tensor = self.decoder(self.encoder(told, prefix_ids), told, graph.edge_attr)
        return out
