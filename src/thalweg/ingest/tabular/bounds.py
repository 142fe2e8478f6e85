"""Bounds the memory that a table can take, however few bytes of a file it comes from."""

from __future__ import annotations

from typing import Final, final

import polars as pl

from thalweg.errors import SourceError

UNREADABLE: Final = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
"""What Polars raises for values that it cannot read; a panic is no `Exception`."""

ROW_BYTES: Final = 1 << 14
HEAD_BYTES: Final = 1 << 28
"""The rows of a table take at most so much each, on average over any of them, and so much more in all."""
EXPANDED_BYTES: Final = 1 << 29
EXPANSION: Final = 64
"""Compressed data that expands to more than this, and to more than so many times its size, is refused."""


@final
class RowBytes:
    """Adds up what the rows of one table take in memory; long rows are let through as long as most others are short."""

    def __init__(self, subject: str) -> None:
        self._subject = subject
        self._num_rows = self._excess = 0

    def add(self, num_rows: int, num_bytes: int) -> None:
        """Add rows. Raises SourceError if they, or those before them, take too much."""
        self._excess = max(self._excess + num_bytes - num_rows * ROW_BYTES, 0)
        if self._excess > HEAD_BYTES:
            raise SourceError(
                f"{self._subject}, after {self._num_rows:,} rows: the next {num_rows:,} take {num_bytes / 1e6:,.0f} MB "
                "of memory, more than flows can need: leave out the columns with long values"
            )
        self._num_rows += num_rows


def check_expansion(packed: int, unpacked: int, subject: str) -> None:
    """Check what compressed data expands to. packed, unpacked: bytes. Raises ValueError if that is far too much."""
    if unpacked > EXPANDED_BYTES and unpacked > EXPANSION * packed:
        raise ValueError(f"{packed:,} bytes of {subject} expand to {unpacked / 1e6:,.0f} MB")
