"""Thalweg's own model, as `Detector` sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Self, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from thalweg.errors import NotFittedError
from thalweg.graph import AttributeScaling, PrefixVocabulary, build_graph, index_hosts
from thalweg.graph.attributes import AttributeSet
from thalweg.graph.hosts import NUM_LEVELS
from thalweg.model.autoencoder import Autoencoder, ModelConfig
from thalweg.model.interface import FitSummary, FlowModel, Progress
from thalweg.model.training import TrainingConfig, TrainingData, train
from thalweg.tables import Flows
from thalweg.windows import DEFAULT_SIZE

_POOL: Final = 200_000


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Fitted:
    network: Autoencoder
    scaling: AttributeScaling
    vocabulary: PrefixVocabulary
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
    _fitted: _Fitted | None = field(default=None, init=False, repr=False)

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

        Where the flows are fewer than a window, the windows become as small: rates learned in small windows do
        not hold in large ones.
        """
        self.window_size = min(self.window_size, len(flows))
        used = flows.filter(~held_out)
        scaling = AttributeScaling.fit(used, self.attributes)
        src, dst, hosts = index_hosts(flows)
        learned = torch.from_numpy(~held_out)
        num_flows = torch.bincount(torch.cat([src[learned], dst[learned]]), minlength=len(hosts)).numpy()
        vocabulary = PrefixVocabulary.fit(hosts.octets.numpy(), hosts.kind.numpy(), num_flows)
        edge_attr = scaling.transform(flows)
        some = np.random.default_rng([seed, 0]).choice(np.flatnonzero(~held_out), _POOL)
        data = TrainingData(
            src=src.numpy(),
            dst=dst.numpy(),
            edge_attr=edge_attr,
            held_out=held_out,
            octets=hosts.octets,
            kind=hosts.kind,
            vocabulary=vocabulary,
            pool=edge_attr[some],
            scaling=scaling,
        )
        network = self._network(len(scaling.names), vocabulary, seed)
        summary = train(network, data, self.training, self.window_size, seed=seed, device=device, progress=progress)
        self._fitted = _Fitted(network, scaling, vocabulary, device)
        return summary

    def _network(self, num_attributes: int, vocabulary: PrefixVocabulary, seed: int) -> Autoencoder:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # and not every GPU's, as torch.manual_seed would
            return Autoencoder(self.shape, num_attributes, vocabulary.sizes)

    def logits(self, flows: Flows) -> npt.NDArray[np.float32]:
        """Rate the flows of one window; see FlowModel.logits."""
        fitted = self._need()
        if not len(flows):
            return np.zeros(0, np.float32)
        graph, _ = build_graph(flows, fitted.scaling)
        prefix_ids = fitted.vocabulary.lookup(graph.octets, graph.kind)
        with torch.inference_mode():
            out: Tensor = fitted.network(graph.to(fitted.device), prefix_ids.to(fitted.device))
        return out.cpu().numpy()

    def tensors(self) -> dict[str, Tensor]:
        """Return weights and vocabulary."""
        fitted = self._need()
        weights = {f"network.{name}": value.cpu() for name, value in fitted.network.state_dict().items()}
        keys = {
            f"vocabulary.{level}": torch.from_numpy(keys.copy()) for level, keys in enumerate(fitted.vocabulary.keys)
        }
        return weights | keys

    def settings(self) -> dict[str, Any]:
        """Return shape, training and scaling."""
        return {
            "shape": self.shape.as_dict(),
            "training": self.training.as_dict(),
            "attributes": self.attributes,
            "window_size": self.window_size,
            "scaling": self._need().scaling.as_dict(),
        }

    @classmethod
    def restore(cls, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], device: torch.device) -> Self:
        """Make the fitted model again."""
        model = cls(
            shape=ModelConfig(**settings["shape"]),
            training=TrainingConfig.from_dict(settings["training"]),
            attributes=settings["attributes"],
            window_size=int(settings["window_size"]),
        )
        scaling = AttributeScaling.from_dict(settings["scaling"])
        vocabulary = PrefixVocabulary([tensors[f"vocabulary.{level}"].numpy() for level in range(NUM_LEVELS)])
        network = model._network(len(scaling.names), vocabulary, seed=0)
        prefix = "network."
        network.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        model._fitted = _Fitted(network.to(device).eval(), scaling, vocabulary, device)
        return model

    def _need(self) -> _Fitted:
        if self._fitted is None:
            raise NotFittedError("this model knows nothing yet: fit it, or load a fitted one")
        return self._fitted
