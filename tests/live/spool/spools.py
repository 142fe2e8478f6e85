"""Shared by the tests of the queue on disk: spools that are filled and read, and entries made by hand."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from thalweg.live.spool.folder import SpoolPosition
from thalweg.live.spool.layout import DATAGRAM, ENTRY, MAGIC, MARK, PIECE, STOP
from thalweg.live.spool.reader import Batch, unread
from thalweg.live.spool.writer import SpoolConfig, SpoolWriter

BEGIN: Final = SpoolPosition(0, 0)
SMALL: Final = SpoolConfig(max_bytes=1 << 20, segment_bytes=400)
VECTOR: Final = np.dtype([("base", "u8"), ("length", "u8")])


def payloads(batch: Batch) -> list[bytes]:
    return [batch.data[at : at + num].tobytes() for at, num in zip(*columns(batch, "offset", "length"), strict=True)]


def columns(batch: Batch, *names: str) -> tuple[list[int], ...]:
    return tuple(batch.entries[name].tolist() for name in names)


def all_batches(folder: Path, position: SpoolPosition = BEGIN) -> list[Batch]:
    return list(unread(folder, position))


def all_payloads(folder: Path, position: SpoolPosition = BEGIN) -> list[bytes]:
    return [payload for batch in all_batches(folder, position) for payload in payloads(batch)]


def parts(batch: Batch) -> tuple[Any, ...]:
    """Return the contents of a batch, without the buffer that holds them."""
    return (payloads(batch), columns(batch, "kind", "source", "time_us"), batch.time_us, batch.after, batch.stopped)


def fill(folder: Path, num: int, *, config: SpoolConfig = SMALL, marked_every: int = 5, stop: bool = False) -> None:
    writer = SpoolWriter(folder, config)
    for i in range(num):
        writer.add(PIECE if i % 3 else DATAGRAM, i, payload_of(i), i % 250)
        if i % marked_every == marked_every - 1:
            writer.add(MARK, i)
    if stop:
        writer.add(STOP, num)
    writer.close()


def payload_of(i: int) -> bytes:
    return f"entry {i} ".encode() * (i % 7)


def vectors_of(entries: list[bytes]) -> tuple[npt.NDArray[np.void], int, list[Any]]:
    buffers = [ctypes.create_string_buffer(entry, len(entry)) for entry in entries]
    rows = [(ctypes.addressof(buffer), len(buffer)) for buffer in buffers]
    return np.array(rows, VECTOR), sum(map(len, entries)), buffers


def entry_of(payload: bytes, time_us: int = 5) -> bytes:
    header = np.zeros(1, ENTRY)
    header["magic"], header["kind"], header["length"], header["time_us"] = MAGIC, DATAGRAM, len(payload), time_us
    return header.tobytes() + payload


def write_one(writer: SpoolWriter, payload: bytes, *, by_vectors: bool) -> None:
    entry = entry_of(payload)
    if by_vectors:
        vectors, num_bytes, _kept = vectors_of([entry[: ENTRY.itemsize], entry[ENTRY.itemsize :]])
        writer.write_vectors(vectors, num_bytes, 1)
    else:
        writer.write([entry[: ENTRY.itemsize], entry[ENTRY.itemsize :]], len(entry), 1)


def datagram(flows: int, payload: bytes) -> bytes:
    header = np.frombuffer(entry_of(payload), ENTRY, 1).copy()
    header["flows"] = flows
    return header.tobytes() + payload
