"""Layers that are applied host by host, on a CPU in runs of hosts that stay in the cache. Shapes: N hosts, D width."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from thalweg.loops import buffer, share_out
from thalweg.model.kernels import reference
from thalweg.model.kernels.cpu_tail import RUN


def by_rows(layers: Callable[[Tensor], Tensor], parts: Sequence[Tensor]) -> Tensor:
    """Apply layers to rows put together from parts; see `reference.by_rows`.

    What lies between the layers is never held for all rows, and comes from the cache.
    """
    num = len(parts[0])
    first = reference.by_rows(layers, [part[:RUN] for part in parts])
    if num <= RUN:
        return first
    made = buffer(num, first.shape[1], dtype=first.dtype)
    made[:RUN] = first

    def runs(begin: int, end: int) -> None:
        with torch.inference_mode():
            for i in range(begin + 1, end + 1):
                run = slice(i * RUN, (i + 1) * RUN)
                made[run] = reference.by_rows(layers, [part[run] for part in parts])

    share_out(runs, -(-num // RUN) - 1, least=1)
    return made
