"""Counts of what was dropped, changed or doubted, under names a person can look up (docs/formats.md)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, final

MEANINGS: Final[dict[str, str]] = {
    "malformed_rows": "rows left out: a needed field is missing, negative or not a number",
    "wrapped_durations": "durations above 4,290,000 ms read as 0: a 32-bit counter that ran below zero",
    "unset_as_zero": "rows whose unset duration or bytes were read as 0",
    "unreadable_values": "values of other columns that did not fit the column's type, read as empty",
    "undecodable_text": "characters that are not UTF-8, read as the sign \ufffd",
    "late_columns": "columns first seen deep inside a JSON-lines file, left out of the result",
    "empty_files": "files without any flow, passed over because others had flows",
    "unlabelled_flows": "flows whose label is missing or unreadable, left out of the judging",
    "late_flows": "flows older than the window they arrived in",
    "renamed_columns": "input columns renamed because the result has a column of that name",
}
"""Every name a count can have, and what it means. A new count is added here first."""


@final
class Tally:
    """Named counts with the first place each was seen."""

    __slots__ = ("_counts", "_first")

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._first: dict[str, str] = {}

    def add(self, name: str, num: int = 1, first: str = "") -> None:
        """Count `num` more under `name`; `first` says where the first of them is."""
        if name not in MEANINGS:
            raise KeyError(f"no count named {name!r}: add it to MEANINGS")
        if num <= 0:
            return
        self._counts[name] = self._counts.get(name, 0) + num
        if first:
            self._first.setdefault(name, first)

    def merge(self, other: Tally) -> None:
        """Add all of `other`'s counts to these."""
        for name, num in other:
            self.add(name, num, other._first.get(name, ""))

    def __getitem__(self, name: str) -> int:
        return self._counts.get(name, 0)

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return iter(self._counts.items())

    def __bool__(self) -> bool:
        return bool(self._counts)

    def as_dict(self) -> dict[str, int]:
        """Return the counts by name, for machines."""
        return dict(self._counts)

    def lines(self) -> list[str]:
        """Return one sentence per count, for people."""
        return [
            f"{num:,} {MEANINGS[name]}" + (f" (first: {self._first[name]})" if name in self._first else "")
            for name, num in self
        ]
