"""The parts of a model that are worth a body of their own for a machine, each beside a plain one to check it by.

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
    """What each body offers; `reference` says what it means."""

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
        """Weigh each host's flows one way by attention, and sum what they carry."""

    def decode_edges(
        self,
        base: Callable[[int, int], Tensor],
        graph: FlowGraph,
        of_flow: nn.Linear,
        last: nn.Sequential,
        num_own: int,
        num_waves: int,
    ) -> Tensor:
        """Rate flows from what their channels have in common and their own attributes."""

    def combine_ends(
        self, z: Tensor, src: Tensor, dst: Tensor, channel_src: Tensor, channel_dst: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Multiply and add what the two ends of channels have."""

    def rowwise(self, layers: Callable[..., Tensor], *parts: Tensor) -> Tensor:
        """Apply layers that take each row by itself."""


def kernels_for(x: Tensor) -> Kernels:
    """Choose the body for a tensor's precision and device, and whether gradients are wanted."""
    if x.dtype != torch.float32 or torch.is_grad_enabled():
        return reference
    return kernels_on(x.device) if x.is_cuda else cpu


@cache  # so that one warning says that there is no compiler, and not one a layer
def kernels_on(device: torch.device) -> Kernels:
    """Return `gpu` where Triton can be imported and compile, else `reference`: plain torch runs on any GPU."""
    try:
        from thalweg.model.kernels import gpu  # Triton is slow to import, and only builds of torch for GPUs bring it
    except ImportError:
        return reference
    return gpu if gpu.compiles(device) else reference
