"""What a person sees of the benchmarks of speed in the terminal while they run: progress with the time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from thalweg.benchmark.speed.progress import Telling
from thalweg.cli.show.console import seconds_in_words


@contextmanager
def speed_line(console: Console, verb: str) -> Iterator[Callable[[Telling], None]]:
    """Show where a benchmark stands: a live line on a terminal, one line a step elsewhere."""
    if not console.is_terminal:
        yield lambda now: console.print(f"{now.done}/{now.total}  {now.now}{_left(now)}", soft_wrap=True)
        return
    with Progress(
        TextColumn(verb),
        BarColumn(bar_width=24),
        TextColumn("{task.description}"),
        console=console,
        transient=True,
    ) as bars:
        task = bars.add_task("", total=1)
        yield lambda now: bars.update(
            task,
            completed=now.done,
            total=max(now.total, 1),
            description=f"{now.done}/{now.total}  {now.now}{_left(now)}",
        )


def _left(now: Telling) -> str:
    return "" if now.seconds_left is None else f"  about {seconds_in_words(now.seconds_left)} left"
