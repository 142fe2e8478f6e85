from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import make_flows
from thalweg.benchmark.speed.exact import exact_thalweg
from thalweg.detect import MODELS, Budget, Detector
from thalweg.detect.detector import _strangeness, held_out_rows
from thalweg.detect.model_file import FORMAT_VERSION, read_model
from thalweg.errors import (
    ConfigError,
    ModelFormatError,
    NotFittedError,
    SchemaError,
    SinkError,
    SourceError,
)
from thalweg.graph import AttributeScaling, PrefixVocabulary
from thalweg.model import Progress
from thalweg.model.autoencoder import ModelConfig
from thalweg.model.learning.mixing import TrainingData
from thalweg.model.learning.training import TrainingConfig, _real_flows
from thalweg.model.learning.validation import held_out_windows
from thalweg.model.thalweg import ThalwegModel
from thalweg.tables import Flows, concat
from thalweg.windows import by_count

QUICK = TrainingConfig(steps=12, epochs=3, min_window=50)


def quick(seed: int = 1, training: TrainingConfig = QUICK, window_size: int = 150, **shape: Any) -> Detector:
    config = ModelConfig(**{"width": 8, "prefix_width": 4, "max_pool": 16, **shape})
    return Detector(ThalwegModel(shape=config, training=training, window_size=window_size), seed=seed, device="cpu")


@pytest.fixture(scope="module")
def fitted() -> Detector:
    return quick().fit(make_flows(400))


def test_the_same_seed_gives_the_same_scores_to_the_last_bit(fitted: Detector, flows: Flows) -> None:
    again, other = quick().fit(flows), quick(seed=2).fit(flows)
    assert fitted.score(flows).logit.tobytes() == again.score(flows).logit.tobytes()
    assert fitted.score(flows).logit.tobytes() != other.score(flows).logit.tobytes()


def test_fitting_leaves_the_global_seed_alone(flows: Flows) -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    quick().fit(flows)
    assert torch.equal(torch.rand(3), expected)


def test_labels_are_never_read(fitted: Detector, flows: Flows) -> None:
    rng = np.random.default_rng(0)
    labelled = Flows(flows.frame.with_columns(pl.Series("label", rng.random(len(flows)) < 0.5), attack=pl.lit("x")))
    assert quick().fit(labelled).score(labelled).logit.tobytes() == fitted.score(flows).logit.tobytes()


def test_parallel_flows_keep_different_scores(fitted: Detector, flows: Flows) -> None:
    twins = concat([flows[:3], flows[:1], flows[:1]])
    sizes = pl.Series([*twins.frame["fwd_bytes"][:3], 1_000_000, 1], dtype=pl.UInt64)
    scores = fitted.score(Flows(twins.frame.with_columns(fwd_bytes=sizes)))
    assert len({float(s) for s in scores.logit[[0, 3, 4]]}) == 3


def test_alike_flows_are_rated_once_and_the_others_as_ever(fitted: Detector, flows: Flows) -> None:
    window = concat([flows[:120], flows[:20], flows[:10]])
    logit = fitted.score(window).logit
    assert logit[120:140].tobytes() == logit[:20].tobytes()
    assert logit[140:].tobytes() == logit[:10].tobytes()
    # In float64, each flow on its own.
    assert np.abs(logit - exact_thalweg(fitted.model, window)).max() < 1e-5


def test_strangeness_is_exact_from_end_to_end() -> None:
    logit = np.concatenate([np.linspace(-120, 120, 5_001), [0.0, -0.0]]).astype(np.float32)
    score = np.empty_like(logit)
    _strangeness(logit, score, 0, len(logit))
    expected = np.exp(-np.logaddexp(0, logit.astype(np.float64))).astype(np.float32)
    np.testing.assert_allclose(score, expected, rtol=2e-7, atol=0)
    ends = np.array([np.inf, -np.inf, np.nan], np.float32)
    _strangeness(ends, score[:3], 0, 3)
    np.testing.assert_array_equal(score[:3], [0, 1, np.nan])


@pytest.mark.parametrize("chunk", [1, 7, 150, 151, 400])
def test_scores_come_back_in_input_order_through_any_chunks(fitted: Detector, flows: Flows, chunk: int) -> None:
    whole = fitted.score(flows)
    runs = [flows[i : i + chunk] for i in range(0, len(flows), chunk)]
    parts = list(fitted.score_stream(runs))
    assert np.concatenate([p.logit for p in parts]).tobytes() == whole.logit.tobytes()
    assert [r for p in parts for r in p.flows.frame["row"].to_list()] == list(range(len(flows)))


def test_windows_by_the_clock_are_scored_each_on_its_own_and_kept_in_the_file(flows: Flows, tmp_path: Path) -> None:
    detector = Detector(quick().model, seed=1, device="cpu", span=timedelta(minutes=2)).fit(flows)
    detector.save(tmp_path / "m")
    loaded = Detector.load(tmp_path / "m", device="cpu")
    parts = list(loaded.score_stream([flows[:123], flows[123:]]))
    assert len(parts) > 3
    starts = [p.flows.frame["start"].dt.truncate("2m").n_unique() for p in parts]
    assert starts == [1] * len(parts)
    assert np.concatenate([p.logit for p in parts]).tobytes() == detector.score(flows).logit.tobytes()


def test_the_order_within_a_window_does_not_matter(fitted: Detector, flows: Flows) -> None:
    window = next(iter(by_count([flows], 150))).flows
    order = np.random.default_rng(0).permutation(len(window))
    shuffled = Flows(window.frame[order])
    assert np.allclose(fitted.score(shuffled).logit, fitted.score(window).logit[order], atol=1e-4)


def test_score_is_one_minus_the_probability_and_the_threshold_cuts_the_logit(fitted: Detector, flows: Flows) -> None:
    scores = fitted.score(flows)
    assert fitted.threshold is not None
    assert np.allclose(scores.score, 1 / (1 + np.exp(scores.logit)), atol=1e-6)
    assert (scores.anomalous == (scores.logit < np.float32(fitted.threshold.logit))).all()
    assert 0 <= scores.score.min() <= scores.score.max() <= 1


def switched_off(part: str) -> dict[str, Any]:
    return {part: False}


@pytest.mark.parametrize("part", ["use_graph", "use_unet", "use_window", "use_channel", "use_neighbourhood"])
def test_every_part_can_be_left_out(flows: Flows, part: str) -> None:
    scores = quick(**switched_off(part)).fit(flows).score(flows)
    assert np.isfinite(scores.logit).all()


@pytest.mark.parametrize("part", ["use_unet", "use_window", "use_channel", "use_neighbourhood"])
def test_every_part_makes_a_difference(fitted: Detector, flows: Flows, part: str) -> None:
    assert not np.allclose(quick(**switched_off(part)).fit(flows).score(flows).logit, fitted.score(flows).logit)


def test_saving_and_loading_is_exact(fitted: Detector, flows: Flows, tmp_path: Path) -> None:
    path = tmp_path / "m.thalweg"
    fitted.save(path)
    loaded = Detector.load(path, device="cpu")
    assert loaded.score(flows).logit.tobytes() == fitted.score(flows).logit.tobytes()
    assert (loaded.threshold, loaded.summary, loaded.seed) == (fitted.threshold, fitted.summary, fitted.seed)
    loaded.save(tmp_path / "again.thalweg")
    assert (tmp_path / "again.thalweg").read_bytes() == path.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.thalweg", "m.thalweg"]


def test_strange_windows_are_scored(fitted: Detector, flows: Flows) -> None:
    assert len(fitted.score(flows[:0])) == 0
    assert np.isfinite(fitted.score(flows[:1]).logit).all()
    frame = flows.frame.with_columns(src_addr=pl.col("dst_addr"), fwd_bytes=pl.lit(2**64 - 1, pl.UInt64))
    assert np.isfinite(fitted.score(Flows(frame)).logit).all()
    six = flows.frame.with_columns(
        src_addr="2001:db8::" + pl.int_range(pl.len()).cast(pl.String), dst_addr=pl.lit("printer")
    )
    assert np.isfinite(fitted.score(Flows(six)).logit).all()


def test_errors_name_the_next_step(fitted: Detector, flows: Flows, tmp_path: Path) -> None:
    with pytest.raises(NotFittedError, match="fit"):
        Detector(device="cpu").score(flows)
    with pytest.raises(NotFittedError, match="fit"):
        Detector(device="cpu").save(tmp_path / "x")
    with pytest.raises(NotFittedError, match="fit"):
        Detector(device="cpu").threshold_for("0.1")
    with pytest.raises(ConfigError, match="at least 50"):
        quick().fit(flows[:49])
    with pytest.raises(ConfigError, match="carry time"):
        Detector(quick().model, budget="20/day", device="cpu").fit(make_flows(100, timed=False))
    with pytest.raises(SourceError, match="thalweg fit"):
        Detector.load(tmp_path / "nowhere")
    with pytest.raises(SinkError, match="-o"):
        fitted.save(tmp_path / "no" / "folder" / "m.thalweg")
    with pytest.raises(ConfigError, match="thalweg, published"):
        Detector.preset("other")  # type: ignore[arg-type]
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="--device cpu"):
            Detector(device="cuda")


def rewrite(path: Path, change: dict[str, object], drop: str = "") -> Path:
    """Write the model file again with another header, or without a tensor."""
    header, tensors = read_model(path)
    tensors.pop(drop, None)
    save_file(tensors, path.with_suffix(".changed"), metadata={"thalweg": json.dumps(header | change)})
    return path.with_suffix(".changed")


def test_a_bad_model_file_says_what_is_wrong(fitted: Detector, tmp_path: Path) -> None:
    path = tmp_path / "m.thalweg"
    fitted.save(path)
    whole = path.read_bytes()
    for cut in (20, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut").write_bytes(whole[:cut])
        with pytest.raises(ModelFormatError, match="truncated"):
            Detector.load(tmp_path / "cut")
    for foreign in (b"", b"a,b,c\n1,2,3\n" * 50, b"PAR1" * 100):
        (tmp_path / "foreign").write_bytes(foreign)
        with pytest.raises(ModelFormatError, match="not a Thalweg model"):
            Detector.load(tmp_path / "foreign")
    save_file(load_file(path), tmp_path / "other")
    with pytest.raises(ModelFormatError, match="not one of Thalweg's"):
        Detector.load(tmp_path / "other")
    with pytest.raises(ModelFormatError, match=f"format version {FORMAT_VERSION + 1}.*upgrade"):
        Detector.load(rewrite(path, {"format_version": FORMAT_VERSION + 1}))
    with pytest.raises(ModelFormatError, match="fit it again"):
        Detector.load(rewrite(path, {}, drop="vocabulary.0"))
    with pytest.raises(ModelFormatError, match="fit it again"):
        Detector.load(rewrite(path, {}, drop="profile.hosts"))
    save_file(load_file(path), tmp_path / "text", metadata={"thalweg": "not JSON"})
    with pytest.raises(ModelFormatError, match="not JSON"):
        Detector.load(tmp_path / "text")
    for older in (1, 2, 3):
        with pytest.raises(ModelFormatError, match=f"format version {older}.*fit again"):
            Detector.load(rewrite(path, {"format_version": older}))
    part = {"format_version": FORMAT_VERSION, "kind": "x"}
    save_file(load_file(path), tmp_path / "part", metadata={"thalweg": json.dumps(part)})
    with pytest.raises(ModelFormatError, match="no settings, threshold"):
        Detector.load(tmp_path / "part")
    with pytest.raises(ModelFormatError, match="fit it again"):
        Detector.load(rewrite(path, {"kind": "alien"}))


def test_a_model_that_counted_otherwise_is_refused(fitted: Detector, tmp_path: Path) -> None:
    path = tmp_path / "m"
    fitted.save(path)
    settings = dict(read_model(path)[0]["settings"])
    settings["counting"] -= 1
    with pytest.raises(ModelFormatError, match="fit it again"):
        Detector.load(rewrite(path, {"settings": settings}))


def test_the_profile_and_other_budgets_are_kept_in_the_file(fitted: Detector, flows: Flows, tmp_path: Path) -> None:
    fitted.save(tmp_path / "m")
    loaded = Detector.load(tmp_path / "m", device="cpu")
    assert fitted.threshold == fitted.threshold_for("0.01") == loaded.threshold_for(Budget(0.01))
    assert loaded.threshold_for("0.2") == fitted.threshold_for("0.2") != fitted.threshold
    assert loaded.threshold_for("20/day").budget == "20/day"
    window = next(fitted.score_stream([flows]))
    drift = loaded.drift(window)
    assert drift == fitted.drift(window)
    # Their attributes are those of the fit; the logits of twelve steps mean nothing.
    assert drift.psi
    assert all(drift.strength[name] <= 1 for name in drift.psi)


def test_a_budget_larger_than_what_is_usually_kept_can_be_fitted(flows: Flows) -> None:
    detector = Detector(quick().model, budget="0.4", device="cpu").fit(flows)
    assert detector.threshold is not None
    assert detector.threshold.share == 0.4


def test_every_flow_of_a_kind_of_model_can_be_made() -> None:
    for kind in MODELS:
        assert Detector.preset(kind, device="cpu").model.kind == kind  # type: ignore[arg-type]  # the keys are the presets


def test_windows_by_the_clock_need_time_before_anything_is_learned() -> None:
    detector = Detector(quick().model, device="cpu", span=timedelta(minutes=1))
    with pytest.raises(SchemaError, match="carry time"):
        detector.fit(make_flows(100, timed=False), progress=lambda _: pytest.fail("it trained"))


def test_every_check_window_of_a_long_training_holds_held_out_flows() -> None:
    num = 400_000
    zeros = np.zeros(num, np.int64)
    data = TrainingData(
        src=zeros,
        dst=zeros,
        edge_attr=np.zeros((num, 1), np.float32),
        held_out=held_out_rows(num),
        octets=torch.zeros(1, 16, dtype=torch.uint8),
        kind=torch.zeros(1, dtype=torch.uint8),
        vocabulary=PrefixVocabulary([np.zeros(0, np.int64)] * 4),
        pool=np.arange(10),
        scaling=AttributeScaling(("fwd_bytes",), np.zeros(1), np.ones(1), 1, (True,)),
    )
    windows = held_out_windows(data, TrainingConfig().noise, 50_000, seed=0)
    assert min(int(w.judged.sum()) for w in windows) > 500


def test_progress_is_told_and_an_interrupt_keeps_the_best_so_far(flows: Flows) -> None:
    seen: list[Progress] = []

    def stop_late(p: Progress) -> None:
        seen.append(p)
        if len(seen) == 9:
            raise KeyboardInterrupt

    detector = quick().fit(flows, progress=stop_late)
    assert detector.summary["stopped"] == "interrupted"
    assert detector.summary["best_epoch"] in (1, 2)
    assert np.isfinite(detector.score(flows).logit).all()
    assert [p.share for p in seen] == pytest.approx([i / 12 for i in range(1, 10)])


def test_training_windows_are_thinned_in_their_order() -> None:
    rng, rows = np.random.default_rng(0), np.arange(10_000) * 3
    drawn = [_real_flows(rng, rows, 500, 0.2) for _ in range(300)]
    assert all(len(one) == 500 and np.isin(one, rows).all() and (np.diff(one) > 0).all() for one in drawn)
    spans = np.asarray([(one[-1] - one[0]) / 3 + 1 for one in drawn])
    assert 0.2 < (spans == 500).mean() < 0.4  # as they are scored
    assert 2_000 < spans.max() <= 2_500
    assert all((np.diff(_real_flows(rng, rows, 500, 1.0)) == 3).all() for _ in range(20))
    assert len(_real_flows(rng, rows, len(rows), 0.2)) == len(rows)


def test_a_longer_training_has_as_many_more_steps() -> None:
    usual = TrainingConfig()
    assert usual.longer(5.0).num_steps(200_000) == pytest.approx(5 * usual.num_steps(200_000), abs=5)
    assert usual.num_steps(900) == usual.max_steps
    assert usual.longer(5.0).num_steps(900) == 5 * usual.max_steps
    assert usual.longer(0.001).num_steps(200_000) == 100


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_few_steps_are_steps_too(flows: Flows, steps: int) -> None:
    assert quick(training=TrainingConfig(steps=steps, min_window=50)).fit(flows).summary["num_epochs"] == steps


def test_training_lowers_the_held_out_loss_and_stops_early_when_it_does_not(flows: Flows) -> None:
    losses: list[float] = []
    longer = TrainingConfig(steps=60, epochs=6, min_window=50)
    quick(training=longer).fit(flows, progress=lambda p: losses.append(p.held_out_loss or 9.0))
    assert min(losses) < losses[10]
    still = TrainingConfig(steps=60, epochs=30, patience=2, learning_rate=1e-12, min_window=50)
    assert quick(training=still).fit(flows).summary["stopped"] == "early"


def test_held_out_rows_are_an_eighth_in_blocks() -> None:
    for num in (50, 161, 10_000):
        held = held_out_rows(num)
        assert 0.09 < held.mean() < 0.16
    assert np.diff(held_out_rows(16_000).astype(int)).nonzero()[0].size < 42
