"""The report's charts, in Vega-Lite, with no more points than a screen can show.

Importing this raises MissingExtraError without the extra `report`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from thalweg.evaluate.metrics import UNNAMED, Curve, Evaluation
from thalweg.runtime.extras import need

need("altair", "vl_convert", extra="report")
import altair as alt  # noqa: E402  # the check comes first
import vl_convert  # noqa: E402  # likewise

Plot: TypeAlias = alt.Chart | alt.LayerChart | alt.FacetChart

_POINTS: Final = 250  # of a curve, along each axis
_BINS: Final = 90
_MOST_CLASSES: Final = 14
_FONT: Final = "system-ui, Segoe UI, Roboto, DejaVu Sans, sans-serif"  # the page's; Vega must measure it
BLUE, ORANGE, RED = "#4a8fd0", "#d98a2b", "#d5484f"  # readable on white and on black


@cache
def bundle() -> str:
    """Return the whole JavaScript that draws charts, so that the page fetches nothing."""
    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


def spec_of(chart: Plot) -> dict[str, Any]:
    """Return a chart as JSON values that takes the page's own colours and width."""
    text = {
        "labelColor": "currentColor",
        "titleColor": "currentColor",
        "labelFontSize": 12,
        "titleFontSize": 12,
    }
    lines = {
        "gridColor": "currentColor",
        "gridOpacity": 0.12,
        "domainColor": "currentColor",
        "domainOpacity": 0.4,
    }
    spec: dict[str, Any] = (
        chart.properties(width="container", background="transparent")
        .configure(font=_FONT, padding=4)
        .configure_axis(**text, **lines, tickColor="currentColor", tickOpacity=0.4, titleFontWeight="normal")
        .configure_legend(labelColor="currentColor", titleColor="currentColor", labelFontSize=12, labelLimit=260)
        .configure_view(stroke=None)
        .to_dict()
    )
    spec.pop("$schema")  # a URL that the page does not need
    return spec


def png_of(chart: Plot, width: int = 760) -> bytes:
    """Draw a chart as a picture that stands alone: dark on white, `width` points wide, twice as many pixels."""
    spec = json.dumps({**spec_of(chart), "width": width, "background": "white"}).replace("currentColor", "#1b2733")
    return bytes(vl_convert.vegalite_to_png(spec, scale=2))


def _thin(curve: Curve) -> pl.DataFrame:
    """Choose points of the curve that a screen can resolve, denser at small FPR."""
    grid = np.linspace(0, 1, _POINTS)
    smallest = 0.5 / curve.num_benign
    rows = np.concatenate(
        [
            np.searchsorted(curve.fpr, grid),
            np.searchsorted(curve.fpr, np.geomspace(smallest, 1, _POINTS)),
            np.searchsorted(curve.fpr, grid * 0.05, side="right") - 1,
            np.searchsorted(curve.tpr, grid),
            [0, len(curve.fpr) - 1],
        ]
    )
    rows = np.unique(np.clip(rows, 0, len(curve.fpr) - 1))
    columns = {
        "FPR": curve.fpr,
        "TPR": curve.tpr,
        "precision": curve.precision,
        "strangeness": curve.strangeness,
    }
    frame = pl.DataFrame({name: column[rows] for name, column in columns.items()})
    return frame.select(
        pl.col("FPR", "TPR", "precision").round_sig_figs(6),
        pl.when(pl.col("strangeness").is_finite()).then(pl.col("strangeness").round_sig_figs(5)),
    )


def axis(title: str, top: float = 1.0) -> dict[str, Any]:
    """Return the axis and scale of a share in percent, from 0 to `top`."""
    tick = ".0%" if top > 0.5 else ".1%"
    return {"axis": alt.Axis(title=title, format=tick, tickCount=6), "scale": alt.Scale(domain=[0, top])}


def roc_chart(curve: Curve, evaluation: Evaluation, top: float) -> Plot:
    """Draw attacks found against benign flows flagged, for FPR up to `top`."""
    frame = _thin(curve)
    # One more point, so that the line reaches the edge of a chart that is cut off at `top`.
    shown = frame.filter(pl.col("FPR") <= top) if top < 1 else frame
    edge = {"FPR": top, "TPR": float(np.interp(top, curve.fpr, curve.tpr))}
    shown = pl.concat([shown, pl.DataFrame(edge)], how="diagonal")
    title = "benign flows falsely flagged" + (f", up to {top:.0%} only" if top < 1 else "")
    x, y = alt.X("FPR:Q", **axis(title, top)), alt.Y("TPR:Q", **axis("attack flows found"))
    tips = [alt.Tooltip("FPR:Q", format=".3%"), alt.Tooltip("TPR:Q", format=".2%"), "strangeness:Q"]
    layers: list[alt.Chart] = [
        alt.Chart(pl.DataFrame({"FPR": [0.0, top], "TPR": [0.0, top]}))
        .mark_line(strokeDash=[3, 4], color="currentColor", opacity=0.4)
        .encode(x=x, y=y),
        alt.Chart(shown).mark_area(color=BLUE, opacity=0.1).encode(x=x, y=y.stack(None)),
        alt.Chart(shown).mark_line(color=BLUE, strokeWidth=2).encode(x=x, y=y),
        alt.Chart(shown).mark_circle(opacity=0, size=90).encode(x=x, y=y, tooltip=tips),
    ]
    if evaluation.fpr is not None and evaluation.tpr is not None and evaluation.fpr <= top:
        layers += _own_threshold({"FPR": evaluation.fpr, "TPR": evaluation.tpr}, x, y)
    return alt.layer(*layers).properties(height=300)


def precision_chart(curve: Curve, evaluation: Evaluation) -> Plot:
    """Draw the share of real alarms against the share of attacks found."""
    frame = _thin(curve).filter(pl.col("strangeness").is_not_null())
    x, y = (
        alt.X("TPR:Q", **axis("attack flows found")),
        alt.Y("precision:Q", **axis("alarms that are real")),
    )
    share = curve.num_attacks / (curve.num_attacks + curve.num_benign)
    tips = [alt.Tooltip("TPR:Q", format=".2%"), alt.Tooltip("precision:Q", format=".2%"), "strangeness:Q"]
    layers: list[alt.Chart] = [
        alt.Chart(pl.DataFrame({"TPR": [0.0, 1.0], "precision": [share, share]}))
        .mark_line(strokeDash=[3, 4], color="currentColor", opacity=0.4)
        .encode(x=x, y=y),
        alt.Chart(frame).mark_line(color=BLUE, strokeWidth=2).encode(x=x, y=y, order="TPR:Q"),
        alt.Chart(frame).mark_circle(opacity=0, size=90).encode(x=x, y=y, tooltip=tips),
    ]
    if evaluation.precision is not None and evaluation.tpr is not None:
        layers += _own_threshold({"TPR": evaluation.tpr, "precision": evaluation.precision}, x, y)
    return alt.layer(*layers).properties(height=300)


def _own_threshold(at: Mapping[str, float], x: alt.X, y: alt.Y) -> list[alt.Chart]:
    point = alt.Chart(pl.DataFrame(dict(at)))
    tips = [alt.Tooltip(f"{name}:Q", format=".3%") for name in at]
    # The label goes to the side on which the chart has room.
    right = next(iter(at.values())) > 0.6
    side: dict[str, Any] = {"align": "right", "dx": -10} if right else {"align": "left", "dx": 10}
    return [
        point.mark_point(color=RED, filled=True, size=90, opacity=1).encode(x=x, y=y, tooltip=tips),
        point.mark_text(color=RED, dy=14, text="the model's threshold", fontSize=12, **side).encode(x=x, y=y),
    ]


def spread_chart(
    logit: npt.NDArray[np.floating],
    label: npt.NDArray[np.bool_],
    attack: pl.Series | None,
    threshold_logit: float,
) -> Plot:
    """Draw a histogram for each class, each scaled to its own height."""
    strangeness = -logit.astype(np.float64)
    names, kinds = _kinds(label, attack)
    finite = strangeness[np.isfinite(strangeness)]
    low, high = np.quantile(finite, [0.0005, 0.9995]) if len(finite) else (0.0, 0.0)
    low, high = min(low, -threshold_logit) - 0.5, max(high, -threshold_logit) + 0.5
    edges = np.linspace(low, high, _BINS + 1)
    bin_of = np.clip(np.searchsorted(edges, np.clip(strangeness, low, high), "right") - 1, 0, _BINS - 1)
    counts = np.bincount(kinds * _BINS + bin_of, minlength=len(names) * _BINS).reshape(len(names), _BINS)
    share = counts / counts.sum(axis=1, keepdims=True)
    row, at = np.nonzero(counts)
    height = 0.85 * np.sqrt(share / share.max(axis=1, keepdims=True))[row, at]
    base = len(names) - 1 - row
    frame = pl.DataFrame(
        {
            "class": np.array(names)[row],
            "from": edges[at].round(3),
            "to": edges[at + 1].round(3),
            "base": base,
            "height": (base + height).round(3),
            "flows": counts[row, at],
            "share": share[row, at].round(6),
            "kind": np.where(row == names.index("benign") if "benign" in names else row < 0, "benign", "attack"),
        }
    )
    labels = json.dumps([*reversed(names)])
    rows = alt.Axis(
        title=None,
        values=list(range(len(names))),
        labelExpr=f"{labels}[datum.value]",
        labelBaseline="bottom",
        labelLimit=190,
        ticks=False,
        domain=False,
    )
    y = alt.Y("base:Q", axis=rows, scale=alt.Scale(domain=[0, len(names)], nice=False))
    x = alt.X("from:Q", title="strangeness (−logit) →", scale=alt.Scale(domain=[low, high], nice=False))
    tips = [
        "class:N",
        "flows:Q",
        alt.Tooltip("share:Q", format=".2%"),
        alt.Tooltip("from:Q", format=".2f"),
        "to:Q",
    ]
    color = alt.Color("kind:N", scale=alt.Scale(domain=["benign", "attack"], range=[BLUE, ORANGE]), legend=None)
    bars = (
        alt.Chart(frame).mark_rect(opacity=0.85).encode(x=x, x2="to:Q", y=y, y2="height:Q", color=color, tooltip=tips)
    )
    line = alt.Chart(pl.DataFrame({"from": [-threshold_logit]}))
    rule = line.mark_rule(color=RED, strokeDash=[5, 3], strokeWidth=1.5).encode(x=x)
    text = line.mark_text(color=RED, text="flagged from here →", align="left", dx=5, dy=10, y=0, fontSize=12)
    return alt.layer(bars, rule, text.encode(x=x)).properties(height=60 + 38 * len(names))


def _kinds(label: npt.NDArray[np.bool_], attack: pl.Series | None) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Name the class of each flow: benign, then the attacks by size; beyond 14 classes, the smallest are joined."""
    name = pl.Series([UNNAMED]).new_from_index(0, len(label)) if attack is None else attack.cast(pl.String)
    frame = pl.DataFrame({"label": label, "class": name}).select(
        pl.when("label").then(pl.col("class").fill_null(UNNAMED)).otherwise(pl.lit("benign")).alias("class"),
        "label",
    )
    sizes = frame.group_by("class", "label").len().sort("label", "len", "class", descending=[False, True, False])
    names = sizes["class"].to_list()
    if len(names) > _MOST_CLASSES:
        names = [*names[: _MOST_CLASSES - 1], "other attacks"]
    numbers = {text: number for number, text in enumerate(names)}
    kinds = frame["class"].replace_strict(numbers, default=len(names) - 1, return_dtype=pl.Int64)
    return names, kinds.to_numpy()
