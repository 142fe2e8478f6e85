"""Counters for Prometheus: what both processes of a run say of themselves, by exporter where it is told by exporter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, final

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from thalweg.errors import ConfigError, SinkError
from thalweg.live.status import RECEIVER, SCORER, read_status
from thalweg.tally import MEANINGS

_OF_EXPORTERS: Final = {
    "datagrams": "Datagrams received.",
    "bytes": "Bytes of datagrams received.",
    "flows": "Records that became flows.",
    "lost": "Missing by the sequence: flows (v5), datagrams (v9), records (IPFIX).",
    "reordered_datagrams": "Datagrams that came after a later one.",
    "sequence_resets": "Times that the sequence began anew.",
    "malformed": "Datagrams and templates that do not say what they claim.",
    "other_records": "Records that are no flows.",
    "event_records": "Records of a firewall about flows that have only begun.",
    "held_sets": "Sets of records that came before their template.",
    "sets_without_template": "Sets of records whose template did not come in time.",
    "corrected_times": "Records whose times could not be, and were mended.",
}


@final
class RunCollector(Collector):
    """Reads the latest status whenever it is asked; each metric's name begins with thalweg_."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        """Give all metrics."""
        receiver, scorer = read_status(self._folder, RECEIVER), read_status(self._folder, SCORER)
        if receiver is not None:
            yield _counter("received_datagrams", "Datagrams received.", receiver["datagrams"])
            yield _counter("received_bytes", "Bytes of datagrams received.", receiver["bytes"])
            yield _gauge("spool_bytes", "Bytes that wait in the spool or may be read again.", receiver["spool_bytes"])
            yield _gauge("spool_max_bytes", "Bytes that the spool may grow to.", receiver["spool_max_bytes"])
            for name, num in receiver["dropped"].items():
                meaning = f"{name.capitalize()} that had to leave the full spool unread since this process began."
                yield _counter(f"spool_dropped_{name}", meaning, num)
            yield _counter("scorer_restarts", "Times that the scorer died and was begun again.", receiver["restarts"])
        if scorer is not None:
            yield _counter("windows", "Windows written.", scorer["windows"])
            yield _counter("scored_flows", "Flows scored.", scorer["flows"])
            yield _counter("anomalous_flows", "Flows above the threshold.", scorer["anomalous"])
            yield _gauge("waiting_flows", "Flows that are in no window yet.", scorer["waiting_flows"])
            yield _counter("model_reloads", "Times that the model was loaded again.", scorer["reloads"])
            failed = bool(scorer.get("reload_error"))
            yield _gauge(
                "model_reload_failed", "1 where the model could not be loaded again, and the old one stays.", failed
            )
            if receiver is not None and scorer["reached"]:
                lag = max(receiver["time"] - scorer["reached"], 0.0)
                yield _gauge(
                    "lag_seconds", "Age of the latest mark that was read; marks come once a second at least.", lag
                )
            if scorer["latest"]:
                yield _gauge("latest_window_flows", "Flows of the latest window.", scorer["latest"]["flows"])
                yield _gauge("latest_window_timestamp_seconds", "When it was full.", scorer["latest"]["ended"])
            yield from _by_exporter(scorer["exporters"])
        yield _losses(receiver, scorer)


def _losses(receiver: dict[str, Any] | None, scorer: dict[str, Any] | None) -> Metric:
    """Give every count of what was dropped, changed or doubted; 0 where there was none, so that alarms have a value."""
    totals = dict.fromkeys(MEANINGS, 0)
    for status in (receiver, scorer):
        for name, num in (status or {}).get("counts", {}).items():
            totals[name] = totals.get(name, 0) + num
    family = CounterMetricFamily("thalweg_counted", "What was dropped, changed or doubted.", labels=("what",))
    for name, num in totals.items():
        family.add_metric((name,), num)
    return family


def _by_exporter(exporters: list[dict[str, Any]]) -> Iterator[Metric]:
    labels = ("exporter", "domain", "version")
    for name, meaning in _OF_EXPORTERS.items():
        family = CounterMetricFamily(f"thalweg_exporter_{name}", meaning, labels=labels)
        for one in exporters:
            family.add_metric(_labels(one), one[name])
        yield family
    for name, key, meaning in (
        ("clock_error_seconds", "clock_error_s", "The exporter's clock minus ours."),
        ("last_seen_timestamp_seconds", "last_seen", "When its latest datagram came."),
        ("sampling", "sampling", "One packet in so many is seen; 0 where nobody said."),
    ):
        gauge = GaugeMetricFamily(f"thalweg_exporter_{name}", meaning, labels=labels)
        for one in exporters:
            gauge.add_metric(_labels(one), one[key])
        yield gauge


def _labels(one: dict[str, Any]) -> tuple[str, ...]:
    return one["exporter"], str(one["domain"]), str(one["version"])


def _counter(name: str, meaning: str, value: float) -> Metric:
    return CounterMetricFamily(f"thalweg_{name}", meaning, value=value)


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(f"thalweg_{name}", meaning, value=value)


def serve_metrics(address: str, folder: Path) -> int:
    """Serve them over HTTP from a thread. address: [HOST]:PORT. Returns: the port.

    Raises: ConfigError, where it is no address; SinkError, where it cannot be listened at.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65_535:
        raise ConfigError(f"--metrics {address}: write it as :9464 or 127.0.0.1:9464")
    registry = CollectorRegistry(auto_describe=False)
    registry.register(RunCollector(folder))
    try:
        server, _ = start_http_server(int(port), host.strip("[]") or "0.0.0.0", registry)
    except OSError as error:
        raise SinkError(f"--metrics {address}: cannot listen there ({error.strerror}); choose another port") from error
    return int(server.server_port)
