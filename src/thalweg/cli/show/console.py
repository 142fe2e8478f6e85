"""What a person sees in the terminal: progress lines, tables, and numbers in words."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import polars as pl
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from thalweg.runtime.stages import Stage, slowest
from thalweg.tally import Tally

if TYPE_CHECKING:
    from thalweg.detect import DriftRecord, Threshold
    from thalweg.evaluate.metrics import BudgetCheck, Evaluation
    from thalweg.model import Progress as TrainingProgress


@contextmanager
def training_line(console: Console) -> Iterator[Callable[[TrainingProgress], None]]:
    """Show a training as it runs: one live line on a terminal, one line an epoch elsewhere."""
    if not console.is_terminal:
        seen = 0
        loss: float | None = None

        def tell(p: TrainingProgress) -> None:
            nonlocal seen, loss
            # The first step of an epoch still has the held-out loss of the epoch before.
            if p.epoch > seen and p.held_out_loss != loss:
                seen, loss = p.epoch, p.held_out_loss
                console.print(f"epoch {p.epoch}/{p.num_epochs}  {_training_words(p)}", highlight=False, soft_wrap=True)

        yield tell
        return
    with Progress(
        TextColumn("learning"),
        BarColumn(bar_width=24),
        TextColumn("{task.description}"),
        console=console,
        transient=True,
    ) as bars:
        task = bars.add_task("", total=1.0)
        yield lambda p: bars.update(
            task, completed=p.share, description=f"epoch {p.epoch}/{p.num_epochs}  {_training_words(p)}"
        )


def _training_words(p: TrainingProgress) -> str:
    held = "" if p.held_out_loss is None else f"  held out {p.held_out_loss:.4f}"
    return f"loss {p.loss:.4f}{held}  {p.flows_per_s:,.0f} flows/s  {seconds_in_words(p.seconds_left)} left"


@contextmanager
def compiling_notes(console: Console) -> Iterator[None]:
    """Say that loops are compiled, as that takes a while, once, and how long it took; nothing where none are."""
    from thalweg.runtime.jit import compiling  # a slow import, which most of what is shown does not need

    def begins() -> None:
        console.print("compiling loops for this machine: only this first time, as they are kept on disk")

    with compiling(begins) as heard:
        yield
    if heard.num_loops:
        console.print(f"compiled {heard.num_loops} loops in {seconds_in_words(heard.seconds)}")


@contextmanager
def counting_line(console: Console, verb: str) -> Iterator[Callable[[int], None]]:
    """Show how many flows have passed so far, on a terminal; nothing elsewhere."""
    if not console.is_terminal:
        yield lambda _: None
        return
    with Progress(
        TextColumn(verb),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    ) as bars:
        task = bars.add_task("", total=None)

        def tell(num: int) -> None:
            speed = num / max(bars.tasks[0].elapsed or 0.0, 1e-3)
            bars.update(task, description=f"{num:,} flows  {speed:,.0f} flows/s")

        yield tell


@contextmanager
def stages_table(console: Console) -> Iterator[Callable[[Sequence[Stage]], None]]:
    """Show what each stage does as it goes on, a line a stage, on a terminal; nothing elsewhere."""
    if not console.is_terminal:
        yield lambda _: None
        return
    begun = time.perf_counter()
    shown: list[Stage] = []
    # Drawn anew from the meters a few times a second, by a thread of the display's own.
    live = Live(get_renderable=lambda: _stages(shown, time.perf_counter() - begun), console=console, transient=True)
    with live:
        yield shown.extend


def _stages(stages: Sequence[Stage], seconds: float) -> Table:
    """Lay out how far each stage is. Rates are those of the whole time; the busy share tells who waits for whom."""
    table = Table(box=None, pad_edge=False)
    table.add_column(f"scoring {seconds_in_words(seconds)}", style="bold")
    for name in ("flows", "flows/s", "busy", "waiting before it"):
        table.add_column(name, justify="right")
    for stage in stages:
        m = stage.meter
        queue = "" if stage is stages[0] else f"{m.num_queued}"
        rate = m.num_flows / max(seconds, 1e-3)
        table.add_row(stage.name, f"{m.num_flows:,}", f"{rate:,.0f}", f"{100 * m.busy_share:.0f} %", queue)
    return table


def slowest_in_words(stages: Sequence[Stage]) -> str:
    """Say which stage the others waited for."""
    stage = slowest(stages)
    return f"the slowest stage is {stage.name}: busy {100 * stage.meter.busy_share:.0f} % of the time"


def say_counts(console: Console, tally: Tally) -> None:
    """Print what reading changed or left out, a line each."""
    for line in tally.lines():
        console.print(f"note: {line}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def say_drift(console: Console, drift: DriftRecord) -> None:
    """Print one line where windows are unlike the training flows, or this cannot be known."""
    words = drift.words()
    if words is not None:
        console.print(f"note: {words}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def learned_in_words(summary: dict[str, Any]) -> str:
    """Say what a training did. summary: of a fitted detector."""
    ended = {"finished": "", "early": ", stopped early: no better for a while", "interrupted": ", interrupted"}
    return (
        f"learned from {summary['num_flows']:,} flows in {seconds_in_words(summary['seconds'])}"
        f"{ended[summary['stopped']]}; "
        f"held-out loss {summary['held_out_loss']:.4f} in epoch {summary['best_epoch']}"
    )


def threshold_in_words(threshold: Threshold) -> str:
    """Say what a threshold means on one line, and on the next how certain that is."""
    t = threshold
    how = "counted on" if t.method == "quantile" else "extrapolated by a tail fitted to"
    meaning = (
        f"a flow is anomalous above score {t.score:.4f}: about 1 in {1 / t.share:,.0f} usual flows "
        f"(budget {t.budget}, {how} {t.num_flows:,} held-out flows)"
    )
    expected = f"{t.low_share:.2g} to {t.high_share:.2g}"
    if t.is_certain:
        return f"{meaning}\nof more such flows, a share of {expected} should lie above it"
    return (
        f"{meaning}\nbudget {t.budget}: {t.num_flows:,} held-out flows are too few to tell within a factor of 1.5 "
        f"(expect a share of {expected}); fit on about {t.flows_needed:,} flows, or state a larger budget"
    )


def evaluation_tables(evaluation: Evaluation, kept: BudgetCheck | None = None) -> list[Table]:
    """Lay out an evaluation: the key figures, whether the budget was kept, then a row for each class of attack."""
    figures = Table(title="Against the labels", title_justify="left", show_header=False, box=None, pad_edge=False)
    figures.add_column(style="bold")
    figures.add_column(justify="right")
    figures.add_column(style="dim")
    e = evaluation
    figures.add_row("flows, attacks", f"{e.num_flows:,}, {e.num_attacks:,}", "")
    figures.add_row("AUROC", share(e.auroc, 4), "chance is 0.5; needs no threshold")
    figures.add_row(
        "average precision",
        share(e.average_precision, 4),
        f"chance is {e.num_attacks / max(e.num_flows, 1):.4f}",
    )
    figures.add_row(
        "TPR / FPR",
        f"{percent(e.tpr)} / {percent(e.fpr)}",
        "at the model's own threshold, which saw no label",
    )
    if kept is not None:
        enough = "enough" if kept.is_enough else "too few"
        figures.add_row(
            "FPR / budget",
            f"{kept.ratio:.2f} ×",
            f"budget {kept.budget}; {kept.num_benign:,} benign flows are {enough} to tell",
        )
    for target, tpr in e.tpr_at_fpr.items():
        figures.add_row(f"TPR at FPR ≤ {percent(target)}", percent(tpr), "")
    if e.false_alerts_per_day is not None:
        figures.add_row("false alarms a day", f"{e.false_alerts_per_day:,.1f}", "flows, not grouped")
    if e.youden is not None:
        figures.add_row(
            "Youden's J, TPR / FPR",
            f"{percent(e.youden.tpr)} / {percent(e.youden.fpr)}",
            "published protocol: " + e.youden.note,
        )
    tables = [figures]
    if e.per_attack:
        classes = Table(title="By attack", title_justify="left", box=None, pad_edge=False)
        for name in ("attack", "flows", "caught", "caught at 1 % FPR", "AUROC"):
            classes.add_column(name, justify="left" if name == "attack" else "right")
        for row in e.per_attack:
            classes.add_row(
                row.attack, f"{row.flows:,}", percent(row.tpr), percent(row.tpr_at_fpr_1), share(row.auroc, 4)
            )
        tables.append(classes)
    return tables


def hosts_table(hosts: pl.DataFrame, num: int = 10) -> Table:
    """Lay out the strangest hosts, and below them the next ones that attacked by the labels."""
    table = Table(title=f"Strangest of {hosts.height:,} hosts", title_justify="left", box=None, pad_edge=False)
    columns = [
        "rank",
        "src_addr",
        "flows",
        "anomalous",
        "strangeness",
        *(["attacks"] if "attacks" in hosts.columns else []),
    ]
    for name in columns:
        table.add_column(name, justify="left" if name == "src_addr" else "right")
    first = hosts.head(num)
    if "attacks" in hosts.columns:
        first = pl.concat([first, hosts.slice(num).filter(pl.col("attacks") > 0).head(num)])
    for row in first.iter_rows(named=True):
        cells = [
            f"{row[c]:,.1f}" if c == "strangeness" else f"{row[c]:,}" if c != "src_addr" else row[c] for c in columns
        ]
        table.add_row(*cells, style="bold red" if row.get("attacks") else None)
    return table


def seconds_in_words(seconds: float) -> str:
    """Write a span of time shortly.

    >>> seconds_in_words(42), seconds_in_words(150), seconds_in_words(7300)
    ('42 s', '2 min 30 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def percent(value: float | None) -> str:
    """Write a share in percent; a dash where there is none.

    >>> percent(0.9876), percent(0.001), percent(None)
    ('98.8 %', '0.1 %', '-')
    """
    return "-" if value is None else f"{100 * value:.1f} %"


def share(value: float | None, digits: int) -> str:
    """Write a number in [0, 1]; a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def plain_table(title: str, left: Sequence[str], right: Sequence[str], caption: str | None = None) -> Table:
    """Return an empty table without lines: columns that are read from the left, then those of figures."""
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left", box=None, pad_edge=False)
    for name in left:
        table.add_column(name)
    for name in right:
        table.add_column(name, justify="right")
    return table
