"""The tables of the speed benchmarks, for the terminal and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from thalweg.benchmark.speed.progress import SIDE_WORDS, failure_in_words
from thalweg.evaluate.tables import Table, columns, number


def throughput_tables(found: Mapping[str, Any]) -> list[Table]:
    """Describe what was measured: sides by case, streams, the sweep, the scale."""
    cases = found["cases"]
    tables = [sides_table(cases), _streams_table(cases)] if cases else []
    if profiled := [case for case in cases if case["profile"]]:
        tables.append(_profiles_table(profiled))
    if found["sweep"]:
        tables.append(_sweep_table(found["sweep"]))
    if found["scale"] is not None:
        tables.append(_scale_table(found["scale"]))
    return tables


def sides_table(cases: Sequence[Mapping[str, Any]]) -> Table:
    """Describe speed, memory and numerical error of each side on each case."""
    rows = []
    for case in cases:
        for name, side in case["sides"].items():
            error = side["largest_error"] or {}
            rows.append(
                (
                    case["case"],
                    f"{case['hosts']:,} / {case['channels']:,}",
                    SIDE_WORDS[name],
                    failure_in_words(side) or number(side["flows_per_s"]),
                    number(side["ratio"], ".1f"),
                    number(side["cpu_seconds"], ".2f"),
                    number(side["peak_memory_mb"]),
                    number(error.get("logit"), ".1e"),
                    number(error.get("score"), ".1e"),
                )
            )
    return Table(
        title="One window, from columns in memory to scores; medians; the sides take turns",
        columns=columns(
            ["case", "hosts / channels", "side"],
            ["flows/s", "× reference", "CPU s", "peak MB", "largest error: logit", "score"],
        ),
        rows=tuple(rows),
    )


def _streams_table(cases: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for case in cases:
        against = {(row["way"], row["pace"]): row for row in case["pipelined_against"]}
        for row in case["dwell"]:
            other = against.get((row.get("way"), row.get("pace")), {})
            rows.append(
                (
                    case["case"],
                    row.get("way", row["step"]),
                    "flat out" if row.get("pace") is None else f"{row['pace']:,.0f} flows/s",
                    row.get("failed") or number(row["flows_per_s"]),
                    number(row.get("p50_s"), ".3f"),
                    number(row.get("p99_s"), ".3f"),
                    number(other.get("speed_ratio"), ".2f"),
                    number(other.get("dwell_cut"), ".0%"),
                )
            )
    return Table(
        title="A stream of windows: from a window's last flow to its scores",
        columns=columns(
            ["case", "way", "pace"], ["flows/s", "dwell p50 s", "p99 s", "pipelined: × flows/s", "dwell cut"]
        ),
        rows=tuple(rows),
        caption="A cut is the share of the median dwell time that the pipelined way saves; if negative, it adds.",
    )


def _profiles_table(cases: Sequence[Mapping[str, Any]]) -> Table:
    parts = {part: [1e3 * case["profile"][part] for case in cases] for part in cases[0]["profile"]}
    parts["all"] = [1e3 * sum(case["profile"].values()) for case in cases]
    return Table(
        title="Where a window's time goes: the default model on one thread, milliseconds",
        columns=columns(["part"], [case["case"] for case in cases]),
        rows=tuple((part, *map(number, times)) for part, times in parts.items()),
    )


def _sweep_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    return Table(
        title="Windows of other sizes",
        columns=columns(["step"], ["windows", "flows/s", "peak MB"]),
        rows=tuple(
            (
                row["step"],
                number(row.get("num_windows"), "d"),
                row.get("failed") or number(row["flows_per_s"]),
                number(row.get("peak_memory_mb")),
            )
            for row in rows
        ),
    )


def _scale_table(scale: Mapping[str, Any]) -> Table:
    slope = scale["slope"]
    return Table(
        title="Growing traffic",
        columns=columns(["window"], ["hosts", "channels", "seconds", "peak MB"]),
        rows=tuple(
            (
                row["step"],
                *(number(row.get(name), ",d") for name in ("hosts", "channels")),
                row.get("failed") or number(row["seconds"], ".3f"),
                number(row.get("peak_memory_mb")),
            )
            for row in scale["rows"]
        ),
        caption="too few sizes for a slope" if slope is None else f"slope {slope:.2f}: 1 is linear in flows + channels",
    )


def files_table(found: Mapping[str, Any]) -> Table:
    """Describe how fast files were read."""
    rows = []
    for row in found["files"]:
        own, other = row["thalweg"], row["polars"]
        rows.append(
            (
                row["kind"],
                number(row["file_mb"], ",.1f"),
                number(own["rows_per_s"]),
                number(own["mb_per_s"]),
                number(other["rows_per_s"]),
                number(other["mb_per_s"]),
                number(row["ratio"], ".2f"),
            )
        )
    return Table(
        title=f"{found['num_rows']:,} flows from a file; medians; the sides take turns",
        columns=columns(["file"], ["MB", "rows/s", "MB/s", "Polars alone: rows/s", "MB/s", "ours / Polars"]),
        rows=tuple(rows),
        caption="Polars alone reads a whole file into a table; ours also recognises, checks and counts. 1 is as fast.",
    )


def decode_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Describe how fast export packets became records."""
    cells = []
    for row in rows:
        theirs, ratio = row["netflow_records_per_cpu_s"], row["ratio"]
        cells.append(
            (
                row["kind"],
                number(row["records"]),
                number(row["records_per_cpu_s"]),
                "not installed" if theirs is None else number(theirs),
                "" if ratio is None else f"{ratio:,.0f} x",
            )
        )
    return Table(
        title="Export packets from memory to records, one thread; medians; the sides take turns",
        columns=columns(["packets"], ["records", "records per CPU second", "PyPI's netflow", "ours / theirs"]),
        rows=tuple(cells),
        caption="v9 and IPFIX: a template of ten fields of fixed length. Records hold native numbers, times and "
        "addresses.",
    )


def hostile_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Describe what the costliest datagrams cost."""
    figures = ("alone_ms_per_kb", "together_ms_per_kb")
    return Table(
        title="The costliest datagrams, decoded on one thread: CPU milliseconds for a kilobyte",
        columns=columns(["all of one kind"], ["bytes each", "alone in a call", "25 kB in a call"]),
        rows=tuple((row["kind"], row["bytes"], *(f"{row[name]:.3f}" for name in figures)) for row in rows),
        caption="A run decodes all datagrams of a quarter second in one call: 25 kB are a sender of 100 kB/s. What a "
        "sender's budget of work skips is included. A kilobyte includes the headers of IP and UDP.",
    )


def live_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Describe how a run kept up with packets sent over loopback."""
    cells = []
    for row in rows:
        cpu = row["cpu_s"]
        cells.append(
            (
                row["kind"],
                number(row["sent_flows_per_s"]),
                number(row["sent_flows"]),
                number(row["edges"]),
                number(row["kernel_drops"]),
                number(row["dropped"]["datagrams"]),
                number(row["most_lag_s"], ",.1f"),
                number((row["dwell_s"] or {}).get("most"), ",.1f"),
                f"{cpu['sender']:.1f} + {cpu['receiver']:.1f} + {cpu['scorer']:.1f}",
                "yes" if row["kept_up"] else "no",
            )
        )
    figures = ["v5 flows/s", "flows sent", "edges scored", "kernel drops", "spool drops", "largest lag s", "dwell s"]
    return Table(
        title="`thalweg run` on NetFlow v5 over loopback UDP, from packets to scores on disk",
        columns=columns(["sent"], [*figures, "CPU s", "kept up"]),
        rows=tuple(cells),
        caption="CPU s: sender, receiver, scorer. Lag: the largest age of a datagram when it was decoded. Dwell: the "
        "largest time from the end of a window to its scores on disk. Kept up: nothing lost, never 10 s behind.",
    )


def day_table(found: Mapping[str, Any]) -> Table:
    """Describe a day of traffic: memory and lag by the hour."""
    return Table(
        title=f"A day: {found['sent_flows']:,} v5 flows sent, {found['edges']:,} edges scored, "
        f"{found['lost_datagrams']:,} datagrams lost",
        columns=columns(["hour"], ["flows/s", "largest lag s", "receiver MB", "scorer MB"]),
        rows=tuple(
            (
                str(row["hour"]),
                number(row["sent_flows_per_s"]),
                number(row["most_lag_s"], ",.1f"),
                number(row["memory_mb"]["receiver"]),
                number(row["memory_mb"]["scorer"]),
            )
            for row in found["hours"]
        ),
        caption=f"Memory: the mean of the last six hours is {found['grown_mb']:+,.0f} MB from that of hours 6 to 12.",
    )


def idle_table(found: Mapping[str, Any]) -> Table:
    """Describe the cost of listening while nobody sends."""
    return Table(
        title=f"Idle: {found['core_share']:.2%} of a core, {found['memory_mb']:,.0f} MB, over {found['seconds']:.0f} s",
        columns=columns(["process"], ["CPU s", "resident MB"]),
        rows=tuple(
            (name, number(of["cpu_s"], ",.2f"), number(of["memory_mb"])) for name, of in found["processes"].items()
        ),
        caption="Memory pages that both share count twice.",
    )


def training_table(found: Mapping[str, Any]) -> Table:
    """Describe what training costs."""
    rows = []
    for case in found["cases"]:
        for name, side in case["sides"].items():
            costs = (side[key] for key in ("cpu_s_per_million", "cpu_s_per_epoch", "cpu_s_whole_recipe"))
            ratio = f"{case['ratio']:.1f} x" if name == "thalweg" else "1"
            rows.append((case["case"], name, *(number(cost, ",.1f") for cost in costs), ratio))
    return Table(
        title="Training: CPU-seconds, all cores together; medians; the sides take turns",
        columns=columns(["case", "side"], ["per million flows", "per epoch", "whole training", "reference / ours"]),
        rows=tuple(rows),
        caption="Per million: flows and noise edges. An epoch has each flow and one noise edge for it. Whole training: "
        "by each side's default settings.",
    )
