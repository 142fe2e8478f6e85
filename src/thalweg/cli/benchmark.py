"""`thalweg benchmark …`: what to type, what it does, an example of each."""

# Rooms are imported inside the commands: `thalweg --help` should not wait for torch.
from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from thalweg.cli.options import Json
from thalweg.cli.show.terminal import ERR, OUT, print_json
from thalweg.cli.speed import SPEED

benchmark = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Measure Thalweg beside its rivals.",
    epilog="Example: `thalweg benchmark detection --data sets/ --out bench/ --quick`",
)


@benchmark.callback()
def _root() -> None:
    """Measure Thalweg beside its rivals."""


@benchmark.command(epilog="Example: `thalweg benchmark detection --data sets/ --out bench/ --quick`")
def detection(
    data: Annotated[Path, typer.Option(help="The folder with the published data sets' files, under their own names.")],
    out: Annotated[
        Path, typer.Option(help="The folder for rows and report; a run that was stopped goes on from there.")
    ] = Path("benchmark"),
    seeds: Annotated[
        int | None, typer.Option(min=1, help="How many seeds, from 0; 5, or 1 with --quick.", show_default=False)
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="One seed, the clean case; slow rivals are cut short."),
    ] = False,
    methods: Annotated[
        str | None, typer.Option(help="Names separated by commas; Thalweg and every rival where not given.")
    ] = None,
    datasets: Annotated[
        str | None, typer.Option(help="Names separated by commas; every set that is there where not given.")
    ] = None,
    scenarios: Annotated[
        str | None,
        typer.Option(
            help="Names separated by commas: clean, wrapped-kept, contaminated-4, contaminated-12, hidden, renumbered, "
            "from, from:SET. Where not given: clean for all, and the others for Thalweg unless --quick."
        ),
    ] = None,
    ablations: Annotated[
        bool, typer.Option("--ablations", help="Also Thalweg without each of its parts, one at a time.")
    ] = False,
    effort: Annotated[float, typer.Option(help="Factor to the flows that Thalweg is shown in training.")] = 1.0,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Jobs at a time, a thread each; 2 where there are two cores.", show_default=False),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget the rows of earlier runs.")] = False,
    as_json: Json = False,
) -> None:
    """Every data set × method × seed under two protocols: the published table again, honestly, with rivals beside it.

    Each job runs in a process of its own and leaves a small file of rows; a run that was stopped goes on where it
    was. At the end: tables, and a report that opens in a browser without a network.
    """
    from thalweg.benchmark.detection.datasets import choose, find_data_sets, not_given
    from thalweg.benchmark.detection.methods import families
    from thalweg.benchmark.detection.plan import Plan, collect, jobs_in, plan_jobs, run_jobs
    from thalweg.benchmark.detection.report import write_detection_report
    from thalweg.benchmark.detection.scenarios import parse_scenarios
    from thalweg.benchmark.detection.summary import summarise
    from thalweg.benchmark.detection.tables import benchmark_tables
    from thalweg.cli.show.detection import benchmark_line, say_not_given
    from thalweg.cli.show.tables import print_tables

    asked = _names(scenarios)
    plan = Plan(
        families=families(_names(methods)),
        scenarios=None if asked is None else parse_scenarios(asked),
        ablations=ablations,
        seeds=seeds or (1 if quick else 5),
        quick=quick,
        effort=effort,
        workers=workers or min(2, os.cpu_count() or 1),
    )
    found = find_data_sets(data)
    chosen = choose(found, _names(datasets))
    absent = not_given(found)
    say_not_given(ERR, absent)
    jobs = plan_jobs(plan, chosen, found)
    rows_folder = out / "rows"
    try:
        with benchmark_line(ERR) as tell:
            state = run_jobs(jobs, out, workers=plan.workers, fresh=fresh, each=tell)
    except KeyboardInterrupt:
        done = collect(rows_folder, jobs).select("dataset", "scenario", "family", "seed").unique().height
        ERR.print(
            f"stopped with {done:,} of {len(jobs):,} jobs done and kept in {rows_folder}: the same command goes on "
            "from there",
            soft_wrap=True,
        )
        raise typer.Exit(130) from None
    if state.reused:
        ERR.print(f"{state.reused:,} of {len(jobs):,} jobs had been done before", soft_wrap=True)
    if state.failed:
        ERR.print(f"{state.failed:,} jobs failed: the same command tries them again", style="yellow", soft_wrap=True)
    lines = summarise(collect(rows_folder, jobs))
    report = out / "report.html"
    every = dict.fromkeys((*jobs, *jobs_in(rows_folder, plan, found)))
    write_detection_report(report, collect(rows_folder, tuple(every)), found, absent, plan)
    if as_json:
        print_json(
            {
                "lines": [line.as_dict() for line in lines],
                "jobs": len(jobs),
                "failed": state.failed,
                "reused": state.reused,
                "not_given": [{"name": one.name, "source": one.source} for one in absent],
                "report": str(report),
            }
        )
        return
    # A pipe has no width: names that are cut short would be of no use to whoever reads it.
    wide = OUT if OUT.is_terminal else Console(markup=False, highlight=False, width=200)
    print_tables(wide, benchmark_tables(lines, chosen))
    OUT.print(f"wrote {report}", soft_wrap=True)


def _names(text: str | None) -> tuple[str, ...] | None:
    """Read names separated by commas."""
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


for _command, _example in SPEED.items():
    benchmark.command(epilog=_example)(_command)
