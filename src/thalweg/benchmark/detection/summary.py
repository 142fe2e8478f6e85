"""Means and spreads over seeds, the ranking of the methods, and the published table beside our results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import polars as pl

from thalweg.benchmark.detection.datasets import Found, Rates
from thalweg.benchmark.detection.methods import THALWEG, is_ablation
from thalweg.benchmark.detection.rows import ROW_COLUMNS
from thalweg.benchmark.detection.scenarios import CLEAN, FROM

METRICS: Final = tuple(
    name
    for name, (dtype, _) in ROW_COLUMNS.items()
    if dtype in (pl.Float64(), pl.Int64()) and name not in ("seed", "effort", "threshold_1", "threshold_01")
)
"""The columns that are averaged over seeds."""

TUNED: Final = " (test-tuned)"


@final
@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over seeds: its mean, its sample standard deviation (None for one seed), and how many seeds."""

    mean: float
    sd: float | None
    num: int

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Spread | None:
        """Return the spread of the values that are not None; None if there are none.

        >>> Spread.of([0.5, 0.7, None])
        Spread(mean=0.6, sd=0.14142135623730948, num=2)
        """
        there = [value for value in values if value is not None]
        if not there:
            return None
        sd = float(np.std(there, ddof=1)) if len(there) > 1 else None
        return cls(float(np.mean(there)), sd, len(there))

    def text(self, digits: int = 3, scale: float = 1.0) -> str:
        """Write it as mean ± sd.

        >>> Spread(0.6, 0.1414, 2).text(), Spread(0.6, None, 1).text(1, 100)
        ('0.600 ± 0.141', '60.0')
        """
        spread = "" if self.sd is None else f" ± {scale * self.sd:.{digits}f}"
        return f"{scale * self.mean:.{digits}f}{spread}"


@final
@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """A method on a data set under a scenario: every metric over seeds, and the jobs that failed."""

    dataset: str
    scenario: str
    family: str
    method: str
    metrics: Mapping[str, Spread]
    errors: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def is_tuned(self) -> bool:
        """Whether it was chosen on test labels."""
        return self.method.endswith(TUNED)

    def get(self, name: str, digits: int = 3, scale: float = 1.0) -> str:
        """Write a metric; a dash if there is none."""
        found = self.metrics.get(name)
        return "-" if found is None else found.text(digits, scale)

    def mean(self, name: str) -> float | None:
        """Return a metric's mean; None if there is none."""
        found = self.metrics.get(name)
        return None if found is None else found.mean

    def as_dict(self) -> dict[str, Any]:
        """Return the line as JSON values."""
        return {
            "dataset": self.dataset,
            "scenario": self.scenario,
            "family": self.family,
            "method": self.method,
            "errors": list(self.errors),
            "notes": list(self.notes),
            "metrics": {name: {"mean": s.mean, "sd": s.sd, "seeds": s.num} for name, s in self.metrics.items()},
        }


def summarise(rows: pl.DataFrame) -> tuple[Line, ...]:
    """Average rows over seeds, in the order in which data sets, scenarios and methods first appear."""
    lines = []
    keys = ("dataset", "scenario", "family", "method")
    for key, group in rows.group_by(keys, maintain_order=True):
        dataset, scenario, family, method = (str(part) for part in key)
        good = group.filter(pl.col("error").is_null())
        spreads = {name: Spread.of(good[name].to_list()) for name in METRICS}
        lines.append(
            Line(
                dataset,
                scenario,
                family,
                method,
                {name: spread for name, spread in spreads.items() if spread is not None},
                tuple(group["error"].drop_nulls().unique(maintain_order=True)),
                tuple(good["note"].drop_nulls().unique(maintain_order=True)),
            )
        )
    return tuple(lines)


def ranking(lines: Sequence[Line], dataset: str) -> tuple[Line, ...]:
    """Order the methods of the clean case on one data set, best AUROC first; failed ones last.

    Ablations, and results that were chosen on test labels, are left out.
    """
    there = [
        line
        for line in lines
        if line.dataset == dataset and line.scenario == CLEAN and not is_ablation(line.family) and not line.is_tuned
    ]
    return tuple(sorted(there, key=lambda line: (-(line.mean("auroc") or -1.0), line.method)))


@final
@dataclass(frozen=True, slots=True, eq=False)
class Standing:
    """A method over all data sets: its mean rank by AUROC, the sets on which it is first, and the number of sets."""

    method: str
    mean_place: float
    firsts: tuple[str, ...]
    num: int


def standings(lines: Sequence[Line]) -> tuple[Standing, ...]:
    """Order the methods by their mean rank over the data sets."""
    places: dict[str, dict[str, int]] = {}
    for dataset in dict.fromkeys(line.dataset for line in lines):
        for place, line in enumerate(ranking(lines, dataset), 1):
            if line.mean("auroc") is not None:
                places.setdefault(line.method, {})[dataset] = place
    found = [
        Standing(method, float(np.mean(list(at.values()))), tuple(d for d, place in at.items() if place == 1), len(at))
        for method, at in places.items()
    ]
    return tuple(sorted(found, key=lambda one: (one.mean_place, one.method)))


@final
@dataclass(frozen=True, slots=True, eq=False)
class Beside:
    """One row of the published table, with our results beside it; None if it did not run or was not published."""

    found: Found
    thalweg: Line | None
    published: Line | None
    anomal_e: Line | None

    @property
    def reported(self) -> tuple[Rates | None, Rates | None]:
        """The published figures: the graph autoencoder, Anomal-E."""
        return self.found.data_set.published, self.found.data_set.anomal_e


def beside_published(lines: Sequence[Line], chosen: Sequence[Found]) -> tuple[Beside, ...]:
    """Put our figures of the clean case beside the published ones, a row for each file."""
    clean = {(line.dataset, line.method): line for line in lines if line.scenario == CLEAN}

    def of(found: Found, method: str) -> Line | None:
        return clean.get((found.name, method))

    return tuple(
        Beside(found, of(found, THALWEG), of(found, "published"), of(found, f"anomal-e{TUNED}")) for found in chosen
    )


def deltas(lines: Sequence[Line], metric: str) -> tuple[tuple[str, str, float], ...]:
    """Compare ablations with the whole model on the clean case.

    Returns: (data set, ablation, its mean minus Thalweg's), if both exist.
    """
    whole = {line.dataset: line.mean(metric) for line in lines if line.scenario == CLEAN and line.method == THALWEG}
    found = []
    for line in lines:
        of_whole, own = whole.get(line.dataset), line.mean(metric)
        if line.scenario == CLEAN and is_ablation(line.family) and of_whole is not None and own is not None:
            found.append((line.dataset, line.method.removeprefix(f"{THALWEG}/"), own - of_whole))
    return tuple(found)


def scenario_lines(lines: Sequence[Line]) -> tuple[Line, ...]:
    """Return the lines of methods that also ran under other scenarios, by data set and method, clean first."""
    more = {(line.dataset, line.method) for line in lines if line.scenario != CLEAN}
    there = [line for line in lines if (line.dataset, line.method) in more]
    order = {name: place for place, name in enumerate(dict.fromkeys(line.dataset for line in lines))}
    return tuple(
        sorted(
            there,
            key=lambda line: (order[line.dataset], line.method, line.scenario != CLEAN, line.scenario.startswith(FROM)),
        )
    )
