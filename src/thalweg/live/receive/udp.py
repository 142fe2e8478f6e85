"""Datagrams from a socket into the spool, hundreds in one system call, and what the kernel had to drop before."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import ip_network
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from thalweg.errors import SinkError, SourceError
from thalweg.ingest.sources import UdpConfig
from thalweg.live.spool.layout import DATAGRAM, ENTRY, MAGIC
from thalweg.live.spool.writer import SpoolWriter

_MOST: Final = 256
"""Datagrams that are taken at once: two buffers each, and a write takes 1,024."""
_SLOT: Final = 1 << 16
"""Room for the largest datagram. Only pages that are written to take memory."""
_NAME: Final = 32
_DONT_WAIT: Final = 0x40
_SO_RCVBUFFORCE: Final = 33
_SO_MEMINFO: Final = 55
_MEMINFO_DROPS: Final = 8
_PASSING: Final = (errno.EAGAIN, errno.EINTR, errno.ECONNREFUSED, errno.ENOBUFS, errno.ENOMEM)
"""Nothing to receive, or a passing error: the next call may find datagrams."""

_MESSAGE: Final = np.dtype(
    [
        ("name", "u8"),
        ("name_length", "u8"),
        ("vectors", "u8"),
        ("num_vectors", "u8"),
        ("control", "u8"),
        ("control_length", "u8"),
        ("flags", "u8"),
        ("length", "u8"),
    ]
)
"""struct mmsghdr on a machine of 64 bits."""
_VECTOR: Final = np.dtype([("base", "u8"), ("length", "u8")])


@final
class UdpListener:
    """A socket that exporters send to.

    num_datagrams, num_bytes: spooled so far. num_refused: from networks that are not allowed. num_unspooled: lost
    because the spool could not be written.

    Raises SourceError if the socket cannot be opened.
    """

    def __init__(self, config: UdpConfig) -> None:
        self.config = config
        self.num_datagrams = self.num_bytes = self.num_refused = self.num_unspooled = 0
        self._networks = [_masked(network) for network in config.allow]
        self._socket = _bound(config)
        self.buffer_bytes = _enlarge(self._socket, config.buffer_bytes)
        """what the kernel grants: half of what it reports, which includes its own overhead"""
        self._drops = 0
        fits = sys.platform == "linux" and sys.maxsize > 1 << 32 and sys.byteorder == "little"
        self._receive = _Many(self._socket) if fits else None

    @property
    def port(self) -> int:
        """The port it listens at; chosen by the system if 0 was asked for."""
        return int(self._socket.getsockname()[1])

    def fileno(self) -> int:
        """Return the file descriptor to poll."""
        return self._socket.fileno()

    @property
    def kernel_drops(self) -> int:
        """Datagrams dropped by the kernel as the socket's buffer was full; 0 if the system does not report them."""
        if self._socket.fileno() < 0 or sys.platform != "linux":
            return self._drops
        try:
            packed = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 64)
        except OSError:  # a kernel without it
            return self._drops
        numbers = struct.unpack(f"{len(packed) // 4}I", packed)
        self._drops = numbers[_MEMINFO_DROPS] if len(numbers) > _MEMINFO_DROPS else 0
        return self._drops

    def receive(self, spool: SpoolWriter, time_us: int) -> int:
        """Move the datagrams that wait, at most a few hundred, into the spool. Returns how many came.

        Raises SinkError if the spool cannot be written, and SourceError if the socket fails.
        """
        if self._receive is None:
            return self._one_by_one(spool, time_us)
        num, vectors, num_flows = self._receive.take(time_us, self._networks)
        self.num_refused += num - len(vectors)
        if len(vectors):
            num_bytes = int(vectors["length"].sum())
            with self._spooling(len(vectors), num_bytes):
                spool.write_vectors(np.ascontiguousarray(vectors.reshape(-1)), num_bytes, len(vectors), num_flows)
        return num

    @contextmanager
    def _spooling(self, num: int, num_bytes: int) -> Iterator[None]:
        """Count datagrams, in entries of so many bytes, as spooled or as lost."""
        try:
            yield
        except SinkError:
            self.num_unspooled += num
            raise
        self.num_datagrams += num
        self.num_bytes += num_bytes - num * ENTRY.itemsize

    def _one_by_one(self, spool: SpoolWriter, time_us: int) -> int:
        for num in range(_MOST):
            try:
                payload, sender = self._socket.recvfrom(_SLOT)
            except OSError as error:
                if error.errno in _PASSING:
                    return num
                raise SourceError(f"receiving failed: {error.strerror}") from error
            packed = socket.inet_pton(self._socket.family, sender[0].partition("%")[0])
            hi, lo = struct.unpack(">QQ", packed if len(packed) == 16 else b"\0" * 10 + b"\xff\xff" + packed)
            entry = np.zeros(1, ENTRY)
            entry["hi"], entry["lo"], entry["port"], entry["length"] = hi, lo, sender[1], len(payload)
            entry["magic"], entry["kind"], entry["time_us"] = MAGIC, DATAGRAM, time_us
            entry["flows"] = _flows(np.frombuffer(payload[:4].ljust(4, b"\0"), np.uint8)[None], entry["length"])
            if self._networks and not _allowed(entry, self._networks)[0]:
                self.num_refused += 1
                continue
            num_bytes = ENTRY.itemsize + len(payload)
            with self._spooling(1, num_bytes):
                spool.write([entry.tobytes(), payload], num_bytes, 1, int(entry["flows"][0]))
        return _MOST

    def drain(self, spool: SpoolWriter, within_s: float = 2.0) -> int:
        """Spool all that waits in the kernel, for at most `within_s` if more keeps coming. Returns how many came."""
        until, num = time.monotonic() + within_s, 0
        while (taken := self.receive(spool, time.time_ns() // 1000)) and time.monotonic() < until:
            num += taken
        return num + taken

    def close(self) -> None:
        """Close the socket; the counts stay."""
        self._drops = self.kernel_drops
        self._socket.close()


@final
class _Many:
    """Receives by recvmmsg and passes the same memory to writev: Python touches no datagram."""

    def __init__(self, listening: socket.socket) -> None:
        self._file = listening.fileno()
        self._slots = np.zeros((_MOST, _SLOT), np.uint8)
        self._names = np.zeros((_MOST, _NAME), np.uint8)
        self._entries = np.zeros(_MOST, ENTRY)
        self._entries["magic"], self._entries["kind"] = MAGIC, DATAGRAM
        self._in = np.zeros(_MOST, _VECTOR)
        self._in["base"] = self._slots.ctypes.data + np.arange(_MOST) * _SLOT
        self._in["length"] = _SLOT
        self._messages = np.zeros(_MOST, _MESSAGE)
        self._messages["name"] = self._names.ctypes.data + np.arange(_MOST) * _NAME
        self._messages["vectors"] = self._in.ctypes.data + np.arange(_MOST) * _VECTOR.itemsize
        self._messages["num_vectors"] = 1
        self._out = np.zeros((_MOST, 2), _VECTOR)
        self._out["base"][:, 0] = self._entries.ctypes.data + np.arange(_MOST) * ENTRY.itemsize
        self._out["length"][:, 0] = ENTRY.itemsize
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._call = self._libc.recvmmsg

    def take(self, time_us: int, networks: Sequence[Any]) -> tuple[int, npt.NDArray[np.void], int]:
        """Receive what waits. Returns how many datagrams; (N, 2) vectors of those to be written; the flows in these."""
        self._messages["name_length"] = _NAME
        num = self._call(
            self._file, ctypes.c_void_p(self._messages.ctypes.data), _MOST, _DONT_WAIT, ctypes.c_void_p(None)
        )
        if num <= 0:
            code = ctypes.get_errno()
            if num < 0 and code not in _PASSING:
                raise SourceError(f"receiving failed: {os.strerror(code)}")
            return 0, self._out[:0], 0
        entries = self._entries[:num]
        # The kernel writes 4 bytes; the 4 above them are padding.
        lengths = self._messages["length"][:num] & np.uint64(0xFFFF_FFFF)
        entries["length"], entries["time_us"] = lengths, time_us
        _name_senders(self._names[:num], entries)
        entries["flows"] = _flows(self._slots[:num, :4], entries["length"])
        vectors = self._out[:num]
        vectors["base"][:, 1], vectors["length"][:, 1] = self._in["base"][:num], lengths
        if networks:
            allowed = _allowed(entries, networks)
            if not allowed.all():
                vectors, entries = vectors[allowed], entries[allowed]
        return num, vectors, int(entries["flows"].sum())


def _name_senders(names: Any, entries: Any) -> None:
    """Read sockaddr_in and sockaddr_in6."""
    entries["port"] = names[:, 2:4].copy().view(">u2")[:, 0]
    v6 = names[:, :2].copy().view("=u2")[:, 0] == socket.AF_INET6
    v4 = names[:, 4:8].copy().view(">u4")[:, 0].astype(np.uint64) | np.uint64(0xFFFF_0000_0000)
    halves = names[:, 8:24].copy().view(">u8")
    entries["hi"] = np.where(v6, halves[:, 0], 0)
    entries["lo"] = np.where(v6, halves[:, 1], v4)


def _flows(first: Any, lengths: Any) -> Any:
    """Return how many flows each v5 datagram holds, by its header; 0 for others. first: (N, 4) bytes."""
    version = first[:, 0].astype(np.int64) << 8 | first[:, 1]
    count = first[:, 2].astype(np.int64) << 8 | first[:, 3]
    return np.where(version == 5, np.clip(np.minimum(count, (lengths.astype(np.int64) - 24) // 48), 0, None), 0)


def _masked(network: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return a network as (bits of its address, mask), two halves each, IPv4 mapped."""
    found = ip_network(network)
    shift = 96 if found.version == 4 else 0
    address = int(found.network_address) | (0xFFFF << 32 if found.version == 4 else 0)
    mask = ((1 << 128) - 1) ^ ((1 << 128 - found.prefixlen - shift) - 1)
    low = (1 << 64) - 1
    return (address >> 64, address & low), (mask >> 64, mask & low)


def _allowed(entries: Any, networks: Sequence[Any]) -> Any:
    allowed = np.zeros(len(entries), bool)
    for (hi, lo), (mask_hi, mask_lo) in networks:
        allowed |= ((entries["hi"] & np.uint64(mask_hi)) == hi) & ((entries["lo"] & np.uint64(mask_lo)) == lo)
    return allowed


def _bound(config: UdpConfig) -> socket.socket:
    where = f"udp://{config.host}:{config.port}"
    try:
        found = socket.getaddrinfo(config.host or None, config.port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        reason = error.strerror if isinstance(error, socket.gaierror) else "not a name"
        raise SourceError(f"{where}: no such address here ({reason}); try udp://:{config.port}") from error
    # An IPv6 socket can receive IPv4, too, so it comes first if all addresses are meant. Of a name's addresses, the
    # IPv4 one comes first, as most exporters have no other.
    first = socket.AF_INET if config.host else socket.AF_INET6
    found.sort(key=lambda one: one[0] != first)
    failed: OSError | None = None
    for family, kind, protocol, _, address in found:
        try:
            listening = socket.socket(family, kind, protocol)
        except OSError as error:
            failed = error
            continue
        try:
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if not config.host else 1)
            listening.setblocking(False)
            listening.bind(address)
        except OSError as error:
            listening.close()
            failed = error
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                break  # never only one of two families
            continue
        return listening
    reason = failed.strerror if failed is not None else "no address"
    if failed is not None and failed.errno == errno.EACCES:
        raise SourceError(
            f"{where}: cannot listen there ({reason}): ports below 1024 need privileges; use one above, or setcap or "
            "systemd's AmbientCapabilities=CAP_NET_BIND_SERVICE"
        )
    raise SourceError(
        f"{where}: cannot listen there ({reason}). Has another collector the port? See `ss -lunp`, or take another port"
    )


def _enlarge(listening: socket.socket, wanted: int) -> int:
    try:
        if sys.platform != "linux":
            raise PermissionError
        listening.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, wanted)  # if we may exceed the system's limit
    except OSError:
        with suppress(OSError):  # beyond the system's limit: it stays as it is
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, wanted)
    return listening.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
