"""Compile all kernels for a GPU that need not be there: python -m tests.model.kernels.compile_for_gpu 80.

Its argument is the compute capability, without a point. Prints the kernels' names. Nothing is launched.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn

import thalweg.cli  # noqa: F401  # what must not import Triton
from tests.model.kernels.checks import random_graph


class NoGpu:
    """What Triton asks a driver when it compiles."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", int(sys.argv[1]), 32)


def main() -> None:
    assert "triton" not in sys.modules, "import thalweg, and its commands, do without"
    from triton.runtime import JITFunction, driver

    from thalweg.model.kernels import gpu

    driver.set_active(NoGpu())
    launch = JITFunction.run
    names = set()

    def compile_only(function: Any, *arguments: Any, **more: Any) -> None:
        names.add(function.fn.__name__)
        compiled = launch(function, *arguments, **{**more, "warmup": True})
        assert compiled.asm["cubin"]

    JITFunction.run = compile_only
    graph, width = random_graph(0, 20, 40, 200), 64
    num_attributes = graph.edge_attr.shape[1]
    with torch.inference_mode():
        hosts = (torch.zeros(20, 32), torch.zeros(20, 32), torch.zeros(20, width))
        gpu.attend(*hosts, torch.zeros(num_attributes, 32), torch.zeros(2, 16), graph, incoming=True, bound=30.0)
        last = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))
        of_flow = nn.Linear(num_attributes + 2 * 3 * 5, width)
        gpu.decode_edges(lambda begin, end: torch.zeros(end - begin, width), graph, of_flow, last, 3, 5)
    print(*sorted(names))


if __name__ == "__main__":
    main()
