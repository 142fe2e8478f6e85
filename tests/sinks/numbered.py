"""What the tests of sinks give and read: windows of numbered flows, and the numbers in a file of lines."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import polars as pl

from thalweg.sinks.sink import ScoredWindow

NOON_US: Final = int(datetime(2026, 11, 25, 14, 0, tzinfo=UTC).timestamp()) * 1_000_000


def window(number: int, rows: range | None = None, *, time_us: int = NOON_US) -> ScoredWindow:
    """A window of ten flows, by their numbers."""
    rows = range(10 * number, 10 * number + 10) if rows is None else rows
    return ScoredWindow(
        number, time_us, pl.DataFrame({"row": pl.Series(rows, dtype=pl.UInt64), "score": [0.5] * len(rows)})
    )


def rows_in(path: Path) -> list[int]:
    content = path.read_bytes()
    assert content.endswith(b"\n") or not content
    return [json.loads(line)["row"] for line in content.splitlines()]


class Killed(Exception):  # noqa: N818 - what happens to a process, and no error
    """Stands for a kill: nothing after it is done."""
