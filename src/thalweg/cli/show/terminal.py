"""Console output of the commands: text for people, JSON for programs."""

from __future__ import annotations

import json
import math
import sys
from typing import Any, Final

from rich.console import Console

# No markup: a file may be called a[b].csv. Lines of text are never wrapped: people search them.
OUT: Final = Console(markup=False, highlight=False)
ERR: Final = Console(stderr=True, markup=False, highlight=False)


def wide_out() -> Console:
    """Return standard output for wide tables; a pipe has no width and gets 200, so that names are not cut."""
    return OUT if OUT.is_terminal else Console(markup=False, highlight=False, width=200)


def print_json(value: Any) -> None:
    """Print a value as one JSON object on standard output; NaN and infinity become null."""
    sys.stdout.write(json.dumps(_finite(value), indent=2, default=str, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
