from __future__ import annotations

import gc
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from thalweg.runtime import buffers


def test_memory_is_reused_when_nothing_refers_to_it_and_not_before() -> None:
    buffers._FREE.clear()  # left by other tests
    first = buffers.tensor(1024, 1024)
    first.fill_(1)
    where, part = first.data_ptr(), first[5:7].numpy()
    del first
    gc.collect()
    second = buffers.tensor(1024, 1024)
    assert second.data_ptr() != where, "the memory of a live view was reused"
    second.fill_(2)
    assert (part == 1).all()
    del part
    gc.collect()
    assert buffers.tensor(1000, 1024).data_ptr() == where


def test_views_of_views_keep_the_memory_even_if_the_views_between_are_gone() -> None:
    whole = buffers.array(4, 1_000_000)
    whole[:] = 7
    views = [whole[2:], whole.view(np.int32), whole.T[5:, 1:], whole.reshape(-1)[3_000_000:]]
    before = [view.copy() for view in views]
    del whole
    gc.collect()
    other = buffers.array(4, 1_000_000)
    other[:] = 0
    assert all(np.array_equal(view, was) for view, was in zip(views, before, strict=True))


def test_a_forked_process_has_memory_of_its_own() -> None:
    mine = buffers.array(1_000_000)
    mine[:] = 1
    child = os.fork()
    if not child:
        mine[:] = 2
        os._exit(0)
    os.waitpid(child, 0)
    assert (mine == 1).all()


def test_the_kept_memory_is_bounded() -> None:
    held = [buffers.array(60_000_000) for _ in range(4)]
    del held
    gc.collect()
    assert 0 < sum(len(block) for block in buffers._FREE) <= buffers._MOST_KEPT


def test_shapes_and_dtypes() -> None:
    assert buffers.array(0, 7).shape == (0, 7)
    assert buffers.array(3, dtype=np.uint64).dtype == np.uint64
    big = buffers.tensor(3, 500_000, dtype=torch.float64)
    assert (big.shape, big.dtype) == ((3, 500_000), torch.float64)
    assert buffers.array(2_000_000).flags.writeable


def test_threads_never_share_a_buffer() -> None:
    def fill(number: int) -> bool:
        for _ in range(50):
            mine = buffers.array(600_000 + 1000 * number)
            mine[:] = number
            if not (mine == number).all():
                return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(fill, range(8)))
