"""The charts of the detection report: all methods in each chart, one data set at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import altair as alt
import polars as pl

from thalweg.benchmark.detection.methods import THALWEG
from thalweg.benchmark.detection.summary import Line
from thalweg.evaluate.charts import BLUE, ORANGE, Plot, axis

_LEGEND: Final = alt.Legend(title=None, orient="bottom", columns=4, symbolStrokeWidth=3)
# Thalweg's colour is the same in every chart; no rival has it.
_RIVALS: Final = (
    "#d98a2b", "#d5484f", "#4aa37c", "#8d6cc9", "#b8863b", "#d072a5", "#7f8a94", "#3fa7b5", "#a3a13a", "#b05f3c",
    "#6c7fd0", "#5f9e3f", "#c0568f", "#9a7b5b", "#2f8f9d", "#c9a227", "#7d5ba6", "#e07b6a",
)  # fmt: skip

Points = Mapping[str, Sequence[Sequence[float]]]
"""[FPR, TPR, precision] of a curve's points, by method."""


def colour_of(methods: Sequence[str]) -> alt.Color:
    """Give every method its own colour; Thalweg gets the blue of the report."""
    others = [name for name in methods if name != THALWEG]
    names = [*([THALWEG] if THALWEG in methods else []), *others]
    colours = [*([BLUE] if THALWEG in methods else []), *(_RIVALS[i % len(_RIVALS)] for i in range(len(others)))]
    return alt.Color("method:N", scale=alt.Scale(domain=names, range=colours), legend=_LEGEND)


def roc_curves(points: Points, methods: Sequence[str]) -> Plot:
    """Draw attacks found against benign flows flagged, FPR on a logarithmic scale from 1 in 10,000."""
    frame = _frame(points).filter(pl.col("FPR") > 0)
    x = alt.X(
        "FPR:Q",
        axis=alt.Axis(
            title="benign flows falsely flagged (logarithmic)", format="~%", values=[1e-4, 1e-3, 0.01, 0.1, 1]
        ),
        scale=alt.Scale(type="log", domain=[1e-4, 1], clamp=True),
    )
    return _lines(frame, x, alt.Y("TPR:Q", **axis("attack flows found")), methods, order="FPR:Q")


def precision_curves(points: Points, methods: Sequence[str]) -> Plot:
    """Draw the share of real alarms against the share of attacks found."""
    frame = _frame(points).filter(pl.col("TPR") > 0)
    x, y = alt.X("TPR:Q", **axis("attack flows found")), alt.Y("precision:Q", **axis("alarms that are real"))
    return _lines(frame, x, y, methods, order="TPR:Q")


def _frame(points: Points) -> pl.DataFrame:
    rows = [
        {"method": name, "FPR": fpr, "TPR": tpr, "precision": precision}
        for name, curve in points.items()
        for fpr, tpr, precision in curve
    ]
    schema = {"method": pl.String(), "FPR": pl.Float64(), "TPR": pl.Float64(), "precision": pl.Float64()}
    return pl.DataFrame(rows, schema=schema)


def _lines(frame: pl.DataFrame, x: alt.X, y: alt.Y, methods: Sequence[str], order: str) -> Plot:
    tips = ["method:N", *(alt.Tooltip(f"{name}:Q", format=".2%") for name in ("FPR", "TPR", "precision"))]
    width = alt.condition(alt.datum.method == THALWEG, alt.value(3), alt.value(1.5))
    base = alt.Chart(frame)
    lines = base.mark_line(clip=True).encode(x=x, y=y, color=colour_of(methods), order=order, strokeWidth=width)
    dots = base.mark_circle(opacity=0, size=70, clip=True).encode(x=x, y=y, tooltip=tips)
    return alt.layer(lines, dots).properties(height=340)


def attack_map(rows: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> Plot:
    """Draw how much of each kind of attack each method finds.

    rows: method, attack, flows, found (at an FPR of at most 1 %, in [0, 1]).
    """
    frame = pl.DataFrame(list(rows))
    attacks = frame.group_by("attack").agg(pl.col("flows").max()).sort("flows", "attack", descending=[True, False])
    x = alt.X("attack:N", sort=attacks["attack"].to_list(), axis=alt.Axis(title=None, labelAngle=-35, labelLimit=130))
    y = alt.Y("method:N", sort=list(methods), axis=alt.Axis(title=None, labelLimit=190))
    base = alt.Chart(frame).encode(x=x, y=y)
    tips = ["method:N", "attack:N", "flows:Q", alt.Tooltip("found:Q", format=".1%")]
    scale = alt.Scale(domain=[0, 1], range=["#eef4fb", "#1d5fa3"])
    boxes = base.mark_rect(cornerRadius=2).encode(color=alt.Color("found:Q", scale=scale, legend=None), tooltip=tips)
    ink = alt.condition(alt.datum.found > 0.55, alt.value("#ffffff"), alt.value("#1b2733"))
    text = base.mark_text(fontSize=11).encode(text=alt.Text("found:Q", format=".0%"), color=ink)
    chart: Plot = alt.layer(boxes, text).properties(height=40 + 24 * len(methods))
    return chart


def histograms(found: Mapping[str, Mapping[str, Sequence[float]]], methods: Sequence[str]) -> Plot:
    """Draw histograms of the logits of benign and attack flows, for the method that the reader selects.

    found: edges (41), benign (40), attack (40) by method.
    """
    rows = [
        {"method": name, "kind": kind, "from": low, "to": high, "flows": flows, "share": flows / max(sum(of[kind]), 1)}
        for name, of in found.items()
        for kind in ("benign", "attack")
        for low, high, flows in zip(of["edges"], of["edges"][1:], of[kind], strict=False)
        if flows
    ]
    names = [name for name in methods if name in found]
    chosen = alt.param(name="chosen", value=names[0], bind=alt.binding_select(options=names, name="method "))
    tips = ["kind:N", "flows:Q", alt.Tooltip("share:Q", format=".2%"), alt.Tooltip("from:Q", format=".2f")]
    scale = alt.Scale(domain=["benign", "attack"], range=[BLUE, ORANGE])
    chart: Plot = (
        alt.Chart(pl.DataFrame(rows))
        .mark_rect(opacity=0.6)
        .encode(
            x=alt.X("from:Q", title="logit: strange ← → usual", scale=alt.Scale(nice=False, zero=False)),
            x2="to:Q",
            y=alt.Y("share:Q", title="share of its kind (square root)", stack=None, axis=alt.Axis(format=".0%"),
                    scale=alt.Scale(type="sqrt")),
            y2=alt.datum(0),
            color=alt.Color("kind:N", scale=scale, legend=alt.Legend(title=None, orient="bottom")),
            tooltip=tips,
        )
        .add_params(chosen)
        .transform_filter("datum.method == chosen")
        .properties(height=240)
    )  # fmt: skip
    return chart


def reliability(bins: Mapping[str, Sequence[Sequence[float]]]) -> Plot:
    """Draw predicted probability against observed share.

    bins: [mean predicted, observed share, count] by data set.
    """
    rows = [
        {"data set": name, "predicted": predicted, "observed": observed, "flows": count}
        for name, points in bins.items()
        for predicted, observed, count in points
    ]
    x, y = (
        alt.X("predicted:Q", **axis("probability that the model stated")),
        alt.Y("observed:Q", **axis("share that was real")),
    )
    tips = ["data set:N", alt.Tooltip("predicted:Q", format=".2%"), alt.Tooltip("observed:Q", format=".2%"), "flows:Q"]
    colour = alt.Color("data set:N", legend=alt.Legend(title=None, orient="bottom"))
    base = alt.Chart(pl.DataFrame(rows)).encode(x=x, y=y, color=colour)
    diagonal = alt.Chart(pl.DataFrame({"predicted": [0.0, 1.0], "observed": [0.0, 1.0]}))
    return alt.layer(
        diagonal.mark_line(strokeDash=[3, 4], color="currentColor", opacity=0.4).encode(x=x, y=y),
        base.mark_line(),
        base.mark_circle(size=60, opacity=1).encode(tooltip=tips),
    ).properties(height=320)


def delta_bars(found: Sequence[tuple[str, str, float]], title: str) -> Plot:
    """Draw what each ablation changes. found: (data set, ablation, difference)."""
    frame = pl.DataFrame(found, schema=["data set", "without", "difference"], orient="row")
    tips = ["data set:N", "without:N", alt.Tooltip("difference:Q", format="+.4f")]
    num_sets = frame["data set"].n_unique()
    chart: Plot = (
        alt.Chart(frame)
        .mark_bar()
        .encode(
            x=alt.X("difference:Q", title=title, axis=alt.Axis(format="+.3f")),
            y=alt.Y("without:N", title=None, sort=None),
            yOffset=alt.YOffset("data set:N"),
            color=alt.Color("data set:N", legend=alt.Legend(title=None, orient="bottom")),
            tooltip=tips,
        )
        .properties(height=60 + (14 * num_sets + 10) * frame["without"].n_unique())
    )
    return chart


def scenario_dots(lines: Sequence[Line]) -> Plot:
    """Draw the AUROC of each scenario, with the spread over seeds."""
    rows = []
    for line in lines:
        spread = line.metrics.get("auroc")
        if spread is not None:
            sd = spread.sd or 0.0
            rows.append(
                {
                    "data set": line.dataset,
                    "method": line.method,
                    "scenario": line.scenario,
                    "AUROC": spread.mean,
                    "low": spread.mean - sd,
                    "high": min(spread.mean + sd, 1.0),
                }
            )
    frame = pl.DataFrame(rows)
    scale = alt.Scale(zero=False, nice=True)
    y = alt.Y("scenario:N", title=None, sort=None, axis=alt.Axis(labelLimit=210))
    colour = alt.Color("data set:N", legend=alt.Legend(title=None, orient="bottom"))
    base = alt.Chart(frame).encode(y=y, color=colour)
    tips = ["data set:N", "method:N", "scenario:N", alt.Tooltip("AUROC:Q", format=".4f")]
    return alt.layer(
        base.mark_rule(opacity=0.6).encode(x=alt.X("low:Q", scale=scale, title="AUROC, mean ± sd"), x2="high:Q"),
        base.mark_circle(size=90, opacity=0.9).encode(x=alt.X("AUROC:Q", scale=scale), tooltip=tips),
    ).properties(height=50 + 26 * frame["scenario"].n_unique())


def costs(lines: Sequence[Line], methods: Sequence[str]) -> Plot:
    """Draw seconds of fitting against memory, a dot for each method and data set."""
    rows = [
        {
            "method": line.method,
            "data set": line.dataset,
            "seconds": line.mean("fit_s"),
            "memory": line.mean("peak_memory_mb"),
            "flows/s": line.mean("flows_per_s"),
        }
        for line in lines
        if line.mean("fit_s") is not None
    ]
    tips = [
        "method:N",
        "data set:N",
        *(alt.Tooltip(f"{name}:Q", format=",.1f") for name in ("seconds", "memory", "flows/s")),
    ]
    chart: Plot = (
        alt.Chart(pl.DataFrame(rows))
        .mark_circle(size=110, opacity=0.85)
        .encode(
            x=alt.X(
                "seconds:Q",
                title="seconds to fit (logarithmic)",
                scale=alt.Scale(type="log"),
                axis=alt.Axis(format="~s"),
            ),
            y=alt.Y("memory:Q", title="peak memory, MB"),
            color=colour_of(methods),
            tooltip=tips,
        )
        .properties(height=300)
    )
    return chart
