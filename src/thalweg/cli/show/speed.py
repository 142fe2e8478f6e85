"""What a person sees of the benchmarks of speed in the terminal: progress with the time left, then tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from thalweg.benchmark.speed.progress import SIDE_WORDS, Telling, failure_in_words
from thalweg.cli.show.console import plain_table, seconds_in_words


@contextmanager
def speed_line(console: Console, verb: str) -> Iterator[Callable[[Telling], None]]:
    """Show where a benchmark stands: a live line on a terminal, one line a step elsewhere."""
    if not console.is_terminal:
        yield lambda now: console.print(f"{now.done}/{now.total}  {now.now}{_left(now)}", soft_wrap=True)
        return
    with Progress(
        TextColumn(verb),
        BarColumn(bar_width=24),
        TextColumn("{task.description}"),
        console=console,
        transient=True,
    ) as bars:
        task = bars.add_task("", total=1)
        yield lambda now: bars.update(
            task,
            completed=now.done,
            total=max(now.total, 1),
            description=f"{now.done}/{now.total}  {now.now}{_left(now)}",
        )


def _left(now: Telling) -> str:
    return "" if now.seconds_left is None else f"  about {seconds_in_words(now.seconds_left)} left"


def _number(value: float | None, form: str = ",.0f", unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"


def throughput_tables(found: Mapping[str, Any]) -> list[Table]:
    """Lay out what was measured: sides by case, streams, the sweep, the scale."""
    cases = found["cases"]
    tables = [_cases(cases), _streams(cases)] if cases else []
    if profiled := [case for case in cases if case["profile"]]:
        tables.append(_profiles(profiled))
    if found["sweep"]:
        tables.append(_sweep(found["sweep"]))
    if found["scale"] is not None:
        tables.append(_scale(found["scale"]))
    return tables


def _cases(cases: Sequence[Mapping[str, Any]]) -> Table:
    table = plain_table(
        "One window, columns in memory to scores; medians, the sides in turn",
        ["case", "hosts / channels", "side"],
        ["flows/s", "× reference", "CPU s", "peak MB", "largest error: logit", "score"],
    )
    for case in cases:
        for name, side in case["sides"].items():
            error = side["largest_error"] or {}
            table.add_row(
                case["case"],
                f"{case['hosts']:,} / {case['channels']:,}",
                SIDE_WORDS[name],
                failure_in_words(side) or _number(side["flows_per_s"]),
                _number(side["ratio"], ".1f"),
                _number(side["cpu_seconds"], ".2f"),
                _number(side["peak_memory_mb"]),
                _number(error.get("logit"), ".1e"),
                _number(error.get("score"), ".1e"),
            )
    return table


def _streams(cases: Sequence[Mapping[str, Any]]) -> Table:
    table = plain_table(
        "A stream of windows: from a window's last flow to its scores",
        ["case", "way", "pace"],
        ["flows/s", "dwell p50 s", "p99 s", "pipelined: × flows/s", "dwell cut"],
        "A cut is the share of the median dwell time that the pipelined way saves; where it is negative, it costs.",
    )
    for case in cases:
        against = {(row["way"], row["pace"]): row for row in case["pipelined_against"]}
        for row in case["dwell"]:
            other = against.get((row.get("way"), row.get("pace")), {})
            pace = "flat out" if row.get("pace") is None else f"{row['pace']:,.0f} flows/s"
            table.add_row(
                case["case"],
                row.get("way", row["step"]),
                pace,
                row.get("failed") or _number(row["flows_per_s"]),
                _number(row.get("p50_s"), ".3f"),
                _number(row.get("p99_s"), ".3f"),
                _number(other.get("speed_ratio"), ".2f"),
                _number(other.get("dwell_cut"), ".0%"),
            )
    return table


def _profiles(cases: Sequence[Mapping[str, Any]]) -> Table:
    table = plain_table(
        "Where a window's time goes: the default model on one thread, milliseconds",
        ["part"],
        [case["case"] for case in cases],
    )
    for part in cases[0]["profile"]:
        table.add_row(part, *(_number(1e3 * case["profile"][part], ".0f") for case in cases))
    table.add_row("all", *(_number(1e3 * sum(case["profile"].values()), ".0f") for case in cases))
    return table


def _sweep(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = plain_table("Windows of other sizes", ["step"], ["windows", "flows/s", "peak MB"])
    for row in rows:
        windows = _number(row.get("num_windows"), "d")
        flows = row.get("failed") or _number(row["flows_per_s"])
        table.add_row(row["step"], windows, flows, _number(row.get("peak_memory_mb")))
    return table


def _scale(scale: Mapping[str, Any]) -> Table:
    slope = scale["slope"]
    caption = "too few sizes for a slope" if slope is None else f"slope {slope:.2f}: 1 is linear in flows + channels"
    table = plain_table("Growing traffic", ["window"], ["hosts", "channels", "seconds", "peak MB"], caption)
    for row in scale["rows"]:
        seconds = row.get("failed") or _number(row["seconds"], ".3f")
        sizes = (_number(row.get(name), ",d") for name in ("hosts", "channels"))
        table.add_row(row["step"], *sizes, seconds, _number(row.get("peak_memory_mb")))
    return table


def ingest_table(found: Mapping[str, Any]) -> Table:
    """Lay out how fast files were read."""
    table = plain_table(
        f"{found['num_rows']:,} flows from a file; medians, in turn",
        ["file"],
        ["MB", "rows/s", "MB/s", "Polars alone: rows/s", "MB/s", "ours / Polars"],
        "Polars alone reads a whole file into a table; ours also recognises, checks and counts. 1 is as fast.",
    )
    for row in found["files"]:
        own, other = row["thalweg"], row["polars"]
        table.add_row(
            row["kind"],
            _number(row["file_mb"], ",.1f"),
            _number(own["rows_per_s"]),
            _number(own["mb_per_s"]),
            _number(other["rows_per_s"]),
            _number(other["mb_per_s"]),
            _number(row["ratio"], ".2f"),
        )
    return table


def decode_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Lay out how fast export packets became records."""
    table = plain_table(
        "Export packets from memory to records, one thread; medians, in turn",
        ["packets"],
        ["records", "records per CPU second", "PyPI's netflow", "ours / theirs"],
        "v9 and IPFIX: a template of ten fields of fixed length. Records hold native numbers, times and addresses.",
    )
    for row in rows:
        theirs, ratio = row["netflow_records_per_cpu_s"], row["ratio"]
        table.add_row(
            row["kind"],
            _number(row["records"]),
            _number(row["records_per_cpu_s"]),
            "not installed" if theirs is None else _number(theirs),
            "" if ratio is None else f"{ratio:,.0f} x",
        )
    return table


def live_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Lay out how a run kept up with packets sent over loopback."""
    table = plain_table(
        "NetFlow v5 over loopback UDP, received, windowed, graphed, scored, written; sender included",
        ["sent"],
        [
            "v5 flows/s",
            "flows sent",
            "edges scored",
            "kernel drops",
            "spool drops",
            "largest lag s",
            "dwell s",
            "CPU s",
            "kept up",
        ],
        "CPU s: sender, receiver, scorer. Lag: how old what is decoded was at most. Dwell: from a full window to its "
        "scores on disk, at most. Kept up: nothing lost, never 10 s behind.",
    )
    for row in rows:
        cpu = row["cpu_s"]
        table.add_row(
            row["kind"],
            _number(row["sent_flows_per_s"]),
            _number(row["sent_flows"]),
            _number(row["edges"]),
            _number(row["kernel_drops"]),
            _number(row["dropped"]["datagrams"]),
            _number(row["most_lag_s"], ",.1f"),
            _number((row["dwell_s"] or {}).get("most"), ",.1f"),
            f"{cpu['sender']:.1f} + {cpu['receiver']:.1f} + {cpu['scorer']:.1f}",
            "yes" if row["kept_up"] else "no",
        )
    return table


def day_table(found: Mapping[str, Any]) -> Table:
    """Lay out a day of traffic: memory and lag by the hour."""
    table = plain_table(
        f"A day: {found['sent_flows']:,} v5 flows sent, {found['edges']:,} edges scored, "
        f"{found['lost_datagrams']:,} datagrams lost",
        ["hour"],
        ["flows/s", "most lag s", "receiver MB", "scorer MB"],
        f"Memory: the last six hours' mean is {found['grown_mb']:+,.0f} MB of that of hours 6 to 12.",
    )
    for row in found["hours"]:
        memory = row["memory_mb"]
        table.add_row(
            str(row["hour"]),
            _number(row["sent_flows_per_s"]),
            _number(row["most_lag_s"], ",.1f"),
            _number(memory["receiver"]),
            _number(memory["scorer"]),
        )
    return table


def idle_table(found: Mapping[str, Any]) -> Table:
    """Lay out what listening costs while nobody sends."""
    table = plain_table(
        f"Idle: {found['core_share']:.2%} of a core, {found['memory_mb']:,.0f} MB, over {found['seconds']:.0f} s",
        ["process"],
        ["CPU s", "resident MB"],
        "Pages that both have count twice.",
    )
    for name, of in found["processes"].items():
        table.add_row(name, _number(of["cpu_s"], ",.2f"), _number(of["memory_mb"]))
    return table


def training_table(found: Mapping[str, Any]) -> Table:
    """Lay out what training costs."""
    table = plain_table(
        "Learning: CPU-seconds, all cores together; medians, in turn",
        ["case", "side"],
        ["per million shown", "per epoch", "whole recipe", "reference / ours"],
        "Shown: flows and noise edges. An epoch shows each flow and a noise edge. A recipe: what each does by default.",
    )
    for case in found["cases"]:
        for name, side in case["sides"].items():
            costs = (side[key] for key in ("cpu_s_per_million", "cpu_s_per_epoch", "cpu_s_whole_recipe"))
            ratio = f"{case['ratio']:.1f} x" if name == "thalweg" else "1"
            table.add_row(case["case"], name, *(_number(cost, ",.1f") for cost in costs), ratio)
    return table
