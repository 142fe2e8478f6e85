"""How entries lie in the spool: a header of 40 bytes and a payload, end to end.

All entries but datagrams have a checksum, against power loss. Datagrams have none, as Python never touches their bytes.
"""

from __future__ import annotations

from typing import Final

import numpy as np

ENTRY: Final = np.dtype(
    [
        ("magic", "u2"),
        ("kind", "u1"),
        ("source", "u1"),  # of a piece: the number of its source
        ("length", "u4"),  # bytes of the payload
        ("time_us", "i8"),  # when it was received
        ("hi", "u8"),  # the sender of a datagram, see records.RECORD; of a mark: datagrams in the segment so far
        ("lo", "u8"),
        ("port", "u2"),
        ("flows", "u2"),  # of a datagram: the flows in it if its header states them, else 0
        ("check", "u4"),  # CRC-32 of the 36 bytes before it and the payload; of a datagram: 0
    ]
)
"""An entry's header, 40 bytes."""
MAGIC: Final = 0x7A1E
DATAGRAM, PIECE, MARK, STOP = 1, 2, 3, 4
"""Kinds: a datagram; a piece of a feed; the end of a batch; the end of a batch and of receiving."""

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
