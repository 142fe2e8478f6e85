from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from tests.conftest import make_flows
from thalweg.errors import SchemaError
from thalweg.graph import AttributeScaling, activity, build_graph, channel_features, channel_sums, index_hosts
from thalweg.model.autoencoder import global_edge_features
from thalweg.tables import Flows, conform

# Three hosts and five flows: A -> B three times, B -> A once, C -> B once.
BYTES = [1, 1, 3, 7, 0]
THREE_HOSTS = conform(
    pl.DataFrame(
        {
            "src_addr": ["10.0.0.1", "10.0.0.1", "10.0.0.1", "10.0.0.2", "2001:db8::3"],
            "dst_addr": ["10.0.0.2", "10.0.0.2", "10.0.0.2", "10.0.0.1", "10.0.0.2"],
            "fwd_bytes": BYTES,
            "bwd_bytes": [0] * 5,
            "duration_ms": [0.0] * 5,
        }
    )
)
# One attribute, log1p of the bytes: centre 0, scale 1.
PLAIN = AttributeScaling(("fwd_bytes",), np.zeros(1), np.ones(1), 1, (True,))


def test_three_hosts_by_hand() -> None:
    graph, hosts = build_graph(THREE_HOSTS, PLAIN)
    assert hosts.names.to_list() == ["10.0.0.1", "10.0.0.2", "2001:db8::3"]
    assert graph.src.tolist() == [0, 0, 0, 1, 2]
    assert graph.dst.tolist() == [1, 1, 1, 0, 1]
    assert list(zip(graph.channel_src.tolist(), graph.channel_dst.tolist(), strict=True)) == [
        (0, 1),
        (1, 0),
        (2, 1),
    ]
    assert graph.channel.tolist() == [0, 0, 0, 1, 2]
    assert graph.channel_size.tolist() == [3, 1, 1]
    a = np.log1p(BYTES)
    assert torch.allclose(graph.edge_attr[:, 0], torch.tensor(a, dtype=torch.float32))
    log = np.log1p
    spread = np.std(a[:3])
    into_b = np.array([a[0], a[1], a[2], a[4]])
    expected = [
        # flows out, in, peers out, in, then mean and standard deviation of log bytes out, then in
        [log(3), log(1), log(1), log(1), a[:3].mean(), spread, a[3], 0],
        [log(1), log(4), log(1), log(2), a[3], 0, into_b.mean(), into_b.std()],
        [log(1), log(0), log(1), log(0), 0, 0, 0, 0],
    ]
    sums = channel_sums(graph)
    assert np.allclose(activity(graph, sums).numpy(), expected, atol=1e-6)
    assert np.allclose(
        channel_features(graph, sums).numpy(),
        [[log(3), log(1), a[:3].mean(), spread], [log(1), log(3), a[3], 0], [log(1), 0, 0, 0]],
        atol=1e-6,
    )
    assert np.allclose(global_edge_features(graph, sums).numpy(), [[a.mean(), a.std()]], atol=1e-6)


def test_pytorch_geometric_sees_edge_i_as_flow_i() -> None:
    graph, _ = build_graph(THREE_HOSTS, PLAIN)
    data = graph.to_pyg()
    assert data.validate()
    assert data.num_nodes == 3
    assert data.edge_index.tolist() == [[0, 0, 0, 1, 2], [1, 1, 1, 0, 1]]
    assert torch.equal(data.edge_attr, graph.edge_attr)
    assert torch.allclose(data.x[0, 12:], torch.tensor([10.0, 0, 0, 1]) / 255)


def test_two_spellings_are_one_host() -> None:
    frame = THREE_HOSTS.frame.with_columns(
        src_addr=pl.Series(["2001:DB8:0::3", "::ffff:10.0.0.2", "x", "10.0.0.2", "2001:db8::3"])
    )
    src, dst, hosts = index_hosts(Flows(frame))
    assert src[0] == src[4]
    assert src[1] == src[3] == dst[0]
    assert len(hosts) == 4


def test_every_flow_finds_its_hosts() -> None:
    flows = make_flows(500)
    graph, hosts = build_graph(flows, AttributeScaling.fit(flows))
    names = hosts.names.to_numpy()
    assert (names[graph.src.numpy()] == flows.frame["src_addr"].to_numpy()).all()
    assert (names[graph.dst.numpy()] == flows.frame["dst_addr"].to_numpy()).all()
    assert torch.equal(graph.channel_src[graph.channel], graph.src)
    assert torch.equal(graph.channel_dst[graph.channel], graph.dst)


def test_an_empty_window_is_a_graph_too() -> None:
    graph, hosts = build_graph(make_flows(5)[:0], AttributeScaling.fit(make_flows(50)))
    assert (graph.num_hosts, graph.num_channels, graph.num_flows, len(hosts)) == (0, 0, 0, 0)
    assert activity(graph, channel_sums(graph)).shape == (0, 16)


def test_scaling_is_log1p_standardised_and_clipped_and_round_trips() -> None:
    flows = make_flows(300)
    scaling = AttributeScaling.from_dict(AttributeScaling.fit(flows).as_dict())
    z = scaling.transform(flows)
    assert np.allclose(z.mean(0), 0, atol=1e-4)
    assert np.allclose(z.std(0), 1, atol=1e-3)
    huge = Flows(flows.frame.with_columns(fwd_bytes=pl.lit(2**64 - 1, pl.UInt64)))
    assert scaling.transform(huge)[:, 0].max() <= 8


def test_invented_amounts_are_as_whole_as_the_real_ones() -> None:
    scaling = AttributeScaling.fit(make_flows(300))
    assert scaling.whole == (True, True, False)
    z = scaling.countable(np.random.default_rng(0).normal(0, 1, (100, 3)).astype(np.float32))
    amounts = np.expm1(z * scaling.scale + scaling.center)
    assert (amounts > -1e-3).all()
    off = np.abs(amounts - np.rint(amounts)) / (1 + amounts)
    assert off[:, :2].max() < 1e-4
    assert off[:, 2].max() > 1e-3


def test_extended_attributes_use_the_columns_there_are_and_need_them_later() -> None:
    flows = make_flows(100)
    with pytest.raises(SchemaError, match="fwd_packets"):
        AttributeScaling.fit(flows, "extended")
    more = Flows(flows.frame.with_columns(protocol=pl.lit(6, pl.UInt8), fwd_packets=pl.lit(3, pl.UInt64)))
    scaling = AttributeScaling.fit(more, "extended")
    assert scaling.names == (
        "fwd_bytes",
        "bwd_bytes",
        "duration_ms",
        "fwd_packets",
        "is_tcp",
        "is_udp",
        "is_icmp",
    )
    assert scaling.transform(more)[:, 4].tolist() == [1.0] * 100
    with pytest.raises(SchemaError, match="fitted with fwd_packets, protocol"):
        scaling.transform(flows)
