"""Prints two tables of docs/detection.md: budgets and drift on real data.

    python studies/real_data.py DIR [SEEDS]

For each labelled set in DIR, a model is fitted on the training part of the split of `thalweg benchmark detection`. The
first table compares each budget with the share of benign test flows beyond its threshold. The second table shows how
the drift of the test windows is rated, without and with the attacks. A set takes a minute for each seed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import numpy as np
from scipy import stats

from thalweg.benchmark.detection.datasets import find_data_sets
from thalweg.benchmark.detection.splits import Split, read_flows, split
from thalweg.detect import Detector
from thalweg.detect.threshold import TOLERANCE
from thalweg.model.thalweg import ThalwegModel
from thalweg.tables import Flows

BUDGETS: Final = ("0.01", "0.001", "0.0001")


def main(folder: Path, num_seeds: int) -> None:
    """Print both tables, row by row."""
    print("set, seed | budget | realised | ratio | range of the ratio by chance | certain within a factor of 1.5?")
    for found in find_data_sets(folder):
        for seed in range(num_seeds):
            parts = split(read_flows(found.path), seed)
            detector = Detector(ThalwegModel(), seed=seed, device="cpu").fit(parts.train)
            logit = detector.score(parts.test).logit
            for budget in BUDGETS:
                print(
                    f"{found.name}, {seed} | {budget} | {_realised(detector, budget, logit[~parts.label])}", flush=True
                )
            print(f"{found.name}, {seed} | drift | {_drift(detector, parts)}", flush=True)


def _realised(detector: Detector, budget: str, benign: np.ndarray) -> str:
    threshold = detector.threshold_for(budget)
    beyond, share = int((benign < threshold.logit).sum()), float(budget)
    ratio = beyond / len(benign) / share
    # 90 % Poisson interval for the sampling of test flows alone; that of the held-out flows adds to it.
    low, high = (stats.chi2.ppf(q, 2 * k) / 2 / len(benign) / share for q, k in ((0.05, beyond), (0.95, beyond + 1)))
    return (
        f"{beyond:,} of {len(benign):,} | {ratio:.2f} | {np.nan_to_num(low):.2f} to {high:.2f} | "
        f"{'yes' if threshold.is_certain else 'no'}, {threshold.method} of {threshold.num_flows:,}"
        f"{'' if 1 / TOLERANCE <= ratio <= TOLERANCE else ' (missed)'}"
    )


def _drift(detector: Detector, parts: Split) -> str:
    parts_rated = []
    for name, flows in (("benign", Flows(parts.test.frame.filter(~parts.label))), ("with attacks", parts.test)):
        levels = [drift.level for scores in detector.score_stream([flows]) if (drift := detector.drift(scores))]
        counted = ", ".join(f"{levels.count(level)} {level}" for level in dict.fromkeys(levels))
        parts_rated.append(f"{name}: {counted}")
    return " | ".join(parts_rated)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)
