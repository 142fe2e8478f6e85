"""Measures the cost of training: CPU-seconds per million flows, beside the published recipe on the same flows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, final

import numpy as np
import torch

from thalweg.benchmark.machine import describe_machine
from thalweg.benchmark.speed.cases import Case, Traffic
from thalweg.benchmark.speed.progress import Report, StepProgress
from thalweg.detect.detector import held_out_rows
from thalweg.errors import ConfigError, ModelError
from thalweg.model.interface import FlowModel, Progress
from thalweg.model.learning.training import TrainingConfig
from thalweg.model.thalweg import ThalwegModel
from thalweg.published.model import PublishedConfig, PublishedGAE
from thalweg.runtime.memory import keep_blocks
from thalweg.tables import Flows

_SHOWN_AGAIN: Final = 2
"""edges that the published recipe trains on for each flow: the flow and a noise edge"""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingPlan:
    """What to measure: each recipe on a window of each case, `rounds` times in turn.

    steps: optimiser steps of Thalweg's training; reference_flows: flows that the published recipe trains on; its
    windows of 1,000 need no more to be measured.
    """

    cases: tuple[Case, ...]
    rounds: int = 3
    steps: int = 40
    reference_flows: int = 100_000
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.rounds < 1 or self.steps < 3 or self.reference_flows < 3 * PublishedConfig().window_size:
            raise ConfigError(
                "a training to measure needs at least one round, three steps, and three windows of 1,000 flows"
            )


@final
@dataclass(slots=True)
class _Meter:
    """Records the progress of a training, with the CPU time and the clock at that moment."""

    shown: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    clock: list[float] = field(default_factory=list)

    def __call__(self, progress: Progress) -> None:
        """Record one report, but not the last: without seconds left, the number of flows cannot be computed."""
        if 0 < progress.share < 1:
            seconds = progress.seconds_left * progress.share / (1 - progress.share)
            self.shown.append(progress.flows_per_s * seconds)
            self.cpu.append(time.process_time())
            self.clock.append(time.perf_counter())

    def per_million(self) -> dict[str, float]:
        """Return seconds per million flows, between the first report and the last.

        Raises ModelError if there were fewer than two reports.
        """
        if len(self.shown) < 2 or self.shown[-1] <= self.shown[0]:
            raise ModelError("the training was too short to be measured: give it more steps or flows")
        shown = (self.shown[-1] - self.shown[0]) / 1e6
        return {
            "cpu_s_per_million": (self.cpu[-1] - self.cpu[0]) / shown,
            "s_per_million": (self.clock[-1] - self.clock[0]) / shown,
        }


def run_training(plan: TrainingPlan, report: Report = lambda _: None) -> dict[str, Any]:
    """Train both sides by their own recipes, in turn.

    Returns: JSON values: `machine`, and `cases`: for each side CPU-seconds and seconds per million flows (noise
    included; medians), CPU-seconds of an epoch of the case's flows and of the whole recipe by its default settings;
    `ratio`: the reference's CPU-seconds per million over Thalweg's, median of the rounds' own.
    """
    keep_blocks()  # the same for both sides
    machine, cases = describe_machine(), []
    total, done, begun = len(plan.cases) * plan.rounds * 2, 0, time.perf_counter()

    def say(words: str) -> None:
        left = (time.perf_counter() - begun) / done * (total - done) if done else None
        report(StepProgress(done, total, words, left))

    for case in plan.cases:
        flows = Traffic(case, plan.seed).window(0)
        sides: dict[str, Callable[[], dict[str, float]]] = {
            "reference": partial(_measure_reference, flows[: plan.reference_flows], plan.seed),
            "thalweg": partial(_measure_thalweg, flows, plan.steps, plan.seed),
        }
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
        for _ in range(plan.rounds):
            for name, side in sides.items():
                say(f"{case.name}: {name}")
                rounds[name].append(side())
                done += 1
        cases.append(_figures(case, rounds))
    return {
        "machine": machine,
        "rounds": plan.rounds,
        "steps": plan.steps,
        "reference_flows": plan.reference_flows,
        "cases": cases,
    }


def _measure_reference(flows: Flows, seed: int) -> dict[str, float]:
    found = _measure(PublishedGAE(PublishedConfig(num_epochs=1)), flows, seed)
    # Its progress counts the flows alone; as many noise edges are rated with them.
    return {name: value / _SHOWN_AGAIN for name, value in found.items()}


def _measure_thalweg(flows: Flows, steps: int, seed: int) -> dict[str, float]:
    return _measure(ThalwegModel(training=TrainingConfig(steps=steps, epochs=1)), flows, seed)


def _measure(model: FlowModel, flows: Flows, seed: int) -> dict[str, float]:
    meter = _Meter()
    model.fit(flows, held_out_rows(len(flows)), seed=seed, device=torch.device("cpu"), progress=meter)
    return meter.per_million()


def _figures(case: Case, rounds: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    pairs = zip(rounds["reference"], rounds["thalweg"], strict=True)
    recipes = {
        "reference": PublishedConfig().num_epochs * _SHOWN_AGAIN * case.num_flows / 1e6,
        "thalweg": TrainingConfig().num_flows / 1e6,
    }
    sides = {}
    for name, found in rounds.items():
        medians = {key: float(np.median([one[key] for one in found])) for key in found[0]}
        per_million = medians["cpu_s_per_million"]
        sides[name] = {
            **medians,
            # An epoch shows each flow once, and a noise edge for each.
            "cpu_s_per_epoch": per_million * _SHOWN_AGAIN * case.num_flows / 1e6,
            "cpu_s_whole_recipe": per_million * recipes[name],
        }
    return {
        "case": case.name,
        "flows": case.num_flows,
        "sides": sides,
        "ratio": float(np.median([theirs["cpu_s_per_million"] / ours["cpu_s_per_million"] for theirs, ours in pairs])),
    }


def quick(plan: TrainingPlan) -> TrainingPlan:
    """Return a shorter plan."""
    return replace(plan, rounds=1, steps=min(plan.steps, 15), reference_flows=min(plan.reference_flows, 60_000))
