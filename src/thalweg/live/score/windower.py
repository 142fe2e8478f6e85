"""Runs of rows and the clock -> windows."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import polars as pl

from thalweg.ingest.records import Records, flows_of, no_records
from thalweg.live.config import WindowConfig
from thalweg.tables import Flows, concat
from thalweg.tally import MEANINGS, Tally

_STEP_US: Final = 1_000_000
"""Times that come out of order by less do not mean that the clock was set back."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class LiveWindow:
    """Flows to be scored as one graph. number: 0 for the first one of a spool; time_us: the clock when it ended."""

    number: int
    flows: Flows
    time_us: int

    def __len__(self) -> int:
        return len(self.flows)


@final
class Windower:
    """Puts rows into windows in the order in which they come: the same calls give the same windows.

    names: what `exporter` of records indexes, read when a window ends. number: of the next window. num_held: flows in
    the open window. tally: late flows, and times that the clock was set back.
    """

    def __init__(self, config: WindowConfig, names: Sequence[str]) -> None:
        self.number = 0
        self.num_held = 0
        self.tally = Tally()
        self._names = names
        self._size = config.flows
        self._span_us = round(config.span_s * 1e6)
        self._records: list[Records] = []
        self._flows: list[Flows] = []
        self._span: int | None = None  # the open window's, counted from 1970; None if none is open
        self._clock_us = 0

    def is_set_back(self, time_us: int) -> bool:
        """Whether the clock was set back, if it is `time_us` now."""
        return time_us < self._clock_us - _STEP_US

    def advance(self, time_us: int) -> Iterator[LiveWindow]:
        """Set the clock, and yield the open window if its span is over or the clock was set back."""
        span = time_us // self._span_us
        if self.is_set_back(time_us):
            # Otherwise no window would end until the clock reaches its former time.
            self.tally.add("clock_steps", 1, f"{(time_us - self._clock_us) / 1e6:+,.0f} s")
            yield from self.end(time_us)
        elif self._span is not None and span > self._span:
            yield from self.end(time_us)
        self._clock_us = time_us
        self._span = span if self._span is None else self._span

    def add(self, run: Records | Flows, time_us: int) -> Iterator[LiveWindow]:
        """Put rows into the open window, and yield each window that they fill."""
        self.tally.add("late_flows", self._num_late(run))
        while self.num_held + len(run) >= self._size:
            room = self._size - self.num_held
            self._hold(run[:room])
            run = run[room:]
            yield self._window(time_us)
        self._hold(run)

    def end(self, time_us: int) -> Iterator[LiveWindow]:
        """End the open window, and yield it if it has flows."""
        if self.num_held:
            yield self._window(time_us)
        self._span = None

    def _num_late(self, run: Records | Flows) -> int:
        if isinstance(run, Flows) or self._span is None:
            return 0
        return int((run["end_us"] < self._span * self._span_us).sum())

    def _hold(self, run: Records | Flows) -> None:
        if not len(run):
            return
        if isinstance(run, Flows):
            self._flows.append(run)
        else:
            self._records.append(run)
        self.num_held += len(run)

    def _window(self, time_us: int) -> LiveWindow:
        parts = list(self._flows)
        if self._records:
            parts.insert(0, flows_of(self._records, self._names, subject="exporters", tally=self.tally))
        self._records, self._flows, self.num_held = [], [], 0
        window = LiveWindow(self.number, concat(Flows(part.frame) for part in parts), time_us)
        self.number += 1
        return window

    def state(self) -> dict[str, Any]:
        """Return all that later windows depend on, and the counts: JSON values and arrays, by name."""
        content = io.BytesIO()
        if self._flows:
            concat([Flows(flows.frame) for flows in self._flows]).frame.write_ipc(content)
        return {
            "number": self.number,
            "span": self._span,
            "clock_us": self._clock_us,
            "counts": self.tally.as_dict(),
            "records": np.concatenate(self._records) if self._records else no_records(),
            "flows": np.frombuffer(content.getvalue(), np.uint8),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a state, in a new windower."""
        self.number, self._span, self._clock_us = state["number"], state["span"], state["clock_us"]
        for name, num in state["counts"].items():
            if name in MEANINGS:  # else it is of another version of the program
                self.tally.add(name, num)
        self._records = [state["records"]] if len(state["records"]) else []
        flows = state["flows"].tobytes()
        self._flows = [Flows(pl.read_ipc(io.BytesIO(flows)))] if flows else []
        self.num_held = sum(map(len, self._records)) + sum(map(len, self._flows))
