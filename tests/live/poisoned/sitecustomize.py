"""Makes a scorer die, as by a fault in a library, of what holds the word `poison`. On PYTHONPATH, it is loaded first.

POISON says where: `decode` a datagram, `read` a piece, or `write` a window that has a flow to port 6666.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any


def _die() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _poison_decode() -> None:
    from thalweg.ingest.netflow.decoder import Decoder

    decode = Decoder.decode

    def decode_or_die(self: Decoder, datagrams: Any, **how: Any) -> Any:
        for one in datagrams.arrived:
            begin = int(one["offset"])
            if b"poison" in datagrams.buffer[begin : begin + int(one["length"])].tobytes():
                _die()
        return decode(self, datagrams, **how)

    Decoder.decode = decode_or_die  # type: ignore[method-assign]


def _poison_read() -> None:
    from thalweg.ingest.assembler import Assembler

    read = Assembler.read

    def read_or_die(self: Assembler, source: int, piece: Any, arrival_us: int) -> Any:
        if b"poison" in piece.payload:
            _die()
        return read(self, source, piece, arrival_us)

    Assembler.read = read_or_die  # type: ignore[method-assign]


def _poison_write() -> None:
    from thalweg.sinks.parquet import HourlyParquet

    write = HourlyParquet.write

    def write_or_die(self: HourlyParquet, window: Any) -> Any:
        if (window.frame["dst_port"] == 6666).any():
            _die()
        return write(self, window)

    HourlyParquet.write = write_or_die  # type: ignore[method-assign]


if "thalweg.live.score.process" in sys.orig_argv:
    {"decode": _poison_decode, "read": _poison_read, "write": _poison_write}[os.environ["POISON"]]()
