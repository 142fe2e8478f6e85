"""How tables are read. The receiver holds these, too: nothing large is imported unless a name is to be checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from thalweg.errors import ConfigError


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ReadOptions:
    """How tables are read.

    Raises ConfigError if a dialect or column is unknown, or a number is out of range.
    """

    dialect: str | None = None
    """Whose columns these are, a key of DIALECTS; recognised if not given."""
    mapping: Mapping[str, str] = field(default_factory=dict)
    """The source's column for a declared one."""
    strict: bool = False
    """Stop at the first malformed row instead of counting it."""
    keep_wrapped: bool = False
    """Keep NF-* durations that a 32-bit counter wrapped; else they are read as 0."""
    chunk_rows: int = 200_000
    """The largest number of rows in a run of flows."""

    def __post_init__(self) -> None:
        """Check the names and the size."""
        if self.chunk_rows < 1:
            raise ConfigError(f"chunk_rows is at least 1, not {self.chunk_rows}")
        if self.dialect is None and not self.mapping:
            return
        from thalweg.ingest.tabular.dialects.recognition import MAPPABLE, known

        if self.dialect is not None:
            known(self.dialect)
        if unknown := [name for name in self.mapping if name not in MAPPABLE]:
            raise ConfigError(
                f"--map {unknown[0]}={self.mapping[unknown[0]]}: no declared column has that name; "
                f"the declared ones are {', '.join(MAPPABLE)}"
            )
