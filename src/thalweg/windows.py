"""Cuts a stream of flows into windows, by count or by time, in order and without overlap."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final, final

from thalweg.errors import ConfigError, SchemaError
from thalweg.tables import Flows, concat
from thalweg.tally import Tally

DEFAULT_SIZE: Final = 200_000
MOST_FLOWS: Final = 100_000_000
"""The largest window; its flows alone take more than 50 GB."""
_NO_TIME: Final = "time windows need the column 'start', which these flows lack: use count windows"


@final
@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A run of flows that is scored as one graph.

    `start` and `end` are the earliest and latest start of its flows; None if the source has no times.
    """

    flows: Flows
    start: datetime | None
    end: datetime | None

    def __len__(self) -> int:
        return len(self.flows)


def _window(flows: Flows) -> Window:
    if "start" not in flows.frame.columns:
        return Window(flows, None, None)
    start = flows.frame["start"]
    low, high = start.min(), start.max()
    return Window(flows, low if isinstance(low, datetime) else None, high if isinstance(high, datetime) else None)


def check_size(size: int) -> None:
    """Check the number of flows in a window. Raises ConfigError if it is out of range."""
    if not 1 <= size <= MOST_FLOWS:
        raise ConfigError(f"a window holds at least one flow and at most {MOST_FLOWS:,}, not {size:,}")


def by_count(runs: Iterable[Flows], size: int = DEFAULT_SIZE) -> Iterator[Window]:
    """Cut into windows of `size` flows; the last one may be shorter.

    Raises ConfigError if `size` is out of range.
    """
    check_size(size)
    held: list[Flows] = []
    num_held = 0
    for run in runs:
        at = 0
        while num_held + len(run) - at >= size:
            piece = run[at : at + size - num_held]
            at += len(piece)
            yield _window(concat([*held, piece]))
            held, num_held = [], 0
        if at < len(run):
            held.append(run[at:])
            num_held += len(run) - at
    if held:
        yield _window(concat(held))


def by_time(
    runs: Iterable[Flows], span: timedelta, *, max_size: int = DEFAULT_SIZE, tally: Tally | None = None
) -> Iterator[Window]:
    """Cut at fixed spans of the clock (12:00, 12:05, …), or at `max_size` flows, whichever comes first.

    Flows keep their order of arrival. A flow that starts before its window (exporters report a flow when it ends) stays
    in the window that was open when it arrived, and is counted as `late_flows`. A flow without a start belongs to the
    window of the flow before it.

    Raises ConfigError if the span is not positive, SchemaError if the flows have no start.
    """
    if span <= timedelta(0):
        raise ConfigError(f"a time window needs a positive span, not {span}")
    tally = Tally() if tally is None else tally
    span_us = span // timedelta(microseconds=1)
    held: list[Flows] = []
    open_id: int | None = None
    for run in runs:
        if not len(run):
            continue
        if "start" not in run.frame.columns:
            raise SchemaError(_NO_TIME)
        ids = run.frame["start"].dt.epoch("us") // span_us
        if open_id is None and ids.null_count() == len(run):
            held.append(run)  # joins the window of the first flow that has a time
            continue
        latest = ids.cum_max().fill_null(strategy="forward")
        latest = latest.fill_null(ids.drop_nulls()[0] if open_id is None else open_id)
        if open_id is not None:
            latest = latest.clip(lower_bound=open_id)
        tally.add("late_flows", int((ids < latest).sum()))
        cuts = [0, *(latest.diff().fill_null(0) > 0).arg_true().to_list(), len(run)]
        for begin, end in pairwise(cuts):
            if open_id is not None and latest[begin] > open_id and held:
                yield from by_count(held, max_size)
                held = []
            open_id = int(latest[begin])
            held.append(run[begin:end])
        while sum(map(len, held)) >= max_size:
            joined = concat(held)
            yield _window(joined[:max_size])
            held = [joined[max_size:]] if len(joined) > max_size else []
    if held and open_id is None:
        raise SchemaError(_NO_TIME)
    if held:
        yield from by_count(held, max_size)


def parse_span(text: str) -> timedelta:
    """Parse a span of time such as 60s, 5m, 1h or 2d. Raises ConfigError if the text is no positive span.

    >>> parse_span("5m")
    datetime.timedelta(seconds=300)
    """
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    number, unit = text[:-1], text[-1:]
    try:
        span = timedelta(seconds=float(number) * units[unit])
    except (KeyError, ValueError, OverflowError):
        raise ConfigError(f"{text!r} is not a span of time: write 60s, 5m, 1h or 2d") from None
    if span <= timedelta(0):
        raise ConfigError(f"the span of a window must be positive, not {text!r}")
    return span
