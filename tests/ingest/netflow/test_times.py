"""Times of flows: every encoding, and what happens to impossible ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.ingest.netflow.messages import (
    FLOW,
    NOW_S,
    NOW_US,
    TIMED,
    UP_MS,
    Fields,
    decode,
    flow,
    ipfix,
    timed,
    v5,
    v5_record,
    v9,
)
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


def test_ipfix_uptimes_need_to_know_when_the_exporter_started() -> None:
    fields = (*FLOW, (22, 4), (21, 4))
    data = {256: [flow() + ints((50_000, 4), (55_000, 4))]}
    decoder = Decoder()
    found = one(ipfix(templates={256: fields}, data=data), decoder)
    assert (found["start_us"], found["end_us"]) == (NOW_US, NOW_US)
    decode(decoder, ipfix(options={300: (PROCESS, ((160, 8),))}, data={300: [bytes(4) + ints((STARTED_MS, 8))]}))
    found = one(ipfix(data=data), decoder)
    assert (found["start_us"], found["end_us"]) == (NOW_US - 10 * SECOND, NOW_US - 5 * SECOND)


def test_ipfix_records_may_say_themselves_when_the_exporter_started() -> None:
    fields = (*FLOW, (22, 4), (21, 4), (160, 8))
    record = flow() + ints((50_000, 4), (55_000, 4))
    data = [record + ints((STARTED_MS, 8)), record + bytes(8)]
    known, unknown = decode(Decoder(), *[ipfix(templates={256: fields}, data={256: [each]}) for each in data])
    assert (known["start_us"], known["end_us"]) == (NOW_US - 10 * SECOND, NOW_US - 5 * SECOND)
    assert (unknown["start_us"], unknown["end_us"]) == (NOW_US, NOW_US)


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
