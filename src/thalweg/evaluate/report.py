"""One HTML file that shows an evaluation to a reader who never saw one; it opens without a network."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from thalweg.evaluate.charts import Plot, precision_chart, roc_chart, spread_chart
from thalweg.evaluate.metrics import Curve, Evaluation, make_curve
from thalweg.evaluate.page import facts_list, figure, make_page, number, percent, section, table_html, write_page
from thalweg.evaluate.tables import Share, Table, attacks_table, columns, hosts_table

_MOST_HOSTS: Final = 20


def write_report(
    path: Path,
    title: str,
    evaluation: Evaluation,
    *,
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

    Raises SinkError if the file cannot be written; SchemaError and ModelError as `evaluate` does.
    """
    curve = make_curve(logit, label)
    charts: dict[str, Plot] = {}
    body = [_cards(evaluation), *(f'<p class="note">{escape(note)}</p>' for note in evaluation.notes)]
    if len(logit):
        charts["spread"] = spread_chart(logit, label, attack, threshold_logit)
        body.append(figure("How strange each kind of flow looked", ["spread"], _WORDS["spread"]))
    if curve.num_attacks and curve.num_benign:
        charts["roc"] = roc_chart(curve, evaluation, 1.0)
        charts["edge"] = roc_chart(curve, evaluation, 0.05)
        charts["pr"] = precision_chart(curve, evaluation)
        body.append(figure("Found against falsely flagged", ["roc", "edge"], _WORDS["roc"]))
        body.append(_rates(evaluation))
        body.append(figure("How many of the alarms are real", ["pr"], _words_of_precision(curve)))
    if evaluation.per_attack:
        body.append(section(attacks_table(evaluation), _WORDS["attacks"]))
    if hosts is not None:
        body.append(_hosts(hosts))
    body.append(facts_list(facts))
    write_page(Path(path), make_page(title, body, charts))


def _cards(e: Evaluation) -> str:
    base = e.num_attacks / e.num_flows if e.num_flows else None
    cards = [
        ("flows", f"{e.num_flows:,}", f"{e.num_attacks:,} of them attacks ({percent(base)})"),
        (
            "AUROC",
            number(e.auroc),
            "chance that an attack looks stranger than a benign flow; 0.5 is guessing",
        ),
        ("average precision", number(e.average_precision), f"guessing would reach {number(base)}"),
        ("attacks found", percent(e.tpr), "at the model's own threshold, which saw no label"),
        ("falsely flagged", percent(e.fpr, 2), "of the benign flows, at the same threshold"),
        ("alarms that are real", percent(e.precision), f"of {e.num_anomalous:,} flagged flows"),
        ("false alerts a day", number(e.false_alerts_per_day, 1), "flagged benign flows, ungrouped"),
        (
            "found at 1% FPR",
            percent(e.tpr_at_fpr.get(0.01)),
            "attacks found if 1% of benign flows may be flagged",
        ),
    ]
    items = "".join(
        f'<div class="card"><div class="name">{escape(name)}</div><div class="value">{escape(value)}</div>'
        f'<div class="hint">{escape(hint)}</div></div>'
        for name, value, hint in cards
    )
    return f'<div class="cards">{items}</div>'


def _rates(e: Evaluation) -> str:
    table = table_html(
        Table(
            title="Found at a chosen rate of false alarms",
            columns=columns(["if at most"], ["attack flows found"]),
            rows=tuple((f"{target:.1%} of benign flows flagged", Share(tpr)) for target, tpr in e.tpr_at_fpr.items()),
        )
    )
    if e.youden is None:
        return table
    return table + (
        f'<p class="note">Youden\'s point: {e.youden.tpr:.1%} found, {e.youden.fpr:.2%} falsely flagged '
        f"({escape(e.youden.note)}).</p>"
    )


def _hosts(hosts: pl.DataFrame) -> str:
    shown = f" The first {_MOST_HOSTS} are shown, and below them the next ones that sent attack flows."
    return section(hosts_table(hosts, _MOST_HOSTS), _WORDS["hosts"] + shown)


def _words_of_precision(curve: Curve) -> str:
    share = curve.num_attacks / (curve.num_attacks + curve.num_benign)
    return (
        "From left to right the threshold is lowered and more attacks are found. The height is the share of "
        "flagged flows that are attacks. Guessing would stay on the dotted line, at "
        f"{share:.1%}, the share of attacks in this data; the further above it, the better. If attacks "
        "are rare, this chart is stricter than the one before: 1% of very many benign flows can still be "
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
        "upper left corner, the better; guessing follows the dotted diagonal. The second chart shows the "
        "left edge alone, since nobody can work with a tool that flags one benign flow in ten. The red "
        "point is the threshold that the model set by itself."
    ),
    "attacks": (
        "How much of each kind of attack is found. AUROC compares its flows with all benign ones: 1 means "
        "always stranger, 0.5 no difference, below 0.5 more usual than benign traffic."
    ),
    "hosts": (
        "Hosts by how far their flows reach beyond the threshold, weighted by how many flows they opened. No"
        " label is used; if there are labels, the last column counts the attack flows."
    ),
}
