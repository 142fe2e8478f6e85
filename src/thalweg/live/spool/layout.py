"""How entries lie in the spool: a header of 40 bytes and a payload, end to end.

Datagrams have no check, as nothing in Python touches them; of all else, power loss may not make something else.
"""

from __future__ import annotations

from typing import Final

import numpy as np

ENTRY: Final = np.dtype(
    [
        ("magic", "u2"),
        ("kind", "u1"),
        ("source", "u1"),  # which of the run's feeds
        ("length", "u4"),  # bytes of the payload
        ("time_us", "i8"),  # received
        ("hi", "u8"),  # who sent a datagram; see records.RECORD
        ("lo", "u8"),
        ("port", "u2"),
        ("flows", "u2"),  # how many flows are in it, where its header says so; else 0
        ("check", "u4"),  # CRC-32 of the 36 bytes before it and the payload; of a datagram: 0
    ]
)
"""An entry's header, 40 bytes."""
MAGIC: Final = 0x7A1E
DATAGRAM, PIECE, MARK, STOP = 1, 2, 3, 4
"""Kinds: a datagram; a piece of a feed; the end of a batch; the end of a batch and of listening."""

FOUND: Final = np.dtype(
    [
        ("offset", "i8"),  # of the payload in the buffer
        ("length", "i4"),
        ("port", "u2"),
        ("kind", "u1"),
        ("source", "u1"),
        ("time_us", "i8"),
        ("hi", "u8"),
        ("lo", "u8"),
        ("flows", "u2"),
    ],
    align=True,
)
"""An entry that was found; its first columns are those of `netflow.datagrams.ARRIVED`."""
