"""Every rival finds the attack that it is designed for, and meets the contract of `FlowModel`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
import torch
from sklearn.metrics import roc_auc_score

from thalweg.benchmark.rivals import RIVALS, make_rivals
from thalweg.benchmark.rivals.rival import Rival, RobustScaling
from thalweg.detect import Detector
from thalweg.errors import ConfigError, ModelError, NotFittedError
from thalweg.model.interface import FlowModel
from thalweg.published.model import PublishedConfig, PublishedGAE
from thalweg.synthetic import SimulationConfig, simulate
from thalweg.tables import Flows, conform

SEES = {
    "anomal-e-cblof": "host_sweep",  # the sweeper's mean attributes are those of probes
    "anomal-e-hbos": "host_sweep",
    "anomal-e-pca": "host_sweep",
    "anomal-e-iforest": "host_sweep",
    "iforest": "slow_exfiltration",  # far more bytes forward than usual
    "pca": "slow_exfiltration",
    "hbos": "slow_exfiltration",
    "ecod": "slow_exfiltration",
    "knn": "slow_exfiltration",
    "autoencoder": "slow_exfiltration",  # and few back, which no usual flow has
    "unseen-pair": "flood",  # from outside, by hosts that never came before
    "unseen-source": "flood",
    "busiest-source": "host_sweep",  # one host opens very many flows
}
"""By rival, an attack that it must find. The published model has its own test."""

FAMILIES = [family for family in RIVALS if family != "published"]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@dataclass(frozen=True)
class Days:
    quiet: Flows
    loud: Flows
    label: npt.NDArray[np.bool_]
    attack: npt.NDArray[np.str_]


@cache
def days() -> Days:
    flows = simulate(SimulationConfig(flows=6000, seed=3))
    first = int(flows.frame["label"].arg_max() or 0)
    loud = flows[first:]
    return Days(flows[:first], loud, loud.frame["label"].to_numpy(), loud.frame["attack"].to_numpy())


@cache
def fitted(family: str) -> dict[str, Detector]:
    return {
        name: Detector(model, seed=1, device="cpu").fit(days().quiet) for name, model in make_rivals(family, quick=True)
    }


@cache
def logit(name: str) -> npt.NDArray[np.float32]:
    return detector(name).score(days().loud).logit


def detector(name: str) -> Detector:
    family = "anomal-e" if name.startswith("anomal-e") else name
    return fitted(family)[name]


def test_the_map_names_every_method() -> None:
    names = [name for family in RIVALS for name, _ in make_rivals(family, quick=True)]
    assert names == ["published", *SEES]
    assert all(isinstance(model, FlowModel) for family in RIVALS for _, model in make_rivals(family))
    with pytest.raises(ConfigError, match="no rival 'knnn': choose from published, anomal-e"):
        make_rivals("knnn")


@pytest.mark.parametrize("name", SEES)
def test_it_sees_the_attack_that_it_is_made_for(name: str) -> None:
    chosen = ~days().label | (days().attack == SEES[name])
    assert roc_auc_score(days().label[chosen], -logit(name)[chosen]) > 0.8


def ring(num: int, num_strange: int, seed: int) -> Flows:
    """Flows to either of the next two of forty hosts; the first few to far ones, with the usual mean size."""
    rng = np.random.default_rng(seed)
    src, step = rng.integers(0, 40, num), 1 + rng.integers(0, 2, num)
    step[:num_strange] = rng.integers(10, 30, num_strange)
    size = rng.lognormal(6, 0.5, (3, num))
    size[:, :num_strange] = np.exp(6 + 0.5**2 / 2)
    names = pl.Series([f"10.0.{host % 3}.{host}" for host in range(40)])
    hosts = {"src_addr": names.gather(src), "dst_addr": names.gather((src + step) % 40)}
    columns = {"fwd_bytes": size[0].astype(np.uint64), "bwd_bytes": size[1].astype(np.uint64)}
    return conform(pl.DataFrame({**hosts, **columns, "duration_ms": size[2]}))


def test_the_published_model_sees_what_its_noise_is_like() -> None:
    # Pairs at random, attributes of zero: simulated attacks are not like that, and most look usual to it.
    model = PublishedGAE(PublishedConfig(window_size=100, num_epochs=3))
    nothing = np.zeros(600, bool)
    model.fit(ring(600, 0, seed=0), nothing, seed=1, device=torch.device("cpu"), progress=lambda _: None)
    assert roc_auc_score(np.arange(200) < 20, -model.logits(ring(200, 20, seed=1))) > 0.8


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_seed_gives_the_same_scores_whatever_the_labels_say(family: str) -> None:
    quiet, rng = days().quiet, np.random.default_rng(5)
    label = rng.random(len(quiet)) < 0.5
    relabelled = conform(quiet.frame.with_columns(label=pl.Series(label), attack=pl.lit("x")))
    torch_state, numpy_state = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002  must not move
    for name, model in make_rivals(family, quick=True):
        again = Detector(model, seed=1, device="cpu").fit(relabelled)
        unlabelled = conform(days().loud.frame.drop("label", "attack"))
        np.testing.assert_array_equal(again.score(unlabelled).logit, logit(name))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert str(np.random.get_state()) == numpy_state  # noqa: NPY002


@pytest.mark.parametrize("name", SEES)
def test_a_window_of_any_size_is_scored_and_held_out_flows_set_the_threshold(name: str) -> None:
    scores = detector(name).score(days().loud[:1])
    assert scores.logit.shape == (1,)
    assert scores.logit.dtype == np.float32
    assert detector(name).model.logits(days().loud[:0]).shape == (0,)
    assert np.isfinite(logit(name)).all()
    threshold = detector(name).threshold
    assert threshold is not None
    assert np.isfinite(threshold.logit)
    summary = detector(name).summary
    assert np.isfinite([summary["held_out_loss"], summary["seconds"]]).all()
    assert summary["num_flows"] < len(days().quiet)


@pytest.mark.parametrize("name", SEES)
def test_it_says_that_it_is_not_fitted_not_saved_and_has_nothing_to_learn_from(name: str) -> None:
    family = "anomal-e" if name.startswith("anomal-e") else name
    model = dict(make_rivals(family))[name]
    assert isinstance(model, Rival)
    with pytest.raises(NotFittedError, match=f"{name} is not fitted"):
        model.logits(days().loud)
    everything = np.ones(20, bool)
    with pytest.raises(ModelError, match="has no flows to learn from"):
        model.fit(days().quiet[:20], everything, seed=0, device=torch.device("cpu"), progress=lambda _: None)
    for save in (model.tensors, model.settings):
        with pytest.raises(ModelError, match=f"{name} exists only to compare with and is not saved"):
            save()
    with pytest.raises(ModelError, match="is not saved"):
        type(model).restore({}, {}, torch.device("cpu"))


@pytest.mark.parametrize("name", SEES)
def test_equal_flows_are_enough(name: str) -> None:
    same = conform(pl.concat([days().quiet.frame[:1]] * 60))
    model = dict(make_rivals("anomal-e" if name.startswith("anomal-e") else name, quick=True))[name]
    assert len(np.unique(Detector(model, device="cpu").fit(same).score(same).logit)) == 1


def test_scaling_by_hand() -> None:
    amounts = np.expm1([0.0, 1.0, 2.0, 3.0, 40.0])
    columns = {"fwd_bytes": np.rint(amounts).astype(np.uint64), "bwd_bytes": [7] * 5, "duration_ms": amounts}
    flows = conform(pl.DataFrame({"src_addr": ["a"] * 5, "dst_addr": ["b"] * 5, **columns}))
    scaling = RobustScaling.fit(flows)
    assert scaling.center[2] == pytest.approx(2)
    # The spread of 0, 1, 2, 3, 40 is 15.4: the quartiles alone would give 2 / 1.349.
    assert scaling.scale[2] == pytest.approx(np.std([0, 1, 2, 3, 40]) / 2)
    assert scaling.scale[1] == 0.1
    x = scaling.transform(flows)
    assert x[:, 1].tolist() == [0] * 5
    assert x[4, 2] == pytest.approx(38 / scaling.scale[2])
    narrow = RobustScaling(np.zeros(3), np.full(3, 0.1)).transform(flows)
    assert narrow.max() == 10
