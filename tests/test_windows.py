from __future__ import annotations

import itertools
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import make_flows
from thalweg.errors import ConfigError, SchemaError
from thalweg.selection import Selection
from thalweg.tables import Flows
from thalweg.tally import Tally
from thalweg.windows import by_count, by_time, parse_span


def cut(flows: Flows, at: list[int]) -> list[Flows]:
    edges = [0, *sorted(at), len(flows)]
    return [flows[a:b] for a, b in itertools.pairwise(edges)]


def rows(windows: list[Flows]) -> list[int]:
    return [r for w in windows for r in w.frame["row"].to_list()]


@given(st.integers(1, 120), st.lists(st.integers(0, 100), max_size=6))
def test_windows_by_count_keep_order_and_size_for_any_runs(size: int, at: list[int]) -> None:
    flows = make_flows(100)
    windows = list(by_count(cut(flows, at), size))
    assert [len(w) for w in windows[:-1]] == [size] * (len(windows) - 1)
    assert 0 < len(windows[-1]) <= size
    assert rows([w.flows for w in windows]) == list(range(100))


@given(st.lists(st.integers(0, 300), max_size=6), st.integers(5, 400))
def test_windows_by_time_are_the_same_for_any_runs(at: list[int], max_size: int) -> None:
    flows = make_flows(300)
    whole = [len(w) for w in by_time([flows], timedelta(minutes=1), max_size=max_size)]
    parts = list(by_time(cut(flows, at), timedelta(minutes=1), max_size=max_size))
    assert [len(w) for w in parts] == whole
    assert rows([w.flows for w in parts]) == list(range(300))
    if max_size == 400:
        assert all(w.start is not None and w.end is not None and w.end - w.start < timedelta(minutes=1) for w in parts)


def test_late_flows_stay_where_they_arrived_and_are_counted() -> None:
    start = pl.Series(["2026-01-01 00:00:30", "2026-01-01 00:01:10", "2026-01-01 00:00:59", None]).str.to_datetime(
        time_unit="us", time_zone="UTC"
    )
    flows = make_flows(4)
    tally = Tally()
    timed = Flows(flows.frame.with_columns(start=start))
    assert [len(w) for w in by_time([timed], timedelta(minutes=1), tally=tally)] == [1, 3]
    assert tally["late_flows"] == 1


def test_flows_without_a_time_join_the_flow_before_for_any_runs() -> None:
    start = pl.Series([None, "2026-01-01 00:00:30", "2026-01-01 00:01:10", None, None]).str.to_datetime(
        time_unit="us", time_zone="UTC"
    )
    timed = Flows(make_flows(5).frame.with_columns(start=start))
    for at in ([], [1], [3], [1, 3, 4], [1, 2, 3, 4]):
        assert [len(w) for w in by_time(cut(timed, at), timedelta(minutes=1))] == [2, 3]
    with pytest.raises(SchemaError, match="count windows"):
        list(by_time([timed[:1]], timedelta(1)))


def test_bad_windows_are_errors() -> None:
    with pytest.raises(ConfigError, match="at least one flow"):
        list(by_count([make_flows(3)], 0))
    with pytest.raises(ConfigError, match="positive span"):
        list(by_time([make_flows(3)], timedelta(0)))
    with pytest.raises(SchemaError, match="count windows"):
        list(by_time([make_flows(3, timed=False)], timedelta(1)))
    for text in ("soon", "1e12d", "infm"):
        with pytest.raises(ConfigError, match="60s"):
            parse_span(text)
    with pytest.raises(ConfigError, match="positive"):
        parse_span("0s")


def test_a_selection_is_the_same_in_any_chunks_and_round_trips() -> None:
    flows = make_flows(1000)
    chosen = Selection(where="dst_addr = '10.9.0.0' AND start < '2026-03-02 08:10:00'", holdout=0.5, seed=7)
    mask = chosen.mask(flows)
    again = Selection.from_dict(chosen.as_dict())
    assert np.concatenate([again.mask(flows[:333]), again.mask(flows[333:])]).tolist() == mask.tolist()
    of_where = Selection(where=chosen.where).mask(flows)
    assert not (mask & ~of_where).any()
    assert 0.4 < mask.sum() / of_where.sum() < 0.6
    assert (Selection(holdout=0.5, seed=8).mask(flows) != Selection(holdout=0.5, seed=7).mask(flows)).any()


@pytest.mark.parametrize(
    "where",
    ["nosuch = 1", "1 + 1", "dst_addr =", "MAX(fwd_bytes) > 5", "1 IN (SELECT a FROM read_csv('/etc/hostname'))"],
)
def test_a_bad_condition_is_an_error_that_names_the_option(where: str) -> None:
    with pytest.raises(ConfigError, match=r"--where"):
        Selection(where=where).mask(make_flows(5))


def test_holdout_is_a_share() -> None:
    with pytest.raises(ConfigError, match="holdout"):
        Selection(holdout=1.0)
