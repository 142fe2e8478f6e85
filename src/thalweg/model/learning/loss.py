"""What a training minimises."""

from __future__ import annotations

import torch
from torch import Tensor

from thalweg.model.learning.mixing import MixedWindow


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
