"""Ranges that cover everything once, and what becomes of a job that fails."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thalweg.runtime.parallel import even_ranges, parallel_map, ranges_of_weight


@given(st.lists(st.integers(0, 30), min_size=1, max_size=40), st.integers(1, 50))
def test_ranges_cover_every_row_once(sizes: list[int], weight: int) -> None:
    start = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    ranges = ranges_of_weight(start, weight)
    assert [i for a, b in ranges for i in range(a, b)] == list(range(len(sizes)))
    assert [i for a, b in even_ranges(len(sizes), weight) for i in range(a, b)] == list(range(len(sizes)))


def test_what_fails_on_a_thread_is_raised() -> None:
    def job(first: int, _last: int) -> None:
        if first:
            raise RuntimeError("second range")

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(RuntimeError, match="second range"):
            parallel_map(job, [(0, 1), (1, 2)])
    finally:
        torch.set_num_threads(before)
