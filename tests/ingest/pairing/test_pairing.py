"""Records by hand, of hosts A to E as exporters 0 to 2 report them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from thalweg.errors import ConfigError, SourceError
from thalweg.ingest.pairing.config import PairingConfig
from thalweg.ingest.pairing.pairing import Pairing
from thalweg.ingest.records import INITIATOR, RECORD, Records, address_halves, address_text, no_records

A, B, C, D, E = (f"10.0.0.{i}" for i in range(1, 6))
SECOND = 1_000_000
EPOCH = 1_790_000_000 * SECOND
SYN, ACK, RST, FIN, PSH = 0x02, 0x10, 0x04, 0x01, 0x08


def record(
    src: str, dst: str, ports: tuple[int, int] = (40000, 443), at: float = 0, lasts: float = 1, **fields: Any
) -> Records:
    """One record of TCP, sent when its flow ends unless `arrives` says otherwise; seconds since EPOCH."""
    one = no_records(1)
    one["src_hi"], one["src_lo"] = address_halves(src)
    one["dst_hi"], one["dst_lo"] = address_halves(dst)
    one["src_port"], one["dst_port"] = ports
    one["start_us"] = EPOCH + round(at * SECOND)
    one["end_us"] = EPOCH + round((at + lasts) * SECOND)
    one["arrival_us"] = EPOCH + round(fields.pop("arrives", at + lasts) * SECOND)
    one["protocol"], one["fwd_bytes"], one["fwd_packets"], one["sampling"] = 6, 1000, 10, 1
    for name, value in fields.items():
        one[name] = value
    return one


def answer(to: Records, **fields: Any) -> Records:
    """The other direction of a record."""
    one = to.copy()
    for part in ("hi", "lo", "port"):
        one[f"src_{part}"], one[f"dst_{part}"] = to[f"dst_{part}"], to[f"src_{part}"]
    one["fwd_bytes"] = 5000
    for name, value in fields.items():
        one[name] = value
    return one


def icmp(src: str, dst: str, kind: int, at: float = 0, **fields: Any) -> Records:
    return record(src, dst, (0, kind * 256), at, protocol=fields.pop("protocol", 1), **fields)


def run(*records: Records, **config: Any) -> tuple[list[str], dict[str, int]]:
    """Feed records and flush; one line per flow: initiator, responder, bytes, evidence, and `+` if continued."""
    pairing = Pairing(PairingConfig(**config))
    stream = np.concatenate(records)
    out = np.concatenate([pairing.feed(stream, int(stream["arrival_us"].max())), pairing.flush()])
    return lines(out), pairing.tally.as_dict()


def lines(out: Records) -> list[str]:
    return [
        f"{address_text(int(r['src_hi']), int(r['src_lo']))[-1]}"
        f"{'=' if r['two_way'] else '-'}{address_text(int(r['dst_hi']), int(r['dst_lo']))[-1]} "
        f"{r['fwd_bytes']}/{r['bwd_bytes']} {INITIATOR[r['initiator']]}{' +' if r['continued'] else ''}"
        for r in out
    ]


def num_of(out: Records, pairing: Pairing, num_two_way: int = 0) -> int:
    """Return how many records were fed, by counting what became of them; num_two_way: output that came as biflows."""
    counts = pairing.tally
    left_out = counts["duplicate_flows"] + counts["repeated_records"]
    num_out = len(out) + int(out["two_way"].sum()) - num_two_way
    return num_out + left_out + counts["joined_pieces"] + pairing.num_held


def test_two_directions_become_one_flow() -> None:
    there = record(A, B, at=0, lasts=3, tcp_flags=SYN | ACK, sampling=10)
    back = answer(there, start_us=EPOCH + 5, end_us=EPOCH + 4 * SECOND, tcp_flags=ACK | FIN, fwd_packets=7, exporter=1)
    back["arrival_us"] += 5
    out = Pairing().feed(np.concatenate([back, there]), EPOCH)
    assert lines(out) == ["1=2 1000/5000 ports"]
    flow = out[0]
    assert (flow["start_us"], flow["end_us"]) == (EPOCH, EPOCH + 4 * SECOND)
    assert (flow["fwd_packets"], flow["bwd_packets"], flow["tcp_flags"]) == (10, 7, SYN | ACK | FIN)
    assert (flow["src_port"], flow["dst_port"], flow["sampling"], flow["exporter"]) == (40000, 443, 10, 0)
    assert flow["arrival_us"] == back["arrival_us"][0]


def test_a_record_waits_no_longer_than_it_may() -> None:
    pairing = Pairing(PairingConfig(hold_s=10))
    first = record(A, B)
    assert len(pairing.feed(first, EPOCH + 11 * SECOND)) == 0
    assert pairing.num_held == 1
    assert lines(pairing.feed(no_records(), EPOCH + 11 * SECOND + 1)) == ["1-2 1000/0 ports"]
    assert pairing.num_held == 0
    assert pairing.tally.as_dict() == {"unpaired_records": 1}


def test_those_held_are_emitted_oldest_first_when_there_are_too_many() -> None:
    hosts = [record(A, host, at=i / 10, arrives=i / 10) for i, host in enumerate((B, C, D, E))]
    pairing = Pairing(PairingConfig(max_held=2))
    assert lines(pairing.feed(np.concatenate(hosts), EPOCH)) == ["1-2 1000/0 ports", "1-3 1000/0 ports"]
    assert lines(pairing.flush()) == ["1-4 1000/0 ports", "1-5 1000/0 ports"]
    assert pairing.tally.as_dict() == {"early_unpaired": 2, "unpaired_records": 2}


@pytest.mark.parametrize("group", ["224.0.0.251", "255.255.255.255", "ff02::fb", "239.255.255.250"])
def test_what_goes_to_many_is_not_held_and_its_source_opened_it(group: str) -> None:
    pairing = Pairing()
    source = "fe80::1" if ":" in group else A
    out = pairing.feed(record(source, group, (53, 40000), protocol=17), EPOCH)
    assert pairing.num_held == 0
    assert address_text(int(out["dst_hi"][0]), int(out["dst_lo"][0])) == group
    assert not pairing.tally


def test_a_long_silence_parts_two_flows() -> None:
    there = record(A, B)
    late = answer(record(A, B, at=61.5, arrives=1))
    assert run(there, late)[0] == ["1-2 1000/0 ports", "1-2 0/5000 ports"]
    assert run(there, late, idle_s=61)[0] == ["1=2 1000/5000 ports"]


def test_pieces_of_a_flow_are_joined_while_they_wait() -> None:
    pieces = [record(A, B, at=20 * i, lasts=20, arrives=60 + i) for i in range(3)]
    repeating = [record(C, B, at=0, lasts=20 * i + 20, arrives=60 + i, fwd_bytes=7) for i in range(3)]
    back = answer(record(A, B, at=0, lasts=60, arrives=64))
    flows, counts = run(*pieces, *repeating, back)
    assert flows == ["1=2 3000/5000 ports", "3-2 21/0 ports"]
    assert counts == {"joined_pieces": 4, "unpaired_records": 1}


def test_a_new_connection_of_the_same_ports_is_another_flow() -> None:
    first = record(A, B, at=0, arrives=5, tcp_flags=SYN | ACK | FIN)
    second = record(A, B, at=3, arrives=5, tcp_flags=SYN | ACK | FIN, fwd_bytes=2000)
    back, second_back = answer(first), answer(second, fwd_bytes=1)
    for order in ([first, back, second, second_back], [first, second, back, second_back]):
        assert run(*order) == (["1=2 1000/5000 ports", "1=2 2000/1 ports"], {})
    assert run(second_back, back, second, first) == (["1=2 2000/1 ports", "1=2 1000/5000 ports"], {})


def test_what_another_observer_saw_too_is_left_out() -> None:
    there = record(A, B)
    back = answer(there)
    for same in ({"exporter": 1}, {"egress": 1}):
        again = [one.copy() for one in (there, back)]
        for one in again:
            for name, value in same.items():
                one[name] = value
            one["start_us"] += SECOND
            one["end_us"] += SECOND
        for order in ([there, back, *again], [there, again[0], back, again[1]], [again[1], back, there, again[0]]):
            flows, counts = run(*order)
            assert flows == ["1=2 1000/5000 ports"]
            assert counts == {"duplicate_flows": 2}
    assert len(run(there, again[0], deduplicate=False)[0]) == 2


def test_an_observer_of_each_direction_makes_a_flow() -> None:
    there = record(A, B)
    assert run(there, answer(there, exporter=1)) == (["1=2 1000/5000 ports"], {})


@pytest.mark.parametrize("hold_s", [1, 100])
def test_observers_may_cut_a_flow_at_other_times(hold_s: float) -> None:
    short = [record(A, B, at=20 * i, lasts=20) for i in range(6)]
    long = [record(A, B, at=60 * i, lasts=60, exporter=1, fwd_bytes=3000) for i in range(2)]
    for order in ([*short[:3], long[0], *short[3:], long[1]], [*short[:2], long[0], *short[2:5], long[1], short[5]]):
        stream = np.concatenate(order)
        pairing = Pairing(PairingConfig(hold_s=hold_s))
        out = np.concatenate([pairing.feed(stream, 0), pairing.flush()])
        assert out["fwd_bytes"].sum() == 6000
        assert pairing.tally["duplicate_flows"] == 2


def test_another_observer_takes_over_when_the_first_falls_silent() -> None:
    stream = [record(A, B), record(A, B, at=1, lasts=30, exporter=1), record(A, B, at=31, lasts=30, exporter=1)]
    flows, counts = run(*stream, hold_s=0)
    assert flows == ["1-2 1000/0 ports", "1-2 1000/0 ports +", "1-2 1000/0 ports +"]
    assert "duplicate_flows" not in counts


def test_a_datagram_that_came_twice_counts_once() -> None:
    there = record(A, B)
    stream = [there, answer(there), record(C, D, (5, 6)), icmp(A, B, 8), record(A, B, (0, 0), protocol=47)]
    again = [one.copy() for one in stream]
    flows, counts = run(*stream, *again)
    assert len(flows) == 4
    assert counts["repeated_records"] == 5


@pytest.mark.parametrize("protocol", [1, 47, 50, 58])
def test_parallel_flows_without_ports_are_kept(protocol: int) -> None:
    flows, counts = run(*(record(A, B, (0, 0x0800), protocol=protocol, fwd_bytes=i) for i in range(100)))
    assert len(flows) == 100
    assert counts == {"unpaired_records": 100, "continued_flows": 99}


def test_later_pieces_keep_who_opened_the_flow() -> None:
    there = record(A, B, (50000, 50001), tcp_flags=SYN, lasts=60)
    back = answer(there, tcp_flags=SYN | ACK)
    # Of the second piece all other evidence is to the contrary.
    next_back = record(B, A, (50001, 50000), at=60, lasts=60, tcp_flags=ACK, fwd_bytes=5000)
    next_there = answer(next_back, start_us=EPOCH + 61 * SECOND, fwd_bytes=1000)
    flows, counts = run(there, back, next_back, next_there)
    assert flows == ["1=2 1000/5000 flags", "1=2 1000/5000 flags +"]
    assert counts == {"continued_flows": 1}


def test_pieces_that_repeat_the_first_start_find_their_partners() -> None:
    stream = []
    for i in range(3):
        there = record(A, B, at=0, lasts=60 * i + 60)
        stream += [there, answer(there)]
    flows, counts = run(*stream)
    assert flows == ["1=2 1000/5000 ports"] + 2 * ["1=2 1000/5000 ports +"]
    assert counts == {"continued_flows": 2}


def test_a_partner_too_late_does_not_swap_client_and_server() -> None:
    pairing = Pairing(PairingConfig(hold_s=1))
    there = record(A, B, (50000, 50001))
    assert lines(pairing.feed(there, EPOCH + 5 * SECOND)) == ["1-2 1000/0 unknown"]
    late = answer(there)
    late["arrival_us"] += 4 * SECOND
    out = pairing.feed(late, EPOCH + 5 * SECOND)
    assert lines(out) == ["1-2 0/5000 unknown +"]
    assert (out["src_port"][0], out["dst_port"][0]) == (50000, 50001)
    assert pairing.num_held == 0


def test_biflows_of_exporters_pass_at_once_and_once() -> None:
    both = record(A, B, (443, 40000), two_way=1, bwd_bytes=9, bwd_packets=1)
    other = both.copy()
    other["exporter"] = 1
    later = record(A, B, (443, 40000), at=2, two_way=1, bwd_bytes=9, initiator=1)
    pairing = Pairing()
    out = pairing.feed(np.concatenate([both, both, other, later]), EPOCH)
    assert lines(out) == ["1=2 1000/9 exporter", "1=2 1000/9 time +"]
    assert pairing.tally.as_dict() == {"repeated_records": 1, "duplicate_flows": 1, "continued_flows": 1}
    assert lines(pairing.feed(answer(both, exporter=2), EPOCH)) == []
    assert pairing.tally["duplicate_flows"] == 2


def test_without_pairing_and_deduplication_all_is_emitted_as_it_came() -> None:
    stream = np.concatenate([record(A, B, (443, 40000)), record(A, B, (443, 40000)), icmp(A, B, 0)])
    pairing = Pairing(PairingConfig(pair=False, deduplicate=False))
    assert np.array_equal(pairing.feed(stream, EPOCH), stream)
    assert not pairing.tally


def test_without_pairing_flows_have_one_direction_and_are_taken_once() -> None:
    there = record(A, B)
    flows, counts = run(there, answer(there), answer(there, exporter=1), pair=False)
    assert flows == ["1-2 1000/0 ports", "1-2 0/5000 ports"]
    assert counts == {"duplicate_flows": 1, "turned_round": 1}


def test_sums_stay_at_the_most_that_fits() -> None:
    most = np.iinfo(np.uint64).max
    pieces = [record(A, B, at=i, fwd_bytes=most - 1, fwd_packets=most) for i in range(3)]
    back = answer(pieces[0], fwd_bytes=most)
    assert run(*pieces, back)[0] == [f"1=2 {most}/{most} ports"]


def test_times_of_any_size_do_no_harm() -> None:
    ends = [np.iinfo(np.int64).min, -1, 0, EPOCH, np.iinfo(np.int64).max]
    stream = np.concatenate(
        [
            record(*hosts, (1, 1), start_us=start, end_us=end, arrival_us=arrival)
            for start in ends for end in ends for arrival in ends for hosts in ((A, B), (B, A))
        ]
    )  # fmt: skip
    pairing = Pairing()
    out = np.concatenate([pairing.feed(stream, np.iinfo(np.int64).max), pairing.flush()])
    joined = out[out["two_way"] == 1]
    assert len(joined)
    assert (joined["start_us"] <= joined["end_us"]).all()
    assert num_of(out, pairing) == len(stream)


def test_a_flood_of_one_conversation_ends() -> None:
    flood = np.repeat(icmp(A, B, 8), 20_000)
    flood["fwd_bytes"] = np.arange(len(flood))
    pairing = Pairing(PairingConfig(max_held=4096))
    out = pairing.feed(flood, EPOCH)
    assert len(out) == len(flood) - 4096 == pairing.tally["early_unpaired"]
    assert (out["fwd_bytes"] == np.arange(len(out))).all()


def test_records_that_were_decoded_into_foreign_memory_are_read() -> None:
    there = record(A, B)
    stream = np.frombuffer(np.concatenate([there, there, answer(there), there]).tobytes(), RECORD)[::2]
    assert lines(Pairing().feed(stream, EPOCH)) == ["1=2 1000/5000 ports"]


@pytest.mark.parametrize("bad", [{"hold_s": -1}, {"idle_s": float("nan")}, {"max_held": 0}, {"recent": 0}])
def test_settings_out_of_range_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        PairingConfig(**bad)


def test_a_state_of_another_version_is_refused() -> None:
    pairing = Pairing()
    pairing.feed(record(A, B), EPOCH)
    for name, value in pairing.state().items():
        broken = {**pairing.state(), name: value[..., :-1]}
        with pytest.raises(SourceError, match="start without it"):
            pairing.restore(broken)
    assert pairing.num_held == 1


def test_more_than_may_be_held_is_restored_and_then_emitted() -> None:
    many = Pairing()
    many.feed(np.concatenate([record(A, host) for host in (B, C, D)]), EPOCH)
    few = Pairing(PairingConfig(max_held=1))
    few.restore(many.state())
    assert few.num_held == 3
    assert len(few.feed(record(A, E), EPOCH)) == 3
    assert few.num_held == 1
