"""Copies a window to a device while the device still computes the window before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Generic, TypeVar, final

import torch

T = TypeVar("T")


@final
@dataclass(frozen=True, slots=True, eq=False)
class Sent(Generic[T]):
    """Tensors on a device, or being copied there.

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
