"""The commands that listen: run, collect, exporters, decode."""

# Rooms are imported inside the commands: `thalweg --help` should not wait for torch.
from __future__ import annotations

import ipaddress
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console

from thalweg.cli.options import ConfigFile, Device, DeviceName, Dialect, Json, KeepWrapped, Map, Model, Restated
from thalweg.cli.show.terminal import ERR, OUT, print_json
from thalweg.errors import ConfigError

if TYPE_CHECKING:
    from thalweg.live.config import RunConfig

_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0}

From = Annotated[
    list[str] | None,
    typer.Option(
        "--from",
        metavar="SOURCE",
        help="What to listen to, may be given several times: udp://:2055 (NetFlow v5, v9, IPFIX), zeek:/path/conn.log, "
        "suricata:/path/eve.json, vpc:/folder, folder:/path, pcap:, ipfix:, nfcapd:, kafka://broker/topic.",
    ),
]
To = Annotated[
    list[str] | None,
    typer.Option(
        "--to",
        metavar="SINK",
        help="Where to write, may be given several times: a folder, as scores/, for Parquet by hour; a name in .jsonl "
        "for JSON lines; - for JSON lines on standard output.",
    ),
]
Spool = Annotated[
    Path,
    typer.Option(help="The folder of the queue on disk, and of what is known from before: templates, places in logs."),
]
Windows = Annotated[
    str, typer.Option("--window", help="Flows that fill a window, or a span: 200000, 60s, or both: 200000,60s.")
]
Sampling = Annotated[
    list[str] | None,
    typer.Option(
        "--sampling", metavar="ADDRESS=N", help="An exporter takes one packet in N, whatever it says; *=N for all."
    ),
]
Allow = Annotated[
    list[str] | None,
    typer.Option("--allow", metavar="NETWORK", help="Only exporters in these networks, as 10.0.0.0/8."),
]
Metrics = Annotated[
    str | None,
    typer.Option(metavar="[HOST]:PORT", help="Counters for Prometheus at http://HOST:PORT/metrics, as :9464."),
]
JsonLog = Annotated[
    bool, typer.Option("--json-log", help="A line of JSON every ten seconds on standard error, instead of the display.")
]
FromStart = Annotated[
    bool, typer.Option("--from-start", help="Read what followed logs hold already, not only new lines.")
]
Hold = Annotated[
    float,
    typer.Option(help="Seconds that a record waits for the other direction of its flow; 0 pairs nothing."),
]
SpoolSize = Annotated[
    float, typer.Option("--spool-gb", help="How large the queue may grow; then the oldest is dropped, and counted.")
]
BufferSize = Annotated[
    float, typer.Option("--buffer-mb", help="The socket's buffer; the system may give less, and says so.")
]


def run(
    model: Model,
    sources: From = None,
    sinks: To = None,
    only_anomalous: Annotated[bool, typer.Option("--only-anomalous", help="Write anomalous flows alone.")] = False,
    spool: Spool = Path("thalweg-spool"),
    window: Windows = "200000,60s",
    budget: Restated = None,
    metrics: Metrics = None,
    json_log: JsonLog = False,
    hold: Hold = 10.0,
    sampling: Sampling = None,
    allow: Allow = None,
    from_start: FromStart = False,
    spool_gb: SpoolSize = 4.0,
    buffer_mb: BufferSize = 64.0,
    device: Device = DeviceName.auto,
    dialect: Dialect = None,
    column_map: Map = None,
    config: ConfigFile = None,
    keep_wrapped: KeepWrapped = False,
) -> None:
    """Listen to exporters and logs, and score flows as they come, day and night.

    SIGTERM or Ctrl-C finishes the window; SIGHUP loads the model again. After a crash the same command goes on where
    it was: nothing that was received is lost, and nothing is written twice.
    """
    settings = _settings(
        model, sources, sinks, spool, window, hold, sampling, allow, spool_gb, buffer_mb, dialect, column_map, config,
        keep_wrapped, from_start=from_start, keep="anomalous" if only_anomalous else "all", budget=budget,
        device=device.value,
    )  # fmt: skip
    _live(settings, metrics, json_log)


def collect(
    sources: From = None,
    sinks: To = None,
    spool: Spool = Path("thalweg-spool"),
    window: Windows = "200000,60s",
    metrics: Metrics = None,
    json_log: JsonLog = False,
    hold: Hold = 10.0,
    sampling: Sampling = None,
    allow: Allow = None,
    from_start: FromStart = False,
    spool_gb: SpoolSize = 4.0,
    buffer_mb: BufferSize = 64.0,
    dialect: Dialect = None,
    column_map: Map = None,
    config: ConfigFile = None,
    keep_wrapped: KeepWrapped = False,
) -> None:
    """Listen as `run` does, and write the flows without scoring them: what the first `thalweg fit` learns from."""
    settings = _settings(
        None, sources, sinks, spool, window, hold, sampling, allow, spool_gb, buffer_mb, dialect, column_map, config,
        keep_wrapped, from_start=from_start,
    )  # fmt: skip
    _live(settings, metrics, json_log)


def _settings(
    model: Path | None,
    sources: list[str] | None,
    sinks: list[str] | None,
    spool: Path,
    window: str,
    hold: float,
    sampling: list[str] | None,
    allow: list[str] | None,
    spool_gb: float,
    buffer_mb: float,
    dialect: str | None,
    column_map: list[str] | None,
    config: Path | None,
    keep_wrapped: bool,
    **more: Any,
) -> RunConfig:
    from thalweg.cli.config_file import parse_map, read_config
    from thalweg.ingest.netflow.config import DecoderConfig
    from thalweg.ingest.options import ReadOptions
    from thalweg.ingest.pairing.config import PairingConfig
    from thalweg.ingest.sources import source_at
    from thalweg.live.config import RunConfig, ScoringConfig, SinkConfig, WindowConfig
    from thalweg.live.spool.writer import SpoolConfig

    if model is not None and not model.is_file():
        raise ConfigError(f"{model}: there is no such model; make one with `thalweg fit`")
    given = read_config(config)
    size, span_s = _window(window)
    of_sources = {
        "allow": allow or [],
        "buffer_bytes": int(buffer_mb * (1 << 20)),
        "from_start": more["from_start"],
        "client": {name: str(value) for name, value in given.kafka.items()},
    }
    return RunConfig(
        model=None if model is None else ScoringConfig(file=model, budget=more["budget"], device=more["device"]),
        source=tuple(source_at(address, **of_sources) for address in sources or ()),
        sink=tuple(SinkConfig(address=address, keep=more.get("keep", "all")) for address in sinks or ()),
        window=WindowConfig(flows=size, span_s=span_s),
        pairing=PairingConfig(hold_s=hold) if hold > 0 else PairingConfig(pair=False),
        decoder=DecoderConfig(sampling=_intervals(sampling or [])),
        read=ReadOptions(
            dialect=dialect, mapping={**given.map, **parse_map(column_map or [])}, keep_wrapped=keep_wrapped
        ),
        spool=SpoolConfig(folder=spool, max_bytes=int(spool_gb * (1 << 30))),
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
    """Write an exporter's address as it is told: IPv4 that is mapped as IPv4, IPv6 in its short form.

    `file` is who sends where a file of messages does not say it. Raises: ConfigError.
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


def _live(settings: RunConfig, metrics: str | None, json_log: bool) -> None:
    from thalweg.cli.show.live import live_display
    from thalweg.live.receive.receiver import Receiver

    receiver = Receiver(settings)
    with live_display(ERR, json_log=json_log) as tell:
        if metrics is not None:
            from thalweg.live.metrics import serve_metrics

            serve_metrics(metrics, settings.spool.folder)
        code = receiver.run(tell)
    sys.exit(code)


def exporters(
    sources: From = None,
    seconds: Annotated[float, typer.Option(help="How long to listen.")] = 15.0,
    spool: Annotated[
        Path | None, typer.Option(help="The folder of a run that listens now: ask it instead of listening.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Who is sending: versions, templates, sampling, gaps, clock errors, rates. Look here when nothing arrives.

    With --from, listens at a port that nobody else has, or reads a pcap; without, asks the run in --spool.
    """
    from thalweg.cli.show.console import compiling_notes
    from thalweg.cli.show.live import exporters_report
    from thalweg.live.survey import ask_run, look

    if sources:
        with compiling_notes(ERR):
            found = look(tuple(sources), seconds, ERR)
    else:
        found = ask_run(spool or Path("thalweg-spool"))
    if as_json:
        print_json(found)
        return
    # A pipe has no width: addresses that are cut short would be of no use to whoever reads it.
    wide = OUT if OUT.is_terminal else Console(markup=False, highlight=False, width=200)
    for part in exporters_report(found):
        wide.print(part)


def decode(
    file: Annotated[
        Path, typer.Argument(help="A pcap or pcapng with export packets, or an IPFIX file; .gz, .zst too.")
    ],
    count: Annotated[int | None, typer.Option("-n", "--count", min=1, help="Stop after so many lines.")] = None,
    templates: Annotated[bool, typer.Option("--templates", help="Print templates, too.")] = False,
) -> None:
    """Print what export packets hold, a line of JSON for each record, every field by the name of its element."""
    import json

    from thalweg.live.survey import describe_file

    shown = 0
    kinds: dict[str, int] = {}
    for record in describe_file(file):
        kinds[record["kind"]] = kinds.get(record["kind"], 0) + 1
        if record["kind"] in ("template", "withdrawal") and not templates:
            continue
        print(json.dumps(record))  # noqa: T201  # plain lines for other programs, not for a terminal's width
        shown += 1
        if count is not None and shown >= count:
            break
    ERR.print(", ".join(f"{num:,} {kind}" for kind, num in kinds.items()) or "no export packets", soft_wrap=True)


LIVE: Final[dict[Callable[..., None], str]] = {
    run: "Example: `thalweg run office.thalweg --from udp://:2055 --to scores/ --metrics :9464`",
    collect: "Example: `thalweg collect --from udp://:2055 --to flows/`, then `thalweg fit flows/ -o office.thalweg`",
    exporters: "Example: `thalweg exporters --from udp://:2055 --seconds 30`",
    decode: "Example: `thalweg decode capture.pcap -n 5`",
}
"""The commands and an example of each; `cli` puts them under `thalweg`."""
