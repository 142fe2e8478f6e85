"""Data sets that came before their template: kept for a while, within a bound, and counted when they are given up."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Any, Final, NamedTuple, final

import numpy as np
import numpy.typing as npt

from thalweg.ingest.netflow.datagrams import HEADER, SET

Key = tuple[int, int]
"""A row of the exporters, and a set's id."""
_SHARE: Final = 16
"""No exporter may have more than this part of all bytes that are held..."""
_LEAST_SHARE: Final = 64 << 10
"""...or this many bytes, where that part is less."""
_SWEEP_US: Final = 1_000_000
"""All that is held is looked through for what has waited too long no more often than this, by arrival."""


class _Set(NamedTuple):
    arrival_us: int
    content: bytes
    header: bytes


@final
class Held:
    """Sets by exporter's row and id, no more than `most` bytes of them, a share of it from one exporter.

    hold_us: how long. given_up: told of the exporter's row and how many sets, where they have waited too long.
    """

    def __init__(self, most: int, hold_us: int, given_up: Callable[[int, int], None]) -> None:
        self.most = most
        self._hold_us = hold_us
        self._given_up = given_up
        self._sets: dict[int, dict[int, list[_Set]]] = {}
        """by row, then by id"""
        self._num_bytes = 0
        self._of_row: dict[int, int] = {}
        """bytes, by row"""
        self._share = max(most // _SHARE, _LEAST_SHARE)
        self._swept_us = -1 << 62

    def __len__(self) -> int:
        return sum(len(sets) for of in self._sets.values() for sets in of.values())

    @property
    def num_bytes(self) -> int:
        """Bytes that are held, headers included."""
        return self._num_bytes

    def add(self, key: Key, content: bytes, header: npt.NDArray[np.void]) -> bool:
        """Keep a set. Returns: whether there was room."""
        size = len(content) + HEADER.itemsize
        if self._num_bytes + size > self.most or self._of_row.get(key[0], 0) + size > self._share:
            return False
        one = _Set(int(header["arrival_us"]), content, header.tobytes())
        self._sets.setdefault(key[0], {}).setdefault(key[1], []).append(one)
        self._count_bytes(key[0], size)
        return True

    def has(self, key: Key) -> bool:
        """Whether sets of one id are held."""
        return key[1] in self._sets.get(key[0], ())

    def take(
        self, key: Key, version: int, now_us: int
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.void], npt.NDArray[np.void]]:
        """Give back the sets of one id that have not waited too long, as (buffer, headers, sets)."""
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
        """Give up sets that have waited too long."""
        if self._sets and not self._swept_us <= now_us < self._swept_us + _SWEEP_US:
            self._swept_us = now_us
            for key in [(row, id_) for row, of in self._sets.items() for id_ in of]:
                self._drop_old(key, now_us)

    def drop_row(self, row: int) -> None:
        """Give up what an exporter left that is forgotten."""
        for id_ in list(self._sets.get(row, ())):
            self._given_up(row, len(self._pop((row, id_))))

    def _drop_old(self, key: Key, now_us: int) -> None:
        sets = self._sets.get(key[0], {}).get(key[1])
        if not sets or sets[0].arrival_us >= now_us - self._hold_us:
            return
        young = [one for one in self._pop(key) if one.arrival_us >= now_us - self._hold_us]
        self._given_up(key[0], len(sets) - len(young))
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
        self._of_row[row] = self._of_row.get(row, 0) + more
        if not self._of_row[row]:
            del self._of_row[row]

    def state(self) -> list[list[Any]]:
        """Return it as JSON values."""
        return [
            [row, id_, b64encode(one.content).decode(), b64encode(one.header).decode()]
            for row, of in self._sets.items()
            for id_, sets in of.items()
            for one in sets
        ]

    def restore(self, state: list[list[Any]]) -> None:
        """Go on from what `state` gave; what another version of the program held otherwise is given up."""
        self._sets, self._num_bytes, self._of_row = {}, 0, {}
        for row, id_, content, header in state:
            raw = b64decode(header)
            if len(raw) != HEADER.itemsize or not self.add(
                (row, id_), b64decode(content), np.frombuffer(raw, HEADER)[0]
            ):
                self._given_up(row, 1)
