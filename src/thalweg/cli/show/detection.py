"""What a person sees of a detection benchmark in the terminal while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from thalweg.benchmark.detection.datasets import DataSet
from thalweg.benchmark.detection.job import Job
from thalweg.benchmark.detection.plan import State
from thalweg.benchmark.detection.scenarios import CLEAN
from thalweg.cli.show.console import seconds_in_words


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


def say_not_given(console: Console, absent: Sequence[DataSet]) -> None:
    """Print the data sets that were not given, and who publishes them."""
    for one in absent:
        console.print(f"not given: {one.title} ({one.name}), {one.source}", soft_wrap=True)
