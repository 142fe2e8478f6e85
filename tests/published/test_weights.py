"""Weights of the published graph autoencoder from a file: the way there and back, and what cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import make_flows
from thalweg.cli.fit import Attributes, Preset, make_model
from thalweg.detect import Detector
from thalweg.errors import ConfigError, ModelFormatError, SourceError
from thalweg.published.model import PublishedConfig, PublishedGAE

SMALL = PublishedConfig(window_size=100, num_epochs=1)


@pytest.fixture(scope="module")
def trained() -> Detector:
    return Detector(PublishedGAE(SMALL), seed=2, device="cpu").fit(make_flows(400))


@pytest.fixture(scope="module")
def weights(trained: Detector) -> dict[str, torch.Tensor]:
    tensors = trained.model.tensors().items()
    return {name.removeprefix("network."): w for name, w in tensors if name.startswith("network.")}


def save(found: object, folder: Path) -> Path:
    torch.save(found, folder / "weights.pt")
    return folder / "weights.pt"


def test_the_same_weights_give_the_same_scores_without_training(
    trained: Detector, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = save(weights, tmp_path)
    model = PublishedGAE.from_weights(path, SMALL)
    detector = Detector(model, seed=2, device="cpu").fit(make_flows(400))
    # The same seed draws the same projection, and the same flows have the same mean and spread.
    np.testing.assert_array_equal(detector.score(make_flows(90)).logit, trained.score(make_flows(90)).logit)
    assert (detector.summary["num_epochs"], detector.summary["stopped"]) == (0, "finished")
    assert detector.summary["held_out_loss"] == trained.summary["held_out_loss"]
    detector.save(tmp_path / "m.thalweg")
    again = Detector.load(tmp_path / "m.thalweg", device="cpu")
    np.testing.assert_array_equal(again.score(make_flows(90)).logit, trained.score(make_flows(90)).logit)


def test_weights_of_another_network_are_named(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    lacking = {name: w for name, w in weights.items() if name != "decoder.fc.bias"}
    with pytest.raises(ModelFormatError, match=r"weights\.pt: no weights decoder\.fc\.bias"):
        PublishedGAE.from_weights(save(lacking, tmp_path))
    with pytest.raises(ModelFormatError, match=r"weights\.pt: decoder\.fc2\.bias is unknown here"):
        PublishedGAE.from_weights(save({**weights, "decoder.fc2.bias": torch.zeros(1)}, tmp_path))
    with pytest.raises(ModelFormatError, match=r"decoder\.fc\.weight has shape \(1, 2\), not \(1, 768\)"):
        PublishedGAE.from_weights(save({**weights, "decoder.fc.weight": torch.zeros(1, 2)}, tmp_path))


@pytest.mark.parametrize("found", [[1, 2], {"model": {"fc": torch.zeros(1)}}, {"epoch": 3}, torch.zeros(3)])
def test_a_file_that_holds_something_else_is_no_state_dict(found: object, tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match="holds no state_dict, names with a tensor each"):
        PublishedGAE.from_weights(save(found, tmp_path))


def test_a_file_that_could_run_something_or_is_none_of_torchs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match="is not a file of weights alone"):
        PublishedGAE.from_weights(save(PublishedConfig(), tmp_path))
    for content in (b"", b"src,dst\n1,2\n", b"PK\x03\x04 cut short"):
        (tmp_path / "not.pt").write_bytes(content)
        with pytest.raises(ModelFormatError, match=r"not\.pt is not a file of weights alone"):
            PublishedGAE.from_weights(tmp_path / "not.pt")


def test_a_file_that_is_not_there_is_said() -> None:
    with pytest.raises(SourceError, match=r"cannot read the weights no\.pt: No such file"):
        PublishedGAE.from_weights("no.pt")


def test_the_option_is_for_the_published_preset(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = save(weights, tmp_path)
    model = make_model(Preset.published, Attributes.standard, "300", weights=path)
    assert model.window_size == 300
    with pytest.raises(ConfigError, match="--weights is for --preset published"):
        make_model(Preset.thalweg, Attributes.standard, None, weights=path)
