"""Data sets that arrived before their template: held for a limited time and size, and counted when dropped."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Any, Final, NamedTuple, final

import numpy as np
import numpy.typing as npt

from thalweg.ingest.netflow.datagrams import HEADER, SET

Key = tuple[int, int]
"""An exporter's row and a set's id."""
_SHARE: Final = 16
"""One exporter may hold a 16th of all bytes..."""
_MIN_SHARE: Final = 64 << 10
"""...but at least this many."""
_SWEEP_US: Final = 1_000_000
"""The shortest time between two sweeps for expired sets, microseconds by arrival."""


class _Set(NamedTuple):
    arrival_us: int
    content: bytes
    header: bytes


@final
class Held:
    """Held sets by exporter's row and set id, at most `max_bytes` in all and a share of it for one exporter.

    hold_us: how long a set is held. on_drop: called with the exporter's row and the number of sets dropped.
    """

    def __init__(self, max_bytes: int, hold_us: int, on_drop: Callable[[int, int], None]) -> None:
        self.max_bytes = max_bytes
        self._hold_us = hold_us
        self._on_drop = on_drop
        self._sets: dict[int, dict[int, list[_Set]]] = {}
        """by row, then by id"""
        self._num_bytes = 0
        self._bytes_of: dict[int, int] = {}
        """by row"""
        self._share = max(max_bytes // _SHARE, _MIN_SHARE)
        self._swept_us = -1 << 62

    def __len__(self) -> int:
        return sum(len(sets) for of in self._sets.values() for sets in of.values())

    @property
    def num_bytes(self) -> int:
        """Bytes of all held sets and their headers."""
        return self._num_bytes

    def num_with_room(self, row: int, lengths: npt.NDArray[np.int64]) -> int:
        """Return how many sets of an exporter, of these lengths and in this order, there is room for."""
        room = min(self.max_bytes - self._num_bytes, self._share - self._bytes_of.get(row, 0))
        return int(np.searchsorted(np.cumsum(lengths + HEADER.itemsize), room, side="right"))

    def add(self, key: Key, content: bytes, header: npt.NDArray[np.void]) -> bool:
        """Hold a set, and return whether there was room for it."""
        size = len(content) + HEADER.itemsize
        if self._num_bytes + size > self.max_bytes or self._bytes_of.get(key[0], 0) + size > self._share:
            return False
        one = _Set(int(header["arrival_us"]), content, header.tobytes())
        self._sets.setdefault(key[0], {}).setdefault(key[1], []).append(one)
        self._count_bytes(key[0], size)
        return True

    def has(self, key: Key) -> bool:
        """Return whether sets of one id are held."""
        return key[1] in self._sets.get(key[0], ())

    def take(
        self, key: Key, version: int, now_us: int
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.void], npt.NDArray[np.void]]:
        """Remove the sets of one id, drop those that have expired, and return the rest.

        Returns: (B,) uint8, their bytes; (S,) of HEADER; (S,) of SET.
        """
        self._drop_old(key, now_us)
        kept = self._pop(key)
        sets = np.zeros(len(kept), SET)
        at = 0
        for i, one in enumerate(kept):
            sets[i] = (i, key[1], version, at, at + len(one.content))
            at += len(one.content)
        buffer = np.frombuffer(b"".join(one.content for one in kept), np.uint8)
        headers = np.frombuffer(b"".join(one.header for one in kept), HEADER).copy()
        headers["exporter"], headers["num_records"] = key[0], 0
        return buffer, headers, sets

    def sweep(self, now_us: int) -> None:
        """Drop expired sets."""
        if self._sets and not self._swept_us <= now_us < self._swept_us + _SWEEP_US:
            self._swept_us = now_us
            for key in [(row, id_) for row, of in self._sets.items() for id_ in of]:
                self._drop_old(key, now_us)

    def drop_row(self, row: int) -> None:
        """Drop all sets of an exporter that was evicted."""
        for id_ in list(self._sets.get(row, ())):
            self._on_drop(row, len(self._pop((row, id_))))

    def _drop_old(self, key: Key, now_us: int) -> None:
        sets = self._sets.get(key[0], {}).get(key[1])
        if not sets or sets[0].arrival_us >= now_us - self._hold_us:
            return
        young = [one for one in self._pop(key) if one.arrival_us >= now_us - self._hold_us]
        self._on_drop(key[0], len(sets) - len(young))
        if young:
            self._sets.setdefault(key[0], {})[key[1]] = young
            self._count_bytes(key[0], sum(len(one.content) + HEADER.itemsize for one in young))

    def _pop(self, key: Key) -> list[_Set]:
        row, id_ = key
        of = self._sets.get(row, {})
        popped = of.pop(id_, [])
        if not of:
            self._sets.pop(row, None)
        self._count_bytes(row, -sum(len(one.content) + HEADER.itemsize for one in popped))
        return popped

    def _count_bytes(self, row: int, more: int) -> None:
        self._num_bytes += more
        self._bytes_of[row] = self._bytes_of.get(row, 0) + more
        if not self._bytes_of[row]:
            del self._bytes_of[row]

    def state(self) -> list[list[Any]]:
        """Return the held sets as JSON values, for `restore`."""
        return [
            [row, id_, b64encode(one.content).decode(), b64encode(one.header).decode()]
            for row, of in self._sets.items()
            for id_, sets in of.items()
            for one in sets
        ]

    def restore(self, state: list[list[Any]]) -> None:
        """Continue from a saved `state`; drop sets whose header another version of the program wrote differently."""
        self._sets, self._num_bytes, self._bytes_of = {}, 0, {}
        for row, id_, content, header in state:
            raw = b64decode(header)
            if len(raw) != HEADER.itemsize or not self.add(
                (row, id_), b64decode(content), np.frombuffer(raw, HEADER)[0]
            ):
                self._on_drop(row, 1)
