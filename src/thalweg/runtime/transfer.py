"""A window on its way to the device, while the device still computes the window before."""

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
    """Tensors on a device, or on their way there.

    They must be held until whatever was computed from them is done, as with a result that is back on the CPU: the
    next copy aside may be given their memory, and does not wait for what is computed.
    """

    value: T
    copied: torch.cuda.Event | None = None

    def arrived(self) -> T:
        """Return the tensors for use on the current stream, which waits for the copy if there is one."""
        if self.copied is not None:
            torch.cuda.current_stream().wait_event(self.copied)
        return self.value


def send(copy: Callable[[], T], device: torch.device) -> Sent[T]:
    """Copy tensors to a device: to a GPU on a stream aside, so that nothing that it computes waits for the copy.

    copy: makes the copies on the current stream; the caller does not wait for them where their memory is pinned.
    """
    if device.type != "cuda":
        return Sent(copy())
    with torch.cuda.stream(_aside(device)):
        value = copy()
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's
        copied.record()
    return Sent(value, copied)


@cache  # one a device: each stream has memory of its own
def _aside(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's
