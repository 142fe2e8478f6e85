"""Random streams of records between few hosts and ports, so that every case occurs."""

from __future__ import annotations

import io

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ingest.pairing.test_pairing import ACK, EPOCH, FIN, RST, SECOND, SYN, A, B, answer, num_of, record
from thalweg.ingest.pairing.config import PairingConfig
from thalweg.ingest.pairing.pairing import Pairing
from thalweg.ingest.records import Records, no_records


@st.composite
def streams(draw: st.DrawFn) -> Records:
    seed, num = draw(st.integers(0, 2**32)), draw(st.integers(1, 300))
    rng = np.random.default_rng(seed)
    num_hosts = draw(st.integers(2, 5))
    stream = no_records(num)
    src = rng.integers(0, num_hosts, num)
    stream["src_lo"] = 0xFFFF0A000000 + src
    stream["dst_lo"] = 0xFFFF0A000000 + (src + rng.integers(0, num_hosts, num)) % num_hosts
    stream["dst_lo"][rng.random(num) < 0.02] = 0xFFFFE0000001
    stream["protocol"] = rng.choice(np.array(draw(st.sampled_from([[6], [17], [1, 47], [6, 17, 1, 58, 47]]))), num)
    ports = rng.choice([80, 443, 8080, 40000], (num, 2))
    kinds = rng.choice([0, 3, 8, 128, 129], num) * 256
    pings = np.isin(stream["protocol"], [1, 58])
    stream["src_port"] = np.where(pings, 0, ports[:, 0])
    stream["dst_port"] = np.where(pings, kinds, ports[:, 1])
    stream["tcp_flags"] = rng.choice([0, SYN, SYN | ACK, ACK, RST | ACK, 0x1B, FIN | ACK], num)
    arrival = np.cumsum(rng.choice([0, 0, 1000, SECOND, 20 * SECOND], num, p=[0.3, 0.2, 0.2, 0.27, 0.03]))
    stream["arrival_us"] = EPOCH + arrival
    lasts = rng.choice([0, 1000, SECOND, 20 * SECOND], num)
    stream["end_us"] = stream["arrival_us"] - rng.choice([0, 500_000, 3 * SECOND, 90 * SECOND], num)
    stream["start_us"] = stream["end_us"] - lasts
    stream["fwd_bytes"], stream["fwd_packets"] = rng.integers(40, 10_000, num), rng.integers(1, 3, num)
    stream["exporter"], stream["egress"], stream["sampling"] = rng.integers(0, 2, num), rng.integers(0, 2, num), 1
    stream["two_way"] = rng.random(num) < draw(st.sampled_from([0, 0.1]))
    stream["bwd_bytes"] = np.where(stream["two_way"], 77, 0)
    again = rng.random(num) < 0.1
    stream[1:][again[1:]] = stream[:-1][again[1:]]
    if draw(st.booleans()):  # a clock that goes back
        stream["arrival_us"] = rng.permutation(stream["arrival_us"])
    return stream


configs = st.builds(
    PairingConfig,
    hold_s=st.sampled_from([0.0, 1.0, 10.0]),
    max_held=st.sampled_from([1, 2, 7, 1000]),
    recent=st.sampled_from([1, 16, 1000]),
    duplicates_s=st.sampled_from([0.0, 2.0]),
    idle_s=st.sampled_from([0.0, 60.0]),
    pair=st.sampled_from([True, True, True, False]),
    deduplicate=st.booleans(),
)


def feed_in_runs(pairing: Pairing, stream: Records, size: int, clock: int = 0) -> list[Records]:
    out = []
    for begin in range(0, len(stream), size):
        part = stream[begin : begin + size]
        clock = max(clock, int(part["arrival_us"].max()))
        out.append(pairing.feed(part, clock))
    return out


@given(streams(), configs, st.integers(1, 40))
def test_the_cut_into_batches_changes_nothing(stream: Records, config: PairingConfig, size: int) -> None:
    whole, parts = Pairing(config), Pairing(config)
    expected = whole.feed(stream, int(stream["arrival_us"].max()))
    out = np.concatenate(feed_in_runs(parts, stream, size))
    assert np.array_equal(out, expected)
    assert np.array_equal(parts.flush(), whole.flush())
    assert parts.tally.as_dict() == whole.tally.as_dict()


@given(streams(), configs)
def test_every_record_and_byte_is_emitted_or_counted(stream: Records, config: PairingConfig) -> None:
    pairing, out, bytes_left_out, two_way = Pairing(config), [], 0, 0
    for i in range(len(stream)):
        one = stream[i : i + 1]
        before = pairing.tally["duplicate_flows"] + pairing.tally["repeated_records"]
        out.append(pairing.feed(one, 0))
        if pairing.tally["duplicate_flows"] + pairing.tally["repeated_records"] > before:
            bytes_left_out += int(one["fwd_bytes"][0] + one["bwd_bytes"][0])
        else:
            two_way += int(one["two_way"][0])
        assert pairing.num_held <= config.max_held
    assert num_of(np.concatenate(out), pairing, two_way) == len(stream)
    flows = np.concatenate([*out, pairing.flush()])
    assert pairing.num_held == 0
    assert num_of(flows, pairing, two_way) == len(stream)
    total = sum(int(stream[name].sum()) for name in ("fwd_bytes", "bwd_bytes"))
    assert sum(int(flows[name].sum()) for name in ("fwd_bytes", "bwd_bytes")) + bytes_left_out == total
    if not config.deduplicate:
        assert bytes_left_out == 0


@given(streams(), configs, st.integers(0, 300))
def test_a_restored_pairing_goes_on_as_if_it_had_not_stopped(stream: Records, config: PairingConfig, at: int) -> None:
    steady, stopped = Pairing(config), Pairing(config)
    for pairing in (steady, stopped):
        pairing.feed(stream[:at], EPOCH)
    kept = io.BytesIO()
    np.savez(kept, **stopped.state())  # type: ignore[arg-type,unused-ignore]
    kept.seek(0)
    again = Pairing(config)
    with np.load(kept, allow_pickle=False) as state:
        again.restore(state)
    assert again.num_held == steady.num_held
    assert np.array_equal(again.feed(stream[at:], EPOCH), steady.feed(stream[at:], EPOCH))
    assert np.array_equal(again.flush(), steady.flush())
    for name, array in again.state().items():
        assert np.array_equal(array, steady.state()[name])


@settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_shuffled_partners_all_find_each_other(seed: int) -> None:
    rng = np.random.default_rng(seed)
    there = np.repeat(record(A, B), 3000)
    there["src_port"] = 32768 + rng.permutation(20_000)[:3000]
    there["fwd_bytes"] = there["src_port"]
    stream = rng.permutation(np.concatenate([there, answer(there, fwd_bytes=there["src_port"])]))
    pairing = Pairing(PairingConfig(recent=64))
    out = pairing.feed(stream, EPOCH)
    assert pairing.num_held == 0
    assert len(out) == 3000
    assert (out["fwd_bytes"] == out["src_port"]).all()
    assert (out["bwd_bytes"] == out["src_port"]).all()
    assert not pairing.tally
