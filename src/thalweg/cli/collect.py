"""`thalweg collect`."""

# Rooms are imported inside the functions: `thalweg --help` should not wait for them.
from __future__ import annotations

from pathlib import Path

from thalweg.cli.options import ConfigFile, Dialect, KeepWrapped, Map
from thalweg.cli.stream import (
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


def collect(
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
    sinks: To = None,
    spool: Spool = Path("thalweg-spool"),
    spool_gb: SpoolSize = 4.0,
    metrics: Metrics = None,
    json_log: JsonLog = False,
) -> None:
    """Receive flows as `run` does, and write them without scores: what the first `thalweg fit` learns from."""
    settings = run_config(
        None,
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
    )
    receive(settings, metrics, json_log=json_log)
