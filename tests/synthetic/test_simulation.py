"""Simulated traffic depends on the seed and not on the chunks, and its attacks have the shape of their class."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast, get_args

import numpy as np
import polars as pl
import pytest

from thalweg.addresses import IPV4, IPV6, parse_addresses
from thalweg.errors import ConfigError
from thalweg.synthetic import (
    ATTACKS,
    BENIGN,
    Dialect,
    SimulationConfig,
    as_dialect,
    simulate,
    simulate_stream,
)
from thalweg.tables import FLOW_COLUMNS, Flows, concat

OFFICE = SimulationConfig(flows=40_000, seed=5)
CAMPUS = SimulationConfig(site="campus", flows=60_000, seed=5)


@pytest.fixture(scope="module")
def office() -> Flows:
    return simulate(OFFICE)


@pytest.fixture(scope="module")
def campus() -> Flows:
    return simulate(CAMPUS)


def bursts(flows: Flows, attack: str) -> list[pl.DataFrame]:
    """Return the occurrences of an attack: runs of its flows without a gap of over half an hour."""
    frame = flows.frame.filter(pl.col("attack") == attack).sort("start")
    gap = frame["start"].diff().dt.total_seconds().fill_null(0) > 1800
    return frame.with_columns(gap.cum_sum().alias("burst")).partition_by("burst")


def seconds(start: pl.Series) -> float:
    """Return the span of a column of times."""
    span = start.dt.epoch("us").to_numpy()
    return float(span.max() - span.min()) / 1e6


def test_same_seed_same_flows(office: Flows) -> None:
    assert office.frame.equals(simulate(OFFICE).frame)
    assert not office.frame.equals(simulate(replace(OFFICE, seed=6)).frame)


@pytest.mark.parametrize("chunk", [7_777, 150_000, 10**9])
def test_stream_does_not_depend_on_the_chunk(chunk: int) -> None:
    config = replace(CAMPUS, flows=300_000)  # more than two slices
    chunks = list(simulate_stream(config, chunk))
    assert [len(c) for c in chunks[:-1]] == [chunk] * (len(chunks) - 1)
    assert concat(chunks).frame.equals(simulate(config).frame)


@pytest.mark.parametrize("flows", [1_000, 12_345])
def test_as_many_flows_as_asked_in_order(flows: int) -> None:
    config = replace(OFFICE, flows=flows)
    frame = simulate(config).frame
    assert frame.height == flows
    assert frame["start"].is_sorted()
    assert frame["start"].min() >= config.start  # type: ignore[operator]
    assert frame["start"].max() < config.start + config.duration  # type: ignore[operator]
    assert frame["row"].to_list() == list(range(flows))


def test_columns_are_declared_and_whole(office: Flows) -> None:
    frame = office.frame
    assert not office.tally
    assert frame.schema == {name: FLOW_COLUMNS[name].dtype for name in frame.columns}
    assert sum(frame.null_count().row(0)) == 0
    # Zero bytes means zero packets, and no flow goes from a host to itself.
    assert ((frame["bwd_packets"] == 0) == (frame["bwd_bytes"] == 0)).all()
    assert (frame["fwd_packets"] > 0).all()
    assert (frame["src_addr"] != frame["dst_addr"]).all()
    assert (frame.filter(pl.col("protocol") != 6)["tcp_flags"] == 0).all()


def test_labels_match_classes(office: Flows) -> None:
    frame = office.frame
    assert (frame["label"] == (frame["attack"] != BENIGN)).all()
    assert set(frame["attack"]) == {BENIGN, *ATTACKS}


def test_first_half_is_clean(office: Flows, campus: Flows) -> None:
    for flows, config in ((office, OFFICE), (campus, CAMPUS)):
        first = flows.frame.filter(pl.col("label"))["start"].min()
        assert first >= config.start + config.duration / 2  # type: ignore[operator]
    early = simulate(replace(OFFICE, clean_until=0.0)).frame.filter("label")["start"].min()
    assert early < OFFICE.start + OFFICE.duration / 4  # type: ignore[operator]


def test_each_attack_occurs_a_few_times() -> None:
    for name in ATTACKS:
        frame = simulate(replace(OFFICE, attacks=(name,), flows=10_000)).frame
        assert set(frame["attack"]) == {BENIGN, name}
    assert not simulate(replace(OFFICE, attacks="none")).frame["label"].any()


def test_noisy_attacks_take_their_share() -> None:
    noisy = [name for name, attack in ATTACKS.items() if attack.weight]
    for share in (0.05, 0.3):
        frame = simulate(replace(OFFICE, attack_share=share)).frame
        assert frame["attack"].is_in(noisy).mean() == pytest.approx(share, rel=0.02)


def test_addresses_of_both_families(office: Flows, campus: Flows) -> None:
    for flows, fewest, internal in ((office, 62, 60), (campus, 10_000, 3_000)):
        texts = pl.concat([flows.frame["src_addr"], flows.frame["dst_addr"]]).unique()
        _, kind = parse_addresses(texts)
        assert set(kind) == {IPV4, IPV6}
        assert len(texts) >= fewest
        assert texts.str.contains(r"^(10|192\.168)\.").sum() >= internal
        benign = flows.frame.filter(~pl.col("label"))
        assert 0.1 < benign["src_addr"].str.contains(":", literal=True).mean() < 0.6  # type: ignore[operator]


def test_daily_rhythm() -> None:
    config = replace(OFFICE, attacks="none", duration=timedelta(days=7))
    frame = simulate(config).frame.select(
        day=pl.col("start").dt.date().rank("dense"),
        hour=pl.col("start").dt.hour(),
        backup=pl.col("dst_port") == 8443,
    )
    work = frame.filter(pl.col("hour").is_between(9, 16))
    night = frame.filter(pl.col("hour").is_between(0, 5))
    assert work.height / 8 > 4 * night.height / 6
    by_day = frame.group_by("day").len().sort("day")["len"]
    assert by_day[:5].min() > 2 * by_day[5:].max()  # type: ignore[operator]
    backups = frame.filter("backup")["hour"]
    assert len(backups)
    assert ((backups >= 22) | (backups < 4)).all()


def test_machines_repeat_exact_sizes(office: Flows) -> None:
    benign = office.frame.filter(~pl.col("label") & (pl.col("protocol") == 17))
    clock = benign.filter(pl.col("dst_port") == 123)
    assert clock["fwd_bytes"].unique().to_list() == [76]
    asked = benign.filter(pl.col("dst_port") == 53)
    assert asked.select("fwd_bytes", "bwd_bytes").n_unique() < 400 < asked.height


def test_people_return_to_places(campus: Flows) -> None:
    pairs = campus.frame.filter(~pl.col("label") & (pl.col("dst_port") == 443)).group_by("src_addr", "dst_addr").len()
    assert pairs["len"].max() > 20  # type: ignore[operator]
    popular = campus.frame.filter(pl.col("dst_port") == 443).group_by("dst_addr").len()["len"].sort(descending=True)
    assert popular[:50].to_numpy().sum() > 0.25 * popular.to_numpy().sum()


def test_scan_is_one_source_and_many_ports_of_one_host(office: Flows) -> None:
    for burst in bursts(office, "port_scan"):
        assert burst["src_addr"].n_unique() == 1
        assert burst["dst_addr"].n_unique() == 1
        assert burst["dst_port"].n_unique() == burst.height


def test_sweep_is_one_source_and_many_hosts_on_one_port(campus: Flows) -> None:
    for burst in bursts(campus, "host_sweep"):
        assert burst["src_addr"].n_unique() == 1
        assert burst["dst_port"].n_unique() == 1
        assert burst["dst_addr"].n_unique() == burst.height


def test_brute_force_and_flood_are_one_pair(campus: Flows) -> None:
    for attack, slowest in (("brute_force", 7200), ("flood", 300)):
        for burst in bursts(campus, attack):
            assert burst.select("src_addr", "dst_addr", "dst_port").n_unique() == 1
            assert burst.height > 100
            assert seconds(burst["start"]) < slowest


def test_many_to_one_flood_has_many_sources(campus: Flows) -> None:
    for burst in bursts(campus, "many_to_one_flood"):
        assert burst["dst_addr"].n_unique() == 1
        assert burst["src_addr"].n_unique() > 100


def test_beacon_keeps_its_pace_and_its_size(office: Flows) -> None:
    frame = office.frame.filter(pl.col("attack") == "beaconing")
    for pair in frame.partition_by("src_addr", "dst_addr"):
        gaps = pair["start"].diff().dt.total_microseconds().drop_nulls().to_numpy()
        assert gaps.std() < 0.1 * gaps.mean()
        assert pair["fwd_bytes"].n_unique() == 1


def test_exfiltration_sends_out_much_more_than_it_gets(office: Flows) -> None:
    frame = office.frame.filter(pl.col("attack") == "slow_exfiltration")
    assert (frame["fwd_bytes"] > 10 * frame["bwd_bytes"]).all()
    assert frame["src_addr"].str.starts_with("192.168.").all()
    assert not frame["dst_addr"].str.starts_with("192.168.").any()


def test_lateral_movement_stays_inside_and_goes_onward(office: Flows) -> None:
    frame = office.frame.filter(pl.col("attack") == "lateral_movement")
    inside = frame.select(pl.col("src_addr", "dst_addr").str.starts_with("192.168.").all())
    assert inside.row(0) == (True, True)
    infected = office.frame.filter(pl.col("attack") == "beaconing")["src_addr"].unique().to_list()
    onward = frame.filter(~pl.col("src_addr").is_in(infected))
    assert 0 < onward.height < frame.height / 2
    assert onward["src_addr"].n_unique() <= 2 * len(infected)


def test_quiet_attacks_share_their_infected_host(office: Flows) -> None:
    frame = office.frame
    hosts = [set(frame.filter(pl.col("attack") == a)["src_addr"]) for a in ("beaconing", "slow_exfiltration")]
    assert hosts[0] == hosts[1]


@pytest.mark.parametrize("dialect", get_args(Dialect))
def test_dialects_keep_rows_and_labels(office: Flows, dialect: Dialect) -> None:
    table = as_dialect(office, dialect)
    assert table.height == len(office)
    label = {"binetflow": "Label", "zeek": "label", "thalweg": "label"}.get(dialect, "Label")
    found = table[label]
    if found.dtype == pl.String:
        found = found.str.contains("Botnet|Malicious")
    assert (found.cast(pl.Boolean) == office.frame["label"]).all()


def test_dialect_headers(office: Flows) -> None:
    v1, v2, v3 = (as_dialect(office[:10], cast(Dialect, f"nf-v{n}")) for n in (1, 2, 3))
    assert v1.columns[:4] == ["IPV4_SRC_ADDR", "L4_SRC_PORT", "IPV4_DST_ADDR", "L4_DST_PORT"]
    assert v1.columns[4:8] == ["PROTOCOL", "L7_PROTO", "IN_BYTES", "OUT_BYTES"]
    assert v1.columns[8:12] == ["IN_PKTS", "OUT_PKTS", "TCP_FLAGS", "FLOW_DURATION_MILLISECONDS"]
    assert v1.columns[12:] == ["Label", "Attack"]
    assert len(v2.columns) == 45
    assert v2.columns[-1] == "Attack"
    assert v3.columns[:2] == ["FLOW_START_MILLISECONDS", "FLOW_END_MILLISECONDS"]
    assert set(v2.columns) < set(v3.columns)
    assert (v3["FLOW_END_MILLISECONDS"] - v3["FLOW_START_MILLISECONDS"] == v1["FLOW_DURATION_MILLISECONDS"]).all()
    assert (v2["OUT_BYTES"] == office.frame["bwd_bytes"][:10]).all()


def test_binetflow_and_zeek_values(office: Flows) -> None:
    frame, bi, zeek = office.frame, as_dialect(office, "binetflow"), as_dialect(office, "zeek")
    assert (bi["TotBytes"] == frame["fwd_bytes"] + frame["bwd_bytes"]).all()
    assert bi["StartTime"][0] == frame["start"].dt.strftime("%Y/%m/%d %H:%M:%S%.6f")[0]
    assert np.allclose(bi["Dur"] * 1000, frame["duration_ms"], atol=1e-3)
    assert set(bi["Proto"]) == {"tcp", "udp", "icmp"}
    assert (zeek["orig_ip_bytes"] == frame["fwd_bytes"]).all()
    assert (zeek["orig_bytes"] <= zeek["orig_ip_bytes"].cast(pl.Int64)).all()
    assert zeek["uid"].n_unique() == len(office)
    assert np.allclose(zeek["ts"], frame["start"].dt.epoch("us") / 1e6, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"site": "castle"}, "office or campus"),
        ({"flows": 10}, "1,000"),
        ({"seed": -1}, "seed"),
        ({"start": datetime(2026, 3, 2)}, "time zone"),  # noqa: DTZ001 the missing time zone is the case
        ({"duration": timedelta(seconds=1)}, "minute"),
        ({"attacks": ("worm",)}, "port_scan"),
        ({"attacks": "some"}, "'none'"),
        ({"attacks": ("flood", "flood")}, "twice"),
        ({"attack_share": 0.9}, "attack_share"),
        ({"clean_until": 1.0}, "clean_until"),
    ],
)
def test_bad_settings_are_errors(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SimulationConfig(**settings)


def test_wrong_chunk_and_dialect(office: Flows) -> None:
    with pytest.raises(ConfigError, match="chunk"):
        simulate_stream(OFFICE, 0)
    with pytest.raises(ConfigError, match="zeek"):
        as_dialect(office, cast(Dialect, "pcap"))


def test_short_spans_hold_all_attacks() -> None:
    config = SimulationConfig(flows=1_000, duration=timedelta(minutes=5), start=datetime(2026, 3, 3, 10, tzinfo=UTC))
    frame = simulate(config).frame
    assert set(frame["attack"]) == {BENIGN, *ATTACKS}
    assert frame.filter("label")["start"].max() < config.start + config.duration  # type: ignore[operator]
