"""The throughput report: one page that fetches nothing, the same charts as PNG, and all figures as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

import altair as alt
import numpy as np
import polars as pl

from thalweg.benchmark.machine import machine_in_words
from thalweg.benchmark.speed.progress import PUBLISHED, REFERENCE, SIDE_WORDS, THALWEG
from thalweg.benchmark.speed.sides import BRIEF, FIT_FLOWS
from thalweg.benchmark.speed.tables import sides_table
from thalweg.errors import SinkError
from thalweg.evaluate.charts import BLUE, ORANGE, RED, Plot, png_of
from thalweg.evaluate.page import facts_list, figure, make_page, section, write_page

_COLOURS: Final = {REFERENCE: ORANGE, PUBLISHED: RED, THALWEG: BLUE}
_CURVES: Final = (BLUE, ORANGE, "#4aa37c", "#8d6cc9")


def make_folder(out: Path) -> None:
    """Make the folder for results, before any work is done.

    Raises SinkError if it cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SinkError(f"cannot make the folder {out}: {error.strerror}. Choose another with --out") from error


def write_throughput(out: Path, found: Mapping[str, Any]) -> list[Path]:
    """Write `throughput.json`, `throughput.html` and a PNG for each chart into a folder.

    found: from `run_throughput`. Returns the files. Raises SinkError if one cannot be written.
    """
    charts = throughput_charts(found)
    files: dict[str, str | bytes] = {
        "throughput.json": json.dumps(found, indent=1, allow_nan=False),
        "throughput.html": make_page("How fast scoring is", _body(found, charts), charts),
        **{f"throughput-{name}.png": png_of(chart) for name, chart in charts.items()},
    }
    for name, content in files.items():
        write_page(out / name, content)
    return [out / name for name in files]


def throughput_charts(found: Mapping[str, Any]) -> dict[str, Plot]:
    """Draw a chart for each question that was measured."""
    charts: dict[str, Plot] = {}
    rows = [
        {"case": case["case"], "side": SIDE_WORDS[name], **side}
        for case in found["cases"]
        for name, side in _sides(case)
    ]
    if fast := [row for row in rows if row["flows_per_s"]]:
        charts["cases"] = _bars(fast, "flows_per_s", "flows/s (logarithmic)", "log")
    if large := [row for row in rows if row["peak_memory_mb"]]:
        charts["memory"] = _bars(large, "peak_memory_mb", "peak memory, MB", "linear")
    waits = [
        {
            "case": case["case"],
            "stream": f"{row['way']}, {'flat out' if row['pace'] is None else 'paced'}",
            "p50": row["p50_s"],
            "p99": row["p99_s"],
        }
        for case in found["cases"]
        for row in case["dwell"]
        if "p50_s" in row
    ]
    if waits:
        charts["dwell"] = _dwell(waits)
    if sweep := [row for row in found["sweep"] if "flows_per_s" in row]:
        charts["sweep"] = _sweep(sweep)
    scale = found["scale"]
    if scale is not None and scale["slope"] is not None:
        charts["scale"] = _scale(scale)
    return charts


def _sides(case: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(name, case["sides"][name]) for name in SIDE_WORDS if name in case["sides"]]


def _bars(rows: Sequence[Mapping[str, Any]], name: str, title: str, kind: str) -> Plot:
    frame = pl.DataFrame([{key: row[key] for key in ("case", "side", name)} for row in rows])
    words = [SIDE_WORDS[side] for side in SIDE_WORDS if SIDE_WORDS[side] in frame["side"].to_list()]
    colours = [_COLOURS[side] for side in SIDE_WORDS if SIDE_WORDS[side] in words]
    scale = alt.Scale(type="log", domainMin=1_000) if kind == "log" else alt.Scale(zero=True)
    # A bar has no zero to start from on a logarithmic scale, so points are drawn.
    base = alt.Chart(frame)
    marks = base.mark_point(filled=True, size=110) if kind == "log" else base.mark_bar()
    chart: Plot = marks.encode(
        x=alt.X("case:N", sort=frame["case"].unique(maintain_order=True).to_list(), title=None),
        y=alt.Y(f"{name}:Q", title=title, scale=scale, axis=alt.Axis(format="~s")),
        xOffset=alt.XOffset("side:N", sort=words),
        color=alt.Color(
            "side:N",
            scale=alt.Scale(domain=words, range=colours),
            legend=alt.Legend(title=None, orient="bottom", columns=1),
        ),
        tooltip=["case:N", "side:N", alt.Tooltip(f"{name}:Q", format=",.0f")],
    ).properties(height=280)
    return chart


def _dwell(rows: Sequence[Mapping[str, Any]]) -> Plot:
    frame = pl.DataFrame(list(rows))
    cases = frame["case"].unique(maintain_order=True).to_list()
    base = alt.Chart(frame).encode(
        y=alt.Y("case:N", sort=cases, title=None),
        yOffset="stream:N",
        color=alt.Color("stream:N", legend=alt.Legend(title=None, orient="bottom", columns=1)),
        tooltip=["case:N", "stream:N", alt.Tooltip("p50:Q", format=".3f"), alt.Tooltip("p99:Q", format=".3f")],
    )
    x = alt.X("p50:Q", title="seconds from a window's last flow to its scores, median to p99")
    return alt.layer(
        base.mark_rule(strokeWidth=2).encode(x=x, x2="p99:Q"), base.mark_circle(size=70, opacity=1).encode(x=x)
    ).properties(height=60 + 22 * len(rows))


def _sweep(rows: Sequence[Mapping[str, Any]]) -> Plot:
    frame = pl.DataFrame([{key: row[key] for key in ("curve", "size", "flows_per_s")} for row in rows])
    names = frame["curve"].unique(maintain_order=True).to_list()
    colours = [_CURVES[i % len(_CURVES)] for i in range(len(names))]
    base = alt.Chart(frame).encode(
        x=alt.X("size:Q", title="flows in a window (logarithmic)", scale=alt.Scale(type="log"), axis=_plain()),
        y=alt.Y("flows_per_s:Q", title="flows/s", axis=_plain(), scale=alt.Scale(zero=True)),
        color=alt.Color(
            "curve:N", scale=alt.Scale(domain=names, range=colours), legend=alt.Legend(title=None, orient="bottom")
        ),
        tooltip=["curve:N", alt.Tooltip("size:Q", format=","), alt.Tooltip("flows_per_s:Q", format=",.0f")],
    )
    return alt.layer(base.mark_line(strokeWidth=2.5), base.mark_circle(size=70, opacity=1)).properties(height=320)


def _plain() -> alt.Axis:
    return alt.Axis(format="~s", tickCount=6)


def _scale(scale: Mapping[str, Any]) -> Plot:
    rows = [
        {"work": row["flows"] + row["channels"], "seconds": row["seconds"], "flows": row["flows"]}
        for row in scale["rows"]
        if "seconds" in row
    ]
    ends = np.array([rows[0]["work"], rows[-1]["work"]], float)
    fitted = scale["seconds_per_million"] * (ends / 1e6) ** scale["slope"]
    x = alt.X("work:Q", title="flows + channels (logarithmic)", scale=alt.Scale(type="log"), axis=_plain())
    y = alt.Y("seconds:Q", title="seconds a window (logarithmic)", scale=alt.Scale(type="log"), axis=_plain())
    line = alt.Chart(pl.DataFrame({"work": ends, "seconds": fitted}))
    dots = alt.Chart(pl.DataFrame(rows))
    return alt.layer(
        line.mark_line(strokeDash=[4, 4], color=ORANGE).encode(x=x, y=y),
        dots.mark_circle(size=90, opacity=1, color=BLUE).encode(x=x, y=y, tooltip=["flows:Q", "work:Q", "seconds:Q"]),
    ).properties(height=320)


def _body(found: Mapping[str, Any], charts: Mapping[str, Plot]) -> list[str]:
    body = [f'<p class="note">{escape(machine_in_words(found["machine"]))}</p>']
    if found["cases"]:
        body.append(section(sides_table(found["cases"]), conditions_in_words()))
    titles = {
        "cases": "Flows a second",
        "memory": "Memory",
        "dwell": "How long a flow waits for its score",
        "sweep": "Windows of other sizes",
        "scale": "Whether the cost is linear",
    }
    body += [figure(title, [name], _words(name, found)) for name, title in titles.items() if name in charts]
    body.append(facts_list({name: str(value) for name, value in found["machine"].items() if value is not None}))
    return body


def _words(name: str, found: Mapping[str, Any]) -> str:
    if name == "scale":
        return (
            f"Hosts and channels grow in proportion to the flows. The fitted slope is {found['scale']['slope']:.2f}: 1 "
            "means that twice the traffic takes twice the time; 2, four times. Fixed costs make the slope smaller."
        )
    return _WORDS[name]


def conditions_in_words() -> str:
    """Describe how the sides were measured."""
    return (
        "All sides rate the same windows in one process, in turn. Figures are medians over rounds, ratios the median "
        "of the rounds' own. All have the same allocator settings: freed blocks are kept, as glibc's default costs the "
        "reference several times its work. The first window, which compiles code, is not counted. Peak memory "
        "is the process's largest resident size while one window is rated. Errors are against the same weights in "
        f"float64. The default model was fitted on {FIT_FLOWS:,} flows in {BRIEF.max_steps} steps: enough for its "
        "speed, not for its scores."
    )


_WORDS: Final = {
    "cases": "Each point is one side on one case. The scale is logarithmic. A side is missing if it ran out of memory.",
    "memory": "The largest resident size of the process while one window was rated, Python and torch included.",
    "dwell": (
        "From the arrival of a window's last flow to its scores. In the paced stream, flows arrive at a fixed rate and "
        "wait if the scorer is behind; flat out, a window arrives when the scorer reads it. One stage at a time is "
        "a batch job: it reads all windows, then builds all graphs, then rates all."
    ),
    "sweep": "The same network in windows of other sizes. Small windows pay the fixed costs more often.",
}
