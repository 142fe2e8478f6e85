"""The figures, by hand on tiny cases and against scikit-learn on large ones."""

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from thalweg.alert.hosts import rank_hosts
from thalweg.detect import Threshold
from thalweg.errors import ModelError, SchemaError
from thalweg.evaluate.metrics import YOUDEN_NOTE, check_budget, evaluate, make_curve

# Strangest first: attack, benign, attack, benign, benign. The model flags the first two.
LOGIT = np.array([3.0, -4.0, 1.0, -3.0, -5.0], np.float32)
LABEL = np.array([False, False, False, True, True])
ANOMALOUS = np.array([False, True, False, False, True])
ATTACK = pl.Series(["Benign", None, "Benign", "scan", "flood"])
START = pl.Series([datetime(2026, 3, 2, tzinfo=UTC) + timedelta(hours=3 * i) for i in range(5)])


@pytest.mark.parametrize(("share", "is_enough"), [(0.01, True), (0.001, False)])
def test_the_realised_rate_is_held_against_the_budget(share: float, is_enough: bool) -> None:
    logit = np.arange(2_000, dtype=np.float32)
    result = evaluate(logit, logit < 30, np.zeros(2_000, bool))
    threshold = Threshold(
        logit=30.0, share=share, method="quantile", num_flows=9, budget=str(share), low_share=share, high_share=share
    )
    kept = check_budget(result, threshold)
    assert kept is not None
    assert (kept.fpr, kept.num_benign, kept.is_enough) == (0.015, 2_000, is_enough)
    assert kept.ratio == pytest.approx(0.015 / share)
    assert check_budget(evaluate(logit, logit < 30, np.ones(2_000, bool)), threshold) is None


def test_by_hand() -> None:
    e = evaluate(LOGIT, ANOMALOUS, LABEL, ATTACK, START)
    assert (e.num_flows, e.num_attacks, e.num_anomalous) == (5, 2, 2)
    assert (e.tpr, e.fpr, e.precision) == (0.5, 1 / 3, 0.5)
    assert e.false_alerts_per_day == 2.0  # one in twelve hours
    assert e.auroc == pytest.approx(5 / 6)  # five of six pairs are in the right order
    assert e.average_precision == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert e.tpr_at_fpr == {0.001: 0.5, 0.01: 0.5, 0.02: 0.5, 0.05: 0.5}
    assert e.youden is not None
    assert (e.youden.tpr, e.youden.fpr, e.youden.logit) == (1.0, 1 / 3, -3.0)
    assert e.youden.note == YOUDEN_NOTE
    flood, scan = e.per_attack
    assert (flood.attack, flood.flows, flood.tpr, flood.tpr_at_fpr_1, flood.auroc) == (
        "flood",
        1,
        1.0,
        1.0,
        1.0,
    )
    assert (scan.attack, scan.tpr, scan.tpr_at_fpr_1) == ("scan", 0.0, 0.0)
    assert scan.auroc == pytest.approx(2 / 3)
    assert e.notes == ()


def test_flows_of_equal_logit_are_flagged_together() -> None:
    curve = make_curve(np.array([0.0, 0.0, 0.0, 1.0]), np.array([True, False, False, False]))
    assert curve.strangeness.tolist() == [np.inf, 0.0, -1.0]
    assert curve.tpr.tolist() == [0, 1, 1]
    assert curve.fpr.tolist() == pytest.approx([0, 2 / 3, 1])
    assert curve.precision.tolist() == pytest.approx([1, 1 / 3, 1 / 4])


@pytest.mark.parametrize("digits", [0, 1, 6])
def test_as_scikit_learn_says(digits: int) -> None:
    rng = np.random.default_rng(3)
    label = rng.random(4_000) < 0.2
    logit = np.round(rng.normal(0, 1, 4_000) - 1.2 * label, digits).astype(np.float32)
    kind = pl.Series(np.where(rng.random(4_000) < 0.5, "a", "b"))
    e = evaluate(logit, logit < -2, label, kind)
    assert e.auroc == pytest.approx(roc_auc_score(label, -logit))
    assert e.average_precision == pytest.approx(average_precision_score(label, -logit))
    fpr, tpr, _ = roc_curve(label, -logit, drop_intermediate=False)
    for target, found in e.tpr_at_fpr.items():
        assert found == pytest.approx(tpr[fpr <= target].max())
    assert e.youden is not None
    assert e.youden.tpr - e.youden.fpr == pytest.approx((tpr - fpr).max())
    for row in e.per_attack:
        chosen = ~label | (kind == row.attack).to_numpy()
        assert row.auroc == pytest.approx(roc_auc_score(label[chosen], -logit[chosen]))
        fpr_k, tpr_k, _ = roc_curve(label[chosen], -logit[chosen], drop_intermediate=False)
        assert row.tpr_at_fpr_1 == pytest.approx(tpr_k[fpr_k <= 0.01].max())


def test_an_exact_rate_counts_as_reached() -> None:
    # One of a hundred benign flows is stranger than the attack: an FPR of exactly 1 %.
    logit = np.concatenate([[-9.0], [-8.0], np.zeros(99)])
    label = np.arange(101) == 1
    assert evaluate(logit, logit < -1, label).tpr_at_fpr[0.01] == 1.0
    assert evaluate(logit, logit < -1, label).tpr_at_fpr[0.001] == 0.0


@pytest.mark.parametrize(("label", "absent"), [(np.zeros(5, bool), "attack"), (np.ones(5, bool), "benign")])
def test_one_class_says_why(label: np.ndarray, absent: str) -> None:
    e = evaluate(LOGIT, ANOMALOUS, label, ATTACK, START)
    assert e.auroc is None
    assert e.average_precision is None
    assert e.youden is None
    assert e.tpr_at_fpr == {}
    assert any(f"without {absent} flows" in note for note in e.notes)
    assert (e.tpr is None) == (absent == "attack")
    assert (e.fpr is None) == (absent == "benign")
    assert all(row.auroc is None and row.tpr_at_fpr_1 is None for row in e.per_attack)
    json.dumps(e.as_dict(), allow_nan=False)


def test_no_flows() -> None:
    none = np.zeros(0, bool)
    e = evaluate(np.zeros(0, np.float32), none, none)
    assert e.num_flows == 0
    assert "nothing to measure" in e.notes[0]


def test_no_time_no_alerts_per_day() -> None:
    for start in (None, START.clear().extend_constant(None, 5), START[:1].new_from_index(0, 5)):
        e = evaluate(LOGIT, ANOMALOUS, LABEL, start=start)
        assert e.false_alerts_per_day is None
        assert "span no time" in e.notes[-1]


def test_scores_upside_down_have_no_youden_threshold() -> None:
    e = evaluate(np.array([-1.0, 1.0]), np.array([True, False]), np.array([False, True]))
    assert e.auroc == 0.0
    assert e.youden is not None
    assert e.youden.logit is None


def test_what_is_not_a_number_is_refused() -> None:
    broken = LOGIT.copy()
    broken[2] = np.nan
    with pytest.raises(ModelError, match=r"1 of 5 logits.*row 2"):
        evaluate(broken, ANOMALOUS, LABEL)
    with pytest.raises(SchemaError, match="label has 4 rows"):
        evaluate(LOGIT, ANOMALOUS, LABEL[:4])
    with pytest.raises(ModelError):
        rank_hosts(pl.Series(["a"] * 5), broken, ANOMALOUS, threshold_logit=0.0)


def test_infinite_logits_are_numbers() -> None:
    e = evaluate(np.array([-np.inf, 0.0, np.inf]), np.array([True, False, False]), np.array([True, False, False]))
    assert e.auroc == 1.0


def test_as_dict_is_json() -> None:
    evaluation = evaluate(LOGIT, ANOMALOUS, LABEL, ATTACK, START)
    fields = json.loads(json.dumps(evaluation.as_dict(), allow_nan=False))
    assert fields["tpr_at_fpr"]["0.01"] == 0.5
    assert fields["per_attack"][0]["attack"] == "flood"
    assert fields["youden"]["note"] == YOUDEN_NOTE


def test_unnamed_attacks_have_a_row() -> None:
    e = evaluate(LOGIT, ANOMALOUS, LABEL, pl.Series([None] * 5, dtype=pl.String))
    assert [(row.attack, row.flows) for row in e.per_attack] == [("unnamed", 2)]
