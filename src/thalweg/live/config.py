"""The configuration of a run, in plain values: the receiver imports nothing large, and passes it on as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, Self, final

from thalweg.errors import ConfigError
from thalweg.live.spool.writer import SpoolConfig

Keep = Literal["all", "anomalous"]
DeviceName = Literal["auto", "cpu", "cuda"]


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """One run.

    model: a model file; None collects flows without scoring them. sources, sinks: addresses, see docs/live.md.
    numbered: all sources that the spool has ever had, by number. spool: the folder of the queue and of the state that
    survives a restart. window_size, window_s: a window ends with so many flows, or at the turn of a span of the clock,
    whichever comes first. keep: which flows are written. budget, device: as for `thalweg score`. allow, buffer_bytes:
    see `UdpConfig`. from_start: read what logs already hold. hold_s: how long a record waits for the other direction of
    its flow; 0 pairs nothing. sampling: one packet in so many, by exporter's address. dialect, mapping, keep_wrapped:
    see `ReadOptions`. kafka: settings of its client. queue: how large the spool may grow. snapshot_s: about how much of
    the spool is read again after a kill.

    Raises ConfigError if a value is missing or out of range.
    """

    model: Path | None
    sources: tuple[str, ...]
    sinks: tuple[str, ...]
    spool: Path
    numbered: tuple[str, ...] = ()
    window_size: int = 200_000
    window_s: float = 60.0
    keep: Keep = "all"
    budget: str | None = None
    device: DeviceName = "auto"
    allow: tuple[str, ...] = ()
    buffer_bytes: int = 64 << 20
    from_start: bool = False
    hold_s: float = 10.0
    sampling: Mapping[str, int] = field(default_factory=dict)
    dialect: str | None = None
    mapping: Mapping[str, str] = field(default_factory=dict)
    keep_wrapped: bool = False
    kafka: Mapping[str, str] = field(default_factory=dict)
    queue: SpoolConfig = field(default_factory=SpoolConfig)
    snapshot_s: float = 10.0

    def __post_init__(self) -> None:
        """Check what can be checked without opening anything; the scorer checks the rest when it starts."""
        if not self.sources:
            raise ConfigError("nothing to listen to: give --from, for example --from udp://:2055")
        if not self.sinks:
            raise ConfigError("nowhere to write to: give --to, for example --to scores/")
        if self.window_size < 1 or self.window_s < 1:
            raise ConfigError("a window holds at least one flow and lasts at least a second")
        if twice := [name for name in self.sources if self.sources.count(name) > 1]:
            raise ConfigError(f"--from {twice[0]} was given twice")

    def deciding(self) -> dict[str, object]:
        """Return the settings by which flows become windows, as JSON values."""
        names = ("window_size", "window_s", "hold_s", "sampling", "dialect", "mapping", "keep_wrapped")
        return {name: value for name, value in json.loads(self.to_json()).items() if name in names}

    def to_json(self) -> str:
        """Return it as text for another process."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        given = json.loads(text)
        for name in ("sources", "sinks", "numbered", "allow"):
            given[name] = tuple(given[name])
        given["model"] = None if given["model"] is None else Path(given["model"])
        given["spool"], given["queue"] = Path(given["spool"]), SpoolConfig(**given["queue"])
        return cls(**given)
