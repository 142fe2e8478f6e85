"""The published graph autoencoder: GATv2 and a Graph U-Net encode hosts, a small decoder rates edges.

Shapes: N hosts, E flows (or candidate edges), F = 3 flow attributes, D = 256 latent, W windows.

The modules' names are those of the released weights, so that their `state_dict` loads here as it is.

Source: gnn-netflow-ad of NVIDIA morpheus-experimental (Apache-2.0), written from its description; Brody,
Alon & Yahav 2022, arXiv:2105.14491 (GATv2); Gao & Ji 2019, arXiv:1905.05178 (Graph U-Net).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.nn import GATv2Conv, GraphUNet, global_mean_pool

NUM_FEATURES: Final = 32
NUM_ATTRIBUTES: Final = 3
_LATENT: Final = 256
_HEADS: Final = 4
_GLOBAL: Final = 128


@final
class Encoder(nn.Module):
    """Hosts and flows -> host embeddings: GATv2, ELU, batch norm, Graph U-Net of depth 3."""

    def __init__(self) -> None:
        super().__init__()
        width = _HEADS * _LATENT
        self.conv1 = GATv2Conv(NUM_FEATURES, _LATENT, heads=_HEADS, edge_dim=NUM_ATTRIBUTES)
        self.batch_norm = nn.BatchNorm1d(width)
        self.unet = GraphUNet(width, _LATENT, _LATENT, depth=3)

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        """x: (N, 32); edge_index: (2, E); edge_attr: (E, 3). Returns: (N, 256).

        In training mode the batch norm needs at least two hosts. The U-Net forms A·A: its memory grows with
        the square of the hosts of a busy window.
        """
        h = functional.elu(self.conv1(x, edge_index, edge_attr))  # (N, 1024)
        h = self.batch_norm(h)  # (N, 1024)
        with _sparse_by_pyg():
            # As in the reference, no batch vector: if windows are joined, pooling ranks all their hosts together.
            z: Tensor = self.unet(h, edge_index)  # (N, 256)
        return z


@final
class GlobalEdgeEmbedding(nn.Module):
    """One vector for a window's edges: the mean of their attributes, through two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(NUM_ATTRIBUTES, _GLOBAL), nn.ReLU(), nn.Linear(_GLOBAL, _GLOBAL))

    def forward(self, edge_attr: Tensor, edge_window: Tensor, num_windows: int) -> Tensor:
        """edge_attr: (E, 3); edge_window: (E,) int64. Returns: (W, 128)."""
        g: Tensor = self.mlp(global_mean_pool(edge_attr, edge_window, num_windows))
        return g


@final
class Decoder(nn.Module):
    """Two hosts, an edge's attributes and its window's global embedding -> log-odds that the edge exists."""

    def __init__(self) -> None:
        super().__init__()
        self.fc_edge = nn.Linear(NUM_ATTRIBUTES, _LATENT)
        self.fc_global = nn.Linear(_GLOBAL, _LATENT)
        self.fc1 = nn.Linear(3 * _LATENT, 3 * _LATENT)
        self.fc = nn.Linear(3 * _LATENT, 1)

    def forward(self, z: Tensor, edge_index: Tensor, edge_attr: Tensor, g: Tensor) -> Tensor:
        """z: (N, 256); edge_index: (2, E); edge_attr: (E, 3); g: (E, 128). Returns: (E,)."""
        src, dst = edge_index
        # index_select, as the gradient of z[src] is added up by threads in no fixed order.
        pair = z.index_select(0, src) * z.index_select(0, dst)  # (E, 256)
        own = functional.relu(self.fc_edge(edge_attr))  # (E, 256)
        around = functional.relu(self.fc_global(g))  # (E, 256)
        hidden = functional.elu(self.fc1(torch.cat([pair, own, around], dim=1)))  # (E, 768)
        logit: Tensor = self.fc(hidden).squeeze(1)
        return logit


@final
class PublishedNetwork(nn.Module):
    """The whole network; `encode` once per window, `decode` for any candidate edges of it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.decoder = Decoder()
        self.global_edge_embedding = GlobalEdgeEmbedding()

    def encode(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        """x: (N, 32); edge_index: (2, E); edge_attr: (E, 3). Returns: (N, 256)."""
        z: Tensor = self.encoder(x, edge_index, edge_attr)
        return z

    def decode(self, z: Tensor, edge_index: Tensor, edge_attr: Tensor, host_window: Tensor, num_windows: int) -> Tensor:
        """Rate edges: higher is likelier to exist.

        The global embedding is of the edges that are rated, not of the window's flows. So for noise edges,
        whose attributes are all zero, it is that of zeros: one more cue by which they are recognised.

        z: (N, 256); edge_index: (2, E); edge_attr: (E, 3); host_window: (N,) int64 below `num_windows`.
        Returns: (E,) logits; the reference's probability is their sigmoid.
        """
        edge_window = host_window[edge_index[0]]
        g = self.global_edge_embedding(edge_attr, edge_window, num_windows)  # (W, 128)
        logit: Tensor = self.decoder(z, edge_index, edge_attr, g.index_select(0, edge_window))
        return logit


@contextmanager
def _sparse_by_pyg() -> Iterator[None]:
    # PyG hands A to torch as CSR. Its indices are valid by construction, and torch's notes about that (an
    # unchecked invariant, a beta layout) do not concern the user. Both settings are restored.
    unchecked = torch.sparse.check_sparse_tensor_invariants(False)  # type: ignore[no-untyped-call]
    with unchecked, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
        yield
