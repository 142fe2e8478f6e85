"""The page of metrics: what a run's status becomes, and who may ask for it, how often."""

from __future__ import annotations

import json
import os
import socket
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.live.conftest import until
from thalweg.errors import ConfigError, SinkError
from thalweg.live.metrics import _OF_EXPORTERS, serve_metrics


def page(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        return str(answer.read().decode())


def exporter(address: str, domain: int, **more: Any) -> dict[str, Any]:
    names = (*_OF_EXPORTERS, "clock_error_s", "last_seen", "sampling")
    return {"exporter": address, "domain": domain, "version": 9, **dict.fromkeys(names, 1), **more}


def status(folder: Path, exporters: list[dict[str, Any]], at: float) -> None:
    scorer = {
        "time": at, "windows": 3, "flows": 5, "anomalous": 1, "waiting_flows": 0, "reloads": 0, "reached": 0,
        "latest": {}, "exporters": exporters, "counts": {"quarantined_pieces": 2},
    }  # fmt: skip
    (folder / "scorer.json").write_text(json.dumps(scorer))


def test_a_thousand_idle_connections_keep_nobody_from_the_page(tmp_path: Path) -> None:
    status(tmp_path, [], time.time())
    host, port = serve_metrics(":0", tmp_path)
    assert host == "127.0.0.1"
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with ExitStack() as stack:
        for _ in range(400):
            stack.enter_context(socket.create_connection((host, port)))
        assert "thalweg_windows_total 3.0" in page(port)
        assert len(os.listdir("/proc/self/fd")) - before < 400 + 40  # noqa: PTH208  # 400 are ours
    until(lambda: len(os.listdir("/proc/self/fd")) <= before + 2, "all are closed")  # noqa: PTH208


def test_invented_domains_of_one_address_share_a_label(tmp_path: Path) -> None:
    status(tmp_path, [exporter("192.0.2.1", n) for n in range(1_000)] + [exporter("192.0.2.2", 7)], time.time())
    lines = [
        one for one in page(serve_metrics(":0", tmp_path)[1]).splitlines() if one.startswith("thalweg_exporter_flows")
    ]
    assert len(lines) == 16 + 1 + 1
    assert 'thalweg_exporter_flows_total{domain="other",exporter="192.0.2.1",version="other"} 984.0' in lines
    assert 'thalweg_exporter_flows_total{domain="7",exporter="192.0.2.2",version="9"} 1.0' in lines


def test_figures_say_how_old_they_are_and_unreadable_ones_are_left_out(tmp_path: Path) -> None:
    status(tmp_path, [], time.time() - 100)
    _, port = serve_metrics(":0", tmp_path)
    (age,) = [one for one in page(port).splitlines() if one.startswith("thalweg_scorer_status_age_seconds ")]
    assert 100 <= float(age.split()[1]) < 100 + 600
    (tmp_path / "scorer.json").unlink()
    (tmp_path / "scorer.json").mkdir()  # cannot be read, as if no descriptor were left
    assert "thalweg_windows_total" not in page(port)
    assert 'thalweg_counted_total{what="quarantined_pieces"} 0.0' in page(port)


def test_an_address_is_a_port_of_this_machine_unless_it_names_more(tmp_path: Path) -> None:
    host, port = serve_metrics("0.0.0.0:0", tmp_path)
    assert host == "0.0.0.0"
    with pytest.raises(SinkError, match="choose another port"):
        serve_metrics(f"0.0.0.0:{port}", tmp_path)
    for wrong in ("9464", "host:", ":70000", ":x"):
        with pytest.raises(ConfigError, match="write it as :9464"):
            serve_metrics(wrong, tmp_path)
