"""Console output of the commands: text for people, JSON for programs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from typing import Any, Final, final

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from thalweg.runtime.terminal import printable

_LAYOUT: Final = "\n\t"


@final
class Terminal(Console):
    """A console that escapes what flows, labels and file names could do to a terminal, whatever prints them.

    No markup and no emoji: a file may be called a[b].csv, and 2001:db8:100:1:: is an address. Lines of text are never
    wrapped: people search them.
    """

    def __init__(self, *, stderr: bool = False, width: int | None = None) -> None:
        super().__init__(stderr=stderr, width=width, markup=False, highlight=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Turn text into what Rich lays out; escaped before, so that widths are right."""
        return super().render_str(printable(text, _LAYOUT), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Yield the pieces that are written. What was not laid out from plain text is escaped here."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text, _LAYOUT))


OUT: Final = Terminal()
ERR: Final = Terminal(stderr=True)


def wide_out() -> Terminal:
    """Return standard output for wide tables; a pipe has no width and gets 200, so that names are not cut."""
    return OUT if OUT.is_terminal else Terminal(width=200)


def print_json(value: Any) -> None:
    """Print a value as one JSON object on standard output; NaN and infinity become null."""
    sys.stdout.write(json.dumps(_finite(value), indent=2, default=str, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
