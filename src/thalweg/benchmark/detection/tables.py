"""The tables of the detection benchmark, for the terminal and the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import polars as pl

from thalweg.benchmark.detection.datasets import DataSet, Found, Rates
from thalweg.benchmark.detection.summary import (
    Line,
    beside_published,
    deltas,
    ranking,
    scenario_lines,
    standings,
)
from thalweg.evaluate.tables import Column, Table, columns, number

_YOUDEN: Final = "Youden's J: the threshold is chosen on the test labels, only to compare with published figures"
_TABLES_ONLY: Final = "only to compare with published tables"


def _both(line: Line | None, tpr: str, fpr: str) -> str:
    return "-" if line is None or tpr not in line.metrics else f"{line.get(tpr, 1, 100)} / {line.get(fpr, 1, 100)}"


FIGURES: Final[Mapping[str, Callable[[Line], str]]] = {
    "AUROC": lambda line: line.get("auroc"),
    "AP": lambda line: line.get("average_precision"),
    "TPR at 0.1 % FPR": lambda line: line.get("tpr_at_fpr_01", 1, 100),
    "TPR at 1 % FPR": lambda line: line.get("tpr_at_fpr_1", 1, 100),
    "TPR / FPR, 1 % budget": lambda line: _both(line, "tpr_budget_1", "fpr_budget_1"),
    "TPR / FPR, 0.1 % budget": lambda line: _both(line, "tpr_budget_01", "fpr_budget_01"),
    "macro-F1, 1 % budget": lambda line: line.get("macro_f1_budget_1"),
    "best macro-F1*": lambda line: f"{line.get('tuned_macro_f1')}*",
    "fit s": lambda line: number(line.mean("fit_s"), ",.1f"),
    "flows/s": lambda line: number(line.mean("flows_per_s")),
    "MB": lambda line: number(line.mean("peak_memory_mb")),
}
"""The figures of a method, by their headings; each table shows some of them."""

METHOD_FIGURES: Final = tuple(name for name in FIGURES if name not in ("fit s", "flows/s", "MB"))
"""Figures that the report shows for each method on a data set; costs have their own section."""

_PRINTED_FIGURES: Final = tuple(
    name for name in FIGURES if name not in ("TPR at 0.1 % FPR", "macro-F1, 1 % budget", "best macro-F1*")
)


def benchmark_tables(lines: Sequence[Line], chosen: Sequence[Found]) -> list[Table]:
    """Describe a benchmark: the published table, one table per data set, then standings, ablations and scenarios."""
    sets = dict.fromkeys(line.dataset for line in lines)
    tables = [
        beside_table(lines, chosen),
        *(methods_table(name, ranking(lines, name), _PRINTED_FIGURES) for name in sets),
    ]
    if len(standings(lines)) > 1:
        tables.append(standings_table(lines))
    if differences := deltas(lines, "auroc"):
        tables.append(_ablations_table(differences))
    if more := scenario_lines(lines):
        tables.append(scenarios_table(more, ("AUROC", "AP", "TPR / FPR, 1 % budget")))
    return tables


def beside_table(lines: Sequence[Line], found: Sequence[Found]) -> Table:
    """Put our results beside the published ones, a row for each file."""
    rows = []
    for row in beside_published(lines, found):
        reported, anomal_e = row.reported
        rows.append(
            (
                row.found.name,
                _rates(reported),
                _rates(anomal_e),
                _both(row.published, "youden_tpr", "youden_fpr"),
                _both(row.anomal_e, "tuned_tpr", "tuned_fpr"),
                _both(row.thalweg, "youden_tpr", "youden_fpr"),
                _both(row.thalweg, "tpr_budget_1", "fpr_budget_1"),
            )
        )
    figures = ["published GAE", "Anomal-E, reported", "GAE, rebuilt*", "Anomal-E, test-tuned*", "thalweg*"]
    return Table(
        title="Beside the published table: TPR / FPR in percent",
        columns=(*columns(["file"], figures), Column("thalweg, 1 % budget", tone="strong")),
        rows=tuple(rows),
        caption=f"* chosen on test labels. {_YOUDEN}. Published figures are on the v1 files.",
    )


def _rates(rates: Rates | None) -> str:
    return "-" if rates is None else f"{100 * rates.tpr:g} / {100 * rates.fpr:g}"


def methods_table(dataset: str, lines: Sequence[Line], figures: Sequence[str]) -> Table:
    """Rank methods on one data set, the first emphasised; lines in their order. figures: some of FIGURES."""
    rows = []
    for place, line in enumerate(lines, 1):
        if not line.metrics:
            rows.append(("-", line.method, "failed: " + "; ".join(line.errors), *[""] * (len(figures) - 1)))
            continue
        rows.append(("*" if line.is_tuned else str(place), line.method, *(FIGURES[name](line) for name in figures)))
    is_first = bool(lines) and bool(lines[0].metrics)
    return Table(
        title=dataset,
        columns=columns(["", "method"], figures),
        rows=tuple(rows),
        emphasised=frozenset([0] if is_first else []),
    )


def standings_table(lines: Sequence[Line]) -> Table:
    """Rank methods by their mean rank over the data sets."""
    return Table(
        title="Ranking by AUROC, over all data sets",
        columns=columns(["method"], ["mean rank", "data sets", "first on"]),
        rows=tuple(
            (one.method, f"{one.mean_place:.1f}", str(one.num), ", ".join(one.firsts) or "-")
            for one in standings(lines)
        ),
    )


def _ablations_table(differences: Sequence[tuple[str, str, float]]) -> Table:
    sets = list(dict.fromkeys(dataset for dataset, _, _ in differences))
    found = {(dataset, name): delta for dataset, name, delta in differences}
    return Table(
        title="Without one part: AUROC minus the whole model's",
        columns=columns(["without"], sets),
        rows=tuple(
            (name, *(f"{found[s, name]:+.3f}" if (s, name) in found else "-" for s in sets))
            for name in dict.fromkeys(name for _, name, _ in differences)
        ),
    )


def scenarios_table(lines: Sequence[Line], figures: Sequence[str], *, notes: bool = False) -> Table:
    """Compare methods under other conditions. figures: some of FIGURES; notes: also each line's first note."""
    rows = []
    for line in lines:
        cells = (line.dataset, line.method, line.scenario, *(FIGURES[name](line) for name in figures))
        rows.append((*cells, "; ".join(line.notes[:1])) if notes else cells)
    last = [Column("note", "left")] if notes else []
    return Table(
        title="Other conditions",
        columns=(*columns(["data set", "method", "scenario"], figures), *last),
        rows=tuple(rows),
    )


def protocols_table() -> Table:
    """Describe where the threshold comes from under each protocol."""
    return Table(
        title="How the threshold is set",
        columns=(
            Column("protocol", "left", "strong"),
            *columns(["the threshold comes", "labels used", "read it as"], []),
        ),
        rows=(
            (
                "honest",
                "from flows held out of training, for a budget of 1 % or 0.1 % of usual flows",
                "none",
                "what to expect on your own network",
            ),
            ("published", "from Youden's J, at the largest TPR − FPR", "the test's own", _TABLES_ONLY),
            ("test-tuned", "at the largest macro-F1", "the test's own", _TABLES_ONLY),
        ),
    )


def host_alerts_table(lines: Sequence[Line]) -> Table:
    """Show how soon each method alerts the infected host, and how many others it alerts."""
    figures = {
        "rank of the infected host": ("infected_rank", 1),
        "of hosts": ("num_hosts", 0),
        "minutes to its first alert": ("minutes_to_alert", 1),
        "false host alerts an hour": ("false_host_alerts_per_hour", 1),
        "false flow alarms a day": ("false_per_day_budget_1", 0),
    }
    return Table(
        title="Host by host",
        columns=columns(["method"], list(figures)),
        rows=tuple((line.method, *(line.get(name, digits) for name, digits in figures.values())) for line in lines),
    )


def costs_table(lines: Sequence[Line]) -> Table:
    """Show each method's largest time and memory over the data sets, and its smallest speed."""
    rows = []
    for method in dict.fromkeys(line.method for line in lines):
        of = [line for line in lines if line.method == method]
        rows.append(
            (
                method,
                *(number(_most(of, name), ",.1f") for name in ("fit_s", "score_s")),
                number(-_most(of, "flows_per_s", -1)),
                *(number(_most(of, name)) for name in ("peak_memory_mb", "data_memory_mb")),
            )
        )
    figures = ["seconds to fit", "seconds to score", "flows/s", "peak memory, MB", "of which for the data"]
    return Table(title="Time and memory", columns=columns(["method"], figures), rows=tuple(rows))


def _most(lines: Sequence[Line], name: str, sign: int = 1) -> float:
    """Return the largest mean of a metric, times `sign`; 0 if no line has it."""
    return max((sign * value for line in lines if (value := line.mean(name)) is not None), default=0.0)


def failures_table(failed: pl.DataFrame) -> Table:
    """List the jobs that failed. failed: rows with an error."""
    names = ("dataset", "scenario", "method", "seed", "error")
    return Table(
        title="Failed jobs",
        columns=columns(["data set", "scenario", "method", "seed", "why"], []),
        rows=tuple(tuple(str(row[name]) for name in names) for row in failed.iter_rows(named=True)),
    )


def absent_table(absent: Sequence[DataSet]) -> Table:
    """List the data sets that are not in --data, and who publishes them."""
    return Table(
        title="Data sets that were not found",
        columns=columns(["data set", "name", "how to get it"], []),
        rows=tuple((one.title, one.name, one.source) for one in absent),
    )
