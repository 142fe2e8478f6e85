"""The published graph autoencoder: its parts against their formulas, and the model as a `FlowModel`."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from thalweg.errors import ConfigError, ModelError, ModelFormatError, NotFittedError
from thalweg.model.interface import FitSummary, Progress
from thalweg.published import model as published
from thalweg.published.graph import Preparation, hop_sum, join, uniform_negatives
from thalweg.published.model import PublishedConfig, PublishedGAE, noise_loss
from thalweg.published.network import PublishedNetwork
from thalweg.tables import Flows, conform

CPU = torch.device("cpu")
SMALL = PublishedConfig(window_size=60, num_epochs=2)


def flows_of(src: list[str], dst: list[str], seed: int = 0) -> Flows:
    rng = np.random.default_rng(seed)
    return conform(
        pl.DataFrame(
            {
                "src_addr": src,
                "dst_addr": dst,
                "fwd_bytes": rng.lognormal(6, 2, len(src)).astype(np.uint64),
                "bwd_bytes": rng.lognormal(7, 2, len(src)).astype(np.uint64),
                "duration_ms": rng.exponential(300, len(src)),
            }
        )
    )


def traffic(num: int = 200, num_hosts: int = 12, seed: int = 0) -> Flows:
    rng = np.random.default_rng(seed)
    src = rng.integers(0, num_hosts, num)
    dst = (src + 1 + rng.integers(0, 3, num)) % num_hosts
    return flows_of([f"10.0.{i % 3}.{i}" for i in src], [f"10.0.{i % 3}.{i}" for i in dst], seed)


def fit(
    model: PublishedGAE, flows: Flows, *, every: int = 0, seed: int = 3, reported: list[Progress] | None = None
) -> FitSummary:
    held_out = np.zeros(len(flows), bool)
    if every:
        held_out[::every] = True
    reported = [] if reported is None else reported
    return model.fit(flows, held_out, seed=seed, device=CPU, progress=reported.append)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    # Graphs this small gain nothing from threads, which on a busy machine wait for each other.
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module")
def fitted(_one_thread: None) -> PublishedGAE:
    model = PublishedGAE(SMALL)
    fit(model, traffic())
    return model


def dense_hop_sum(e0: Tensor, src: Tensor, dst: Tensor) -> Tensor:
    num_hosts = len(e0)
    a = torch.zeros(num_hosts, num_hosts, dtype=e0.dtype)
    for u, v in zip(src.tolist(), dst.tolist(), strict=True):
        a[u, v] += 1
    p = a / a.sum(1, keepdim=True).clamp(min=1)

    def unit(e: Tensor) -> Tensor:
        return torch.nn.functional.normalize(e, dim=1, eps=1e-300)

    parts = [unit(e0)]
    for d in range(1, 4):
        e = torch.linalg.matrix_power(p, d) @ parts[0]
        for i in range(1, d):
            e = e - torch.linalg.matrix_power(p, d - i) @ parts[i]
        parts.append(unit(e) / (d + 1))
    return torch.stack(parts).sum(0)


@pytest.mark.parametrize(("num_hosts", "num_flows"), [(1, 1), (5, 4), (20, 60), (40, 400)])
def test_hop_sum_equals_the_formula_with_matrix_powers(num_hosts: int, num_flows: int) -> None:
    generator = torch.Generator().manual_seed(num_flows)
    src, dst = torch.randint(num_hosts, (2, num_flows), generator=generator)
    e0 = torch.rand(num_hosts, 32, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(hop_sum(e0, src, dst), dense_hop_sum(e0, src, dst), rtol=1e-9, atol=1e-11)


def test_hop_sum_by_hand() -> None:
    # 0 -> 1 -> 2: host 2 sees nobody, host 1 sees 2 at one hop, host 0 sees 1 at one and 2 at two hops.
    e0 = torch.tensor([[3.0, 4.0], [0.0, 2.0], [1.0, 0.0]], dtype=torch.float64)
    x = hop_sum(e0, torch.tensor([0, 1]), torch.tensor([1, 2]), num_hops=1)
    expected = torch.tensor([[0.6, 0.8 + 0.5], [0.5, 1.0], [1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(x, expected)


def test_layer_shapes_and_names_are_those_of_the_released_weights() -> None:
    shapes = {name: tuple(w.shape) for name, w in PublishedNetwork().state_dict().items()}
    expected = {
        "encoder.conv1.att": (1, 4, 256),
        "encoder.conv1.lin_l.weight": (1024, 32),
        "encoder.conv1.lin_edge.weight": (1024, 3),
        "encoder.batch_norm.weight": (1024,),
        "encoder.unet.down_convs.0.lin.weight": (256, 1024),
        "encoder.unet.down_convs.3.lin.weight": (256, 256),
        "encoder.unet.pools.2.select.weight": (1, 256),
        "encoder.unet.up_convs.2.lin.weight": (256, 256),
        "global_edge_embedding.mlp.0.weight": (128, 3),
        "global_edge_embedding.mlp.2.weight": (128, 128),
        "decoder.fc_edge.weight": (256, 3),
        "decoder.fc_global.weight": (256, 128),
        "decoder.fc1.weight": (768, 768),
        "decoder.fc.weight": (1, 768),
    }
    assert {name: shapes.get(name) for name in expected} == expected


def test_the_graph_keeps_every_flow_and_scales_its_attributes() -> None:
    flows = traffic(50)
    preparation = Preparation.fit(flows, torch.Generator().manual_seed(1))
    graph = preparation.graph(flows)
    assert graph.edge_index.shape == (2, 50)
    assert graph.x.shape == (12, 32)
    torch.testing.assert_close(graph.edge_attr.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(graph.edge_attr.std(0, correction=0), torch.ones(3))
    assert preparation.projection.abs().max() <= 1


def test_ipv6_hosts_are_read_by_their_last_octets_and_names_as_zero() -> None:
    flows = flows_of(["2001:db8::10:1", "printer"], ["0.16.0.1", "0.0.0.0"])
    preparation = Preparation.fit(flows, torch.Generator().manual_seed(1))
    lone = torch.zeros(4, dtype=torch.int64)
    graph = preparation.graph(flows)
    assert graph.edge_index.tolist() == [[0, 1], [2, 3]]
    e0 = hop_sum(torch.tensor([[0.0, 16, 0, 1]] * 4) / 255 @ preparation.projection, lone[:0], lone[:0])
    torch.testing.assert_close(graph.x[2], e0[2])
    assert not graph.x[3].any()


def test_negatives_are_as_many_as_the_flows_and_join_no_flows_hosts() -> None:
    src, dst = torch.tensor([[0, 0, 1, 2, 3, 3], [1, 1, 2, 2, 0, 1]])
    edge_index = torch.stack([src, dst])
    drawn = uniform_negatives(edge_index, 4, 20_000, torch.Generator().manual_seed(0))
    assert drawn.shape == (2, 20_000)
    pairs, counts = torch.unique(drawn, dim=1, return_counts=True)
    free = {(0, 2), (0, 3), (1, 0), (1, 3), (2, 0), (2, 1), (2, 3), (3, 2)}
    assert set(zip(*pairs.tolist(), strict=True)) == free
    assert counts.min() > 2_500 * 0.9
    assert counts.max() < 2_500 * 1.1


def test_no_negatives_where_every_pair_has_a_flow() -> None:
    full = torch.tensor([[0, 1], [1, 0]])
    assert uniform_negatives(full, 2, 5, torch.Generator()).shape == (2, 0)


def test_training_rates_as_many_negatives_with_zero_attributes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, bool]] = []
    decode = PublishedNetwork.decode

    def watch(self: PublishedNetwork, z: Tensor, edges: Tensor, attr: Tensor, host: Tensor, num: int) -> Tensor:
        seen.append((edges.shape[1], bool(attr.any())))
        return decode(self, z, edges, attr, host, num)

    monkeypatch.setattr(PublishedNetwork, "decode", watch)
    fit(PublishedGAE(PublishedConfig(window_size=60, num_epochs=1)), traffic(60))
    assert seen == [(60, True), (60, False)]


def test_training_lowers_the_loss() -> None:
    flows = traffic(240)
    reported: list[Progress] = []
    model = PublishedGAE(PublishedConfig(window_size=30, num_epochs=5))
    summary = fit(model, flows, every=4, reported=reported)
    assert summary.stopped == "finished"
    assert (summary.num_flows, summary.num_epochs, summary.best_epoch) == (180, 5, 5)
    assert reported[-1].share == 1.0
    assert reported[-1].epoch == 5
    assert reported[-1].loss < 0.8 * reported[0].loss
    assert reported[-1].held_out_loss == summary.held_out_loss


def test_keep_best_keeps_the_state_of_the_lowest_held_out_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([0.5, 0.2, 0.9])
    monkeypatch.setattr(published, "_held_out_loss", lambda *_: next(losses))
    best = PublishedGAE(PublishedConfig(window_size=60, num_epochs=3, keep="best"))
    summary = fit(best, traffic(120))
    assert (summary.num_epochs, summary.best_epoch, summary.held_out_loss) == (3, 2, 0.2)
    monkeypatch.undo()
    two = PublishedGAE(PublishedConfig(window_size=60, num_epochs=2))
    fit(two, traffic(120))
    np.testing.assert_array_equal(best.logits(traffic(60)), two.logits(traffic(60)))


def test_an_interrupt_keeps_the_best_epoch_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(published, "_PROGRESS_S", 0.0)
    flows, held_out = traffic(120), np.arange(120) % 4 == 0
    model = PublishedGAE(PublishedConfig(window_size=60, num_epochs=4))
    summary = model.fit(flows, held_out, seed=3, device=CPU, progress=interrupt)
    assert (summary.stopped, summary.num_epochs, summary.best_epoch) == ("interrupted", 1, 1)
    one = PublishedGAE(PublishedConfig(window_size=60, num_epochs=1))
    assert one.fit(flows, held_out, seed=3, device=CPU, progress=lambda _: None).held_out_loss == (
        summary.held_out_loss
    )
    np.testing.assert_array_equal(model.logits(flows), one.logits(flows))


def test_an_interrupt_before_the_first_epoch_ends_leaves_a_model_that_scores() -> None:
    def interrupt(_: Progress) -> None:
        raise KeyboardInterrupt

    model = PublishedGAE(SMALL)
    summary = model.fit(traffic(), np.zeros(200, bool), seed=3, device=CPU, progress=interrupt)
    assert (summary.stopped, summary.num_epochs, summary.best_epoch) == ("interrupted", 0, 0)
    assert np.isfinite(model.logits(traffic())).all()


def test_the_same_seed_gives_the_same_logits_and_leaves_the_global_generator(fitted: PublishedGAE) -> None:
    before = torch.get_rng_state()
    again, other = PublishedGAE(SMALL), PublishedGAE(SMALL)
    fit(again, traffic())
    fit(other, traffic(), seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    flows = traffic(90, seed=8)
    np.testing.assert_array_equal(again.logits(flows), fitted.logits(flows))
    assert not np.array_equal(other.logits(flows), fitted.logits(flows))


def test_two_threads_add_up_in_one_order() -> None:
    flows, config = traffic(500, num_hosts=40), PublishedConfig(window_size=250, num_epochs=1)
    models = [PublishedGAE(config), PublishedGAE(config)]
    torch.set_num_threads(2)
    for model in models:
        fit(model, flows)
    torch.set_num_threads(1)
    first, second = (model.logits(flows) for model in models)
    np.testing.assert_array_equal(first, second)


def test_restore_is_exact(fitted: PublishedGAE) -> None:
    settings = json.loads(json.dumps(fitted.settings()))
    again = PublishedGAE.restore(fitted.tensors(), settings, CPU)
    assert again.window_size == SMALL.window_size
    np.testing.assert_array_equal(again.logits(traffic(70, seed=9)), fitted.logits(traffic(70, seed=9)))
    assert fitted.tensors().keys() == again.tensors().keys()
    assert all(w.is_contiguous() and w.device == CPU for w in again.tensors().values())


def test_restore_refuses_what_is_not_whole(fitted: PublishedGAE) -> None:
    tensors, settings = fitted.tensors(), fitted.settings()
    with pytest.raises(ModelFormatError, match=r"no setting .depth.. Known: window_size"):
        PublishedGAE.restore(tensors, {**settings, "depth": 4}, CPU)
    with pytest.raises(ModelFormatError, match="window_size must be above 0"):
        PublishedGAE.restore(tensors, {**settings, "window_size": 0}, CPU)
    with pytest.raises(ModelFormatError, match="no tensor 'mean'"):
        PublishedGAE.restore({n: w for n, w in tensors.items() if n != "mean"}, settings, CPU)
    with pytest.raises(ModelFormatError, match=r"weights decoder\.fc\.weight"):
        PublishedGAE.restore({**tensors, "network.decoder.fc.weight": torch.zeros(1, 2)}, settings, CPU)


@pytest.mark.parametrize(
    ("src", "dst"),
    [
        ([], []),
        (["10.0.0.1"], ["10.0.0.2"]),
        (["10.0.0.1"], ["10.0.0.1"]),
        (["10.0.0.1"] * 3, ["10.0.0.1"] * 3),
        (["10.0.0.1", "fe80::1", "printer"], ["10.0.0.2", "fe80::2", "10.0.0.1"]),
    ],
)
def test_a_window_of_any_size_is_scored(fitted: PublishedGAE, src: list[str], dst: list[str]) -> None:
    frame = pl.DataFrame({"src_addr": src, "dst_addr": dst}, schema={"src_addr": pl.String, "dst_addr": pl.String})
    sizes = pl.int_range(pl.len(), dtype=pl.UInt64)
    flows = conform(frame.with_columns(fwd_bytes=sizes, bwd_bytes=sizes, duration_ms=sizes.cast(pl.Float64)))
    logits = fitted.logits(flows)
    assert logits.shape == (len(src),)
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()


def test_windows_that_teach_nothing_are_passed_over() -> None:
    # The second window has one host, the third a flow for every pair.
    src = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.9", "10.0.0.9", "10.0.0.9", "10.0.0.1", "10.0.0.2"]
    dst = ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.9", "10.0.0.9", "10.0.0.9", "10.0.0.2", "10.0.0.1"]
    model = PublishedGAE(PublishedConfig(window_size=3, num_epochs=1))
    assert fit(model, flows_of(src, dst)).stopped == "finished"
    with pytest.raises(ModelError, match="no window to learn from"):
        fit(model, flows_of(src[3:], dst[3:]))
    with pytest.raises(ModelError, match="no flows to learn from"):
        fit(model, flows_of(src, dst), every=1)


def test_parallel_flows_keep_their_own_logits(fitted: PublishedGAE) -> None:
    flows = flows_of(["10.0.0.1"] * 5 + ["10.0.0.2"], ["10.0.0.2"] * 5 + ["10.0.0.3"])
    logits = fitted.logits(flows)
    assert len(np.unique(logits[:5])) == 5


def test_joined_windows_are_rated_by_their_own_global_embedding() -> None:
    flows = traffic(120)
    preparation = Preparation.fit(flows, torch.Generator().manual_seed(1))
    parts = [preparation.graph(flows[:60]), preparation.graph(flows[60:])]
    both = join(parts)
    assert both.num_windows == 2
    assert both.host_window.tolist() == [0] * parts[0].num_hosts + [1] * parts[1].num_hosts
    network = PublishedNetwork()
    z = torch.rand(both.num_hosts, 256)
    together = network.decode(z, both.edge_index, both.edge_attr, both.host_window, 2)
    second = z[parts[0].num_hosts :]
    alone = network.decode(second, parts[1].edge_index, parts[1].edge_attr, parts[1].host_window, 1)
    torch.testing.assert_close(together[60:], alone)
    negatives = uniform_negatives(both.edge_index, both.num_hosts, 120, torch.Generator().manual_seed(1))
    assert noise_loss(network, both, negatives).isfinite()
    summary = fit(PublishedGAE(PublishedConfig(window_size=60, num_epochs=1, windows_per_step=4)), flows)
    assert summary.num_epochs == 1


def test_before_fit_and_with_settings_that_cannot_be_meant() -> None:
    with pytest.raises(NotFittedError, match="call fit"):
        PublishedGAE().logits(traffic(5))
    with pytest.raises(NotFittedError, match="call fit"):
        PublishedGAE().tensors()
    with pytest.raises(ConfigError, match="num_epochs must be above 0, not 0"):
        PublishedConfig(num_epochs=0)
    with pytest.raises(ConfigError, match="keep must be one of last, best"):
        PublishedConfig(keep="first")  # type: ignore[arg-type]
