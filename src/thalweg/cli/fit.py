"""`thalweg fit`."""

# Packages are imported inside the functions: `thalweg --help` should not wait for torch.
from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from thalweg.cli.options import (
    SCORING,
    ConfigFile,
    Device,
    DeviceName,
    Dialect,
    Inputs,
    Json,
    KeepWrapped,
    Map,
    Strict,
    read_options,
)
from thalweg.cli.show.terminal import ERR, OUT, print_json
from thalweg.errors import ConfigError

if TYPE_CHECKING:
    from thalweg.model import FlowModel

_FLOWS: Final = "Which flows it learns from"
_MODEL: Final = "The model"
_TRAINING: Final = "Its training"

HIGH_EFFORT: Final = 5.0
"""Factor on the number of training flows under --effort high."""


class Preset(StrEnum):
    """Which model to fit."""

    thalweg = "thalweg"
    published = "published"


class Effort(StrEnum):
    """How long to train."""

    standard = "standard"
    high = "high"


class Attributes(StrEnum):
    """Which flow attributes to learn from."""

    standard = "standard"
    extended = "extended"


def fit(
    inputs: Inputs,
    *,
    output: Annotated[Path, typer.Option("-o", "--output", help="The model file to write.")],
    budget: Annotated[
        str,
        typer.Option(
            help="How many usual flows may be flagged as anomalous: 0.01, 1% or 20/day.", rich_help_panel=SCORING
        ),
    ] = "0.01",
    seed: Annotated[int, typer.Option(min=0, help="The seed of all randomness.")] = 0,
    device: Device = DeviceName.auto,
    as_json: Json = False,
    where: Annotated[
        str | None,
        typer.Option(
            help="Learn only from flows that meet this SQL condition on the file's own or the declared columns.",
            rich_help_panel=_FLOWS,
        ),
    ] = None,
    holdout: Annotated[
        float,
        typer.Option(
            help="The share of these flows to leave out of training; `evaluate --unseen` judges the model on them.",
            rich_help_panel=_FLOWS,
        ),
    ] = 0.0,
    preset: Annotated[
        Preset,
        typer.Option(help="thalweg, or the published graph autoencoder to compare with.", rich_help_panel=_MODEL),
    ] = Preset.thalweg,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="With --preset published: load the weights from this state_dict instead of training.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    attributes: Annotated[
        Attributes,
        typer.Option(
            help="standard: bytes and duration. extended: packets, protocol, ports and flags, too.",
            rich_help_panel=_MODEL,
        ),
    ] = Attributes.standard,
    window: Annotated[
        str | None,
        typer.Option(
            help="The size of a window: a number of flows, such as 200000, or a span of time, such as 5m.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    effort: Annotated[
        Effort,
        typer.Option(
            help="high trains five times as long as standard, and finds a few more attacks.", rich_help_panel=_TRAINING
        ),
    ] = Effort.standard,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="The maximum number of training steps; the preset's own if not given.",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Save the state of the training in this file as it runs; after a crash or Ctrl-C, the same command "
            "continues from it. The file is removed when the training is done.",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    dialect: Dialect = None,
    column_map: Map = None,
    config: ConfigFile = None,
    strict: Strict = False,
    keep_wrapped: KeepWrapped = False,
) -> None:
    """Learn from unlabelled flows and write one model file. Ctrl-C keeps the best model so far."""
    from thalweg.batch import fit_files
    from thalweg.cli.show.notes import compiling_notes, print_counts
    from thalweg.cli.show.progress import counting, progress, training
    from thalweg.cli.show.words import threshold_in_words
    from thalweg.detect.detector import Detector
    from thalweg.runtime.whole_file import check_folder
    from thalweg.selection import Selection

    check_folder(output)
    if checkpoint is not None:
        check_folder(checkpoint)
        if checkpoint.resolve() == output.resolve():
            raise ConfigError("--checkpoint and -o name the same file: the model would be removed with the checkpoint")
        if checkpoint.exists():
            ERR.print(f"continuing from the checkpoint {checkpoint}", soft_wrap=True)
    model = make_model(
        preset,
        attributes,
        window,
        steps=steps,
        config=config,
        weights=weights,
        effort=effort,
        checkpoint=checkpoint,
    )
    options = read_options(dialect, column_map, config, strict=strict, keep_wrapped=keep_wrapped)
    selection = Selection(where=where, holdout=holdout, seed=seed)
    detector = Detector(model, seed=seed, device=device.value, budget=budget, span=_window_span(window))
    with compiling_notes(ERR), progress(ERR) as line:
        reading, learning = counting(line, "reading"), training(line)
        tally = fit_files(detector, inputs, options, selection, progress=learning, reading=reading)
    detector.save(output)
    if checkpoint is not None and detector.summary["stopped"] != "interrupted":
        checkpoint.unlink(missing_ok=True)
    print_counts(ERR, tally)
    assert detector.threshold is not None, "fit sets it"
    if as_json:
        print_json({"model": str(output), "summary": detector.summary, "threshold": detector.threshold.as_dict()})
        return
    OUT.print(
        f"{_learned_in_words(detector.summary)}\n{threshold_in_words(detector.threshold)}\nwrote {output}",
        soft_wrap=True,
    )


def make_model(
    preset: Preset,
    attributes: Attributes,
    window: str | None,
    *,
    steps: int | None = None,
    config: Path | None = None,
    weights: Path | None = None,
    effort: Effort = Effort.standard,
    checkpoint: Path | None = None,
) -> FlowModel:
    """Make an unfitted model from the options and the configuration file; options win.

    Raises ConfigError if options contradict each other, or if a setting is unknown or out of range.
    """
    from thalweg.cli.config_file import read_config

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
    from thalweg.runtime.settings import with_values

    model = ThalwegModel(attributes=attributes.value)
    training = with_values(model.training, {**given.training, **({"steps": steps} if steps else {})}, "[training]")
    training = training if effort is Effort.standard else training.longer(HIGH_EFFORT)
    training = with_values(training, {"noise": with_values(training.noise, given.noise, "[noise]")}, "[training]")
    return ThalwegModel(
        shape=with_values(model.shape, given.model, "[model]"),
        training=training,
        attributes=attributes.value,
        window_size=model.window_size if size is None else size,
        checkpoint=checkpoint,
    )


def _window_span(window: str | None) -> timedelta | None:
    """Read --window as a span of time; None if it is a number of flows.

    Raises ConfigError if it is neither.
    """
    from thalweg.windows import parse_span

    return None if window is None or window.isdigit() else parse_span(window)


def _learned_in_words(summary: dict[str, Any]) -> str:
    """Describe how a training went. summary: of a fitted detector."""
    from thalweg.cli.show.words import seconds_in_words

    ended = {"finished": "", "early": ", stopped early because it no longer improved", "interrupted": ", interrupted"}
    return (
        f"learned from {summary['num_flows']:,} flows in {seconds_in_words(summary['seconds'])}"
        f"{ended[summary['stopped']]}; "
        f"held-out loss {summary['held_out_loss']:.4f} in epoch {summary['best_epoch']}"
    )
