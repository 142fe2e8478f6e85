"""Measures a `thalweg run` that receives NetFlow v5 over loopback UDP at a given rate."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from thalweg.benchmark.speed.cases import CASES, Traffic
from thalweg.benchmark.speed.exporting import one_way, send, v5_datagrams
from thalweg.benchmark.speed.progress import Report, StepProgress
from thalweg.detect import Detector
from thalweg.errors import ConfigError, SinkError
from thalweg.model.thalweg import ThalwegModel
from thalweg.tables import Flows, concat

_WINDOWS: Final = 3
"""Windows of traffic that are sent over and over, with new times and sequence numbers."""
_DEADLINE_S: Final = 120.0
_QUIET_S: Final = 5.0
"""Time after which the costs of the start are over."""
_TRAINING_STEPS: Final = 60

KINDS: Final = {
    "each record a flow": (False, ("--hold", "0")),
    "both directions, paired": (True, ("--hold", "10")),
}
"""By kind: whether both directions are sent, and the options of `thalweg run`, which pairs them or not."""


def run_live(
    flows_per_s: float, seconds: float, case: str, seed: int, report: Report = lambda _: None
) -> list[dict[str, Any]]:
    """Start a `thalweg run`, send v5 records to it at a rate, and wait until all is written.

    case: the traffic, a name in `CASES`. A v5 flow is a record of one direction.

    Returns: a row for each kind: records sent, edges scored, datagrams lost in the kernel and in the spool, seconds,
    the largest lag, dwell time (from the end of a window until its scores were written; polled four times a second),
    CPU seconds of sender, receiver and scorer; `kept_up`, whether it lost nothing and was never more than ten seconds
    behind. Raises ConfigError if a value is out of range or this is not Linux; SinkError if the run ended early.
    """
    _check(flows_per_s, seconds)
    rows = []
    with tempfile.TemporaryDirectory(prefix="thalweg-live-") as name:
        folder = Path(name)
        report(StepProgress(0, len(KINDS), "fitting a model", None))
        windows = _prepare(folder, case, seed)
        for done, (kind, (both, options)) in enumerate(KINDS.items()):
            report(StepProgress(done, len(KINDS), kind, None))
            np.save(folder / "datagrams.npy", v5_datagrams(one_way(windows, both=both)))
            rows.append({"kind": kind, **_measure(folder, options, flows_per_s, seconds, f"run{done}")})
    return rows


def run_day(flows_per_s: float, speed: float, case: str, seed: int, report: Report = lambda _: None) -> dict[str, Any]:
    """Send a day of traffic, sped up by `speed`, and measure memory and lag.

    flows_per_s: v5 records a second, the mean of the day before the speed-up; the least, at night, is a fifth of the
    most.

    Returns: `hours`, a row for each: flows/s sent, the largest lag, resident memory of both processes at its end, MB;
    `sent_flows`, `edges`, `lost_datagrams`; `grown_mb`, the last six hours' mean of memory less that of hours 6 to 12.
    Raises as `run_live`.
    """
    _check(flows_per_s * speed, 3600 / speed)
    hour_s = 3600 / speed
    shape = 0.6 - 0.4 * np.cos((np.arange(24) - 3) / 24 * 2 * np.pi)
    rates = [float(rate) for rate in flows_per_s * speed * shape / shape.mean()]
    with tempfile.TemporaryDirectory(prefix="thalweg-live-") as name:
        folder = Path(name)
        report(StepProgress(0, 24, "fitting a model", None))
        windows = _prepare(folder, case, seed)
        np.save(folder / "datagrams.npy", v5_datagrams(one_way(windows)))
        port, spool = _free_port(), folder / "day"
        hours: list[dict[str, Any]] = []
        with _running(folder, spool, port, ("--hold", "10", "--window", "200000,5s")) as run:
            sender = _send(folder, port, rates, hour_s)
            begun = time.monotonic()
            for hour in range(24):
                report(StepProgress(hour, 24, f"hour {hour}", (24 - hour) * hour_s))
                lags = [0.0]
                while time.monotonic() - begun < (hour + 1) * hour_s:
                    time.sleep(0.5)
                    lags.append(_lag(spool))
                memory = {part: _resident_mb(pid) for part, pid in _processes(run.pid).items()}
                row = {"hour": hour, "sent_flows_per_s": rates[hour], "most_lag_s": max(lags), "memory_mb": memory}
                hours.append(row)
            sent = json.loads(sender.communicate()[0])
            receiver, scorer = _settle(spool, run, sent["datagrams"])
            run.send_signal(signal.SIGTERM)
            run.wait(_DEADLINE_S)
        committed = json.loads((spool / "committed.json").read_text())
    memory_mb = [sum(row["memory_mb"].values()) for row in hours]
    return {
        "hours": hours,
        "sent_flows": sent["flows"],
        "edges": committed["num_flows"],
        "lost_datagrams": sent["datagrams"] - receiver["datagrams"],
        "counts": scorer["counts"],
        "most_lag_s": max(row["most_lag_s"] for row in hours),
        "grown_mb": float(np.mean(memory_mb[18:]) - np.mean(memory_mb[6:12])),
    }


def run_idle(seconds: float, case: str, seed: int, report: Report = lambda _: None) -> dict[str, Any]:
    """Measure a `thalweg run` with a model while nobody sends.

    Returns: `seconds`; `processes`, for receiver and scorer each CPU seconds and resident memory, MB; `core_share`, of
    one core, and `memory_mb`, of both: pages that both share count twice.
    Raises as `run_live`.
    """
    _check(1_000, seconds)
    with tempfile.TemporaryDirectory(prefix="thalweg-live-") as name:
        folder = Path(name)
        report(StepProgress(0, 1, "fitting a model", None))
        _prepare(folder, case, seed)
        with _running(folder, folder / "idle", _free_port(), ()) as run:
            report(StepProgress(0, 1, "idle", seconds + _QUIET_S))
            time.sleep(_QUIET_S)
            before, begun = _cpu(run.pid), time.monotonic()
            time.sleep(seconds)
            lasted, after = time.monotonic() - begun, _cpu(run.pid)
            processes = {
                part: {"cpu_s": after[part] - before[part], "memory_mb": _resident_mb(pid)}
                for part, pid in _processes(run.pid).items()
            }
    return {
        "seconds": lasted,
        "processes": processes,
        "core_share": sum(one["cpu_s"] for one in processes.values()) / lasted,
        "memory_mb": sum(one["memory_mb"] for one in processes.values()),
    }


def _check(rate: float, seconds: float) -> None:
    if rate < 1_000 or seconds < 1:
        raise ConfigError("--rate is at least 1,000 flows/s, and --seconds at least 1")
    if sys.platform != "linux":
        raise ConfigError("measuring UDP at a rate needs Linux")


def _prepare(folder: Path, case: str, seed: int) -> Flows:
    """Fit a model for a case, and return windows of its traffic."""
    traffic = Traffic(CASES[case], seed)
    training = replace(ThalwegModel().training, steps=_TRAINING_STEPS)
    Detector(ThalwegModel(training=training), seed=seed).fit(traffic.window(_WINDOWS)).save(folder / "model.thalweg")
    return concat(traffic.windows(_WINDOWS))


def _send(folder: Path, port: int, rates: list[float], seconds: float) -> subprocess.Popen[str]:
    call = f"{send.__name__}({str(folder / 'datagrams.npy')!r}, {port}, {rates}, {seconds})"
    code = f"from {send.__module__} import {send.__name__}; {call}"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def _measure(folder: Path, options: tuple[str, ...], rate: float, seconds: float, name: str) -> dict[str, Any]:
    port = _free_port()
    spool = folder / name
    with _running(folder, spool, port, options) as run:
        before = _cpu(run.pid)
        begun = time.monotonic()
        sender = _send(folder, port, [rate], seconds)
        lags: list[float] = []
        dwells: dict[int, float] = {}
        while sender.poll() is None:
            time.sleep(0.25)
            lags.append(_lag(spool))
            latest = (_status(spool, "scorer") or {}).get("latest")
            if latest:
                dwells[latest["number"]] = latest["written"] - latest["ended"]
        sent = json.loads(sender.communicate()[0])
        receiver, scorer = _settle(spool, run, sent["datagrams"])
        lasted = time.monotonic() - begun
        used = {part: after - before[part] for part, after in _cpu(run.pid).items()}
        run.send_signal(signal.SIGTERM)
        run.wait(_DEADLINE_S)
    committed = json.loads((spool / "committed.json").read_text())
    counts = dict(scorer["counts"])
    written = sum(
        pl.scan_parquet(path).select(pl.len()).collect().item() for path in (folder / f"{name}-out").rglob("*.parquet")
    )
    lost = sent["datagrams"] - receiver["datagrams"]
    return {
        "sent_flows": sent["flows"],
        "sent_flows_per_s": sent["flows"] / sent["seconds"],
        "edges": committed["num_flows"],
        "written": written,
        "left_out": {
            name: counts[name] for name in ("repeated_records", "duplicate_flows", "joined_pieces") if name in counts
        },
        "kernel_drops": receiver["counts"].get("kernel_drops", 0),
        "lost_datagrams": lost,
        "dropped": receiver["dropped"],
        "seconds": lasted,
        "most_lag_s": max(lags, default=0.0),
        "dwell_s": {"median": float(np.median(list(dwells.values()))), "most": max(dwells.values())}
        if dwells
        else None,
        "cpu_s": {"sender": sent["cpu_s"], **used},
        "kept_up": not lost and not any(receiver["dropped"].values()) and max(lags, default=0.0) < 10.0,
    }


@contextmanager
def _running(folder: Path, spool: Path, port: int, options: tuple[str, ...]) -> Iterator[subprocess.Popen[bytes]]:
    """Start a run, and yield it when it listens and its model is ready."""
    command = [
        sys.executable, "-m", "thalweg", "run", str(folder / "model.thalweg"), "--from", f"udp://127.0.0.1:{port}",
        "--to", str(folder / f"{spool.name}-out"), "--spool", str(spool), *options,
    ]  # fmt: skip
    log = (folder / f"{spool.name}.log").open("wb")
    run = subprocess.Popen(command, stderr=log)
    try:
        until = time.monotonic() + _DEADLINE_S
        while _status(spool, "scorer") is None or _status(spool, "receiver") is None:
            if run.poll() is not None or time.monotonic() > until:
                raise SinkError(f"`thalweg run` did not start: {(folder / f'{spool.name}.log').read_text()[-500:]}")
            time.sleep(0.1)
        yield run
    finally:
        if run.poll() is None:
            run.kill()
            run.wait()
        log.close()


def _settle(spool: Path, run: subprocess.Popen[bytes], num_datagrams: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Wait until what was sent is received and decoded."""
    until = time.monotonic() + _DEADLINE_S
    before = (-1, -1)
    while True:
        receiver, scorer = _status(spool, "receiver"), _status(spool, "scorer")
        if run.poll() is not None or receiver is None or scorer is None or time.monotonic() > until:
            raise SinkError("`thalweg run` ended or hung during the measurement")
        now = (receiver["datagrams"], sum(one["datagrams"] for one in scorer["exporters"]))
        if now == (num_datagrams, num_datagrams) or (now == before and now[0] == now[1]):
            return receiver, scorer
        before = now
        time.sleep(1.1)


def _status(spool: Path, name: str) -> dict[str, Any] | None:
    """Return the status of a process of the run; None if it has not written one yet."""
    try:
        found = json.loads((spool / f"{name}.json").read_text())
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _lag(spool: Path) -> float:
    receiver, scorer = _status(spool, "receiver"), _status(spool, "scorer")
    if receiver is None or scorer is None or not scorer["reached"]:
        return 0.0
    return max(float(receiver["time"]) - float(scorer["reached"]), 0.0)


def _processes(pid: int) -> dict[str, int]:
    """Return a run's two processes."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {"receiver": pid, "scorer": int(children[0])}


def _cpu(pid: int) -> dict[str, float]:
    """Return CPU seconds of a run's two processes."""
    return {part: _cpu_of(of) for part, of in _processes(pid).items()}


def _cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
