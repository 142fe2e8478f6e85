"""What a decoder remembers: templates, data that waits for them, exporters; within bounds, and over a restart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.ingest.netflow.messages import (
    ADDRESS,
    FILE,
    FLOW,
    NOW_US,
    TIMED,
    VARIABLE,
    decode,
    described,
    flow,
    ip,
    ipfix,
    ipfix_options_template,
    set_of,
    template,
    timed,
    v5,
    v5_record,
    v9,
    v9_options_template,
    variable,
    withdrawal,
)
from thalweg.errors import ConfigError
from thalweg.ingest.netflow.config import DecoderConfig
from thalweg.ingest.netflow.datagrams import Datagrams
from thalweg.ingest.netflow.decoder import Decoder
from thalweg.ingest.records import address_halves, flows_of

SECOND = 1_000_000
OTHER = (*FLOW[:-2], (2, 4), (1, 4))
"""The same lengths as FLOW, with bytes and packets swapped."""


def octets_of(records: Any) -> list[int]:
    return [int(octets) for octets in records["fwd_bytes"]]


def test_v5_gives_every_column_of_its_records() -> None:
    decoder = Decoder()
    (record,) = decode(decoder, v5(v5_record()))
    assert (record["src_hi"], record["src_lo"]) == address_halves("10.1.0.1")
    assert (record["dst_hi"], record["dst_lo"]) == address_halves("10.2.0.2")
    assert (record["src_port"], record["dst_port"], record["protocol"]) == (40_000, 443, 6)
    assert (record["fwd_bytes"], record["fwd_packets"], record["tcp_flags"]) == (1_000, 10, 0x1B)
    assert (record["start_us"], record["end_us"]) == (NOW_US - 5 * SECOND, NOW_US - SECOND)
    assert (record["bwd_bytes"], record["two_way"], record["initiator"], record["sampling"]) == (0, 0, 0, 1)
    assert record["arrival_us"] == NOW_US
    assert decoder.names[record["exporter"]] == "10.0.0.1"
    assert len(flows_of([np.array([record])], decoder.names)) == 1


@pytest.mark.parametrize("make", [v9, ipfix])
def test_templates_belong_to_an_exporter_a_domain_and_an_id(make: Any) -> None:
    decoder = Decoder()
    decode(decoder, make(templates={256: FLOW}, domain=1))
    data = {256: [flow()]}
    assert len(decode(decoder, make(data=data, domain=1))) == 1
    assert len(decode(decoder, make(data=data, domain=2))) == 0
    assert len(decode(decoder, make(data={257: [flow()]}, domain=1))) == 0
    assert len(decode(decoder, make(data=data, domain=1), lo=ADDRESS[1] + 1)) == 0
    assert decoder.exporters.num_templates == 1


def test_v9_and_ipfix_of_one_sender_do_not_share_templates() -> None:
    decoder = Decoder()
    decode(decoder, v9(templates={256: FLOW}), ipfix(templates={256: OTHER}))
    both = decode(decoder, v9(data={256: [flow(octets=5, packets=2)]}), ipfix(data={256: [flow(octets=5, packets=2)]}))
    assert octets_of(both) == [5, 2]


def test_a_template_may_change_between_calls_and_within_one() -> None:
    data = {256: [flow(octets=5, packets=2)]}
    first, second = ipfix(templates={256: FLOW}, data=data), ipfix(templates={256: OTHER}, data=data)
    apart = Decoder()
    assert [octets_of(decode(apart, one)) for one in (first, second, first)] == [[5], [2], [5]]
    assert octets_of(decode(Decoder(), first, second, ipfix(data=data), first)) == [5, 2, 2, 5]


def test_data_before_its_template_waits_and_is_emitted_first() -> None:
    decoder = Decoder()
    early = [v9(data={256: [flow(octets=i)]}, sequence=i) for i in range(3)]
    assert not len(decode(decoder, *early))
    assert decoder.exporters.totals()["held_sets"] == 3
    found = decode(decoder, v9(templates={256: FLOW}, data={256: [flow(octets=9)]}, sequence=3), at_us=NOW_US + SECOND)
    assert octets_of(found) == [0, 1, 2, 9]
    assert [int(at) for at in found["arrival_us"]] == [NOW_US] * 3 + [NOW_US + SECOND]
    assert not decoder.tally
    assert not len(decoder.held)


def test_data_before_its_template_in_one_call_is_not_lost() -> None:
    decoder = Decoder()
    data = {256: [flow()]}
    assert len(decode(decoder, v9(data=data), v9(templates={256: FLOW}), v9(data=data))) == 2
    assert len(decode(decoder, v9(set_of(256, flow()), set_of(0, template(256, FLOW)), domain=7))) == 1
    assert not decoder.tally


def test_data_is_dropped_when_its_template_does_not_come_in_time() -> None:
    decoder = Decoder(DecoderConfig(hold_s=10))
    decode(decoder, v9(data={256: [flow()]}), v9(data={257: [flow()]}))
    decode(decoder, v9(data={256: [flow()]}), at_us=NOW_US + 9 * SECOND)
    assert decoder.tally["sets_without_template"] == 0
    assert len(decode(decoder, v9(templates={256: FLOW}), at_us=NOW_US + 15 * SECOND)) == 1
    assert decoder.tally["sets_without_template"] == 2
    assert decoder.exporters.totals()["sets_without_template"] == 2
    assert decoder.held.num_bytes == 0


def test_data_that_waits_is_bounded_and_what_finds_no_room_is_counted() -> None:
    decoder = Decoder(DecoderConfig(max_held_bytes=1_000))
    decode(decoder, *[v9(data={256: [flow()]}) for _ in range(100)])
    kept = len(decoder.held)
    assert 0 < kept < 20
    assert decoder.held.num_bytes <= 1_000
    assert decoder.tally["sets_without_template"] == 100 - kept
    assert len(decode(decoder, v9(templates={256: FLOW}))) == kept
    decode(decoder, v9(data={300: [flow()]}))
    assert len(decoder.held) == 1


def test_a_template_that_has_not_come_again_for_its_lifetime_is_forgotten() -> None:
    decoder = Decoder(DecoderConfig(template_lifetime_s=100))
    data = ipfix(data={256: [flow()]})
    decode(decoder, ipfix(templates={256: FLOW}))
    decode(decoder, ipfix(templates={256: FLOW}), at_us=NOW_US + 90 * SECOND)
    assert len(decode(decoder, data, at_us=NOW_US + 180 * SECOND)) == 1
    assert len(decode(decoder, data, at_us=NOW_US + 191 * SECOND)) == 0
    assert decoder.tally["expired_templates"] == 1
    assert decoder.exporters.num_templates == decoder.exporters.num_fields == 0
    assert len(decode(decoder, ipfix(templates={256: FLOW}), at_us=NOW_US + 192 * SECOND)) == 1


def test_templates_can_be_withdrawn_one_and_all_in_a_file() -> None:
    decoder = Decoder()
    fields = ((144, 4),), ((34, 4),)
    many = {256: FLOW, 257: FLOW}
    decode(decoder, ipfix(templates=many, options={300: fields}), **FILE)
    assert len(decode(decoder, ipfix(set_of(2, withdrawal(256)), data={257: [flow()]}), **FILE)) == 1
    assert len(decode(decoder, ipfix(data={256: [flow()]}), **FILE)) == 0
    assert decoder.exporters.num_templates == 2
    decode(decoder, ipfix(set_of(2, withdrawal(2))), **FILE)
    assert decoder.exporters.num_templates == 1
    decode(decoder, ipfix(set_of(3, withdrawal(3))), **FILE)
    assert decoder.exporters.num_templates == 0
    decode(decoder, v9(set_of(0, template(256, FLOW) + withdrawal(257))), **FILE)
    assert decoder.tally.as_dict() == {"malformed_templates": 1}  # v9 knows no withdrawal


def test_data_around_a_withdrawal_in_one_call_is_read_by_what_was_in_force() -> None:
    decoder = Decoder()
    decode(decoder, ipfix(templates={256: FLOW}), **FILE)
    data = set_of(256, flow(octets=5, packets=2))
    parts = data, set_of(2, withdrawal(256)), data, set_of(2, template(256, OTHER)), data
    assert sorted(octets_of(decode(decoder, ipfix(*parts), **FILE))) == [2, 2, 5]


def test_nobody_withdraws_templates_over_udp() -> None:
    decoder = Decoder()
    decode(decoder, ipfix(templates={256: FLOW, 257: FLOW}, options={300: (((144, 4),), ((34, 4),))}))
    forged = [set_of(2, withdrawal(256) + withdrawal(2)), set_of(3, withdrawal(3))]
    data = set_of(256, flow()), set_of(257, flow())
    assert len(decode(decoder, ipfix(*forged, *data))) == 2
    assert decoder.tally.as_dict() == {"ignored_withdrawals": 3}
    assert decoder.exporters.num_templates == 3
    assert [one["kind"] for one in described(ipfix(templates={256: FLOW}), ipfix(*forged, data[0]))] == [
        "template", "withdrawal", "withdrawal", "withdrawal", "flow",
    ]  # fmt: skip


def test_templates_that_change_are_counted_by_exporter() -> None:
    decoder = Decoder()
    for fields in (FLOW, FLOW, OTHER, FLOW):
        decode(decoder, ipfix(templates={256: fields, 257: FLOW}))
    decode(decoder, ipfix(templates={256: OTHER}), lo=9)
    assert [one["changed_templates"] for one in decoder.exporters.describe()] == [2, 0]


@pytest.mark.parametrize("padding", [1, 2, 3])
def test_padding_after_records_and_templates_is_no_record(padding: int) -> None:
    decoder = Decoder()
    templates = set_of(2, template(256, FLOW), padding)
    assert len(decode(decoder, ipfix(templates, set_of(256, flow() * 2, padding)))) == 2
    assert len(decode(decoder, v9(set_of(0, template(256, FLOW), 4), set_of(256, flow(), padding)) + bytes(40))) == 1
    assert not decoder.tally


def test_numbers_may_be_sent_shorter_or_longer_than_they_are() -> None:
    fields = ((8, 4), (12, 4), (1, 3), (2, 1), (7, 2), (4, 2), (6, 1))
    record = ip("10.1.0.1") + ip("10.2.0.2") + bytes([1, 0, 2, 7, 0, 80, 0, 17, 0x12])
    (found,) = decode(Decoder(), ipfix(templates={256: fields}, data={256: [record]}))
    assert (found["fwd_bytes"], found["fwd_packets"], found["src_port"]) == (65_538, 7, 80)
    assert (found["protocol"], found["tcp_flags"]) == (17, 0x12)


@pytest.mark.parametrize("length", [0, 1, 254, 255, 300, 5_000])
@pytest.mark.parametrize("long", [False, True])
def test_records_may_hold_fields_of_varying_length(length: int, long: bool) -> None:
    fields = ((8, 4), (82, VARIABLE), (12, 4), (459, VARIABLE), (1, 4))
    records = [
        ip("10.1.0.1") + variable(b"x" * length, long=long) + ip("10.2.0.2") + variable(b"") + octets.to_bytes(4, "big")
        for octets in (5, 6)
    ]
    decoder = Decoder()
    assert octets_of(decode(decoder, ipfix(templates={256: fields}, data={256: records}))) == [5, 6]
    assert octets_of(decode(decoder, ipfix(set_of(256, records[0], 3)))) == [5]
    assert not decoder.tally
    assert octets_of(decode(decoder, ipfix(set_of(256, records[0] + records[1][:-1])))) == [5]
    num_broken = int(len(records[1]) > 14)  # less than the shortest record is padding
    assert decoder.tally["broken_records"] == num_broken
    assert decoder.exporters.totals()["broken_records"] == num_broken


@pytest.mark.parametrize("make", [v9, ipfix])
@pytest.mark.parametrize("padding", [b"\0", b"\x6c\0", b"\xff" * 3, bytes(range(7))])
def test_padding_may_be_any_bytes_in_every_kind_of_set(make: Any, padding: bytes) -> None:
    decoder = Decoder()
    fields = ((8, 4), (12, 4), (82, VARIABLE), (1, 4))
    templates = set_of(0 if make is v9 else 2, template(256, fields) + template(257, FLOW) + padding)
    describing = v9_options_template if make is v9 else ipfix_options_template
    options = set_of(1 if make is v9 else 3, describing(300, ((1, 4),), ((34, 4),)) + padding)
    assert not len(decode(decoder, make(templates, options, set_of(300, bytes(7) + b"\1" + padding))))
    record = ip("10.1.0.1") + ip("10.2.0.2") + variable(b"eth0") + bytes(3) + b"\x07"
    data = [set_of(256, record * 2 + padding), set_of(257, flow(octets=9) + padding)]
    assert octets_of(decode(decoder, make(*data))) == [7, 7, 9]
    assert not decoder.tally
    assert octets_of(decode(decoder, make(set_of(256, record + record[:13])))) == [7]
    assert decoder.tally.as_dict() == {"broken_records": 1}


def test_addresses_counts_and_times_are_read_after_fields_of_varying_length() -> None:
    fields = ((82, VARIABLE), (27, 16), (28, 16), (4, 1), (139, 2), (1, VARIABLE), (152, 8), (153, 8))
    src, dst = address_halves("2001:db8::1"), address_halves("2001:db8::2")
    times = timed()[-16:]
    record = variable(b"eth0") + b"".join(half.to_bytes(8, "big") for half in (*src, *dst)) + bytes([58, 128, 0])
    (found,) = decode(Decoder(), ipfix(templates={256: fields}, data={256: [record + variable(b"\x01\x00") + times]}))
    assert (found["src_hi"], found["src_lo"], found["dst_hi"], found["dst_lo"]) == (*src, *dst)
    assert (found["fwd_bytes"], found["dst_port"], found["protocol"]) == (256, 128 * 256, 58)
    assert (found["start_us"], found["end_us"]) == (NOW_US - 5 * SECOND, NOW_US - SECOND)


def test_fields_of_unknown_enterprises_are_skipped() -> None:
    fields = ((1, 5, 99_999), *FLOW, (2, VARIABLE, 12_345))
    record = b"?????" + flow(octets=77) + variable(b"anything")
    assert octets_of(decode(Decoder(), ipfix(templates={256: fields}, data={256: [record] * 2}))) == [77, 77]


def test_an_ipv4_address_counts_where_a_template_has_both_and_the_record_has_it() -> None:
    fields = ((8, 4), (12, 4), (27, 16), (28, 16), (1, 4))
    v6 = b"".join(half.to_bytes(8, "big") for text in ("2001:db8::1", "2001:db8::2") for half in address_halves(text))
    records = [ip("10.1.0.1") + ip("10.2.0.2") + bytes(36), bytes(8) + v6 + bytes(4)]
    first, second = decode(Decoder(), ipfix(templates={256: fields}, data={256: records}))
    assert (first["src_hi"], first["src_lo"]) == address_halves("10.1.0.1")
    assert (second["src_hi"], second["src_lo"]) == address_halves("2001:db8::1")


def test_records_without_addresses_or_counts_are_no_flows_and_are_counted() -> None:
    decoder = Decoder()
    odd = ((8, 3), (12, 4), (1, 4))
    templates = {256: FLOW[2:], 257: FLOW[:5], 258: odd}
    data = {256: [flow()[8:]], 257: [flow()[:13]], 258: [bytes(11)]}
    assert not len(decode(decoder, ipfix(templates=templates, data=data)))
    assert decoder.tally.as_dict() == {"other_records": 3}


def test_what_is_not_whole_is_counted_and_what_is_whole_in_it_is_read() -> None:
    decoder = Decoder()
    whole = ipfix(templates={256: FLOW}, data={256: [flow(octets=1), flow(octets=2)]})
    assert octets_of(decode(decoder, whole[:-5])) == [1]
    assert decoder.tally.as_dict() == {"truncated_datagrams": 1}
    assert octets_of(decode(decoder, v5(v5_record(1), v5_record(2), count=30)[:-1])) == [1]
    assert decoder.tally["truncated_datagrams"] == 2
    assert decoder.exporters.totals()["malformed"] == 2
    assert not len(decode(decoder, b"", b"\0", v5(v5_record())[:23], v9()[:19], ipfix()[:15], b"\0\x07" + bytes(40)))
    assert decoder.tally["short_datagrams"] == 5
    assert decoder.tally["unknown_versions"] == 1


def test_sets_and_templates_that_are_not_what_they_claim_are_counted_once_a_datagram() -> None:
    decoder = Decoder()
    decode(decoder, ipfix(set_of(256, flow()), b"\1\0\0\3"))  # a length below 4
    assert decoder.tally.as_dict() == {"malformed_sets": 1}
    cut = template(256, FLOW)[:-1]
    decode(decoder, ipfix(set_of(2, cut), set_of(2, cut)), v9(set_of(0, b"\0\x20\0\1\0\1\0\4")))
    assert decoder.tally["malformed_templates"] == 3
    assert decoder.exporters.totals()["malformed"] == 3
    decode(decoder, ipfix(set_of(1, b""), set_of(200, b"")), v9(set_of(2, b""), set_of(255, b"")))
    assert decoder.tally["reserved_sets"] == 4


def test_a_template_without_a_byte_is_skipped_and_those_around_it_are_kept() -> None:
    decoder = Decoder()
    templates = template(256, FLOW) + template(257, ((1, 0), (2, 0))) + template(258, FLOW)
    found = decode(decoder, ipfix(set_of(2, templates), data={256: [flow()], 257: [flow()], 258: [flow()]}))
    assert len(found) == 2
    assert decoder.tally["malformed_templates"] == 1
    assert len(decoder.held) == 1


def test_a_template_that_claims_too_many_fields_is_not_taken() -> None:
    decoder = Decoder()
    decode(decoder, ipfix(set_of(2, b"\1\0\xff\xff" + bytes(1_000))), v9(set_of(0, b"\1\0\xff\xff" + bytes(9))))
    decode(decoder, v9(templates={256: [(1, 1)] * 1_025}), v9(templates={257: [(1, 1)] * 1_024}))
    assert decoder.tally.as_dict() == {"oversized_templates": 3}
    assert decoder.exporters.num_templates == 1


def test_an_exporter_has_so_many_templates_and_more_are_refused() -> None:
    decoder = Decoder(DecoderConfig(max_templates=10))
    decode(decoder, *[ipfix(templates={256 + i: FLOW}) for i in range(12)], ipfix(templates={256: TIMED}))
    assert decoder.exporters.num_templates == 10
    assert decoder.tally.as_dict() == {"refused_templates": 2}
    assert len(decode(decoder, ipfix(data={256: [timed()], 265: [flow()]}))) == 2
    assert len(decode(decoder, ipfix(data={266: [flow()]}), lo=9)) == 0


def test_all_templates_together_are_bounded_and_the_newest_senders_leave_first() -> None:
    decoder = Decoder(DecoderConfig(max_fields=320))
    decode(decoder, ipfix(templates={256: FLOW}))
    decode(decoder, ipfix(templates={256: FLOW}), at_us=NOW_US + SECOND)
    for i in range(100):
        decode(decoder, ipfix(templates={256: [(1, 1)] * 20}), lo=1_000 + i, at_us=NOW_US + SECOND)
        assert decoder.exporters.num_fields <= 320
    decode(decoder, ipfix(templates={256: [(1, 1)] * 21}), lo=9)
    assert decoder.tally["forgotten_templates"] == 100 - 15
    assert decoder.tally["refused_templates"] == 1  # more than a sixteenth of all
    assert len(decode(decoder, ipfix(data={256: [flow()]}), at_us=NOW_US + 2 * SECOND)) == 1
    assert decoder.exporters.num_fields == int(decoder.exporters.table["num_fields"].sum())


@pytest.mark.parametrize("at_once", [1, 500, 10_000])
@pytest.mark.parametrize(
    "junk",
    [v5(v5_record()), ipfix(templates={256: FLOW}), ipfix(data={256: [flow()]})],
    ids=["flows", "templates", "data"],
)
def test_ten_thousand_spoofed_senders_do_not_push_out_an_exporter(at_once: int, junk: bytes) -> None:
    decoder = Decoder(DecoderConfig(max_exporters=64))
    num = 10_000 if at_once > 1 else 1_000
    decode(decoder, ipfix(templates={256: FLOW}))
    decode(decoder, ipfix(data={256: [flow()]}), at_us=NOW_US + 1)
    good = 1
    for begin in range(0, num, at_once):
        payloads = [(junk, NOW_US + begin + i, 1, begin + i) for i in range(at_once)]
        payloads.insert(at_once // 2, (ipfix(data={256: [flow(octets=4)]}), NOW_US + begin + at_once // 2, *ADDRESS))
        found = decoder.decode(Datagrams.of(payloads))
        good += int((found["fwd_bytes"] == 4).sum())
    assert good == 1 + num // at_once
    assert len(decoder.exporters.rows) <= 64
    assert decoder.tally["forgotten_exporters"] == num + 1 - 64
    total = decoder.exporters.totals()
    assert total["datagrams"] == num + 1 + good
    assert len(decoder.names) <= 256
    own = decoder.exporters.rows[(*ADDRESS, 0, 10)]
    assert decoder.names[decoder.exporters.table["name"][own]] == "10.0.0.1"


def test_an_exporter_that_fell_silent_leaves_before_others() -> None:
    decoder = Decoder(DecoderConfig(max_exporters=2, template_lifetime_s=100))
    for at in (0, 50):
        decode(decoder, ipfix(templates={256: FLOW}), lo=1, at_us=NOW_US + at * SECOND)
    decode(decoder, ipfix(templates={256: FLOW}), lo=2, at_us=NOW_US + 200 * SECOND)
    decode(decoder, ipfix(templates={256: FLOW}), lo=3, at_us=NOW_US + 201 * SECOND)
    assert [key[1] for key in decoder.exporters.rows] == [2, 3]


def test_settings_that_cannot_be_are_refused() -> None:
    for bad in ({"max_exporters": 0}, {"max_templates": 0}, {"max_fields": 0}, {"sampling": {"10.0.0.1": 0}}):
        with pytest.raises(ConfigError):
            DecoderConfig(**bad)


def test_options_templates_of_both_kinds_are_distinguished_from_flows() -> None:
    decoder = Decoder()
    options = set_of(3, ipfix_options_template(256, ((8, 4),), ((12, 4), (1, 4))))
    assert not len(decode(decoder, ipfix(options, data={256: [bytes(12)]})))
    assert not decoder.tally
