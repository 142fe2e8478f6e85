"""How the autoencoder learns: windows of real flows with noise mixed in, and which is which."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from thalweg.errors import ConfigError
from thalweg.model.autoencoder import Autoencoder
from thalweg.model.interface import FitSummary, Progress
from thalweg.model.learning.checkpoint import Checkpoint, fingerprint
from thalweg.model.learning.mixing import MixedWindow, TrainingData, mix_window
from thalweg.model.learning.noise import NoiseConfig, draw_share
from thalweg.model.learning.validation import held_out_loss, held_out_windows, loss_of, reliability
from thalweg.runtime.parallel import one_thread_less
from thalweg.runtime.stages import Stage, run_stages

# Held-out losses this close are equal within the noise of six windows; the later state, which saw more flows, is kept.
_AS_GOOD: Final = 0.02

# The share of training windows that are not thinned: the windows that are scored are not thinned either.
_WHOLE: Final = 0.3

_KEEP_S: Final = 60.0
"""A checkpoint is written this often, and after each epoch."""
_WITH_STATE: Final = ("model", "average", "optimiser", "schedule")


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """How long and how hard to train; docs/model.md says why the numbers are as they are.

    Raises ConfigError if a value is out of range.
    """

    num_flows: int = 6_000_000
    """How many flows the model sees in all, noise and repeats included."""
    steps: int | None = None
    """How many optimiser steps to take; if not given, `num_flows` and `max_steps` decide."""
    max_steps: int = 3_000
    """The most optimiser steps for `num_flows`."""
    epochs: int = 10
    """How often the held-out loss is measured."""
    patience: int = 6
    """Training stops after so many epochs without a lower held-out loss."""
    min_window: int = 2_000
    """Flows in the smallest training window, noise included. Small windows are more frequent, so that each order of
    magnitude up to the model's window takes a similar time."""
    thinning: float = 0.2
    """Most windows hold a share, between this and 1, of the flows of a longer run, so that no session looks the same
    twice; 1 thins none."""
    learning_rate: float = 3e-3
    """The highest learning rate of the one-cycle schedule."""
    weight_decay: float = 1.0
    """The weight decay of AdamW."""
    prefix_dropout: float = 0.5
    """The mean share of hosts whose prefix is cut short, in windows that have such hosts."""
    all_known: float = 0.5
    """The share of windows in which no prefix is cut short."""
    hidden_windows: float = 0.15
    """The share of windows in which all addresses are hidden."""
    trim: float = 0.0
    """The share of real flows, by whole channels that fit worst, left out of the loss after the warm-up."""
    warm_up: float = 0.3
    """The share of the steps before `trim` applies."""
    burst_weight: float = 0.1
    """The share of the noise's loss that is averaged by burst, not by flow; see `loss_of`."""
    averaging: float = 0.995
    """The decay of the moving average of the weights."""
    mixed_precision: bool = False
    """Compute products in bfloat16; for GPUs, since CPUs without units for it become slower."""
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    """The noise in the training windows."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if (
            min(self.num_flows, self.steps or 1, self.max_steps, self.epochs, self.patience) < 1
            or self.learning_rate <= 0
        ):
            raise ConfigError(
                "num_flows, steps, max_steps, epochs and patience are at least 1; the learning rate is above 0"
            )
        if not 0 < self.thinning <= 1:
            raise ConfigError(f"thinning lies above 0 and up to 1, not {self.thinning}")
        if self.min_window < 2:
            raise ConfigError(f"a training window holds at least 2 flows, not {self.min_window}")
        for name in ("prefix_dropout", "all_known", "hidden_windows", "trim", "warm_up", "burst_weight", "averaging"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} lies in [0, 1], not {getattr(self, name)}")

    def num_steps(self, max_window: int) -> int:
        """Return how many optimiser steps show `num_flows` flows in windows of up to `max_window`."""
        if self.steps is not None:
            return self.steps
        low = min(self.min_window, max_window)
        return int(np.clip(self.num_flows / np.sqrt(low * max_window), min(100, self.max_steps), self.max_steps))

    def longer(self, factor: float) -> TrainingConfig:
        """Return the same training with `factor` times the flows, and as many more steps at most."""
        return replace(
            self,
            num_flows=max(round(self.num_flows * factor), 1),
            max_steps=max(round(self.max_steps * max(factor, 1.0)), 1),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def train(
    model: Autoencoder,
    data: TrainingData,
    config: TrainingConfig,
    max_window: int,
    *,
    seed: int,
    device: torch.device,
    progress: Callable[[Progress], None],
    checkpoint: Path | None = None,
) -> FitSummary:
    """Train `model` in place, in windows of up to `max_window` flows, and leave it at its best held-out state.

    Stops early if the loss on held-out unlabelled flows (with noise of its own, the same each time) has not
    fallen for `patience` epochs; a KeyboardInterrupt stops it too, keeping the best state so far. Dropout draws from
    torch's global generator: see `seeded`. A thread prepares the next windows.

    checkpoint: a file to keep the training's state in, as it goes on; if it exists, the training continues from it
    as if it had never stopped. Raises as `Checkpoint.load` and `Checkpoint.save`.
    """
    training = _Training(model, data, config, max_window, seed, device)
    if checkpoint is None:
        return training.run(progress, lambda _: None)
    settings = [config.as_dict(), model.config.as_dict(), max_window, seed, device.type]
    kept = Checkpoint(checkpoint, fingerprint(data, settings))
    if (state := kept.load()) is not None:
        training.restore(state)
    return training.run(progress, kept.save)


@final
class _Training:
    """One training, and its state between two steps."""

    def __init__(
        self,
        model: Autoencoder,
        data: TrainingData,
        config: TrainingConfig,
        max_window: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self.model, self.data, self.config, self.max_window, self.device = model, data, config, max_window, device
        self.num_steps = config.num_steps(max_window)
        self.num_epochs = min(config.epochs, self.num_steps)
        self.rows = np.flatnonzero(~data.held_out)
        self.checks = held_out_windows(data, config.noise, max_window, seed)
        self.rng = np.random.default_rng([seed, 1])
        model.to(device).train()
        self.optimiser = torch.optim.AdamW(
            model.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=device.type == "cuda",
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, max_lr=config.learning_rate, total_steps=self.num_steps, pct_start=0.15
        )
        # The moving average of the weights is validated and kept: single steps swing with the noise they saw.
        # After few steps it also holds a share of the initial weights (averaging ** steps), which steadies it.
        self.average = torch.optim.swa_utils.AveragedModel(
            model,
            multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(config.averaging),  # type: ignore[no-untyped-call]  # torch's
        )
        self.at = _Standing()
        self.best = _copied(self.average.module)
        self.rng_state = dict(self.rng.bit_generator.state)

    def run(self, progress: Callable[[Progress], None], keep: Callable[[dict[str, Any]], None]) -> FitSummary:
        """Take the remaining steps. keep: called at times with a state for `restore`."""
        at = self.at
        begun = time.perf_counter() - at.seconds
        kept_at = time.perf_counter()
        stopped: Literal["finished", "early", "interrupted"] = "early" if self._is_enough() else "finished"
        # The first stage runs in this thread, which takes the steps.
        stages = (Stage("begin", lambda _: [()]), Stage("mix", lambda _: self._windows(), lambda _: 1))
        try:
            with one_thread_less(), closing(run_stages(stages, bound=1)) as windows:
                for window, self.rng_state in windows:
                    self._learn(window.to(self.device))
                    ends_epoch = at.step * self.num_epochs // self.num_steps > at.epoch
                    if ends_epoch:
                        self._judge()
                    at.seconds = time.perf_counter() - begun
                    if ends_epoch or time.perf_counter() - kept_at > _KEEP_S:
                        keep(self.state())
                        kept_at = time.perf_counter()
                    progress(
                        Progress(
                            epoch=at.epoch + (not ends_epoch),
                            num_epochs=self.num_epochs,
                            share=at.step / self.num_steps,
                            loss=at.running,
                            held_out_loss=at.held_loss,
                            flows_per_s=at.num_seen / at.seconds,
                            seconds_left=at.seconds / at.step * (self.num_steps - at.step),
                        )
                    )
                    if ends_epoch and self._is_enough():
                        stopped = "early"
                        break
        except KeyboardInterrupt:
            stopped = "interrupted"
            if at.best_loss == float("inf"):
                at.best_loss, self.best = self._held_out_loss(), _copied(self.average.module)
        self.model.load_state_dict(self.best)
        self.model.eval()
        return FitSummary(
            num_flows=len(self.rows),
            num_epochs=at.epoch,
            best_epoch=at.best_epoch,
            held_out_loss=at.best_loss,
            seconds=time.perf_counter() - begun,
            stopped=stopped,
            reliability=reliability(self.model, self.checks, self.device),
        )

    def _windows(self) -> Iterator[tuple[MixedWindow, dict[str, Any]]]:
        """Yield the remaining windows, each with the generator's state after it."""
        num_left = 0 if self._is_enough() else self.num_steps - self.at.step
        for _ in range(num_left):
            window = _training_window(self.rng, self.data, self.config, self.max_window, self.rows)
            yield window, dict(self.rng.bit_generator.state)

    def _learn(self, window: MixedWindow) -> None:
        """Take one step."""
        at, config = self.at, self.config
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.mixed_precision):
            logit = self.model(window.graph, window.prefix_ids).float()
        trim = config.trim if at.step >= config.warm_up * self.num_steps else 0.0
        loss = loss_of(logit, window, burst_weight=config.burst_weight, trim=trim)
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.schedule.step()
        self.average.update_parameters(self.model)
        at.step += 1
        at.num_seen += window.graph.num_flows
        value = float(loss.detach())
        at.running = value if at.step == 1 else 0.95 * at.running + 0.05 * value

    def _judge(self) -> None:
        """End an epoch."""
        at = self.at
        at.epoch += 1
        at.held_loss = self._held_out_loss()
        if at.held_loss < at.lowest:
            at.lowest, at.improved = at.held_loss, at.epoch
        if at.held_loss < at.lowest * (1 + _AS_GOOD):
            at.best_loss, at.best_epoch, self.best = at.held_loss, at.epoch, _copied(self.average.module)

    def _is_enough(self) -> bool:
        """Return whether the held-out loss has not fallen for `patience` epochs."""
        return self.at.epoch - self.at.improved >= self.config.patience

    def _held_out_loss(self) -> float:
        return held_out_loss(self.average.module, self.checks, self.config.burst_weight, self.device)

    def state(self) -> dict[str, Any]:
        """Return everything that changes from step to step."""
        return {
            **{name: getattr(self, name).state_dict() for name in _WITH_STATE},
            "best": self.best,
            "standing": asdict(self.at),
            "rng": self.rng_state,
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from the `state` of another training."""
        for name in _WITH_STATE:
            getattr(self, name).load_state_dict(state[name])
        self.best, self.at, self.rng_state = state["best"], _Standing(**state["standing"]), state["rng"]
        self.rng.bit_generator.state = state["rng"]
        torch.set_rng_state(state["torch_rng"])
        if state["cuda_rng"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)


@final
@dataclass(slots=True)
class _Standing:
    """How far a training is, in numbers."""

    step: int = 0
    epoch: int = 0
    num_seen: int = 0
    seconds: float = 0.0
    running: float = 0.0
    held_loss: float | None = None
    lowest: float = float("inf")
    improved: int = 0
    best_loss: float = float("inf")
    best_epoch: int = 0


def _training_window(
    rng: np.random.Generator, data: TrainingData, config: TrainingConfig, max_window: int, rows: npt.NDArray[np.int64]
) -> MixedWindow:
    few, many = min(config.min_window, max_window) ** -0.5, max_window**-0.5
    size = int(rng.uniform(many, few) ** -2)
    share = draw_share(rng, config.noise, size)
    # Never more real flows than there are: with a large share of noise, the window becomes smaller.
    size = min(size, int(len(rows) / (1 - share)))
    num_real = max(int(size * (1 - share)), 1)
    return mix_window(
        rng,
        data,
        config.noise,
        _real_flows(rng, rows, num_real, config.thinning),
        max(size - num_real, 1),
        judged=~data.held_out,
        prefix_dropout=_dropout(rng, config),
        hidden=bool(rng.random() < config.hidden_windows),
    )


def _real_flows(
    rng: np.random.Generator, rows: npt.NDArray[np.int64], num: int, thinning: float
) -> npt.NDArray[np.int64]:
    """Draw `num` rows in their order: a whole run of neighbours, or a part of a longer one."""
    long = num if rng.random() < _WHOLE else min(int(num / rng.uniform(thinning, 1)), len(rows))
    at = int(rng.integers(0, len(rows) - long + 1))
    run = rows[at : at + long]
    return run if long == num else run[np.sort(rng.choice(long, num, replace=False))]


def _dropout(rng: np.random.Generator, config: TrainingConfig) -> float:
    """Draw the share of hosts whose addresses are cut: none in some windows, up to twice the usual in others."""
    return 0.0 if rng.random() < config.all_known else min(float(rng.uniform(0, 2 * config.prefix_dropout)), 1.0)


def _copied(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
