"""The conformance kit of sinks for scored windows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from thalweg.sinks.sink import ScoredWindow, Sink

_BEGIN_US: Final = 1_700_000_000_000_000
_HOUR_US: Final = 3_600_000_000


def check_sink(make: Callable[[], Sink], read_back: Callable[[], Iterable[int]]) -> None:
    """Check that a sink holds every flow once, even if the program is killed between a window and saving its state.

    make: returns a new sink of the same place, not opened. read_back: returns the column `row` of all flows there.
    """
    from thalweg.sinks.sink import Sink

    assert isinstance(make(), Sink), "the sink lacks a member of thalweg.sinks.sink.Sink"
    windows = list(_windows())
    written: list[int] = []

    def check_rows() -> None:
        found = sorted(read_back())
        assert found == written, f"rows {_difference(found, written)} are missing or duplicated"

    sink, state = _open_sink(make, None)
    for i, window in enumerate(windows):
        if i % 2:
            # As if killed after writing and before the state is kept: the sink receives the window again.
            sink.write(window)
            _close_sink(sink)
            sink, state = _open_sink(make, state)
        given = window.frame.clone()
        state = _as_json(sink.write(window))
        assert window.frame.equals(given), "a sink must not change the window: other sinks receive it, too"
        written += window.frame["row"].to_list()
        check_rows()
        if i % 3 == 0:
            _close_sink(sink)
            sink, state = _open_sink(make, state)
            check_rows()
    _close_sink(sink)
    check_rows()


def _open_sink(make: Callable[[], Sink], state: Any) -> tuple[Sink, Any]:
    sink = make()
    sink.close()  # closing a sink that is not open does nothing
    return sink, _as_json(sink.open(state))


def _close_sink(sink: Sink) -> None:
    sink.close()
    sink.close()


def _as_json(state: Any) -> Any:
    assert state is not None, "open and write must return a state, {} if none is needed"
    text = json.dumps(state)
    assert json.loads(text) == state, f"JSON changes the state {state}"
    return json.loads(text)


def _difference(found: list[int], wanted: list[int]) -> list[int]:
    there, asked = Counter(found), Counter(wanted)
    return sorted(((there - asked) + (asked - there)).elements())[:10]


def _windows() -> Iterator[ScoredWindow]:
    """Make windows of every kind: large, empty, with nulls, with numbers that are not finite, over several hours."""
    import polars as pl

    from thalweg.sinks.sink import ScoredWindow

    row, time_us = 0, _BEGIN_US
    for number, num in enumerate((3, 1000, 0, 1, 20_000, 7, 0, 5)):
        rows = range(row, row + num)
        frame = pl.DataFrame(
            {
                "row": pl.Series(rows, dtype=pl.UInt64),
                "start": pl.Series([time_us + i for i in rows], dtype=pl.Int64).cast(pl.Datetime("us", "UTC")),
                "src_addr": pl.Series(
                    [None if i % 5 == 4 else f'10.0.0.{i % 256} "ä\\\n' for i in rows], dtype=pl.String
                ),
                "logit": pl.Series([(float("nan"), float("inf"), -0.5)[i % 3] for i in rows], dtype=pl.Float32),
                "anomalous": pl.Series([i % 2 == 0 for i in rows], dtype=pl.Boolean),
            }
        )
        yield ScoredWindow(number, time_us, frame)
        row, time_us = row + num, time_us + _HOUR_US // 3
