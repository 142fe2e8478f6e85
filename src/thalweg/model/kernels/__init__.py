"""The model's expensive functions, implemented per machine, and a plain implementation to check them against.

`reference` is the one to read: plain torch, in any precision, on any device, with gradients. `cpu` is for scoring on a
CPU, `gpu` for scoring on a GPU if Triton is there, both in float32. All have the same names and signatures.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Protocol

import torch
from torch import Tensor, nn

from thalweg.graph import FlowGraph
from thalweg.model.kernels import cpu, reference


class Kernels(Protocol):
    """The functions of each implementation; `reference` documents them."""

    def attend(
        self,
        peer: Tensor,
        target: Tensor,
        value: Tensor,
        key_attr: Tensor,
        weigh: Tensor,
        graph: FlowGraph,
        *,
        incoming: bool,
        bound: float,
        slope: float = 0.2,
    ) -> tuple[Tensor, Tensor]:
        """Weigh each host's flows in one direction by attention, and sum their values and attributes."""

    def decode_edges(
        self,
        base: Callable[[int, int], Tensor],
        graph: FlowGraph,
        of_flow: nn.Linear,
        last: nn.Sequential,
        num_own: int,
        num_waves: int,
    ) -> Tensor:
        """Rate flows from the rows of their channels and their own attributes."""

    def combine_ends(
        self, z: Tensor, src: Tensor, dst: Tensor, channel_src: Tensor, channel_dst: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the product and the sum of the rows of each channel's ends."""

    def rowwise(self, layers: Callable[..., Tensor], *parts: Tensor) -> Tensor:
        """Apply layers that map each row independently."""


def kernels_for(x: Tensor) -> Kernels:
    """Choose the implementation by a tensor's precision and device, and by whether gradients are recorded."""
    if x.dtype != torch.float32 or torch.is_grad_enabled():
        return reference
    return kernels_on(x.device) if x.is_cuda else cpu


@cache  # so that a missing compiler is warned of once, not once per layer
def kernels_on(device: torch.device) -> Kernels:
    """Return `gpu` if Triton can be imported and can compile, else `reference`: plain torch runs on any GPU."""
    try:
        from thalweg.model.kernels import gpu  # Triton is slow to import, and only builds of torch for GPUs bring it
    except ImportError:
        return reference
    return gpu if gpu.compiles(device) else reference
