"""The interface of every model of flows: fit, rate, save, restore."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import torch

from thalweg.errors import ModelFormatError
from thalweg.tables import Flows


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a training is, for a progress line."""

    epoch: int
    num_epochs: int
    share: float
    """Share of the training done, 0 to 1."""
    loss: float
    held_out_loss: float | None
    flows_per_s: float
    seconds_left: float


@dataclass(frozen=True, kw_only=True, slots=True)
class FitSummary:
    """The result of a training; kept in the model file."""

    num_flows: int
    num_epochs: int
    best_epoch: int
    held_out_loss: float
    seconds: float
    stopped: Literal["finished", "early", "interrupted"]
    reliability: tuple[tuple[float, float, int], ...] = ()
    """Mean P(edge exists), share of real edges, and number of edges, in up to ten bins of held-out flows and noise."""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values, for a header."""
        return {**asdict(self), "reliability": [list(one) for one in self.reliability]}


class FlowModel(abc.ABC):
    """Rates the flows of one window. Thalweg's own model and every baseline implement it for `Detector`."""

    kind: ClassVar[str]
    """The name in MODELS and in the model file."""
    window_size: int
    """Flows per window, in training and in scoring."""

    @abc.abstractmethod
    def fit(
        self,
        flows: Flows,
        held_out: npt.NDArray[np.bool_],
        *,
        seed: int,
        device: torch.device,
        progress: Callable[[Progress], None],
    ) -> FitSummary:
        """Learn from unlabelled flows.

        Args:
            flows: E flows in their own order; labels, if any, must not be read.
            held_out: (E,) bool; flows that validate the training and are never learned from.
            seed: the source of all randomness.
            device: the device that computes.
            progress: called at most a few times a second.

        A KeyboardInterrupt ends the training and keeps the best state so far.
        """

    @abc.abstractmethod
    def logits(self, flows: Flows) -> npt.NDArray[np.float32]:
        """Rate the flows of one window: log-odds that each edge exists; lower is stranger.

        Returns: (E,) float32, row i for flow i.
        Raises NotFittedError before fit or restore; SchemaError if a needed column is missing.
        """

    def prepare(self, flows: Flows) -> Any:
        """Do the first of the two steps of `logits`: everything before the network, on the CPU.

        The two steps may run in different threads: `prepare` for the next window while `infer` rates the latest.
        A model that overrides `prepare` overrides `infer` too; the others do all their work in `infer`.

        Returns: what `infer` takes. Raises as `logits`.
        """
        return flows

    def infer(self, prepared: Any) -> npt.NDArray[np.float32]:
        """Do the second step: rate the flows that `prepare` returned. Returns: (E,) float32, as `logits`."""
        return self.logits(prepared)

    def fitted_logits(self, flows: Flows, rows: slice) -> npt.NDArray[np.float32]:
        """Rate a window of flows of the latest `fit`; otherwise as `logits`. rows: their rows in the flows of `fit`.

        A model that counts single flows leaves each flow out of its own counts.
        """
        del rows  # most models count none
        return self.logits(flows)

    @abc.abstractmethod
    def tensors(self) -> dict[str, torch.Tensor]:
        """Return everything learned, as named tensors on the CPU."""

    @abc.abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return everything else that `restore` needs, as JSON values."""

    @classmethod
    @abc.abstractmethod
    def restore(cls, tensors: Mapping[str, torch.Tensor], settings: Mapping[str, Any], device: torch.device) -> Self:
        """Return the fitted model whose `tensors()` and `settings()` these are.

        They come from a file that anyone may have made. Raises ModelFormatError or ConfigError if they fit no model,
        before anything of an absurd size is allocated.
        """


def check_weights(network: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Check that weights are those of a network: their names, shapes and types.

    Raises ModelFormatError if not, with the first name that does not fit.
    """
    expected = network.state_dict()
    for name, weight in expected.items():
        if name not in weights:
            raise ModelFormatError(f"no weights {name}")
        found, wanted = weights[name], (tuple(weight.shape), weight.dtype)
        if (tuple(found.shape), found.dtype) != wanted:
            raise ModelFormatError(
                f"the weights {name} are {found.dtype} {tuple(found.shape)}; by the settings, {wanted[1]} {wanted[0]}"
            )
    if unknown := next((name for name in weights if name not in expected), None):
        raise ModelFormatError(f"the weights {unknown} belong to nothing that the settings name")
