"""Where the commands write: to a person on the terminal, to a machine as JSON."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from rich.console import Console

# No markup: a file may be called a[b].csv. Lines of text are never wrapped: people search them.
OUT: Final = Console(markup=False, highlight=False)
ERR: Final = Console(stderr=True, markup=False, highlight=False)


@contextmanager
def counting_down(console: Console, verb: str, seconds: float) -> Iterator[Callable[[int], None]]:
    """Show how long something still takes, on a terminal; nothing elsewhere. What is given is told of datagrams."""
    if not console.is_terminal:
        yield lambda _: None
        return
    until = time.monotonic() + seconds
    with console.status(verb) as line:
        yield lambda num: line.update(f"{verb} for {max(until - time.monotonic(), 0):.0f} s more: {num:,} datagrams")


def print_json(value: Any) -> None:
    """Print a value as one JSON object on standard output; a number that JSON has no word for is null."""
    sys.stdout.write(json.dumps(_finite(value), indent=2, default=str, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
