"""Progress of the speed benchmarks, and the names of their sides. Light to import."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, final

REFERENCE: Final = "reference"
PUBLISHED: Final = "published"
THALWEG: Final = "thalweg"
SIDE_WORDS: Final[Mapping[str, str]] = {
    REFERENCE: "published network, PyTorch Geometric",
    PUBLISHED: "published preset, Thalweg's scoring",
    THALWEG: "default model",
}
"""The sides of the throughput benchmark, in the order of tables, with their descriptions."""


def failure_in_words(side: Mapping[str, Any]) -> str | None:
    """Say why a side has no speed; None if it has one. side: from the results of a case."""
    limit: float | None = side["memory_limit_mb"]
    return side["failed"] if side["failed"] is None or limit is None else f"{side['failed']} at {limit / 1000:.1f} GB"


@final
@dataclass(frozen=True, slots=True)
class StepProgress:
    """Progress of a benchmark: steps done and in total, the step that starts now, and seconds left, if known."""

    done: int
    total: int
    now: str
    seconds_left: float | None


Report: TypeAlias = Callable[[StepProgress], None]
