"""Times of flows: every encoding, and what happens to impossible ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.ingest.netflow.messages import (
    ADDRESS,
    FLOW,
    NOW_S,
    NOW_US,
    TIMED,
    UP_MS,
    VARIABLE,
    Fields,
    decode,
    flow,
    ipfix,
    timed,
    v5,
    v5_record,
    v9,
)
from thalweg.ingest.netflow.config import DecoderConfig
from thalweg.ingest.netflow.datagrams import Datagrams
from thalweg.ingest.netflow.decoder import Decoder

SECOND = 1_000_000
DAY = 86_400 * SECOND
PROCESS: Fields = ((144, 4),)


def ints(*pairs: tuple[int, int]) -> bytes:
    """Return numbers one after the other: (value, octets) each."""
    return b"".join(value.to_bytes(octets, "big") for value, octets in pairs)


def one(payload: bytes, decoder: Decoder | None = None, at_us: int = NOW_US) -> Any:
    (record,) = decode(decoder or Decoder(), payload, at_us=at_us)
    return record


def uptimes(first: int, last: int, *, uptime: int = UP_MS, seconds: int = NOW_S) -> Any:
    fields = (*FLOW, (22, 4), (21, 4))
    payload = v9(templates={256: fields}, data={256: [flow() + ints((first, 4), (last, 4))]}, uptime=uptime)
    assert seconds == NOW_S
    return one(payload)


def test_uptimes_count_back_from_the_export() -> None:
    found = uptimes(UP_MS - 5_000, UP_MS - 2_000)
    assert (found["start_us"], found["end_us"]) == (NOW_US - 5 * SECOND, NOW_US - 2 * SECOND)


def test_uptimes_that_wrap_after_49_days_are_understood() -> None:
    found = uptimes(2**32 - 2_000, 1_000, uptime=3_000)
    assert (found["start_us"], found["end_us"]) == (NOW_US - 5 * SECOND, NOW_US - 2 * SECOND)
    (found,) = decode(Decoder(), v5(v5_record(first=2**32 - 2_000, last=1_000), uptime=3_000))
    assert (found["start_us"], found["end_us"]) == (NOW_US - 5 * SECOND, NOW_US - 2 * SECOND)


STARTED_MS = NOW_S * 1_000 - 60_000
FAR_MS = (NOW_S * 1_000 + 2**31 - 500) % 2**32
"""Just before the uptime that is as far from now as can be, if the exporter had started in 1970."""


def test_ipfix_uptimes_need_to_know_when_the_exporter_started() -> None:
    fields = (*FLOW, (22, 4), (21, 4))
    data = {256: [flow() + ints((50_000, 4), (55_000, 4))]}
    decoder = Decoder()
    found = one(ipfix(templates={256: fields}, data=data), decoder)
    assert (found["start_us"], found["end_us"]) == (NOW_US - 5 * SECOND, NOW_US)
    decode(decoder, ipfix(options={300: (PROCESS, ((160, 8),))}, data={300: [bytes(4) + ints((STARTED_MS, 8))]}))
    found = one(ipfix(data=data), decoder)
    assert (found["start_us"], found["end_us"]) == (NOW_US - 10 * SECOND, NOW_US - 5 * SECOND)


def test_ipfix_records_may_say_themselves_when_the_exporter_started() -> None:
    fields = (*FLOW, (22, 4), (21, 4), (160, 8))
    record = flow() + ints((50_000, 4), (55_000, 4))
    data = [record + ints((STARTED_MS, 8)), record + bytes(8)]
    known, unknown = decode(Decoder(), *[ipfix(templates={256: fields}, data={256: [each]}) for each in data])
    assert (known["start_us"], known["end_us"]) == (NOW_US - 10 * SECOND, NOW_US - 5 * SECOND)
    assert (unknown["start_us"], unknown["end_us"]) == (NOW_US - 5 * SECOND, NOW_US)


@pytest.mark.parametrize(
    ("fields", "values", "lasts_us", "end_us"),
    [
        (((22, 4), (21, 4)), ints((2**32 - 2_000, 4), (1_000, 4)), 3 * SECOND, 0),  # it wraps within the flow
        (((22, 4), (21, 4)), ints((2**31 - 2_000, 4), (2**31 + 1_000, 4)), 3 * SECOND, 0),
        (((22, 4), (21, 4)), ints((FAR_MS, 4), (FAR_MS + 1_000, 4)), SECOND, 0),
        (((22, 4), (21, 4)), ints((9_000, 4), (1_000, 4)), 0, 0),  # it ends before it starts
        (((22, 4), (21, 4)), ints((7_000, 4), (7_000, 4)), 0, 0),
        (((21, 4), (161, 4)), ints((0x8EC6D4FA, 4), (20_269, 4)), 20_269_000, 0),
        (((22, 4), (162, 4)), ints((0x8EC6D4FA, 4), (20_269, 4)), 20_269, 0),
        (((22, 8), (21, 8)), ints((50_000, 8), (55_000, 8)), 5 * SECOND, 0),
        (((22, 4),), ints((50_000, 4)), 0, 0),
        (((21, 4),), ints((50_000, 4)), 0, 0),
        (((152, 8), (21, 4)), ints((NOW_S * 1_000 - 5_000, 8), (50_000, 4)), 0, -5 * SECOND),
        (((22, 4), (153, 8)), ints((50_000, 4), (NOW_S * 1_000 - 5_000, 8)), 0, -5 * SECOND),
        (((22, 4), (153, 8), (161, 4)), ints((9, 4), (NOW_S * 1_000 - 5_000, 8), (77, 4)), 77_000, -5 * SECOND),
        (((152, 8), (21, 4), (161, 4)), ints((NOW_S * 1_000 - 5_000, 8), (9, 4), (77, 4)), 77_000, -4_923_000),
    ],
)  # fmt: skip
@pytest.mark.parametrize("more", [(), ((82, VARIABLE),)], ids=["fixed", "variable"])
def test_ipfix_uptimes_of_an_unknown_start_still_say_how_long_a_flow_lasted(
    fields: Fields, values: bytes, lasts_us: int, end_us: int, more: Fields
) -> None:
    decoder = Decoder()
    record = flow() + values + (b"\x03eth" if more else b"")
    found = one(ipfix(templates={256: (*FLOW, *fields, *more)}, data={256: [record]}), decoder)
    assert (int(found["end_us"] - found["start_us"]), int(found["end_us"]) - NOW_US) == (lasts_us, end_us)


def test_each_of_many_records_keeps_its_own_duration_while_others_have_times() -> None:
    decoder = Decoder()
    fields = (*FLOW, (22, 4), (21, 4), (160, 8))
    records = [flow() + ints((50_000, 4), (50_000 + 1_000 * i, 4), (0, 8)) for i in range(5)]
    known = flow() + ints((50_000, 4), (55_000, 4), (STARTED_MS, 8))
    payloads = [ipfix(templates={256: fields}, data={256: records}), ipfix(data={256: [known]})]
    found = decode(decoder, *payloads, payloads[0])
    lengths = (found["end_us"] - found["start_us"]) // SECOND
    assert lengths.tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4]
    assert found["end_us"][5] == NOW_US - 5 * SECOND
    assert (np.delete(found["end_us"], 5) == NOW_US).all()


@pytest.mark.parametrize(
    ("start_s", "end_s", "wanted_start_s", "wanted_end_s"),
    [
        (-5, -1, -5, -1),
        (-5, 50, -5, 50),  # clocks are not that exact
        (-1, -5, -5, -5),  # it ends before it starts
        (-5, 600, -605, 0),  # in the future: as long as it says, up to its export
        (-20 * 86_400, -10, -20 * 86_400, -10),
        (-60 * 86_400, -10, -10, -10),  # longer than flows can be
        (-8 * 86_400 - 5, -8 * 86_400, -5, 0),  # over a week ago
    ],
)
def test_times_that_cannot_be_are_mended_and_counted(
    start_s: int, end_s: int, wanted_start_s: int, wanted_end_s: int
) -> None:
    decoder = Decoder()
    record = timed((NOW_S + start_s) * 1_000, (NOW_S + end_s) * 1_000)
    found = one(ipfix(templates={256: TIMED}, data={256: [record]}), decoder)
    assert (int(found["start_us"]) - NOW_US) / SECOND == wanted_start_s
    assert (int(found["end_us"]) - NOW_US) / SECOND == wanted_end_s
    mended = (start_s, end_s) != (wanted_start_s, wanted_end_s)
    assert decoder.exporters.totals()["corrected_times"] == mended


@pytest.mark.parametrize("years", [-50, -3, 10])
def test_an_exporter_whose_clock_is_years_off_is_taken_at_its_arrival(years: int) -> None:
    seconds = NOW_S + years * 365 * 86_400
    decoder = Decoder()
    times = timed((seconds - 7) * 1_000, (seconds - 3) * 1_000)
    found = one(ipfix(templates={256: TIMED}, data={256: [times]}, seconds=seconds), decoder)
    assert (found["start_us"], found["end_us"]) == (NOW_US - 7 * SECOND, NOW_US - 3 * SECOND)
    found = one(v5(v5_record(), seconds=seconds), decoder)
    assert (found["start_us"], found["end_us"]) == (NOW_US - 5 * SECOND, NOW_US - SECOND)
    assert decoder.exporters.describe()[0]["clock_error_s"] == years * 365 * 86_400
    assert decoder.exporters.totals()["corrected_times"] == 2


NTP_S = 2_208_988_800 + NOW_S
HALF = 1 << 31


@pytest.mark.parametrize(
    ("fields", "values", "start_us", "end_us"),
    [
        (((150, 4), (151, 4)), ints((NOW_S - 5, 4), (NOW_S - 2, 4)), -5_000_000, -2_000_000),
        (((154, 8), (155, 8)), ints((NTP_S - 5, 4), (HALF, 4), (NTP_S - 2, 4), (0, 4)), -4_500_000, -2_000_000),
        (((156, 8), (157, 8)), ints((NTP_S - 5, 4), (0, 4), (NTP_S - 2, 4), (HALF, 4)), -5_000_000, -1_500_000),
        (((158, 4), (159, 4)), ints((5_000_123, 4), (2_000_000, 4)), -5_000_123, -2_000_000),
        (((152, 8), (161, 4)), ints((NOW_S * 1000 - 5_000, 8), (1_500, 4)), -5_000_000, -3_500_000),
        (((152, 8), (162, 4)), ints((NOW_S * 1000 - 5_000, 8), (1_500, 4)), -5_000_000, -4_998_500),
        (((153, 8), (161, 4)), ints((NOW_S * 1000 - 1_000, 8), (1_500, 4)), -2_500_000, -1_000_000),
        (((161, 4),), ints((1_500, 4)), -1_500_000, 0),
        (((162, 4),), ints((1_500, 4)), -1_500, 0),
        (((152, 8),), ints((NOW_S * 1000 - 5_000, 8)), -5_000_000, -5_000_000),
        (((153, 8),), ints((NOW_S * 1000 - 5_000, 8)), -5_000_000, -5_000_000),
        (((210, 4),), bytes(4), 0, 0),
        (((161, 8),), b"\xff" * 8, 0, 0),
        (((152, 8), (162, 8)), ints((NOW_S * 1000 - 5_000, 8)) + b"\xff" * 8, 0, 0),
        (((152, 8), (153, 8)), b"\xff" * 16, 0, 0),
    ],
)  # fmt: skip
def test_times_are_read_in_every_form(fields: Fields, values: bytes, start_us: int, end_us: int) -> None:
    found = one(ipfix(templates={256: (*FLOW, *fields)}, data={256: [flow() + values]}))
    assert (int(found["start_us"]) - NOW_US, int(found["end_us"]) - NOW_US) == (start_us, end_us)


@pytest.mark.parametrize("octets", [v5(v5_record()), v9(), ipfix()])
def test_clocks_that_run_near_are_unchanged(octets: bytes) -> None:
    decoder = Decoder()
    decode(decoder, octets, at_us=NOW_US + DAY - SECOND)
    assert decoder.exporters.totals()["corrected_times"] == 0
    assert np.isclose(decoder.exporters.describe()[0]["clock_error_s"], -86_399)


CITRIX = (133, 4, 5951)


@pytest.mark.parametrize(
    ("start", "end", "lasts_us"),
    [(754_435, 765_431, 10_996), (0, 999_999, 999_999), (1_000_000, HALF, 499_768), (HALF, HALF + 4_295, 1)],
)
def test_the_fraction_of_a_netscaler_is_microseconds_unless_it_is_too_large(
    start: int, end: int, lasts_us: int
) -> None:
    values = ints((NTP_S - 5, 4), (start, 4), (NTP_S - 5, 4), (end, 4))
    fields = (*FLOW, (154, 8), (155, 8), CITRIX)
    found = one(ipfix(templates={256: fields}, data={256: [flow() + values + bytes(4)]}))
    assert abs(int(found["end_us"] - found["start_us"]) - lasts_us) <= 1
    assert NOW_US - 5 * SECOND <= found["start_us"] < NOW_US - 4 * SECOND
    others = one(ipfix(templates={256: (*FLOW, (154, 8), (155, 8))}, data={256: [flow() + values]}))
    assert int(others["end_us"] - others["start_us"]) == (end * SECOND >> 32) - (start * SECOND >> 32)


@pytest.mark.parametrize("unit", [1, 1_000])
def test_times_since_1970_in_the_place_of_ntp_are_understood(unit: int) -> None:
    values = ints(((NOW_US - 5 * SECOND) * unit, 8), ((NOW_US - 2 * SECOND + 3) * unit, 8))
    for fields in (((154, 8), (155, 8)), ((156, 8), (157, 8))):
        found = one(ipfix(templates={256: (*FLOW, *fields)}, data={256: [flow() + values]}))
        assert (found["start_us"], found["end_us"]) == (NOW_US - 5 * SECOND, NOW_US - 2 * SECOND + 3)


@pytest.mark.parametrize("days", [-700, -58, -2, 2, 700])
@pytest.mark.parametrize("version", [5, 9, 10])
def test_a_capture_whose_clock_is_off_is_dated_by_its_exporters(days: int, version: int) -> None:
    seconds = NOW_S + days * 86_400
    payloads = {
        5: v5(v5_record(), seconds=seconds),
        9: v9(
            templates={256: (*FLOW, (22, 4), (21, 4))},
            data={256: [flow() + ints((UP_MS - 5_000, 4), (UP_MS - 1_000, 4))]}, seconds=seconds,
        ),
        10: ipfix(
            templates={256: TIMED}, data={256: [timed(seconds * 1_000 - 5_000, seconds * 1_000 - 1_000)]},
            seconds=seconds,
        ),
    }  # fmt: skip
    decoder = Decoder()
    (found,) = decoder.decode(Datagrams.of([(payloads[version], NOW_US, *ADDRESS)], are_captured=True))
    wanted = NOW_US + days * DAY
    assert (found["start_us"], found["end_us"]) == (wanted - 5 * SECOND, wanted - SECOND)
    assert decoder.tally.as_dict() == {"misdated_packets": 1}
    assert decoder.exporters.totals()["corrected_times"] == 0


def test_an_exporter_whose_clock_was_never_set_is_dated_by_the_capture() -> None:
    for seconds in (7, 1_014_940_800):  # 1970; 1 March 2002, where Cisco's clocks begin
        decoder = Decoder()
        payload = v5(v5_record(), seconds=seconds)
        (found,) = decoder.decode(Datagrams.of([(payload, NOW_US, *ADDRESS)], are_captured=True))
        assert (found["start_us"], found["end_us"]) == (NOW_US - 5 * SECOND, NOW_US - SECOND)
        assert not decoder.tally
        assert decoder.exporters.totals()["corrected_times"] == 1


def test_a_captures_clock_is_not_believed_however_its_datagrams_are_split() -> None:
    payloads = [(v5(v5_record(), seconds=NOW_S + 9 * 86_400), NOW_US, 0, i) for i in range(20)]
    decoder = Decoder(DecoderConfig(max_exporters=8))
    found = decoder.decode(Datagrams.of(payloads, are_captured=True))
    assert (found["end_us"] == NOW_US + 9 * DAY - SECOND).all()
    assert decoder.tally["misdated_packets"] == 20
