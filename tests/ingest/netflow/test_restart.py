"""The output of a decoder depends neither on restarts nor on how datagrams are batched."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ingest.netflow.messages import (
    ADDRESS,
    FLOW,
    NOW_S,
    NOW_US,
    TIMED,
    decode,
    flow,
    ipfix,
    set_of,
    timed,
    v5,
    v5_record,
    v9,
    withdrawal,
)
from thalweg.ingest.netflow.config import DecoderConfig
from thalweg.ingest.netflow.datagrams import Datagrams
from thalweg.ingest.netflow.decoder import Decoder

SECOND = 1_000_000
OTHER = (*FLOW[:-2], (2, 4), (1, 4))
"""The same lengths as FLOW, with bytes and packets swapped."""


def octets_of(records: Any) -> list[int]:
    return [int(octets) for octets in records["fwd_bytes"]]


def conversation() -> list[tuple[bytes, int, int, int]]:
    """Return datagrams that use every part of the decoder's state."""
    sampling = ((144, 4),), ((302, 1), (34, 4))
    sampled = (*FLOW, (302, 1))
    sent: list[bytes] = [
        v9(data={256: [flow(octets=1)]}, sequence=0),
        v9(templates={256: FLOW}, data={256: [flow(octets=2)]}, sequence=1),
        ipfix(templates={300: sampled}, options={301: sampling}, domain=5),
        ipfix(data={301: [bytes([0, 0, 0, 1, 7, 0, 0, 0, 50])]}, domain=5),
        ipfix(data={300: [flow(octets=3) + b"\7"]}, domain=5, sequence=1),
        v5(v5_record(4), sequence=10, sampling=100),
        v5(v5_record(5), sequence=12, sampling=100),
        ipfix(data={400: [timed(octets=6)]}, domain=6),
        v9(templates={256: OTHER}, data={256: [flow(octets=7)]}, sequence=3),
        ipfix(options={500: (((144, 4),), ((160, 8),))}, domain=7),
        ipfix(data={500: [bytes(4) + ((NOW_S - 1_000) * 1_000).to_bytes(8, "big")]}, domain=7),
        ipfix(templates={501: (*FLOW, (22, 4), (21, 4))}, domain=7),
        ipfix(data={501: [flow(octets=8) + (990_000).to_bytes(4, "big") + (995_000).to_bytes(4, "big")]}, domain=7),
        ipfix(templates={400: TIMED}, domain=6),
        ipfix(set_of(2, withdrawal(400)), set_of(400, timed(octets=9)), domain=6),
        ipfix(templates={400: TIMED}, domain=6),
        v9(data={256: [flow(octets=10)]}, sequence=2),
    ]
    return [(payload, NOW_US + i * SECOND, *ADDRESS) for i, payload in enumerate(sent)]


def everything(decoder: Decoder, parts: list[list[tuple[bytes, int, int, int]]]) -> tuple[list[Any], list[Any]]:
    records = np.concatenate([decoder.decode(Datagrams.of(part)) for part in parts if part])
    return sorted(records.tolist()), sorted(decoder.exporters.describe(), key=str)


@pytest.mark.parametrize("cut", range(1, len(conversation())))
def test_a_restart_at_any_place_changes_nothing(cut: int) -> None:
    sent = conversation()
    whole = Decoder()
    wanted = everything(whole, [[one] for one in sent])
    first, second = Decoder(), Decoder()
    begun, _ = everything(first, [[one] for one in sent[:cut]])
    second.restore(json.loads(json.dumps(first.state())))
    ended, exporters = everything(second, [[one] for one in sent[cut:]])
    assert (sorted([*begun, *ended]), exporters) == wanted
    assert second.names == whole.names
    assert second.tally.as_dict() == whole.tally.as_dict()
    assert second.exporters.totals() == whole.exporters.totals()
    assert len(wanted[0]) == 10


def test_a_restart_takes_the_sampling_that_the_user_sets_then() -> None:
    first = Decoder(DecoderConfig(sampling={"10.0.0.1": 10}))
    assert octets_of(decode(first, v5(v5_record(5)))) == [50]
    second, third = Decoder(), Decoder(DecoderConfig(sampling={"*": 7}))
    for decoder, octets in ((second, 5), (third, 35)):
        decoder.restore(json.loads(json.dumps(first.state())))
        assert octets_of(decode(decoder, v5(v5_record(5), sequence=1))) == [octets]


@settings(max_examples=60)
@given(st.lists(st.integers(1, 6), max_size=20))
def test_how_datagrams_are_put_together_does_not_matter(sizes: list[int]) -> None:
    # Options stand alone in a call, as they hold for all of it.
    sent = [one for i, one in enumerate(conversation()) if i not in (3, 10)]
    parts, at = [], 0
    for size in sizes:
        parts.append(sent[at : at + size])
        at += size
    parts.append(sent[at:])
    assert everything(Decoder(), parts) == everything(Decoder(), [[one] for one in sent])
