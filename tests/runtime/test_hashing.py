"""Hashing of 64-bit numbers: the published function, whether of arrays or within compiled loops."""

from __future__ import annotations

import numpy as np

from thalweg.graph.compiled import mix64
from thalweg.runtime.hashing import mix

# The first outputs of splitmix64 from seed 0, whose state grows by the golden ratio's 64 bits.
STATES = np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
PUBLISHED = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_arrays_and_compiled_loops_give_what_was_published() -> None:
    assert mix(STATES).tolist() == PUBLISHED
    assert [int(mix64(state)) for state in STATES] == PUBLISHED
