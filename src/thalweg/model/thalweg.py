"""Thalweg's own model as a `FlowModel`: features, training and scoring around the autoencoder."""

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
from thalweg.model.interface import FitSummary, FlowModel, Progress, check_weights
from thalweg.model.learning.mixing import TrainingData
from thalweg.model.learning.training import TrainingConfig, train
from thalweg.runtime.device import Sent, on_device, seeded, send
from thalweg.runtime.parallel import run_on_leader
from thalweg.runtime.settings import make_settings, value_of
from thalweg.tables import Flows
from thalweg.windows import DEFAULT_SIZE, check_size

_POOL: Final = 200_000
_COUNTING: Final = 3
"""Version of how `Familiarity` counts; a model file with another one is refused."""

PreparedGraph = Sent[tuple[FlowGraph, Tensor]]
"""The network's input: a window's graph, and the ids of its hosts' prefixes, (N, L) int64."""


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
    """The graph autoencoder of docs/model.md, with its scaling, its prefix vocabulary and its training counts."""

    kind: ClassVar[str] = "thalweg"
    shape: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    attributes: AttributeSet = "standard"
    window_size: int = DEFAULT_SIZE
    checkpoint: Path | None = None
    """The file in which a training keeps its state, to continue from: see `train`. Not kept in the model file."""
    _fitted: _Fitted | None = field(default=None, init=False, repr=False)
    _flow_counts: npt.NDArray[np.float32] | None = field(default=None, init=False, repr=False)
    """(M, E) the counts of each flow of the fit among the others; not kept in the model file."""

    def __post_init__(self) -> None:
        """Check the window's size."""
        check_size(self.window_size)

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
        familiarity = flow_counts = None
        if self.shape.use_familiarity:
            keys = host_keys(hosts.octets.numpy(), hosts.kind.numpy())
            familiarity, flow_counts = Familiarity.fit(
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
            flow_counts=flow_counts,
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
        self._flow_counts = flow_counts
        return summary

    def _network(self, num_attributes: int, vocabulary: PrefixVocabulary, seed: int) -> Autoencoder:
        with seeded(seed):
            return Autoencoder(self.shape, num_attributes, vocabulary.sizes)

    def logits(self, flows: Flows) -> npt.NDArray[np.float32]:
        """Rate the flows of one window; see FlowModel.logits."""
        return self.infer(self.prepare(flows))

    def prepare(self, flows: Flows) -> PreparedGraph | None:
        """Build the graph and look up its flows' counts; None if there are no flows. See FlowModel.prepare.

        Holds at most about 550 bytes per flow: both ends as text and as numbers, ten keys and counts, the attributes.
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
        """Rate flows of the fit, each with its own occurrences left out of its counts; see FlowModel.fitted_logits."""
        return self.infer(self._prepare(flows, None if self._flow_counts is None else self._flow_counts[:, rows]))

    def _prepare(self, flows: Flows, flow_counts: npt.NDArray[np.float32] | None) -> PreparedGraph | None:
        fitted = self._need()
        if not len(flows):
            return None
        graph, _ = build_graph(flows, fitted.scaling)
        prefix_ids = fitted.vocabulary.lookup(graph.octets, graph.kind)
        if fitted.familiarity is not None:
            # Sorted by channel for the network and for the counting. Flows of the fit stay separate: equal flows
            # can differ in their counts, since each was counted among the others.
            graph = graph.merged() if flow_counts is None else graph.sorted()
            keys = host_keys(graph.octets.numpy(), graph.kind.numpy())
            attr = graph.edge_attr.numpy()
            by = flow_keys(keys[graph.src.numpy()], keys[graph.dst.numpy()], fitted.scaling.amounts(attr))
            if flow_counts is None:
                flow_counts = fitted.familiarity.lookup(by)
            else:
                flow_counts = flow_counts.take(graph.order.numpy(), axis=1)
            times = None if graph.times is None else graph.times.numpy()
            attr = fitted.familiarity.append_features(attr, flow_counts, by, times)
            graph = replace(graph, edge_attr=torch.from_numpy(attr))
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
        """Return the fitted model.

        Raises ModelFormatError if the file counts in another way; ConfigError if a setting or tensor is impossible.
        """
        if settings["counting"] != _COUNTING:
            raise ModelFormatError("this model counts flows in another way than this Thalweg: fit it again")
        model = cls(
            shape=make_settings(ModelConfig, settings["shape"], "shape:"),
            training=make_settings(TrainingConfig, settings["training"], "training:"),
            attributes=value_of(AttributeSet, settings["attributes"], "attributes"),
            window_size=value_of(int, settings["window_size"], "window_size"),
        )
        scaling = AttributeScaling.from_dict(settings["scaling"])
        vocabulary = PrefixVocabulary.restore([tensors[f"vocabulary.{level}"].numpy() for level in range(NUM_LEVELS)])
        familiarity = None
        if model.shape.use_familiarity:
            num_flows = value_of(int, settings["num_counted"], "num_counted")
            own = _beginning_with("familiarity.", tensors)
            familiarity = Familiarity.restore(own, num_flows, use_addresses=model.shape.use_addresses)
        weights = _beginning_with("network.", tensors)
        _check_sizes(model.shape, vocabulary, weights)
        network = model._network(len(scaling.names), vocabulary, seed=0)
        check_weights(network, weights)
        network.load_state_dict(weights)
        model._fitted = _Fitted(network.to(device).eval(), scaling, vocabulary, familiarity, device)
        return model

    def _need(self) -> _Fitted:
        if self._fitted is None:
            raise NotFittedError("this model is not fitted: fit it, or load a fitted one")
        return self._fitted


def _beginning_with(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _check_sizes(shape: ModelConfig, vocabulary: PrefixVocabulary, weights: Mapping[str, Tensor]) -> None:
    """Check that the file has the largest tensors that the settings ask for, before any of that size is made.

    Raises ModelFormatError if it lacks one. To make the whole network without memory, torch would load its compiler.
    """
    found = {tuple(weight.shape) for weight in weights.values()}
    for wanted in (*((size + 1, shape.prefix_width) for size in vocabulary.sizes), (shape.width, shape.width)):
        if wanted not in found:
            raise ModelFormatError(f"no weights have the shape {wanted}, which the settings ask for")
