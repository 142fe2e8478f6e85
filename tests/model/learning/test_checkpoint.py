from __future__ import annotations

import errno
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import make_flows
from thalweg.detect import Detector
from thalweg.errors import ConfigError, SinkError, SourceError
from thalweg.model import Progress
from thalweg.model.autoencoder import ModelConfig
from thalweg.model.learning.training import TrainingConfig
from thalweg.model.thalweg import ThalwegModel

TRAINING = TrainingConfig(steps=12, epochs=3, min_window=50)
SHAPE = ModelConfig(width=8, prefix_width=4, max_pool=16)


class CrashError(Exception):
    """Stands for whatever ends a process."""


def detector(checkpoint: Path | None = None, training: TrainingConfig = TRAINING) -> Detector:
    model = ThalwegModel(shape=SHAPE, training=training, window_size=150, checkpoint=checkpoint)
    return Detector(model, seed=1, device="cpu")


def crash_at(share: float) -> Any:
    def progress(p: Progress) -> None:
        if p.share > share:
            raise CrashError

    return progress


def test_a_training_that_crashed_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    flows, kept = make_flows(400), tmp_path / "kept"
    whole = detector().fit(flows)
    shares: list[float] = []
    for share in (0.5, 0.8):
        with pytest.raises(CrashError):
            detector(kept).fit(flows, progress=crash_at(share))
    again = detector(kept).fit(flows, progress=lambda p: shares.append(p.share))
    assert shares[0] == pytest.approx(9 / 12), "the first eight steps are not taken again"
    assert again.score(flows).logit.tobytes() == whole.score(flows).logit.tobytes()
    for name in ("best_epoch", "held_out_loss", "num_epochs", "stopped"):
        assert again.summary[name] == whole.summary[name]
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_training_that_had_stopped_early_stays_where_it_was(tmp_path: Path) -> None:
    training = replace(TRAINING, steps=80, epochs=40, patience=1, learning_rate=0.1, averaging=0.0)
    flows, kept = make_flows(400), tmp_path / "kept"
    once = detector(kept, training).fit(flows)
    assert once.summary["stopped"] == "early"
    again = detector(kept, training).fit(flows)
    assert again.score(flows).logit.tobytes() == once.score(flows).logit.tobytes()
    assert again.summary["stopped"] == "early"
    assert again.summary["num_epochs"] == once.summary["num_epochs"]


@pytest.mark.parametrize("other", ["flows", "settings", "seed"])
def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path, other: str) -> None:
    kept = tmp_path / "kept"
    with pytest.raises(CrashError):
        detector(kept).fit(make_flows(400), progress=crash_at(0.5))
    asked = detector(kept, replace(TRAINING, learning_rate=1e-3) if other == "settings" else TRAINING)
    asked.seed = 2 if other == "seed" else 1
    with pytest.raises(ConfigError, match="of another training"):
        asked.fit(make_flows(300 if other == "flows" else 400))


def test_a_file_that_is_no_checkpoint_is_told(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    with pytest.raises(CrashError):
        detector(kept).fit(make_flows(400), progress=crash_at(0.5))
    whole = kept.read_bytes()
    for foreign in (whole[:-1000], b"", b"hello", b"J", b"src_addr,dst_addr\n10.0.0.1,10.0.0.2\n"):
        kept.write_bytes(foreign)
        with pytest.raises(SourceError, match="not a checkpoint"):
            detector(kept).fit(make_flows(400))
    with pytest.raises(SinkError, match="cannot write the checkpoint"):
        detector(tmp_path / "nowhere" / "kept").fit(make_flows(400))


def test_a_disk_that_fills_up_later_ends_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, written = tmp_path / "kept", 0

    def write_bytes(path: Path, data: bytes) -> int:
        nonlocal written
        written += 1
        if written > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with path.open("wb") as file:
            return file.write(data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.warns(RuntimeWarning, match="No space left"):
        fitted = detector(kept).fit(make_flows(400))
    assert fitted.summary["stopped"] == "finished"
    assert kept.stat().st_size > 1000
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_nothing_in_a_checkpoint_can_run(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    mark = tmp_path / "ran"

    class Runs:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (mark,))

    kept.write_bytes(pickle.dumps(Runs(), protocol=2))
    with pytest.raises(SourceError, match="not a checkpoint"):
        detector(kept).fit(make_flows(400))
    torch.save({"training": Runs()}, kept)
    with pytest.raises(SourceError, match="not a checkpoint"):
        detector(kept).fit(make_flows(400))
    assert not mark.exists()


def test_mixed_precision_learns_about_the_same() -> None:
    flows = make_flows(400)
    exact, mixed = detector().fit(flows), detector(training=replace(TRAINING, mixed_precision=True)).fit(flows)
    assert mixed.score(flows).logit.tobytes() != exact.score(flows).logit.tobytes()
    assert mixed.summary["held_out_loss"] == pytest.approx(exact.summary["held_out_loss"], rel=0.05)
