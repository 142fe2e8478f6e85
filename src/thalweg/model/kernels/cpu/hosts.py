"""Layers that are applied host by host, on a CPU in runs of hosts that stay in the cache. Shapes: N hosts, D width."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from thalweg.model.kernels.cpu.edges import RUN
from thalweg.runtime import buffers
from thalweg.runtime.parallel import even_ranges, parallel_map


def rowwise(layers: Callable[..., Tensor], *parts: Tensor) -> Tensor:
    """Apply layers that map each row independently; see `reference.rowwise`.

    What lies between the layers is never held for all rows, and comes from the cache.
    """
    num = len(parts[0])
    if num <= RUN:
        return layers(*parts)
    nothing = layers(*(part[:0] for part in parts))
    made = buffers.tensor(num, nothing.shape[1], dtype=nothing.dtype)

    def run(begin: int, end: int) -> None:
        with torch.inference_mode():
            made[begin:end] = layers(*(part[begin:end] for part in parts))

    parallel_map(run, even_ranges(num, RUN))
    return made
