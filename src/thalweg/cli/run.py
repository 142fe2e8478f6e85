"""`thalweg run`."""

# Rooms are imported inside the functions: `thalweg --help` should not wait for torch.
from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thalweg.cli.options import Budget, ConfigFile, Device, DeviceName, Dialect, KeepWrapped, Map, Model
from thalweg.cli.stream import (
    WRITING,
    Allow,
    BufferSize,
    From,
    FromStart,
    Hold,
    JsonLog,
    Metrics,
    Sampling,
    Spool,
    SpoolSize,
    To,
    Windows,
    receive,
    run_config,
)


def run(
    model: Model,
    *,
    sources: From = None,
    from_start: FromStart = False,
    allow: Allow = None,
    buffer_mb: BufferSize = 64.0,
    dialect: Dialect = None,
    column_map: Map = None,
    config: ConfigFile = None,
    keep_wrapped: KeepWrapped = False,
    window: Windows = "200000,60s",
    hold: Hold = 10.0,
    sampling: Sampling = None,
    budget: Budget = None,
    device: Device = DeviceName.auto,
    sinks: To = None,
    only_anomalous: Annotated[
        bool, typer.Option("--only-anomalous", help="Write only anomalous flows.", rich_help_panel=WRITING)
    ] = False,
    spool: Spool = Path("thalweg-spool"),
    spool_gb: SpoolSize = 4.0,
    metrics: Metrics = None,
    json_log: JsonLog = False,
) -> None:
    """Receive flows from exporters and logs, and score them as they come, day and night.

    SIGTERM or Ctrl-C finishes the window; SIGHUP loads the model again. After a crash, type the same command again: it
    continues where it was, loses nothing that was received, and writes nothing twice.
    """
    settings = run_config(
        model,
        sources,
        sinks,
        spool,
        window=window,
        hold=hold,
        sampling=sampling,
        allow=allow,
        from_start=from_start,
        spool_gb=spool_gb,
        buffer_mb=buffer_mb,
        dialect=dialect,
        column_map=column_map,
        config=config,
        keep_wrapped=keep_wrapped,
        only_anomalous=only_anomalous,
        budget=budget,
        device=device,
    )
    receive(settings, metrics, json_log=json_log)
