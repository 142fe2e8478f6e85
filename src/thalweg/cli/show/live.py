"""What the commands that listen show: one line that lives, and the page about exporters."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from thalweg.tally import MEANINGS

_PLAIN_EVERY_S: Final = 60.0
_JSON_EVERY_S: Final = 10.0
_LOSSES: Final = ("kernel_drops", "dropped_datagrams", "dropped_pieces", "missing_segments")


def summary(status: dict[str, Any], before: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the few numbers of a run that people watch. before: an earlier status, for rates.

    lag_s: how old the latest datagram was when it was decoded, now; 0 where all is read.
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
        "lost_by_sequence": sum(one["lost"] for one in scorer.get("exporters", ())),
        "windows": scorer.get("windows", 0),
        "flows": scorer.get("flows", 0),
        "anomalous": scorer.get("anomalous", 0),
        "lag_s": round(max(now - scorer["reached"], 0.0), 1) if scorer.get("reached") else None,
        "spool_mb": round(receiver["spool_bytes"] / 1e6, 1),
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
    return line if not found["restarts"] else f"{line}  scorer began again {found['restarts']} times"


@contextmanager
def live_display(console: Console, *, json_log: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Show how a run goes: a line that lives on a terminal, a line a minute elsewhere, or lines of JSON."""
    before: dict[str, Any] | None = None
    latest: dict[str, Any] | None = None
    said_at = 0.0
    live = Live(Text("listening …"), console=console, transient=True, auto_refresh=False)
    shown = console.is_terminal and not json_log

    def tell(status: dict[str, Any]) -> None:
        nonlocal said_at, before, latest
        latest = status
        now = time.monotonic()
        every = 0.0 if shown else _JSON_EVERY_S if json_log else _PLAIN_EVERY_S
        if said_at and now - said_at < every:
            return
        said_at = now
        found = summary(status, before)
        before = status
        if shown:
            live.update(Text(one_line(found)), refresh=True)
        elif json_log:
            moment = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
            sys.stderr.write(json.dumps({"time": moment, "event": "status", **found}) + "\n")
            sys.stderr.flush()
        else:
            console.print(one_line(found), soft_wrap=True)

    if not shown:
        yield tell
    else:
        with live:
            yield tell
    if latest is not None:
        found = summary(latest)
        if json_log:
            sys.stderr.write(json.dumps({"event": "stopped", **found}) + "\n")
            return
        for name, num in found["counts"].items():
            console.print(f"note: {num:,} {MEANINGS.get(name, name)}", soft_wrap=True)
        console.print(
            f"{found['flows']:,} flows in {found['windows']:,} windows written; {found['anomalous']:,} anomalous",
            soft_wrap=True,
        )


def exporters_report(found: dict[str, Any]) -> list[RenderableType]:
    """Return the page about who is sending, and what to do where something is wrong."""
    parts: list[RenderableType] = [
        f"{one['address']}, buffer {one['buffer_bytes'] / (1 << 20):,.1f} MiB" for one in found["sockets"]
    ]
    parts.append(f"{found['datagrams']:,} datagrams in {found['seconds']:,.0f} s")
    if found["exporters"]:
        parts.append(_exporters_table(found))
    parts += [f"note: {num:,} {MEANINGS.get(name, name)}" for name, num in found["counts"].items()]
    parts += [f"→ {advice}" for advice in _advice(found)]
    return parts


def _exporters_table(found: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("exporter", "version", "domain"):
        table.add_column(name)
    for name in ("flows", "flows/s", "datagrams", "lost", "malformed"):
        table.add_column(name, justify="right")
    for name in ("templates", "sampling", "clock", "last seen"):
        table.add_column(name)
    for one in sorted(found["exporters"], key=lambda one: -one["flows"]):
        lasted = max(one["last_seen"] - one["first_seen"], 1.0)
        table.add_row(
            one["exporter"],
            {5: "v5", 9: "v9", 10: "IPFIX"}.get(one["version"], str(one["version"])),
            str(one["domain"]),
            f"{one['flows']:,}",
            f"{one['flows'] / lasted:,.1f}",
            f"{one['datagrams']:,}",
            f"{one['lost']:,}",
            f"{one['malformed']:,}",
            _few(one["templates"]) + (f" options {_few(one['options_templates'])}" if one["options_templates"] else ""),
            _sampling(one),
            f"{one['clock_error_s']:+.1f} s",
            f"{max(found['as_of'] - one['last_seen'], 0):,.0f} s ago",
        )
    return table


def _few(ids: list[int]) -> str:
    return " ".join(map(str, ids[:4])) + (f" and {len(ids) - 4} more" if len(ids) > 4 else "")


def _sampling(one: dict[str, Any]) -> str:
    if one["samplers"] and not one["sampling"]:
        return "by sampler: " + ", ".join(f"1 in {interval}" for interval in sorted(set(one["samplers"].values()))[:3])
    if not one["sampling"]:
        return "not told"
    return f"1 in {one['sampling']:,} ({one['sampled_by']})" if one["sampling"] > 1 else "none"


def _advice(found: dict[str, Any]) -> list[str]:
    """Say what to do, where something is wrong that a person can mend."""
    said = []
    if not found["datagrams"]:
        port = found["sockets"][0]["address"].rpartition(":")[2] if found["sockets"] else "2055"
        said.append(
            "nothing came. Is the exporter's destination this machine and port? Does a firewall let UDP through? "
            f"See it arrive with `tcpdump -ni any udp port {port}`."
        )
    counts = found["counts"]
    if counts.get("kernel_drops"):
        said.append("the kernel dropped datagrams: raise net.core.rmem_max by sysctl, and --buffer-mb")
    for one in found["exporters"]:
        who = f"{one['exporter']} (domain {one['domain']})"
        if one["held_sets"] and not one["templates"] and one["version"] > 5:
            said.append(
                f"{who} has sent no template yet: its flows wait for it. Let it send templates every minute "
                "(Cisco: `template data timeout 60`)."
            )
        if abs(one["clock_error_s"]) > 60:
            said.append(f"{who} has a clock that is {one['clock_error_s']:+,.0f} s off: let it use NTP")
        if one["datagrams"] > 100 and one["lost"] > 0.01 * max(one["flows"], one["datagrams"]):
            said.append(
                f"{who}: {one['lost']:,} are missing by its sequence numbers: lost on the way, or before this began"
            )
        if one["other_records"] and not one["flows"]:
            said.append(
                f"{who} sends records without addresses or bytes: see `thalweg decode`, and its flow record's fields"
            )
    return said
