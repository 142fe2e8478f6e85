"""The plain autoencoder's training."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.conftest import make_flows
from thalweg.benchmark.rivals import rival
from thalweg.benchmark.rivals.plain_autoencoder import PlainAutoencoder, PlainAutoencoderConfig
from thalweg.errors import ConfigError
from thalweg.model.interface import FitSummary, Progress

CPU = torch.device("cpu")


def fit(model: PlainAutoencoder, reports: list[Progress], *, every: int = 4) -> FitSummary:
    held_out = np.arange(800) % every == 0 if every else np.zeros(800, bool)
    return model.fit(make_flows(800), held_out, seed=2, device=CPU, progress=reports.append)


def test_training_lowers_the_held_out_loss_and_tells_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rival, "_PROGRESS_S", 0.0)
    reports: list[Progress] = []
    summary = fit(PlainAutoencoder(PlainAutoencoderConfig(num_epochs=12)), reports)
    losses = [t.held_out_loss for t in reports]
    assert None not in losses
    assert summary.held_out_loss == min(loss for loss in losses if loss is not None)
    assert losses[summary.best_epoch - 1] == summary.held_out_loss
    assert summary.held_out_loss < 0.7 * (losses[0] or 0)
    assert (reports[-1].epoch, reports[-1].share) == (summary.num_epochs, summary.num_epochs / 12)


def test_it_stops_early_and_keeps_the_best_state() -> None:
    config = PlainAutoencoderConfig(num_epochs=500, patience=1, learning_rate=0.05, batch_size=16)
    model = PlainAutoencoder(config)
    summary = fit(model, [])
    assert summary.stopped == "early"
    assert summary.best_epoch == summary.num_epochs - 1
    held_out = -model.logits(make_flows(800).filter(np.arange(800) % 4 == 0))
    assert held_out.mean() == pytest.approx(summary.held_out_loss, rel=1e-4)


def test_without_held_out_flows_the_training_loss_decides() -> None:
    reports: list[Progress] = []
    summary = fit(PlainAutoencoder(PlainAutoencoderConfig(num_epochs=3)), reports, every=0)
    assert reports[-1].held_out_loss is None
    assert 0 < summary.held_out_loss < 2


def test_an_interrupt_keeps_the_best_state_so_far() -> None:
    def interrupt(_: Progress) -> None:
        raise KeyboardInterrupt

    model, one = PlainAutoencoder(), PlainAutoencoder(PlainAutoencoderConfig(num_epochs=1))
    flows, held_out = make_flows(800), np.arange(800) % 4 == 0
    summary = model.fit(flows, held_out, seed=2, device=CPU, progress=interrupt)
    assert (summary.stopped, summary.best_epoch) == ("interrupted", 1)
    one.fit(flows, held_out, seed=2, device=CPU, progress=lambda _: None)
    np.testing.assert_array_equal(model.logits(flows), one.logits(flows))


def test_settings_out_of_range() -> None:
    with pytest.raises(ConfigError, match="patience must be above 0, not 0"):
        PlainAutoencoderConfig(patience=0)
