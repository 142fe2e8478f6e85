"""Missing datagrams, by the sequence numbers of exporters."""

from __future__ import annotations

from typing import Any

import pytest

from tests.ingest.netflow.messages import FLOW, NOW_S, NOW_US, Fields, decode, flow, ipfix, set_of, v5, v5_record, v9
from thalweg.ingest.netflow.config import DecoderConfig
from thalweg.ingest.netflow.decoder import Decoder

TOP = 2**32
PROCESS: Fields = ((144, 4),)


def of_v5(sequence: int, seconds: int = NOW_S) -> bytes:
    """Return a datagram of two flows; v5 numbers flows."""
    return v5(v5_record(), v5_record(), sequence=sequence % TOP, seconds=seconds)


def of_v9(sequence: int, seconds: int = NOW_S) -> bytes:
    """Return a datagram of two flows; v9 numbers datagrams."""
    return v9(templates={256: FLOW}, data={256: [flow(), flow()]}, sequence=sequence % TOP, seconds=seconds)


def of_ipfix(sequence: int, seconds: int = NOW_S) -> bytes:
    """Return a message of two records; IPFIX numbers records."""
    return ipfix(templates={256: FLOW}, data={256: [flow(), flow()]}, sequence=sequence % TOP, seconds=seconds)


KINDS = pytest.mark.parametrize(("make", "step"), [(of_v5, 2), (of_v9, 1), (of_ipfix, 2)], ids=["v5", "v9", "ipfix"])


def counts(decoder: Decoder) -> tuple[int, int, int]:
    total = decoder.exporters.totals()
    return total["lost"], total["reordered_datagrams"], total["sequence_resets"]


@KINDS
@pytest.mark.parametrize("begin", [0, 1_000, TOP - 4])
def test_nothing_is_missing_where_the_numbers_go_on_even_over_their_end(make: Any, step: int, begin: int) -> None:
    decoder = Decoder()
    decode(decoder, *[make(begin + i * step) for i in range(10)])
    assert counts(decoder) == (0, 0, 0)


@KINDS
@pytest.mark.parametrize("begin", [1_000, TOP - 4])
def test_what_is_missing_is_counted(make: Any, step: int, begin: int) -> None:
    decoder = Decoder()
    decode(decoder, *[make(begin + i * step) for i in (0, 1, 4, 5)])
    assert counts(decoder) == (2 * step, 0, 0)


@KINDS
@pytest.mark.parametrize("begin", [1_000, TOP - 2])
def test_what_comes_late_is_not_missing(make: Any, step: int, begin: int) -> None:
    decoder = Decoder()
    decode(decoder, *[make(begin + i * step) for i in (0, 2, 1, 3, 4, 5, 6)])
    assert counts(decoder) == (0, 1, 0)


@KINDS
@pytest.mark.parametrize("before", [50, 90_000, 3_000_000_000])
def test_an_exporter_that_restarts_has_lost_nothing(make: Any, step: int, before: int) -> None:
    decoder = Decoder()
    decode(decoder, make(before), *[make(i * step, NOW_S + 1 + i) for i in range(5)])
    assert counts(decoder) == (0, 0, 1)


@KINDS
def test_an_exporter_that_restarts_in_1970_has_lost_nothing(make: Any, step: int) -> None:
    decoder = Decoder()
    decode(decoder, make(50), *[make(i * step, 10 + i) for i in range(5)])
    assert counts(decoder) == (0, 0, 1)


def test_records_of_options_count_in_ipfix() -> None:
    decoder = Decoder()
    options = {300: (PROCESS, ((41, 4),))}
    decode(
        decoder,
        ipfix(options=options, sequence=7),
        ipfix(data={300: [bytes(8)] * 3}, sequence=7),
        ipfix(data={300: [bytes(8)]}, sequence=10),
        ipfix(sequence=11),
    )
    assert counts(decoder) == (0, 0, 0)


def test_a_message_that_cannot_be_decoded_yet_does_not_make_the_next_one_look_lost() -> None:
    decoder = Decoder()
    decode(decoder, ipfix(data={256: [flow()] * 9}, sequence=5), of_ipfix(14), of_ipfix(16))
    assert counts(decoder) == (0, 0, 0)
    decode(decoder, ipfix(data={400: [flow()] * 9}, sequence=18), of_ipfix(27), of_ipfix(31))
    assert counts(decoder) == (2, 0, 0)


def numbered(version: int, sizes: list[int], steps: list[int], begin: int = 100, seconds: int = NOW_S) -> list[bytes]:
    """Return datagrams of so many records each, whose sequence numbers are so far apart; the first step is ignored."""
    found: list[bytes] = []
    for size, step in zip(sizes, steps, strict=True):
        begin = begin + step if found else begin
        if version == 5:
            found.append(v5(*[v5_record()] * size, sequence=begin % TOP, seconds=seconds))
        else:
            make = v9 if version == 9 else ipfix
            data = {256: [flow()] * size} if size else None
            found.append(make(templates={256: FLOW}, data=data, sequence=begin % TOP, seconds=seconds))
    return found


SIZES = [3, 7, 1, 20, 2, 9, 5, 4, 11, 6]
BEFORE = [0, *SIZES[:-1]]
UNITS = {
    "datagrams": [1] * 10,
    "records": BEFORE,
    "flows of one or two records": [0, *[(size + 1) // 2 for size in SIZES[:-1]]],
    "records, its own included": SIZES,
    "nothing": [0] * 10,
}


@pytest.mark.parametrize("version", [5, 9, 10])
@pytest.mark.parametrize("steps", UNITS.values(), ids=UNITS)
@pytest.mark.parametrize("begin", [0, 1_000, TOP - 12])
@pytest.mark.parametrize("at_once", [True, False])
def test_nothing_is_missing_whatever_an_exporter_counts(
    version: int, steps: list[int], begin: int, at_once: bool
) -> None:
    payloads = numbered(version, SIZES, steps, begin)
    decoder = Decoder()
    if at_once:
        decode(decoder, *payloads)
    else:
        for payload in payloads:
            decode(decoder, payload)
            other = Decoder()
            other.restore(decoder.state())
            decoder = other
    assert counts(decoder) == (0, 0, 0)


@pytest.mark.parametrize("version", [5, 9, 10])
@pytest.mark.parametrize("name", ["datagrams", "records", "records, its own included"])
def test_what_is_missing_is_counted_in_the_unit_of_the_exporter(version: int, name: str) -> None:
    sizes, steps = SIZES * 2, [*UNITS[name], *UNITS[name]]
    if name == "records":
        steps[10] = SIZES[-1]
    steps[15] += 50
    decoder = Decoder()
    decode(decoder, *numbered(version, sizes, steps))
    assert counts(decoder) == (50, 0, 0)
    is_usual = name == ("datagrams" if version == 9 else "records")
    assert (decoder.exporters.describe()[0]["sequence"] == "as its version says") == is_usual


@pytest.mark.parametrize(
    ("version", "sizes", "steps", "lost"),
    [
        (9, [2, 2, 2, 2, 2, 2], [0, 1, 2, 1, 1, 1], 1),  # as if records were counted
        (9, [4, 4, 4, 4, 4, 4], [0, 4, 4, 1, 1, 1], 6),
        (10, [2, 2, 5, 2, 2, 2], [0, 2, 5, 5, 2, 2], 3),  # as if a message's own records were
        (5, [2, 2, 6, 2, 2, 2], [0, 2, 6, 6, 2, 2], 4),
    ],
)
def test_a_gap_that_another_unit_could_explain_is_counted_when_the_next_numbers_do_not(
    version: int, sizes: list[int], steps: list[int], lost: int
) -> None:
    decoder = Decoder()
    decode(decoder, *numbered(version, sizes, steps))
    assert counts(decoder) == (lost, 0, 0)


def test_an_exporter_that_is_updated_counts_as_its_version_says_again() -> None:
    decoder = Decoder()
    decode(decoder, *numbered(9, SIZES, BEFORE))
    decode(decoder, *numbered(9, SIZES * 2, [1] * 20, 0, NOW_S + 60))
    assert counts(decoder) == (0, 0, 1)
    assert decoder.exporters.describe()[0]["sequence"] == "datagrams"
    decode(decoder, *numbered(9, SIZES, [1] * 10, 29, NOW_S + 60))
    assert counts(decoder) == (9, 0, 1)


def test_a_datagram_that_came_twice_is_reordered_and_nothing_else() -> None:
    for version in (5, 9, 10):
        decoder = Decoder()
        payloads = numbered(version, SIZES, UNITS["datagrams"] if version == 9 else BEFORE)
        decode(decoder, *[payload for payload in payloads for _ in range(2)])
        assert counts(decoder) == (0, 10 - 1, 0), version


def test_each_domain_and_version_has_numbers_of_its_own() -> None:
    decoder = Decoder()
    for i in range(3):
        decode(
            decoder,
            v9(sequence=i, domain=1),
            v9(sequence=500 + i, domain=2),
            ipfix(sequence=9_000, domain=1),
            v5(v5_record(), sequence=70 + i, engine=1),
        )
    assert counts(decoder) == (0, 0, 0)
    assert len(decoder.exporters.rows) == 4


def test_what_forgotten_exporters_had_lost_stays_in_the_totals() -> None:
    decoder = Decoder(DecoderConfig(max_exporters=2))
    for i in range(10):
        decode(decoder, of_v5(0), of_v5(12), v9(set_of(999, b"?")), lo=i, at_us=NOW_US + i)
    total = decoder.exporters.totals()
    assert (total["lost"], total["flows"], total["datagrams"]) == (100, 40, 30)
    assert total["sets_without_template"] + len(decoder.held) == 10
