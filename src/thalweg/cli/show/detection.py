"""What a person sees of a benchmark in the terminal: its progress, then its tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from thalweg.benchmark.detection.datasets import DataSet, Found, Rates
from thalweg.benchmark.detection.job import Job
from thalweg.benchmark.detection.plan import State
from thalweg.benchmark.detection.scenarios import CLEAN
from thalweg.benchmark.detection.summary import (
    Beside,
    Line,
    beside_published,
    deltas,
    ranking,
    scenario_lines,
    standings,
)
from thalweg.cli.show.console import plain_table, seconds_in_words

_YOUDEN = "Youden's J: the threshold is chosen on the test labels, only to stand beside published figures"


@contextmanager
def benchmark_line(console: Console) -> Iterator[Callable[[State], None]]:
    """Show a benchmark as it runs: a live line on a terminal, one line a job elsewhere."""
    if not console.is_terminal:
        yield lambda state: _say(console, state)
        return
    with Progress(
        TextColumn("benchmark"),
        BarColumn(bar_width=24),
        TextColumn("{task.description}"),
        console=console,
        transient=True,
    ) as bars:
        task = bars.add_task("", total=1)

        def tell(state: State) -> None:
            if state.error is not None:
                _say(console, state)
            running = "  ".join(f"{words_of(job)} {seconds_in_words(spent)}" for job, spent in state.now)
            words = f"{state.done}/{state.total}{_left(state)}  {running}"
            bars.update(task, completed=state.done, total=max(state.total, 1), description=words)

        yield tell


def _say(console: Console, state: State) -> None:
    if state.ended is None:
        return
    how = "" if state.error is None else f"  FAILED: {state.error}"
    line = f"{state.done}/{state.total}  {words_of(state.ended)}  {seconds_in_words(_last(state))}{how}{_left(state)}"
    console.print(line, soft_wrap=True)


def _last(state: State) -> float:
    return 0.0 if state.ended is None else state.spent[state.ended.family][-1]


def _left(state: State) -> str:
    return "" if not state.seconds_left else f"  about {seconds_in_words(state.seconds_left)} left"


def words_of(job: Job) -> str:
    """Name a job in a few words."""
    scenario = "" if job.scenario == CLEAN else f" [{job.scenario}]"
    return f"{job.dataset} {job.family}{scenario} seed {job.seed}"


def benchmark_tables(lines: Sequence[Line], chosen: Sequence[Found]) -> list[Table]:
    """Lay out a benchmark: beside the published table, by data set and method, then what else has run."""
    tables = [_beside(beside_published(lines, chosen))]
    tables += [_ranked(ranking(lines, name), name) for name in dict.fromkeys(line.dataset for line in lines)]
    if len(standings(lines)) > 1:
        tables.append(_standings(lines))
    if differences := deltas(lines, "auroc"):
        tables.append(_ablations(differences))
    if more := scenario_lines(lines):
        tables.append(_scenarios(more))
    return tables


def _beside(rows: Sequence[Beside]) -> Table:
    table = plain_table(
        "Beside the published table: TPR / FPR in percent",
        ["file"],
        [
            "published GAE",
            "Anomal-E, reported",
            "GAE, rebuilt*",
            "Anomal-E, test-tuned*",
            "thalweg*",
            "thalweg, 1 % budget",
        ],
        f"* chosen on test labels. {_YOUDEN}. Published figures are on the v1 files.",
    )
    for row in rows:
        reported, anomal_e = row.reported
        table.add_row(
            row.found.name,
            _rates(reported),
            _rates(anomal_e),
            _both(row.published, "youden_tpr", "youden_fpr"),
            _both(row.anomal_e, "tuned_tpr", "tuned_fpr"),
            _both(row.thalweg, "youden_tpr", "youden_fpr"),
            _both(row.thalweg, "tpr_budget_1", "fpr_budget_1"),
        )
    return table


def _rates(rates: Rates | None) -> str:
    return "-" if rates is None else f"{100 * rates.tpr:g} / {100 * rates.fpr:g}"


def _both(line: Line | None, tpr: str, fpr: str) -> str:
    return "-" if line is None or tpr not in line.metrics else f"{line.get(tpr, 1, 100)} / {line.get(fpr, 1, 100)}"


def _ranked(lines: Sequence[Line], dataset: str) -> Table:
    table = plain_table(
        dataset,
        ["", "method"],
        ["AUROC", "AP", "TPR at 1 % FPR", "TPR / FPR, 1 % budget", "TPR / FPR, 0.1 % budget", "fit s", "flows/s", "MB"],
    )
    for place, line in enumerate(lines, 1):
        if not line.metrics:
            table.add_row("-", line.method, "failed: " + "; ".join(line.errors))
            continue
        table.add_row(
            str(place),
            line.method,
            line.get("auroc"),
            line.get("average_precision"),
            line.get("tpr_at_fpr_1", 1, 100),
            _both(line, "tpr_budget_1", "fpr_budget_1"),
            _both(line, "tpr_budget_01", "fpr_budget_01"),
            _whole(line, "fit_s", 1),
            _whole(line, "flows_per_s"),
            _whole(line, "peak_memory_mb"),
            style="bold" if place == 1 else None,
        )
    return table


def _whole(line: Line, name: str, digits: int = 0) -> str:
    found = line.mean(name)
    return "-" if found is None else f"{found:,.{digits}f}"


def _standings(lines: Sequence[Line]) -> Table:
    table = plain_table("Who is first, by AUROC", ["method"], ["mean place", "data sets", "first on"])
    for one in standings(lines):
        table.add_row(one.method, f"{one.mean_place:.1f}", str(one.num), ", ".join(one.firsts) or "-")
    return table


def _ablations(differences: Sequence[tuple[str, str, float]]) -> Table:
    sets = list(dict.fromkeys(dataset for dataset, _, _ in differences))
    table = plain_table("Without one part: AUROC minus the whole model's", ["without"], sets)
    found = {(dataset, name): delta for dataset, name, delta in differences}
    for name in dict.fromkeys(name for _, name, _ in differences):
        table.add_row(name, *(f"{found[s, name]:+.3f}" if (s, name) in found else "-" for s in sets))
    return table


def _scenarios(lines: Sequence[Line]) -> Table:
    table = plain_table(
        "Other conditions", ["data set", "method", "scenario"], ["AUROC", "AP", "TPR / FPR, 1 % budget"]
    )
    for line in lines:
        table.add_row(
            line.dataset,
            line.method,
            line.scenario,
            line.get("auroc"),
            line.get("average_precision"),
            _both(line, "tpr_budget_1", "fpr_budget_1"),
        )
    return table


def say_not_given(console: Console, absent: Sequence[DataSet]) -> None:
    """Print the data sets that were not given, and who publishes them."""
    for one in absent:
        console.print(f"not given: {one.title} ({one.name}), {one.source}", soft_wrap=True)
