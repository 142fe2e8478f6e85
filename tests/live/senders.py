"""An exporter of NetFlow v5, each of whose flows is unique."""

from __future__ import annotations

import socket
import struct
import threading
import time
from ipaddress import IPv4Address
from typing import Final, final

import numpy as np

PER_DATAGRAM: Final = 30
_UPTIME_MS: Final = 5_000_000


def name_of(flow: int) -> tuple[str, int]:
    """Return the source address and port of a flow by its number."""
    return str(IPv4Address(0x0A00_0000 + flow // 8_000)), 50_000 + flow % 8_000


def datagram(first_flow: int, sequence: int | None = None, num: int = PER_DATAGRAM) -> bytes:
    """Return a v5 datagram with the flows from a number on; a tenth of a second long, ended just now."""
    now = time.time()
    head = struct.pack(
        ">HHIIIIBBH", 5, num, _UPTIME_MS, int(now), int(now % 1 * 1e9), (first_flow if sequence is None else sequence)
        & 0xFFFF_FFFF, 0, 0, 0,
    )  # fmt: skip
    body = b"".join(
        struct.pack(
            ">IIIHHIIIIHHBBBBHHBBH", 0x0A00_0000 + flow // 8_000, 0xC000_0201, 0, 0, 0, 3, 300 + flow % 7,
            _UPTIME_MS - 100, _UPTIME_MS, 50_000 + flow % 8_000, 443, 0, 0x1B, 6, 0, 0, 0, 0, 0, 0,
        )
        for flow in range(first_flow, first_flow + num)
    )  # fmt: skip
    return head + body


@final
class Exporter:
    """Sends datagrams at a rate from a thread, whether anybody listens or not. num_flows: sent so far."""

    def __init__(self, port: int, datagrams_per_s: float, source: str = "127.0.0.1") -> None:
        self.num_flows = 0
        self._port, self._pause = port, 1 / datagrams_per_s
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((source, 0))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def __enter__(self) -> Exporter:
        self._thread.start()
        return self

    def _send(self) -> None:
        while not self._ended.wait(self._pause):
            self._socket.sendto(datagram(self.num_flows), ("127.0.0.1", self._port))
            self.num_flows += PER_DATAGRAM

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._socket.close()


def flows_in(payload: bytes) -> list[tuple[str, int]]:
    """Return the names of the flows in one of our datagrams."""
    records = np.frombuffer(payload[24:], np.dtype([("src", ">u4"), ("a", "V28"), ("port", ">u2"), ("b", "V14")]))
    return [(str(IPv4Address(int(one["src"]))), int(one["port"])) for one in records]
