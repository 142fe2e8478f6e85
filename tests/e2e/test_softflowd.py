"""softflowd reads captures whose flows are known, and Thalweg and nfcapd receive the same datagrams from it."""

from __future__ import annotations

import time
from collections import Counter
from typing import Final

import polars as pl
import pytest

from tests.e2e.conftest import VERSIONS, SideBySide
from tests.e2e.programs import Listening, Relay, needs, softflowd, wait_until
from tests.e2e.traffic import OneWay, conversations, nfdump_flows, now_ms, true_flows, untimed, written_flows
from tests.ingest.captures.packets import Packet, write_pcap

pytestmark = needs("softflowd", "nfcapd", "nfdump")

_WRAP_MS: Final = 1 << 32
_DAY_MS: Final = 86_400_000


def exported(packets: list[Packet], version: int) -> Counter[OneWay]:
    """Return the true flows, with the times that the exporter can report.

    A header of v9 has the time in whole seconds, and the uptime in milliseconds (RFC 3954, section 5.1): all times
    are too early by the rest of the second of the export, which softflowd takes from the last packet.
    """
    rest = packets[-1].time_us // 1000 % 1000
    return true_flows(packets, shift_ms=-rest if version == 9 else 0)


def as_nfdump_has_them(flows: Counter[OneWay], version: int) -> Counter[OneWay]:
    """Return what nfdump 1.7.1 makes of them.

    Of IPFIX with uptimes (IE 21 and 22) it has the first and the last time changed over. Of v9 it does not read the
    type of ICMPv6 (IE 139). The packets, and IANA's registry of information elements, say otherwise.
    """
    found: Counter[OneWay] = Counter()
    for flow, num in flows.items():
        first, last, dst_port = flow.first_ms, flow.last_ms, flow.dst_port
        if version == 10:
            first, last = last, first
        elif version == 9 and flow.protocol == 58:
            dst_port = 0
        found[flow._replace(first_ms=first, last_ms=last, dst_port=dst_port)] += num
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_every_record_is_written_as_the_packets_were(
    collecting: Listening, side_by_side: SideBySide, version: int
) -> None:
    expected = exported(side_by_side.packets[version], version)
    assert expected.total() > 600
    assert written_flows(collecting.flows_of(VERSIONS[version], expected.total())) == expected


@pytest.mark.parametrize("version", VERSIONS)
def test_nfdump_has_the_very_same_records_but_for_its_known_faults(side_by_side: SideBySide, version: int) -> None:
    packets = side_by_side.packets[version]
    expected = as_nfdump_has_them(exported(packets, version), version)
    assert nfdump_flows(side_by_side.records[VERSIONS[version]]) == expected


@pytest.mark.parametrize("version", VERSIONS)
def test_the_exporter_is_described_and_nothing_of_it_is_lost(
    collecting: Listening, side_by_side: SideBySide, version: int
) -> None:
    num = true_flows(side_by_side.packets[version]).total()
    wait_until(lambda: collecting.exporter(VERSIONS[version]).get("flows") == num, f"{num} records are counted")
    found = collecting.exporter(VERSIONS[version])
    assert found["version"] == version
    assert found["sampling"] == 1
    assert found["malformed"] == found["other_records"] == found["sets_without_template"] == 0
    assert found["corrected_times"] == 0
    assert found["templates"] == ([] if version == 5 else [1024, 1025, 2048, 2049])
    if version != 10:  # softflowd counts a message's own records in its sequence; RFC 7011, section 3.1, those before
        assert found["lost"] == 0


@pytest.fixture(scope="module")
def read_late(collecting: Listening, tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[Packet]]:
    """Captures of long ago, read without -a: uptimes are then 32 bits of nonsense: times within 25 days.

    v5: in ten days; v9: twenty days ago; IPFIX: some flows begin in 25 days and end 25 days ago.
    """
    folder = tmp_path_factory.mktemp("late")
    past = now_ms() - 122 * _WRAP_MS  # 16.6 years
    begins = {5: past + 10 * _DAY_MS, 9: past - 20 * _DAY_MS, 10: past + (1 << 31) - 700}
    captured = {}
    for version, begin in begins.items():
        captured[version] = conversations(100 + version, begin, num=100, ipv6=version != 5)
        pcap = write_pcap(folder / f"{version}.pcap", captured[version])
        with Relay(f"127.0.0.{100 + version}", collecting.port) as relay:
            softflowd(pcap, relay.port, version)
    return captured


@pytest.mark.parametrize("version", VERSIONS)
def test_times_that_cannot_be_are_mended_and_counted_and_every_flow_is_kept(
    collecting: Listening, read_late: dict[int, list[Packet]], version: int
) -> None:
    source = f"127.0.0.{100 + version}"
    expected = true_flows(read_late[version])
    flows = collecting.flows_of(source, expected.total())
    assert untimed(written_flows(flows)) == untimed(expected)
    assert (flows["duration_ms"] >= 0).all()
    age = pl.lit(time.time()) - flows["start"].dt.timestamp("ms") / 1000
    assert flows.select(age.abs().max()).item() < 86_400
    wait_until(lambda: collecting.exporter(source).get("flows") == expected.total(), "all records are counted")
    assert collecting.exporter(source)["corrected_times"] == expected.total()
