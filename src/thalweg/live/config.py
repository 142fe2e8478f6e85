"""A run's configuration, composed of those of its parts. The receiver holds it: nothing here imports anything large."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, final

from thalweg.errors import ConfigError
from thalweg.ingest.netflow.config import DecoderConfig
from thalweg.ingest.options import ReadOptions
from thalweg.ingest.pairing.config import PairingConfig
from thalweg.ingest.sources import SourceConfig
from thalweg.live.spool.writer import SpoolConfig
from thalweg.runtime.settings import as_values


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ScoringConfig:
    """The model that scores."""

    file: Path
    """A model file made by `thalweg fit`."""
    budget: str | None = None
    """How many usual flows may be called anomalous, as "20/day"; if not given, the model's own budget."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto uses a GPU if there is one."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class SinkConfig:
    """Where flows are written."""

    address: str
    """A folder, as "scores/", for Parquet by hour; a name in .jsonl for JSON lines; "-" for standard output."""
    keep: Literal["all", "anomalous"] = "all"
    """Which flows are written."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class WindowConfig:
    """When a window ends: with `flows` flows or at the turn of a span of `span_s`, whichever comes first.

    Raises ConfigError if a number is out of range.
    """

    flows: int = 200_000
    """A window ends with so many flows."""
    span_s: float = 60.0
    """A window ends when a span of so many seconds of the clock is over."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.flows < 1 or self.span_s < 1:
            raise ConfigError("a window holds at least one flow and lasts at least a second")


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class MetricsConfig:
    """Counters for Prometheus."""

    address: str | None = None
    """[HOST]:PORT for http://HOST:PORT/metrics: ":9464" for this machine, "0.0.0.0:9464" for all; none if not given."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class LogConfig:
    """What a run says of itself while it runs."""

    json: bool = False
    """A line of JSON every ten seconds on standard error, instead of the display."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """One run of `thalweg run` or `thalweg collect`; each field is a section of run.toml.

    Raises ConfigError if there is no source or no sink, or a source is named twice.
    """

    model: ScoringConfig | None = None
    """The model that scores; without it, `thalweg collect` writes flows unscored."""
    source: tuple[SourceConfig, ...] = ()
    """Where flows come from; one section for each."""
    sink: tuple[SinkConfig, ...] = ()
    """Where flows are written; one section for each."""
    window: WindowConfig = field(default_factory=WindowConfig)
    """How flows are cut into windows, each of which is scored as one graph."""
    pairing: PairingConfig = field(default_factory=PairingConfig)
    """How one-way records become flows."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """What is remembered of exporters, and how they sample."""
    read: ReadOptions = field(default_factory=ReadOptions)
    """How tables are read: logs, files and messages."""
    spool: SpoolConfig = field(default_factory=SpoolConfig)
    """The queue on disk, and what is known from before."""
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    """Counters for Prometheus."""
    log: LogConfig = field(default_factory=LogConfig)
    """What a run says of itself."""

    def __post_init__(self) -> None:
        """Check what can be checked without opening anything; the scorer checks the rest when it starts."""
        if not self.source:
            raise ConfigError("no source: give --from, for example --from udp://:2055")
        if not self.sink:
            raise ConfigError("no sink: give --to, for example --to scores/")
        addresses = [one.address for one in self.source]
        if twice := [address for address in addresses if addresses.count(address) > 1]:
            raise ConfigError(f"--from {twice[0]} was given twice")

    @property
    def addresses(self) -> tuple[str, ...]:
        """The sources' addresses."""
        return tuple(one.address for one in self.source)

    def deciding(self) -> dict[str, object]:
        """Return the settings by which flows become windows, as JSON values."""
        sections = {name: as_values(getattr(self, name)) for name in ("window", "pairing", "decoder", "read")}
        return {f"{section}.{name}": value for section, fields in sections.items() for name, value in fields.items()}
