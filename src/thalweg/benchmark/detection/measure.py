"""Turns a detector's logits on the test flows into one row of the benchmark."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from thalweg.alert.hosts import alert_limit, host_bins
from thalweg.benchmark.detection.splits import Split
from thalweg.detect import Detector
from thalweg.evaluate.hosts import judge_hosts
from thalweg.evaluate.metrics import Curve, evaluate, macro_f1, make_curve, tune_macro_f1
from thalweg.model.interface import FlowModel
from thalweg.runtime.memory import give_back

BUDGETS: Final = {"1": "0.01", "01": "0.001"}
"""The budgets of the honest protocol, by the ending of a row's columns."""

MOST_POINTS: Final = 200
NUM_BINS: Final = 40


@final
class Measured:
    """The result of one method on a split: its row and its logits.

    row: columns of ROW_COLUMNS; logit: (E,) of the test flows.
    """

    def __init__(self, row: dict[str, Any], logit: npt.NDArray[np.float32]) -> None:
        self.row = row
        self.logit = logit


def measure(model: FlowModel, parts: Split, seed: int) -> Measured:
    """Fit a model, score the test flows, and only then read the labels.

    Raises as fitting and scoring do.
    """
    detector = Detector(model, seed=seed, budget=BUDGETS["1"], device="cpu")
    begun = time.perf_counter()
    detector.fit(parts.train)
    thresholds = {name: detector.threshold_for(budget).logit for name, budget in BUDGETS.items()}
    fitted = time.perf_counter()
    scores = detector.score(parts.test)
    scored = time.perf_counter()
    row = judge(scores.logit, parts, thresholds)
    if parts.timed and parts.label.any():
        row |= _of_hosts(detector, scores.logit, parts, thresholds["1"])
    seconds = scored - fitted
    reliability = detector.summary.get("reliability")
    row |= {
        "fit_s": fitted - begun,
        "score_s": seconds,
        "flows_per_s": len(scores) / max(seconds, 1e-9),
        "reliability": None if reliability is None else json.dumps(reliability),
    }
    give_back()
    return Measured(row, scores.logit)


def judge(logit: npt.NDArray[np.float32], parts: Split, thresholds: Mapping[str, float]) -> dict[str, Any]:
    """Compare logits with labels under both protocols.

    logit: (E,) of the test flows. thresholds: logits by the names of BUDGETS, from held-out training flows.

    Returns: columns of ROW_COLUMNS. Raises as `evaluate`.
    """
    row: dict[str, Any] = {
        "note": parts.note or None,
        "timed": parts.timed,
        "num_train": len(parts.train),
        "num_test": len(parts.test),
        "num_attacks": int(parts.label.sum()),
    }
    for name, threshold in thresholds.items():
        flagged = logit < np.float32(threshold)
        found = evaluate(logit, flagged, parts.label, parts.attack, parts.start)
        row |= {
            f"tpr_budget_{name}": found.tpr,
            f"fpr_budget_{name}": found.fpr,
            f"false_per_day_budget_{name}": found.false_alerts_per_day,
            f"threshold_{name}": threshold,
        }
        if name == "1":
            hits = int((flagged & parts.label).sum())
            row |= {
                "auroc": found.auroc,
                "average_precision": found.average_precision,
                "precision_budget_1": found.precision,
                "macro_f1_budget_1": float(macro_f1(hits, found.num_anomalous, found.num_attacks, found.num_flows)),
                "youden_tpr": found.youden.tpr if found.youden else None,
                "youden_fpr": found.youden.fpr if found.youden else None,
                "per_attack": json.dumps([asdict(one) for one in found.per_attack]),
                **{f"tpr_at_fpr_{_ending(target)}": tpr for target, tpr in found.tpr_at_fpr.items()},
            }
    curve = make_curve(logit, parts.label)
    row["histogram"] = json.dumps(histogram(logit, parts.label))
    if curve.num_attacks and curve.num_benign:
        tuned = tune_macro_f1(curve)
        row |= {
            "tuned_macro_f1": tuned.macro_f1,
            "tuned_tpr": tuned.tpr,
            "tuned_fpr": tuned.fpr,
            "curve": json.dumps(thin(curve)),
        }
    return row


def _ending(target: float) -> str:
    return "01" if target == 0.001 else f"{100 * target:g}"


def tuned_row(family: str, measured: Mapping[str, Measured], label: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Choose the head that is best on the test labels, as published figures did; only for comparison tables.

    Returns: that head's row under the name "FAMILY (test-tuned)", without the figures of the honest protocol.
    """
    reached = {name: tune_macro_f1(make_curve(one.logit, label)).macro_f1 for name, one in measured.items()}
    best = max(reached, key=lambda name: reached[name])
    kept = {name: value for name, value in measured[best].row.items() if "_budget_" not in name}
    head = f"head and threshold chosen on test labels: {best}"
    note = "; ".join(text for text in (head, kept.get("note")) if text)
    return {**kept, "method": f"{family} (test-tuned)", "note": note, "per_attack": None}


def thin(curve: Curve) -> list[list[float]]:
    """Choose at most 200 points of a curve, log-spaced in FPR, and some evenly spaced in TPR.

    Returns: [FPR, TPR, precision] of each, rising.
    """
    many = MOST_POINTS * 3 // 5
    rows = np.concatenate(
        [
            np.searchsorted(curve.fpr, np.geomspace(0.5 / curve.num_benign, 1, many), side="right") - 1,
            np.searchsorted(curve.tpr, np.linspace(0, 1, MOST_POINTS - many - 2)),
            [0, len(curve.fpr) - 1],
        ]
    )
    rows = np.unique(np.clip(rows, 0, len(curve.fpr) - 1))
    points = np.stack([curve.fpr[rows], curve.tpr[rows], curve.precision[rows]], axis=1)
    return [[float(f"{value:.5g}") for value in point] for point in points]


def histogram(logit: npt.NDArray[np.floating], label: npt.NDArray[np.bool_]) -> dict[str, list[float]]:
    """Count benign and attack flows in 40 bins of the logit; the few beyond the range are in the outermost bins.

    Returns: edges (41 of them), benign, attack (40 each); all empty if no logit is finite.
    """
    finite = logit[np.isfinite(logit)].astype(np.float64)
    if not len(finite):
        return {"edges": [], "benign": [], "attack": []}
    low, high = np.quantile(finite, [0.001, 0.999])
    edges = np.linspace(low, high if high > low else low + 1, NUM_BINS + 1)
    at = np.clip(np.searchsorted(edges, logit, side="right") - 1, 0, NUM_BINS - 1)
    counts = {name: np.bincount(at[of], minlength=NUM_BINS) for name, of in (("benign", ~label), ("attack", label))}
    return {"edges": edges.round(4).tolist(), **{name: count.tolist() for name, count in counts.items()}}


def _of_hosts(detector: Detector, logit: npt.NDArray[np.float32], parts: Split, threshold: float) -> dict[str, Any]:
    assert parts.start is not None, "timed flows have it"
    trained = parts.train.frame
    limit = None
    # A model that was fitted on another network without times has no training period to take a limit from.
    if "start" in trained.columns and trained["start"].null_count() == 0:
        span: Any = trained["start"].max() - trained["start"].min()  # type: ignore[operator]  # datetimes
        assert detector.fitted_logit is not None, "it was just fitted"
        bins = host_bins(trained["start"], trained["src_addr"], detector.fitted_logit, threshold)
        limit = alert_limit(bins, span / timedelta(hours=1))
    found = judge_hosts(
        start=parts.start,
        src_addr=parts.test.frame["src_addr"],
        logit=logit,
        label=parts.label,
        threshold=threshold,
        limit=limit,
    )
    return {
        "num_hosts": found.num_hosts,
        "infected_hosts": found.infected,
        "infected_rank": found.rank,
        "minutes_to_alert": found.minutes,
        "false_host_alerts_per_hour": found.false_per_hour,
    }
