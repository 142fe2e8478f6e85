"""The sides of the throughput benchmark, fitted: the reference, the published preset, Thalweg."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, final

import numpy as np
import numpy.typing as npt
import torch

from thalweg.benchmark.speed.cases import Traffic
from thalweg.benchmark.speed.exact import Reference
from thalweg.benchmark.speed.progress import PUBLISHED, REFERENCE, THALWEG
from thalweg.detect import Detector
from thalweg.model.learning.training import TrainingConfig
from thalweg.model.thalweg import ThalwegModel
from thalweg.published.model import PublishedConfig, PublishedGAE
from thalweg.tables import Flows

Side: TypeAlias = Callable[[Flows], npt.NDArray[np.floating]]
"""Rates one window: columns in memory -> (E,) logits on the host."""

FIT_FLOWS: Final = 100_000
"""flows of a case's first window that the default model is fitted on"""
BRIEF: Final = TrainingConfig(num_flows=200_000, max_steps=10, epochs=1)
"""A training of a few steps: speed does not depend on how good the weights are, only on their shapes."""
PUBLISHED_FIT_FLOWS: Final = 10_000


@final
@dataclass(frozen=True, slots=True)
class Models:
    """Both models, fitted briefly on the same traffic."""

    detector: Detector
    published: PublishedGAE


def fit_briefly(traffic: Traffic, seed: int) -> Models:
    """Fit the default model and the published preset for a few steps on the first flows of a case.

    Afterwards the default model has windows of the case's size, however few flows it was fitted on.
    """
    first = traffic.window(0)
    detector = Detector(ThalwegModel(training=BRIEF), seed=seed, device="cpu").fit(first[:FIT_FLOWS])
    detector.model.window_size = len(first)
    published, some = PublishedGAE(PublishedConfig(num_epochs=1)), first[:PUBLISHED_FIT_FLOWS]
    published.fit(some, np.zeros(len(some), bool), seed=seed, device=torch.device("cpu"), progress=lambda _: None)
    return Models(detector, published)


def make_sides(models: Models) -> dict[str, Side]:
    """Return the sides by name: the reference has the same weights as the published preset."""
    return {
        REFERENCE: Reference(models.published).logits,
        PUBLISHED: models.published.logits,
        THALWEG: lambda flows: models.detector.score(flows).logit,
    }


@final
@dataclass(frozen=True, slots=True)
class Timing:
    """The time of each round, in seconds of the clock and in CPU seconds of all cores together."""

    seconds: list[float]
    cpu_seconds: list[float]

    def as_dict(self, num_flows: int, beside: Timing | None) -> dict[str, Any]:
        """Return the figures as JSON values. ratio: how many times faster than `beside`, median over rounds."""
        seconds = float(np.median(self.seconds))
        ratio = None
        if beside is not None:
            pairs = zip(beside.seconds, self.seconds, strict=True)
            ratio = float(np.median([theirs / ours for theirs, ours in pairs]))
        return {
            "seconds": seconds,
            "seconds_by_round": self.seconds,
            "cpu_seconds": float(np.median(self.cpu_seconds)),
            "flows_per_s": num_flows / seconds,
            "ratio": ratio,
        }


def time_in_turn(sides: Mapping[str, Side], windows: Sequence[Flows], rounds: int) -> dict[str, Timing]:
    """Time the sides in turn on the same window, then on the next one.

    So a machine that slows down for a while slows all of them. If there are several, each starts its turn with a window
    that is not counted, so that its memory and caches are as warm as in a stream.
    """
    found = {name: Timing([], []) for name in sides}
    for i in range(rounds):
        flows = windows[i % len(windows)]
        for name, side in sides.items():
            if len(sides) > 1:
                side(windows[(i + 1) % len(windows)])
            begun, worked = time.perf_counter(), time.process_time()
            side(flows)
            found[name].seconds.append(time.perf_counter() - begun)
            found[name].cpu_seconds.append(time.process_time() - worked)
    return found
