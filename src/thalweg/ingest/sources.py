"""The kinds of sources of `thalweg run`, by how an address begins, and one way to open them."""

# Feeds and readers are imported inside the functions: a process that receives only from sockets stays small.
from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final
from urllib.parse import unquote, urlsplit

from thalweg.errors import ConfigError
from thalweg.runtime.extras import need
from thalweg.runtime.settings import fields_from

if TYPE_CHECKING:
    from thalweg.ingest.feeds.feed import Feed, PieceReader
    from thalweg.ingest.options import ReadOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceConfig(abc.ABC):
    """A source; its kind, which the address begins with, decides what else can be set."""

    address: str
    """Where flows come from, for example udp://:2055, zeek:/path/conn.log, kafka://broker/topic."""

    @classmethod
    def from_values(cls, values: Mapping[str, Any], place: str) -> SourceConfig:
        """Make the configuration of a source from plain values, the address among them.

        place: where the values stand, for messages. Raises ConfigError if the address cannot be understood, or a
        setting is not one of this kind of source.
        """
        address = values.get("address")
        if not isinstance(address, str):
            raise ConfigError(f'{place} lacks an address, as in address = "udp://:2055"')
        kind = SOURCES[_scheme(address)]
        return kind.config(**fields_from(kind.config, values, f"{place} {address}:"))


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class UdpConfig(SourceConfig):
    """A socket that exporters send to. Without a host it listens on all addresses of this machine, IPv4 and IPv6.

    Raises ConfigError if the address cannot be understood, a number is out of range or a network cannot be read.
    """

    buffer_bytes: int = 64 << 20
    """The socket's buffer; the system may grant less."""
    allow: tuple[str, ...] = ()
    """Networks whose datagrams are accepted, as "10.0.0.0/8"; if empty, all are."""

    def __post_init__(self) -> None:
        """Check the address, the number and the networks."""
        parts = urlsplit(self.address)
        if self.address.startswith("udp:") and parts.path in ("", "/"):
            try:
                is_understood = parts.port is not None
            except ValueError as error:
                if "range" in str(error):
                    raise ConfigError(f"{self.address}: a port lies between 0 and 65535") from None
                is_understood = False
        else:
            is_understood = False
        if not is_understood:
            raise ConfigError(f"{self.address}: write it as udp://:2055, udp://0.0.0.0:2055 or udp://[::1]:4739")
        if not 0 < self.buffer_bytes < 1 << 30:
            raise ConfigError(f"a socket's buffer of {self.buffer_bytes:,} bytes: it has less than 1 GiB")
        for network in self.allow:
            try:
                ip_network(network)
            except ValueError as error:
                raise ConfigError(f"--allow {network}: {error}; write it as 10.0.0.0/8") from None

    @property
    def host(self) -> str:
        """The address to listen on; "" for all."""
        return urlsplit(self.address).hostname or ""

    @property
    def port(self) -> int:
        """The port; the system chooses one for 0."""
        return urlsplit(self.address).port or 0


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class LogSourceConfig(SourceConfig):
    """A log that is followed as it grows."""

    from_start: bool = False
    """Read what the log already holds, not only new lines."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class FileSourceConfig(SourceConfig):
    """A file, or a folder that is watched."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class KafkaSourceConfig(SourceConfig):
    """A topic of Kafka."""

    client: Mapping[str, str] = field(default_factory=dict)
    """Settings of librdkafka, as "security.protocol"."""


@final
@dataclass(frozen=True, slots=True)
class SourceKind:
    """What a source of one kind can be set to, and how its two halves are made; both None if it sends datagrams."""

    config: type[SourceConfig]
    feed: Callable[[Any], Feed] | None
    reader: Callable[[str, ReadOptions], PieceReader] | None


def _log(dialect: str | None) -> SourceKind:
    def feed(config: LogSourceConfig) -> Feed:
        from thalweg.ingest.feeds.logs.feed import LogFeed

        return LogFeed(_path(config.address), dialect=dialect, from_start=config.from_start)

    def reader(address: str, options: ReadOptions) -> PieceReader:
        from thalweg.ingest.feeds.logs.reader import LogReader

        return LogReader(options if dialect is None else replace(options, dialect=dialect), subject=address)

    return SourceKind(LogSourceConfig, feed, reader)


def _folder(dialect: str | None) -> SourceKind:
    def feed(config: FileSourceConfig) -> Feed:
        from thalweg.ingest.feeds.folder import FolderFeed

        return FolderFeed(_path(config.address))

    def reader(address: str, options: ReadOptions) -> PieceReader:
        from thalweg.ingest.feeds.folder import FolderReader

        return FolderReader(options if dialect is None else replace(options, dialect=dialect), subject=address)

    return SourceKind(FileSourceConfig, feed, reader)


def _exports(kind: str) -> SourceKind:
    def feed(config: FileSourceConfig) -> Feed:
        from thalweg.ingest.feeds.exports import ExportFeed

        return ExportFeed(config.address, _path(config.address))

    def reader(address: str, options: ReadOptions) -> PieceReader:
        from thalweg.ingest.feeds.exports import ExportReader

        del address, options
        return ExportReader(kind)

    return SourceKind(FileSourceConfig, feed, reader)


def _kafka_feed(config: KafkaSourceConfig) -> Feed:
    need("confluent_kafka", extra="kafka")
    from thalweg.ingest.feeds.kafka.feed import KafkaFeed

    return KafkaFeed(config.address, dict(config.client))


def _kafka_reader(address: str, options: ReadOptions) -> PieceReader:
    from thalweg.ingest.feeds.kafka.reader import KafkaReader

    return KafkaReader(options, subject=address)


SOURCES: Final[Mapping[str, SourceKind]] = {
    "udp": SourceKind(UdpConfig, None, None),
    "zeek": _log("zeek"),
    "suricata": _log("suricata"),
    "log": _log(None),
    "vpc": _folder("vpc"),
    "folder": _folder(None),
    "pcap": _exports("pcap"),
    "ipfix": _exports("ipfix"),
    "nfcapd": _exports("nfcapd"),
    "kafka": SourceKind(KafkaSourceConfig, _kafka_feed, _kafka_reader),
}
"""Every kind of source by the word before `:` in its address. docs/live.md has a line for each."""


def source_at(address: str, **settings: Any) -> SourceConfig:
    """Make the configuration of the source at an address. Settings that its kind does not have are left out.

    A path without a kind before it is recognised by what it is. Raises ConfigError if the address cannot be understood,
    or a setting has a wrong value.
    """
    known = {one.name for one in fields(SOURCES[_scheme(address)].config)}
    given = {name: value for name, value in settings.items() if name in known}
    return SourceConfig.from_values({"address": address, **given}, "--from")


def open_feed(config: SourceConfig) -> Feed:
    """Make the feed of a source that is no socket; nothing is opened yet. Raises ConfigError as its kind does."""
    make = SOURCES[_scheme(config.address)].feed
    assert make is not None, "sockets are opened by who receives"
    return make(config)


def open_reader(address: str, options: ReadOptions) -> PieceReader | None:
    """Make the reader of a source's pieces; None if the source sends datagrams. Raises as `source_at` does."""
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
