"""The costliest datagrams: each kind is what its name says, and is decoded."""

from __future__ import annotations

from itertools import islice

import pytest

from thalweg.benchmark.speed.hostile import KINDS, SIZES, run_hostile
from thalweg.benchmark.speed.tables import hostile_table
from thalweg.errors import ConfigError
from thalweg.ingest.netflow.datagrams import Datagrams
from thalweg.ingest.netflow.decoder import Decoder


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_well_formed_and_of_the_size_that_is_asked_for(name: str) -> None:
    for size in SIZES.values():
        prepared, sent = KINDS[name](size)
        some = [*prepared, *islice(sent, 20)]
        assert max(len(payload) for payload, _ in some) <= max(size, 4_200)
        decoder = Decoder()
        decoder.decode(Datagrams.of([(payload, 1, 0, of + 1) for payload, of in some]))
        wrong = {"malformed_sets", "truncated_datagrams", "oversized_templates"}
        assert not set(decoder.tally.as_dict()) & wrong


def test_each_kind_gets_a_row_for_each_size(monkeypatch: pytest.MonkeyPatch) -> None:
    few = dict(islice(KINDS.items(), 2))
    monkeypatch.setattr("thalweg.benchmark.speed.hostile.KINDS", few)
    rows = run_hostile(10, 1)
    assert [(row["kind"], row["bytes"]) for row in rows] == [(name, size) for name in few for size in SIZES]
    assert min(row[name] for row in rows for name in ("alone_ms_per_kb", "together_ms_per_kb")) > 0
    assert len(hostile_table(rows).rows) == len(rows)
    with pytest.raises(ConfigError):
        run_hostile(1, 1)
