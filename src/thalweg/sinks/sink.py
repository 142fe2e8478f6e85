"""The sink protocol: a sink receives scored flows one window at a time, each window once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, final, runtime_checkable

if TYPE_CHECKING:
    import polars as pl  # the receiver only checks that sinks can be opened, and stays small without it

State: TypeAlias = Mapping[str, Any]
"""What a sink needs to continue after its last window: JSON values that only the sink interprets."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class ScoredWindow:
    """A window of scored flows, as sinks receive it.

    number: counts from 0 and is unique within a spool; spool: the spool's name. time_us: when the window was full, in
    us since 1970.
    """

    number: int
    time_us: int
    frame: pl.DataFrame
    spool: str = "window"


@runtime_checkable
class Sink(Protocol):
    """Receives scored windows. Nothing is opened before `open`.

    If the program is killed during `write`, the window is written again after the restart; the sink then holds it once.
    """

    def open(self, state: State | None) -> State:
        """Start, or continue after the window whose `write` returned this state.

        Returns the state to reopen the sink with if the next `write` does not finish. Raises SinkError if nothing can
        be written there.
        """
        ...

    def write(self, window: ScoredWindow) -> State:
        """Write a window, which is kept once this returns.

        Raises SinkError if nothing can be written now; the window can then be written again. Any other error means that
        its content cannot be written: the window is set aside.
        """
        ...

    def close(self) -> None:
        """Release files and connections."""
        ...
