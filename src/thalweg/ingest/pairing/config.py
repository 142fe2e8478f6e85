"""How records become biflows. Apart from the pairing, whose compiled loops the receiver need not import."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from thalweg.errors import ConfigError


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class PairingConfig:
    """How records become biflows. Without `pair` and `deduplicate`, records are emitted as they came.

    Raises ConfigError if a value is out of range.
    """

    hold_s: float = 10.0
    """How long a record waits for its partner, the other direction of its flow."""
    max_held: int = 262_144
    """How many records may wait."""
    recent: int = 262_144
    """How many emitted conversations are remembered, rounded up to a power of two."""
    duplicates_s: float = 2.0
    """How far the clocks of two observers may differ."""
    idle_s: float = 60.0
    """A record after a longer silence belongs to a new flow."""
    pair: bool = True
    """Records wait for a partner."""
    deduplicate: bool = True
    """Records that were already reported are left out."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("hold_s", "duplicates_s", "idle_s"):
            seconds = getattr(self, name)
            if not (math.isfinite(seconds) and 0 <= seconds <= 1e8):
                raise ConfigError(f"{name} is a number of seconds from 0 to 100,000,000, not {seconds}")
        for name in ("max_held", "recent"):
            num = getattr(self, name)
            if not 1 <= num <= 1 << 28:
                raise ConfigError(f"{name} is a number from 1 to {1 << 28:,}, not {num}")
