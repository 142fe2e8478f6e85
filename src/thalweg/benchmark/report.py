"""One HTML file that shows an evaluation to a reader who never saw one; it opens without a network."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from thalweg.benchmark.charts import Plot, bundle, precision_chart, roc_chart, spec_of, spread_chart
from thalweg.benchmark.metrics import Curve, Evaluation, make_curve
from thalweg.errors import SinkError

_MOST_HOSTS: Final = 20


def write_report(
    path: Path,
    title: str,
    evaluation: Evaluation,
    logit: npt.NDArray[np.floating],
    label: npt.NDArray[np.bool_],
    attack: pl.Series | None,
    threshold_logit: float,
    facts: Mapping[str, str],
    hosts: pl.DataFrame | None = None,
) -> None:
    """Write the report of an evaluation as one HTML file, whole or not at all.

    logit, label, attack: (E,) as given to `evaluate`. threshold_logit: flows below it are anomalous. facts:
    what a reader should know about the run, by name. hosts: from `rank_hosts`; its first rows are shown.

    Raises: SinkError, where the file cannot be written; SchemaError and ModelError, as `evaluate`.
    """
    page = _page(title, evaluation, logit, label, attack, threshold_logit, facts, hosts)
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise SinkError(f"cannot write the report {path}: {error.strerror}. Choose another place") from error


def _page(
    title: str,
    evaluation: Evaluation,
    logit: npt.NDArray[np.floating],
    label: npt.NDArray[np.bool_],
    attack: pl.Series | None,
    threshold_logit: float,
    facts: Mapping[str, str],
    hosts: pl.DataFrame | None,
) -> str:
    curve = make_curve(logit, label)
    charts: dict[str, Plot] = {}
    body = [_cards(evaluation), *(f'<p class="note">{escape(note)}</p>' for note in evaluation.notes)]
    if len(logit):
        charts["spread"] = spread_chart(logit, label, attack, threshold_logit)
        body.append(_figure("How strange each kind of flow looked", ["spread"], _WORDS["spread"]))
    if curve.num_attacks and curve.num_benign:
        charts["roc"] = roc_chart(curve, evaluation, 1.0)
        charts["edge"] = roc_chart(curve, evaluation, 0.05)
        charts["pr"] = precision_chart(curve, evaluation)
        body.append(_figure("Found against falsely flagged", ["roc", "edge"], _WORDS["roc"]))
        body.append(_rates(evaluation))
        body.append(_figure("How many of the alarms are real", ["pr"], _words_of_precision(curve)))
    if evaluation.per_attack:
        body.append(_attacks(evaluation))
    if hosts is not None:
        body.append(_hosts(hosts))
    body.append(_facts(facts))
    specs = {name: spec_of(chart) for name, chart in charts.items()}
    # "</" inside a script element would end it.
    data = json.dumps(specs, allow_nan=False).replace("</", "<\\/")
    script = f"<script>{bundle()}</script><script>const specs={data};{_DRAW}</script>" if charts else ""
    return _TEMPLATE.format(title=escape(title), style=_STYLE, body="\n".join(body), script=script)


def _percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}%}"


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _cards(e: Evaluation) -> str:
    base = e.num_attacks / e.num_flows if e.num_flows else None
    cards = [
        ("flows", f"{e.num_flows:,}", f"{e.num_attacks:,} of them attacks ({_percent(base)})"),
        (
            "AUROC",
            _number(e.auroc),
            "chance that an attack looks stranger than a benign flow; 0.5 is guessing",
        ),
        ("average precision", _number(e.average_precision), f"guessing would reach {_number(base)}"),
        ("attacks found", _percent(e.tpr), "at the model's own threshold, which saw no label"),
        ("falsely flagged", _percent(e.fpr, 2), "of the benign flows, at the same threshold"),
        ("alarms that are real", _percent(e.precision), f"of {e.num_anomalous:,} flagged flows"),
        ("false alerts a day", _number(e.false_alerts_per_day, 1), "flagged benign flows, ungrouped"),
        (
            "found at 1% FPR",
            _percent(e.tpr_at_fpr.get(0.01)),
            "attacks found if 1% of benign flows may be flagged",
        ),
    ]
    items = "".join(
        f'<div class="card"><div class="name">{escape(name)}</div><div class="value">{escape(value)}</div>'
        f'<div class="hint">{escape(hint)}</div></div>'
        for name, value, hint in cards
    )
    return f'<div class="cards">{items}</div>'


def _figure(title: str, names: Sequence[str], words: str) -> str:
    charts = "".join(f'<div class="chart" id="{name}"></div>' for name in names)
    return f'<section><h2>{title}</h2><div class="charts">{charts}</div><p>{words}</p></section>'


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _bar(value: float | None) -> str:
    if value is None:
        return "–"
    return f'<span class="bar"><i style="width:{value:.1%}"></i></span><b>{value:.1%}</b>'


def _rates(e: Evaluation) -> str:
    rows = [[f"{target:.1%} of benign flows flagged", _bar(tpr)] for target, tpr in e.tpr_at_fpr.items()]
    table = _table(["where at most", "attack flows found"], rows)
    if e.youden is None:
        return table
    return table + (
        f'<p class="note">Youden\'s point: {e.youden.tpr:.1%} found, {e.youden.fpr:.2%} falsely flagged '
        f"({escape(e.youden.note)}).</p>"
    )


def _attacks(e: Evaluation) -> str:
    rows = [
        [escape(row.attack), f"{row.flows:,}", _bar(row.tpr), _bar(row.tpr_at_fpr_1), _number(row.auroc)]
        for row in e.per_attack
    ]
    header = ["attack", "flows", "found at the model's threshold", "found at 1% FPR", "AUROC"]
    return f"<section><h2>Attack by attack</h2>{_table(header, rows)}<p>{_WORDS['attacks']}</p></section>"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else escape(str(value))


def _hosts(hosts: pl.DataFrame) -> str:
    columns = ["rank", "src_addr", "strangeness", "flows", "anomalous"]
    columns += [name for name in ("attacks",) if name in hosts.columns]
    header = {"src_addr": "host", "anomalous": "flagged flows", "attacks": "attack flows"}
    shown = hosts.select(columns).head(_MOST_HOSTS)
    rows = [[_cell(value) for value in row] for row in shown.iter_rows()]
    table = _table([header.get(name, name) for name in columns], rows)
    more = f" {hosts.height:,} hosts opened flows; the first {len(rows)} are shown."
    return f"<section><h2>The strangest hosts</h2>{table}<p>{_WORDS['hosts']}{more}</p></section>"


def _facts(facts: Mapping[str, str]) -> str:
    if not facts:
        return ""
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    return f"<section><h2>About this run</h2><dl>{items}</dl></section>"


def _words_of_precision(curve: Curve) -> str:
    share = curve.num_attacks / (curve.num_attacks + curve.num_benign)
    return (
        "From left to right the threshold is lowered and more attacks are found. The height tells how many "
        "of the flagged flows are attacks then. Guessing would stay on the dotted line, at "
        f"{share:.1%}, the share of attacks in this data; the further above it, the better. Where attacks "
        "are rare, this picture is stricter than the one before: 1% of very many benign flows can still be "
        "more than all attacks."
    )


_WORDS: Final = {
    "spread": (
        "Each row is one kind of flow; the bars show where its flows lie, from usual on the left to strange"
        " on the right, each row to its own height (square-rooted, so that rare values can be seen). Flows "
        "right of the red line are flagged. Good: the blue row lies left of the line and the orange rows "
        "right of it. An orange row that lies under the blue one is an attack that looks like normal "
        "traffic to the model."
    ),
    "roc": (
        "Each point of the curve is a possible threshold: how many attack flows it would find (upwards) and"
        " how many benign flows it would falsely flag (to the right). The nearer the curve comes to the "
        "upper left corner, the better; guessing follows the dotted diagonal. The second picture shows the "
        "left edge alone, since nobody can work with a tool that flags one benign flow in ten. The red "
        "point is the threshold that the model set by itself."
    ),
    "attacks": (
        "How much of each kind of attack is found. AUROC compares its flows with all benign ones: 1 is "
        "always stranger, 0.5 cannot be told apart, below 0.5 looks more usual than normal traffic."
    ),
    "hosts": (
        "Hosts by how far their flows reach beyond the threshold, weighed by how many flows they opened. No"
        " label is used; where labels are there, the last column tells how many of the flows are attacks."
    ),
}

_DRAW: Final = """
const dark = matchMedia("(prefers-color-scheme: dark)").matches;
for (const [name, spec] of Object.entries(specs))
  vegaEmbed("#" + name, spec, {mode: "vega-lite", renderer: "svg", actions: false,
                               tooltip: {theme: dark ? "dark" : "light"}});
"""

_STYLE: Final = """
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 16%, transparent);
  --soft: color-mix(in srgb, currentColor 5%, transparent); }
body { font: 16px/1.55 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; max-width: 1040px;
  margin: 2.5rem auto 4rem; padding: 0 1.25rem; font-variant-numeric: tabular-nums; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 1.25rem; }
h2 { font-size: 1.2rem; margin: 2.75rem 0 .75rem; }
p { max-width: 46rem; } .note { border-left: 3px solid var(--line); padding-left: .8rem; }
.note, .hint { opacity: .78; font-size: .9rem; }
.cards { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fill, minmax(210px, 1fr)); }
.card { border: 1px solid var(--line); border-radius: 10px; padding: .8rem 1rem; background: var(--soft); }
.card .name { font-size: .85rem; opacity: .85; } .card .value { font-size: 1.7rem; font-weight: 600; }
.card .hint { font-size: .8rem; line-height: 1.35; }
.charts { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(320px, 1fr)); }
.chart { width: 100%; min-width: 0; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th { text-align: left; font-weight: 600; font-size: .82rem; opacity: .8; }
th, td { padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
.bar { display: inline-block; width: 110px; height: .6rem; border-radius: 3px; background: var(--line);
  margin-right: .6rem; overflow: hidden; } .bar i { display: block; height: 100%; background: #4a8fd0; }
td b { font-weight: 500; } section + .wide, section + .wide + .note { margin-top: 1rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.5rem; } dt { opacity: .75; }
dd { margin: 0; overflow-wrap: anywhere; }
"""

# The policy forbids the page to fetch anything; Vega compiles its expressions, hence 'unsafe-eval'.
_TEMPLATE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline';
 script-src 'unsafe-inline' 'unsafe-eval'; img-src data:">
<style>{style}</style></head>
<body><h1>{title}</h1>
{body}
{script}</body></html>
"""
