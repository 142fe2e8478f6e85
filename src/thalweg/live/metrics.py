"""Metrics for Prometheus, from the status of both processes of a run."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, final

from prometheus_client import CollectorRegistry, MetricsHandler
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from thalweg.errors import ConfigError, SinkError
from thalweg.live.status import RECEIVER, SCORER, read_status
from thalweg.tally import MEANINGS

_OF_EXPORTERS: Final = {
    "datagrams": "Datagrams received.",
    "bytes": "Bytes of datagrams received.",
    "flows": "Records that became flows.",
    "lost": "Missing by sequence numbers: flows (v5), datagrams (v9), records (IPFIX).",
    "reordered_datagrams": "Datagrams that came after a later one.",
    "sequence_resets": "Times that the sequence restarted.",
    "malformed": "Datagrams and templates that contradict their own lengths or counts.",
    "other_records": "Records that are not flows.",
    "event_records": "Records of a firewall about flows that have only begun.",
    "held_sets": "Data sets that came before their template.",
    "sets_without_template": "Data sets whose template did not come in time.",
    "corrected_times": "Records whose times were impossible, and were corrected.",
    "changed_templates": "Templates replaced by other ones of the same id.",
    "skipped_sets": "Sets skipped, as their sender had taken its share of the time.",
    "disbelieved_intervals": "Sampling intervals that are too large, and were not used.",
}
_AGE: Final = "Age of this process's figures: above some seconds, they are stale, as if its disk is full."
_LABELS: Final = ("exporter", "domain", "version")
_MAX_DOMAINS: Final = 16
"""Domains and versions of one address that have labels of their own; the others share one."""
_MAX_CONNECTIONS: Final = 16
_REQUEST_S: Final = 5.0


@final
class RunCollector(Collector):
    """Reads the latest status at each scrape; the name of each metric starts with thalweg_."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        receiver, scorer = read_status(self._folder, RECEIVER), read_status(self._folder, SCORER)
        if receiver is not None:
            yield _gauge("receiver_status_age_seconds", _AGE, time.time() - receiver["time"])
            yield _counter("received_datagrams", "Datagrams received.", receiver["datagrams"])
            yield _counter("received_bytes", "Bytes of datagrams received.", receiver["bytes"])
            yield _gauge(
                "spool_bytes",
                "Bytes in the spool, unread or kept for a restart.",
                receiver["spool_bytes"],
            )
            yield _gauge("spool_max_bytes", "Bytes to which the spool may grow.", receiver["spool_max_bytes"])
            yield _gauge("spool_free_bytes", "Bytes free on the spool's disk.", receiver.get("spool_free_bytes", 0))
            for name, num in receiver["dropped"].items():
                meaning = f"{name.capitalize()} dropped unread from the full spool since this process started."
                yield _counter(f"spool_dropped_{name}", meaning, num)
            yield _counter("scorer_restarts", "Times that the scorer died and was restarted.", receiver["restarts"])
        if scorer is not None:
            yield _gauge("scorer_status_age_seconds", _AGE, time.time() - scorer["time"])
            yield _counter("windows", "Windows written.", scorer["windows"])
            yield _counter("scored_flows", "Flows scored.", scorer["flows"])
            yield _counter("anomalous_flows", "Flows above the threshold.", scorer["anomalous"])
            yield _gauge("waiting_flows", "Flows that are in no window yet.", scorer["waiting_flows"])
            yield _counter("model_reloads", "Times that the model was reloaded.", scorer["reloads"])
            failed = bool(scorer.get("reload_error"))
            yield _gauge(
                "model_reload_failed", "1 if the model could not be reloaded and the previous one stays in use.", failed
            )
            if receiver is not None and scorer["reached"]:
                lag = max(receiver["time"] - scorer["reached"], 0.0)
                yield _gauge(
                    "lag_seconds",
                    "Age of the latest mark that was read; marks come at least once a second.",
                    lag,
                )
            if scorer["latest"]:
                yield _gauge("latest_window_flows", "Flows of the latest window.", scorer["latest"]["flows"])
                yield _gauge("latest_window_timestamp_seconds", "When it ended.", scorer["latest"]["ended"])
            yield from _by_exporter(scorer["exporters"])
        yield _losses(receiver, scorer)


def _losses(receiver: dict[str, Any] | None, scorer: dict[str, Any] | None) -> Metric:
    """Return every count of what was dropped, changed or is doubtful, also those that are 0: an alarm needs a value."""
    totals = dict.fromkeys(MEANINGS, 0)
    for status in (receiver, scorer):
        for name, num in (status or {}).get("counts", {}).items():
            totals[name] = totals.get(name, 0) + num
    family = CounterMetricFamily("thalweg_counted", "What was dropped, changed or is doubtful.", labels=("what",))
    for name, num in totals.items():
        family.add_metric((name,), num)
    return family


def _by_exporter(exporters: list[dict[str, Any]]) -> Iterator[Metric]:
    named, other = _named(exporters)
    for name, meaning in _OF_EXPORTERS.items():
        family = CounterMetricFamily(f"thalweg_exporter_{name}", meaning, labels=_LABELS)
        for one in named:
            family.add_metric(_labels(one), one[name])
        for address, rest in other.items():
            family.add_metric((address, "other", "other"), sum(one[name] for one in rest))
        yield family
    for name, key, meaning in (
        ("clock_error_seconds", "clock_error_s", "The exporter's clock minus ours."),
        ("last_seen_timestamp_seconds", "last_seen", "When its latest datagram was received."),
        ("sampling", "sampling", "One packet in so many is observed; 0 if not known."),
    ):
        gauge = GaugeMetricFamily(f"thalweg_exporter_{name}", meaning, labels=_LABELS)
        for one in named:
            gauge.add_metric(_labels(one), one[key])
        yield gauge


def _named(exporters: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    """Return exporters with labels of their own, and the others by address: anyone can invent domains of an address."""
    named: list[dict[str, Any]] = []
    other: dict[str, list[dict[str, Any]]] = {}
    num = Counter[str]()
    for one in exporters:
        num[one["exporter"]] += 1
        if num[one["exporter"]] <= _MAX_DOMAINS:
            named.append(one)
        else:
            other.setdefault(one["exporter"], []).append(one)
    return named, other


def _labels(one: dict[str, Any]) -> tuple[str, ...]:
    return one["exporter"], str(one["domain"]), str(one["version"])


def _counter(name: str, meaning: str, value: float) -> Metric:
    return CounterMetricFamily(f"thalweg_{name}", meaning, value=value)


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(f"thalweg_{name}", meaning, value=value)


@final
class _Server(ThreadingHTTPServer):
    """Serves a few connections at once, each for a short time. If more come, the oldest is closed."""

    daemon_threads = True
    request_queue_size = 32

    def __init__(self, address: tuple[str, int], registry: CollectorRegistry) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._open: dict[socket.socket, float] = {}
        self._lock = threading.Lock()
        super().__init__(address, MetricsHandler.factory(registry))

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own."""
        with self._lock:
            now = time.monotonic()
            late = [one for one, since in self._open.items() if now - since > _REQUEST_S]
            for one in late or list(self._open)[: len(self._open) - _MAX_CONNECTIONS + 1]:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)  # its thread ends
            self._open[request] = now
        request.settimeout(_REQUEST_S)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that hung up."""


def serve_metrics(address: str, folder: Path) -> tuple[str, int]:
    """Serve the metrics over HTTP from a thread. address: [HOST]:PORT; without a host, only for this machine.

    Returns the host and the port. Raises ConfigError if the address cannot be read, and SinkError if the port cannot be
    opened.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65_535:
        raise ConfigError(f"--metrics {address}: write it as :9464 (for this machine), or 0.0.0.0:9464 (for all)")
    registry = CollectorRegistry(auto_describe=False)
    registry.register(RunCollector(folder))
    host = host.strip("[]") or "127.0.0.1"
    try:
        server = _Server((host, int(port)), registry)
    except OSError as error:
        raise SinkError(f"--metrics {address}: cannot listen there ({error.strerror}); choose another port") from error
    threading.Thread(target=server.serve_forever, name="thalweg-metrics", daemon=True).start()
    return host, int(server.server_port)
