"""The steps that one process of the throughput benchmark measures: a case, the sweep over windows, or the scale.

Each step returns figures as JSON values and is independent: if one runs out of memory, only that one fails.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import torch

from thalweg.benchmark.machine import peak_memory_mb, reset_peak
from thalweg.benchmark.speed.cases import CASES, Case, Traffic, growing
from thalweg.benchmark.speed.dwell import SCORERS, measure_dwell, streams
from thalweg.benchmark.speed.exact import exact_published, exact_thalweg, largest_error
from thalweg.benchmark.speed.profile import profile_parts
from thalweg.benchmark.speed.progress import PUBLISHED, REFERENCE, SIDE_WORDS, THALWEG
from thalweg.benchmark.speed.sides import Models, fit_briefly, make_sides, time_in_turn
from thalweg.detect import Detector
from thalweg.tables import Flows

Step: TypeAlias = tuple[str, Callable[[], dict[str, Any]]]
Part: TypeAlias = Mapping[str, Any]
"""What a process measures, as JSON values; see `throughput.parts_of`."""

_NUM_WINDOWS: Final = 3
_SCALE_ROUNDS: Final = 3
EXACT: Final = "exact "
PEAK: Final = "peak "
DWELL: Final = "dwell "
ROUNDS: Final = "rounds"
PROFILE: Final = "profile"


def case_of(part: Part) -> Case:
    """Return the case of a part, in windows of the part's size."""
    case = CASES[part["case"]]
    return case if part["num_flows"] == case.num_flows else case.resized(part["num_flows"])


class CaseSteps:
    """One case: the speed, memory and numerical error of each side, and how long windows wait.

    failed: sides that ran out of memory.
    """

    def __init__(self, part: Part, failed: set[str]) -> None:
        self._part, self._failed = part, failed
        traffic = Traffic(case_of(part), part["seed"])
        self._models = fit_briefly(traffic, part["seed"])
        self._windows = traffic.windows(min(_NUM_WINDOWS, part["rounds"]), first=1)
        self._sides = make_sides(self._models)

    def steps(self) -> Iterator[Step]:
        """Yield the steps in order; within a kind, the one that may need most memory is last."""
        order = [name for name in (THALWEG, PUBLISHED, REFERENCE) if name in self._part["sides"]]
        for name in order:
            yield PEAK + name, partial(self._peak, name)
        yield ROUNDS, self._rounds
        if THALWEG in order:
            yield PROFILE, self._profile
        for way in SCORERS:
            for pace, num_windows in streams(way, self._part["pace"], self._part["dwell_windows"]):
                yield f"{DWELL}{way}, {pace_in_words(pace)}", partial(self._dwell, way, pace, num_windows)
        for name in (THALWEG, PUBLISHED):
            if name in order:
                yield EXACT + name, partial(self._exact, name)

    def _peak(self, name: str) -> dict[str, Any]:
        # In this process, with the kernel's record of its largest resident size reset for each side: nothing is missed
        # between samples, and no side pays for another's import. The first window, which compiles and fills caches, is
        # not counted; the reference compiles nothing, and its windows take long.
        try:
            if name != REFERENCE:
                self._sides[name](self._windows[-1])
            known = reset_peak()
            before = peak_memory_mb()
            self._sides[name](self._windows[0])
        except BaseException:
            self._failed.add(name)
            raise
        return {"peak_memory_mb": peak_memory_mb() if known else None, "memory_before_mb": before if known else None}

    def _rounds(self) -> dict[str, Any]:
        names = [name for name in SIDE_WORDS if name in self._part["sides"] and name not in self._failed]
        times = time_in_turn({n: self._sides[n] for n in names}, self._windows, self._part["rounds"])
        num_flows = len(self._windows[0])
        return {name: times[name].as_dict(num_flows, times.get(REFERENCE)) for name in names}

    def _profile(self) -> dict[str, Any]:
        return profile_parts(self._sides[THALWEG], self._windows)

    def _exact(self, name: str) -> dict[str, Any]:
        flows = self._windows[0][: self._part["exact_flows"]]
        if name == THALWEG:
            exact = exact_thalweg(self._models.detector.model, flows)
            return {THALWEG: largest_error(self._sides[THALWEG](flows), exact)}
        if REFERENCE in self._failed:
            raise MemoryError("the network in float64 needs twice what it needs in float32, which was too much")
        exact = exact_published(self._models.published, flows)
        sides = [side for side in (REFERENCE, PUBLISHED) if side in self._part["sides"] and side not in self._failed]
        return {side: largest_error(self._sides[side](flows), exact) for side in sides}

    def _dwell(self, way: str, pace: float | None, num_windows: int) -> dict[str, Any]:
        found = measure_dwell(SCORERS[way](self._models.detector), self._windows, num_windows, pace)
        return {"way": way, **found.as_dict()}


def pace_in_words(pace: float | None) -> str:
    """Describe how fast flows arrive."""
    return "flat out" if pace is None else f"{pace:,.0f} flows/s"


class SweepSteps:
    """Throughput over the size of windows, for each way of scoring, on the CPU and, if there is one, the GPU."""

    def __init__(self, part: Part, failed: set[str]) -> None:
        del failed
        self._part, self._case = part, CASES[part["case"]]
        first = self._case.resized(min(self._case.num_flows, max(part["sizes"])))
        models = fit_briefly(Traffic(first, part["seed"]), part["seed"])
        self._detectors = {"CPU": models.detector}
        if torch.cuda.is_available():
            self._detectors["GPU"] = models_on(models, "cuda").detector
        self._size, self._made = 0, list[Flows]()

    def steps(self) -> Iterator[Step]:
        """Yield a step for each size, device and way of scoring."""
        for size in self._part["sizes"]:
            for device in self._detectors:
                for way in SCORERS:
                    name = f"{size:,} flows, {device}, {way}"
                    yield name, partial(self._one, size, device, way)

    def _one(self, size: int, device: str, way: str) -> dict[str, Any]:
        if size != self._size:
            self._made.clear()
            num = min(self._part["windows"], _NUM_WINDOWS if size <= 200_000 else 2)
            self._made = Traffic(self._case.resized(size), self._part["seed"]).windows(num)
            self._size = size
        detector = self._detectors[device]
        detector.model.window_size = size
        scorer = SCORERS[way](detector)
        reset_peak()
        measure_dwell(scorer, self._made, 1, None)  # the first window compiles and fills caches
        found = measure_dwell(scorer, self._made, self._part["windows"], None)
        return {
            "size": size,
            "curve": f"{device}, {way}",
            "device": device,
            "way": way,
            "peak_memory_mb": peak_memory_mb(),
            **found.as_dict(),
        }


class ScaleSteps:
    """The default model on windows whose hosts and channels grow in proportion to their flows."""

    def __init__(self, part: Part, failed: set[str]) -> None:
        del failed
        self._part = part
        sizes: Sequence[int] = part["sizes"]
        self._detector = fit_briefly(Traffic(growing(min(200_000, max(sizes))), part["seed"]), part["seed"]).detector

    def steps(self) -> Iterator[Step]:
        """Yield a step for each size."""
        for size in self._part["sizes"]:
            yield f"{size:,} flows", partial(self._one, size)

    def _one(self, size: int) -> dict[str, Any]:
        case = growing(size)
        windows = Traffic(case, self._part["seed"]).windows(2)
        self._detector.model.window_size = size
        sides = {THALWEG: lambda flows: self._detector.score(flows).logit}
        reset_peak()
        sides[THALWEG](windows[1])
        seconds = float(np.median(time_in_turn(sides, windows, _SCALE_ROUNDS)[THALWEG].seconds))
        return {
            "flows": size,
            "hosts": case.num_hosts,
            "channels": case.num_channels,
            "seconds": seconds,
            "peak_memory_mb": peak_memory_mb(),
        }


def models_on(models: Models, device: str) -> Models:
    """Return the same models on another device, by a model file and by what one would hold."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "brief.thalweg"
        models.detector.save(path)
        detector = Detector.load(path, device="cuda" if device == "cuda" else "cpu")
    detector.model.window_size = models.detector.model.window_size
    published = type(models.published).restore(
        models.published.tensors(), models.published.settings(), torch.device(device)
    )
    return Models(detector, published)


KINDS: Final[Mapping[str, type[CaseSteps | SweepSteps | ScaleSteps]]] = {
    "case": CaseSteps,
    "sweep": SweepSteps,
    "scale": ScaleSteps,
}
"""The steps of each `kind` of part."""
