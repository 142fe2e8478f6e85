"""The initiator of a flow, by each kind of evidence."""

from __future__ import annotations

import pytest

from tests.ingest.pairing.test_pairing import ACK, FIN, PSH, RST, SYN, A, B, answer, icmp, record, run
from thalweg.ingest.records import Records


@pytest.mark.parametrize(
    ("ports", "flags", "delay", "opened"),
    [
        ((443, 40000), (SYN, SYN | ACK), 0, "1 flags"),  # a client of a low port
        ((443, 40000), (SYN, RST | ACK), 0, "1 flags"),  # a scan, refused
        ((50001, 50000), (RST | ACK, SYN), 0, "2 flags"),
        ((50001, 50000), (SYN, SYN), 0, "1 unknown"),  # both opened it
        ((40000, 443), (0x1B, 0x1B), 5, "1 ports"),
        ((40000, 443), (0x1B, 0x1B), -5, "1 ports"),
        ((20000, 50051), (0x1B, 0x1B), 5, "1 flags"),  # both handshakes: SYN came first
        ((20000, 50051), (0x1B, 0x18), 5, "2 ports"),
        ((40000, 443), (RST, SYN | ACK), 5, "1 ports"),  # an answer to a SYN of a false source
        ((40000, 8080), (ACK, ACK), -5, "1 ports"),
        ((50001, 50000), (ACK, ACK), 5, "1 time"),
        ((50001, 50000), (ACK, ACK), -5, "2 time"),
        ((500, 500), (0, 0), 0, "1 unknown"),
        ((0, 443), (0, 0), 0, "1 unknown"),
    ],
)
@pytest.mark.parametrize("answer_first", [False, True])
def test_who_opened_a_flow_of_two_directions(
    ports: tuple[int, int], flags: tuple[int, int], delay: int, opened: str, answer_first: bool
) -> None:
    there = record(A, B, ports, tcp_flags=flags[0])
    back = answer(there, tcp_flags=flags[1])
    back["start_us"] += delay
    if answer_first and opened.endswith("unknown"):
        opened = "2 unknown"
    (flow,), counts = run(*([back, there] if answer_first else [there, back]))
    assert f"{flow[0]} {flow.split()[2]}" == opened
    assert not counts


@pytest.mark.parametrize(
    ("one", "opened"),
    [
        (record(A, B, (443, 40000), tcp_flags=SYN), "1 flags"),
        (record(A, B, (443, 40000), tcp_flags=SYN | ACK), "2 ports"),
        (record(A, B, (8080, 40000), protocol=17), "2 ports"),
        (record(A, B, (40000, 53), protocol=17), "1 ports"),
        (record(A, B, (53, 53), protocol=17), "1 unknown"),
        (record(A, B, (50000, 50001), tcp_flags=SYN | ACK, fwd_packets=1), "2 flags"),
        (record(A, B, (50000, 50001), tcp_flags=RST | ACK, fwd_packets=1), "2 flags"),
        (record(A, B, (50000, 50001), tcp_flags=SYN | ACK, fwd_packets=1, sampling=100), "1 unknown"),
        (record(A, B, (50000, 50001), tcp_flags=SYN | ACK | PSH | FIN), "1 unknown"),
        (record(A, B, (50000, 443), tcp_flags=SYN | ACK, fwd_packets=1), "1 ports"),  # a probe
        (record(A, B, (50000, 443), tcp_flags=RST | ACK, fwd_packets=1), "1 ports"),  # a client gives up
        (record(A, B, (443, 40000), initiator=4), "1 exporter"),
        (icmp(A, B, 8), "1 ports"),
        (icmp(A, B, 0), "2 ports"),
        (icmp(A, B, 3), "1 unknown"),
        (icmp("fe80::1", "fe80::2", 129, protocol=58), "2 ports"),
        (icmp("fe80::1", "fe80::2", 128, protocol=58), "1 ports"),
        (record(A, B, (0, 0), protocol=47), "1 unknown"),
    ],
)
@pytest.mark.parametrize("pair", [False, True])
def test_who_opened_a_flow_of_one_direction(one: Records, opened: str, pair: bool) -> None:
    (flow,), counts = run(one, pair=pair)
    assert f"{flow[0]} {flow.split()[2]}" == opened
    swapped = opened.startswith("2")
    assert flow.split()[1] == ("0/1000" if swapped else "1000/0")
    assert counts.get("turned_round", 0) == swapped


def test_icmp_pairs_whatever_its_types_and_replies_go_before_errors() -> None:
    ask, error, reply = icmp(A, B, 8), icmp(B, A, 3, fwd_bytes=3), icmp(B, A, 0, fwd_bytes=5)
    assert run(reply, ask)[0] == ["1=2 1000/5 ports"]
    assert run(ask, error)[0] == ["1=2 1000/3 ports"]
    assert run(error, reply, ask)[0] == ["1=2 1000/5 ports", "2-1 3/0 unknown"]
    crossing = [ask, icmp(B, A, 8, fwd_bytes=8), icmp(A, B, 0, fwd_bytes=9), reply]
    assert run(*crossing) == (["2=1 8/9 ports", "1=2 1000/5 ports"], {})
    late = icmp(B, A, 0, arrives=3, fwd_bytes=5)
    assert run(ask, late, hold_s=1)[0] == ["1-2 1000/0 ports", "1-2 0/5 ports +"]
