"""What a sink is: it takes scored flows a window at a time, each window once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, final, runtime_checkable

if TYPE_CHECKING:
    import polars as pl  # the receiver only checks that sinks can be opened, and stays small without it

State: TypeAlias = Mapping[str, Any]
"""What a sink needs to go on after its last window: JSON values, of the sink's own making."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class ScoredWindow:
    """A window of scored flows, as sinks take it.

    number: counts from 0 and is unique within a spool; spool: the spool's name. time_us: when the window was full, in
    us since 1970.
    """

    number: int
    time_us: int
    frame: pl.DataFrame
    spool: str = "window"


@runtime_checkable
class Sink(Protocol):
    """Takes scored windows. Nothing is opened before `open`.

    A window whose `write` may not have ended before a kill is written again, and is then there once.
    """

    def open(self, state: State | None) -> State:
        """Begin, or go on after the window whose `write` returned this state.

        Returns the state to open it with if the next window's `write` does not end. Raises SinkError if nothing can be
        written there.
        """
        ...

    def write(self, window: ScoredWindow) -> State:
        """Take a window, which is kept once this returns. Raises SinkError; the window can be written again then."""
        ...

    def close(self) -> None:
        """Release files and connections."""
        ...
