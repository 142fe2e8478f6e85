"""Counters that run since a flow began: each octet is counted once, however often it is reported."""

from __future__ import annotations

import json
import struct
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from tests.ingest.netflow.messages import (
    ADDRESS,
    NOW_S,
    NOW_US,
    UP_MS,
    VARIABLE,
    Fields,
    decode,
    ip,
    ipfix,
    v9,
    variable,
)
from thalweg.ingest.assembler import Assembler
from thalweg.ingest.netflow import totals
from thalweg.ingest.netflow.datagrams import Datagrams
from thalweg.ingest.netflow.decoder import Decoder
from thalweg.ingest.netflow.totals import Totals
from thalweg.ingest.pairing.config import PairingConfig
from thalweg.ingest.pairing.pairing import Pairing

KEY: Fields = ((8, 4), (12, 4), (7, 2), (11, 2), (4, 1))
TIMES: Fields = ((152, 8), (153, 8))
START_MS = NOW_S * 1000 - 600_000
MINUTE = 60_000


def key(port: int = 40_000, protocol: int = 6) -> bytes:
    return ip("10.1.0.1") + ip("10.2.0.2") + struct.pack(">HHB", port, 443, protocol)


def answer_key(port: int = 40_000) -> bytes:
    return ip("10.2.0.2") + ip("10.1.0.1") + struct.pack(">HHB", 443, port, 6)


def span(minutes: float, start_ms: int = START_MS) -> bytes:
    """Return the start and the end of a flow that runs since `start_ms`."""
    return struct.pack(">QQ", start_ms, START_MS + round(minutes * MINUTE))


def of(records: Any, *columns: str) -> list[tuple[int, ...]]:
    return [tuple(int(one[column]) for column in columns) for one in records]


def each(decoder: Decoder, template: Fields, *rows: bytes, message: Any = ipfix) -> Any:
    """Decode records, a datagram each."""
    decode(decoder, message(templates={256: template}))
    return np.concatenate([decode(decoder, message(data={256: [row]})) for row in rows])


@pytest.mark.parametrize("message", [v9, ipfix])
@pytest.mark.parametrize(("octets", "packets"), [(85, 86), (353, 431), (171, 172)])
@pytest.mark.parametrize("length", [4, 8])
def test_totals_are_counted_once(message: Any, octets: int, packets: int, length: int) -> None:
    template = (*KEY, (octets, length), (packets, length), *TIMES)
    rows = [
        key() + (1_000_000 * i).to_bytes(length, "big") + (1_000 * i).to_bytes(length, "big") + span(i)
        for i in (1, 2, 3)
    ]
    decoder = Decoder()
    found = each(decoder, template, *rows, message=message)
    assert of(found, "fwd_bytes", "fwd_packets") == [(1_000_000, 1_000)] * 3
    minutes = [(START_MS + i * MINUTE) * 1000 for i in range(4)]
    assert of(found, "start_us", "end_us") == list(pairwise(minutes))
    assert decoder.tally.as_dict() == {"reduced_totals": 2}


BOTH = (*KEY, (85, 8), (86, 8), *TIMES)


def row(octets: int, packets: int, minutes: float, *, port: int = 40_000, start_ms: int = START_MS) -> bytes:
    """Return a record of BOTH."""
    return key(port) + struct.pack(">QQ", octets, packets) + span(minutes, start_ms)


def test_the_cut_into_calls_changes_nothing() -> None:
    rows = [row(100 * i, i, i, port=40_000 + port) for i in (1, 2, 3) for port in range(5)]
    payload = ipfix(templates={256: BOTH}, data={256: rows})
    assert of(decode(Decoder(), payload), "fwd_bytes") == of(each(Decoder(), BOTH, *rows), "fwd_bytes") == [(100,)] * 15


def test_a_flow_that_starts_anew_adds_up() -> None:
    """YAF counts from 0 again after its active timeout, from the next packet on."""
    rows = [row(500, 5, 1), row(300, 3, 2, start_ms=START_MS + MINUTE), row(400, 4, 3, start_ms=START_MS + 2 * MINUTE)]
    decoder = Decoder()
    assert of(each(decoder, BOTH, *rows), "fwd_bytes", "fwd_packets") == [(500, 5), (300, 3), (400, 4)]
    assert decoder.tally.as_dict() == {}


def test_flows_of_one_key_that_run_at_once_are_told_apart_by_their_start() -> None:
    template = BOTH
    rows = []
    for i in (1, 2):
        for start in range(3):
            values = struct.pack(">QQ", 100 * i + start, i)
            rows.append(key(protocol=47) + values + span(i, START_MS + start))
    assert of(each(Decoder(), template, *rows), "fwd_bytes") == [(100,), (101,), (102,), (100,), (100,), (100,)]


def test_what_adds_nothing_is_left_out_and_counted() -> None:
    decoder = Decoder()
    rows = [row(500, 5, 1), row(500, 5, 1), row(500, 5, 2), row(400, 4, 0.5), row(600, 6, 3)]
    assert of(each(decoder, BOTH, *rows), "fwd_bytes", "fwd_packets") == [(500, 5), (100, 1)]
    assert decoder.tally.as_dict() == {"reduced_totals": 1, "repeated_totals": 3}
    assert decoder.exporters.describe()[0]["flows"] == 2


def test_a_counter_that_ran_over_or_restarted_starts_at_0() -> None:
    template = (*KEY, (85, 4), (86, 4), *TIMES)
    rows = [
        key() + struct.pack(">II", *values) + span(i) for i, values in enumerate([(2**32 - 5, 9), (7, 11), (9, 12)], 1)
    ]
    assert of(each(Decoder(), template, *rows), "fwd_bytes", "fwd_packets") == [(2**32 - 5, 9), (7, 2), (2, 1)]


def test_totals_of_both_directions_are_reduced_each() -> None:
    template = (*KEY, (85, 8), (86, 8), (85, 8, 29305), (86, 8, 29305), *TIMES)
    rows = [key() + struct.pack(">4Q", 10 * i, i, 500, 5) + span(i) for i in (1, 2)]
    found = each(Decoder(), template, *rows)
    assert of(found, "fwd_bytes", "fwd_packets", "bwd_bytes", "bwd_packets", "two_way") == [
        (10, 1, 500, 5, 1), (10, 1, 0, 0, 1),
    ]  # fmt: skip


def test_deltas_beside_totals_stay_as_they_are() -> None:
    template = (*KEY, (1, 8), (86, 8), *TIMES)
    found = each(Decoder(), template, *[key() + struct.pack(">QQ", 70, i) + span(i) for i in (1, 2)])
    assert of(found, "fwd_bytes", "fwd_packets") == [(70, 1), (70, 1)]
    # Viptela sends both; the counts since the last record are used.
    template = (*KEY, (85, 8), (1, 8), (86, 8), (2, 8), *TIMES)
    decoder = Decoder()
    found = each(decoder, template, *[key() + struct.pack(">4Q", 70 * i, 70, i, 1) + span(i) for i in (1, 2)])
    assert of(found, "fwd_bytes", "fwd_packets") == [(70, 1), (70, 1)]
    assert decoder.tally.as_dict() == {}


def test_totals_are_scaled_after_they_were_reduced() -> None:
    template = (*BOTH, (34, 4))
    found = each(Decoder(), template, *[row(10 * i, i, i) + struct.pack(">I", 100) for i in (1, 2)])
    assert of(found, "fwd_bytes", "fwd_packets", "sampling") == [(1_000, 100, 100)] * 2


def test_exporters_and_domains_do_not_share_totals() -> None:
    decoder = Decoder()
    payloads = [ipfix(templates={256: BOTH}, data={256: [row(10, 1, 1)]}, domain=domain) for domain in (1, 2)]
    assert of(decode(decoder, *payloads), "fwd_bytes") == [(10,)] * 2
    assert of(decode(decoder, payloads[0], lo=ADDRESS[1] + 1), "fwd_bytes") == [(10,)]


def test_a_start_by_uptime_is_recognised_though_the_headers_clock_is_cut_to_seconds() -> None:
    template = (*KEY, (85, 4), (22, 4), (21, 4))
    decoder = Decoder()
    decode(decoder, v9(templates={256: template}))
    found = []
    for i in (1, 2, 3):
        up = UP_MS + i * 60_400
        one = key() + struct.pack(">III", 100 * i, UP_MS - 1_000, up - 100)
        found += [*decode(decoder, v9(data={256: [one]}, uptime=up, seconds=NOW_S + i * 60_400 // 1_000))]
    assert of(found, "fwd_bytes") == [(100,)] * 3


def test_an_end_and_a_duration_give_a_start_too() -> None:
    template = (*KEY, (85, 4), (153, 8), (161, 4))
    rows = [key() + struct.pack(">IQI", 100 * i, START_MS + i * MINUTE, i * MINUTE) for i in (1, 2)]
    found = each(Decoder(), template, *rows)
    assert of(found, "fwd_bytes") == [(100,)] * 2
    assert found["end_us"][1] - found["start_us"][1] == MINUTE * 1000


def test_totals_without_a_start_are_taken_as_they_are() -> None:
    for template, values in (((*KEY, (85, 4)), b""), ((*KEY, (85, 4), *TIMES), bytes(16))):
        found = each(Decoder(), template, *[key() + struct.pack(">I", 100 * i) + values for i in (1, 2)])
        assert of(found, "fwd_bytes") == [(100,), (200,)]


def test_records_of_varying_length_are_reduced_too() -> None:
    found = each(Decoder(), (*BOTH, (82, VARIABLE)), *[row(10 * i, i, i) + variable(b"x" * i) for i in (1, 2)])
    assert of(found, "fwd_bytes") == [(10,)] * 2


def test_a_flow_released_long_ago_is_continued_by_what_was_added() -> None:
    decoder, pairing = Decoder(), Pairing(PairingConfig(hold_s=1))
    decode(decoder, ipfix(templates={256: BOTH}))
    flows = []
    for i in (1, 2, 3):
        there = row(1_000 * i, 10 * i, i)
        back = answer_key() + struct.pack(">QQ", 50_000 * i, 20 * i) + span(i)
        flows += [*pairing.feed(decode(decoder, ipfix(data={256: [there, back]})), NOW_US + i * 60_000_000)]
    assert of(flows, "fwd_bytes", "bwd_bytes", "continued") == [
        (1_000, 50_000, 0),
        (1_000, 50_000, 1),
        (1_000, 50_000, 1),
    ]


def test_a_restart_forgets_no_totals() -> None:
    first = Assembler()
    arrived = [(ipfix(templates={256: BOTH}, data={256: [row(10, 1, 1)]}), NOW_US, *ADDRESS)]
    first.decode(Datagrams.of(arrived))
    kept = first.state()
    json.dumps(kept["decoder"])
    second = Assembler()
    second.restore(kept)
    out = second.decode(Datagrams.of([(ipfix(data={256: [row(15, 2, 2)]}), NOW_US, *ADDRESS)]))
    flows = np.concatenate([out, second.flush()])
    assert int(flows["fwd_bytes"].sum()) == 15
    # The state of a version that kept none.
    del kept["decoder"]["totals"]
    Assembler().restore(kept)


def test_more_flows_than_are_remembered_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(totals, "_CAPACITY", 16)
    decoder = Decoder()
    rows = [row(100, 1, 1, port=port) for port in range(1_000, 1_100)]
    assert len(each(decoder, BOTH, *rows)) == 100
    assert decoder.tally["forgotten_totals"] >= 84
    state = decoder.totals.state()
    again = Totals(decoder.tally)
    again.restore(state)
    assert again.state() == state
