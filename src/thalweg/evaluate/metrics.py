"""Metrics of scores, against labels that had no part in them.

Throughout, strangeness is −logit: higher is stranger, and unlike the score it never saturates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt
import polars as pl

from thalweg.detect.threshold import MIN_BEYOND, Threshold
from thalweg.tables import check_scores

FPR_TARGETS: Final = (0.001, 0.01, 0.02, 0.05)
"""The false positive rates at which `tpr_at_fpr` is given."""

YOUDEN_NOTE: Final = "threshold chosen on test labels, only to compare with published tables"
UNNAMED: Final = "unnamed"


@final
@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """What every possible threshold would find, from the strictest to the one that flags everything.

    strangeness: (T,) distinct thresholds, descending; flows at or above one are flagged; the first, infinity, flags
    none. true_positives, false_positives: (T,) flows flagged. num_attacks, num_benign: flows of each kind.
    """

    strangeness: npt.NDArray[np.float64]
    true_positives: npt.NDArray[np.int64]
    false_positives: npt.NDArray[np.int64]
    num_attacks: int
    num_benign: int

    @property
    def tpr(self) -> npt.NDArray[np.float64]:
        """Return the share of attack flows found at each threshold; NaN if there are none."""
        return _ratio(self.true_positives, self.num_attacks)

    @property
    def fpr(self) -> npt.NDArray[np.float64]:
        """Return the share of benign flows flagged at each threshold; NaN if there are none."""
        return _ratio(self.false_positives, self.num_benign)

    @property
    def precision(self) -> npt.NDArray[np.float64]:
        """Return the share of flagged flows that are attacks; 1 if none is flagged."""
        flagged = self.true_positives + self.false_positives
        return np.where(flagged > 0, self.true_positives / np.maximum(flagged, 1), 1.0)


def make_curve(logit: npt.NDArray[np.floating], label: npt.NDArray[np.bool_]) -> Curve:
    """Sort the flows by strangeness and count. Flows of equal logit are flagged together.

    logit: (E,); label: (E,) bool, true for an attack.

    Raises SchemaError if the lengths differ; ModelError if a logit is not a number.
    """
    check_scores(logit, label=label)
    order = np.argsort(logit, kind="stable")
    given = logit[order]
    last = np.flatnonzero(np.append(given[1:] != given[:-1], np.ones(min(len(given), 1), bool)))
    found = np.cumsum(label[order], dtype=np.int64)[last]
    flagged = last + 1
    return Curve(
        np.concatenate([[np.inf], -given[last].astype(np.float64)]),
        np.concatenate([[0], found]),
        np.concatenate([[0], flagged - found]),
        int(label.sum()),
        int(len(label) - label.sum()),
    )


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Youden:
    """The threshold with the largest TPR − FPR. It is chosen on the test labels: see `note`.

    logit: None if flagging nothing is best, as for inverted scores.
    """

    tpr: float
    fpr: float
    logit: float | None
    note: str = YOUDEN_NOTE


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Tuned:
    """The threshold with the largest macro-F1. It is chosen on the test labels: see `note`.

    logit: flows at or below it are flagged; None if flagging nothing is best.
    """

    macro_f1: float
    tpr: float
    fpr: float
    logit: float | None
    note: str = YOUDEN_NOTE


def macro_f1(hits: npt.ArrayLike, alerts: npt.ArrayLike, num_attacks: int, num_flows: int) -> npt.NDArray[np.float64]:
    """Return the mean of the F1 of attacks and the F1 of benign flows; an F1 without any flow is 0.

    hits: flagged attack flows; alerts: all flagged flows; arrays of one shape, or numbers.

    >>> float(macro_f1(3, 4, 5, 10).round(4)), float(macro_f1(0, 0, 5, 10).round(4))
    (0.697, 0.3333)
    """
    hits, alerts = np.asarray(hits, np.float64), np.asarray(alerts, np.float64)
    missed, false = num_attacks - hits, alerts - hits
    passed = num_flows - num_attacks - false
    errors = missed + false
    of_attacks = 2 * hits / np.maximum(2 * hits + errors, 1)
    of_benign = 2 * passed / np.maximum(2 * passed + errors, 1)
    return np.asarray((of_attacks + of_benign) / 2)


def tune_macro_f1(curve: Curve) -> Tuned:
    """Choose the threshold with the largest macro-F1 on the labels that it is judged by; the strictest if several tie.

    Rates are NaN if there are no flows of that kind.
    """
    alerts = curve.true_positives + curve.false_positives
    reached = macro_f1(curve.true_positives, alerts, curve.num_attacks, curve.num_attacks + curve.num_benign)
    best = int(np.argmax(reached))
    return Tuned(
        macro_f1=float(reached[best]),
        tpr=float(curve.tpr[best]),
        fpr=float(curve.fpr[best]),
        logit=-float(curve.strangeness[best]) if best else None,
    )


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class AttackRow:
    """How well one class of attack is found; None if there is no benign flow to compare with.

    tpr: at the model's own threshold. tpr_at_fpr_1: if at most 1 % of the benign flows are flagged. auroc:
    against the benign flows.
    """

    attack: str
    flows: int
    tpr: float
    tpr_at_fpr_1: float | None
    auroc: float | None


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """How good scores are. Rates are in [0, 1]; None if they are undefined, and `notes` says why.

    tpr, fpr, precision, false_alerts_per_day: at the model's own threshold, which saw no label.
    auroc, average_precision: over all thresholds. tpr_at_fpr: the largest TPR whose realised FPR is at most
    the key. youden: only to compare with published tables. per_attack: a row for each class, largest first.
    """

    num_flows: int
    num_attacks: int
    num_anomalous: int
    tpr: float | None
    fpr: float | None
    precision: float | None
    false_alerts_per_day: float | None
    auroc: float | None
    average_precision: float | None
    tpr_at_fpr: Mapping[float, float]
    youden: Youden | None
    per_attack: tuple[AttackRow, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values; the keys of `tpr_at_fpr` become text."""
        fields = asdict(self)
        fields["tpr_at_fpr"] = {f"{target:g}": tpr for target, tpr in self.tpr_at_fpr.items()}
        fields["per_attack"] = list(fields["per_attack"])
        fields["notes"] = list(fields["notes"])
        return fields


def evaluate(
    logit: npt.NDArray[np.floating],
    anomalous: npt.NDArray[np.bool_],
    label: npt.NDArray[np.bool_],
    attack: pl.Series | None = None,
    start: pl.Series | None = None,
) -> Evaluation:
    """Compare scores with labels.

    logit: (E,) log-odds that a flow's edge exists, lower is stranger. anomalous: (E,) bool, at the model's
    own threshold. label: (E,) bool, true for an attack. attack: (E,) class names, read only where `label` is
    true. start: (E,) times of the flows, for false alerts per day.

    Raises SchemaError if the lengths differ; ModelError if a logit is not a number.
    """
    check_scores(logit, anomalous=anomalous, label=label, attack=attack, start=start)
    curve = make_curve(logit, label)
    num, num_attacks = len(label), curve.num_attacks
    hits, alerts = int((anomalous & label).sum()), int(anomalous.sum())
    notes = []
    both = bool(num_attacks and curve.num_benign)
    if not num:
        notes.append("No flow was given: there is nothing to measure.")
    elif not both:
        there, absent = ("attack", "benign") if num_attacks else ("benign", "attack")
        notes.append(
            f"Every flow is labelled {there}. AUROC, average precision and TPR at a given FPR compare two "
            f"kinds, so without {absent} flows they are undefined."
        )
    days = _days(start)
    if days is None:
        notes.append("The flows span no time, so false alerts per day cannot be computed.")
    return Evaluation(
        num_flows=num,
        num_attacks=num_attacks,
        num_anomalous=alerts,
        tpr=hits / num_attacks if num_attacks else None,
        fpr=(alerts - hits) / curve.num_benign if curve.num_benign else None,
        precision=hits / alerts if alerts else None,
        false_alerts_per_day=(alerts - hits) / days if days is not None else None,
        auroc=_area(curve) if both else None,
        average_precision=_average_precision(curve) if both else None,
        tpr_at_fpr={target: _tpr_at(curve, target) for target in FPR_TARGETS} if both else {},
        youden=_youden(curve) if both else None,
        per_attack=_per_attack(logit, anomalous, label, attack),
        notes=tuple(notes),
    )


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class BudgetCheck:
    """Whether a threshold kept its budget on benign flows that it never saw.

    share: what the budget allows; fpr: what was flagged of the benign flows; ratio: fpr over share.
    is_enough: whether there are enough benign flows to know the ratio within a factor of 1.5.
    """

    budget: str
    share: float
    fpr: float
    ratio: float
    num_benign: int
    is_enough: bool

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def check_budget(evaluation: Evaluation, threshold: Threshold) -> BudgetCheck | None:
    """Compare the realised FPR with the budget of the threshold; None if there is no benign flow."""
    if evaluation.fpr is None:
        return None
    num_benign = evaluation.num_flows - evaluation.num_attacks
    return BudgetCheck(
        budget=threshold.budget,
        share=threshold.share,
        fpr=evaluation.fpr,
        ratio=evaluation.fpr / threshold.share,
        num_benign=num_benign,
        is_enough=threshold.share * num_benign >= MIN_BEYOND,
    )


def _ratio(counts: npt.NDArray[np.int64], total: int) -> npt.NDArray[np.float64]:
    return np.asarray(counts / total) if total else np.full(len(counts), np.nan)


def _area(curve: Curve) -> float:
    return float(np.trapezoid(curve.tpr, curve.fpr))


def _average_precision(curve: Curve) -> float:
    return float(np.sum(np.diff(curve.tpr) * curve.precision[1:]))


def _tpr_at(curve: Curve, target: float) -> float:
    # Counts, not rates: 1 of 100 is at most 1 %, whatever floating point makes of it.
    allowed = np.floor(target * curve.num_benign * (1 + 1e-12))
    return float(curve.tpr[np.searchsorted(curve.false_positives, allowed, side="right") - 1])


def _youden(curve: Curve) -> Youden:
    best = int(np.argmax(curve.tpr - curve.fpr))
    logit = -float(curve.strangeness[best]) if best else None
    return Youden(tpr=float(curve.tpr[best]), fpr=float(curve.fpr[best]), logit=logit)


def _days(start: pl.Series | None) -> float | None:
    if start is None or start.null_count() == len(start):
        return None
    span: Any = start.max() - start.min()  # type: ignore[operator]
    return span / timedelta(days=1) if span > timedelta(0) else None


def _per_attack(
    logit: npt.NDArray[np.floating],
    anomalous: npt.NDArray[np.bool_],
    label: npt.NDArray[np.bool_],
    attack: pl.Series | None,
) -> tuple[AttackRow, ...]:
    if attack is None:
        return ()
    benign = np.sort(-logit[~label])
    num_benign = len(benign)
    allowed = int(np.floor(0.01 * num_benign * (1 + 1e-12)))
    frame = pl.DataFrame({"attack": attack, "strangeness": -logit, "anomalous": anomalous}).filter(label)
    rows = []
    for (name,), group in frame.group_by(pl.col("attack").cast(pl.String).fill_null(UNNAMED)):
        found = group["strangeness"].to_numpy()
        tpr_at = auroc = None
        if num_benign:
            # Above the (allowed + 1)-th strangest benign flow, so that no more than `allowed` are flagged.
            tpr_at = float((found > benign[num_benign - 1 - allowed]).mean())
            below = np.searchsorted(benign, found, "left") + np.searchsorted(benign, found, "right")
            auroc = float(below.mean() / 2 / num_benign)
        rows.append(
            AttackRow(
                attack=str(name),
                flows=len(found),
                tpr=float(group["anomalous"].to_numpy().mean()),
                tpr_at_fpr_1=tpr_at,
                auroc=auroc,
            )
        )
    return tuple(sorted(rows, key=lambda row: (-row.flows, row.attack)))
