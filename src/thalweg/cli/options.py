"""Options that several commands share, and what is built from them: a detector, read options."""

# Packages are imported inside the functions: `thalweg --help` should not wait for torch.
from __future__ import annotations

import signal
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from thalweg.cli.show.terminal import ERR

if TYPE_CHECKING:
    from thalweg.detect import Detector
    from thalweg.ingest import ReadOptions

# The panels that help groups the options of long commands in.
READING: Final = "How input is read"
SCORING: Final = "Threshold and device"


class DeviceName(StrEnum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class HeaderName(StrEnum):
    """A header of a tunnel's packets."""

    inner = "inner"
    outer = "outer"


Inputs = Annotated[
    list[Path],
    typer.Argument(help="Files, folders or globs: CSV (.gz, .zst), Parquet, Arrow, Zeek logs; - is standard input."),
]
Model = Annotated[Path, typer.Argument(help="A model file made by `thalweg fit`.")]
Dialect = Annotated[
    str | None,
    typer.Option(
        help="The dialect of the columns (see docs/formats.md); detected if not given.", rich_help_panel=READING
    ),
]
Map = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="NAME=COLUMN",
        help="The source column for a declared column, such as --map src_addr=Source; repeat for more.",
        rich_help_panel=READING,
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="A TOML file: [map] for columns; [model], [training], [noise] for fit; [kafka] for run and collect. "
        "Options override it.",
        rich_help_panel=READING,
    ),
]
Strict = Annotated[
    bool,
    typer.Option("--strict", help="Stop at the first malformed row instead of counting it.", rich_help_panel=READING),
]
KeepWrapped = Annotated[
    bool,
    typer.Option(
        "--keep-wrapped",
        help="Keep NF-* durations that a 32-bit counter wrapped, instead of reading them as 0.",
        rich_help_panel=READING,
    ),
]
Device = Annotated[
    DeviceName, typer.Option(help="Where to compute; auto uses a GPU if there is one.", rich_help_panel=SCORING)
]
Budget = Annotated[
    str | None,
    typer.Option(
        "--budget", help="Override the model's budget: 0.001, 0.1% or 20/day; no refit.", rich_help_panel=SCORING
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, for machines.")]


def names(text: str | None) -> tuple[str, ...] | None:
    """Read names separated by commas; None if nothing was given.

    >>> names("d50, p2k,"), names(None)
    (('d50', 'p2k'), None)
    """
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def load_detector(path: Path, device: DeviceName, budget: str | None = None) -> Detector:
    """Load a model file onto a device, ready to score flows; with a budget, set the threshold for it.

    Raises ConfigError if the budget cannot be parsed or the model file cannot give a threshold for it; otherwise as
    Detector.load.
    """
    from thalweg.cli.show.notes import compiling_notes
    from thalweg.detect.detector import Detector

    detector = Detector.load(path, device=device.value)
    if budget is not None:
        detector.threshold = detector.threshold_for(budget)
    with compiling_notes(ERR):
        detector.warm_up()
    return detector


def read_options(
    dialect: str | None, column_map: list[str] | None, config: Path | None, *, strict: bool, keep_wrapped: bool
) -> ReadOptions:
    """Make the read options; options on the command line override the configuration file."""
    from thalweg.cli.config_file import parse_map, read_config
    from thalweg.ingest import ReadOptions

    # Importing Polars installs a SIGINT handler that restarts system calls, so Ctrl-C would not end a wait for input,
    # and that loses the signal while any thread is inside Polars. Python's own handler has neither problem.
    signal.signal(signal.SIGINT, signal.getsignal(signal.SIGINT))
    mapping = {**read_config(config).map, **parse_map(column_map or [])}
    return ReadOptions(dialect=dialect, mapping=mapping, strict=strict, keep_wrapped=keep_wrapped)
