"""`thalweg collect`."""

# Packages are imported inside the functions: `thalweg --help` should not wait for them.
from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thalweg.cli.options import Dialect, KeepWrapped, Map
from thalweg.cli.stream import (
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


def collect(
    run_file: Annotated[
        Path | None,
        typer.Argument(metavar="[RUN.TOML]", help="The configuration of a run in TOML; its model is not used."),
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
    sinks: To = None,
    spool: Spool = None,
    spool_gb: SpoolSize = None,
    metrics: Metrics = None,
    json_log: JsonLog = False,
    print_config: PrintConfig = False,
) -> None:
    """Receive flows as `run` does, and write them without scores: what the first `thalweg fit` learns from."""
    made = run_config(
        run_file,
        is_scored=False,
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
    )
    receive(made, is_printed=print_config)
