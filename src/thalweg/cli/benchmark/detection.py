"""`thalweg benchmark detection`."""

# Packages are imported inside the functions: `thalweg --help` should not wait for torch.
from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from thalweg.cli.options import Json, names
from thalweg.cli.show.terminal import ERR, OUT, print_json, wide_out

if TYPE_CHECKING:
    from thalweg.benchmark.detection.job import Job
    from thalweg.benchmark.detection.plan import DetectionProgress
    from thalweg.cli.show.progress import Line

_WHAT: Final = "What is compared"
_MUCH: Final = "How much is done"


def detection(
    *,
    data: Annotated[
        Path, typer.Option(help="The folder with the files of the published data sets, under their original names.")
    ],
    out: Annotated[
        Path,
        typer.Option(help="The folder for results and report; the same command continues a run that was stopped."),
    ] = Path("benchmark"),
    as_json: Json = False,
    methods: Annotated[
        str | None,
        typer.Option(help="Names separated by commas; Thalweg and every rival if not given.", rich_help_panel=_WHAT),
    ] = None,
    datasets: Annotated[
        str | None,
        typer.Option(help="Names separated by commas; every set in --data if not given.", rich_help_panel=_WHAT),
    ] = None,
    scenarios: Annotated[
        str | None,
        typer.Option(
            help="Names separated by commas: clean, wrapped-kept, contaminated-4, contaminated-12, hidden, renumbered, "
            "from, from:SET. If not given: clean for all, and the others for Thalweg unless --quick.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    ablations: Annotated[
        bool,
        typer.Option("--ablations", help="Also measure Thalweg without each of its parts.", rich_help_panel=_WHAT),
    ] = False,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=1, help="How many seeds, from 0; 5, or 1 with --quick.", show_default=False, rich_help_panel=_MUCH
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="One seed, only the clean scenario, and short training for slow rivals.",
            rich_help_panel=_MUCH,
        ),
    ] = False,
    effort: Annotated[
        float,
        typer.Option(help="A factor on the number of flows that Thalweg trains on.", rich_help_panel=_MUCH),
    ] = 1.0,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many jobs run at once, each on one thread if several; 2 if there are two cores.",
            show_default=False,
            rich_help_panel=_MUCH,
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Delete the results of earlier runs first.", rich_help_panel=_MUCH)
    ] = False,
) -> None:
    """Compare how well methods find attacks on published data sets, under the published protocol and an honest one.

    Each data set, method and seed is a job in its own process that writes a small file of results, so that a stopped
    run can continue. At the end it prints tables and writes a report that opens in a browser without a network.
    """
    from thalweg.benchmark.detection.datasets import choose, find_data_sets, not_given
    from thalweg.benchmark.detection.methods import families
    from thalweg.benchmark.detection.plan import DetectionPlan, collect, jobs_in, plan_jobs, run_jobs
    from thalweg.benchmark.detection.report import write_detection_report
    from thalweg.benchmark.detection.scenarios import parse_scenarios
    from thalweg.benchmark.detection.summary import summarise
    from thalweg.benchmark.detection.tables import benchmark_tables
    from thalweg.cli.show.progress import progress
    from thalweg.cli.show.tables import print_tables

    asked = names(scenarios)
    plan = DetectionPlan(
        families=families(names(methods)),
        scenarios=None if asked is None else parse_scenarios(asked),
        ablations=ablations,
        seeds=seeds or (1 if quick else 5),
        quick=quick,
        effort=effort,
        workers=workers or min(2, os.cpu_count() or 1),
    )
    found = find_data_sets(data)
    chosen = choose(found, names(datasets))
    absent = not_given(found)
    for one in absent:
        ERR.print(f"not found in --data: {one.title} ({one.name}), {one.source}", soft_wrap=True)
    jobs = plan_jobs(plan, chosen, found)
    rows_folder = out / "rows"
    try:
        with progress(ERR) as line:
            state = run_jobs(jobs, out, workers=plan.workers, fresh=fresh, each=_reporter(line))
    except KeyboardInterrupt:
        done = collect(rows_folder, jobs).select("dataset", "scenario", "family", "seed").unique().height
        ERR.print(
            f"stopped with {done:,} of {len(jobs):,} jobs done and kept in {rows_folder}: the same command continues "
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
    print_tables(wide_out(), benchmark_tables(lines, chosen))
    OUT.print(f"wrote {report}", soft_wrap=True)


def _reporter(line: Line) -> Callable[[DetectionProgress], None]:
    """Return a callback that shows the benchmark: in place on a terminal, elsewhere by a line for each job."""
    from thalweg.cli.show.progress import left_in_words
    from thalweg.cli.show.words import seconds_in_words

    def report(state: DetectionProgress) -> None:
        left = left_in_words(state.seconds_left or None)
        if state.ended is not None and (line.live is None or state.error is not None):
            spent = seconds_in_words(state.spent[state.ended.family][-1])
            how = "" if state.error is None else f"  FAILED: {state.error}"
            line.print(f"{state.done}/{state.total}  {_job_in_words(state.ended)}  {spent}{how}{left}")
        if line.live is not None:
            running = "  ".join(f"{_job_in_words(job)} {seconds_in_words(spent)}" for job, spent in state.now)
            words = f"{state.done}/{state.total}{left}  {running}"
            line.show_step("benchmark", words, state.done / max(state.total, 1))

    return report


def _job_in_words(job: Job) -> str:
    """Name a job in a few words."""
    from thalweg.benchmark.detection.scenarios import CLEAN

    scenario = "" if job.scenario == CLEAN else f" [{job.scenario}]"
    return f"{job.dataset} {job.family}{scenario} seed {job.seed}"
