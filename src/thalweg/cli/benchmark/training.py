"""`thalweg benchmark training`."""

# Packages are imported inside the command: `thalweg --help` should not wait for torch.
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from thalweg.cli.benchmark.options import Out, Quick, Seed
from thalweg.cli.options import Json, names
from thalweg.cli.show.terminal import ERR, OUT, print_json, wide_out


def training(
    *,
    out: Out = Path("benchmark"),
    cases: Annotated[
        str, typer.Option(help="The traffic, by names separated by commas: d50, d200, p2k, p20k, p60k.")
    ] = "d200",
    flows: Annotated[int, typer.Option(min=1, help="Flows to learn from; hosts and channels scale along.")] = 200_000,
    rounds: Annotated[int, typer.Option(min=1, help="How often each side trains; sides take turns.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps of the default model.")] = 40,
    quick: Quick = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Measure the CPU time of training, and compare it with the published training on the same flows.

    Each side trains for a while with its own settings. The result is CPU-seconds per million flows, noise edges
    included.
    """
    from thalweg.benchmark.machine import machine_in_words
    from thalweg.benchmark.speed.cases import choose_cases
    from thalweg.benchmark.speed.tables import training_table
    from thalweg.benchmark.speed.throughput.report import make_folder
    from thalweg.benchmark.speed.training import TrainingPlan, run_training
    from thalweg.benchmark.speed.training import quick as shorter
    from thalweg.cli.show import progress as show
    from thalweg.cli.show.tables import print_tables
    from thalweg.evaluate.page import write_page

    chosen = tuple(case.resized(flows) for case in choose_cases(names(cases)))
    plan = TrainingPlan(cases=chosen, rounds=rounds, steps=steps, seed=seed)
    plan = replace(plan, reference_flows=min(plan.reference_flows, flows))
    make_folder(out)
    with show.progress(ERR) as line:
        found = run_training(shorter(plan) if quick else plan, show.steps(line, "training"))
    path = out / "training.json"
    write_page(path, json.dumps(found, indent=1))
    if as_json:
        print_json({**found, "written": [str(path)]})
        return
    OUT.print(machine_in_words(found["machine"]), "", sep="\n", soft_wrap=True)
    print_tables(wide_out(), [training_table(found)])
    OUT.print(f"wrote {path}", soft_wrap=True)
