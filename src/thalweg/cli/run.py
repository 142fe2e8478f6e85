"""`thalweg run`."""

# Packages are imported inside the functions: `thalweg --help` should not wait for torch.
from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thalweg.cli.options import SCORING, Budget, DeviceName, Dialect, KeepWrapped, Map
from thalweg.cli.stream import (
    WRITING,
    Allow,
    BufferSize,
    From,
    FromStart,
    Hold,
    JsonLog,
    Metrics,
    PrintConfig,
    RunFile,
    Sampling,
    Spool,
    SpoolSize,
    To,
    TunnelHeader,
    Windows,
    receive,
    run_config,
)


def run(
    model: Annotated[
        Path | None,
        typer.Argument(
            metavar="MODEL | RUN.TOML",
            help="A model file made by `thalweg fit`, or the configuration of a run in TOML.",
        ),
    ] = None,
    *,
    sources: From = None,
    from_start: FromStart = False,
    allow: Allow = None,
    buffer_mb: BufferSize = None,
    dialect: Dialect = None,
    column_map: Map = None,
    config: RunFile = None,
    keep_wrapped: KeepWrapped = False,
    window: Windows = None,
    hold: Hold = None,
    sampling: Sampling = None,
    tunnel_header: TunnelHeader = None,
    budget: Budget = None,
    device: Annotated[
        DeviceName | None,
        typer.Option(
            help="Where to compute; auto uses a GPU if there is one.", show_default="auto", rich_help_panel=SCORING
        ),
    ] = None,
    sinks: To = None,
    only_anomalous: Annotated[
        bool, typer.Option("--only-anomalous", help="Write only anomalous flows.", rich_help_panel=WRITING)
    ] = False,
    spool: Spool = None,
    spool_gb: SpoolSize = None,
    metrics: Metrics = None,
    json_log: JsonLog = False,
    print_config: PrintConfig = False,
) -> None:
    """Receive flows from exporters and logs, and score them as they come, day and night.

    SIGTERM or Ctrl-C finishes the window; SIGHUP loads the model again. After a crash, type the same command again: it
    continues where it was and loses nothing that was received. Nothing is written twice, except on standard output.
    """
    made = run_config(
        model,
        sources=sources,
        sinks=sinks,
        spool=spool,
        window=window,
        hold=hold,
        sampling=sampling,
        tunnel_header=tunnel_header,
        allow=allow,
        from_start=from_start,
        spool_gb=spool_gb,
        buffer_mb=buffer_mb,
        dialect=dialect,
        column_map=column_map,
        config=config,
        keep_wrapped=keep_wrapped,
        metrics=metrics,
        json_log=json_log,
        is_example=print_config,
        only_anomalous=only_anomalous,
        budget=budget,
        device=device,
    )
    receive(made, is_printed=print_config)
