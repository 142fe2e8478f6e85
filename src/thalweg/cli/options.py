"""What can be typed on the command line, and what it makes: a model, a detector, a way of reading."""

# Rooms are imported inside the functions: `thalweg --help` should not wait for torch.
from __future__ import annotations

import signal
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from thalweg.cli.show.terminal import ERR
from thalweg.errors import ConfigError

if TYPE_CHECKING:
    from thalweg.detect import Detector
    from thalweg.ingest import ReadOptions
    from thalweg.model import FlowModel


class Preset(StrEnum):
    """Which model to fit."""

    thalweg = "thalweg"
    published = "published"


class Effort(StrEnum):
    """How long to train."""

    standard = "standard"
    high = "high"


HIGH_EFFORT: Final = 5.0
"""Times as many flows as usual are shown under --effort high."""


class Attributes(StrEnum):
    """Which flow attributes to learn from."""

    standard = "standard"
    extended = "extended"


class DeviceName(StrEnum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class SiteName(StrEnum):
    """Which network to simulate."""

    office = "office"
    campus = "campus"


class DialectName(StrEnum):
    """Whose columns to write."""

    thalweg = "thalweg"
    nf_v1 = "nf-v1"
    nf_v2 = "nf-v2"
    nf_v3 = "nf-v3"
    binetflow = "binetflow"
    zeek = "zeek"


Inputs = Annotated[
    list[Path],
    typer.Argument(help="Files, folders or globs: CSV (.gz, .zst), Parquet, Arrow, Zeek logs; - is standard input."),
]
Model = Annotated[Path, typer.Argument(help="A model file made by `thalweg fit`.")]
Dialect = Annotated[
    str | None,
    typer.Option(help="Whose columns these are (see docs/formats.md); recognised where not given."),
]
Map = Annotated[
    list[str] | None,
    typer.Option("--map", metavar="NAME=COLUMN", help="Where a declared column is found, as in --map src_addr=Source."),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="A TOML file with [map], and for fit [model], [training], [noise]."),
]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first malformed row instead of counting it.")]
KeepWrapped = Annotated[
    bool,
    typer.Option("--keep-wrapped", help="Keep NF-* durations that a 32-bit counter wrapped; read as 0 otherwise."),
]
Device = Annotated[DeviceName, typer.Option(help="Where to compute; auto takes a GPU where there is one.")]
Restated = Annotated[
    str | None,
    typer.Option("--budget", help="Another budget than the model's own: 0.001, 0.1% or 20/day; nothing is refitted."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, for machines.")]


def make_model(
    preset: Preset,
    attributes: Attributes,
    window: str | None,
    steps: int | None,
    config: Path | None,
    weights: Path | None = None,
    effort: Effort = Effort.standard,
    checkpoint: Path | None = None,
) -> FlowModel:
    """Make an unfitted model from what was typed and the configuration file; what was typed wins."""
    from thalweg.cli.config_file import read_config, with_fields

    given = read_config(config)
    size = None if window is None or not window.isdigit() else int(window)
    if size == 0:
        raise ConfigError("--window 0: a window holds at least one flow")
    if preset is Preset.published:
        from thalweg.published.model import PublishedConfig, PublishedGAE

        if (
            given.model
            or given.training
            or given.noise
            or steps
            or attributes is Attributes.extended
            or effort is Effort.high
            or checkpoint
        ):
            raise ConfigError(
                "--preset published is fixed: it takes no --steps, --effort, --attributes, --checkpoint, "
                "[model], [training] or [noise]"
            )
        published = PublishedConfig() if size is None else PublishedConfig(window_size=size)
        return PublishedGAE(published) if weights is None else PublishedGAE.from_weights(weights, published)
    if weights is not None:
        raise ConfigError(f"--weights is for --preset published: --preset {preset.value} learns its own")
    from thalweg.model.thalweg import ThalwegModel

    model = ThalwegModel(attributes=attributes.value)
    training = with_fields(model.training, {**given.training, **({"steps": steps} if steps else {})}, "training")
    training = training if effort is Effort.standard else training.longer(HIGH_EFFORT)
    training = with_fields(training, {"noise": with_fields(training.noise, given.noise, "noise")}, "training")
    return ThalwegModel(
        shape=with_fields(model.shape, given.model, "model"),
        training=training,
        attributes=attributes.value,
        window_size=model.window_size if size is None else size,
        checkpoint=checkpoint,
    )


def window_span(window: str | None) -> timedelta | None:
    """Read --window as a span of time; None where it is a number of flows.

    Raises: ConfigError, where it is neither.
    """
    from thalweg.windows import parse_span

    return None if window is None or window.isdigit() else parse_span(window)


def load_detector(path: Path, device: DeviceName, budget: str | None = None) -> Detector:
    """Read a model file onto a device, ready to rate flows; with a budget, take the threshold that goes with it.

    Raises: ConfigError, where it is no budget, or one that the file cannot tell; else as Detector.load.
    """
    from thalweg.cli.show.console import compiling_notes
    from thalweg.detect.detector import Detector

    detector = Detector.load(path, device=device.value)
    if budget is not None:
        detector.threshold = detector.threshold_for(budget)
    with compiling_notes(ERR):
        detector.warm_up()
    return detector


def read_options(
    dialect: str | None, column_map: list[str] | None, config: Path | None, strict: bool, keep_wrapped: bool
) -> ReadOptions:
    """Gather how files are read; what was typed wins over the configuration file."""
    from thalweg.cli.config_file import parse_map, read_config
    from thalweg.ingest import ReadOptions

    # Polars, now imported, catches SIGINT: system calls go on after it, so that Ctrl-C would not end a wait for input,
    # and it is lost where it comes while any thread is inside Polars. Python's own handler does neither.
    signal.signal(signal.SIGINT, signal.getsignal(signal.SIGINT))
    mapping = {**read_config(config).map, **parse_map(column_map or [])}
    return ReadOptions(dialect=dialect, mapping=mapping, strict=strict, keep_wrapped=keep_wrapped)
