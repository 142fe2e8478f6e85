"""How a training is judged: windows around held-out flows, with noise of their own, the same each time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from thalweg.model.autoencoder import Autoencoder
from thalweg.model.learning.loss import loss_of
from thalweg.model.learning.mixing import MixedWindow, TrainingData, mix_window
from thalweg.model.learning.noise import NoiseConfig


def held_out_windows(
    data: TrainingData, noise: NoiseConfig, max_window: int, seed: int, num: int = 6
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
