"""What `run` and `collect` share: their options, how these become a RunConfig, and the start of the receiver."""

# Packages are imported inside the functions: `thalweg --help` should not wait for them.
from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

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
        help="Read followed logs from their beginning, not only their new lines.",
        rich_help_panel=_RECEIVING,
    ),
]
Allow = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        metavar="NETWORK",
        help="Accept only exporters in this network, such as 10.0.0.0/8; repeat for more.",
        rich_help_panel=_RECEIVING,
    ),
]
BufferSize = Annotated[
    float | None,
    typer.Option(
        "--buffer-mb",
        help="The socket's receive buffer in MiB; if the system gives less, a message says so.",
        show_default="64",
        rich_help_panel=_RECEIVING,
    ),
]
Windows = Annotated[
    str | None,
    typer.Option(
        "--window",
        help="When a window ends: after so many flows (200000), after a time (60s), or the first of both (200000,60s).",
        show_default="200000,60s",
        rich_help_panel=_WINDOWS,
    ),
]
Hold = Annotated[
    float | None,
    typer.Option(
        help="Seconds that a one-way record waits for the other direction of its flow; 0 pairs nothing.",
        show_default="10",
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
        help="Where to write; repeat for more: a folder, such as scores/, for Parquet by hour; a name in .jsonl for "
        "JSON lines; - for JSON lines on standard output.",
        rich_help_panel=WRITING,
    ),
]
Spool = Annotated[
    Path | None,
    typer.Option(
        help="The folder of the queue and of the state that a restart needs: templates, positions in logs.",
        show_default="thalweg-spool",
        rich_help_panel=_QUEUE,
    ),
]
SpoolSize = Annotated[
    float | None,
    typer.Option(
        "--spool-gb",
        help="The queue's largest size in GiB; beyond it the oldest data is dropped and counted.",
        show_default="4",
        rich_help_panel=_QUEUE,
    ),
]
Metrics = Annotated[
    str | None,
    typer.Option(
        metavar="[HOST]:PORT",
        help="Serve counters for Prometheus at http://HOST:PORT/metrics: :9464 for this machine, 0.0.0.0:9464 for all "
        "that can reach it.",
        rich_help_panel=_WATCHING,
    ),
]
RunFile = Annotated[
    Path | None,
    typer.Option(
        "--config", help="The configuration of a run in TOML, as --print-config prints it. Options override it."
    ),
]
PrintConfig = Annotated[
    bool,
    typer.Option("--print-config", help="Print the whole configuration in TOML, with comments, and do nothing else."),
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
    *,
    is_scored: bool = True,
    is_example: bool = False,
    sources: list[str] | None,
    from_start: bool,
    allow: list[str] | None,
    buffer_mb: float | None,
    dialect: str | None,
    column_map: list[str] | None,
    config: Path | None,
    keep_wrapped: bool,
    window: str | None,
    hold: float | None,
    sampling: list[str] | None,
    sinks: list[str] | None,
    spool: Path | None,
    spool_gb: float | None,
    metrics: str | None,
    json_log: bool,
    only_anomalous: bool = False,
    budget: str | None = None,
    device: DeviceName | None = None,
) -> RunConfig:
    """Make a run's configuration from run.toml, if there is one, and the options, which win.

    model: a model file, or run.toml. is_scored: false to collect flows. is_example: fill in what
    is missing, to print it.

    Raises ConfigError if the model file does not exist, or a setting is unknown or invalid.
    """
    from thalweg.cli.config_file import parse_map, read_toml
    from thalweg.ingest.options import ReadOptions
    from thalweg.ingest.sources import source_at
    from thalweg.live.config import RunConfig
    from thalweg.runtime.settings import as_values, check_sections, make_settings

    if model is not None and model.suffix == ".toml":
        if config is not None:
            raise ConfigError(f"{model} and --config {config}: a run has one configuration")
        model, config = None, model
    given = {} if config is None else read_toml(config)
    place = "thalweg run:" if config is None else f"{config}:"
    maps = [given.pop("map", {}), parse_map(column_map or [])]
    check_sections(RunConfig, given, place)
    read = given.setdefault("read", {})
    maps.insert(0, read.get("mapping", {}))
    for mapping in maps:
        check_sections(ReadOptions, {"mapping": mapping}, f"{place} [read]")
    read["mapping"] = {name: column for mapping in maps for name, column in mapping.items()}
    if not is_scored:
        given.pop("model", None)
    _set(given, "model", file=model, budget=budget, device=None if device is None else device.value)
    _set(given, "read", dialect=dialect, keep_wrapped=keep_wrapped or None)
    _set(given, "spool", folder=spool, max_bytes=None if spool_gb is None else int(spool_gb * (1 << 30)))
    _set(given, "metrics", address=metrics)
    _set(given, "log", json=json_log or None)
    if window is not None:
        _set(given, "window", **_window(window))
    if hold is not None:
        _set(given, "pairing", **({"hold_s": hold, "pair": True} if hold > 0 else {"pair": False}))
    if sampling:
        _set(given, "decoder", sampling=_intervals(sampling))
    if sources:
        given["source"] = [{"address": address} for address in sources]
    if sinks:
        given["sink"] = [{"address": address} for address in sinks]
    if is_example:
        given.setdefault("source", [{"address": "udp://:2055"}])
        given.setdefault("sink", [{"address": "scores/" if is_scored else "flows/"}])
        if is_scored:
            given.setdefault("model", {}).setdefault("file", "office.thalweg")
    of_sources: dict[str, Any] = {
        "from_start": from_start or None,
        "allow": allow,
        "buffer_bytes": None if buffer_mb is None else int(buffer_mb * (1 << 20)),
    }
    for source in given.get("source", ()):
        known = as_values(source_at(source["address"])) if isinstance(source.get("address"), str) else ()
        source.update({name: value for name, value in of_sources.items() if value is not None and name in known})
    for sink in given.get("sink", ()):
        sink.update({"keep": "anomalous"} if only_anomalous else {})
    made = make_settings(RunConfig, given, place)
    if is_scored and made.model is None:
        raise ConfigError("no model: name the file that `thalweg fit` made, or a run.toml with [model]")
    if made.model is not None and not made.model.file.is_file() and not is_example:
        raise ConfigError(f"{made.model.file}: there is no such model; make one with `thalweg fit`")
    return made


def _set(given: dict[str, Any], section: str, **values: Any) -> None:
    """Put options into a section; None means that an option was not given."""
    typed = {name: value for name, value in values.items() if value is not None}
    if typed:
        given.setdefault(section, {}).update(typed)


def _window(text: str) -> dict[str, Any]:
    """Read --window: flows, a span of time, or both; what is not given keeps its default."""
    found: dict[str, Any] = {}
    for part in (part.strip() for part in text.split(",")):
        number, unit = part[:-1], part[-1:]
        if part.isdigit():
            found["flows"] = int(part)
        elif unit in _UNITS and number.replace(".", "", 1).isdigit():
            found["span_s"] = float(number) * _UNITS[unit]
        else:
            raise ConfigError(f"--window {text}: write it as 200000, 60s, 5m, or both: 200000,60s")
    return found


def _intervals(given: list[str]) -> dict[str, int]:
    found = {}
    for pair in given:
        address, equals, number = pair.rpartition("=")
        if not equals or not number.isdigit():
            raise ConfigError(f"--sampling {pair}: write it as --sampling 10.0.0.1=1000")
        found[address] = int(number)
    return found


def receive(config: RunConfig, *, is_printed: bool) -> None:
    """Receive until stopped, show the status, exit with the receiver's code. is_printed: only print the settings."""
    if is_printed:
        from thalweg.cli.config_file import config_in_toml

        sys.stdout.write(config_in_toml(config))
        return
    from thalweg.cli.show.status import status_line, status_log
    from thalweg.live.receive.receiver import Receiver

    receiver = Receiver(config)
    with status_log() if config.log.json else status_line(ERR) as report:
        if config.metrics.address is not None:
            from thalweg.live.metrics import serve_metrics

            host, port = serve_metrics(config.metrics.address, config.spool.folder)
            place = f"metrics: http://{f'[{host}]' if ':' in host else host}:{port}/metrics"
            is_open = host != "localhost" and not host.startswith("127.") and host != "::1"
            if not config.log.json:
                note = ", open to whoever can reach this machine" if is_open else ""
                ERR.print(f"{place}{note}", markup=False, soft_wrap=True)
        code = receiver.run(report)
    sys.exit(code)
