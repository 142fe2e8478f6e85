"""Thalweg's own model, as `Detector` sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Final, Self, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from thalweg.errors import ModelFormatError, NotFittedError
from thalweg.graph import (
    AttributeScaling,
    Familiarity,
    FlowGraph,
    PrefixVocabulary,
    build_graph,
    flow_keys,
    host_keys,
    index_hosts,
)
from thalweg.graph.attributes import AttributeSet
from thalweg.graph.hosts import NUM_LEVELS
from thalweg.model.autoencoder import Autoencoder, ModelConfig
from thalweg.model.interface import FitSummary, FlowModel, Progress
from thalweg.model.learning.mixing import TrainingData
from thalweg.model.learning.training import TrainingConfig, train
from thalweg.runtime.device import Sent, on_device, seeded, send
from thalweg.runtime.parallel import run_on_leader
from thalweg.tables import Flows
from thalweg.windows import DEFAULT_SIZE

_POOL: Final = 200_000
_COUNTING: Final = 3
"""How `Familiarity` counts and compares: raised with a change, it makes older models ask to be fitted again."""

PreparedGraph = Sent[tuple[FlowGraph, Tensor]]
"""What the network takes: a window's graph, and (N, L) int64 numbers of its hosts' prefixes."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Fitted:
    network: Autoencoder
    scaling: AttributeScaling
    vocabulary: PrefixVocabulary
    familiarity: Familiarity | None
    device: torch.device


@final
@dataclass(eq=False)
class ThalwegModel(FlowModel):
    """The graph autoencoder of docs/model.md with what it needs around it: scaling and vocabulary."""

    kind: ClassVar[str] = "thalweg"
    shape: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    attributes: AttributeSet = "standard"
    window_size: int = DEFAULT_SIZE
    checkpoint: Path | None = None
    """where a training keeps its state, to go on from: see `train`; not kept in the file"""
    _fitted: _Fitted | None = field(default=None, init=False, repr=False)
    _met: npt.NDArray[np.float32] | None = field(default=None, init=False, repr=False)
    """(M, E) how familiar each flow of the fit was to the others; not kept in the file"""

    def fit(
        self,
        flows: Flows,
        held_out: npt.NDArray[np.bool_],
        *,
        seed: int,
        device: torch.device,
        progress: Callable[[Progress], None],
    ) -> FitSummary:
        """Learn from unlabelled flows; see FlowModel.fit.

        If the flows are fewer than a window, the windows become as small: rates learned in small windows do
        not hold in large ones.
        """
        self.window_size = min(self.window_size, len(flows))
        used = flows.filter(~held_out)
        scaling = AttributeScaling.fit(used, self.attributes)
        src, dst, hosts = index_hosts(flows)
        learned = torch.from_numpy(~held_out)
        num_flows = torch.bincount(torch.cat([src[learned], dst[learned]]), minlength=len(hosts)).numpy()
        vocabulary = PrefixVocabulary.fit(
            hosts.octets.numpy(), hosts.kind.numpy(), num_flows, num_levels=self.shape.prefix_levels
        )
        edge_attr = scaling.transform(flows)
        familiarity = met = None
        if self.shape.use_familiarity:
            keys = host_keys(hosts.octets.numpy(), hosts.kind.numpy())
            familiarity, met = Familiarity.fit(
                keys[src.numpy()],
                keys[dst.numpy()],
                scaling.amounts(edge_attr),
                ~held_out,
                use_addresses=self.shape.use_addresses,
            )
        some = np.random.default_rng([seed, 0]).choice(np.flatnonzero(~held_out), _POOL)
        data = TrainingData(
            src=src.numpy(),
            dst=dst.numpy(),
            edge_attr=edge_attr,
            held_out=held_out,
            octets=hosts.octets,
            kind=hosts.kind,
            vocabulary=vocabulary,
            pool=some,
            scaling=scaling,
            familiarity=familiarity,
            met=met,
        )
        network = self._network(len(scaling.names), vocabulary, seed)
        with seeded(seed, device):
            summary = train(
                network,
                data,
                self.training,
                self.window_size,
                seed=seed,
                device=device,
                progress=progress,
                checkpoint=self.checkpoint,
            )
        self._fitted = _Fitted(network, scaling, vocabulary, familiarity, device)
        self._met = met
        return summary

    def _network(self, num_attributes: int, vocabulary: PrefixVocabulary, seed: int) -> Autoencoder:
        with seeded(seed):
            return Autoencoder(self.shape, num_attributes, vocabulary.sizes)

    def logits(self, flows: Flows) -> npt.NDArray[np.float32]:
        """Rate the flows of one window; see FlowModel.logits."""
        return self.infer(self.prepare(flows))

    def prepare(self, flows: Flows) -> PreparedGraph | None:
        """Make the graph and look up what is familiar in it; None of no flows. See FlowModel.prepare.

        Holds about 550 bytes a flow at most: both ends as text and as numbers, ten keys and counts, the attributes.
        """
        return run_on_leader(lambda: self._prepare(flows, None), num_flows=len(flows))

    def infer(self, prepared: PreparedGraph | None) -> npt.NDArray[np.float32]:
        """Encode and decode; see FlowModel.infer."""
        if prepared is None:
            return np.zeros(0, np.float32)
        graph, prefix_ids = prepared.arrived()
        network = self._need().network

        def encode_and_decode() -> Tensor:
            with torch.inference_mode():
                out: Tensor = network(graph, prefix_ids)
            return out

        if graph.src.is_cuda:
            return encode_and_decode().cpu().numpy()
        return run_on_leader(encode_and_decode, num_flows=graph.num_flows).numpy()

    def fitted_logits(self, flows: Flows, rows: slice) -> npt.NDArray[np.float32]:
        """Rate flows of the fit by what it learned from all others; see FlowModel.fitted_logits."""
        return self.infer(self._prepare(flows, None if self._met is None else self._met[:, rows]))

    def _prepare(self, flows: Flows, met: npt.NDArray[np.float32] | None) -> PreparedGraph | None:
        fitted = self._need()
        if not len(flows):
            return None
        graph, _ = build_graph(flows, fitted.scaling)
        prefix_ids = fitted.vocabulary.lookup(graph.octets, graph.kind)
        if fitted.familiarity is not None:
            # Channel by channel, as the network wants them, and as what is counted lies together. Flows of the fit
            # each met what the others did, so that no two of these are alike.
            graph = graph.merged() if met is None else graph.sorted()
            keys = host_keys(graph.octets.numpy(), graph.kind.numpy())
            attr = graph.edge_attr.numpy()
            by = flow_keys(keys[graph.src.numpy()], keys[graph.dst.numpy()], fitted.scaling.amounts(attr))
            met = fitted.familiarity.lookup(by) if met is None else met.take(graph.order.numpy(), axis=1)
            times = None if graph.times is None else graph.times.numpy()
            graph = replace(graph, edge_attr=torch.from_numpy(fitted.familiarity.beside(attr, met, by, times)))
        return send(lambda: (graph.to(fitted.device), on_device(prefix_ids, fitted.device)), fitted.device)

    def tensors(self) -> dict[str, Tensor]:
        """Return weights and vocabulary."""
        fitted = self._need()
        weights = {f"network.{name}": value.cpu() for name, value in fitted.network.state_dict().items()}
        keys = {
            f"vocabulary.{level}": torch.from_numpy(keys.copy()) for level, keys in enumerate(fitted.vocabulary.keys)
        }
        familiar = {} if fitted.familiarity is None else fitted.familiarity.tensors()
        return weights | keys | {f"familiarity.{name}": tensor for name, tensor in familiar.items()}

    def settings(self) -> dict[str, Any]:
        """Return shape, training and scaling."""
        fitted = self._need()
        return {
            "shape": self.shape.as_dict(),
            "training": self.training.as_dict(),
            "attributes": self.attributes,
            "window_size": self.window_size,
            "scaling": fitted.scaling.as_dict(),
            "counting": _COUNTING,
            "num_counted": 0 if fitted.familiarity is None else fitted.familiarity.num_flows,
        }

    @classmethod
    def restore(cls, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], device: torch.device) -> Self:
        """Make the fitted model again."""
        if settings["counting"] != _COUNTING:
            raise ModelFormatError("this model counts otherwise than this Thalweg does: fit it again")
        model = cls(
            shape=ModelConfig(**settings["shape"]),
            training=TrainingConfig.from_dict(settings["training"]),
            attributes=settings["attributes"],
            window_size=int(settings["window_size"]),
        )
        scaling = AttributeScaling.from_dict(settings["scaling"])
        vocabulary = PrefixVocabulary([tensors[f"vocabulary.{level}"].numpy() for level in range(NUM_LEVELS)])
        familiarity = None
        if model.shape.use_familiarity:
            own = {k.removeprefix("familiarity."): v for k, v in tensors.items() if k.startswith("familiarity.")}
            familiarity = Familiarity.restore(
                own, int(settings["num_counted"]), use_addresses=model.shape.use_addresses
            )
        network = model._network(len(scaling.names), vocabulary, seed=0)
        prefix = "network."
        network.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        model._fitted = _Fitted(network.to(device).eval(), scaling, vocabulary, familiarity, device)
        return model

    def _need(self) -> _Fitted:
        if self._fitted is None:
            raise NotFittedError("this model knows nothing yet: fit it, or load a fitted one")
        return self._fitted
