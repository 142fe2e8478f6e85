"""The parts of the detection benchmark: data sets, splits, methods, macro-F1, means over seeds."""

from __future__ import annotations

import json
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import pytest

from thalweg.addresses import IPV4, parse_addresses
from thalweg.benchmark.detection.datasets import DATA_SETS, Found, choose, find_data_sets, not_given, recognise
from thalweg.benchmark.detection.measure import Measured, histogram, measure, thin, tuned_row
from thalweg.benchmark.detection.methods import ABLATIONS, ablated, families, make_models, settings_of
from thalweg.benchmark.detection.plan import DetectionPlan, plan_jobs
from thalweg.benchmark.detection.report import write_detection_report
from thalweg.benchmark.detection.rows import join_rows, read_rows, write_rows
from thalweg.benchmark.detection.scenarios import SCENARIOS, scenarios_of
from thalweg.benchmark.detection.splits import Split, renumber, split
from thalweg.benchmark.detection.summary import Spread, beside_published, deltas, ranking, standings, summarise
from thalweg.detect import Detector
from thalweg.errors import ConfigError, NotFittedError, SchemaError
from thalweg.evaluate.metrics import macro_f1, make_curve, tune_macro_f1
from thalweg.model.autoencoder import ModelConfig
from thalweg.model.learning.training import TrainingConfig
from thalweg.model.thalweg import ThalwegModel
from thalweg.synthetic import SimulationConfig, simulate
from thalweg.tables import Flows, conform

BEGIN: Final = datetime(2026, 3, 2, tzinfo=UTC)


def tiny() -> ThalwegModel:
    training = TrainingConfig(steps=3, epochs=1, min_window=50)
    return ThalwegModel(shape=ModelConfig(width=8, max_pool=16), training=training)


@pytest.fixture(scope="module")
def timed() -> Flows:
    return simulate(SimulationConfig(flows=1_500, clean_until=0.2))


@pytest.fixture(scope="module")
def untimed(timed: Flows) -> Flows:
    return Flows(timed.frame.drop("start"))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("nf-cicids2018-v2-sample.csv.gz", "cicids2018-v2-sample"),
        ("NF-CSE-CIC-IDS2018-v2.csv", "cicids2018-v2"),
        ("NF-CSE-CIC-IDS2018.csv", "cicids2018-v1"),
        ("NF-UNSW-NB15-v3.csv.zst", "unsw-nb15-v3"),
        ("NF-ToN-IoT-V2.parquet", "ton-iot-v2"),
        ("nf-botiot-v2-sample.csv.gz", "bot-iot-v2-sample"),
        ("ctu13-20110816.binetflow.parquet", "ctu13-20110816"),
        ("capture20110816.binetflow", "ctu13-20110816"),
        ("CICIDS2018.csv", None),
        ("NF-UNSW-NB15-v3.pdf", None),
    ],
)
def test_files_are_known_by_their_names(name: str, found: str | None) -> None:
    one = recognise(Path(name))
    assert (one and one.name) == found


def test_a_sample_and_a_full_file_are_two_sets(tmp_path: Path) -> None:
    for name in ("NF-CSE-CIC-IDS2018.csv", "nf-cicids2018-v2-sample.csv.gz", "README.md"):
        (tmp_path / name).write_text("")
    found = find_data_sets(tmp_path)
    assert [one.name for one in found] == ["cicids2018-v1", "cicids2018-v2-sample"]
    assert choose(found, ["cicids2018"]) == found
    assert choose(found, ["cicids2018-v1"]) == found[:1]
    assert [one.name for one in not_given(found)] == ["unsw-nb15", "ton-iot", "bot-iot", "ctu13-20110816"]
    (tmp_path / "NF-CSE-CIC-IDS2018-v1.csv").write_text("")
    with pytest.raises(ConfigError, match="are both cicids2018-v1"):
        find_data_sets(tmp_path)


def rows_of(flows: Flows) -> set[int]:
    return set(flows.frame["row"].to_list())


def test_without_times_half_of_the_benign_flows_is_learned_from(untimed: Flows) -> None:
    parts = split(untimed, 3)
    label = untimed.frame["label"].to_numpy()
    train, test = rows_of(parts.train), rows_of(parts.test)
    assert len(train) == int((~label).sum()) // 2
    assert train | test == set(range(len(untimed)))
    assert not train & test
    assert not label[sorted(train)].any()
    assert parts.label.sum() == label.sum()
    assert not parts.timed
    assert rows_of(split(untimed, 3).train) == train
    assert rows_of(split(untimed, 4).train) != train
    assert parts.test.frame["row"].is_sorted()
    assert not {"label", "attack"} & {*parts.train.frame.columns, *parts.test.frame.columns}


def test_with_times_the_first_forty_percent_of_the_span_are_learned_from(timed: Flows) -> None:
    start = timed.frame["start"]
    low, high = start.min(), start.max()
    assert isinstance(low, datetime)
    assert isinstance(high, datetime)
    border = low + 0.4 * (high - low)
    parts = split(timed, 0)
    assert parts.timed
    assert rows_of(parts.train) == set(timed.frame.filter((start < border) & ~pl.col("label"))["row"])
    assert rows_of(parts.test) == set(timed.frame.filter(start >= border)["row"])


@pytest.mark.parametrize("kind", ["timed", "untimed"])
def test_contamination_plants_attacks_and_does_not_judge_them(kind: str, request: pytest.FixtureRequest) -> None:
    flows: Flows = request.getfixturevalue(kind)
    clean, dirty = split(flows, 1), split(flows, 1, contamination=0.04)
    planted = rows_of(dirty.train) - rows_of(clean.train)
    assert rows_of(clean.train) < rows_of(dirty.train)
    assert len(planted) == round(0.04 / 0.96 * len(clean.train))
    assert flows.frame.filter(pl.col("row").is_in(planted))["label"].all()
    assert not planted & rows_of(dirty.test)
    reached = len(planted) / len(dirty.train)
    assert dirty.note == f"{len(planted)} attack flows among those learned from, {reached:.2%} of them"
    short = split(flows, 1, contamination=0.9)
    assert "all that the learned period has" in short.note


def test_flows_of_one_kind_cannot_be_parted(untimed: Flows) -> None:
    with pytest.raises(SchemaError, match="cannot be split"):
        split(untimed.filter(untimed.frame["label"].to_numpy()), 0)


def test_renumbering_is_a_bijection_of_each_window(timed: Flows) -> None:
    size = 600
    new = renumber(timed, 5, size=size)
    sides = ["src_addr", "dst_addr"]
    assert new.frame.drop(sides).equals(timed.frame.drop(sides))
    for at in range(0, len(timed), size):
        pairs = pl.concat(
            [pl.DataFrame({"old": timed.frame[s][at : at + size], "new": new.frame[s][at : at + size]}) for s in sides]
        ).unique()
        assert pairs["old"].n_unique() == pairs.height == pairs["new"].n_unique()
        assert (parse_addresses(pairs["old"])[1] == parse_addresses(pairs["new"])[1]).all()
    assert (parse_addresses(timed.frame["src_addr"])[1] == IPV4).any()


def test_labels_among_the_learned_flows_change_nothing(untimed: Flows) -> None:
    parts = split(untimed, 0, contamination=0.12)
    rng = np.random.default_rng(0)
    logits = []
    for _ in range(2):
        label = pl.Series("label", rng.random(len(parts.train)) < 0.5)
        attack = pl.Series("attack", rng.choice(["a", "b"], len(parts.train)))
        train = Flows(parts.train.frame.with_columns(label, attack))
        marked = Split(train, parts.test, parts.label, parts.attack, parts.start, parts.timed, parts.note)
        logits.append(measure(tiny(), marked, 0).logit)
    bare = measure(tiny(), parts, 0)
    assert (logits[0] == bare.logit).all()
    assert (logits[1] == bare.logit).all()
    assert bare.row["fpr_budget_01"] <= bare.row["fpr_budget_1"]
    assert json.loads(bare.row["histogram"])["edges"][0] < json.loads(bare.row["histogram"])["edges"][-1]


def test_another_budget_has_its_threshold_from_the_same_held_out_flows(timed: Flows) -> None:
    detector = Detector(tiny(), budget="0.01", device="cpu")
    with pytest.raises(NotFittedError, match="call fit"):
        detector.threshold_for("0.001")
    detector.fit(split(timed, 0).train)
    assert detector.threshold == detector.threshold_for("0.01")
    assert detector.threshold_for("0.3").logit > detector.threshold_for("0.01").logit
    assert detector.threshold_for("20/day").budget == "20/day"


def test_every_ablation_changes_something() -> None:
    whole = settings_of("thalweg", quick=True, effort=1.0, hidden=False)
    others = [settings_of(name, quick=True, effort=1.0, hidden=False) for name in ablated()]
    assert len({whole, *others}) == 1 + len(ABLATIONS)
    hidden = settings_of("thalweg", quick=True, effort=1.0, hidden=True)
    assert hidden == settings_of("thalweg/no-addresses", quick=True, effort=1.0, hidden=False)
    known = {field.name for field in fields(ModelConfig)}
    assert all(set(change.shape) <= known for change in ABLATIONS.values())


def test_methods_are_made_by_name() -> None:
    assert families(None)[:1] == ("thalweg",)
    (name, model), *_ = make_models("published", quick=True)
    assert (name, model.kind) == ("published", "published")
    with pytest.raises(ConfigError, match="no rival"):
        make_models("magic", quick=True)


def test_the_model_without_addresses_knows_none(untimed: Flows) -> None:
    parts = split(untimed, 0)
    blind = ThalwegModel(
        shape=ModelConfig(width=8, max_pool=16, use_addresses=False),
        training=TrainingConfig(steps=3, epochs=1, min_window=50),
    )
    detector = Detector(blind, device="cpu").fit(parts.train)
    one, other = detector.score(parts.test).logit, detector.score(renumber(parts.test, 1)).logit
    assert np.allclose(one, other, atol=1e-4)


def sets(tmp_path: Path) -> tuple[Found, ...]:
    for name in ("nf-toniot-v2-sample.csv", "ctu13-20110816.binetflow"):
        (tmp_path / name).write_text(name)
    return find_data_sets(tmp_path)


def test_the_plan_runs_other_conditions_for_thalweg_alone(tmp_path: Path) -> None:
    found = sets(tmp_path)
    quick = plan_jobs(DetectionPlan(families=("thalweg", "published"), quick=True, seeds=2), found, found)
    assert [(job.seed, job.family, job.scenario) for job in quick[:2]] == [
        (0, "thalweg", "clean"),
        (0, "published", "clean"),
    ]
    assert len({job.digest for job in quick}) == len(quick) == 8
    full = plan_jobs(DetectionPlan(families=("thalweg", "published"), seeds=1, ablations=True), found, found)
    of_ton = {job.scenario for job in full if job.family == "thalweg" and job.dataset == "ton-iot-v2-sample"}
    assert of_ton == {*SCENARIOS, "from:ctu13-20110816"} - {"from"}
    assert {job.scenario for job in full if job.family != "thalweg"} == {"clean"}
    assert sum(job.family in ablated() for job in full) == 2 * len(ABLATIONS)
    assert not any(job.scenario == "wrapped-kept" and job.dataset == "ctu13-20110816" for job in full)
    (pair,) = scenarios_of("from:ton-iot", found[1], found)
    assert pair[0] == "from:ton-iot-v2-sample"


def test_macro_f1_by_hand() -> None:
    # 3 of 5 attacks and 1 of 5 benign flows flagged: F1 2*3/(2*3+3) = 2/3 and 2*4/(2*4+3) = 8/11.
    assert float(macro_f1(3, 4, 5, 10)) == pytest.approx((2 / 3 + 8 / 11) / 2)
    assert float(macro_f1(5, 5, 5, 10)) == 1.0
    assert float(macro_f1(0, 0, 5, 10)) == pytest.approx(1 / 3)


def test_macro_f1_is_tuned_on_the_test_labels() -> None:
    logit = np.array([-3, -2, -1, 0, 1, 2], np.float32)
    label = np.array([True, True, False, True, False, False])
    tuned = tune_macro_f1(make_curve(logit, label))
    by_hand = {n: float(macro_f1(label[:n].sum(), n, 3, 6)) for n in range(7)}
    assert tuned.macro_f1 == max(by_hand.values())
    assert tuned.logit == -2.0
    assert tuned.tpr == pytest.approx(2 / 3)
    assert tuned.fpr == 0.0
    upside_down = tune_macro_f1(make_curve(np.zeros(6, np.float32), label))
    assert upside_down.logit is None


def test_the_test_tuned_row_has_the_best_head_and_nothing_honest() -> None:
    label = np.array([True, True, False, False])
    good, bad = np.array([-2, -1, 1, 2], np.float32), np.array([2, 1, -1, -2], np.float32)
    heads = {
        "anomal-e bad": Measured({"method": "anomal-e bad", "auroc": 0.0, "tpr_budget_1": 0.5}, bad),
        "anomal-e good": Measured({"method": "anomal-e good", "auroc": 1.0, "tpr_budget_1": 0.5}, good),
    }
    row = tuned_row("anomal-e", heads, label)
    assert row["method"] == "anomal-e (test-tuned)"
    assert row["auroc"] == 1.0
    assert "tpr_budget_1" not in row
    assert row["note"] == "head and threshold chosen on test labels: anomal-e good"


def test_curves_and_histograms_stay_small() -> None:
    rng = np.random.default_rng(0)
    label = rng.random(50_000) < 0.1
    logit = rng.normal(0, 1, 50_000) - label
    points = thin(make_curve(logit, label))
    assert len(points) <= 200
    assert points[0][:2] == [0, 0]
    assert points[-1][:2] == [1, 1]
    assert sum(0 < fpr < 0.01 for fpr, _, _ in points) > 20
    logit[:2] = np.inf, -np.inf
    bins = histogram(logit, label)
    assert len(bins["edges"]) == 41
    assert sum(bins["attack"]) == label.sum()


def row(method: str, seed: int, auroc: float | None, **more: Any) -> dict[str, Any]:
    given = {"dataset": "ton-iot-v2", "scenario": "clean", "family": method, "method": method, "seed": seed}
    return {**given, "auroc": auroc, **more}


def table(*rows: dict[str, Any]) -> pl.DataFrame:
    schema = join_rows([]).schema
    return pl.DataFrame([{name: one.get(name) for name in schema} for one in rows], schema=schema)


def test_means_and_spreads_over_seeds() -> None:
    found = table(
        row("published", 0, 0.5),
        row("thalweg", 0, 0.9, youden_tpr=0.8, youden_fpr=0.1),
        row("thalweg", 1, 0.7, youden_tpr=0.6, youden_fpr=0.3),
        row("thalweg", 2, None, error="MemoryError"),
        row("thalweg/no-unet", 0, 0.75),
        row("anomal-e (test-tuned)", 0, 0.99),
    )
    lines = summarise(found)
    whole = next(line for line in lines if line.method == "thalweg")
    assert whole.metrics["auroc"] == Spread.of([0.9, 0.7])
    assert whole.get("auroc") == "0.800 ± 0.141"
    assert whole.errors == ("MemoryError",)
    assert [line.method for line in ranking(lines, "ton-iot-v2")] == ["thalweg", "published"]
    assert [(one.method, one.mean_place, one.firsts) for one in standings(lines)] == [
        ("thalweg", 1.0, ("ton-iot-v2",)),
        ("published", 2.0, ()),
    ]
    ((dataset, without, difference),) = deltas(lines, "auroc")
    assert (dataset, without) == ("ton-iot-v2", "no-unet")
    assert difference == pytest.approx(-0.05)
    (beside,) = beside_published(lines, [Found("ton-iot-v2", DATA_SETS["ton-iot"], Path())])
    assert beside.thalweg is whole
    assert beside.anomal_e is not None
    assert beside.reported[0] is not None
    assert beside.reported[0].tpr == 0.78


def test_rows_are_kept_whole(tmp_path: Path) -> None:
    path = tmp_path / "one.parquet"
    write_rows(path, [row("thalweg", 0, 0.5)])
    kept = read_rows(path)
    assert kept is not None
    assert kept["auroc"].to_list() == [0.5]
    assert list(tmp_path.iterdir()) == [path]
    path.write_bytes(path.read_bytes()[:100])
    assert read_rows(path) is None
    assert read_rows(tmp_path / "none.parquet") is None


def test_the_report_shows_ablations_scenarios_and_calibration(tmp_path: Path) -> None:
    more = {"timed": False, "num_train": 5, "num_test": 9, "num_attacks": 3, "fit_s": 1.0, "flows_per_s": 9.0}
    found = table(
        row("thalweg", 0, 0.9, reliability="[[0.1, 0.2, 5], [0.9, 0.8, 7]]", tpr_at_fpr_1=0.5, **more),
        row("thalweg/no-unet", 0, 0.8, tpr_at_fpr_1=0.4, **more),
        row("thalweg", 0, 0.7, **more) | {"scenario": "hidden"},
    )
    path = tmp_path / "report.html"
    write_detection_report(path, found, [], list(DATA_SETS.values()), DetectionPlan(families=("thalweg",)))
    page = path.read_text(encoding="utf-8")
    for name in ("calibration", "without-auroc", "without-tpr", "scenarios", "costs"):
        assert f'id="{name}"' in page
    assert page.count("University of Queensland") == 4


def test_flows_without_labels_are_left_out_and_said(untimed: Flows) -> None:
    label = untimed.frame["label"].to_list()
    frame = untimed.frame.with_columns(pl.Series("label", [None, *label[1:]], dtype=pl.Boolean))
    parts = split(conform(frame), 0)
    assert len(parts.train) + len(parts.test) == len(untimed) - 1
    assert parts.note == "1 unlabelled flows left out"
