"""`thalweg benchmark ingest`."""

# Packages are imported inside the command: `thalweg --help` should not wait for torch.
from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from thalweg.cli.benchmark.options import Out, Quick, Seed
from thalweg.cli.options import Json, names
from thalweg.cli.show.terminal import ERR, OUT, print_json, wide_out

_PARTS: Final = ("files", "decode", "hostile", "live", "idle", "day")
_FILES: Final = "Files and packets"
_LIVE: Final = "Live, idle and day"


def ingest(
    *,
    out: Out = Path("benchmark"),
    parts: Annotated[
        str,
        typer.Option(
            help="What to measure, separated by commas: files; decode; hostile (the datagrams that cost most); live; "
            "idle (the cost of listening while nobody sends); day (a day of traffic, sped up by --speed)."
        ),
    ] = "files,decode,live",
    quick: Quick = False,
    seed: Seed = 0,
    as_json: Json = False,
    rows: Annotated[
        int, typer.Option(min=1, help="Rows of each file, and records to decode.", rich_help_panel=_FILES)
    ] = 1_000_000,
    rounds: Annotated[
        int,
        typer.Option(
            min=1, help="How often each side reads a file or decodes; sides take turns.", rich_help_panel=_FILES
        ),
    ] = 5,
    formats: Annotated[
        str | None,
        typer.Option(
            help="How the names of formats begin, by commas: csv, zeek, json, parquet, arrow; all if not given.",
            rich_help_panel=_FILES,
        ),
    ] = None,
    rate: Annotated[
        float, typer.Option(help="Live: NetFlow v5 flows to send each second.", rich_help_panel=_LIVE)
    ] = 1_000_000,
    seconds: Annotated[
        float, typer.Option(help="Live and idle: how many seconds to measure.", rich_help_panel=_LIVE)
    ] = 60.0,
    case: Annotated[
        str, typer.Option(help="The traffic to send: d50, d200, p2k, p20k, p60k.", rich_help_panel=_LIVE)
    ] = "d50",
    speed: Annotated[
        float, typer.Option(help="Day: the factor by which it is sped up.", rich_help_panel=_LIVE)
    ] = 100.0,
    mean: Annotated[
        float,
        typer.Option(help="Day: v5 flows a second, the mean of the day before it is sped up.", rich_help_panel=_LIVE),
    ] = 300.0,
) -> None:
    """Measure rows a second from every kind of file, records a second from export packets, flows a second over UDP.

    Reading files is compared with Polars alone, and decoding packets from memory with PyPI's `netflow`, if it is
    installed. For `live`, a separate process sends NetFlow v5 over loopback to a `thalweg run` with a model, which
    receives flows, makes windows and graphs, scores and writes. The files to read are made in --out and removed.
    """
    from thalweg.benchmark.machine import describe_machine, machine_in_words
    from thalweg.benchmark.speed.files import choose_kinds, run_ingest
    from thalweg.benchmark.speed.tables import (
        day_table,
        decode_table,
        files_table,
        hostile_table,
        idle_table,
        live_table,
    )
    from thalweg.benchmark.speed.throughput.report import make_folder
    from thalweg.cli.show.progress import progress, steps
    from thalweg.cli.show.tables import print_tables
    from thalweg.errors import ConfigError
    from thalweg.evaluate.page import write_page

    asked = names(parts) or ()
    if unknown := [name for name in asked if name not in _PARTS]:
        raise ConfigError(f"--parts {unknown[0]}: no such part; choose from {', '.join(_PARTS)}")
    kinds = choose_kinds(names(formats))
    make_folder(out)
    found: dict[str, Any] = {"machine": describe_machine()}
    if quick:
        rows, rounds, seconds = min(rows, 200_000), min(rounds, 2), min(seconds, 10.0)
    tables = []
    with progress(ERR) as line:
        report = steps(line, "ingest")
        if "files" in asked:
            found |= run_ingest(kinds, rows, rounds, seed, out, report)
            tables.append(files_table(found))
        if "decode" in asked:
            from thalweg.benchmark.speed.decoding import run_decode

            found["decode"] = run_decode(rows, rounds, seed, report)
            tables.append(decode_table(found["decode"]))
        if "hostile" in asked:
            from thalweg.benchmark.speed.hostile import run_hostile

            found["hostile"] = run_hostile(100 if quick else 1_000, rounds, report)
            tables.append(hostile_table(found["hostile"]))
        if "live" in asked:
            from thalweg.benchmark.speed.live import run_live

            found["live"] = run_live(rate, seconds, case, seed, report)
            tables.append(live_table(found["live"]))
        if "idle" in asked:
            from thalweg.benchmark.speed.live import run_idle

            found["idle"] = run_idle(seconds, case, seed, report)
            tables.append(idle_table(found["idle"]))
        if "day" in asked:
            from thalweg.benchmark.speed.live import run_day

            found["day"] = run_day(mean, speed, case, seed, report)
            tables.append(day_table(found["day"]))
    path = out / "ingest.json"
    write_page(path, json.dumps(found, indent=1))
    if as_json:
        print_json({**found, "written": [str(path)]})
        return
    OUT.print(machine_in_words(found["machine"]), "", sep="\n", soft_wrap=True)
    print_tables(wide_out(), tables)
    OUT.print(f"wrote {path}", soft_wrap=True)
