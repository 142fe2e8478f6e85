"""A plain autoencoder of single flows: what the graph model must beat to show that the graph is worth it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from thalweg.benchmark.rivals.rival import AttributeRival, EpochReport, Learning, Matrix
from thalweg.errors import ConfigError
from thalweg.model.interface import Progress
from thalweg.runtime.device import seeded


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class PlainAutoencoderConfig:
    """How the plain autoencoder is built and trained.

    Raises ConfigError if a value is out of range.
    """

    width: int = 16
    bottleneck: int = 1
    """one of the three attributes is nearly constant, so a bottleneck of two would copy the other two"""
    num_epochs: int = 40
    patience: int = 5
    """epochs without a better held-out loss before it stops"""
    batch_size: int = 512
    learning_rate: float = 0.005

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, not {getattr(self, name)}")


@final
class PlainAutoencoder(AttributeRival):
    """Three attributes through a bottleneck and back; a flow is as strange as its squared error.

    The state of the lowest held-out loss is kept; of the lowest training loss if nothing is held out.
    """

    name = "autoencoder"

    def __init__(self, config: PlainAutoencoderConfig | None = None) -> None:
        super().__init__()
        self.config = config or PlainAutoencoderConfig()

    def _learn_rows(
        self, x: Matrix, judged_x: Matrix, *, seed: int, device: torch.device, progress: Callable[[Progress], None]
    ) -> Learning:
        config = self.config
        rows, judged = _tensor(x, device), _tensor(judged_x, device)
        network = self._new_network(x.shape[1], seed).to(device)
        optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
        generator = torch.Generator().manual_seed(seed)
        report = EpochReport(progress, config.num_epochs, len(rows))
        best_loss, best_epoch, epoch = math.inf, 0, 0
        best = copy.deepcopy(network.state_dict())
        stopped: Literal["finished", "early", "interrupted"] = "finished"
        try:
            for epoch in range(1, config.num_epochs + 1):
                total = 0.0
                for batch in torch.split(torch.randperm(len(rows), generator=generator), config.batch_size):
                    optimizer.zero_grad()
                    loss = _error(network, rows[batch.to(device)]).mean()
                    loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
                    optimizer.step()
                    total += loss.item() * len(batch)
                with torch.inference_mode():
                    loss_now = float(_error(network, judged).mean()) if len(judged) else total / len(rows)
                if loss_now < best_loss:
                    best_loss, best_epoch, best = loss_now, epoch, copy.deepcopy(network.state_dict())
                report.epoch(epoch, total / len(rows), loss_now if len(judged) else None)
                if epoch - best_epoch >= config.patience:
                    stopped = "early"
                    break
        except KeyboardInterrupt:
            stopped = "interrupted"
        network.load_state_dict(best)
        self._network, self._device = network, device
        kept_loss = best_loss if best_epoch else math.nan  # interrupted before the first epoch ended
        return Learning(num_epochs=epoch, best_epoch=best_epoch, held_out_loss=kept_loss, stopped=stopped)

    def _new_network(self, num_attributes: int, seed: int) -> nn.Sequential:
        width, bottleneck = self.config.width, self.config.bottleneck
        with seeded(seed):
            return nn.Sequential(
                nn.Linear(num_attributes, width),
                nn.SiLU(),
                nn.Linear(width, bottleneck),
                nn.Linear(bottleneck, width),
                nn.SiLU(),
                nn.Linear(width, num_attributes),
            )

    def _rate_rows(self, x: Matrix) -> npt.NDArray[np.floating[Any]]:
        with torch.inference_mode():
            rated: npt.NDArray[np.float32] = _error(self._network, _tensor(x, self._device)).cpu().numpy()
        return rated


def _tensor(x: Matrix, device: torch.device) -> Tensor:
    return torch.from_numpy(x.astype(np.float32)).to(device)


def _error(network: nn.Module, x: Tensor) -> Tensor:
    """Return the mean squared error of each row of x (E, F). Returns: (E,)."""
    error: Tensor = (network(x) - x).square().mean(dim=1)
    return error
