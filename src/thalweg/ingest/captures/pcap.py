"""Reads the export packets in captures: pcap and pcapng, plain, gzip or zstd.

Source: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias, final

from thalweg.errors import SourceError
from thalweg.ingest.captures.frames import LINK_TYPES, ExportFinder
from thalweg.ingest.streams import PIECE, CutShortError, NoFlowsError, pieces_of
from thalweg.tables import FIRST_US, LAST_US
from thalweg.tally import Tally

BATCH: Final = 1024
BATCH_BYTES: Final = 1 << 20

MAGICS: Final = {
    b"\xd4\xc3\xb2\xa1": ("<", 1),
    b"\xa1\xb2\xc3\xd4": (">", 1),
    b"\x4d\x3c\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\x3c\x4d": (">", 1000),
}
"""By the first bytes of a pcap file: its byte order, and the units of its times in a microsecond."""
SECTION: Final = b"\x0a\x0d\x0d\x0a"
"""The first bytes of a pcapng file."""
_INTERFACE, _OLD_PACKET, _SIMPLE_PACKET, _PACKET = 1, 2, 3, 6
_TSRESOL, _TSOFFSET = 9, 14
_MAX_PACKET: Final = 1 << 18  # the most that tcpdump captures
_MAX_BLOCK: Final = 1 << 24

_Captured: TypeAlias = tuple[int, int, bytes, bool]
"""Time in microseconds, link type (-1 if unknown), frame, whether it was captured whole."""


@final
@dataclass(frozen=True, slots=True)
class Datagram:
    """One export packet and its source.

    time_us: when it was captured, microseconds since 1970. address_hi, address_lo: its source address as in
    `records.RECORD`, both 0 if unknown. port: its source port.
    """

    time_us: int
    address_hi: int
    address_lo: int
    port: int
    payload: bytes


@final
class Octets:
    """Reads the bytes of a file in order. offset: the number of bytes taken so far."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._data, self._at, self.offset = pieces, b"", 0, 0

    def take(self, num: int) -> bytes:
        """Return the next `num` bytes; fewer at the end of the file."""
        end = self._at + num
        if end > len(self._data):
            self._fill(num)
            end = num
        taken = self._data[self._at : end]
        self._at += len(taken)
        self.offset += len(taken)
        return taken

    def _fill(self, num: int) -> None:
        held = [self._data[self._at :]]
        size = len(held[0])
        try:
            while size < num:
                piece = next(self._pieces, b"")
                if not piece:
                    break
                held.append(piece)
                size += len(piece)
        except CutShortError as error:
            # Compressed data that ends early is a file still being written; damaged data has a `__cause__`.
            if error.__cause__ is not None:
                raise
        self._data, self._at = b"".join(held), 0


@contextmanager
def octets_of(path: Path, kind: str) -> Iterator[Octets]:
    """Open a file, decompressing gzip and zstd. kind: what the file should be, for error messages.

    Raises SourceError if it cannot be opened or read, is empty or is damaged.
    """
    try:
        with path.open("rb") as stream:
            first = stream.read(PIECE)
            if not first:
                raise NoFlowsError(f"{path} is empty: give {kind}")
            yield Octets(pieces_of(first, stream))
    except CutShortError as error:
        raise SourceError(f"{path}: {error}; decompress it by hand to save what can be saved") from error
    except SourceError:
        raise
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error


def in_batches(datagrams: Iterator[Datagram]) -> Iterator[list[Datagram]]:
    """Collect datagrams into lists of 1024 or 1 MiB; those read before an error are yielded before it is raised."""
    batch: list[Datagram] = []
    size = 0
    failure: SourceError | CutShortError | None = None
    try:
        for datagram in datagrams:
            batch.append(datagram)
            size += len(datagram.payload)
            if len(batch) == BATCH or size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
    except (SourceError, CutShortError) as error:
        failure = error
    if batch:
        yield batch
    if failure is not None:
        raise failure


def read_datagrams(path: Path, *, ports: Collection[int] | None = None, tally: Tally) -> Iterator[list[Datagram]]:
    """Yield the export packets of a capture in its order, in lists of at most 1024.

    ports: the UDP ports that exporters send to; by default every UDP payload with a header of NetFlow v5, v9 or IPFIX
    is taken. If the file ends within a packet, the packet is counted as `truncated_packets`.

    Raises SourceError if the file is not a capture, its link type is unknown, or it is damaged.
    """
    with octets_of(path, "a capture that tcpdump or Wireshark wrote") as octets:
        yield from in_batches(_datagrams(path, octets, ports, tally))


def _datagrams(path: Path, octets: Octets, ports: Collection[int] | None, tally: Tally) -> Iterator[Datagram]:
    first = octets.take(4)
    if first in MAGICS:
        captured = _pcap(path, octets, *MAGICS[first], tally)
    elif first == SECTION:
        captured = _pcapng(path, octets, tally)
    else:
        raise SourceError(f"{path}: neither pcap nor pcapng; give a capture that tcpdump or Wireshark wrote")
    finder = ExportFinder(str(path), None if ports is None else frozenset(ports), tally)
    for time_us, link_type, frame, whole in captured:
        payload = finder.payload(time_us, link_type, frame, whole)
        if payload is not None:
            yield Datagram(time_us, *payload)
    finder.close()


def _pcap(path: Path, octets: Octets, order: str, parts: int, tally: Tally) -> Iterator[_Captured]:
    rest = octets.take(20)
    if len(rest) < 20:
        raise SourceError(f"{path}: the header of the capture is truncated; give a complete file")
    _, _, _, _, snaplen, link_type = struct.unpack(f"{order}HHiIII", rest)
    link_type &= 0xFFFF
    if link_type not in LINK_TYPES:
        raise SourceError(
            f"{path}: link type {link_type} is not known; capture on Ethernet, PPP, loopback or with tcpdump -i any"
        )
    most = max(_MAX_PACKET, snaplen if snaplen < _MAX_BLOCK else 0)
    unpack = struct.Struct(f"{order}IIII").unpack
    while len(head := octets.take(16)) == 16:
        seconds, fraction, num_captured, num_sent = unpack(head)
        if num_captured > most:
            raise SourceError(
                f"{path}, byte {octets.offset - 16}: the capture is damaged (a packet of {num_captured} bytes); "
                "cut it there with editcap, or capture again"
            )
        frame = octets.take(num_captured)
        if len(frame) < num_captured:
            break
        yield seconds * 1_000_000 + fraction // parts, link_type, frame, num_captured >= num_sent
    else:
        if not head:
            return
    tally.add("truncated_packets", 1, f"{path}, byte {octets.offset}")


@final
@dataclass(frozen=True, slots=True)
class _Interface:
    link_type: int
    snaplen: int
    units: int  # units of its times in a second
    offset_us: int

    def time_us(self, high: int, low: int) -> int:
        return (high << 32 | low) * 1_000_000 // self.units + self.offset_us


def _interface(body: bytes, order: str) -> _Interface:
    link_type, _, snaplen = struct.unpack_from(f"{order}HHI", body)
    units, offset_us, at = 1_000_000, 0, 8
    while at + 4 <= len(body):
        code, size = struct.unpack_from(f"{order}HH", body, at)
        value = body[at + 4 : at + 4 + size]
        if code == _TSRESOL and size == 1:
            units = 1 << (value[0] & 127) if value[0] & 128 else 10 ** value[0]
        elif code == _TSOFFSET and len(value) == 8:
            offset_us = struct.unpack(f"{order}q", value)[0] * 1_000_000
        elif code == 0:
            break
        at += 4 + size + -size % 4
    return _Interface(link_type if link_type in LINK_TYPES else -1, snaplen, units, offset_us)


def _blocks(path: Path, octets: Octets, tally: Tally) -> Iterator[tuple[int, bytes, str]]:
    """Yield the type, body and byte order of each block; the first four bytes of the file have been taken."""
    order, head = "<", SECTION
    while head:
        place = octets.offset - len(head)
        size_bytes = octets.take(4)
        body = octets.take(4) if head == SECTION else b""
        if body:
            order = ">" if body == b"\x1a\x2b\x3c\x4d" else "<"
        if len(head) < 4 or len(size_bytes) < 4 or (head == SECTION and len(body) < 4):
            tally.add("truncated_packets", 1, f"{path}, byte {place}")
            return
        kind, size = (int.from_bytes(part, "little" if order == "<" else "big") for part in (head, size_bytes))
        damaged = size < 12 + len(body) or size % 4 or size > _MAX_BLOCK
        if not damaged:
            rest = octets.take(size - 8 - len(body))
            if len(rest) < size - 8 - len(body):
                tally.add("truncated_packets", 1, f"{path}, byte {place}")
                return
            body += rest
            damaged = body[-4:] != size_bytes
        if damaged:
            raise SourceError(
                f"{path}, byte {place}: the capture is damaged (a block of {size} bytes); cut it there with editcap, "
                "or capture again"
            )
        yield kind, body[:-4], order
        head = octets.take(4)


def _pcapng(path: Path, octets: Octets, tally: Tally) -> Iterator[_Captured]:
    interfaces: list[_Interface] = []
    section = int.from_bytes(SECTION, "little")
    time_us = 0
    for kind, body, order in _blocks(path, octets, tally):
        if kind == section:
            interfaces.clear()
        elif kind == _INTERFACE and len(body) >= 8:
            interfaces.append(_interface(body, order))
        elif kind in (_PACKET, _OLD_PACKET) and len(body) >= 20:
            index, high, low, num_captured, num_sent = struct.unpack_from(f"{order}IIIII", body)
            if kind == _OLD_PACKET:
                (index,) = struct.unpack_from(f"{order}H", body)
            if index >= len(interfaces):
                tally.add("other_packets", 1, f"{path}, byte {octets.offset}")
                continue
            stated_us = interfaces[index].time_us(high, low)
            if FIRST_US <= stated_us <= LAST_US:
                time_us = stated_us
            else:  # as for packets without a time
                tally.add("unreadable_values", 1, f"{path}, byte {octets.offset}, time of a packet")
            frame = body[20 : 20 + num_captured]
            yield time_us, interfaces[index].link_type, frame, len(frame) >= num_sent
        elif kind == _SIMPLE_PACKET and len(body) >= 4 and interfaces:
            (num_sent,) = struct.unpack_from(f"{order}I", body)
            frame = body[4 : 4 + min(num_sent, interfaces[0].snaplen or _MAX_BLOCK)]
            # A simple packet has no time; the last known time is the nearest.
            yield time_us, interfaces[0].link_type, frame, len(frame) >= num_sent
