"""The rules, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import polars as pl
import torch

from thalweg.benchmark.rivals.rival import Rival
from thalweg.benchmark.rivals.rules import BusiestSource, UnseenPair, UnseenSource
from thalweg.tables import Flows, conform


def flows_of(pairs: str) -> Flows:
    """'a>b c>d' -> flows between hosts of these names."""
    src, dst = zip(*(pair.split(">") for pair in pairs.split()), strict=True)
    num = len(src)
    return conform(
        pl.DataFrame({"src_addr": src, "dst_addr": dst, "fwd_bytes": [1] * num, "bwd_bytes": [1] * num})
        .with_columns(duration_ms=pl.lit(1.0))
    )  # fmt: skip


def rated(model: Rival, known: str, asked: str, held_out: tuple[int, ...] = ()) -> list[float]:
    flows = flows_of(known)
    held = np.zeros(len(flows), bool)
    held[list(held_out)] = True
    model.fit(flows, held, seed=0, device=torch.device("cpu"), progress=lambda _: None)
    return [-float(logit) for logit in model.logits(flows_of(asked))]


def test_a_pair_is_unseen_in_its_direction() -> None:
    assert rated(UnseenPair(), "a>b a>b b>c", "a>b b>a a>c b>c c>c new>b a>new new>other") == [0, 1, 1, 0, 1, 1, 1, 1]


def test_a_source_is_unseen_even_where_it_was_a_destination() -> None:
    assert rated(UnseenSource(), "a>b b>c", "a>new b>a c>a new>a") == [0, 0, 1, 1]


def test_hosts_are_distinguished_by_address_and_not_by_spelling() -> None:
    known = "2001:DB8::1>10.0.0.1 printer>10.0.0.1"
    asked = "2001:db8:0::1>10.0.0.1 2001:db8::2>10.0.0.1 ::ffff:10.0.0.1>10.0.0.1 printer>10.0.0.1 Printer>10.0.0.1"
    assert rated(UnseenPair(), known, asked) == [0, 1, 1, 0, 1]


def test_held_out_flows_are_not_learned_from() -> None:
    assert rated(UnseenPair(), "a>b b>c", "a>b b>c", held_out=(1,)) == [0, 1]
    assert rated(UnseenSource(), "a>b b>c", "a>b b>c", held_out=(1,)) == [0, 1]


def test_the_busiest_source_is_that_of_the_window() -> None:
    rates = rated(BusiestSource(), "a>b a>b a>b a>b", "b>a c>a b>c b>d")
    np.testing.assert_allclose(rates, np.log([3, 1, 3, 3]), rtol=1e-6)
