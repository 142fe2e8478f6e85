"""The status of `run` and `collect`: in place on a terminal, else a line a minute, or lines of JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final, final

from rich.console import Console
from rich.text import Text

from thalweg.cli.show.progress import progress
from thalweg.tally import MEANINGS

_PLAIN_EVERY_S: Final = 60.0
_JSON_EVERY_S: Final = 10.0
_LOSSES: Final = (
    "kernel_drops",
    "unspooled_datagrams",
    "dropped_datagrams",
    "dropped_pieces",
    "damaged_datagrams",
    "missing_segments",
)
_SET_ASIDE: Final = ("quarantined_datagrams", "quarantined_pieces", "quarantined_flows")
_STALE_S: Final = 30.0


def summary(status: dict[str, Any], before: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the key numbers of a run. before: an earlier status, for rates.

    lag_s: seconds between now and the arrival of what was decoded last; None before anything was.
    """
    receiver, scorer = status["receiver"], status.get("scorer") or {}
    now = receiver["time"]
    records = sum(one["flows"] for one in scorer.get("exporters", ()))
    rate = 0.0
    if before is not None and before.get("scorer") and scorer:
        earlier = sum(one["flows"] for one in before["scorer"]["exporters"])
        rate = max(records - earlier, 0) / max(scorer["time"] - before["scorer"]["time"], 1e-3)
    counts = dict(receiver["counts"])
    for name, num in scorer.get("counts", {}).items():
        counts[name] = counts.get(name, 0) + num
    return {
        "exporters": sum(1 for one in scorer.get("exporters", ()) if now - one["last_seen"] < 300),
        "records": records,
        "records_per_s": round(rate, 1),
        "lost": sum(counts.get(name, 0) for name in _LOSSES),
        "set_aside": sum(counts.get(name, 0) for name in _SET_ASIDE),
        "lost_by_sequence": sum(one["lost"] for one in scorer.get("exporters", ())),
        "windows": scorer.get("windows", 0),
        "flows": scorer.get("flows", 0),
        "anomalous": scorer.get("anomalous", 0),
        "lag_s": round(max(now - scorer["reached"], 0.0), 1) if scorer.get("reached") else None,
        "spool_mb": round(receiver["spool_bytes"] / 1e6, 1),
        "stale_s": round(max(now - scorer["time"], 0.0), 1) if scorer else 0.0,
        "restarts": receiver["restarts"],
        "counts": counts,
    }


def one_line(found: dict[str, Any]) -> str:
    """Write the summary in one line."""
    lag = "starting" if found["lag_s"] is None else f"lag {found['lag_s']:.1f} s"
    line = (
        f"{found['exporters']} exporters  {found['records_per_s']:,.0f} records/s  {found['lost']:,} lost  "
        f"{found['windows']:,} windows  {found['flows']:,} flows  {found['anomalous']:,} anomalous  {lag}  "
        f"spool {found['spool_mb']:,.1f} MB"
    )
    if found["set_aside"]:
        line += f"  {found['set_aside']:,} in quarantine"
    if found["stale_s"] > _STALE_S:
        line += f"  no news of the scorer for {found['stale_s']:,.0f} s"
    return line if not found["restarts"] else f"{line}  scorer restarted {found['restarts']} times"


@final
class _Watched:
    """The latest status of a run, and a summary of it when one is due."""

    def __init__(self, every_s: float) -> None:
        self.latest: dict[str, Any] | None = None
        self._every_s = every_s
        self._shown: dict[str, Any] | None = None
        self._shown_at = 0.0

    def take(self, status: dict[str, Any]) -> dict[str, Any] | None:
        """Return the summary of a status, with rates since the last one; None if it is too early for another."""
        self.latest = status
        now = time.monotonic()
        if self._shown is not None and now - self._shown_at < self._every_s:
            return None
        before, self._shown, self._shown_at = self._shown, status, now
        return summary(status, before)


@contextmanager
def status_line(console: Console) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield a callback that shows the status of a receiver: in place on a terminal, elsewhere by a line a minute.

    At the end, print the counts and totals of the run.
    """
    # Redrawn only on a new status: a timer would cost an idle receiver CPU time.
    with progress(console, redraws=False) as line:
        watched = _Watched(_PLAIN_EVERY_S if line.live is None else 0.0)
        line.show(lambda: Text("listening …"))

        def report(status: dict[str, Any]) -> None:
            found = watched.take(status)
            if found is None:
                return
            words = one_line(found)
            if line.live is None:
                line.print(words)
            else:
                line.show(lambda: Text(words))

        yield report
    if watched.latest is None:
        return
    found = summary(watched.latest)
    for name, num in found["counts"].items():
        console.print(f"note: {num:,} {MEANINGS.get(name, name)}", soft_wrap=True)
    console.print(
        f"{found['flows']:,} flows in {found['windows']:,} windows written; {found['anomalous']:,} anomalous",
        soft_wrap=True,
    )


@contextmanager
def status_log() -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield a callback that writes the status of a receiver as a line of JSON on standard error, every ten seconds."""
    watched = _Watched(_JSON_EVERY_S)

    def report(status: dict[str, Any]) -> None:
        found = watched.take(status)
        if found is not None:
            moment = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
            _write({"time": moment, "event": "status", **found})

    yield report
    if watched.latest is not None:
        _write({"event": "stopped", **summary(watched.latest)})


def _write(record: dict[str, Any]) -> None:
    sys.stderr.write(json.dumps(record) + "\n")
    sys.stderr.flush()
