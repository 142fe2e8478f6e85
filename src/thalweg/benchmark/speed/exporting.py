"""Flows as export datagrams of NetFlow v5, v9 and IPFIX, and a sender that keeps a rate."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from thalweg.errors import ConfigError
from thalweg.ingest.records import records_of
from thalweg.tables import Flows

Bytes = npt.NDArray[np.uint8]

PER_DATAGRAM: Final = 30
"""Records in a datagram: the most that v5 allows."""
_UPTIME_MS: Final = 100_000_000
_TEMPLATE: Final = 260
_AT_ONCE: Final = 64
_PAUSE_S: Final = 0.001

V5_RECORD: Final = np.dtype(
    [
        ("src", ">u4"), ("dst", ">u4"), ("next_hop", ">u4"), ("input", ">u2"), ("output", ">u2"), ("packets", ">u4"),
        ("octets", ">u4"), ("first", ">u4"), ("last", ">u4"), ("src_port", ">u2"), ("dst_port", ">u2"), ("pad1", "u1"),
        ("flags", "u1"), ("protocol", "u1"), ("tos", "u1"), ("src_as", ">u2"), ("dst_as", ">u2"), ("src_mask", "u1"),
        ("dst_mask", "u1"), ("pad2", ">u2"),
    ]
)  # fmt: skip
"""Cisco's record of 48 bytes."""
FIELDS: Final = {
    "src": (8, 4), "dst": (12, 4), "octets": (1, 8), "packets": (2, 8), "first": (22, 4), "last": (21, 4),
    "src_port": (7, 2), "dst_port": (11, 2), "protocol": (4, 1), "flags": (6, 1),
}  # fmt: skip
"""Elements and lengths of the v9 template: 38 bytes, all of fixed length."""
MILLISECONDS: Final = {"first": (152, 8), "last": (153, 8)}
"""What IPFIX has instead: absolute times, not the exporter's uptime. 46 bytes."""


def one_way(flows: Flows, *, both: bool = True) -> npt.NDArray[np.void]:
    """Make v5 records of IPv4 flows: one for each direction, next to each other.

    both: include the responder's direction. Returns: (R,) of V5_RECORD, their number a multiple of 30.
    """
    records = records_of(flows, [], 0)
    num = len(records)
    out = np.zeros((num, 2 if both else 1), V5_RECORD)
    low = np.uint64(0xFFFF_FFFF)
    ago = np.minimum((records["end_us"] - records["start_us"]) // 1000, 3_600_000).astype(np.int64)
    for direction in range(out.shape[1]):
        names = (
            ("src", "dst", "src_port", "dst_port", "fwd")
            if direction == 0
            else ("dst", "src", "dst_port", "src_port", "bwd")
        )
        to = out[:, direction]
        to["src"], to["dst"] = records[f"{names[0]}_lo"] & low, records[f"{names[1]}_lo"] & low
        # The client's port distinguishes flows between the same hosts, as in real traffic.
        ports = {"src_port": 1024 + np.arange(num) * 7919 % 60_000, "dst_port": np.where(np.arange(num) % 3, 443, 53)}
        to["src_port"], to["dst_port"] = ports[names[2]], ports[names[3]]
        to["octets"] = np.minimum(records[f"{names[4]}_bytes"], low)
        to["packets"] = np.maximum(np.minimum(records[f"{names[4]}_packets"], low), 1)
        to["protocol"], to["flags"] = np.where(records["protocol"] == 0, 6, records["protocol"]), 0x1B
        to["last"], to["first"] = _UPTIME_MS, _UPTIME_MS - ago
    flat = out.reshape(-1)
    return flat[: len(flat) // PER_DATAGRAM * PER_DATAGRAM]


def v5_datagrams(records: npt.NDArray[np.void]) -> Bytes:
    """Return (D, 1464) uint8, 30 records in each, the sequence counting flows from 0."""
    num = len(records) // PER_DATAGRAM
    out = np.zeros((num, 24 + 48 * PER_DATAGRAM), np.uint8)
    out[:, 24:] = records[: num * PER_DATAGRAM].view(np.uint8).reshape(num, -1)
    out[:, :2], out[:, 2:4] = (0, 5), (0, PER_DATAGRAM)
    stamp(out, 0)
    return out


def stamp(datagrams: Bytes, first_sequence: int, now: float | None = None) -> None:
    """Write the time and the sequence number into v5 headers, in place."""
    now = time.time() if now is None else now
    num = len(datagrams)
    datagrams[:, 4:16] = np.frombuffer(struct.pack(">III", _UPTIME_MS, int(now), int(now % 1 * 1e9)), np.uint8)
    sequence = ((first_sequence + np.arange(num) * PER_DATAGRAM) & 0xFFFF_FFFF).astype(">u4")
    datagrams[:, 16:20] = sequence.view(np.uint8).reshape(num, 4)


def template_datagrams(records: npt.NDArray[np.void], version: int, now: int) -> list[bytes]:
    """Return the same records as v9 (9) or IPFIX (10): a datagram with the template, then 30 records in each."""
    chosen = FIELDS if version == 9 else {**FIELDS, **MILLISECONDS}
    packed = np.zeros(len(records), np.dtype([(name, f">u{length}") for name, (_, length) in chosen.items()]))
    for name in chosen:
        packed[name] = records[name]
    if version == 10:
        for name in MILLISECONDS:
            packed[name] += np.uint64(now * 1000 - _UPTIME_MS)
    fields = b"".join(struct.pack(">HH", element, length) for element, length in chosen.values())
    template = struct.pack(">HH", _TEMPLATE, len(chosen)) + fields
    bodies = [struct.pack(">HH", 0 if version == 9 else 2, 4 + len(template)) + template]
    for at in range(0, len(packed), PER_DATAGRAM):
        data = packed[at : at + PER_DATAGRAM].tobytes()
        bodies.append(struct.pack(">HH", _TEMPLATE, 4 + len(data)) + data)
    out, sequence = [], 0
    for i, body in enumerate(bodies):
        if version == 9:
            out.append(struct.pack(">HHIIII", 9, PER_DATAGRAM if i else 1, _UPTIME_MS, now, i, 7) + body)
        else:
            out.append(struct.pack(">HHIII", 10, 16 + len(body), now, sequence, 7) + body)
            sequence += PER_DATAGRAM if i else 0
    return out


def send(path: str, port: int, rates: Sequence[float], seconds: float) -> None:
    """Send v5 datagrams from a file, over and over, at a rate; print what was sent. Runs in its own process.

    path: an array from `v5_datagrams`, written by np.save. rates: flows/s, one after the other, for `seconds` each.
    It sends what is due, at most 64 datagrams a call, and waits a millisecond if nothing is due.
    """
    if sys.platform != "linux":
        raise ConfigError("sending at a rate needs Linux (sendmmsg)")
    datagrams = np.ascontiguousarray(np.load(path))
    num, size = datagrams.shape
    vectors = np.zeros(num, np.dtype([("base", "u8"), ("length", "u8")]))
    vectors["base"], vectors["length"] = datagrams.ctypes.data + np.arange(num) * size, size
    messages = np.zeros((num, 8), np.uint64)  # struct mmsghdr; see live/receive/udp.py
    messages[:, 2], messages[:, 3] = vectors.ctypes.data + np.arange(num) * 16, 1
    call = ctypes.CDLL(None, use_errno=True).sendmmsg
    sending = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sending.connect(("127.0.0.1", port))
    ends = np.cumsum([0.0, *(rate / PER_DATAGRAM * seconds for rate in rates)])
    total = int(ends[-1])
    sent, sequence = 0, 0
    begun, cpu = time.monotonic(), time.process_time()
    while sent < total:
        at = sent % num
        now = (time.monotonic() - begun) / seconds
        due = min(int(np.interp(now, np.arange(len(ends)), ends)) + 1, total) - sent
        if due <= 0:
            time.sleep(_PAUSE_S)
            continue
        if at == 0 and sequence == sent * PER_DATAGRAM:
            stamp(datagrams, sequence)
            sequence += num * PER_DATAGRAM
        count = min(due, _AT_ONCE, num - at)
        done: Any = call(sending.fileno(), ctypes.c_void_p(messages.ctypes.data + at * 64), count, 0)
        if done < 0:
            code = ctypes.get_errno()
            if code in (11, 105, 111):  # EAGAIN, ENOBUFS, ECONNREFUSED
                time.sleep(_PAUSE_S)
                continue
            raise OSError(code, os.strerror(code))
        sent += done
    lasted = time.monotonic() - begun
    sending.close()
    sys.stdout.write(f'{{"datagrams": {sent}, "flows": {sent * PER_DATAGRAM}, "seconds": {lasted}, ')
    sys.stdout.write(f'"cpu_s": {time.process_time() - cpu}}}\n')
