"""Datagrams of real exporters, decoded as others decode them, or as the standards say where these differ."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import pytest

from tests.ingest.netflow.codec_names import LINE_NAMES
from tests.ingest.netflow.spelling import after, header_value, moment, names_of, spelled
from thalweg.ingest.netflow.config import DecoderConfig
from thalweg.ingest.netflow.datagrams import Datagrams, walk
from thalweg.ingest.netflow.decoder import Decoder
from thalweg.ingest.netflow.values import Describer
from thalweg.ingest.records import Records, address_halves

SHARED = Path(__file__).parents[4] / "shared" / "captures"
SCENARIOS = SHARED / "scenarios"
CASES = SHARED / "lines" / "cases"

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="the captures are not here (../shared/captures)")

LATE_MS: Final = 1_000
"""Of every first_switched and last_switched of v9: the other decoder takes the whole seconds of how long ago it was
from the header's time, and then adds a whole second less the rest where it should take the rest away. RFC 3954 section
8: milliseconds of the same clock as the header's sysUptime, which stands for its UNIX Secs."""


@final
@dataclass(frozen=True, slots=True)
class Deviation:
    """What the other decoder gives for a field, why that is not what the standard says, and what this one gives."""

    theirs: Any
    why: str
    ours: Any


EXCEPTIONS: Final[dict[tuple[str, str], Deviation]] = {
    ("Netflow 5 valid 01", "first_switched"): Deviation(
        "2015-06-21T11:40:52.194Z",
        "2^32 - 1 is a millisecond before the exporter's counter wrapped, not 49.7 days after the export",
        4_294_967_295,
    ),
    ("Netflow 5 valid 01", "last_switched"): Deviation(
        "2015-05-02T18:38:08.476Z",
        "804 ms before the export at 08.280: no second is taken away where the milliseconds run below zero",
        2_577,
    ),
    ("Netflow5 Juniper MX80", "first_switched"): Deviation(
        "2016-07-21T13:52:34.936Z", "18.064 s before the export at 52.000, with the same fault as above", 190_631_000
    ),
    ("Netflow5 Juniper MX80", "last_switched"): Deviation("2016-07-21T13:52:34.936Z", "as above", 190_631_000),
    ("IPFIX Netscaler with variable length fields", "flowStartMicroseconds"): Deviation(
        "2016-11-11T12:09:19.000#{nanos}Z",
        "a placeholder of the program, not a number; RFC 7011 section 6.1.9: a fraction of 2^32",
        "2016-11-11T12:09:19.000128Z",
    ),
    ("IPFIX Netscaler with variable length fields", "flowEndMicroseconds"): Deviation(
        "2016-11-11T12:09:19.000#{nanos}Z",
        "as above",
        "2016-11-11T12:09:19.000128Z",
    ),
}

OTHER_NUMBERS: Final[dict[str, tuple[int, str]]] = {
    "Netflow 9 macaddress": (0, "29 records without a count of bytes or packets"),
    "Netflow 9 Cisco ASA #2": (15, "4 events say that a flow has begun, without a count"),
    "IPFIX Nokia BRAS": (0, "a translation of addresses, not traffic"),
    "IPFIX Barracuda extended uniflow template 256": (0, "2 events say that a flow has begun, without a count"),
    "IPFIX Netscaler with variable length fields, again": (
        6,
        "the first datagram comes before its templates; the other decoder drops its 3 flows, here they wait",
    ),
    "Netflow 9 Cisco WLC": (0, "a station's traffic by application: no second address"),
}
"""Scenarios whose records are not one for each data record: how many there are, and why."""

MEANT: Final[dict[tuple[str, str], tuple[int, str]]] = {
    ("Netflow 9 Fortigate FortiOS 5.2.1", "start_us"): (
        1_500_356_510_000_000,
        "the flow ends a week after its export, by an uptime that is not the header's: it ends with the export instead",
    ),
    ("Netflow 9 Fortigate FortiOS 5.2.1", "end_us"): (1_500_356_519_000_000, "as above"),
    ("Netflow 9 template with 0 length fields", "fwd_bytes"): (
        32,
        "in_bytes is 0 as the exporter counts what leaves it in out_bytes (direction 1): the same way, not the answer",
    ),
    ("Netflow 9 template with 0 length fields", "bwd_bytes"): (0, "as above"),
    ("Netflow 9 template with 0 length fields", "fwd_packets"): (1, "as above"),
}
"""Columns that mean something else than the fields of the expected values would say: what they are, and why."""


@lru_cache(maxsize=1)
def scenarios() -> dict[str, dict[str, Any]]:
    if not SCENARIOS.is_dir():
        return {}
    found: dict[str, dict[str, Any]] = {}
    for one in json.loads((SCENARIOS / "scenarios.json").read_text()):
        found[one["name"] + (", again" if one["name"] in found else "")] = one
    return found


def datagrams_of(name: str) -> list[bytes]:
    return [(SCENARIOS / "data" / file).read_bytes() for file in scenarios()[name]["datagrams"]]


def described(datagrams: list[bytes]) -> list[dict[str, Any]]:
    """Return the records of datagrams of one exporter; those of each datagram know how many they are."""
    describer = Describer()
    found: list[dict[str, Any]] = []
    for payload in datagrams:
        records = [one for one in describer.describe(payload, lo=1) if one["kind"] in ("flow", "options")]
        found += [{**one, "in_datagram": len(records)} for one in records]
    return found


def decoded(datagrams: list[bytes]) -> tuple[Records, Decoder]:
    """Decode datagrams of one exporter, each at the time it says it was sent."""
    decoder = Decoder(DecoderConfig(template_lifetime_s=1e9, hold_s=1e9))
    records = [decoder.decode(Datagrams.of([(payload, sent_us(payload), 0, 1)])) for payload in datagrams]
    return np.concatenate(records), decoder


def sent_us(payload: bytes) -> int:
    headers, _ = walk(Datagrams.of([(payload, 0, 0, 1)]))
    return int(headers["export_us"][0])


def test_all_scenarios_are_there() -> None:
    assert len(scenarios()) == 51


@pytest.mark.parametrize("name", list(scenarios()))
def test_every_scenario_gives_as_many_records_as_others_find_in_it(name: str) -> None:
    number = scenarios()[name]["num_events"]
    found = described(datagrams_of(name))
    assert len(found) == (len(found) if number is None else number)
    flows = sum(one["kind"] == "flow" for one in found)
    records, decoder = decoded(datagrams_of(name))
    assert len(records) == OTHER_NUMBERS.get(name, (flows, ""))[0]
    total = decoder.exporters.totals()
    assert len(records) == total["flows"]
    if name not in OTHER_NUMBERS:
        assert total["other_records"] == total["event_records"] == 0


def checks() -> Iterator[tuple[str, int]]:
    for name, scenario in scenarios().items():
        yield from ((name, check["event"]) for check in scenario["checks"])


@pytest.mark.parametrize(("name", "number"), list(checks()))
def test_every_field_has_the_value_that_others_find(name: str, number: int) -> None:
    (expected,) = (one["expected"] for one in scenarios()[name]["checks"] if one["event"] == number)
    event = described(datagrams_of(name))[number]
    wanted = {"@timestamp": expected["@timestamp"], **expected["netflow"]}
    for field, theirs in wanted.items():
        assert_field(name, field, theirs, event)


def assert_field(name: str, field: str, theirs: Any, event: dict[str, Any], *, lines: bool = False) -> None:
    if field in ("flow_records", "flows") and event["version"] == 5:
        assert event["in_datagram"] == theirs
        return
    if field == "scope_system":
        assert event["fields"]["scopeSystem"] == theirs
        return
    names = [one for one in names_of(field, event, lines=lines) if one in event["fields"]]
    if not names:
        ours = header_value(field, event)
        assert (after(ours, 0) == after(theirs, 0)) if field == "@timestamp" else ours == theirs, field
        return
    if (name, field) in EXCEPTIONS:
        deviation = EXCEPTIONS[name, field]
        assert theirs == deviation.theirs
        assert event["fields"][names[0]] == deviation.ours
        return
    if field.endswith("_switched") and event["version"] == 9 and isinstance(theirs, str):
        theirs = after(theirs, -LATE_MS)
    found = [event["fields"][one] for one in names]
    for ours in found:
        shown = after(ours, 0) if isinstance(ours, str) and re.fullmatch(r"\d{4}-\d\d-\d\dT.*Z", ours) else ours
        if shown == spelled(field, theirs, ours, event):
            return
    pytest.fail(f"{field}: {theirs!r} expected, {found!r} found")


@pytest.mark.parametrize(("name", "number"), list(checks()))
def test_every_record_has_the_addresses_counts_and_times_that_others_find(name: str, number: int) -> None:
    (expected,) = (one["expected"]["netflow"] for one in scenarios()[name]["checks"] if one["event"] == number)
    events = described(datagrams_of(name))
    wanted = record_of(name, expected, events[number])
    records, _ = decoded(datagrams_of(name))
    if "src_lo" not in wanted or events[number]["kind"] != "flow":
        assert name in OTHER_NUMBERS or events[number]["kind"] == "options"
        return
    if name in OTHER_NUMBERS and not OTHER_NUMBERS[name][0]:
        assert not len(records)
        return
    rank = sum(one["kind"] == "flow" for one in events[:number])
    found = records if name in OTHER_NUMBERS else records[rank : rank + 1]
    matching = [one for one in found if not differences(one, wanted)]
    assert matching, [differences(one, wanted) for one in found]


COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    "src_port": ("l4_src_port", "sourceTransportPort"),
    "dst_port": ("l4_dst_port", "destinationTransportPort"),
    "protocol": ("protocol", "protocolIdentifier"),
    "fwd_bytes": ("in_bytes", "octetDeltaCount", "fwd_flow_delta_bytes", "in_permanent_bytes", "octetTotalCount"),
    "fwd_packets": ("in_pkts", "packetDeltaCount", "packetTotalCount"),
    "bwd_bytes": ("rev_flow_delta_bytes", "reverseOctetTotalCount", "out_bytes"),
}
START: Final = ("first_switched", "flow_start_msec", "flowStartMilliseconds", "flowStartSeconds")
END: Final = ("last_switched", "event_time_msec", "flowEndMilliseconds", "flowEndSeconds")


def record_of(name: str, expected: dict[str, Any], event: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of the record that the expected values make."""
    wanted: dict[str, Any] = {}
    for side, addresses in (
        ("src", ("ipv4_src_addr", "ipv6_src_addr", "sourceIPv4Address", "sourceIPv6Address")),
        ("dst", ("ipv4_dst_addr", "ipv6_dst_addr", "destinationIPv4Address", "destinationIPv6Address")),
    ):
        for field in addresses:
            if any(address_halves(expected.get(field, "::"))):
                wanted[f"{side}_hi"], wanted[f"{side}_lo"] = address_halves(expected[field])
    interval = event.get("samplingInterval") or 1
    for column, fields in COLUMNS.items():
        value = next((expected[field] for field in fields if field in expected), None)
        if value is not None:
            wanted[column] = value * (interval if column.endswith(("bytes", "packets")) else 1)
    for column, times in (("start_us", START), ("end_us", END)):
        given = next((field for field in times if field in expected), None)
        if given is not None:
            wanted[column] = time_us(name, given, expected[given], event)
    if wanted.get("protocol") in (1, 58):
        del wanted["dst_port"]  # type and code, which others leave apart
    return {column: MEANT.get((name, column), (value,))[0] for column, value in wanted.items()}


def time_us(name: str, field: str, theirs: Any, event: dict[str, Any]) -> int:
    """Return the time that is meant, cut to the millisecond."""
    if (name, field) in EXCEPTIONS:
        ours = EXCEPTIONS[name, field].ours
        ago = (event["sysUpTime"] - ours + (1 << 31)) % (1 << 32) - (1 << 31)
        return int(moment(after(event["exported"], -ago)).timestamp() * 1000) * 1000
    if isinstance(theirs, int):
        return theirs * (1_000_000 if field.endswith("Seconds") else 1_000)
    late = LATE_MS if event["version"] == 9 and field.endswith("_switched") else 0
    return int(moment(after(theirs, -late)).timestamp() * 1000) * 1000


def differences(record: Any, wanted: dict[str, Any]) -> dict[str, tuple[int, int]]:
    found = {column: int(record[column]) for column in wanted}
    for column in ("start_us", "end_us"):
        if column in found:
            found[column] = found[column] // 1000 * 1000
    return {column: (found[column], value) for column, value in wanted.items() if found[column] != value}


LINE_CASES: Final = sorted(
    path.name for path in (CASES.iterdir() if CASES.is_dir() else ()) if path.is_dir() and "sflow" not in path.name
)
SCOPES: Final = {("netflow_v9_options", "in_bytes"): "scopeSystem"}
"""Scope type 1 of RFC 3954 section 6.1 is the system; the other decoder takes it for element 1."""
WITHOUT_VALUE: Final = {
    ("issue_14370", "flow_start"): "flowStartSeconds",
    ("issue_14370", "flow_end"): "flowEndSeconds",
}
"""Fields of no length: the other decoder gives 0, and this one nothing, as nothing was sent."""


@pytest.mark.parametrize("case", LINE_CASES)
def test_every_line_of_expected_output_is_a_record(case: str) -> None:
    files = sorted((CASES / case).glob("*.bin"))
    events = described([file.read_bytes() for file in files])
    lines = [parsed(line) for line in (CASES / case / "expected.out").read_text().splitlines() if line.strip()]
    assert len(events) == len(lines)
    left = list(events)
    for kind, fields in lines:
        at = next((i for i, event in enumerate(left) if event["kind"] == kind and agrees(case, fields, event)), None)
        assert at is not None, fields
        del left[at]


def agrees(case: str, fields: dict[str, Any], event: dict[str, Any]) -> bool:
    try:
        for field, theirs in fields.items():
            assert_line_field(case, field, theirs, event)
    except (AssertionError, KeyError, pytest.fail.Exception):
        return False
    return True


def assert_line_field(case: str, field: str, theirs: Any, event: dict[str, Any]) -> None:
    if (case, field) in SCOPES:
        assert event["fields"][SCOPES[case, field]] == theirs
    elif (case, field) in WITHOUT_VALUE:
        assert theirs == 0
        assert event["fields"][WITHOUT_VALUE[case, field]] is None
    elif field in ("engine_type", "engine_id") and "engineId" in event["fields"]:
        assert event["fields"]["engineType" if field == "engine_type" else "engineId"] == int(theirs, 0)
    elif field in ("engine_type", "engine_id"):
        shift = 8 if field == "engine_type" else 0
        assert event["domain"] >> shift & 255 == int(theirs, 0)
    elif field in ("icmp_type", "icmp_code"):
        both = event["fields"]["icmpTypeCodeIPv4"]
        assert (both >> 8 if field == "icmp_type" else both & 255) == theirs
    elif field in ("fwd_status", "fwd_reason"):
        status = event["fields"]["forwardingStatus"]
        assert (status >> 6 if field == "fwd_status" else status & 63) == spelled(field, theirs, 0, event)
    else:
        assert field in LINE_NAMES or names_of(field, event, lines=True) or header_value(field, event) is not None
        assert_field(case, field, theirs, event, lines=True)


def parsed(line: str) -> tuple[str, dict[str, Any]]:
    """Read a line: measurement,tags fields time."""
    measurement, rest = line.split(",", 1)
    fields: dict[str, Any] = {}
    for match in re.finditer(r'(\w+)=("(?:[^"\\]|\\.)*"|[^,\s]+)(?=,|\s|$)', rest.split(" ", 1)[1]):
        text = match[2]
        fields[match[1]] = text[1:-1].replace('\\"', '"') if text.startswith('"') else int(text.rstrip("ui"))
    return "options" if measurement.endswith("options") else "flow", fields


def messages_in(path: Path) -> list[bytes]:
    """Part a file of IPFIX messages by the lengths that they say (RFC 5655 section 4)."""
    content, at, found = path.read_bytes(), 0, []
    while at < len(content):
        length = int.from_bytes(content[at + 2 : at + 4], "big")
        found.append(content[at : at + length])
        at += length
    return found


def test_a_file_of_ipfix_messages_has_as_many_records_as_its_tools_count() -> None:
    path = SHARED / "ipfix-file" / "example_flows.ipfix"
    if not path.exists():
        pytest.skip("the IPFIX file is not here")
    messages = messages_in(path)
    events = described(messages)
    assert (len(messages), len(events)) == (68, 3_979)
    records, decoder = decoded(messages)
    # None of them is of options: all are flows.
    assert len(records) == decoder.exporters.totals()["flows"] == 3_979
    assert not decoder.tally
