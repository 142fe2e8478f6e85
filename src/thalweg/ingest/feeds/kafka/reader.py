"""What a Kafka address means, and the reader of its topic's messages: JSON as lines, or one Arrow message."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, final
from urllib.parse import parse_qsl, unquote

from thalweg.errors import ConfigError
from thalweg.ingest.feeds.logs.reader import LogReader
from thalweg.ingest.options import ReadOptions
from thalweg.ingest.tabular.columnar import MAGICS
from thalweg.ingest.tabular.dialects.recognition import Recognition, known
from thalweg.tables import Flows

_FORMATS: Final = ("auto", "json", "arrow")
_QUERY: Final = ("group", "format", "start")
_TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")
# Around pmacct's flows (print_markers).
_MARK: Final = re.compile(rb'^\{"event_type": ?"purge_[a-z]+"[^\n]*\n', re.MULTILINE)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class KafkaConfig:
    """What an address means.

    brokers: host:port, with commas between. format: `auto`, `json` or `arrow`, or the dialect of the JSON. from_start:
    whether a group without offsets starts at the beginning, else at the end.

    Raises ConfigError if the address cannot be understood.
    """

    brokers: str
    topic: str
    group: str = "thalweg"
    format: str = "auto"
    from_start: bool = False

    def __post_init__(self) -> None:
        """Check the names."""
        if not all(self.brokers.split(",")):
            raise ConfigError("kafka: an address names a broker, as in kafka://broker:9092/flows")
        if "@" in self.brokers:
            raise ConfigError(
                "kafka: names and passwords (sasl.username, sasl.password) go into the configuration file"
            )
        if not _TOPIC.fullmatch(self.topic) or self.topic in (".", ".."):
            raise ConfigError(f"kafka: {self.topic!r} names no topic; write kafka://broker:9092/flows")
        if not self.group:
            raise ConfigError("kafka: a group has a name, as in group=thalweg")
        if self.format not in _FORMATS:
            try:
                known(self.format)
            except ConfigError as error:
                raise ConfigError(f"kafka: format={self.format} is none of {', '.join(_FORMATS)}; {error}") from error

    @classmethod
    def of(cls, address: str) -> KafkaConfig:
        """Read `kafka://broker[:9092][,broker2]/topic[?group=thalweg&format=auto&start=latest]`.

        >>> KafkaConfig.of("kafka://a,b:9093/flows?start=earliest").topic
        'flows'
        """
        place, _, query = address.removeprefix("kafka:").removeprefix("//").partition("?")
        brokers, _, topic = place.partition("/")
        try:
            given = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
        except ValueError as error:
            raise ConfigError(f"{address}: what comes after ? reads name=value&name=value") from error
        said = dict(given)
        if len(said) < len(given) or (unknown := [name for name in said if name not in _QUERY]):
            wrong = unknown[0] if len(said) == len(given) else "one of them twice"
            raise ConfigError(f"{address}: after ? come {', '.join(_QUERY)}, each once at most; not {wrong}")
        start = said.pop("start", "latest")
        if start not in ("latest", "earliest"):
            raise ConfigError(f"{address}: start is latest or earliest, not {start!r}")
        return cls(brokers=brokers, topic=unquote(topic), from_start=start == "earliest", **said)


def json_lines(value: bytes) -> bytes | None:
    """Write each object of a message in a line of its own; None if it is not JSON.

    A message is an object, a list of them, or lines already (pmacct's kafka_multi_values).
    """
    value = value.strip()
    if not value.startswith((b"{", b"[")):
        return None
    if value.startswith(b"{") and b"\n" not in value:
        return value
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return value  # lines; what is damaged is counted when it is read
    return b"\n".join(json.dumps(one).encode() for one in (found if isinstance(found, list) else [found]))


@final
class KafkaReader(LogReader):
    """Reads pieces of a topic: records to be paired if a message is one direction, else flows.

    subject: the topic's address, which may name the format; messages call a piece by it.

    Raises ConfigError if the address cannot be understood.
    """

    def __init__(self, options: ReadOptions | None = None, *, subject: str) -> None:
        config = KafkaConfig.of(subject)
        super().__init__(options, subject=subject)
        if config.format not in _FORMATS:
            self._options = replace(self._options, dialect=config.format)

    def _rows(self, piece: bytes) -> Iterator[tuple[Recognition, Flows]]:
        if b'"purge_' in piece and not piece.startswith(MAGICS):
            piece, num = _MARK.subn(b"", piece)
            self.tally.add("other_events", num, self._subject)
        return super()._rows(piece)
