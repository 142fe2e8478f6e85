"""What every model of flows can do, whatever is inside it."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import torch

from thalweg.tables import Flows


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where a training stands, for a progress line."""

    epoch: int
    num_epochs: int
    share: float
    """of the whole budget, 0 to 1"""
    loss: float
    held_out_loss: float | None
    flows_per_s: float
    seconds_left: float


@dataclass(frozen=True, kw_only=True, slots=True)
class FitSummary:
    """What a training did; kept in the model file."""

    num_flows: int
    num_epochs: int
    best_epoch: int
    held_out_loss: float
    seconds: float
    stopped: Literal["finished", "early", "interrupted"]
    reliability: tuple[tuple[float, float, int], ...] = ()
    """mean P(edge exists), share that did, and how many edges, in up to ten bins; of held-out flows and noise"""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values, for a header."""
        return {**asdict(self), "reliability": [list(one) for one in self.reliability]}


class FlowModel(abc.ABC):
    """Rates the flows of one window. Thalweg's own model and every baseline look like this to `Detector`."""

    kind: ClassVar[str]
    """the name in MODELS and in the model file"""
    window_size: int
    """flows per window, in training and in scoring"""

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
            held_out: (E,) bool; flows to judge by and never to learn from.
            seed: all randomness comes from it.
            device: where to compute.
            progress: called a few times a second at most.

        A KeyboardInterrupt ends the training and keeps the best state so far.
        """

    @abc.abstractmethod
    def logits(self, flows: Flows) -> npt.NDArray[np.float32]:
        """Rate the flows of one window: log-odds that each edge exists; lower is stranger.

        Returns: (E,) float32, row i for flow i.
        Raises NotFittedError before fit or restore; SchemaError if a needed column is missing.
        """

    def prepare(self, flows: Flows) -> Any:
        """Do the first of the two steps of `logits`: what needs no network, on the CPU.

        The two steps may run in threads of their own, this one for the next window while `infer` rates the latest.
        A model that has its own `prepare` has its own `infer`; the others do all their work in the second.

        Returns: what `infer` takes. Raises as `logits`.
        """
        return flows

    def infer(self, prepared: Any) -> npt.NDArray[np.float32]:
        """Do the second step: rate the flows of what `prepare` gave. Returns: (E,) float32, as `logits`."""
        return self.logits(prepared)

    def fitted_logits(self, flows: Flows, rows: slice) -> npt.NDArray[np.float32]:
        """Rate a window of the flows of the latest `fit`, of which these are the rows; else as `logits`.

        A model that remembers single flows leaves out what it knows of each from itself.
        """
        del rows  # most models remember none
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
        """Make the fitted model again from `tensors()` and `settings()`."""
