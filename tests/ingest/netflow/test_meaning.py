"""What records mean: sampling, both directions of a flow, and firewall events."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from tests.ingest.netflow.messages import (
    ADDRESS,
    FLOW,
    NOW_S,
    NOW_US,
    VARIABLE,
    Fields,
    decode,
    flow,
    ip,
    ipfix,
    v5,
    v5_record,
    v9,
)
from thalweg.ingest.netflow.config import DecoderConfig
from thalweg.ingest.netflow.decoder import Decoder
from thalweg.ingest.records import INITIATOR, address_halves

SECOND = 1_000_000
SYSTEM: Fields = ((1, 4),)
PROCESS: Fields = ((144, 4),)


def ints(*pairs: tuple[int, int]) -> bytes:
    """Return numbers one after the other: (value, octets) each."""
    return b"".join(value.to_bytes(octets, "big") for value, octets in pairs)


def one(payload: bytes, decoder: Decoder | None = None, at_us: int = NOW_US) -> Any:
    (record,) = decode(decoder or Decoder(), payload, at_us=at_us)
    return record


def sampled(fields: Fields, values: bytes, *, scope: Fields = PROCESS) -> Decoder:
    """Return a decoder whose exporter has reported its sampling in options of IPFIX."""
    decoder = Decoder()
    size = sum(field[1] for field in scope)
    assert not len(decode(decoder, ipfix(templates={256: FLOW}, options={300: (scope, fields)})))
    assert not len(decode(decoder, ipfix(data={300: [bytes(size) + values]})))
    return decoder


@pytest.mark.parametrize(
    ("fields", "values", "interval"),
    [
        (((34, 4),), ints((100, 4)), 100),
        (((50, 4),), ints((64, 4)), 64),
        (((34, 4), (50, 2)), ints((0, 4), (9, 2)), 9),
        (((305, 4), (306, 4)), ints((1, 4), (999, 4)), 1_000),
        (((305, 4), (306, 4)), ints((10, 4), (90, 4)), 10),
        (((305, 4), (306, 4)), ints((1, 4), (0, 4)), 1),
        (((305, 4),), ints((500, 4)), 500),
        (((305, 4), (34, 4)), ints((1, 4), (200, 4)), 200),
        (((309, 4), (310, 4)), ints((2, 4), (512, 4)), 256),
        (((311, 8),), struct.pack(">d", 0.001), 1_000),
        (((311, 4),), struct.pack(">f", 0.5), 2),
    ],
)
def test_options_state_the_sampling_in_every_way_there_is(fields: Fields, values: bytes, interval: int) -> None:
    decoder = sampled(fields, values)
    found = one(ipfix(data={256: [flow(octets=10, packets=2)]}), decoder)
    assert (found["fwd_bytes"], found["fwd_packets"], found["sampling"]) == (10 * interval, 2 * interval, interval)
    assert decoder.exporters.describe()[0]["sampled_by"] == "options"


@pytest.mark.parametrize(
    ("fields", "values"),
    [
        (((34, 4),), bytes(4)),
        (((305, 4), (306, 4)), bytes(8)),
        (((309, 4), (310, 4)), ints((0, 4), (7, 4))),
        (((305, 8), (306, 8)), b"\xff" * 16),
        (((309, 1), (310, 200)), b"\1" + b"\xff" * 200),
        (((311, 8),), struct.pack(">d", float("nan"))),
        (((311, 8),), struct.pack(">d", 1e-300)),
        (((311, 3),), b"\1\2\3"),
        (((34, 300),), b"\xff" * 300),
        (((41, 8),), b"\xff" * 8),
    ],
)
def test_options_that_state_no_sampling_leave_counts_as_they_are(fields: Fields, values: bytes) -> None:
    assert one(ipfix(data={256: [flow(octets=10)]}), sampled(fields, values))["fwd_bytes"] in (10, 20)


def test_v9_options_of_the_system_state_the_sampling() -> None:
    decoder = Decoder()
    decode(decoder, v9(templates={256: FLOW}, options={257: (SYSTEM, ((34, 4), (35, 1)))}))
    decode(decoder, v9(data={257: [bytes(4) + ints((100, 4), (2, 1))]}))
    assert one(v9(data={256: [flow(octets=7)]}), decoder)["fwd_bytes"] == 700


@pytest.mark.parametrize("element", [302, 48])
def test_records_name_the_sampler_that_took_them(element: int) -> None:
    decoder = sampled(((element, 2), (34, 4)), ints((1, 2), (100, 4)))
    decode(decoder, ipfix(data={300: [bytes(4) + ints((2, 2), (1_000, 4))]}))
    decode(decoder, ipfix(templates={257: (*FLOW, (element, 1))}))
    records = decode(decoder, ipfix(data={257: [flow(octets=5) + bytes([which]) for which in (1, 2, 0, 9)]}))
    assert records["sampling"].tolist() == [100, 1_000, 1, 1]
    assert records["fwd_bytes"].tolist() == [500, 5_000, 5, 5]
    # Without a sampler's name, two samplers leave it open.
    assert one(ipfix(data={256: [flow(octets=5)]}), decoder)["fwd_bytes"] == 5
    assert decoder.exporters.describe()[0]["samplers"] == {"1": 100, "2": 1_000}


def test_one_sampler_alone_is_everybodys() -> None:
    decoder = sampled(((302, 2), (34, 4)), ints((1, 2), (100, 4)))
    assert one(ipfix(data={256: [flow(octets=5)]}), decoder)["fwd_bytes"] == 500


@pytest.mark.parametrize("scope", [((10, 4),), ((141, 4),)])
def test_interfaces_may_have_a_sampling_each(scope: Fields) -> None:
    decoder = Decoder()
    decode(decoder, ipfix(templates={257: (*FLOW, (10, 2))}, options={300: (scope, ((34, 4),))}))
    decode(decoder, ipfix(data={300: [ints((3, 4), (100, 4)), ints((4, 4), (10, 4))]}))
    records = decode(decoder, ipfix(data={257: [flow(octets=5) + ints((which, 2)) for which in (3, 4, 5)]}))
    assert records["fwd_bytes"].tolist() == [500, 50, 5]


def test_v9_scope_of_an_interface_is_understood() -> None:
    decoder = Decoder()
    decode(decoder, v9(templates={257: (*FLOW, (10, 2))}, options={300: (((2, 4),), ((34, 4),))}))
    decode(decoder, v9(data={300: [ints((3, 4), (100, 4)), ints((4, 4), (10, 4))]}))
    records = decode(decoder, v9(data={257: [flow(octets=5) + ints((which, 2)) for which in (3, 4, 5)]}))
    assert records["fwd_bytes"].tolist() == [500, 50, 5]


@pytest.mark.parametrize(
    ("fields", "values", "interval"),
    [
        (((34, 4),), ints((20, 4)), 20),
        (((34, 4),), ints((0, 4)), 1),
        (((50, 3),), ints((70_000, 3)), 70_000),
        (((305, 4), (306, 4)), ints((1, 4), (9, 4)), 10),
        (((305, 4), (34, 4)), ints((1, 4), (30, 4)), 30),
        (((309, 2), (310, 4)), ints((2, 2), (80, 4)), 40),
        (((34, 8),), b"\xff" * 8, 0xFFFF_FFFF),
    ],
)
def test_records_may_state_their_own_sampling(fields: Fields, values: bytes, interval: int) -> None:
    found = one(ipfix(templates={256: (*FLOW, *fields)}, data={256: [flow(octets=3) + values]}))
    assert (found["sampling"], found["fwd_bytes"]) == (interval, 3 * interval)


def swapped(number: int, octets: int = 4) -> bytes:
    """Return a number in the wrong byte order."""
    return number.to_bytes(octets, "little")


@pytest.mark.parametrize(
    ("fields", "values"),
    [
        (((34, 4),), swapped(2_000)),
        (((50, 4),), swapped(100)),
        (((34, 8),), swapped(2_000, 8)),
        (((305, 4), (306, 4)), swapped(1) + swapped(1_999)),
        (((305, 1), (306, 4)), b"\1" + swapped(1_999)),
        (((309, 4), (310, 4)), swapped(1) + swapped(512)),
        (((309, 1), (310, 4)), b"\1" + swapped(2_000)),
    ],
)
@pytest.mark.parametrize("in_options", [False, True])
def test_an_interval_in_the_wrong_byte_order_is_not_believed(fields: Fields, values: bytes, in_options: bool) -> None:
    for config, octets in ((DecoderConfig(), 3), (DecoderConfig(sampling={"*": 2_000}), 6_000)):
        decoder = Decoder(config)
        if in_options:
            decode(decoder, ipfix(options={300: (PROCESS, fields)}, data={300: [bytes(4) + values]}))
            payload = ipfix(templates={256: FLOW}, data={256: [flow(octets=3)]})
        else:
            payload = ipfix(templates={256: (*FLOW, *fields)}, data={256: [flow(octets=3) + values]})
        assert one(payload, decoder)["fwd_bytes"] == octets
        (exporter,) = decoder.exporters.describe()
        num = 1 if octets == 3 else 0
        assert decoder.tally.as_dict() == ({"disbelieved_intervals": 1} if num else {})
        assert exporter["disbelieved_intervals"] == num
        assert exporter["sampling"] == (0 if num else 2_000)


def test_an_interval_that_is_not_believed_leaves_what_options_state_and_the_other_records() -> None:
    decoder = sampled(((34, 4),), ints((50, 4)))
    records = [flow(octets=3) + values for values in (swapped(2_000), ints((20, 4)), ints((1 << 20, 4)))]
    found = decode(decoder, ipfix(templates={257: (*FLOW, (34, 4))}, data={257: records}))
    assert found["sampling"].tolist() == [50, 20, 50]
    large = [1_000_000, 65_536, 1 << 20 | 1]
    found = decode(decoder, ipfix(data={257: [flow() + ints((interval, 4)) for interval in large]}))
    assert found["sampling"].tolist() == large
    assert decoder.tally.as_dict() == {"disbelieved_intervals": 2}


def test_an_interval_in_options_that_no_number_of_packets_can_be_is_counted() -> None:
    decoder = sampled(((34, 8),), b"\xff" * 8)
    assert one(ipfix(data={256: [flow(octets=3)]}), decoder)["fwd_bytes"] == 3
    assert decoder.tally.as_dict() == {"disbelieved_intervals": 1}


def test_a_rate_in_the_records_is_reported_with_its_source() -> None:
    decoder = sampled(((34, 4),), ints((50, 4)))
    assert decoder.exporters.describe()[0]["sampled_by"] == "options"
    for interval in (20, 30):
        record = flow() + ints((interval, 4))
        decode(decoder, ipfix(templates={257: (*FLOW, (34, 4))}, data={257: [record]}))
        (exporter,) = decoder.exporters.describe()
        assert (exporter["sampling"], exporter["sampled_by"]) == (interval, "records")
    decode(decoder, ipfix(data={257: [flow() + bytes(4)]}))
    assert decoder.exporters.describe()[0]["sampled_by"] == "options"


@pytest.mark.parametrize("make", [v9, ipfix])
@pytest.mark.parametrize("element", [302, 48])
@pytest.mark.parametrize("is_late", [False, True])
def test_a_sampler_of_another_domain_is_used_if_its_own_has_none(make: Any, element: int, is_late: bool) -> None:
    decoder = Decoder()
    scope = SYSTEM if make is v9 else PROCESS
    options = make(options={300: (scope, ((element, 2), (34, 4)))}, domain=6)
    stated = make(data={300: [bytes(4) + ints((7, 2), (1_000, 4))]}, domain=6)
    flows = make(
        templates={256: (*FLOW, (element, 1)), 257: FLOW},
        data={256: [flow(octets=5) + bytes([which]) for which in (7, 0, 8)], 257: [flow(octets=5)]}, domain=1,
    )  # fmt: skip
    payloads = [flows, options, stated] if is_late else [options, stated, flows]
    assert decode(decoder, *payloads)["sampling"].tolist() == [1_000, 1, 1, 1]
    assert not len(decode(decoder, make(templates={256: (*FLOW, (element, 1))}, domain=1)))
    assert one(make(data={256: [flow() + b"\7"]}, domain=1), decoder)["sampling"] == 1_000
    named = {exporter["domain"]: exporter for exporter in decoder.exporters.describe()}
    assert (named[1]["sampling"], named[1]["sampled_by"]) == (1_000, "options of domain 6")
    assert (named[6]["sampling"], named[6]["sampled_by"]) == (1_000, "options")
    # Another address, and another version, are other devices.
    payload = make(templates={256: (*FLOW, (element, 1))}, data={256: [flow() + b"\7"]}, domain=1)
    assert decode(decoder, payload, lo=9)["sampling"].tolist() == [1]


def test_an_own_sampler_comes_before_that_of_another_domain_and_two_that_differ_are_not_used() -> None:
    decoder = Decoder()

    def state(domain: int, *samplers: tuple[int, int]) -> None:
        records = [bytes(4) + ints((id_, 2), (interval, 4)) for id_, interval in samplers]
        template = {300: (PROCESS, ((302, 2), (34, 4)))}
        decode(decoder, ipfix(options=template, data={300: records}, domain=domain))

    def intervals() -> list[int]:
        data = {256: [flow() + bytes([which]) for which in (7, 8)]}
        found = decode(decoder, ipfix(templates={256: (*FLOW, (302, 1))}, data=data, domain=1))
        return [int(interval) for interval in found["sampling"]]

    state(6, (7, 100), (8, 200))
    assert intervals() == [100, 200]
    state(9, (7, 100), (8, 300))
    assert intervals() == [100, 1]
    state(9, (8, 200))
    assert intervals() == [100, 200]
    state(1, (8, 10), (9, 20))
    assert intervals() == [1, 10]


def test_an_interface_of_another_domain_is_used_and_what_holds_for_a_whole_domain_is_not() -> None:
    decoder = Decoder()
    payload = ipfix(templates={257: (*FLOW, (10, 2))}, data={257: [flow(octets=5) + ints((3, 2))]}, domain=1)
    decode(decoder, ipfix(options={301: (PROCESS, ((34, 4),))}, data={301: [ints((0, 4), (9, 4))]}, domain=5))
    assert one(payload, decoder)["fwd_bytes"] == 5
    decode(decoder, ipfix(options={300: (((10, 4),), ((34, 4),))}, data={300: [ints((3, 4), (100, 4))]}, domain=6))
    assert one(payload, decoder)["fwd_bytes"] == 500


def test_options_that_come_with_a_template_hold_for_what_waited_for_it() -> None:
    decoder = Decoder()
    assert not len(decode(decoder, ipfix(data={256: [flow(octets=2)]})))
    found = decode(
        decoder, ipfix(templates={256: FLOW}), ipfix(options={300: (PROCESS, ((34, 4),))}),
        ipfix(data={300: [ints((0, 4), (256, 4))]}), ipfix(data={256: [flow(octets=3)]}),
    )  # fmt: skip
    assert found["fwd_bytes"].tolist() == [2 * 256, 3 * 256]


def test_options_that_waited_for_their_template_hold_for_what_waited_beside_them() -> None:
    decoder = Decoder()
    assert not len(decode(decoder, ipfix(data={256: [flow(octets=2)], 300: [ints((0, 4), (256, 4))]})))
    template = ipfix(templates={256: FLOW}, options={300: (PROCESS, ((34, 4),))})
    assert decode(decoder, template)["fwd_bytes"].tolist() == [2 * 256]


def test_the_last_of_many_options_records_counts_and_fields_of_varying_length_are_read() -> None:
    decoder = Decoder()
    fields = ((82, 65_535), (302, 65_535), (41, 0), (34, 65_535))
    records = [b"\4eth0\2" + ints((id_, 2)) + b"\1" + bytes([interval]) for id_, interval in ((1, 5), (2, 6), (1, 7))]
    decode(decoder, ipfix(options={300: (((144, 4),), fields)}, data={300: [bytes(4) + one for one in records]}))
    assert decoder.exporters.describe()[0]["samplers"] == {"1": 7, "2": 6}


def test_what_the_user_says_of_sampling_counts_more_than_what_exporters_say() -> None:
    config = DecoderConfig(sampling={"10.0.0.1": 3, "*": 5})
    record = flow(octets=2) + ints((100, 4))
    payload = ipfix(templates={256: (*FLOW, (34, 4))}, data={256: [record]})
    decoder = Decoder(config)
    assert one(payload, decoder)["fwd_bytes"] == 6
    assert decode(decoder, payload, lo=ADDRESS[1] + 1)["fwd_bytes"].tolist() == [10]
    assert one(v5(v5_record(2), sampling=100), decoder)["fwd_bytes"] == 6
    decode(decoder, ipfix(options={300: (PROCESS, ((34, 4),))}, data={300: [ints((0, 4), (9, 4))]}))
    assert one(payload, decoder)["fwd_bytes"] == 6


def test_v5_has_its_sampling_in_every_header() -> None:
    mode = 1 << 14
    decoder = Decoder()
    records = decode(decoder, *[v5(v5_record(5), sampling=mode | interval) for interval in (100, 10, 0, 1)])
    assert records["fwd_bytes"].tolist() == [500, 50, 5, 5]
    assert records["sampling"].tolist() == [100, 10, 1, 1]
    assert decoder.exporters.describe()[0]["sampled_by"] == "v5 header"


def test_counts_of_both_ways_are_scaled_and_stop_at_the_largest() -> None:
    fields = ((8, 4), (12, 4), (1, 8), (2, 8), (1, 8, 29305), (2, 8, 29305), (34, 4))
    record = ip("10.1.0.1") + ip("10.2.0.2") + ints((1 << 62, 8), (3, 8), (4, 8), (1 << 60, 8), (100, 4))
    found = one(ipfix(templates={256: fields}, data={256: [record]}))
    largest = (2**64 - 1) // 100 * 100
    assert [int(found[name]) for name in ("fwd_bytes", "fwd_packets", "bwd_bytes", "bwd_packets")] == [
        largest, 300, 400, largest,
    ]  # fmt: skip


# Both directions.

BIFLOW: Fields = (*FLOW, (1, 4, 29305), (2, 4, 29305))


def ways(record: Any) -> list[int]:
    return [int(record[name]) for name in ("fwd_bytes", "fwd_packets", "bwd_bytes", "bwd_packets", "two_way")]


def test_reverse_elements_are_the_answer_and_the_source_is_who_opened_the_flow() -> None:
    answered = flow(octets=10, packets=1) + ints((20, 4), (2, 4))
    unanswered = flow(octets=10, packets=1) + bytes(8)
    first, second = decode(Decoder(), ipfix(templates={256: BIFLOW}, data={256: [answered, unanswered]}))
    assert ways(first) == [10, 1, 20, 2, 1]
    assert ways(second) == [10, 1, 0, 0, 1]
    assert INITIATOR[first["initiator"]] == INITIATOR[second["initiator"]] == "exporter"


@pytest.mark.parametrize(
    ("direction", "src_port", "initiator"),
    [(0, 40_000, "unknown"), (1, 40_000, "exporter"), (2, 443, "exporter"), (3, 40_000, "unknown")],
)
def test_a_biflow_direction_says_who_opened_the_flow(direction: int, src_port: int, initiator: str) -> None:
    record = flow(octets=10, packets=1) + ints((20, 4), (2, 4), (direction, 1))
    found = one(ipfix(templates={256: (*BIFLOW, (239, 1))}, data={256: [record]}))
    assert (found["src_port"], INITIATOR[found["initiator"]]) == (src_port, initiator)
    swapped = direction == 2
    assert ways(found) == ([20, 2, 10, 1, 1] if swapped else [10, 1, 20, 2, 1])
    assert (found["src_hi"], found["src_lo"]) == address_halves("10.2.0.2" if swapped else "10.1.0.1")


def test_an_icmp_flow_that_is_swapped_keeps_its_type() -> None:
    record = flow(ports=(0, 2048), protocol=1) + ints((20, 4), (2, 4), (2, 1))
    found = one(ipfix(templates={256: (*BIFLOW, (239, 1))}, data={256: [record]}))
    assert (found["src_port"], found["dst_port"]) == (0, 2048)


def test_initiator_and_responder_counts_are_both_ways() -> None:
    fields = (*FLOW[:5], (231, 4), (232, 4), (298, 4), (299, 4))
    found = one(ipfix(templates={256: fields}, data={256: [flow()[:13] + ints((5, 4), (6, 4), (1, 4), (2, 4))]}))
    assert ways(found) == [5, 1, 6, 2, 1]
    assert INITIATOR[found["initiator"]] == "exporter"


def test_responder_counts_alone_are_an_answer_only_where_there_is_one() -> None:
    fields = (*FLOW, (232, 2))
    none, some = decode(Decoder(), v9(templates={256: fields}, data={256: [flow() + ints((n, 2)) for n in (0, 7)]}))
    assert ways(none) == [1_000, 10, 0, 0, 0]
    assert INITIATOR[none["initiator"]] == "unknown"
    assert ways(some) == [1_000, 10, 7, 0, 1]


OUT: Fields = (*FLOW, (23, 4), (24, 4))


def test_out_counts_beside_in_counts_are_the_answer_in_v9() -> None:
    data = [flow(octets=10, packets=1) + ints((20, 4), (2, 4)), flow(octets=10, packets=1) + bytes(8)]
    first, second = decode(Decoder(), v9(templates={256: OUT}, data={256: data}))
    assert ways(first) == [10, 1, 20, 2, 1]
    assert ways(second) == [10, 1, 0, 0, 0]
    assert INITIATOR[first["initiator"]] == "exporter"
    assert INITIATOR[second["initiator"]] == "unknown"


def test_out_counts_are_the_answer_in_ipfix_of_nprobe_and_nothing_in_that_of_others() -> None:
    record = flow(octets=10, packets=1) + ints((20, 4), (2, 4), (0, 2))
    assert ways(one(ipfix(templates={256: (*OUT, (118, 2, 35632))}, data={256: [record]}))) == [10, 1, 20, 2, 1]
    assert ways(one(ipfix(templates={256: (*OUT, (210, 2))}, data={256: [record]}))) == [10, 1, 0, 0, 0]


@pytest.mark.parametrize("make", [v9, ipfix])
def test_out_counts_alone_are_those_of_the_flow(make: Any) -> None:
    fields = (*FLOW[:5], (23, 4), (24, 4))
    assert ways(one(make(templates={256: fields}, data={256: [flow(octets=10, packets=1)]}))) == [10, 1, 0, 0, 0]


def test_out_counts_of_what_leaves_are_the_same_way_where_in_counts_are_nothing() -> None:
    fields = (*OUT, (61, 1))
    record = flow(octets=0, packets=0) + ints((20, 4), (2, 4), (1, 1))
    found = one(v9(templates={256: fields}, data={256: [record]}))
    assert ways(found) == [20, 2, 0, 0, 0]
    assert (found["egress"], INITIATOR[found["initiator"]]) == (1, "unknown")


ASA: Fields = ((8, 4), (12, 4), (7, 2), (11, 2), (4, 1), (233, 1), (231, 4), (232, 4), (152, 8), (323, 8))


def test_a_firewall_reports_flows_that_have_ended_or_go_on_and_the_others_are_events() -> None:
    times = ints((NOW_S * 1000 - 3_000, 8), (NOW_S * 1000 - 1_000, 8))
    counts = {1: (0, 0), 2: (5, 7), 3: (0, 0), 5: (2, 3), 0: (0, 0), 4: (0, 0)}
    data = [
        flow()[:13] + ints((event, 1), (forward, 4), (backward, 4)) + times
        for event, (forward, backward) in counts.items()
    ]
    decoder = Decoder()
    found = decode(decoder, v9(templates={256: ASA}, data={256: data}))
    assert [ways(record)[::2] for record in found] == [[5, 7, 1], [0, 0, 1], [2, 3, 1]]
    assert found["continued"].tolist() == [0, 0, 0]
    assert (found["start_us"] == NOW_US - 3 * SECOND).all()
    assert (found["end_us"] == NOW_US - SECOND).all()
    assert decoder.tally.as_dict() == {"event_records": 3}
    assert decoder.exporters.totals()["flows"] == 3


ADDRESSES: Fields = ((8, 4), (12, 4))
V6: Fields = ((27, 16), (28, 16))
MORE: Fields = ((1, 4), (2, 4))
COUNTS = ints((100, 4), (2, 4))
V4_PAIR = ip("10.1.0.1") + ip("10.2.0.2")
V6_PAIR = b"".join(half.to_bytes(8, "big") for text in ("2001:db8::1", "2001:db8::2") for half in address_halves(text))


@pytest.mark.parametrize("make", [v9, ipfix])
@pytest.mark.parametrize(
    ("fields", "values", "protocol", "dst_port"),
    [
        ((*ADDRESSES, (32, 2)), V4_PAIR + ints((8 * 256, 2)), 1, 2_048),
        ((*ADDRESSES, (32, 2)), V4_PAIR + ints((0, 2)), 1, 0),
        ((*ADDRESSES, (176, 1), (177, 1)), V4_PAIR + ints((3, 1), (1, 1)), 1, 769),
        ((*V6, (139, 2)), V6_PAIR + ints((135 * 256, 2)), 58, 34_560),
        ((*V6, (178, 1), (179, 1)), V6_PAIR + ints((1, 1), (4, 1)), 58, 260),
        ((*V6, (32, 2)), V6_PAIR + ints((128 * 256, 2)), 58, 32_768),
        # A template of both families: what is of the other one is 0.
        ((*ADDRESSES, *V6, (32, 2), (139, 2)), V4_PAIR + bytes(32) + ints((2_048, 2), (0, 2)), 1, 2_048),
        ((*ADDRESSES, *V6, (32, 2), (139, 2)), bytes(8) + V6_PAIR + ints((0, 2), (32_768, 2)), 58, 32_768),
        ((*V6, (4, 1), (32, 2), (139, 2)), V6_PAIR + b"\x3a" + ints((0, 2), (32_768, 2)), 58, 32_768),
        (
            (*ADDRESSES, *V6, (176, 1), (177, 1), (178, 1), (179, 1)),
            bytes(8) + V6_PAIR + ints((0, 1), (0, 1), (1, 1), (4, 1)), 58, 260,
        ),
        # With ports it is ICMP only if the field of ICMP says something.
        ((*ADDRESSES, (7, 2), (11, 2), (32, 2)), V4_PAIR + ints((0, 2), (0, 2), (2_048, 2)), 1, 2_048),
        ((*ADDRESSES, (7, 2), (11, 2), (32, 2)), V4_PAIR + ints((40_000, 2), (443, 2), (0, 2)), 0, 443),
        ((*ADDRESSES, (182, 2), (183, 2)), V4_PAIR + ints((40_000, 2), (443, 2)), 6, 443),
        ((*ADDRESSES, (180, 2), (181, 2)), V4_PAIR + ints((40_000, 2), (53, 2)), 17, 53),
        (
            (*ADDRESSES, (182, 2), (183, 2), (180, 2), (181, 2)),
            V4_PAIR + ints((0, 2), (0, 2), (40_000, 2), (53, 2)), 17, 53,
        ),
        (
            (*ADDRESSES, (4, 1), (182, 2), (183, 2), (180, 2), (181, 2)),
            V4_PAIR + b"\x11" + ints((0, 2), (0, 2), (40_000, 2), (53, 2)), 17, 53,
        ),
        ((*ADDRESSES, (4, 1), (32, 2)), V4_PAIR + b"\x06" + ints((2_048, 2)), 6, 0),
    ],
)  # fmt: skip
@pytest.mark.parametrize("more", [(), ((82, VARIABLE),)], ids=["fixed", "variable"])
def test_a_protocol_that_is_not_stated_is_what_its_fields_belong_to(
    make: Any, fields: Fields, values: bytes, protocol: int, dst_port: int, more: Fields
) -> None:
    record = values + COUNTS + (b"\x03eth" if more else b"")
    found = one(make(templates={256: (*fields, *MORE, *more)}, data={256: [record]}))
    assert (found["protocol"], found["dst_port"], found["fwd_bytes"]) == (protocol, dst_port, 100)
    assert found["src_port"] == (40_000 if dst_port in (443, 53) else 0)
