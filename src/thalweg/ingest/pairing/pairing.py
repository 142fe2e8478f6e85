"""Pairs one-way records into biflows (RFC 5103) in one pass, in order of arrival.

A record waits for its partner, the record of the opposite direction. A flow that several observers report is emitted
once, the pieces of a long flow keep its direction, and the source of an emitted flow is its initiator.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from thalweg.errors import SourceError
from thalweg.ingest.pairing import table as memory
from thalweg.ingest.pairing.config import PairingConfig
from thalweg.ingest.pairing.passes import PREFETCH, order_held, pair_records, restore
from thalweg.ingest.pairing.table import (
    CLOCK,
    DEDUPLICATE,
    FAR,
    FINGERPRINT,
    HELD_SINCE,
    HOLD,
    IDLE,
    MAX_HELD,
    NEWEST,
    NUM_EMITTED,
    NUM_HELD,
    NUM_OUT,
    OLDEST,
    PAIR,
    TOLERANCE,
    WAYS,
)  # fmt: skip
from thalweg.ingest.records import RECORD, Records
from thalweg.tally import Tally

_COUNTS: Final = {
    "early_unpaired": memory.EARLY_UNPAIRED,
    "unpaired_records": memory.UNPAIRED,
    "joined_pieces": memory.JOINED,
    "duplicate_flows": memory.DUPLICATE,
    "repeated_records": memory.REPEATED,
    "continued_flows": memory.CONTINUED,
    "turned_round": memory.SWAPPED,
}


@final
class Pairing:
    """Turns records of one or both directions into biflows as the records arrive.

    The output does not depend on how the records are cut into batches, unless the clock runs ahead of the next batch.
    """

    def __init__(self, config: PairingConfig | None = None) -> None:
        self._config = PairingConfig() if config is None else config
        self.tally = Tally()
        self._out = np.empty(0, RECORD)
        self._allocate(self._config.max_held)

    def _allocate(self, room: int) -> None:
        # Arrays are not written before use, so that the system maps their memory only as it is needed.
        config = self._config
        scalars = np.zeros(memory.NUM_SCALARS, np.int64)
        scalars[[OLDEST, NEWEST, memory.FREE]] = -1
        scalars[[HOLD, TOLERANCE, IDLE]] = [round(s * 1e6) for s in (config.hold_s, config.duplicates_s, config.idle_s)]
        scalars[[MAX_HELD, PAIR, DEDUPLICATE]] = config.max_held, config.pair, config.deduplicate
        scalars[CLOCK] = -FAR
        num_sets = 1 << max(-(-config.recent // WAYS) - 1, 0).bit_length()
        self._scalars, self._rows = scalars, np.empty(room, RECORD)
        self._links = np.empty((room, memory.NUM_LINKS), np.int64)
        self._heads = np.full(1 << (2 * room - 1).bit_length(), -1, np.int32)
        self._sets = np.zeros((num_sets, 2 * WAYS), np.uint32)
        self._table = np.zeros((num_sets * WAYS, memory.NUM_COLUMNS), np.int64)
        self._hashes = np.empty(PREFETCH, np.int64)
        self._arrays = scalars, self._rows, self._links, self._heads, self._sets, self._table

    @property
    def num_held(self) -> int:
        """The number of records that wait for a partner; merged pieces of one flow count once."""
        return int(self._scalars[NUM_HELD])

    def feed(self, records: Records, now_us: int) -> Records:
        """Pair records in order of arrival, then advance the clock to `now_us`.

        Returns: the flows that became ready, in the order in which they did.
        """
        if not (self._config.pair or self._config.deduplicate):
            return records.copy()
        # One type of array, so that the loop is compiled only once.
        batch = np.require(records, RECORD, ["C", "A", "W"]).view(RECORD)
        return self._run(batch, min(max(now_us, -FAR), FAR), False)

    def flush(self) -> Records:
        """Emit all held records, oldest first."""
        return self._run(np.empty(0, RECORD), -FAR, True)

    def set_clock_back(self, now_us: int) -> Records:
        """Emit all held records and continue at an earlier time, after the receiver's clock was set back."""
        emitted = self.flush()
        self._scalars[CLOCK] = min(max(now_us, -FAR), FAR)
        return emitted

    def _run(self, records: Records, now_us: int, flush: bool) -> Records:
        if len(self._out) < len(records) + self.num_held:
            self._out = np.empty(len(records) + self.num_held, RECORD)
        self._scalars[[NUM_OUT, *_COUNTS.values()]] = 0
        pair_records(records, now_us, flush, *self._arrays, self._out, self._hashes)
        for name, index in _COUNTS.items():
            self.tally.add(name, int(self._scalars[index]))
        num = int(self._scalars[NUM_OUT])
        if 2 * num < len(self._out):
            return self._out[:num].copy()
        out, self._out = self._out, np.empty(0, RECORD)
        return out[:num]

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return everything that decides later output, for `restore`; the tally is not part of it.

        held: (K, 112) uint8, the held records. held_about: (K, 2) int64, the clock when each was held and the
        fingerprint of its last piece. given: (C, 17) int64, the emitted conversations. clock: (1,) int64, microseconds.
        """
        order = np.empty(self.num_held, np.int64)
        order_held(self._scalars, self._links, order)
        used = np.flatnonzero(self._sets[:, :WAYS].ravel())
        stamp = self._sets[:, WAYS:].ravel()[used].astype(np.int64)
        age = (int(self._scalars[NUM_EMITTED]) - stamp) & 0xFFFF_FFFF
        return {
            "held": self._rows.take(order).view(np.uint8).reshape(len(order), RECORD.itemsize),
            "held_about": self._links[order][:, [HELD_SINCE, FINGERPRINT]],
            "given": self._table[used[np.argsort(-age, kind="stable")]],
            "clock": self._scalars[[CLOCK]],
        }

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Continue from a saved `state`, with the same settings or others; the tally stays as it is.

        Raises SourceError if the state is of another version.
        """
        widths = {"held": (RECORD.itemsize, np.uint8), "held_about": (2, np.int64), "given": (17, np.int64)}
        for name, (width, dtype) in widths.items():
            if name not in state or state[name].ndim != 2 or state[name].shape[1] != width:
                raise SourceError(f"the saved pairing state lacks {name!r} of width {width}: start without it")
            if state[name].dtype != dtype:
                raise SourceError(f"{name!r} in the saved pairing state has another type: start without it")
        if "clock" not in state or state["clock"].shape != (1,) or len(state["held"]) != len(state["held_about"]):
            raise SourceError("the saved pairing state is incomplete: start without it")
        self._allocate(max(self._config.max_held, len(state["held"])))
        self._scalars[CLOCK] = state["clock"][0]
        rows = np.frombuffer(bytearray(state["held"].tobytes()), RECORD)
        about, emitted = (np.require(state[name], np.int64, ["C", "W", "O"]) for name in ("held_about", "given"))
        restore(rows, about, emitted, *self._arrays)
