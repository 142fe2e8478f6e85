"""The training loss, and its value on fixed windows around held-out flows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from thalweg.model.autoencoder import Autoencoder
from thalweg.model.learning.mixing import MixedWindow, TrainingData, mix_window
from thalweg.model.learning.noise import NoiseConfig


def loss_of(logit: Tensor, window: MixedWindow, *, burst_weight: float, trim: float = 0.0) -> Tensor:
    """Return the cross-entropy; real flows and noise have equal weight.

    `burst_weight` is the share of the noise's weight that is divided equally among bursts, the rest among flows, so
    that a flood of 10,000 does not outweigh a hundred single flows. With `trim`, the worst-fitting channels, up to that
    share of the real flows, are left out: training data is unlabelled, and attacks in it should not be learned.
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
    """Return (num_real,): 0 for flows of the worst-fitting channels, up to a share `trim` of the flows, else 1."""
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


def held_out_windows(
    data: TrainingData, noise: NoiseConfig, max_window: int, seed: int, num: int = 6
) -> list[MixedWindow]:
    """Return validation windows over all flows, in which only held-out flows count; the same at every epoch."""
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
                noise,
                rows,
                size - num_real + 1,
                judged=data.held_out,
                prefix_dropout=0.0,
                hidden=False,
            )
        )
    return windows


@torch.no_grad()
def held_out_loss(
    model: torch.nn.Module, checks: Sequence[MixedWindow], burst_weight: float, device: torch.device
) -> float:
    """Return the mean loss over the windows, without dropout."""
    model.eval()
    losses = [
        float(loss_of(model(w.graph, w.prefix_ids), w, burst_weight=burst_weight))
        for w in (check.to(device) for check in checks)
    ]
    return float(np.mean(losses))


@torch.no_grad()
def reliability(
    model: Autoencoder, checks: Sequence[MixedWindow], device: torch.device, num_bins: int = 10
) -> tuple[tuple[float, float, int], ...]:
    """Compare P(edge) with the share that is real, over the held-out flows and the noise of the validation windows.

    Both have equal weight, as in the loss. Returns, for each bin that has edges: mean P, the share that is real, and
    how many edges.
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
