"""`thalweg benchmark throughput`."""

# Packages are imported inside the command: `thalweg --help` should not wait for torch.
from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from thalweg.cli.benchmark.options import Out, Quick, Seed
from thalweg.cli.options import Json, names
from thalweg.cli.show.terminal import ERR, OUT, print_json, wide_out

_WHAT: Final = "What is measured"
_GIGABYTE: Final = 1_000_000_000


def throughput(
    *,
    out: Out = Path("benchmark"),
    quick: Quick = False,
    seed: Seed = 0,
    as_json: Json = False,
    cases: Annotated[
        str | None,
        typer.Option(
            help="Names separated by commas: d50, d200, p2k, p20k, p60k (hosts in a window); all if not given.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    sides: Annotated[
        str | None,
        typer.Option(
            help="Names separated by commas: reference, published, thalweg; all if not given.", rich_help_panel=_WHAT
        ),
    ] = None,
    flows: Annotated[
        int, typer.Option(min=1, help="Flows in a window; hosts and channels scale along.", rich_help_panel=_WHAT)
    ] = 200_000,
    rounds: Annotated[
        int, typer.Option(min=1, help="How often each side scores a window; sides take turns.", rich_help_panel=_WHAT)
    ] = 5,
    rate: Annotated[float, typer.Option(help="Flows a second of the paced stream.", rich_help_panel=_WHAT)] = 100_000,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Also measure windows of 10,000 to 2,500,000 flows.", rich_help_panel=_WHAT)
    ] = False,
    scale: Annotated[
        bool,
        typer.Option(
            "--scale",
            help="Also measure windows with growing numbers of hosts and channels: is the cost linear?",
            rich_help_panel=_WHAT,
        ),
    ] = False,
    memory: Annotated[
        float | None,
        typer.Option(
            help="GB of memory that measuring may take; three quarters of the free memory if not given.",
            show_default=False,
            rich_help_panel=_WHAT,
        ),
    ] = None,
) -> None:
    """Measure flows a second, memory, numerical error and dwell time, beside the published reference.

    Each case runs in one process, in which the sides take turns on the same windows. If a side runs out of memory, the
    table says so. Dwell time is how long flows wait for their scores. Measure on an idle machine; the results name it.
    """
    from thalweg.benchmark.machine import machine_in_words
    from thalweg.benchmark.speed.cases import choose_cases
    from thalweg.benchmark.speed.progress import SIDE_WORDS
    from thalweg.benchmark.speed.tables import throughput_tables
    from thalweg.benchmark.speed.throughput.plan import ThroughputPlan, run_throughput
    from thalweg.benchmark.speed.throughput.report import conditions_in_words, make_folder, write_throughput
    from thalweg.cli.show.progress import progress, steps
    from thalweg.cli.show.tables import print_tables
    from thalweg.errors import ConfigError

    asked = names(sides) or tuple(SIDE_WORDS)
    if unknown := [name for name in asked if name not in SIDE_WORDS]:
        raise ConfigError(f"--sides {unknown[0]}: no such side; choose from {', '.join(SIDE_WORDS)}")
    plan = ThroughputPlan(
        cases=choose_cases(names(cases)),
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
    with progress(ERR) as line:
        found = run_throughput(plan.quick() if quick else plan, steps(line, "throughput"))
    written = [str(path) for path in write_throughput(out, found)]
    if as_json:
        print_json({**found, "written": written})
        return
    OUT.print(machine_in_words(found["machine"]), "", sep="\n", soft_wrap=True)
    print_tables(wide_out(), throughput_tables(found))
    OUT.print(conditions_in_words(), f"wrote {', '.join(written)}", sep="\n", soft_wrap=True)
