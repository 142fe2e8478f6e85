"""Exporter names as small integers that fit in a record."""

from __future__ import annotations

from collections.abc import Container
from typing import Any, final


@final
class Names:
    """Interns exporter names as small integers that fit in a record, one for each address and domain.

    texts: the names by number. capacity: the largest number of names; beyond it, the oldest number that no exporter
    uses any more is reused. in_use: the numbers that exporters use.
    """

    def __init__(self, capacity: int, in_use: Container[int]) -> None:
        self.capacity = capacity
        self._in_use = in_use
        self.texts: list[str] = []
        self._numbers: dict[tuple[str, int], int] = {}
        self._keys: list[tuple[str, int]] = []
        self._next = 0

    def number(self, text: str, domain: int = 0) -> int:
        """Return the number of a name; a new name gets a new number."""
        found = self._numbers.get((text, domain))
        if found is not None:
            return found
        if len(self.texts) < self.capacity:
            at = len(self.texts)
            self.texts.append(text)
            self._keys.append((text, domain))
        else:
            at = self._next
            while at in self._in_use:
                at = (at + 1) % self.capacity
            self._next = (at + 1) % self.capacity
            del self._numbers[self._keys[at]]
            self.texts[at], self._keys[at] = text, (text, domain)
        self._numbers[text, domain] = at
        return at

    def state(self) -> list[Any]:
        """Return the names as JSON values, for `restore`."""
        return [self._next, [list(key) for key in self._keys]]

    def restore(self, state: list[Any]) -> None:
        """Continue from a saved `state`."""
        self._next, keys = state
        self._keys = [(text, domain) for text, domain in keys]
        self.texts[:] = [text for text, _ in self._keys]
        self._numbers = {key: i for i, key in enumerate(self._keys)}
