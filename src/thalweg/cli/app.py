"""The whole command line on one page: every command with an example, in the order of the help."""

# Packages are imported inside the commands: `thalweg --help` should not wait for torch.
from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Final, final

import typer
from rich.text import Text
from typer.core import TyperGroup
from typer.exceptions import TyperException

from thalweg import __version__
from thalweg.cli.benchmark.detection import detection
from thalweg.cli.benchmark.ingest import ingest
from thalweg.cli.benchmark.throughput import throughput
from thalweg.cli.benchmark.training import training
from thalweg.cli.collect import collect
from thalweg.cli.decode import decode
from thalweg.cli.demo import demo
from thalweg.cli.evaluate import evaluate
from thalweg.cli.exporters import exporters
from thalweg.cli.fit import fit
from thalweg.cli.info import info
from thalweg.cli.run import run
from thalweg.cli.score import score
from thalweg.cli.show.terminal import ERR, OUT
from thalweg.cli.simulate import simulate
from thalweg.errors import ThalwegError
from thalweg.runtime.memory import pool_little
from thalweg.runtime.terminal import escape_tracebacks, printable

_Commands = Mapping[Callable[..., None], str]

FILES: Final[_Commands] = {
    fit: "`thalweg fit flows/*.parquet -o office.thalweg --budget 20/day`",
    score: "`thalweg score office.thalweg today.parquet -o scores.parquet`",
    evaluate: "`thalweg evaluate office.thalweg labelled.csv --unseen --html report.html`",
    info: "`thalweg info office.thalweg`",
}
STREAMS: Final[_Commands] = {
    exporters: "`thalweg exporters --from udp://:2055 --seconds 30`",
    collect: "`thalweg collect --from udp://:2055 --to flows/`, then `thalweg fit flows/ -o office.thalweg`",
    run: "`thalweg run office.thalweg --from udp://:2055 --to scores/ --metrics :9464`",
    decode: "`thalweg decode capture.pcap -n 5`",
}
TRIALS: Final[_Commands] = {
    demo: "`thalweg demo --out demo`",
    simulate: "`thalweg simulate traffic.parquet --site campus --flows 1000000`",
}
BENCHMARKS: Final[_Commands] = {
    detection: "`thalweg benchmark detection --data sets/ --out bench/ --quick`",
    throughput: "`thalweg benchmark throughput --cases d50,d200 --out bench/ --quick`",
    ingest: "`thalweg benchmark ingest --parts decode,live --seconds 60 --out bench/`",
    training: "`thalweg benchmark training --cases d200 --out bench/ --quick`",
}


@final
class _Group(TyperGroup):
    """Escapes what the shell's globs put into the messages about wrong arguments: the names of files."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        with _escaped():
            return super().make_context(*args, **options)

    def invoke(self, *args: Any, **options: Any) -> Any:
        with _escaped():
            return super().invoke(*args, **options)


@contextmanager
def _escaped() -> Iterator[None]:
    try:
        yield
    except TyperException as error:
        error.message = printable(error.message)
        raise


app = typer.Typer(
    name="thalweg",
    cls=_Group,
    help="Learn what a network's flows usually look like, without labels, and find the flows that do not fit.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    epilog="Start with `thalweg demo`: a minute, no data needed.",
)
benchmark = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Compare Thalweg with other methods, and measure its speed.",
    epilog=f"Example: {BENCHMARKS[detection]}",
)


def _add(group: typer.Typer, commands: _Commands, panel: str | None = None) -> None:
    for command, example in commands.items():
        group.command(epilog=f"Example: {example}", rich_help_panel=panel)(command)


_add(app, FILES, "Files")
_add(app, STREAMS, "Streams")
_add(app, TRIALS, "Try and measure")
_add(benchmark, BENCHMARKS)
app.add_typer(benchmark, name="benchmark", rich_help_panel="Try and measure")


def _version(shown: bool) -> None:
    if shown:
        OUT.print(f"thalweg {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Flows fill a window, a window becomes a graph, a graph becomes scores."""


def main() -> None:
    """Run `thalweg`; a ThalwegError is printed as one message, with exit code 2."""
    pool_little()
    escape_tracebacks()
    try:
        app()
    except ThalwegError as error:
        ERR.print(Text.assemble(("error:", "bold red"), f" {printable(str(error))}"), soft_wrap=True)
        sys.exit(2)
    except BrokenPipeError:  # `thalweg score … -o - | head`
        sys.stderr.close()
        sys.exit(1)
