"""Progress of running work: drawn in place on a terminal; elsewhere a line for each step, or nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Final, final

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from thalweg.cli.show.words import seconds_in_words

if TYPE_CHECKING:
    from thalweg.benchmark.speed.progress import StepProgress
    from thalweg.model import Progress as TrainingProgress

_BAR_WIDTH: Final = 24


@final
class Line:
    """The one place on a terminal where progress is drawn; it holds what was shown last.

    live: None if the console is no terminal, so that nothing is drawn.
    """

    def __init__(self, console: Console, *, redraws: bool) -> None:
        self.console = console
        self._draw: Callable[[], RenderableType] = lambda: ""
        self.live = (
            Live(get_renderable=lambda: self._draw(), console=console, transient=True, auto_refresh=redraws)
            if console.is_terminal
            else None
        )

    def show(self, draw: Callable[[], RenderableType]) -> None:
        """Draw this from now on. `draw` is called for every redraw, so it can show the time that has passed."""
        self._draw = draw
        if self.live is not None and not self.live.auto_refresh:
            self.live.refresh()

    def show_step(self, verb: str, words: str, share: float) -> None:
        """Draw a verb, a bar for the share of the work that is done, and words; elsewhere print the words."""
        if self.live is None:
            self.print(words)
        else:
            self.show(lambda: _row(Text(verb), ProgressBar(total=1.0, completed=share, width=_BAR_WIDTH), Text(words)))

    def print(self, words: str) -> None:
        """Print a line that stays, above what is drawn."""
        self.console.print(words, soft_wrap=True)


def _row(*cells: RenderableType) -> Table:
    row = Table.grid(*(Column(no_wrap=True) for _ in cells), padding=(0, 1))
    row.add_row(*cells)
    return row


@contextmanager
def progress(console: Console, *, redraws: bool = True) -> Iterator[Line]:
    """Yield a line to show progress on, and erase it at the end.

    redraws: a few times a second, by a thread; else only when something is shown.
    """
    line = Line(console, redraws=redraws)
    with line.live or nullcontext():
        yield line


def counting(line: Line, verb: str) -> Callable[[int], None]:
    """Return a callback that shows the number of flows so far on a terminal; it shows nothing elsewhere."""
    begun, passed = time.perf_counter(), 0

    def draw() -> RenderableType:
        seconds = time.perf_counter() - begun
        words = f"{passed:,} flows  {passed / max(seconds, 1e-3):,.0f} flows/s  {timedelta(seconds=int(seconds))}"
        return _row(Text(verb), Text(words))

    def count(num: int) -> None:
        nonlocal passed
        passed = num

    line.show(draw)
    return count


def training(line: Line) -> Callable[[TrainingProgress], None]:
    """Return a callback that shows a training: in place on a terminal, elsewhere by a line for each epoch."""
    seen = 0
    loss: float | None = None

    def report(p: TrainingProgress) -> None:
        nonlocal seen, loss
        if line.live is None:
            # The first step of an epoch still has the held-out loss of the epoch before.
            if p.epoch <= seen or p.held_out_loss == loss:
                return
            seen, loss = p.epoch, p.held_out_loss
        held = "" if p.held_out_loss is None else f"  held out {p.held_out_loss:.4f}"
        rates = f"{p.flows_per_s:,.0f} flows/s  {seconds_in_words(p.seconds_left)} left"
        line.show_step("learning", f"epoch {p.epoch}/{p.num_epochs}  loss {p.loss:.4f}{held}  {rates}", p.share)

    return report


def steps(line: Line, verb: str) -> Callable[[StepProgress], None]:
    """Return a callback that shows how far a speed benchmark is."""

    def report(now: StepProgress) -> None:
        words = f"{now.done}/{now.total}  {now.now}{left_in_words(now.seconds_left)}"
        line.show_step(verb, words, now.done / max(now.total, 1))

    return report


def left_in_words(seconds: float | None) -> str:
    """Write the remaining time, to append to a line; empty if it is not known."""
    return "" if seconds is None else f"  about {seconds_in_words(seconds)} left"
