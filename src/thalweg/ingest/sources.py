"""Every place that flows can be heard from, by how its address begins; and one way to open them."""

# Feeds and readings are imported inside the functions: the process that receives only from a socket stays small.
from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, final
from urllib.parse import unquote, urlsplit

from thalweg.errors import ConfigError
from thalweg.live.receive.udp import UdpConfig
from thalweg.runtime.extras import need

if TYPE_CHECKING:
    from thalweg.ingest.feeds.feed import Feed, Piece, Position, Reading
    from thalweg.ingest.files import ReadOptions


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class FeedOptions:
    """What feeds are opened with.

    from_start: read what a log holds already. allow, buffer_bytes: of UDP. kafka: settings of its client.
    """

    from_start: bool = False
    allow: tuple[str, ...] = ()
    buffer_bytes: int = 64 << 20
    kafka: Mapping[str, str] | None = None


@final
@dataclass(frozen=True, slots=True)
class Source:
    """A kind of source: how its two halves are made. Datagrams need no reading of their own."""

    feed: Callable[[str, FeedOptions], Feed | UdpConfig]
    reading: Callable[[str, ReadOptions], Reading] | None


def _udp(address: str, options: FeedOptions) -> UdpConfig:
    parts = urlsplit(address)
    try:
        port = parts.port
    except ValueError:
        port = None
    if port is None or parts.path not in ("", "/"):
        raise ConfigError(f"{address}: write it as udp://:2055, udp://0.0.0.0:2055 or udp://[::1]:4739")
    return UdpConfig(host=parts.hostname or "", port=port, allow=options.allow, buffer_bytes=options.buffer_bytes)


def _log(dialect: str | None) -> Source:
    def feed(address: str, options: FeedOptions) -> Feed:
        from thalweg.ingest.feeds.logs.feed import LogFeed

        return LogFeed(_path(address), dialect=dialect, from_start=options.from_start)

    def reading(address: str, options: ReadOptions) -> Reading:
        from thalweg.ingest.feeds.logs.reader import LogReading

        return LogReading(options if dialect is None else replace(options, dialect=dialect), subject=address)

    return Source(feed, reading)


def _folder(dialect: str | None) -> Source:
    def feed(address: str, options: FeedOptions) -> Feed:
        from thalweg.ingest.feeds.folder import FolderFeed

        del options
        return FolderFeed(_path(address))

    def reading(address: str, options: ReadOptions) -> Reading:
        from thalweg.ingest.feeds.folder import FolderReading

        return FolderReading(options if dialect is None else replace(options, dialect=dialect), subject=address)

    return Source(feed, reading)


def _exports(kind: str) -> Source:
    def feed(address: str, options: FeedOptions) -> Feed:
        from thalweg.ingest.feeds.exports import ExportFeed

        del options
        return ExportFeed(address, _path(address))

    def reading(address: str, options: ReadOptions) -> Reading:
        from thalweg.ingest.feeds.exports import ExportReading

        del address, options
        return ExportReading(kind)

    return Source(feed, reading)


def _kafka_feed(address: str, options: FeedOptions) -> Feed:
    need("confluent_kafka", extra="kafka")
    from thalweg.ingest.feeds.kafka.feed import KafkaFeed

    return KafkaFeed(address, dict(options.kafka or {}))


def _kafka_reading(address: str, options: ReadOptions) -> Reading:
    from thalweg.ingest.feeds.kafka.reader import KafkaReading

    return KafkaReading(options, subject=address)


SOURCES: Final[Mapping[str, Source]] = {
    "udp": Source(_udp, None),
    "zeek": _log("zeek"),
    "suricata": _log("suricata"),
    "log": _log(None),
    "vpc": _folder("vpc"),
    "folder": _folder(None),
    "pcap": _exports("pcap"),
    "ipfix": _exports("ipfix"),
    "nfcapd": _exports("nfcapd"),
    "kafka": Source(_kafka_feed, _kafka_reading),
}
"""Every source by the word before `:` in its address. docs/live.md has a line for each."""


def open_feed(address: str, options: FeedOptions | None = None) -> Feed | UdpConfig:
    """Choose what an address means; nothing is opened yet. A bare path is known by what it is.

    Raises: ConfigError, where it means nothing.
    """
    return SOURCES[_scheme(address)].feed(address, options or FeedOptions())


def open_reading(address: str, options: ReadOptions) -> Reading | None:
    """Make what reads the pieces of a source; None where it sends datagrams. Raises: ConfigError."""
    make = SOURCES[_scheme(address)].reading
    return None if make is None else make(address, options)


def _scheme(address: str) -> str:
    scheme, colon, rest = address.partition(":")
    if not address:
        raise ConfigError(f"--from: say what to listen to, as udp://:2055. Known: {_known()}")
    if not colon or (scheme not in SOURCES and Path(address).exists()):
        return _guess(address)
    if scheme not in SOURCES or not rest:
        raise ConfigError(
            f"--from {address}: no such kind of source. Known: {', '.join(f'{name}:' for name in SOURCES)}"
        )
    return scheme


def _guess(address: str) -> str:
    path = Path(address)
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in (".gz", ".zst")]
    if path.is_dir():
        return "nfcapd" if any(path.glob("nfcapd.*")) else "folder"
    if path.name.startswith("nfcapd"):
        return "nfcapd"
    if suffixes and suffixes[-1] in (".pcap", ".pcapng", ".cap"):
        return "pcap"
    if suffixes and suffixes[-1] == ".ipfix":
        return "ipfix"
    if path.name.startswith("eve"):
        return "suricata"
    if path.exists() and suffixes and suffixes[-1] in (".log", ".json"):
        return "log"
    raise ConfigError(f"--from {address}: nothing tells what this is; begin it with one of {_known()}")


def _known() -> str:
    return ", ".join(f"{name}:" for name in SOURCES)


def _path(address: str) -> Path:
    """Return the path in `scheme:path`, `scheme:///path` or a bare path."""
    scheme, colon, rest = address.partition(":")
    if not colon or scheme not in SOURCES:
        return Path(address)
    return Path(unquote(rest.removeprefix("//")))


def pack_piece(piece: Piece) -> bytes:
    """Put a piece and its position together, so that they are spooled both or neither."""
    position = json.dumps(piece.position).encode()
    return struct.pack("<I", len(position)) + position + piece.payload


def unpack_piece(packed: bytes) -> tuple[Position, bytes]:
    """Take apart what `pack_piece` made."""
    (length,) = struct.unpack_from("<I", packed)
    return json.loads(packed[4 : 4 + length]), packed[4 + length :]
