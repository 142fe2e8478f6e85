"""The budget of work: a sender that costs too much is skipped for a while, and nobody else is."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

import pytest

from tests.ingest.netflow.messages import FLOW, NOW_US, VARIABLE, decode, flow, ipfix, set_of, template
from thalweg.benchmark.speed.hostile import KINDS
from thalweg.ingest.netflow.config import DecoderConfig
from thalweg.ingest.netflow.datagrams import Datagrams
from thalweg.ingest.netflow.decoder import Decoder

SECOND = 1_000_000
NASTY = "new templates, each with a record"


def costly(num: int) -> list[bytes]:
    """Return datagrams that cost some milliseconds each."""
    return [payload for payload, _ in islice(KINDS[NASTY](1_400)[1], num)]


def skipped(decoder: Decoder) -> dict[str, int]:
    return {one["exporter"]: one["skipped_sets"] for one in decoder.exporters.describe()}


def test_a_sender_that_costs_too_much_is_skipped_and_the_others_are_not() -> None:
    decoder = Decoder()
    good = ipfix(templates={256: FLOW}, data={256: [flow(octets=77)]})
    payloads: list[Any] = []
    for i, payload in enumerate(costly(100)):
        payloads += [(payload, NOW_US + i, 0, 0xFFFF_0A00_0009), (good, NOW_US + i, 0, 0xFFFF_0A00_0001)]
    records = decoder.decode(Datagrams.of(payloads))
    assert int((records["fwd_bytes"] == 77).sum()) == 100
    found = skipped(decoder)
    assert found["10.0.0.1"] == 0
    assert found["10.0.0.9"] == decoder.tally["skipped_sets"] > 1_000


def test_time_pays_off_a_debt() -> None:
    decoder = Decoder()
    decode(decoder, *costly(100))
    before = decoder.tally["skipped_sets"]
    good = ipfix(templates={256: FLOW}, data={256: [flow()]})
    assert not len(decode(decoder, good, at_us=NOW_US + 1))
    assert decoder.tally["skipped_sets"] == before + 2
    assert len(decode(decoder, good, at_us=NOW_US + SECOND)) == 1
    # A clock that is set back neither pays nor locks anybody out.
    assert len(decode(decoder, good, at_us=NOW_US - 3_600 * SECOND)) == 1


@pytest.mark.parametrize(("lo", "rationed"), [(0, True), (9, False)])
def test_files_are_read_whole(lo: int, rationed: bool) -> None:
    decoder = Decoder()
    for payload in costly(60):
        decoder.decode(Datagrams.of([(payload, NOW_US, 0, lo)]), rationed=rationed)
    assert decoder.tally["skipped_sets"] == 0


def test_a_restart_skips_the_same() -> None:
    calls = [Datagrams.of([(payload, NOW_US + i * 20_000, 0, 9)]) for i, payload in enumerate(costly(60))]
    whole, first, second = Decoder(), Decoder(), Decoder()
    for call in calls:
        whole.decode(call)
    for call in calls[:40]:
        first.decode(call)
    second.restore(json.loads(json.dumps(first.state())))
    for call in calls[40:]:
        second.decode(call)
    assert second.tally.as_dict() == whole.tally.as_dict()
    assert whole.tally["skipped_sets"] > first.tally["skipped_sets"] > 0
    assert second.exporters.describe() == whole.exporters.describe()


def test_plain_traffic_of_one_template_and_its_repetition_costs_nothing() -> None:
    decoder = Decoder()
    for i in range(3_000):
        assert len(decode(decoder, ipfix(templates={256: FLOW}, data={256: [flow()] * 3}, domain=i % 3))) == 3
    assert decoder.tally.as_dict() == {}


def test_many_exporters_that_begin_at_once_are_all_decoded() -> None:
    decoder = Decoder()
    templates = {256 + i: (*FLOW, (10 + i, 2)) for i in range(5)}
    payload = ipfix(templates=templates, data={id_: [flow() + b"\0\1"] for id_ in templates})
    sent = [(payload, NOW_US, 1, i) for i in range(1_000)]
    found = [decoder.decode(Datagrams.of(sent[at : at + 200])) for at in range(0, 1_000, 200)]
    assert sum(map(len, found)) == 5_000
    assert decoder.tally.as_dict() == {}


def test_records_of_exporters_with_one_template_are_told_apart() -> None:
    decoder = Decoder()
    for i in range(4):
        options = {300: (((144, 4),), ((34, 4),))}
        record = bytes(4) + (i + 1).to_bytes(4, "big")
        decode(decoder, ipfix(templates={256 + i: FLOW}, options=options, data={300: [record]}, domain=i), lo=100 + i)
    sent = [(ipfix(data={256 + i: [flow(octets=5)]}, domain=i, sequence=1), NOW_US + i, 0, 100 + i) for i in range(4)]
    found = decoder.decode(Datagrams.of(sent))
    assert found["sampling"].tolist() == [1, 2, 3, 4]
    assert found["fwd_bytes"].tolist() == [5, 10, 15, 20]
    assert [decoder.names[one] for one in found["exporter"]] == [f"::{100 + i:x}" for i in range(4)]
    assert decoder.exporters.totals()["lost"] == 0


@pytest.mark.parametrize("num", [32, 33])
def test_a_template_may_have_some_empty_fields_beside_those_of_varying_length(num: int) -> None:
    decoder = Decoder()
    fields = (*FLOW, *[(5, 0)] * num, (82, VARIABLE))
    found = decode(decoder, ipfix(set_of(2, template(256, fields)), data={}), ipfix(data={256: [flow() + b"\0"]}))
    assert (len(found), decoder.tally["malformed_templates"]) == ((1, 0) if num == 32 else (0, 1))


def test_the_room_for_templates_is_bounded_in_templates_too() -> None:
    decoder = Decoder(DecoderConfig(max_fields=1_600))
    for i in range(60):
        decode(decoder, ipfix(templates={256 + k: [(1, 1)] for k in range(10)}), lo=i, at_us=NOW_US + i * SECOND)
    assert decoder.exporters.num_templates <= 200
    assert decoder.exporters.num_templates == sum(map(len, decoder.exporters.templates.values()))
    assert decoder.tally["forgotten_templates"] == 600 - decoder.exporters.num_templates
