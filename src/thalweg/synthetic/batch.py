"""Simulated flows before they become a table: one array per column, hosts as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

Batch: TypeAlias = dict[str, npt.NDArray[Any]]
"""Columns of equal length, those of `COLUMNS`."""

Ints: TypeAlias = npt.NDArray[np.int64]

COLUMNS: Final = {
    "time_us": np.int64,  # since the simulation's start
    "duration_ms": np.float64,
    "src": np.int32,  # index into the site's addresses
    "dst": np.int32,
    "fwd_bytes": np.int64,
    "bwd_bytes": np.int64,
    "src_port": np.uint16,
    "dst_port": np.uint16,
    "protocol": np.uint8,
    "tcp_flags": np.uint16,
    "fwd_packets": np.int64,
    "bwd_packets": np.int64,
    "attack": np.uint8,  # 0 is benign, k is the k-th attack
}

ICMP: Final = 1
TCP: Final = 6
UDP: Final = 17
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
USUAL_FLAGS: Final = FIN | SYN | PSH | ACK
EPHEMERAL: Final = (32_768, 65_536)


def make_batch(num: int, **columns: npt.ArrayLike) -> Batch:
    """Make a batch of `num` flows; a scalar stands for the whole column, an absent column is zero."""
    unknown = columns.keys() - COLUMNS.keys()
    assert not unknown, unknown
    batch: Batch = {}
    for name, dtype in COLUMNS.items():
        batch[name] = np.empty(num, dtype)
        batch[name][:] = columns.get(name, 0)
    return batch


def join(batches: Sequence[Batch]) -> Batch:
    """Concatenate batches."""
    return {name: np.concatenate([batch[name] for batch in batches]) for name in COLUMNS}


def take(batch: Batch, rows: npt.NDArray[Any]) -> Batch:
    """Select rows by index or by mask."""
    return {name: column[rows] for name, column in batch.items()}
