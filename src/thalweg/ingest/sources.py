"""The kinds of sources of `thalweg run`, by how an address begins, and one way to open them."""

# Feeds and readers are imported inside the functions: a process that receives only from sockets stays small.
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Final, final
from urllib.parse import unquote, urlsplit

from thalweg.errors import ConfigError

if TYPE_CHECKING:
    from thalweg.ingest.feeds.feed import Feed, PieceReader
    from thalweg.ingest.files import ReadOptions


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class UdpConfig:
    """A socket that exporters send to.

    host: "" listens on all addresses of this machine, IPv4 and IPv6. buffer_bytes: of the socket. allow: networks whose
    datagrams are accepted; if empty, all are.

    Raises ConfigError if a number is out of range or a network cannot be read.
    """

    host: str = ""
    port: int = 2055
    buffer_bytes: int = 64 << 20
    allow: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the numbers and the networks."""
        if not 0 <= self.port < 1 << 16:
            raise ConfigError(f"udp://{self.host}:{self.port}: a port lies between 0 and 65535")
        if not 0 < self.buffer_bytes < 1 << 30:
            raise ConfigError(f"a socket's buffer of {self.buffer_bytes:,} bytes: it has less than 1 GiB")
        for network in self.allow:
            try:
                ip_network(network)
            except ValueError as error:
                raise ConfigError(f"--allow {network}: {error}; write it as 10.0.0.0/8") from None


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class FeedOptions:
    """What feeds are opened with.

    from_start: read what a log already holds. allow, buffer_bytes: see `UdpConfig`. kafka: settings of its client.
    """

    from_start: bool = False
    allow: tuple[str, ...] = ()
    buffer_bytes: int = 64 << 20
    kafka: Mapping[str, str] | None = None


@final
@dataclass(frozen=True, slots=True)
class SourceKind:
    """How the two halves of a source are made. reader: None if the source sends datagrams."""

    feed: Callable[[str, FeedOptions], Feed | UdpConfig]
    reader: Callable[[str, ReadOptions], PieceReader] | None


def _udp(address: str, options: FeedOptions) -> UdpConfig:
    parts = urlsplit(address)
    try:
        port = parts.port
    except ValueError:
        port = None
    if port is None or parts.path not in ("", "/"):
        raise ConfigError(f"{address}: write it as udp://:2055, udp://0.0.0.0:2055 or udp://[::1]:4739")
    return UdpConfig(host=parts.hostname or "", port=port, allow=options.allow, buffer_bytes=options.buffer_bytes)


def _log(dialect: str | None) -> SourceKind:
    def feed(address: str, options: FeedOptions) -> Feed:
        from thalweg.ingest.feeds.logs.feed import LogFeed

        return LogFeed(_path(address), dialect=dialect, from_start=options.from_start)

    def reader(address: str, options: ReadOptions) -> PieceReader:
        from thalweg.ingest.feeds.logs.reader import LogReader

        return LogReader(options if dialect is None else replace(options, dialect=dialect), subject=address)

    return SourceKind(feed, reader)


def _folder(dialect: str | None) -> SourceKind:
    def feed(address: str, options: FeedOptions) -> Feed:
        from thalweg.ingest.feeds.folder import FolderFeed

        del options
        return FolderFeed(_path(address))

    def reader(address: str, options: ReadOptions) -> PieceReader:
        from thalweg.ingest.feeds.folder import FolderReader

        return FolderReader(options if dialect is None else replace(options, dialect=dialect), subject=address)

    return SourceKind(feed, reader)


def _exports(kind: str) -> SourceKind:
    def feed(address: str, options: FeedOptions) -> Feed:
        from thalweg.ingest.feeds.exports import ExportFeed

        del options
        return ExportFeed(address, _path(address))

    def reader(address: str, options: ReadOptions) -> PieceReader:
        from thalweg.ingest.feeds.exports import ExportReader

        del address, options
        return ExportReader(kind)

    return SourceKind(feed, reader)


def _kafka_feed(address: str, options: FeedOptions) -> Feed:
    try:
        from thalweg.ingest.feeds.kafka.feed import KafkaFeed
    except ImportError as error:
        raise ConfigError(f"{address}: Kafka needs `pip install 'thalweg[kafka]'` ({error})") from error
    return KafkaFeed(address, dict(options.kafka or {}))


def _kafka_reader(address: str, options: ReadOptions) -> PieceReader:
    from thalweg.ingest.feeds.kafka.reader import KafkaReader

    return KafkaReader(options, subject=address)


SOURCES: Final[Mapping[str, SourceKind]] = {
    "udp": SourceKind(_udp, None),
    "zeek": _log("zeek"),
    "suricata": _log("suricata"),
    "log": _log(None),
    "vpc": _folder("vpc"),
    "folder": _folder(None),
    "pcap": _exports("pcap"),
    "ipfix": _exports("ipfix"),
    "nfcapd": _exports("nfcapd"),
    "kafka": SourceKind(_kafka_feed, _kafka_reader),
}
"""Every kind of source by the word before `:` in its address. docs/live.md has a line for each."""


def open_feed(address: str, options: FeedOptions | None = None) -> Feed | UdpConfig:
    """Make the feed of an address, or the configuration of its socket; nothing is opened yet.

    A path without a kind before it is recognised by what it is. Raises ConfigError if the address cannot be understood.
    """
    return SOURCES[_scheme(address)].feed(address, options or FeedOptions())


def open_reader(address: str, options: ReadOptions) -> PieceReader | None:
    """Make the reader of a source's pieces; None if the source sends datagrams. Raises as `open_feed` does."""
    make = SOURCES[_scheme(address)].reader
    return None if make is None else make(address, options)


def _scheme(address: str) -> str:
    scheme, colon, rest = address.partition(":")
    if not address:
        raise ConfigError(f"--from: name a source, for example udp://:2055. Known: {_known()}")
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
    raise ConfigError(f"--from {address}: cannot tell the kind of this source; put it before the path: {_known()}")


def _known() -> str:
    return ", ".join(f"{name}:" for name in SOURCES)


def _path(address: str) -> Path:
    """Return the path in `scheme:path`, `scheme:///path` or a bare path."""
    scheme, colon, rest = address.partition(":")
    if not colon or scheme not in SOURCES:
        return Path(address)
    return Path(unquote(rest.removeprefix("//")))
