"""Tables of text, independent of how they are shown.

`evaluate.page` writes one as HTML, the command line prints it. Here are also the tables of an evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, final

import polars as pl

from thalweg.evaluate.metrics import BudgetCheck, Evaluation


@final
@dataclass(frozen=True, slots=True)
class Share:
    """A share in [0, 1], None if there is none. A page draws it as a bar.

    >>> str(Share(0.9876)), str(Share(0.001)), str(Share(None))
    ('98.8 %', '0.1 %', '-')
    """

    value: float | None

    def __str__(self) -> str:
        return "-" if self.value is None else f"{100 * self.value:.1f} %"


Cell: TypeAlias = str | Share


@final
@dataclass(frozen=True, slots=True)
class Column:
    """A column's heading, alignment and emphasis."""

    name: str
    align: Literal["left", "right"] = "right"
    tone: Literal["plain", "strong", "faint"] = "plain"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of text: a cell for every column in each row.

    emphasised: indexes of the rows to emphasise. caption: what a reader must know to read the table; None if nothing.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    emphasised: frozenset[int] = frozenset()
    caption: str | None = None

    def __post_init__(self) -> None:
        """Check that no row is ragged."""
        assert all(len(row) == len(self.columns) for row in self.rows), f"{self.title}: a row lacks cells"


def columns(left: Sequence[str], right: Sequence[str]) -> tuple[Column, ...]:
    """Return columns of text, then columns of figures."""
    return (*(Column(name, "left") for name in left), *(Column(name) for name in right))


def number(value: float | None, form: str = ",.0f") -> str:
    """Write a number in a Python format; a dash if there is none.

    >>> number(1234.5), number(None), number(0.98765, ".4f")
    ('1,234', '-', '0.9877')
    """
    return "-" if value is None else f"{value:{form}}"


def evaluation_tables(evaluation: Evaluation, kept: BudgetCheck | None = None) -> list[Table]:
    """Describe an evaluation: the key figures, whether the budget was kept, then a row for each class of attack."""
    tables = [_figures_table(evaluation, kept)]
    return [*tables, attacks_table(evaluation)] if evaluation.per_attack else tables


def _figures_table(e: Evaluation, kept: BudgetCheck | None) -> Table:
    rows = [
        ("flows, attacks", f"{e.num_flows:,}, {e.num_attacks:,}", ""),
        ("AUROC", number(e.auroc, ".4f"), "chance is 0.5; needs no threshold"),
        (
            "average precision",
            number(e.average_precision, ".4f"),
            f"chance is {e.num_attacks / max(e.num_flows, 1):.4f}",
        ),
        ("TPR / FPR", f"{Share(e.tpr)} / {Share(e.fpr)}", "at the model's own threshold, which saw no label"),
    ]
    if kept is not None:
        enough = "enough" if kept.is_enough else "too few"
        hint = f"budget {kept.budget}; {kept.num_benign:,} benign flows are {enough} for this figure"
        rows.append(("FPR / budget", f"{kept.ratio:.2f} ×", hint))
    rows += [(f"TPR at FPR ≤ {Share(target)}", str(Share(tpr)), "") for target, tpr in e.tpr_at_fpr.items()]
    if e.false_alerts_per_day is not None:
        rows.append(("false alarms a day", f"{e.false_alerts_per_day:,.1f}", "flows, not grouped"))
    if e.youden is not None:
        rates = f"{Share(e.youden.tpr)} / {Share(e.youden.fpr)}"
        rows.append(("Youden's J, TPR / FPR", rates, "published protocol: " + e.youden.note))
    headings = (Column("", "left", "strong"), Column("", "right"), Column("", "left", "faint"))
    return Table(title="Against the labels", columns=headings, rows=tuple(rows))


def attacks_table(evaluation: Evaluation) -> Table:
    """Describe how much of each class of attack was found."""
    return Table(
        title="By attack",
        columns=columns(["attack"], ["flows", "caught", "caught at 1 % FPR", "AUROC"]),
        rows=tuple(
            (row.attack, f"{row.flows:,}", Share(row.tpr), Share(row.tpr_at_fpr_1), number(row.auroc, ".4f"))
            for row in evaluation.per_attack
        ),
    )


def hosts_table(hosts: pl.DataFrame, num: int = 10) -> Table:
    """Describe the strangest hosts, then the next ones that attacked by the labels; attackers are emphasised.

    hosts: from `rank_hosts`. num: rows of either kind at most.
    """
    first = hosts.head(num)
    names = ["rank", "src_addr", "flows", "anomalous", "strangeness"]
    if "attacks" in hosts.columns:
        names.append("attacks")
        first = pl.concat([first, hosts.slice(num).filter(pl.col("attacks") > 0).head(num)])
    shown = first.to_dicts()
    return Table(
        title=f"Strangest of {hosts.height:,} hosts",
        columns=tuple(Column(name, "left" if name == "src_addr" else "right") for name in names),
        rows=tuple(tuple(_host_cell(name, row[name]) for name in names) for row in shown),
        emphasised=frozenset(place for place, row in enumerate(shown) if row.get("attacks")),
    )


def _host_cell(name: str, value: Any) -> str:
    if name == "src_addr":
        return str(value)
    return f"{value:,.1f}" if name == "strangeness" else f"{value:,}"
