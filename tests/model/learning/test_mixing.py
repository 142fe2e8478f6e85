from __future__ import annotations

import numpy as np
import pytest
import torch

from thalweg.addresses import IPV4
from thalweg.graph import AttributeScaling, Familiarity, PrefixVocabulary, host_keys
from thalweg.graph.familiarity import LEVELS, NUM_FEATURES, NUM_OF_AMOUNTS, NUM_SHARED
from thalweg.model.learning.mixing import MixedWindow, TrainingData, mix_window
from thalweg.model.learning.noise import SHAPES, NoiseConfig

NUM, HOSTS = 4_000, 12
NAMES = ("fwd_bytes", "bwd_bytes", "duration")
SHARED = ("fwd_bwd", "channel", "src_amounts", "dst_amounts", "channel_amounts")
"""The levels that `features` puts first, in its order."""


def training_data(seed: int = 0) -> TrainingData:
    rng = np.random.default_rng(seed)
    src, dst = rng.integers(0, HOSTS, (2, NUM))
    octets = torch.zeros(HOSTS, 16, dtype=torch.uint8)
    octets[:, 12], octets[:, 15] = 10, torch.arange(HOSTS, dtype=torch.uint8)
    kind = torch.full((HOSTS,), IPV4, dtype=torch.uint8)
    attr = np.log1p(rng.integers(40, 60, (NUM, 3))).astype(np.float32)
    scaling = AttributeScaling(NAMES, np.zeros(3), np.ones(3), 3, (True, True, False))
    keys = host_keys(octets.numpy(), kind.numpy())
    learned = np.ones(NUM, bool)
    familiarity, flow_counts = Familiarity.fit(keys[src], keys[dst], scaling.amounts(attr), learned)
    return TrainingData(
        src=src,
        dst=dst,
        edge_attr=attr,
        held_out=~learned,
        octets=octets,
        kind=kind,
        vocabulary=PrefixVocabulary.fit(octets.numpy(), kind.numpy(), np.full(HOSTS, 100)),
        pool=np.arange(NUM),
        scaling=scaling,
        familiarity=familiarity,
        flow_counts=flow_counts,
    )


def mixed(data: TrainingData, shape: str | None = None, *, dropout: float = 0.0, hidden: bool = False) -> MixedWindow:
    odds = tuple(float(shape in (None, s)) for s in SHAPES)
    return mix_window(
        np.random.default_rng(1),
        data,
        NoiseConfig(shapes=odds, new_hosts=0.0),
        np.arange(500, 1_500),
        2_000,
        judged=np.arange(NUM) % 2 == 0,
        prefix_dropout=dropout,
        hidden=hidden,
    )


def features(window: MixedWindow) -> np.ndarray:
    return window.graph.edge_attr.numpy()[:, -NUM_FEATURES:]


def test_real_flows_come_first_as_they_are() -> None:
    data = training_data()
    window = mixed(data)
    attr = window.graph.edge_attr.numpy()
    assert (window.num_real, window.graph.num_flows) == (1_000, 3_000)
    assert np.array_equal(attr[:1_000, :3], data.edge_attr[500:1_500])
    assert window.judged.tolist() == [i % 2 == 0 for i in range(500, 1_500)]
    assert attr.shape[1] == 3 + NUM_FEATURES


@pytest.mark.parametrize("level", ["src", "dst", "channel"])
def test_noise_is_not_told_by_a_count_that_no_real_flow_of_its_host_or_channel_has(level: str) -> None:
    rest = [name for name in LEVELS if name not in SHARED]
    column = SHARED.index(level) if level in SHARED else NUM_SHARED + rest.index(level)
    window = mixed(training_data(), "wrong")
    counts = features(window)[:, column]
    graph = window.graph
    key = {"src": graph.src, "dst": graph.dst, "channel": graph.channel}[level].numpy()
    real, noise = slice(0, window.num_real), slice(window.num_real, None)
    assert counts[real].min() > 0
    for one in np.unique(key[noise]):
        assert set(counts[noise][key[noise] == one]) <= set(counts[real][key[real] == one])


def test_a_surge_has_the_counts_of_the_flows_that_it_repeats() -> None:
    data = training_data()
    window = mixed(data, "surge")
    assert data.flow_counts is not None
    told = [LEVELS.index(name) for name in SHARED]
    expected = np.log1p(data.flow_counts[told][:, window.noise.like].T) * np.float32(0.25)
    assert np.allclose(features(window)[window.num_real :, : len(told)], expected, rtol=1e-6)


def test_hidden_addresses_leave_no_history_and_no_prefix() -> None:
    data = training_data()
    window = mixed(data, hidden=True)
    assert not window.prefix_ids.any()
    met = features(window)[:, : len(SHARED)]
    with_hosts = [i for i, name in enumerate(SHARED) if LEVELS.index(name) >= NUM_OF_AMOUNTS]
    assert not met[:, with_hosts].any()
    assert met[:, SHARED.index("fwd_bwd")].any()
    some = mixed(data, dropout=0.5).prefix_ids
    assert 0 < int((some[:, -1] == 0).sum()) < len(some)
