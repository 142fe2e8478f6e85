"""What `run` and `collect` share: their options, the RunConfig that these make, and how it runs."""

# Rooms are imported inside the functions: `thalweg --help` should not wait for them.
from __future__ import annotations

import ipaddress
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from thalweg.cli.options import DeviceName
from thalweg.cli.show.terminal import ERR
from thalweg.errors import ConfigError

if TYPE_CHECKING:
    from thalweg.live.config import RunConfig

_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0}

# The panels that help groups the options in.
_RECEIVING: Final = "What is received"
_WINDOWS: Final = "How records become windows of flows"
WRITING: Final = "What is written"
_QUEUE: Final = "The queue on disk"
_WATCHING: Final = "How to watch it"

From = Annotated[
    list[str] | None,
    typer.Option(
        "--from",
        metavar="SOURCE",
        help="A source of flows; repeat for more: udp://:2055 (NetFlow v5, v9, IPFIX), zeek:/path/conn.log, "
        "suricata:/path/eve.json, vpc:/folder, folder:/path, pcap:, ipfix:, nfcapd:, kafka://broker/topic.",
        rich_help_panel=_RECEIVING,
    ),
]
FromStart = Annotated[
    bool,
    typer.Option(
        "--from-start",
        help="Read what followed logs already hold, not only new lines.",
        rich_help_panel=_RECEIVING,
    ),
]
Allow = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        metavar="NETWORK",
        help="Accept only exporters in this network, as 10.0.0.0/8; repeat for more.",
        rich_help_panel=_RECEIVING,
    ),
]
BufferSize = Annotated[
    float,
    typer.Option(
        "--buffer-mb",
        help="The socket's receive buffer in MiB; if the system gives less, a message says so.",
        rich_help_panel=_RECEIVING,
    ),
]
Windows = Annotated[
    str,
    typer.Option(
        "--window",
        help="A window ends after so many flows, or with a span of the clock: 200000, 60s, or both: 200000,60s.",
        rich_help_panel=_WINDOWS,
    ),
]
Hold = Annotated[
    float,
    typer.Option(
        help="Seconds that a one-way record waits for the other direction of its flow; 0 pairs nothing.",
        rich_help_panel=_WINDOWS,
    ),
]
Sampling = Annotated[
    list[str] | None,
    typer.Option(
        "--sampling",
        metavar="ADDRESS=N",
        help="Override an exporter's sampling: one packet in N; *=N for all exporters; repeat for more.",
        rich_help_panel=_WINDOWS,
    ),
]
To = Annotated[
    list[str] | None,
    typer.Option(
        "--to",
        metavar="SINK",
        help="Where to write; repeat for more: a folder, as scores/, for Parquet by hour; a name in .jsonl for JSON "
        "lines; - for JSON lines on standard output.",
        rich_help_panel=WRITING,
    ),
]
Spool = Annotated[
    Path,
    typer.Option(
        help="The folder of the queue, and of the state that a restart needs: templates, places in logs.",
        rich_help_panel=_QUEUE,
    ),
]
SpoolSize = Annotated[
    float,
    typer.Option(
        "--spool-gb",
        help="The queue's largest size in GiB; beyond it the oldest data is dropped and counted.",
        rich_help_panel=_QUEUE,
    ),
]
Metrics = Annotated[
    str | None,
    typer.Option(
        metavar="[HOST]:PORT",
        help="Serve counters for Prometheus at http://HOST:PORT/metrics, as :9464.",
        rich_help_panel=_WATCHING,
    ),
]
JsonLog = Annotated[
    bool,
    typer.Option(
        "--json-log",
        help="Write a line of JSON every ten seconds to standard error, instead of the display.",
        rich_help_panel=_WATCHING,
    ),
]


def run_config(
    model: Path | None,
    sources: list[str] | None,
    sinks: list[str] | None,
    spool: Path,
    *,
    window: str,
    hold: float,
    sampling: list[str] | None,
    allow: list[str] | None,
    from_start: bool,
    spool_gb: float,
    buffer_mb: float,
    dialect: str | None,
    column_map: list[str] | None,
    config: Path | None,
    keep_wrapped: bool,
    only_anomalous: bool = False,
    budget: str | None = None,
    device: DeviceName = DeviceName.auto,
) -> RunConfig:
    """Make a run's configuration from what was typed. model: None to collect flows without scoring them.

    Raises ConfigError if there is no such model, or if something that was typed cannot be parsed.
    """
    from thalweg.cli.config_file import parse_map, read_config
    from thalweg.live.config import RunConfig
    from thalweg.live.spool.writer import SpoolConfig

    if model is not None and not model.is_file():
        raise ConfigError(f"{model}: there is no such model; make one with `thalweg fit`")
    given = read_config(config)
    size, span_s = _window(window)
    return RunConfig(
        model=model,
        sources=tuple(sources or ()),
        sinks=tuple(sinks or ()),
        spool=spool,
        window_size=size,
        window_s=span_s,
        allow=tuple(allow or ()),
        buffer_bytes=int(buffer_mb * (1 << 20)),
        from_start=from_start,
        hold_s=hold,
        sampling=_intervals(sampling or []),
        dialect=dialect,
        mapping={**given.map, **parse_map(column_map or [])},
        kafka={name: str(value) for name, value in given.kafka.items()},
        keep_wrapped=keep_wrapped,
        keep="anomalous" if only_anomalous else "all",
        budget=budget,
        device=device.value,
        queue=SpoolConfig.of(int(spool_gb * (1 << 30))),
    )


def _window(text: str) -> tuple[int, float]:
    """Read --window: flows, a span of time, or both."""
    size, seconds = 200_000, 60.0
    for part in (part.strip() for part in text.split(",")):
        number, unit = part[:-1], part[-1:]
        if part.isdigit():
            size = int(part)
        elif unit in _UNITS and number.replace(".", "", 1).isdigit():
            seconds = float(number) * _UNITS[unit]
        else:
            raise ConfigError(f"--window {text}: write it as 200000, 60s, 5m, or both: 200000,60s")
    return size, seconds


def _intervals(given: list[str]) -> dict[str, int]:
    found = {}
    for pair in given:
        address, equals, number = pair.rpartition("=")
        if not equals or not number.isdigit():
            raise ConfigError(f"--sampling {pair}: write it as --sampling 10.0.0.1=1000")
        found[_exporter(address, pair)] = int(number)
    return found


def _exporter(text: str, pair: str) -> str:
    """Write an exporter's address as it is reported: mapped IPv4 as IPv4, IPv6 in its short form.

    `file` is the exporter of a file of messages that names none. Raises ConfigError if it is no address.
    """
    if text in ("*", "file"):
        return text
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ConfigError(
            f"--sampling {pair}: {text!r} is no address; write it as --sampling 10.0.0.1=1000, or *=1000 for all"
        ) from None
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(address.ipv4_mapped or ipaddress.IPv6Address(int(address)))  # without a zone, as %eth0


def receive(settings: RunConfig, metrics: str | None, *, json_log: bool) -> None:
    """Receive until stopped, show how it goes, and exit with the receiver's code."""
    from thalweg.cli.show.status import status_line, status_log
    from thalweg.live.receive.receiver import Receiver

    receiver = Receiver(settings)
    with status_log() if json_log else status_line(ERR) as report:
        if metrics is not None:
            from thalweg.live.metrics import serve_metrics

            serve_metrics(metrics, settings.spool)
        code = receiver.run(report)
    sys.exit(code)
