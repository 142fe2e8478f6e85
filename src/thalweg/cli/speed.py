"""The benchmarks of speed under `thalweg benchmark`: what to type, what it does, an example of each."""

# Rooms are imported inside the commands: `thalweg --help` should not wait for torch.
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console

from thalweg.cli.options import Json
from thalweg.cli.show.terminal import ERR, OUT, print_json

if TYPE_CHECKING:
    from thalweg.evaluate.tables import Table

Out = Annotated[Path, typer.Option(help="The folder for figures, pictures and report; made where it is not there.")]
Seed = Annotated[int, typer.Option(min=0, help="All traffic and weights come from it.")]
Quick = Annotated[bool, typer.Option("--quick", help="Fewer rounds and windows: a first look, in minutes.")]
_GIGABYTE: Final = 1_000_000_000
_PARTS: Final = ("files", "decode", "live", "idle", "day")


def throughput(
    out: Out = Path("benchmark"),
    cases: Annotated[
        str | None,
        typer.Option(
            help="Names separated by commas: d50, d200, p2k, p20k, p60k (hosts in a window); all if not given."
        ),
    ] = None,
    flows: Annotated[int, typer.Option(min=1, help="Flows in a window; hosts and channels follow.")] = 200_000,
    rounds: Annotated[int, typer.Option(min=1, help="How often each side rates a window, in turn.")] = 5,
    rate: Annotated[float, typer.Option(help="Flows a second of the paced stream.")] = 100_000,
    sides: Annotated[
        str | None, typer.Option(help="Names separated by commas: reference, published, thalweg; all if not given.")
    ] = None,
    sweep: Annotated[bool, typer.Option("--sweep", help="Also windows of 10,000 to 2,500,000 flows.")] = False,
    scale: Annotated[
        bool, typer.Option("--scale", help="Also windows whose hosts and channels grow: is the cost linear?")
    ] = False,
    memory: Annotated[
        float | None,
        typer.Option(
            help="GB that measuring may take; three quarters of what is free if not given.", show_default=False
        ),
    ] = None,
    quick: Quick = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Flows a second, memory, exactness and dwell time, beside the published reference on the same windows.

    One process a case, all sides in it, in turn. A side that needs more memory than there is, is told as such.
    Measure on an idle machine; what it ran on is printed and kept with the figures.
    """
    from thalweg.benchmark.machine import machine_in_words
    from thalweg.benchmark.speed.cases import choose_cases
    from thalweg.benchmark.speed.progress import SIDE_WORDS
    from thalweg.benchmark.speed.tables import throughput_tables
    from thalweg.benchmark.speed.throughput.plan import ThroughputPlan, run_throughput
    from thalweg.benchmark.speed.throughput.report import conditions_in_words, make_folder, write_throughput
    from thalweg.cli.show.speed import speed_line
    from thalweg.errors import ConfigError

    asked = _names(sides) or tuple(SIDE_WORDS)
    if unknown := [name for name in asked if name not in SIDE_WORDS]:
        raise ConfigError(f"--sides {unknown[0]}: no such side; choose from {', '.join(SIDE_WORDS)}")
    plan = ThroughputPlan(
        cases=choose_cases(_names(cases)),
        num_flows=flows,
        rounds=rounds,
        sides=tuple(name for name in SIDE_WORDS if name in asked),
        pace=rate,
        sweep=sweep,
        scale=scale,
        seed=seed,
        memory=None if memory is None else int(memory * _GIGABYTE),
    )
    make_folder(out)
    with speed_line(ERR, "throughput") as tell:
        found = run_throughput(plan.quick() if quick else plan, tell)
    written = write_throughput(out, found)
    if as_json:
        print_json({**found, "written": [str(path) for path in written]})
        return
    OUT.print(machine_in_words(found["machine"]), "", sep="\n", soft_wrap=True)
    _show(throughput_tables(found), conditions_in_words(), written)


def ingest(
    out: Out = Path("benchmark"),
    parts: Annotated[
        str,
        typer.Option(
            help="What to measure, separated by commas: files, decode, live; idle, what listening costs while nobody "
            "sends; and day, a day of traffic at --speed."
        ),
    ] = "files,decode,live",
    rows: Annotated[int, typer.Option(min=1, help="Rows of each file, and records to decode.")] = 1_000_000,
    rounds: Annotated[int, typer.Option(min=1, help="How often each side reads a file or decodes, in turn.")] = 5,
    formats: Annotated[
        str | None,
        typer.Option(
            help="How their names begin, separated by commas: csv, zeek, json, parquet, arrow; all if not given."
        ),
    ] = None,
    rate: Annotated[float, typer.Option(help="Live: NetFlow v5 flows a second that are sent.")] = 1_000_000,
    seconds: Annotated[float, typer.Option(help="Live and idle: for how long.")] = 60.0,
    case: Annotated[str, typer.Option(help="Live: whose traffic: d50, d200, p2k, p20k, p60k.")] = "d50",
    speed: Annotated[float, typer.Option(help="Day: how many times as fast its hours go by.")] = 100.0,
    mean: Annotated[float, typer.Option(help="Day: v5 flows a second, the day's mean at its own pace.")] = 300.0,
    quick: Quick = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Rows a second from every kind of file, records a second from export packets, and flows a second over UDP.

    Files are read beside Polars alone, and packets decoded from memory beside PyPI's `netflow`, where it is installed.
    Live, a process of its own sends NetFlow v5 over loopback to a `thalweg run` with a model, which receives, windows,
    graphs, scores and writes. The files are made in --out and removed.
    """
    import json

    from thalweg.benchmark.machine import describe_machine, machine_in_words
    from thalweg.benchmark.speed.files import choose_kinds, run_ingest
    from thalweg.benchmark.speed.tables import day_table, decode_table, files_table, idle_table, live_table
    from thalweg.benchmark.speed.throughput.report import make_folder
    from thalweg.cli.show.speed import speed_line
    from thalweg.errors import ConfigError
    from thalweg.evaluate.page import write_page

    asked = _names(parts) or ()
    if unknown := [name for name in asked if name not in _PARTS]:
        raise ConfigError(f"--parts {unknown[0]}: no such part; choose from {', '.join(_PARTS)}")
    kinds = choose_kinds(_names(formats))
    make_folder(out)
    found: dict[str, Any] = {"machine": describe_machine()}
    rows, rounds = (min(rows, 200_000), min(rounds, 2)) if quick else (rows, rounds)
    tables = []
    with speed_line(ERR, "ingest") as tell:
        if "files" in asked:
            found |= run_ingest(kinds, rows, rounds, seed, out, tell)
            tables.append(files_table(found))
        if "decode" in asked:
            from thalweg.benchmark.speed.decoding import run_decode

            found["decode"] = run_decode(rows, rounds, seed, tell)
            tables.append(decode_table(found["decode"]))
        if "live" in asked:
            from thalweg.benchmark.speed.live import run_live

            found["live"] = run_live(rate, min(seconds, 10.0) if quick else seconds, case, seed, tell)
            tables.append(live_table(found["live"]))
        if "idle" in asked:
            from thalweg.benchmark.speed.live import run_idle

            found["idle"] = run_idle(min(seconds, 10.0) if quick else seconds, case, seed, tell)
            tables.append(idle_table(found["idle"]))
        if "day" in asked:
            from thalweg.benchmark.speed.live import run_day

            found["day"] = run_day(mean, speed, case, seed, tell)
            tables.append(day_table(found["day"]))
    path = out / "ingest.json"
    write_page(path, json.dumps(found, indent=1))
    if as_json:
        print_json({**found, "written": [str(path)]})
        return
    OUT.print(machine_in_words(found["machine"]), "", sep="\n", soft_wrap=True)
    _show(tables, None, [path])


def training(
    out: Out = Path("benchmark"),
    cases: Annotated[
        str, typer.Option(help="Whose traffic, separated by commas: d50, d200, p2k, p20k, p60k.")
    ] = "d200",
    flows: Annotated[int, typer.Option(min=1, help="Flows to learn from; hosts and channels follow.")] = 200_000,
    rounds: Annotated[int, typer.Option(min=1, help="How often each side learns, in turn.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps of the default model.")] = 40,
    quick: Quick = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """CPU-seconds that learning costs, beside the published recipe on the same flows.

    Both learn for a while by their own recipe; counted is what a million flows cost, noise edges included.
    """
    import json
    from dataclasses import replace

    from thalweg.benchmark.machine import machine_in_words
    from thalweg.benchmark.speed.cases import choose_cases
    from thalweg.benchmark.speed.tables import training_table
    from thalweg.benchmark.speed.throughput.report import make_folder
    from thalweg.benchmark.speed.training import TrainingPlan, run_training
    from thalweg.benchmark.speed.training import quick as shorter
    from thalweg.cli.show.speed import speed_line
    from thalweg.evaluate.page import write_page

    chosen = tuple(case.resized(flows) for case in choose_cases(_names(cases)))
    plan = TrainingPlan(cases=chosen, rounds=rounds, steps=steps, seed=seed)
    plan = replace(plan, reference_flows=min(plan.reference_flows, flows))
    make_folder(out)
    with speed_line(ERR, "training") as tell:
        found = run_training(shorter(plan) if quick else plan, tell)
    path = out / "training.json"
    write_page(path, json.dumps(found, indent=1))
    if as_json:
        print_json({**found, "written": [str(path)]})
        return
    OUT.print(machine_in_words(found["machine"]), "", sep="\n", soft_wrap=True)
    _show([training_table(found)], None, [path])


def _show(tables: list[Table], conditions: str | None, written: list[Path]) -> None:
    # A pipe has no width: names that are cut short would be of no use to whoever reads it.
    from thalweg.cli.show.tables import print_tables

    wide = OUT if OUT.is_terminal else Console(markup=False, highlight=False, width=200)
    print_tables(wide, tables)
    if conditions is not None:
        OUT.print(conditions, soft_wrap=True)
    OUT.print(f"wrote {', '.join(str(path) for path in written)}", soft_wrap=True)


def _names(text: str | None) -> tuple[str, ...] | None:
    """Read names separated by commas."""
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


SPEED: Final[dict[Callable[..., None], str]] = {
    throughput: "Example: `thalweg benchmark throughput --cases d50,d200 --out bench/ --quick`",
    ingest: "Example: `thalweg benchmark ingest --parts decode,live --seconds 60 --out bench/`",
    training: "Example: `thalweg benchmark training --cases d200 --out bench/ --quick`",
}
"""The commands and an example of each; `cli_benchmark` puts them under `thalweg benchmark`."""
