"""How the autoencoder learns: windows of real flows with noise mixed in, and which is which."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from thalweg.errors import ConfigError
from thalweg.model.autoencoder import Autoencoder
from thalweg.model.interface import FitSummary, Progress
from thalweg.model.mixing import MixedWindow, TrainingData, mix_window
from thalweg.model.noise import NoiseConfig, draw_share

# Held-out losses this close are equal, within the noise of six windows; then the later state has seen more.
_AS_GOOD: Final = 0.02

# Share of training windows that are not thinned, as those that are scored are not.
_WHOLE: Final = 0.3


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """How long and how hard to train; docs/model.md says why the numbers are as they are.

    num_flows: flows to show in all, noise and repeats included, in at most max_steps steps; steps: so many optimiser
    steps instead, if given.
    epochs: how often the held-out loss is looked at; patience: epochs without a better one before it stops.
    min_window: flows in the smallest training window, noise included; small ones are more frequent, so that each
    order of magnitude up to the model's window takes a similar time. thinning: most windows hold a share, between
    this and 1, of the flows of a longer run, so that no session looks the same twice; 1 leaves all whole.
    prefix_dropout: mean share of hosts whose prefix is cut short, in the windows where some are; all_known: share of
    windows in which none is; hidden_windows: share of windows in which all addresses are hidden. trim: share of real
    flows, by whole channels that fit worst, left out of the loss after the first `warm_up` of the steps.
    burst_weight: see `loss_of`. averaging: how slowly the averaged weights follow the last ones.

    Raises: ConfigError, where a number cannot be meant.
    """

    num_flows: int = 6_000_000
    steps: int | None = None
    max_steps: int = 3_000
    epochs: int = 10
    patience: int = 6
    min_window: int = 2_000
    thinning: float = 0.2
    learning_rate: float = 3e-3
    weight_decay: float = 1.0
    prefix_dropout: float = 0.5
    all_known: float = 0.5
    hidden_windows: float = 0.15
    trim: float = 0.0
    warm_up: float = 0.3
    burst_weight: float = 0.1
    averaging: float = 0.995
    noise: NoiseConfig = field(default_factory=NoiseConfig)

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

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> TrainingConfig:
        """Read the fields back."""
        return cls(**{**fields, "noise": NoiseConfig.from_dict(fields["noise"])})


def loss_of(logit: Tensor, window: MixedWindow, *, burst_weight: float, trim: float = 0.0) -> Tensor:
    """Cross-entropy, real flows and noise weighing the same.

    Noise counts half by flow and half by burst (`burst_weight`), so that a flood of 10,000 does not outshout a
    hundred single flows. With `trim`, the channels that fit worst, up to that share of the real flows, are left
    out: training data is unlabelled, and what was planted in it should not be learned.
    """
    num = window.num_real
    real = torch.nn.functional.softplus(-logit[:num])
    weight = window.judged.to(real.dtype)
    if trim:
        weight = weight * _untrimmed(real.detach(), window, trim)
    real_loss = (real * weight).sum() / weight.sum().clamp(min=1)
    noise = torch.nn.functional.softplus(logit[num:])
    burst = torch.from_numpy(window.noise.burst).to(logit.device)
    num_bursts = len(window.noise.shape)
    size = torch.bincount(burst, minlength=num_bursts).to(noise.dtype)
    by_burst = noise.new_zeros(num_bursts).index_add_(0, burst, noise) / size.clamp(min=1)
    noise_loss = (1 - burst_weight) * noise.mean() + burst_weight * by_burst.mean()
    return (real_loss + noise_loss) / 2


def _untrimmed(real: Tensor, window: MixedWindow, trim: float) -> Tensor:
    """Return (num_real,) 0 for flows of the worst-fitting channels, up to `trim` of the flows, else 1."""
    channel = window.graph.channel[: window.num_real]
    num_channels = window.graph.num_channels
    size = torch.bincount(channel, minlength=num_channels)
    mean = real.new_zeros(num_channels).index_add_(0, channel, real) / size.clamp(min=1)
    order = torch.argsort(mean, descending=True, stable=True)
    order = order[size[order] > 0]
    cut = order[torch.cumsum(size[order], 0) <= trim * window.num_real]
    keep = torch.ones(num_channels, dtype=real.dtype, device=real.device)
    keep[cut] = 0
    return keep.index_select(0, channel)


def train(
    model: Autoencoder,
    data: TrainingData,
    config: TrainingConfig,
    max_window: int,
    *,
    seed: int,
    device: torch.device,
    progress: Callable[[Progress], None],
) -> FitSummary:
    """Train `model` in place, in windows of up to `max_window` flows, and leave it at its best held-out state.

    Stops early when the loss on held-out unlabelled flows (with noise of its own, the same each time) has not
    fallen for `patience` epochs; a KeyboardInterrupt stops it too, keeping the best state so far. Dropout draws from
    torch's global generator: see `seeded`.
    """
    rng = np.random.default_rng([seed, 1])
    num_steps = config.num_steps(max_window)
    model.to(device).train()
    optimiser = torch.optim.AdamW(
        model.parameters(),
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        fused=device.type == "cuda",
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=config.learning_rate, total_steps=num_steps, pct_start=0.15
    )
    # The average of the last steps' weights is judged and kept: single steps swing with the noise they saw.
    # After few steps it also holds a share of the first ones (averaging ** steps), and is steadier for it.
    average = torch.optim.swa_utils.AveragedModel(
        model,
        multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(config.averaging),  # type: ignore[no-untyped-call]  # torch's
    )
    rows = np.flatnonzero(~data.held_out)
    checks = _held_out_windows(data, config, max_window, seed)
    num_epochs = min(config.epochs, num_steps)
    best_loss, best_epoch, best_state = float("inf"), 0, _state(average.module)
    lowest, improved = float("inf"), 0
    begun = time.perf_counter()
    num_seen, running, step, epoch = 0, 0.0, 0, 0
    held_loss: float | None = None
    stopped: Literal["finished", "early", "interrupted"] = "finished"
    try:
        while step < num_steps:
            window = _training_window(rng, data, config, max_window, rows).to(device)
            logit = model(window.graph, window.prefix_ids)
            trim = config.trim if step >= config.warm_up * num_steps else 0.0
            loss = loss_of(logit, window, burst_weight=config.burst_weight, trim=trim)
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            average.update_parameters(model)
            step += 1
            num_seen += window.graph.num_flows
            value = float(loss.detach())
            running = value if step == 1 else 0.95 * running + 0.05 * value
            ends_epoch = step * num_epochs // num_steps > epoch
            if ends_epoch:
                epoch += 1
                held_loss = _held_out_loss(average.module, checks, config, device)
                if held_loss < lowest:
                    lowest, improved = held_loss, epoch
                if held_loss < lowest * (1 + _AS_GOOD):
                    best_loss, best_epoch, best_state = held_loss, epoch, _state(average.module)
            seconds = time.perf_counter() - begun
            progress(
                Progress(
                    epoch=epoch + (not ends_epoch),
                    num_epochs=num_epochs,
                    share=step / num_steps,
                    loss=running,
                    held_out_loss=held_loss,
                    flows_per_s=num_seen / seconds,
                    seconds_left=seconds / step * (num_steps - step),
                )
            )
            if ends_epoch and epoch - improved >= config.patience:
                stopped = "early"
                break
    except KeyboardInterrupt:
        stopped = "interrupted"
        if best_loss == float("inf"):
            best_loss, best_state = (
                _held_out_loss(average.module, checks, config, device),
                _state(average.module),
            )
    model.load_state_dict(best_state)
    model.eval()
    return FitSummary(
        num_flows=len(rows),
        num_epochs=epoch,
        best_epoch=best_epoch,
        held_out_loss=best_loss,
        seconds=time.perf_counter() - begun,
        stopped=stopped,
        reliability=_reliability(model, checks, device),
    )


def _training_window(
    rng: np.random.Generator, data: TrainingData, config: TrainingConfig, max_window: int, rows: npt.NDArray[np.int64]
) -> MixedWindow:
    few, many = min(config.min_window, max_window) ** -0.5, max_window**-0.5
    size = int(rng.uniform(many, few) ** -2)
    share = draw_share(rng, config.noise, size)
    # Never more real flows than there are; a large share of noise then simply comes with less of both.
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
    """Draw `num` rows in their order: neighbours as they are, or some of a longer run."""
    long = num if rng.random() < _WHOLE else min(int(num / rng.uniform(thinning, 1)), len(rows))
    at = int(rng.integers(0, len(rows) - long + 1))
    run = rows[at : at + long]
    return run if long == num else run[np.sort(rng.choice(long, num, replace=False))]


def _dropout(rng: np.random.Generator, config: TrainingConfig) -> float:
    """Draw the share of hosts whose addresses are cut: none in some windows, up to twice the usual in others."""
    return 0.0 if rng.random() < config.all_known else min(float(rng.uniform(0, 2 * config.prefix_dropout)), 1.0)


def _held_out_windows(
    data: TrainingData, config: TrainingConfig, max_window: int, seed: int, num: int = 6
) -> list[MixedWindow]:
    """Windows over all flows in which only the held-out ones are judged; the same at every epoch."""
    rng = np.random.default_rng([seed, 2])
    total = len(data.src)
    size = min(max_window, 50_000, total)
    windows = []
    held_out = np.flatnonzero(data.held_out)
    # Each window lies around a held-out flow: in long training data most windows elsewhere would hold none.
    for i, middle in enumerate(held_out[np.linspace(0, len(held_out) - 1, num + 2).astype(int)[1:-1]]):
        share = (0.05, 0.3, 0.8)[i % 3]
        num_real = max(int(size * (1 - share)), 1)
        at = min(max(int(middle) - num_real // 2, 0), total - num_real)
        rows = np.arange(at, at + num_real)
        windows.append(
            mix_window(
                rng,
                data,
                config.noise,
                rows,
                size - num_real + 1,
                judged=data.held_out,
                prefix_dropout=0.0,
                hidden=False,
            )
        )
    return windows


@torch.no_grad()
def _held_out_loss(
    model: torch.nn.Module, checks: list[MixedWindow], config: TrainingConfig, device: torch.device
) -> float:
    model.eval()
    losses = [
        float(loss_of(model(w.graph, w.prefix_ids), w, burst_weight=config.burst_weight))
        for w in (check.to(device) for check in checks)
    ]
    return float(np.mean(losses))


@torch.no_grad()
def _reliability(
    model: Autoencoder, checks: list[MixedWindow], device: torch.device, num_bins: int = 10
) -> tuple[tuple[float, float, int], ...]:
    """Hold P(edge) against what was real, over the held-out flows of the check windows and their noise.

    Both weigh the same, as in the loss. Returns: mean P, share that was real, and edges, of each bin that has any.
    """
    parts, weights, exists = [], [], []
    for window in (check.to(device) for check in checks):
        p = model(window.graph, window.prefix_ids).sigmoid().cpu()
        judged = window.judged.cpu()
        for part, is_real in ((p[: window.num_real][judged], 1.0), (p[window.num_real :], 0.0)):
            parts.append(part)
            weights.append(torch.full_like(part, 1 / max(len(part), 1)))
            exists.append(torch.full_like(part, is_real))
    p, weight, real = torch.cat(parts), torch.cat(weights), torch.cat(exists)
    bins = (p * num_bins).long().clamp(max=num_bins - 1)
    found = []
    for i in range(num_bins):
        here = bins == i
        total = float(weight[here].sum())
        if total:
            mean, share = float((p * weight)[here].sum()) / total, float((real * weight)[here].sum()) / total
            found.append((mean, share, int(here.sum())))
    return tuple(found)


def _state(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
