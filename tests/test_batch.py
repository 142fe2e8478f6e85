"""Reading, graphs, inference and writing in parallel give the same as one after the other."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests.conftest import make_flows
from thalweg.batch import Scored, score_files, score_labelled
from thalweg.benchmark.rivals.rules import BusiestSource
from thalweg.detect import Detector
from thalweg.errors import SinkError, SourceError
from thalweg.ingest import ReadOptions
from thalweg.model import FlowModel
from thalweg.model.autoencoder import ModelConfig
from thalweg.model.learning.training import TrainingConfig
from thalweg.model.thalweg import ThalwegModel
from thalweg.published.model import PublishedConfig, PublishedGAE
from thalweg.runtime.stages import Stage
from thalweg.sinks.table_file import TableFile

STAGES = ["source", "window", "graph", "inference", "write"]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = {thread for thread in threading.enumerate() if thread.name.startswith("thalweg-")}
    yield
    assert {thread for thread in threading.enumerate() if thread.name.startswith("thalweg-")} == before


def fitted(span: timedelta | None) -> Detector:
    shape = ModelConfig(width=8, prefix_width=4, max_pool=16)
    model = ThalwegModel(shape=shape, training=TrainingConfig(steps=6, epochs=2, min_window=50), window_size=70)
    return Detector(model, seed=1, device="cpu", span=span).fit(make_flows(400))


@pytest.fixture(scope="module")
def detector() -> Detector:
    return fitted(None)


@pytest.fixture(scope="module")
def by_the_clock() -> Detector:
    return fitted(timedelta(minutes=2))


def flows_with_a_late_one_and_a_score_column(num: int) -> pl.DataFrame:
    """Make flows of which one arrives late, with a column that has the name of a score column."""
    frame = make_flows(num, seed=5).frame.drop("row")
    order = np.arange(num)
    order[[40, 300]] = order[[300, 40]]
    return frame[order].with_columns(score=pl.lit("mine"), label=pl.int_range(num) % 9 == 0)


def both(detector: Detector, paths: Sequence[Path], folder: Path) -> tuple[Scored, Scored]:
    """Score in parallel and one stage at a time, and compare all results."""
    options = ReadOptions(chunk_rows=61)
    parallel, in_turn = (
        score_files(detector, paths, options, folder / f"{overlapped}.parquet", overlapped=overlapped)
        for overlapped in (True, False)
    )
    one, other = (pl.read_parquet(folder / f"{overlapped}.parquet") for overlapped in (True, False))
    assert one.equals(other)
    assert one["logit"].to_numpy().tobytes() == other["logit"].to_numpy().tobytes()
    assert parallel.tally.as_dict() == in_turn.tally.as_dict()
    assert parallel.drift.as_dict() == in_turn.drift.as_dict()
    assert parallel.num_anomalous == in_turn.num_anomalous == int(one["anomalous"].sum())
    return parallel, in_turn


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("clock", [False, True])
def test_in_parallel_is_the_same_as_in_turn_to_the_last_bit(
    detector: Detector, by_the_clock: Detector, tmp_path: Path, ending: str, clock: bool
) -> None:
    frame = flows_with_a_late_one_and_a_score_column(500)
    path = tmp_path / f"flows.{ending}"
    frame.write_csv(path) if ending == "csv" else frame.write_parquet(path)
    chosen = by_the_clock if clock else detector
    parallel, _ = both(chosen, [path, path], tmp_path)
    assert parallel.num_flows == 1000
    assert parallel.tally["renamed_columns"] == 1
    assert (parallel.tally["late_flows"] > 0) == clock


def test_each_stage_reports_what_it_did(detector: Detector, tmp_path: Path) -> None:
    make_flows(350).frame.write_parquet(tmp_path / "flows.parquet")
    for scored in both(detector, [tmp_path / "flows.parquet"], tmp_path):
        figures = scored.as_dict()
        assert list(figures["stages"]) == STAGES
        assert [stage["flows"] for stage in figures["stages"].values()] == [350] * 5
        assert [stage["items"] for stage in figures["stages"].values()] == [6, 5, 5, 5, 5]
        assert figures["slowest_stage"] in STAGES
        assert len(scored.dwell_s) == 5
        assert 0 < figures["dwell_s"]["median"] <= figures["dwell_s"]["most"] <= figures["seconds"]


def test_stages_can_be_watched(detector: Detector, tmp_path: Path) -> None:
    make_flows(100).frame.write_parquet(tmp_path / "flows.parquet")
    seen: list[Stage] = []
    scored = score_files(
        detector, [tmp_path / "flows.parquet"], ReadOptions(), tmp_path / "s.csv", watch=lambda s: seen.extend(s)
    )
    assert tuple(seen) == scored.stages


@pytest.mark.parametrize("overlapped", [True, False])
def test_a_file_that_is_damaged_late_leaves_nothing_under_the_name(
    detector: Detector, tmp_path: Path, overlapped: bool
) -> None:
    make_flows(400).frame.write_parquet(tmp_path / "1.parquet")
    (tmp_path / "2.parquet").write_bytes((tmp_path / "1.parquet").read_bytes()[:-200])
    (tmp_path / "s.csv").write_text("last month's\n")
    with pytest.raises(SourceError, match=r"2\.parquet: the Parquet file is damaged"):
        score_files(
            detector,
            [tmp_path / "1.parquet", tmp_path / "2.parquet"],
            ReadOptions(),
            tmp_path / "s.csv",
            overlapped=overlapped,
        )
    assert (tmp_path / "s.csv").read_text() == "last month's\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.parquet", "2.parquet", "s.csv"]


@pytest.mark.parametrize("stage", ["graph", "inference", "write"])
def test_the_first_error_of_any_stage_is_raised_itself(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    make_flows(400).frame.write_parquet(tmp_path / "flows.parquet")
    owner, name = {
        "graph": (ThalwegModel, "prepare"),
        "inference": (ThalwegModel, "infer"),
        "write": (TableFile, "write"),
    }[stage]
    error = SinkError("no more")
    work, num_calls = getattr(owner, name), 0

    def fail_at_the_third(*args: Any) -> Any:
        nonlocal num_calls
        num_calls += 1
        if num_calls == 3:
            raise error
        return work(*args)

    monkeypatch.setattr(owner, name, fail_at_the_third)
    with pytest.raises(SinkError) as caught:
        score_files(detector, [tmp_path / "flows.parquet"], ReadOptions(chunk_rows=50), tmp_path / "s.parquet")
    assert caught.value is error
    assert "fail_at_the_third" in [entry.name for entry in caught.traceback]
    assert [path.name for path in tmp_path.iterdir()] == ["flows.parquet"]


def test_a_stream_of_scores_is_the_same_in_parallel(by_the_clock: Detector) -> None:
    flows = make_flows(500, seed=3)
    runs = [flows[at : at + 37] for at in range(0, 500, 37)]
    parts = list(by_the_clock.score_stream(runs, overlapped=True))
    logit = np.concatenate([part.logit for part in parts])
    assert logit.tobytes() == by_the_clock.score(flows).logit.tobytes()
    assert [len(part) for part in parts] == [len(part) for part in by_the_clock.score_stream(runs)]


def test_labelled_flows_are_judged_in_their_order(detector: Detector, tmp_path: Path) -> None:
    frame = flows_with_a_late_one_and_a_score_column(310)
    frame.write_parquet(tmp_path / "flows.parquet")
    progress: list[int] = []
    found = score_labelled(detector, [tmp_path / "flows.parquet"], ReadOptions(), each=progress.append)
    assert found.label.tolist() == frame["label"].to_list()
    assert found.src_addr.to_list() == frame["src_addr"].to_list()
    assert progress == [70, 140, 210, 280, 310]


@pytest.mark.parametrize("model", [PublishedGAE(PublishedConfig(num_epochs=1, window_size=100)), BusiestSource()])
def test_other_models_score_the_same_in_parallel(model: FlowModel) -> None:
    flows = make_flows(300)
    detector = Detector(model, seed=1, device="cpu").fit(flows)
    parts = list(detector.score_stream([flows], overlapped=True))
    assert np.concatenate([part.logit for part in parts]).tobytes() == detector.score(flows).logit.tobytes()
    assert detector.model.logits(flows[:0]).shape == (0,)
