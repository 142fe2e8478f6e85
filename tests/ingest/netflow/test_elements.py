"""The tables of information elements and of what they fill."""

from __future__ import annotations

import ast
import csv
import json
import re
from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from tests.ingest.netflow.codec_names import CODEC_NAMES, HEADER_NAMES, LINE_NAMES, ids_of
from thalweg.ingest.netflow import elements
from thalweg.ingest.netflow.elements import (
    CISCO,
    CONDITIONS,
    NTOP,
    REVERSE,
    VIRTUAL_COLUMNS,
    Element,
    Use,
    element,
    mapping,
    snake,
)
from thalweg.ingest.records import RECORD

SHARED = Path(__file__).parents[4] / "shared" / "captures"
TYPES = {
    "octetArray", "unsigned8", "unsigned16", "unsigned32", "unsigned64", "unsigned256", "signed8", "signed16",
    "signed32", "signed64", "float32", "float64", "boolean", "macAddress", "string", "dateTimeSeconds",
    "dateTimeMilliseconds", "dateTimeMicroseconds", "dateTimeNanoseconds", "ipv4Address", "ipv6Address", "basicList",
    "subTemplateList", "subTemplateMultiList",
}  # fmt: skip


def rows_of(name: str) -> list[dict[str, str]]:
    with files("thalweg.ingest.netflow").joinpath(name).open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.parametrize(
    ("id_", "name", "type_"),
    [
        (1, "octetDeltaCount", "unsigned64"),
        (4, "protocolIdentifier", "unsigned8"),
        (8, "sourceIPv4Address", "ipv4Address"),
        (22, "flowStartSysUpTime", "unsigned32"),
        (28, "destinationIPv6Address", "ipv6Address"),
        (61, "flowDirection", "unsigned8"),
        (152, "flowStartMilliseconds", "dateTimeMilliseconds"),
        (154, "flowStartMicroseconds", "dateTimeMicroseconds"),
        (160, "systemInitTimeMilliseconds", "dateTimeMilliseconds"),
        (232, "responderOctets", "unsigned64"),
        (239, "biflowDirection", "unsigned8"),
        (278, "newConnectionDeltaCount", "unsigned32"),
        (293, "subTemplateMultiList", "subTemplateMultiList"),
        (311, "samplingProbability", "float64"),
        (459, "httpRequestMethod", "string"),
        (515, "ipv6ExtensionHeadersFull", "unsigned256"),
    ],
)
def test_elements_have_the_names_and_types_of_the_registry(id_: int, name: str, type_: str) -> None:
    assert element(0, id_) == Element(0, id_, name, type_)
    assert element(0, id_, version=9) == Element(0, id_, name, type_)


def test_the_registry_is_there_without_holes_but_the_reserved_ids() -> None:
    there = {int(row["id"]) for row in rows_of("elements.csv") if row["pen"] == "0"}
    reserved = {*range(65, 70), 97, *range(105, 128), 416, 419}
    assert there == set(range(1, 534)) - reserved


def test_every_row_of_elements_is_alone_and_well_formed() -> None:
    rows = rows_of("elements.csv")
    assert {row["type"] for row in rows} <= TYPES
    assert all(re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", row["name"]) for row in rows)
    assert max(Counter((row["pen"], row["id"]) for row in rows).values()) == 1
    order = [(int(row["pen"]), int(row["id"])) for row in rows]
    assert order == sorted(order)


def test_reverse_elements_have_the_name_and_type_of_what_they_reverse() -> None:
    assert element(REVERSE, 1) == Element(REVERSE, 1, "reverseOctetDeltaCount", "unsigned64")
    assert element(REVERSE, 236).name == "reverseVRFname"
    assert element(6871, 14 | 0x4000) == Element(6871, 14 | 0x4000, "reverseInitialTCPFlags", "unsigned16")


def test_unknown_elements_are_named_by_their_numbers() -> None:
    assert element(0, 65) == Element(0, 65, "unknown_65", "octetArray")
    assert element(0, 65, version=9).name == "unknown_65"
    assert element(4711, 3).name == "unknown_4711_3"
    assert element(REVERSE, 65).name == f"unknown_{REVERSE}_65"
    assert element(6871, 0x7FFF).name == f"unknown_6871_{0x7FFF}"


def test_ids_that_only_v9_has_are_known_in_v9_alone() -> None:
    assert element(0, 33002, version=9).name == "fwExtEvent"
    assert element(0, 33002, version=10).name == "unknown_33002"
    assert element(0, 8257, version=9).name == "streamcoreUrl"
    assert element(0, 8257, version=10).name == "unknown_8257"


def test_makers_elements_in_v9_are_what_they_are_in_ipfix() -> None:
    assert element(0, 57590, version=9) == element(NTOP, 118) == Element(NTOP, 118, "L7_PROTO", "unsigned16")
    assert element(0, 45004, version=9) == element(CISCO, 12236)


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("sourceIPv4Address", "source_ipv4_address"),
        ("octetDeltaCount", "octet_delta_count"),
        ("icmpTypeCodeIPv6", "icmp_type_code_ipv6"),
        ("postNAPTSourceTransportPort", "post_napt_source_transport_port"),
        ("postMCastOctetDeltaCount", "post_mcast_octet_delta_count"),
        ("VRFname", "vrf_name"),
        ("egressVRFID", "egress_vrf_id"),
        ("dot1qVlanId", "dot1q_vlan_id"),
        ("rfc3550JitterMilliseconds", "rfc3550_jitter_milliseconds"),
        ("monitoringIntervalStartMilliSeconds", "monitoring_interval_start_milliseconds"),
        ("reverseUnionTCPFlags", "reverse_union_tcp_flags"),
        ("CLIENT_NW_LATENCY_MS", "client_nw_latency_ms"),
        ("FW_Rule", "fw_rule"),
        ("httpX-Forwarded-For", "http_x_forwarded_for"),
    ],
)
def test_names_are_written_in_small_letters(name: str, written: str) -> None:
    assert snake(name) == written
    assert snake(written) == written


def test_all_names_of_the_registry_stay_distinct_in_small_letters() -> None:
    names = [row["name"] for row in rows_of("elements.csv") if row["pen"] == "0"]
    written = {snake(name) for name in names}
    assert len(written) == len(names)
    assert all(re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) for name in written)


def test_the_mapping_speaks_of_known_elements_columns_and_conditions_alone() -> None:
    columns = {*(RECORD.names or ()), *VIRTUAL_COLUMNS}
    for row in rows_of("mapping.csv"):
        pen, id_ = int(row["pen"]), int(row["id"])
        known = element(0, id_, version=9) if pen == elements.V9_ONLY else element(pen, id_)
        assert not known.name.startswith("unknown"), row
        assert row["column"] in columns, row
        assert row["condition"] in CONDITIONS, row
        assert row["unit"], row
    assert set(VIRTUAL_COLUMNS) <= {row["column"] for row in rows_of("mapping.csv")}


def test_no_two_elements_have_the_same_rank_for_a_column() -> None:
    rows = rows_of("mapping.csv")
    assert max(Counter((row["column"], row["rank"]) for row in rows).values()) == 1
    assert {row["column"] for row in rows if row["rank"] == "1"} == {row["column"] for row in rows}


def test_counts_going_out_are_the_other_way_beside_counts_coming_in_and_this_way_alone() -> None:
    for id_, what in ((23, "bytes"), (24, "packets")):
        forward, reverse = sorted(mapping()[0, id_], key=lambda use: use.condition)
        assert (forward.column, forward.condition) == (f"fwd_{what}", "forward")
        assert (reverse.column, reverse.condition) == (f"bwd_{what}", "reverse")


def test_reverse_elements_fill_what_goes_the_other_way() -> None:
    for (pen, id_), uses in mapping().items():
        for use in uses:
            if pen == REVERSE and use.column.startswith("bwd_"):
                forward = [one.column for one in mapping()[0, id_]]
                assert forward == [use.column.replace("bwd_", "fwd_")]


def test_what_has_an_enterprise_in_ipfix_is_found_by_its_id_of_v9_too() -> None:
    assert mapping()[NTOP, 78] == mapping()[0, 57550]
    assert mapping()[CISCO, 12236] == mapping()[0, 45004]
    assert mapping()[0, 40005] == (Use("event", 2, "event", ""),)


def test_times_are_absolute_before_they_are_relative() -> None:
    def best(column: str, *ids: int) -> int:
        ranks = {use.rank: id_ for id_ in ids for use in mapping()[0, id_] if use.column == column}
        return ranks[min(ranks)]

    assert best("start", 22, 150, 152) == 152
    assert best("end", 21, 151, 153) == 153
    assert best("end", 21, 323) == 21


def test_the_types_of_times_agree_with_their_units() -> None:
    units = {
        "dateTimeSeconds": "s",
        "dateTimeMilliseconds": "ms",
        "dateTimeMicroseconds": "ntp64",
        "dateTimeNanoseconds": "ntp64",
        "ipv4Address": "ipv4",
        "ipv6Address": "ipv6",
    }
    for row in rows_of("mapping.csv"):
        type_ = element(int(row["pen"]), int(row["id"])).type
        assert row["unit"] == units.get(type_, row["unit"]), row


def test_the_tables_need_no_library_of_tables() -> None:
    tree = ast.parse(Path(elements.__file__).read_text(encoding="utf-8"))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names])
    }
    assert not imported & {"polars", "numpy", "pyarrow", "numba", "torch"}


def expected_fields() -> set[str]:
    path = SHARED / "scenarios" / "scenarios.json"
    if not path.exists():
        pytest.skip("the captures are not at hand")
    scenarios: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    events = [check["expected"] for one in scenarios for check in one["checks"]]
    return {name for event in events for name in (*event, *event.get("netflow", {})) if name != "netflow"}


def test_every_field_that_the_captures_expect_is_of_an_element_that_is_known() -> None:
    fields = expected_fields()
    assert len(fields) > 100
    assert [name for name in sorted(fields) if name not in HEADER_NAMES and not ids_of(name)] == []


def test_every_ipfix_field_that_the_captures_expect_is_found_in_small_letters_too() -> None:
    of_ipfix = {name for name in expected_fields() - HEADER_NAMES - set(CODEC_NAMES) if not name.islower()}
    assert len(of_ipfix) > 50
    for name in of_ipfix:
        assert set(ids_of(name)) <= set(ids_of(snake(name))), name


def test_every_field_in_the_captures_lines_is_of_an_element_that_is_known() -> None:
    cases = [path for path in sorted((SHARED / "lines" / "cases").glob("*/expected.out")) if "sflow" not in str(path)]
    if not cases:
        pytest.skip("the captures are not at hand")
    names: set[str] = set()
    for path in cases:
        for line in path.read_text(encoding="utf-8").splitlines():
            names |= set(re.findall(r"[ ,](\w+)=", re.sub(r'"[^"]*"', '""', line)))
    assert len(names) > 50
    known = HEADER_NAMES | {name for name in names if name.startswith("type_")}
    assert [name for name in sorted(names - known) if not ids_of(name, LINE_NAMES)] == []
