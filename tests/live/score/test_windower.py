"""Rows and the clock become windows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import polars as pl
import pytest

from thalweg.errors import ConfigError
from thalweg.ingest.records import Records, no_records
from thalweg.live.config import WindowConfig
from thalweg.live.score.windower import LiveWindow, Windower
from thalweg.tables import Flows, conform

NOW_US: Final = 1_780_000_000_000_000
CONFIG: Final = WindowConfig(flows=10, span_s=5.0)


def records(ports: range, end_us: int = NOW_US) -> Records:
    made = no_records(len(ports))
    made["src_port"], made["start_us"], made["end_us"] = ports, end_us - 1, end_us
    made["fwd_bytes"] = 1
    return made


def flows(ports: range) -> Flows:
    num = len(ports)
    columns = {"src_addr": ["a"] * num, "dst_addr": ["b"] * num, "duration_ms": [1.0] * num, "src_port": list(ports)}
    return conform(pl.DataFrame({**columns, "fwd_bytes": [1] * num, "bwd_bytes": [1] * num}))


def seen(windows: Iterator[LiveWindow]) -> list[tuple[int, int, list[int]]]:
    """Return number, time since NOW_US and ports of each window."""
    return [(one.number, one.time_us - NOW_US, one.flows.frame["src_port"].to_list()) for one in windows]


def test_a_window_ends_when_it_is_full() -> None:
    windower = Windower(CONFIG, ["10.0.0.1"])
    assert seen(windower.advance(NOW_US)) == []
    assert seen(windower.add(records(range(4)), NOW_US)) == []
    assert seen(windower.add(records(range(4, 25)), NOW_US + 1)) == [
        (0, 1, list(range(10))), (1, 1, list(range(10, 20)))
    ]  # fmt: skip
    assert windower.num_held == 5
    assert seen(windower.end(NOW_US + 2)) == [(2, 2, list(range(20, 25)))]
    assert seen(windower.end(NOW_US + 3)) == []


def test_a_window_ends_with_its_span_of_the_clock() -> None:
    windower = Windower(CONFIG, ["10.0.0.1"])
    found = seen(windower.advance(NOW_US))
    for second in range(1, 12):
        found += seen(windower.add(records(range(second, second + 1)), NOW_US))
        found += seen(windower.advance(NOW_US + second * 1_000_000))
    # NOW_US is where a span begins.
    assert found == [(0, 5_000_000, [1, 2, 3, 4, 5]), (1, 10_000_000, [6, 7, 8, 9, 10])]
    assert windower.num_held == 1


def test_records_come_before_flows_in_a_window() -> None:
    windower = Windower(CONFIG, ["10.0.0.1"])
    for run in (flows(range(3)), records(range(3, 5)), flows(range(5, 6))):
        assert seen(windower.add(run, NOW_US)) == []
    assert seen(windower.end(NOW_US)) == [(0, 0, [3, 4, 0, 1, 2, 5])]


def test_records_older_than_their_window_are_late() -> None:
    windower = Windower(CONFIG, ["10.0.0.1"])
    list(windower.advance(NOW_US + 2_000_000))
    list(windower.add(records(range(2)), NOW_US))
    list(windower.add(records(range(3), NOW_US - 1), NOW_US))
    assert windower.tally.as_dict() == {"late_flows": 3}


@pytest.mark.parametrize(("back_us", "is_set_back"), [(999_999, False), (1_000_001, True), (3_600_000_000, True)])
def test_a_clock_that_is_set_back_ends_the_window(back_us: int, is_set_back: bool) -> None:
    windower = Windower(CONFIG, ["10.0.0.1"])
    list(windower.advance(NOW_US + 4_000_000))
    list(windower.add(records(range(2)), NOW_US))
    now_us = NOW_US + 4_000_000 - back_us
    assert windower.is_set_back(now_us) is is_set_back
    assert len(seen(windower.advance(now_us))) == is_set_back
    assert windower.tally["clock_steps"] == is_set_back
    assert not windower.is_set_back(now_us)


def test_a_restored_state_gives_what_the_first_one_would_have_given() -> None:
    first = Windower(CONFIG, ["10.0.0.1"])
    list(first.advance(NOW_US))
    for run in (records(range(12)), flows(range(12, 14)), records(range(14, 16), NOW_US - 1)):
        list(first.add(run, NOW_US))
    state = first.state()
    arrays = {name: value for name, value in state.items() if isinstance(value, np.ndarray)}
    second = Windower(CONFIG, ["10.0.0.1"])
    second.restore(json.loads(json.dumps({n: value for n, value in state.items() if n not in arrays})) | arrays)
    assert second.num_held == first.num_held == 6
    assert second.tally.as_dict() == first.tally.as_dict() == {"late_flows": 2}
    given = [
        [*windower.add(records(range(16, 19)), NOW_US), *windower.advance(NOW_US + 6_000_000)]
        for windower in (first, second)
    ]
    (one,), (other,) = given
    assert (one.number, one.time_us) == (other.number, other.time_us) == (1, NOW_US + 6_000_000)
    assert one.flows.frame.equals(other.flows.frame)
    assert second.state().keys() == first.state().keys()


@pytest.mark.parametrize("config", [{"flows": 0}, {"span_s": 0.5}])
def test_a_window_of_nothing_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="at least one flow"):
        WindowConfig(**config)
