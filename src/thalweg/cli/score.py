"""`thalweg score`."""

# Packages are imported inside the functions: `thalweg --help` should not wait for torch.
from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thalweg.cli.options import (
    Budget,
    ConfigFile,
    Device,
    DeviceName,
    Dialect,
    Inputs,
    Json,
    KeepWrapped,
    Map,
    Model,
    Strict,
    load_detector,
    read_options,
)
from thalweg.cli.show.terminal import ERR, print_json
from thalweg.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from thalweg.cli.show.progress import Line
    from thalweg.runtime.stages import Stage


def score(
    model: Model,
    inputs: Inputs,
    *,
    output: Annotated[
        Path,
        typer.Option("-o", "--output", help="The .parquet, .csv or .jsonl file to write; - is CSV on standard output."),
    ],
    as_json: Json = False,
    budget: Budget = None,
    device: Device = DeviceName.auto,
    dialect: Dialect = None,
    column_map: Map = None,
    config: ConfigFile = None,
    strict: Strict = False,
    keep_wrapped: KeepWrapped = False,
) -> None:
    """Score every flow: keep all its columns, and add score (0 usual, 1 strange), logit and anomalous."""
    from thalweg.batch import score_files
    from thalweg.cli.show.notes import print_counts, print_drift
    from thalweg.cli.show.progress import progress
    from thalweg.cli.show.words import seconds_in_words
    from thalweg.sinks.table_file import STDOUT, check_output

    check_output(output)
    if as_json and output == STDOUT:
        raise ConfigError("--json and -o - both write to standard output: write the scores to a file")
    detector = load_detector(model, device, budget)
    options = read_options(dialect, column_map, config, strict=strict, keep_wrapped=keep_wrapped)
    with progress(ERR) as line:
        scored = score_files(detector, inputs, options, output, watch=lambda stages: show_stages(line, stages))
    print_counts(ERR, scored.tally)
    print_drift(ERR, scored.drift)
    if as_json:
        print_json({"output": str(output), **scored.as_dict()})
        return
    ERR.print(
        f"scored {scored.num_flows:,} flows in {seconds_in_words(scored.seconds)} "
        f"({scored.num_flows / max(scored.seconds, 1e-9):,.0f} flows/s); {scored.num_anomalous:,} anomalous; "
        f"wrote {output}\n{slowest_in_words(scored.stages)}",
        soft_wrap=True,
    )


def show_stages(line: Line, stages: Sequence[Stage]) -> None:
    """Show on a terminal how far each stage is, redrawn in place; show nothing elsewhere."""
    begun = time.perf_counter()
    line.show(lambda: _stages_table(stages, time.perf_counter() - begun))


def _stages_table(stages: Sequence[Stage], seconds: float) -> Table:
    """Lay out how far each stage is. Rates are averages since the start; the busy share shows the slowest stage."""
    from rich.table import Table

    from thalweg.cli.show.words import seconds_in_words

    table = Table(box=None, pad_edge=False)
    table.add_column(f"scoring {seconds_in_words(seconds)}", style="bold")
    for name in ("flows", "flows/s", "busy", "queued"):
        table.add_column(name, justify="right")
    for stage in stages:
        m = stage.meter
        queue = "" if stage is stages[0] else f"{m.num_queued}"
        rate = m.num_flows / max(seconds, 1e-3)
        table.add_row(stage.name, f"{m.num_flows:,}", f"{rate:,.0f}", f"{100 * m.busy_share:.0f} %", queue)
    return table


def slowest_in_words(stages: Sequence[Stage]) -> str:
    """Name the stage that the others waited for."""
    from thalweg.runtime.stages import slowest

    stage = slowest(stages)
    return f"the slowest stage is {stage.name}: busy {100 * stage.meter.busy_share:.0f} % of the time"
