"""The machine that is measured on: its description, the memory that a process takes, and a limit on it."""

from __future__ import annotations

import os
import platform
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import polars as pl
import torch

from thalweg import __version__
from thalweg.runtime.memory import give_back

_STATUS: Final = Path("/proc/self/status")
_CLEAR: Final = Path("/proc/self/clear_refs")
_RESET_PEAK: Final = "5"  # proc(5), clear_refs
_MEMORY: Final = Path("/proc/meminfo")
_CPU: Final = Path("/proc/cpuinfo")

OUT_OF_MEMORY: Final = "out of memory"


def describe_machine() -> dict[str, Any]:
    """Return what measurements depend on: CPU, cores, threads, memory, versions, and the GPU if there is one."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": _cpu_name(),
        "cores": usable_cores(),
        "torch_threads": torch.get_num_threads(),
        "polars_threads": pl.thread_pool_size(),
        "memory_gb": round(_memory("MemTotal") / 1e9, 1),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "gpu": gpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "polars": pl.__version__,
        "thalweg": __version__,
        "system": f"{platform.system()} {platform.release()}",
    }


def machine_in_words(machine: dict[str, Any]) -> str:
    """Describe the machine on one line."""
    load = machine["load_before"]
    busy = "" if load is None or load < 0.5 else f"; busy before it began (load {load})"
    gpu = f", {machine['gpu']}" if machine["gpu"] else ", no GPU"
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB{gpu}; torch {machine['torch']} with "
        f"{machine['torch_threads']} threads, Polars {machine['polars']} with {machine['polars_threads']}{busy}"
    )


def usable_cores() -> int:
    """Return how many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_name() -> str:
    try:
        for line in _CPU.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


def _memory(name: str) -> int:
    """Return a field of /proc/meminfo in bytes; 0 if there is none."""
    try:
        for line in _MEMORY.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    except OSError:  # not Linux
        pass
    return 0


def free_memory() -> int:
    """Return how many bytes processes can still take before the machine swaps or kills; 0 if not known."""
    return _memory("MemAvailable")


def peak_memory_mb() -> float:
    """Return the largest resident memory of this process so far, or since `reset_peak`, in MB (10^6 bytes)."""
    try:
        # getrusage reports the peak of the parent process if that was larger.
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:  # not Linux
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def reset_peak() -> bool:
    """Give freed memory back to the system and reset the peak; return False if the system cannot reset it."""
    give_back()
    try:
        _CLEAR.write_text(_RESET_PEAK)
    except OSError:  # not Linux, or not allowed
        return False
    return True


def limit_memory(num_bytes: int) -> None:
    """Make allocations of this process fail above an amount of address space, instead of starving the machine.

    The limit is `num_bytes` above what is mapped already. No effect if the system has no such limit.
    """
    try:
        lines = _STATUS.read_text().splitlines()
        mapped = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmSize:"))
        resource.setrlimit(resource.RLIMIT_AS, (mapped + num_bytes, resource.getrlimit(resource.RLIMIT_AS)[1]))
    except (OSError, StopIteration, ValueError):
        pass


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn the errors with which libraries report that memory is exhausted into MemoryError."""
    try:
        yield
    except MemoryError:
        raise
    except RuntimeError as error:
        # torch's CPU allocator, its CUDA allocator, C++ itself, and Python, whose threads need room for their stacks.
        said = str(error)
        words = ("can't allocate memory", "out of memory", "bad_alloc", "bad allocation", "can't start new thread")
        if any(one in said for one in words):
            raise MemoryError(said.splitlines()[0]) from error
        raise
