"""The names of who reports, as numbers that records can carry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import numpy as np
import numpy.typing as npt


@final
class Names:
    """Numbers for the names of who reports, one for each address and domain, so that records can carry them.

    texts: by number. No more than `most`: then the oldest number that no exporter has any more means another one.
    taken: gives the numbers that exporters have.
    """

    def __init__(self, most: int, taken: Callable[[], npt.NDArray[np.uint32]]) -> None:
        self.most = most
        self._taken = taken
        self.texts: list[str] = []
        self._numbers: dict[tuple[str, int], int] = {}
        self._keys: list[tuple[str, int]] = []
        self._next = 0

    def number(self, text: str, domain: int = 0) -> int:
        """Return the number of a name, a new one where it has none."""
        found = self._numbers.get((text, domain))
        if found is not None:
            return found
        if len(self.texts) < self.most:
            at = len(self.texts)
            self.texts.append(text)
            self._keys.append((text, domain))
        else:
            at = self._next
            taken = self._taken()
            while (taken == at).any():
                at = (at + 1) % self.most
            self._next = (at + 1) % self.most
            del self._numbers[self._keys[at]]
            self.texts[at], self._keys[at] = text, (text, domain)
        self._numbers[text, domain] = at
        return at

    def state(self) -> list[Any]:
        """Return it as JSON values."""
        return [self._next, [list(key) for key in self._keys]]

    def restore(self, state: list[Any]) -> None:
        """Go on from what `state` gave."""
        self._next, keys = state
        self._keys = [(text, domain) for text, domain in keys]
        self.texts[:] = [text for text, _ in self._keys]
        self._numbers = {key: i for i, key in enumerate(self._keys)}
