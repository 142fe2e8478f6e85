"""Notes on standard error, beside a result: what reading left out, drift, compiling."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console

from thalweg.cli.show.words import seconds_in_words
from thalweg.runtime.terminal import printable

if TYPE_CHECKING:
    from thalweg.detect import DriftRecord
    from thalweg.tally import Tally


@contextmanager
def compiling_notes(console: Console) -> Iterator[None]:
    """Report once that loops are being compiled, and then how long it took; print nothing if none are."""
    from thalweg.runtime.jit import compiling  # a slow import, which most of what is shown does not need

    def begins() -> None:
        console.print("compiling loops for this machine: only this first time, as they are kept on disk")

    with compiling(begins) as done:
        yield
    if done.num_loops:
        console.print(f"compiled {done.num_loops} loops in {seconds_in_words(done.seconds)}")


def print_counts(console: Console, tally: Tally) -> None:
    """Print what reading changed or left out, a line each."""
    for line in tally.lines():
        _note(console, line)


def print_drift(console: Console, drift: DriftRecord) -> None:
    """Print one line if windows are unlike the training flows, or if this cannot be known."""
    words = drift.words()
    if words is not None:
        _note(console, words)


def _note(console: Console, text: str) -> None:
    console.print(f"note: {printable(text)}", style="yellow", markup=False, highlight=False, soft_wrap=True)
