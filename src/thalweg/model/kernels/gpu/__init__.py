"""The kernels in Triton, for scoring on a GPU. Names, signatures and meaning are those of `reference`.

In float32, without gradients; products are not rounded to fewer digits (no TF32).
Nothing is added up in an order that could change: on one GPU the same flows get the same sums, to the last bit.
Importing this needs Triton, which torch's builds for GPUs bring; `kernels_on` imports it when it gets a GPU.
"""

from __future__ import annotations

import warnings

import torch

from thalweg.model.kernels.gpu.attention import add_up, attend
from thalweg.model.kernels.gpu.edges import decode_edges
from thalweg.model.kernels.reference import combine_ends, rowwise

__all__ = ["attend", "combine_ends", "compiles", "decode_edges", "rowwise"]


def compiles(device: torch.device) -> bool:
    """Return whether kernels compile here: Triton needs a C compiler, Python's headers and a GPU that it knows."""
    one, start = torch.ones(1, 1, device=device), torch.tensor([0, 1], device=device)
    try:
        add_up(one, start)
    except Exception as error:  # any error of a compiler, a driver or Triton: plain torch needs none of them
        warnings.warn(
            f"Triton cannot compile for {device}, so plain torch computes there, more slowly: {error}. "
            "It needs a C compiler (gcc) and Python's headers (python3-dev).",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True
