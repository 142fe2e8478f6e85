"""The base classes of models that exist only for comparison, and the attributes that these use.

Shapes: E flows, F = 3 attributes.
"""

from __future__ import annotations

import abc
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, NoReturn, Self, final

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from thalweg.errors import ModelError, NotFittedError
from thalweg.graph.attributes import STANDARD
from thalweg.model.interface import FitSummary, FlowModel, Progress
from thalweg.tables import Flows
from thalweg.windows import DEFAULT_SIZE

Matrix = npt.NDArray[np.float64]

_PROGRESS_S: Final = 0.25
_CLIP: Final = 10.0
_NORMAL_IQR: Final = 1.349  # of a normal distribution with spread 1
_FLOOR: Final = 0.1


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Learning:
    """How a rival's training went. The defaults are for a rival without epochs and loss."""

    num_epochs: int = 1
    best_epoch: int = 1
    held_out_loss: float = 0.0
    stopped: Literal["finished", "early", "interrupted"] = "finished"


class Rival(FlowModel):
    """A model to compare with. It lives for one comparison and is not saved."""

    kind: ClassVar[str] = "rival"
    name: str
    """of the method, as in a table of results"""

    def __init__(self, *, window_size: int = DEFAULT_SIZE) -> None:
        self.window_size = window_size
        self._is_fitted = False

    @final
    def fit(
        self,
        flows: Flows,
        held_out: npt.NDArray[np.bool_],
        *,
        seed: int,
        device: torch.device,
        progress: Callable[[Progress], None],
    ) -> FitSummary:
        """Learn from the flows where `held_out` is false; see `FlowModel.fit`.

        A rival without epochs reports 1 epoch, one without a loss reports 0, and neither calls `progress`.

        Raises ModelError if no flow is left to learn from.
        """
        began = time.perf_counter()
        learned = flows.filter(~held_out)
        if not len(learned):
            raise ModelError(f"{self.name} has no flows to learn from: hold out fewer, or read more")
        learning = self._learn(learned, flows.filter(held_out), seed=seed, device=device, progress=progress)
        self._is_fitted = True
        return FitSummary(
            num_flows=len(learned),
            num_epochs=learning.num_epochs,
            best_epoch=learning.best_epoch,
            held_out_loss=learning.held_out_loss,
            seconds=time.perf_counter() - began,
            stopped=learning.stopped,
        )

    @final
    def logits(self, flows: Flows) -> npt.NDArray[np.float32]:
        """Rate the flows of one window: minus the method's own anomaly score; lower is stranger.

        Only their order has a meaning that methods share: they are not log-odds of anything.

        Returns: (E,) float32, row i for flow i.
        Raises NotFittedError before fit.
        """
        if not self._is_fitted:
            raise NotFittedError(f"{self.name} is not fitted: call fit")
        if not len(flows):
            return np.empty(0, np.float32)
        return -np.asarray(self._strangeness(flows), np.float32)

    @final
    def tensors(self) -> NoReturn:
        """Raise ModelError: rivals are not saved."""
        raise self._not_saved()

    @final
    def settings(self) -> NoReturn:
        """Raise ModelError: rivals are not saved."""
        raise self._not_saved()

    @classmethod
    @final
    def restore(
        cls,
        tensors: Mapping[str, torch.Tensor],  # noqa: ARG003  refused
        settings: Mapping[str, Any],  # noqa: ARG003
        device: torch.device,  # noqa: ARG003
    ) -> Self:
        """Raise ModelError: rivals are not saved."""
        raise ModelError("a model that exists only to compare with is not saved: fit it again")

    def _not_saved(self) -> ModelError:
        return ModelError(f"{self.name} exists only to compare with and is not saved: fit it again if it is needed")

    @abc.abstractmethod
    def _learn(
        self, learned: Flows, judged: Flows, *, seed: int, device: torch.device, progress: Callable[[Progress], None]
    ) -> Learning:
        """Learn from `learned`, at least one flow, and never from `judged`, which may be empty."""

    @abc.abstractmethod
    def _strangeness(self, flows: Flows) -> npt.NDArray[np.floating[Any]]:
        """Rate at least one flow; higher is stranger. Returns: (E,), finite."""


class AttributeRival(Rival):
    """A rival that sees each flow's attributes and nothing else: neither addresses nor other flows."""

    _scaling: RobustScaling

    @final
    def _learn(
        self, learned: Flows, judged: Flows, *, seed: int, device: torch.device, progress: Callable[[Progress], None]
    ) -> Learning:
        self._scaling = RobustScaling.fit(learned)
        x, judged_x = self._scaling.transform(learned), self._scaling.transform(judged)
        return self._learn_rows(x, judged_x, seed=seed, device=device, progress=progress)

    @final
    def _strangeness(self, flows: Flows) -> npt.NDArray[np.floating[Any]]:
        return self._rate_rows(self._scaling.transform(flows))

    @abc.abstractmethod
    def _learn_rows(
        self, x: Matrix, judged_x: Matrix, *, seed: int, device: torch.device, progress: Callable[[Progress], None]
    ) -> Learning:
        """Learn from x (E, F) and never from judged_x (J, F)."""

    @abc.abstractmethod
    def _rate_rows(self, x: Matrix) -> npt.NDArray[np.floating[Any]]:
        """Rate the rows x (E, F). Returns: (E,); higher is stranger."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class RobustScaling:
    """Maps flows to attributes that outliers in training cannot stretch.

    center, scale: (F,) float64, of bytes forward, bytes backward and duration after log1p.
    """

    center: Matrix
    scale: Matrix

    @classmethod
    def fit(cls, flows: Flows) -> RobustScaling:
        """Measure median and quartiles."""
        raw = _log_amounts(flows)
        low, center, high = np.quantile(raw, [0.25, 0.5, 0.75], axis=0)
        # If three flows in four share one value, the quartiles are equal, and the standard deviation sets the scale.
        # The last floor: if training has only one amount, a tenth more or less of it is no difference.
        floor = np.maximum(raw.std(axis=0) / 2, _FLOOR)
        return cls(center, np.maximum((high - low) / _NORMAL_IQR, floor))

    def transform(self, flows: Flows) -> Matrix:
        """Return the attributes. Returns: (E, F) float64, clipped to ±10."""
        z: Matrix = ((_log_amounts(flows) - self.center) / self.scale).clip(-_CLIP, _CLIP)
        return z


@final
class EpochReport:
    """Reports the progress of a training by epochs to a callback, a few times a second."""

    def __init__(self, progress: Callable[[Progress], None], num_epochs: int, num_flows: int) -> None:
        self._progress, self._num_epochs, self._num_flows = progress, num_epochs, num_flows
        self._began, self._reported = time.perf_counter(), -math.inf

    def epoch(self, epoch: int, loss: float, held_out_loss: float | None = None) -> None:
        """Report a finished epoch if the last report is a quarter of a second ago; always report the last epoch."""
        now = time.perf_counter()
        if now - self._reported < _PROGRESS_S and epoch < self._num_epochs:
            return
        self._reported = now
        seconds = max(now - self._began, 1e-9)
        self._progress(
            Progress(
                epoch=epoch,
                num_epochs=self._num_epochs,
                share=epoch / self._num_epochs,
                loss=loss,
                held_out_loss=held_out_loss,
                flows_per_s=self._num_flows * epoch / seconds,
                seconds_left=seconds * (self._num_epochs - epoch) / epoch,
            )
        )


def _log_amounts(flows: Flows) -> Matrix:
    frame = flows.frame.select(pl.col(STANDARD).cast(pl.Float64).log1p())
    return np.ascontiguousarray(frame.to_numpy(), dtype=np.float64)
