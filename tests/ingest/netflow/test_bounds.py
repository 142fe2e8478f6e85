"""Bounds on what one sender or one datagram may cost in memory and time."""

from __future__ import annotations

import struct

import pytest

from tests.ingest.netflow.messages import (
    FILE,
    FLOW,
    NOW_US,
    TIMED,
    decode,
    flow,
    ipfix,
    ipfix_options_template,
    set_of,
    template,
    timed,
    withdrawal,
)
from thalweg.ingest.netflow.config import DecoderConfig
from thalweg.ingest.netflow.decoder import Decoder


def test_one_exporter_cannot_take_all_the_room_where_data_waits_for_its_template() -> None:
    decoder = Decoder(DecoderConfig(max_held_bytes=2 << 20))
    junk = [ipfix(data={999: [bytes(1_400)]}) for _ in range(200)]
    decode(decoder, *junk, lo=9)
    assert 120_000 < decoder.held.num_bytes <= 128 << 10
    refused = decoder.tally["sets_without_template"]
    assert refused == 200 - len(decoder.held) > 0
    decode(decoder, *[ipfix(data={256: [flow()]}) for _ in range(40)])
    assert len(decode(decoder, ipfix(templates={256: FLOW}))) == 40
    assert decoder.tally.as_dict() == {"sets_without_template": refused}


def test_room_is_given_back_when_a_template_comes_and_when_it_does_not() -> None:
    decoder = Decoder(DecoderConfig(max_held_bytes=1 << 20, hold_s=10))
    full = [ipfix(data={256: [flow()] * 40}) for _ in range(100)]
    decode(decoder, *full, **FILE)
    num = len(decoder.held)
    assert num < 100
    assert len(decode(decoder, ipfix(templates={256: FLOW}), ipfix(set_of(2, withdrawal(256))), **FILE)) == 40 * num
    decode(decoder, *full, **FILE)
    assert len(decoder.held) == num
    decode(decoder, *full, at_us=NOW_US + 20_000_000, **FILE)
    decode(decoder, ipfix(), at_us=NOW_US + 40_000_000, **FILE)
    decode(decoder, *full, at_us=NOW_US + 40_000_000, **FILE)
    assert len(decoder.held) == num


def test_the_share_holds_after_a_restart() -> None:
    decoder = Decoder(DecoderConfig(max_held_bytes=1 << 20))
    full = [ipfix(data={256: [flow()] * 40}) for _ in range(100)]
    decode(decoder, *full)
    other = Decoder(decoder.config)
    other.restore(decoder.state())
    decode(other, *full)
    assert (len(other.held), other.held.num_bytes) == (len(decoder.held), decoder.held.num_bytes)


@pytest.mark.parametrize("num_sets", [1, 10, 1_000])
def test_one_datagram_brings_no_more_than_256_templates(num_sets: int) -> None:
    decoder = Decoder()
    templates = [template(256 + i, FLOW) for i in range(1_000)]
    parts = [b"".join(templates[i::num_sets]) for i in range(num_sets)]
    payload = ipfix(*(set_of(2, part) for part in parts))
    decode(decoder, payload, ipfix(templates={5_000: FLOW}))
    assert decoder.exporters.num_templates == 257
    refused = decoder.tally.as_dict()
    # Templates that are not parsed count once for each set that they are in.
    assert refused.keys() == {"refused_templates"}
    assert refused["refused_templates"] == {1: 1, 10: 7 + 44, 1_000: 744}[num_sets]
    assert decoder.exporters.totals()["malformed"] == 0


def test_a_datagram_brings_no_more_sets_of_templates_than_its_size_allows() -> None:
    for nothing, refused in ((set_of(2, b""), 246), (set_of(2, withdrawal(2)), 208)):
        decoder = Decoder()
        payload = ipfix(*[nothing] * 300, set_of(2, template(256, FLOW)), data={256: [flow()]})
        found = decode(decoder, payload, **FILE)
        assert (len(found), decoder.tally.as_dict()) == (0, {"refused_templates": refused})
        assert len(decode(decoder, ipfix(templates={256: FLOW}), **FILE)) == 1


def test_a_template_changes_no_more_than_16_times_in_a_datagram() -> None:
    decoder = Decoder()
    learned = [set_of(2, template(256, fields)) for fields in (FLOW, TIMED)]
    data = [set_of(256, flow()), set_of(256, timed())]
    parts = [part for i in range(30) for part in (learned[i % 2], data[i % 2])]
    whole = decode(decoder, ipfix(*parts[: 2 * 17]))
    assert (len(whole), decoder.tally.as_dict()) == (17, {})
    assert decoder.exporters.templates[0][256][0].least_length == len(flow())
    decode(decoder, ipfix(*parts), ipfix(set_of(2, template(256, TIMED)), data={256: [timed()]}))
    assert decoder.tally["refused_templates"] == 30 - 18
    assert decoder.exporters.templates[0][256][0].least_length == len(timed())


def test_a_template_that_is_withdrawn_and_comes_again_has_changed() -> None:
    decoder = Decoder()
    again = [set_of(2, template(256, FLOW)), set_of(2, withdrawal(256))]
    decode(decoder, ipfix(*again * 20), **FILE)
    assert decoder.tally.as_dict() == {"refused_templates": 40 - 17}


def test_an_exporter_whose_samplers_had_to_make_room_is_not_scaled_by_them_any_more() -> None:
    decoder = Decoder(DecoderConfig(max_samplers=16))
    scope, says = ((149, 4),), ((34, 4),)
    message = ipfix(
        set_of(3, ipfix_options_template(300, scope, says)), set_of(300, struct.pack(">II", 1, 50)),
        templates={256: FLOW},
    )  # fmt: skip
    for sender in range(17):
        decode(decoder, message, lo=100 + sender, at_us=NOW_US + sender)
    assert decoder.tally.as_dict() == {"forgotten_samplers": 1}
    described = decoder.exporters.describe()
    (lost,) = [i for i, one in enumerate(described) if one["sampled_by"] == "nobody"]
    assert described[lost]["sampling"] == 0
    found = [decode(decoder, ipfix(data={256: [flow(octets=3)]}), lo=100 + i)["fwd_bytes"][0] for i in range(17)]
    assert found == [3 if i == lost else 150 for i in range(17)]


def test_a_datagram_may_have_256_sets_that_wait_for_their_templates() -> None:
    decoder = Decoder()
    decode(decoder, ipfix(*[set_of(300 + i, b"?") for i in range(1_000)]))
    assert (len(decoder.held), decoder.tally["sets_without_template"]) == (256, 744)
    (exporter,) = decoder.exporters.describe()
    assert (exporter["held_sets"], exporter["sets_without_template"]) == (256, 744)
