"""Torch's devices: which one computes, copies to it, and its random numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Final, Generic, Literal, TypeVar, final

import torch
from torch import Tensor

from thalweg.errors import ConfigError

Device = Literal["auto", "cpu", "cuda"]
T = TypeVar("T")

_CPU: Final = torch.device("cpu")


def pick_device(device: Device) -> torch.device:
    """Resolve `auto` to a GPU if there is one.

    Raises ConfigError if `cuda` is asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("no CUDA device here: use --device cpu, or install a CUDA build of torch")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on another device; a copy to a GPU uses pinned memory, so that only its stream waits."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Sent(Generic[T]):
    """Tensors on a device, or being copied there while it still computes the window before.

    Keep them until everything computed from them is done, for example until a result is back on the CPU. The next copy
    does not wait for computations, and may reuse the memory of released tensors.
    """

    value: T
    copied: torch.cuda.Event | None = None

    def arrived(self) -> T:
        """Return the tensors for use on the current stream, which waits for the copy if there is one."""
        if self.copied is not None:
            torch.cuda.current_stream().wait_event(self.copied)
        return self.value


def send(copy: Callable[[], T], device: torch.device) -> Sent[T]:
    """Copy tensors to a device; to a GPU on a stream of its own, so that no computation waits for the copy.

    copy: makes the copies on the current stream; the caller does not wait for them if their memory is pinned.
    """
    if device.type != "cuda":
        return Sent(copy())
    with torch.cuda.stream(_aside(device)):
        value = copy()
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's
        copied.record()
    return Sent(value, copied)


@cache  # one per device, since each stream has a memory pool of its own
def _aside(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's


@contextmanager
def seeded(seed: int, device: torch.device = _CPU) -> Iterator[None]:
    """Seed torch's generators on the CPU and on `device`, and restore them after the block.

    Weights and dropout accept no generator of their own.
    """
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every GPU, too
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        yield
