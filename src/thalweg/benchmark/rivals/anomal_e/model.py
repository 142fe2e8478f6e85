"""Anomal-E: edge embeddings learned by deep graph infomax, rated by an outlier detector.

This is the honest variant. The published one encodes categories by a target encoder fitted on the labels and picks
the detector's settings by the test set's F1; here no label is read and all settings are fixed. The attributes are
those of all rivals, robustly scaled; the original divides each row by its length.

As published, a flow's embedding is made of its two hosts alone: all flows u -> v of a window share one score, and
the flow's own bytes count only as far as they move its hosts' means. The original embeds each flow in both
directions and counts it twice; here it has one score, that of its own direction.

Shapes: E flows, C channels.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, final

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from thalweg.benchmark.rivals.anomal_e.network import AnomalENetwork, UndirectedGraph
from thalweg.benchmark.rivals.classical import DETECTORS
from thalweg.benchmark.rivals.rival import EpochReport, Learning, Rival, RobustScaling
from thalweg.errors import ConfigError
from thalweg.graph import index_hosts
from thalweg.graph.attributes import STANDARD
from thalweg.model.interface import Progress
from thalweg.runtime.device import seeded
from thalweg.runtime.extras import need
from thalweg.tables import NEEDED, Flows

HEADS: Final = ("cblof", "hbos", "pca", "iforest")
"""The detectors that rate embeddings, as in the publication; fixed settings, see `classical`."""

_CHUNK: Final = 1 << 16


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class AnomalEConfig:
    """How Anomal-E is trained.

    Raises ConfigError if a value is out of range.
    """

    num_epochs: int = 1000
    """passes over the whole training graph, one step each; the original makes 4,000"""
    learning_rate: float = 0.001
    num_head_flows: int = 50_000
    """training flows, drawn at random, whose embeddings the detectors are fitted on at most"""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, not {getattr(self, name)}")


@final
@dataclass(frozen=True, slots=True, eq=False)
class FittedEmbedding:
    """A trained network with its scaling; it does not change any more."""

    network: AnomalENetwork
    scaling: RobustScaling
    device: torch.device

    def embed(self, flows: Flows) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Embed at least one flow, all in one graph.

        Returns: (C, 256) embeddings of the channels; (E,) the channel of each flow.
        """
        graph, src, dst = _graph(flows, self.scaling)
        pair, channel = torch.unique(src * graph.num_hosts + dst, return_inverse=True)
        with torch.inference_mode():
            h = self.network.hosts(graph.to_device(self.device).incoming())
            begin, end = torch.div(pair, graph.num_hosts, rounding_mode="floor"), pair % graph.num_hosts
            z = self.network.edges(h, begin.to(self.device), end.to(self.device))
        return z.cpu().numpy(), channel.numpy()


@final
class EdgeEmbedding:
    """Trains the network once for the same flows and seed, however many detectors use it."""

    def __init__(self, config: AnomalEConfig) -> None:
        self.config = config
        self._made: tuple[pl.DataFrame, pl.DataFrame, int, torch.device] | None = None
        self._result: tuple[FittedEmbedding, Learning] | None = None

    def fit(
        self, learned: Flows, judged: Flows, *, seed: int, device: torch.device, progress: Callable[[Progress], None]
    ) -> tuple[FittedEmbedding, Learning]:
        """Train on `learned`, or return the last result if the flows, seed and device are the same.

        The state of the lowest training loss is kept, as published. The loss in the result is that of the kept state on
        `judged`, which no choice depends on; on `learned` if `judged` is empty.
        """
        columns, judged_columns = learned.frame.select(NEEDED), judged.frame.select(NEEDED)
        if self._result is not None and self._made is not None:
            last, last_judged, last_seed, last_device = self._made
            same = (seed, device) == (last_seed, last_device)
            if same and columns.equals(last) and judged_columns.equals(last_judged):
                return self._result
        result = self._train(learned, judged, seed, device, progress)
        self._made, self._result = (columns, judged_columns, seed, device), result
        return result

    def _train(
        self, learned: Flows, judged: Flows, seed: int, device: torch.device, progress: Callable[[Progress], None]
    ) -> tuple[FittedEmbedding, Learning]:
        config = self.config
        scaling = RobustScaling.fit(learned)
        graph = _graph(learned, scaling)[0].to_device(device)
        with seeded(seed):
            network = AnomalENetwork(len(STANDARD)).to(device)
        optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
        generator = torch.Generator().manual_seed(seed)
        report = EpochReport(progress, config.num_epochs, len(learned))
        best_loss, best_epoch, epoch = math.inf, 0, 0
        best = copy.deepcopy(network.state_dict())
        stopped: Literal["finished", "interrupted"] = "finished"
        try:
            for epoch in range(1, config.num_epochs + 1):
                optimizer.zero_grad()
                loss = network.infomax_loss(graph, _permutation(graph, generator))
                if loss.item() < best_loss:
                    # Before the step, as the loss belongs to this state.
                    best_loss, best_epoch, best = loss.item(), epoch, copy.deepcopy(network.state_dict())
                loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
                optimizer.step()
                report.epoch(epoch, loss.item())
        except KeyboardInterrupt:
            stopped = "interrupted"
        network.load_state_dict(best)
        graph = _graph(judged if len(judged) else learned, scaling)[0].to_device(device)
        with torch.inference_mode():
            loss_kept = float(network.infomax_loss(graph, _permutation(graph, generator)))
        learning = Learning(num_epochs=epoch, best_epoch=best_epoch, held_out_loss=loss_kept, stopped=stopped)
        return FittedEmbedding(network.eval(), scaling, device), learning


@final
class AnomalE(Rival):
    """One detector on edge embeddings that it may share with others.

    head: a name out of `HEADS`. The seconds of a fit are its own: whoever fits first pays for the embedding.
    """

    def __init__(self, head: str, embedding: EdgeEmbedding) -> None:
        super().__init__()
        if head not in HEADS:
            raise ConfigError(f"no head {head!r} for Anomal-E: choose from {', '.join(HEADS)}")
        need("pyod", extra="benchmark")
        self.name = f"anomal-e-{head}"
        self._head, self._embedding = head, embedding

    def _learn(
        self, learned: Flows, judged: Flows, *, seed: int, device: torch.device, progress: Callable[[Progress], None]
    ) -> Learning:
        self._fitted, learning = self._embedding.fit(learned, judged, seed=seed, device=device, progress=progress)
        z, channel = self._fitted.embed(learned)
        chosen = np.random.default_rng(seed).permutation(len(learned))[: self._embedding.config.num_head_flows]
        self._rate = DETECTORS[self._head](z[channel[chosen]].astype(np.float64), seed)
        return learning

    def _strangeness(self, flows: Flows) -> npt.NDArray[np.floating[Any]]:
        z, channel = self._fitted.embed(flows)
        parts = [self._rate(z[at : at + _CHUNK].astype(np.float64)) for at in range(0, len(z), _CHUNK)]
        return np.concatenate(parts)[channel]


def anomal_e(config: AnomalEConfig | None = None) -> tuple[AnomalE, ...]:
    """Return one model for each of `HEADS`; they share an embedding, trained once for the same flows and seed.

    Raises ConfigError if PyOD is not installed.
    """
    embedding = EdgeEmbedding(config or AnomalEConfig())
    return tuple(AnomalE(head, embedding) for head in HEADS)


def _graph(flows: Flows, scaling: RobustScaling) -> tuple[UndirectedGraph, Tensor, Tensor]:
    """Returns: the graph; src, dst (E,) int64."""
    src, dst, hosts = index_hosts(flows)
    attr = torch.from_numpy(scaling.transform(flows).astype(np.float32))
    return UndirectedGraph.build(src, dst, attr, len(hosts)), src, dst


def _permutation(graph: UndirectedGraph, generator: torch.Generator) -> Tensor:
    # Drawn on the CPU, so that a seed means the same on every device.
    return torch.randperm(len(graph.flow), generator=generator).to(graph.flow.device)
