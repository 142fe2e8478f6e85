"""Finds the entries in the bytes of a segment."""

from __future__ import annotations

import zlib
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from thalweg.live.spool.layout import DATAGRAM, ENTRY, FOUND, MAGIC, MARK
from thalweg.runtime.jit import compiled

_MARK: Final = MAGIC.to_bytes(2, "little") + bytes([MARK])
_MAX_TRIED: Final = 10_000


def find_entries(data: npt.NDArray[np.uint8], begin: int) -> tuple[npt.NDArray[np.void], int]:
    """Find the whole entries in a segment's bytes, up to the first that is not whole or not what was written.

    Returns: (N,) of FOUND; where that one begins.
    """
    most = (len(data) - begin) // ENTRY.itemsize
    found = np.zeros(max(min(most, 1 << 16), 1), FOUND)
    parts: list[npt.NDArray[np.void]] = []
    at = begin
    while True:
        num, after = _find(data, at, found)
        for row in np.flatnonzero(found["kind"][:num] != DATAGRAM):
            if not _is_sound(data, found[row]):
                parts.append(found[:row].copy())
                return np.concatenate(parts), int(found["offset"][row]) - ENTRY.itemsize
        at = int(after)
        parts.append(found[:num].copy())
        if num < len(found):
            return np.concatenate(parts), at


def last_total(data: npt.NDArray[np.uint8]) -> int:
    """Return how many datagrams a segment holds up to the last mark in some of its bytes; 0 if no mark is there.

    A payload may hold what looks like a mark: this is for counting what is lost, not for reading on.
    """
    content = data.tobytes()
    at = len(content)
    for _ in range(_MAX_TRIED):
        at = content.rfind(_MARK, 0, at)
        if at < 0:
            break
        num, _ = _find(data[at:], 0, one := np.zeros(1, FOUND))
        if num and not one["length"][0] and _is_sound(data[at:], one[0]):
            return int(one["hi"][0])
    return 0


def _is_sound(data: npt.NDArray[np.uint8], entry: Any) -> bool:
    at = int(entry["offset"])
    payload = data[at : at + int(entry["length"])]
    check = zlib.crc32(payload.data, zlib.crc32(data[at - ENTRY.itemsize : at - 4].data))
    return check.to_bytes(4, "little") == data[at - 4 : at].tobytes()


@compiled()
def _find(data: Any, begin: Any, found: Any) -> Any:
    at = begin
    num = 0
    size = len(data)
    while num < len(found) and at + 40 <= size:
        if data[at] != 0x1E or data[at + 1] != 0x7A or not 1 <= data[at + 2] <= 4:
            break
        length = np.int64(0)
        for i in range(4):
            length |= np.int64(data[at + 4 + i]) << (8 * i)
        if at + 40 + length > size:
            break
        row = found[num]
        row.kind = data[at + 2]
        row.source = data[at + 3]
        row.length = length
        row.offset = at + 40
        row.time_us = np.int64(_little(data, at + 8, 8))
        row.hi = _little(data, at + 16, 8)
        row.lo = _little(data, at + 24, 8)
        row.port = np.uint16(_little(data, at + 32, 2))
        row.flows = np.uint16(_little(data, at + 34, 2))
        num += 1
        at += 40 + length
    return num, at


@compiled(inline=True)
def _little(data: Any, at: Any, num: int) -> Any:
    value = np.uint64(0)
    for i in range(num):
        value |= np.uint64(data[at + i]) << np.uint64(8 * i)
    return value
