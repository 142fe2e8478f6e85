"""Makes biflows of records that exporters report one direction at a time (RFC 5103), in one pass, in order of arrival.

A record waits for its partner; what several observers report is taken once; pieces of a long flow keep its direction;
the source of what is given out is who opened the flow. The conversations are kept in `biflow_table`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from thalweg.errors import ConfigError, SourceError
from thalweg.ingest.pairing import table as bt
from thalweg.ingest.pairing.passes import AHEAD, order_held, pass_, restore
from thalweg.ingest.pairing.table import (
    CLOCK,
    DEDUPLICATE,
    FAR,
    HOLD,
    IDLE,
    MAX_HELD,
    NEWEST,
    NUM_GIVEN,
    NUM_HELD,
    NUM_OUT,
    OLDEST,
    PAIR,
    PRINT,
    SINCE,
    TOLERANCE,
    WAYS,
)  # fmt: skip
from thalweg.ingest.records import RECORD, Records
from thalweg.tally import Tally

_COUNTS: Final = {
    "early_unpaired": bt.EARLY,
    "unpaired_records": bt.ALONE,
    "joined_pieces": bt.JOINED,
    "duplicate_flows": bt.DUPLICATE,
    "repeated_records": bt.REPEATED,
    "continued_flows": bt.CONTINUED,
    "turned_round": bt.TURNED,
}


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class PairingConfig:
    """How records become biflows.

    hold_s: how long one waits for its partner; max_held: how many wait at most. recent: how many conversations are
    remembered after they were given out, rounded up to a power of two. duplicates_s: how far the clocks of two
    observers of one flow may differ. idle_s: after a longer silence, a record is of a new flow. pair: whether records
    wait at all. deduplicate: whether what was reported before is left out. With neither, all is given out as it came.
    """

    hold_s: float = 10.0
    max_held: int = 262_144
    recent: int = 262_144
    duplicates_s: float = 2.0
    idle_s: float = 60.0
    pair: bool = True
    deduplicate: bool = True

    def __post_init__(self) -> None:
        for name in ("hold_s", "duplicates_s", "idle_s"):
            seconds = getattr(self, name)
            if not (math.isfinite(seconds) and 0 <= seconds <= 1e8):
                raise ConfigError(f"{name} is a number of seconds from 0 to 100,000,000, not {seconds}")
        for name in ("max_held", "recent"):
            num = getattr(self, name)
            if not 1 <= num <= 1 << 28:
                raise ConfigError(f"{name} is a number from 1 to {1 << 28:,}, not {num}")


@final
class Pairing:
    """Takes records of one direction or both as they arrive, and gives biflows. What it gives does not depend on how
    the records are cut into batches, as long as the clock does not run ahead of what is fed next.
    """

    def __init__(self, config: PairingConfig | None = None) -> None:
        self._config = PairingConfig() if config is None else config
        self.tally = Tally()
        self._out = np.empty(0, RECORD)
        self._make(self._config.max_held)

    def _make(self, room: int) -> None:
        # Nothing is written before it is used, so that the system gives memory only as it is needed.
        config = self._config
        marks = np.zeros(bt.NUM_MARKS, np.int64)
        marks[[OLDEST, NEWEST, bt.FREE]] = -1
        marks[[HOLD, TOLERANCE, IDLE]] = [round(s * 1e6) for s in (config.hold_s, config.duplicates_s, config.idle_s)]
        marks[[MAX_HELD, PAIR, DEDUPLICATE]] = config.max_held, config.pair, config.deduplicate
        marks[CLOCK] = -FAR
        num_sets = 1 << max(-(-config.recent // WAYS) - 1, 0).bit_length()
        self._marks, self._rows, self._links = marks, np.empty(room, RECORD), np.empty((room, bt.NUM_LINKS), np.int64)
        self._heads = np.full(1 << (2 * room - 1).bit_length(), -1, np.int32)
        self._sets = np.zeros((num_sets, 2 * WAYS), np.uint32)
        self._table = np.zeros((num_sets * WAYS, bt.NUM_GIVEN_WORDS), np.int64)
        self._ahead = np.empty(AHEAD, np.int64)
        self._memory = marks, self._rows, self._links, self._heads, self._sets, self._table

    @property
    def num_held(self) -> int:
        """How many records wait for a partner; pieces of one flow that have been joined are one."""
        return int(self._marks[NUM_HELD])

    def feed(self, records: Records, now_us: int) -> Records:
        """Take records in order of arrival, after which the clock is `now_us`; give what is ready, in that order."""
        if not (self._config.pair or self._config.deduplicate):
            return records.copy()
        # One type of array, so that the loop is compiled once.
        given = np.require(records, RECORD, ["C", "A", "W"]).view(RECORD)
        return self._run(given, min(max(now_us, -FAR), FAR), False)

    def flush(self) -> Records:
        """Give all that is held, oldest first."""
        return self._run(np.empty(0, RECORD), -FAR, True)

    def set_clock_back(self, now_us: int) -> Records:
        """Give all that is held, and go on at an earlier time: the clock of whoever receives has been set back."""
        given = self.flush()
        self._marks[CLOCK] = min(max(now_us, -FAR), FAR)
        return given

    def _run(self, records: Records, now_us: int, flush: bool) -> Records:
        if len(self._out) < len(records) + self.num_held:
            self._out = np.empty(len(records) + self.num_held, RECORD)
        self._marks[[NUM_OUT, *_COUNTS.values()]] = 0
        pass_(records, now_us, flush, *self._memory, self._out, self._ahead)
        for name, mark in _COUNTS.items():
            self.tally.add(name, int(self._marks[mark]))
        num = int(self._marks[NUM_OUT])
        if 2 * num < len(self._out):
            return self._out[:num].copy()
        out, self._out = self._out, np.empty(0, RECORD)
        return out[:num]

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return all that decides what comes next, but for the tally. (K, 112) uint8: the K records held, and when
        each came and what its last piece was, (K, 2) int64; (C, 17) int64, conversations; (1,) int64, the clock.
        """
        order = np.empty(self.num_held, np.int64)
        order_held(self._marks, self._links, order)
        used = np.flatnonzero(self._sets[:, :WAYS].ravel())
        stamp = self._sets[:, WAYS:].ravel()[used].astype(np.int64)
        age = (int(self._marks[NUM_GIVEN]) - stamp) & 0xFFFF_FFFF
        return {
            "held": self._rows.take(order).view(np.uint8).reshape(len(order), RECORD.itemsize),
            "held_about": self._links[order][:, [SINCE, PRINT]],
            "given": self._table[used[np.argsort(-age, kind="stable")]],
            "clock": self._marks[[CLOCK]],
        }

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from where `state` was taken, under the same settings or others; the tally is left as it is.

        Raises: SourceError, where it is of another version.
        """
        widths = {"held": (RECORD.itemsize, np.uint8), "held_about": (2, np.int64), "given": (17, np.int64)}
        for name, (width, dtype) in widths.items():
            if name not in state or state[name].ndim != 2 or state[name].shape[1] != width:
                raise SourceError(f"the kept state of pairing lacks {name!r} of width {width}: start without it")
            if state[name].dtype != dtype:
                raise SourceError(f"{name!r} in the kept state of pairing is of another type: start without it")
        if "clock" not in state or state["clock"].shape != (1,) or len(state["held"]) != len(state["held_about"]):
            raise SourceError("the kept state of pairing is not whole: start without it")
        self._make(max(self._config.max_held, len(state["held"])))
        self._marks[CLOCK] = state["clock"][0]
        rows = np.frombuffer(bytearray(state["held"].tobytes()), RECORD)
        about, given = (np.require(state[name], np.int64, ["C", "W", "O"]) for name in ("held_about", "given"))
        restore(rows, about, given, *self._memory)
