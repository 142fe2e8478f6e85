"""Reads IPFIX files, which hold messages end to end (RFC 5655): plain, gzip or zstd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from thalweg.errors import SourceError
from thalweg.ingest.captures.pcap import Datagram, Octets, in_batches, octets_of
from thalweg.tally import Tally

EXPORTER: Final = "file"
"""The exporter's name if the address of its datagrams is 0."""

VERSION: Final = b"\x00\x0a"
_HEADER: Final = 16  # RFC 7011, 3.1: version, length, export time, sequence, observation domain


def read_messages(path: Path, *, tally: Tally) -> Iterator[list[Datagram]]:
    """Yield the messages of a file in order, in lists of at most 1024; each has its export time and no address.

    If the file ends within a message, the message is counted as `truncated_packets`.

    Raises SourceError if the file cannot be read, or holds something other than messages.
    """
    with octets_of(path, "an IPFIX file") as octets:
        yield from in_batches(_messages(path, octets, tally))


def _messages(path: Path, octets: Octets, tally: Tally) -> Iterator[Datagram]:
    while head := octets.take(_HEADER):
        place = octets.offset - len(head)
        if not head.startswith(VERSION[: len(head)]):
            what = "not an IPFIX file" if place == 0 else "the file is damaged"
            raise SourceError(
                f"{path}, byte {place}: {what} (no IPFIX message begins here); cut it there or write it again"
            )
        size = int.from_bytes(head[2:4])
        if len(head) >= 4 and size < _HEADER:
            raise SourceError(
                f"{path}, byte {place}: the file is damaged (a message of {size} bytes); cut it there or write it again"
            )
        rest = octets.take(size - _HEADER) if len(head) == _HEADER else b""
        if len(head) < _HEADER or len(rest) < size - _HEADER:
            tally.add("truncated_packets", 1, f"{path}, byte {place}")
            return
        yield Datagram(int.from_bytes(head[4:8]) * 1_000_000, 0, 0, 0, head + rest)
