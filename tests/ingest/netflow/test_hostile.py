"""Hostile or damaged datagrams: nothing raises or grows without bound, and other senders are still received."""

from __future__ import annotations

import json
import struct
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ingest.netflow.messages import ADDRESS, FLOW, NOW_S, NOW_US, UP_MS, decode, flow, ipfix, set_of, v9
from tests.ingest.netflow.seeds import SEEDS
from thalweg.ingest.netflow.config import DecoderConfig
from thalweg.ingest.netflow.datagrams import Datagrams
from thalweg.ingest.netflow.decoder import Decoder
from thalweg.ingest.netflow.values import Describer
from thalweg.tally import MEANINGS

SHARED = Path(__file__).parents[4] / "shared" / "captures"
SMALL = DecoderConfig(
    max_exporters=8, max_templates=16, max_fields=2_000, max_samplers=64, max_held_bytes=20_000, hold_s=5
)
GOOD = (0, 0xFFFF_C0A8_0001)
"""The one well-behaved sender."""


@lru_cache(maxsize=1)
def captured() -> tuple[bytes, ...]:
    found = (*SHARED.glob("scenarios/data/*.dat"), *SHARED.glob("lines/cases/*/*.bin"))
    return tuple(path.read_bytes() for path in sorted(found))


def headers() -> st.SearchStrategy[bytes]:
    v9_header = st.builds(
        lambda sequence, domain: struct.pack(">HHIIII", 9, 7, UP_MS, NOW_S, sequence, domain),
        st.integers(0, 2**32 - 1), st.integers(0, 2),
    )  # fmt: skip
    ipfix_header = st.builds(
        lambda length, sequence, domain: struct.pack(">HHIII", 10, length, NOW_S, sequence, domain),
        st.sampled_from([16, 20, 100, 1_000, 65_535]), st.integers(0, 2**32 - 1), st.integers(0, 2),
    )  # fmt: skip
    return v9_header | ipfix_header


def sets() -> st.SearchStrategy[bytes]:
    """Return sets that are nearly right: templates of any fields, data of any content."""
    ids = st.sampled_from([0, 1, 2, 3, 4, 255, 256, 257, 258, 300, 65_535])
    headers = [4, 6, 7, 8, 11, 12, 27, 28, 32, 139, 180, 183, 312, 313, 314, 315, 317, 104, 408, 409]
    others = [1, 2, 10, 21, 22, 34, 48, 82, 152, 153, 154, 155, 160, 161, 233, 239, 302, 305]
    element = st.sampled_from([*headers, *others])
    length = st.sampled_from([0, 1, 2, 3, 4, 8, 9, 16, 300, 65_535])
    field = st.builds(lambda id_, size: struct.pack(">HH", id_, size), element | st.integers(0, 65_535), length)
    templates = st.builds(
        lambda id_, num, fields: struct.pack(">HH", id_, num if num >= 0 else len(fields)) + b"".join(fields),
        ids, st.sampled_from([-1, -1, -1, 0, 1, 2, 65_535]), st.lists(field, max_size=8),
    )  # fmt: skip
    scoped = st.builds(
        lambda id_, first, second, fields: struct.pack(">HHH", id_, first, second) + b"".join(fields),
        ids, st.integers(0, 16), st.integers(0, 16), st.lists(field, max_size=8),
    )  # fmt: skip
    content = templates | scoped | st.binary(max_size=200) | st.builds(bytes, st.integers(0, 400))
    size = st.sampled_from([None, None, None, None, 0, 3, 4, 5, 65_535])
    return st.builds(
        lambda id_, body, claimed: struct.pack(">HH", id_, len(body) + 4 if claimed is None else claimed) + body,
        ids, content, size,
    )  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, seeds: tuple[bytes, ...] = SEEDS) -> bytes:
    """Draw a datagram with some bits turned, its end cut, or a piece of another one in it."""
    octets = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(octets) - 1))
        octets[at] = draw(st.sampled_from([octets[at] ^ 1 << draw(st.integers(0, 7)), 0, 255]))
    if draw(st.booleans()):
        del octets[draw(st.integers(1, len(octets))) :]
    if draw(st.integers(0, 4)) == 0:
        other = draw(st.sampled_from(seeds))
        octets[draw(st.integers(0, len(octets))) :] = other[draw(st.integers(0, len(other))) :]
    return bytes(octets)


BUILT = st.builds(lambda header, body: header + b"".join(body), headers(), st.lists(sets(), max_size=6))


def survives(payloads: list[bytes], parts: list[int], config: DecoderConfig = SMALL) -> None:
    """Decode and describe these from some senders, between datagrams of a good exporter, all of which must arrive."""
    decoder, describer = Decoder(config), Describer()
    decode(decoder, ipfix(templates={256: FLOW}), at_us=NOW_US - 2_000_000, hi=GOOD[0], lo=GOOD[1])
    decode(decoder, ipfix(data={256: [flow()]}), at_us=NOW_US - 1_000_000, hi=GOOD[0], lo=GOOD[1])
    sent = [(payload, NOW_US + 1_000 * i, 7, i % 11) for i, payload in enumerate(payloads)]
    at, num_good, good = 0, 0, 0
    for part in [*parts, len(sent)]:
        well = (ipfix(data={256: [flow(octets=123_456_789)]}), NOW_US + 1_000 * at, *GOOD)
        records = decoder.decode(Datagrams.of([*sent[at : at + part], well]))
        at += part
        num_good += 1
        hers = decoder.exporters.rows[(*GOOD, 0, 10)]
        good += int(
            (
                (records["exporter"] == decoder.exporters.table["name"][hers]) & (records["fwd_bytes"] == 123_456_789)
            ).sum()
        )
        assert bounded(decoder, config)
        assert (records["end_us"] >= records["start_us"]).all()
        assert (np.abs(records["end_us"] - NOW_US) <= 15 * 86_400_000_000).all()
        assert (records["sampling"] >= 1).all()
    assert good == num_good
    json.dumps(decoder.state())
    assert set(decoder.tally.as_dict()) <= set(MEANINGS)
    for payload, time_us, hi, lo in sent:
        json.dumps(list(describer.describe(payload, time_us=time_us, hi=hi, lo=lo)), allow_nan=False)


def bounded(decoder: Decoder, config: DecoderConfig) -> bool:
    exporters = decoder.exporters
    return (
        len(exporters.rows) <= config.max_exporters
        and max(map(len, exporters.templates.values()), default=0) <= config.max_templates
        and exporters.num_fields <= config.max_fields
        and exporters.num_fields
        == sum(len(one.fields) for of in exporters.templates.values() for one, _ in of.values())
        and exporters.num_samplers == sum(map(len, exporters.samplers.values())) <= config.max_samplers
        and decoder.held.num_bytes <= config.max_held_bytes
        and len(exporters.names.texts) <= 4 * config.max_exporters
        and len(exporters.init_ms) <= config.max_exporters
    )


PARTS = st.lists(st.integers(1, 8), max_size=6)


@settings(max_examples=150)
@given(st.lists(damaged(), max_size=24), PARTS)
def test_damaged_datagrams_harm_nobody(payloads: list[bytes], parts: list[int]) -> None:
    survives(payloads, parts)


@settings(max_examples=150)
@given(st.lists(BUILT, max_size=24), PARTS)
def test_anything_after_a_header_harms_nobody(payloads: list[bytes], parts: list[int]) -> None:
    survives(payloads, parts)


@settings(max_examples=60)
@given(
    st.lists(st.binary(max_size=100) | st.builds(lambda rest: b"\0\x0a" + rest, st.binary(max_size=60)), max_size=24),
    PARTS,
)
def test_noise_harms_nobody(payloads: list[bytes], parts: list[int]) -> None:
    survives(payloads, parts)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the captures are not here (../shared/captures)")
@settings(max_examples=100)
@given(st.data(), PARTS)
def test_damaged_captures_harm_nobody(data: st.DataObject, parts: list[int]) -> None:
    survives(data.draw(st.lists(damaged(captured()), max_size=24)), parts)


@pytest.mark.parametrize("seed", range(len(SEEDS)))
def test_every_single_octet_may_be_wrong_and_every_end_may_be_missing(seed: int) -> None:
    whole = SEEDS[seed]
    places = range(0, len(whole), max(len(whole) // 60, 1))
    wrong = [whole[:at] + bytes([octet]) + whole[at + 1 :] for at in places for octet in (0, 1, 127, 255)]
    survives([*wrong, *(whole[:at] for at in places)], [50] * 4)


def filled(head: bytes, set_id: int, content: bytes) -> bytes:
    """Return the largest datagram, with one set full of the same content."""
    body = content * ((65_000 - len(head)) // len(content))
    packed = head + struct.pack(">HH", set_id, 4 + len(body)) + body
    return packed[:2] + struct.pack(">H", len(packed)) + packed[4:] if head[1] == 10 else packed


IPFIX = ipfix()
LARGE = {
    "templates of one field": filled(IPFIX, 2, struct.pack(">HHHH", 256, 1, 1, 1)),
    "templates of no octet": filled(IPFIX, 2, struct.pack(">HHHH", 256, 1, 1, 0)),
    "templates that change": filled(IPFIX, 2, struct.pack(">HHHHHHHH", 256, 1, 1, 1, 256, 1, 1, 2)),
    "withdrawals": filled(IPFIX, 2, struct.pack(">HH", 256, 0) + struct.pack(">HHHH", 256, 1, 1, 1)),
    "sets of four octets": ipfix(b"\1\0\0\4" * 16_000),
    "sets of no octets": IPFIX + bytes(60_000),
    "options of one octet": ipfix(
        set_of(3, struct.pack(">HHHHHHH", 300, 2, 1, 34, 1, 302, 0)), set_of(300, b"\7" * 60_000)
    ),
    "samplers": ipfix(
        set_of(3, struct.pack(">HHHHHHH", 300, 2, 1, 302, 2, 34, 1)),
        set_of(300, b"".join(struct.pack(">HB", i, i & 255) for i in range(20_000))),
    ),
    "empty fields of varying length": ipfix(
        set_of(2, struct.pack(">HHHHHH", 300, 2, 82, 65_535, 83, 65_535)), set_of(300, bytes(60_000))
    ),
    "records of one octet": v9(set_of(0, struct.pack(">HHHH", 300, 1, 1, 1)), set_of(300, bytes(60_000))),
}


@pytest.mark.parametrize("payload", LARGE.values(), ids=LARGE)
def test_the_largest_datagrams_of_the_worst_kinds_harm_nobody(payload: bytes) -> None:
    survives([payload] * 3, [1, 2], DecoderConfig(max_exporters=8))


def test_a_template_that_describes_itself_as_options_of_itself_changes_nothing_of_the_flows() -> None:
    decoder = Decoder()
    about = set_of(3, struct.pack(">HHHHHHH", 256, 2, 1, 145, 2, 303, 2))
    found = decode(decoder, ipfix(templates={256: FLOW}), ipfix(about, set_of(256, struct.pack(">HH", 256, 256))))
    assert not len(found)
    assert not len(decode(decoder, ipfix(data={256: [flow()]})))
    assert len(decode(decoder, ipfix(templates={256: FLOW}, data={256: [flow()]}))) == 1


def test_ten_thousand_sets_that_wait_for_a_template_are_dropped_together() -> None:
    decoder = Decoder(DecoderConfig(hold_s=10, max_held_bytes=64 << 20))
    payloads = [(ipfix(data={256 + i: [b"?"]}), NOW_US + i, *ADDRESS) for i in range(10_000)]
    decoder.decode(Datagrams.of(payloads))
    assert len(decoder.held) == 10_000
    decode(decoder, ipfix(), at_us=NOW_US + 20_000_000)
    assert len(decoder.held) == 0
    assert decoder.tally.as_dict() == {"sets_without_template": 10_000}


def test_describing_remembers_no_more_than_so_many_templates() -> None:
    describer = Describer()
    many: Any = {256: [(1, 1)] * 1_000}
    for domain in range(300):
        assert len(list(describer.describe(ipfix(templates=many, domain=domain)))) == 1
    (first,) = describer.describe(ipfix(data={256: [bytes(1_000)]}, domain=0))
    (last,) = describer.describe(ipfix(data={256: [bytes(1_000)]}, domain=299))
    assert (first["kind"], last["kind"]) == ("unknown", "flow")
