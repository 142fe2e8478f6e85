"""Compiled loops over flows, shared out among the cores; results do not depend on how many there are.

Compiled loops run on one thread each and let go of the interpreter, and threads of our own drive them. A parallel
loop of the compiler's would bring a second runtime whose threads spin while they wait, and take the cores from torch's.
Torch's own do so, too: so torch has one thread in each of ours, and `run_on_leader` lends one to the code in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise
from threading import Barrier, Lock
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
import torch

Ints = npt.NDArray[np.int64]

_LEAST: Final = 4_096
"""Fewer items than this are not worth waking a thread for."""
_FEW_FLOWS: Final = 30_000
"""Windows below this take one thread: on two cores that share units, 40,000 flows take as long on one as on both."""
_NUM_LEADERS: Final = 8

_R = TypeVar("_R")


def parallel_for(work: Callable[[int, int], None], num: int, *, least: int = _LEAST) -> None:
    """Call `work(begin, end)` for pieces of range(num) that cover it, at the same time where that pays.

    `work` must write each item's result into its own place, and release the GIL for most of its time. As many
    threads are used as torch would use.
    Raises: what `work` raises; the other pieces are done first.
    """
    num_pieces = max(min(_num_threads(), num // least), 1)
    parallel_map(work, [(num * i // num_pieces, num * (i + 1) // num_pieces) for i in range(num_pieces)])


def parallel_map(job: Callable[..., object], ranges: Iterable[tuple[int, int]], *arguments: Any) -> None:
    """Call `job(first, last, *arguments)` for each range, as `parallel_for` does; in any order."""
    num_threads, ranges = _num_threads(), list(ranges)
    if num_threads == 1 or len(ranges) == 1:
        for first, last in ranges:
            job(first, last, *arguments)
        return
    pool = _threads("work", num_threads)
    parts = [pool.submit(job, first, last, *arguments) for first, last in ranges]
    failed = [error for part in parts if (error := part.exception()) is not None]
    if failed:
        raise failed[0]


def run_on_leader(work: Callable[[], _R], *, num_flows: int = _FEW_FLOWS) -> _R:
    """Call `work` on a thread where torch has one thread, while `parallel_for` uses as many as it does here.

    num_flows: of the window; where they are few, `parallel_for` uses one, too: handing work over would take longer.

    So torch's threads do not spin on the cores that ours want, and its results are the same to the bit whatever
    their number. Gradients are off.
    """
    num_threads = torch.get_num_threads()
    if num_threads == 1:
        return work()

    def led() -> _R:
        _LED.set(num_threads if num_flows >= _FEW_FLOWS else 1)
        return work()

    _threads("work", num_threads)  # made here: what is common to all threads is not to be told from a leader's own
    return _threads("lead", _NUM_LEADERS).submit(led).result()


@contextmanager
def one_thread_less() -> Iterator[None]:
    """Leave a core to work in a thread beside: torch and `parallel_for` have one thread less in the block.

    Threads that are begun in it have as few. Torch's threads spin while they wait, on the core that the other needs.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(max(num_threads - 1, 1))
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def even_ranges(num: int, size: int) -> Sequence[tuple[int, int]]:
    """Cut 0 … num into ranges of at most `size`."""
    return [(first, min(first + size, num)) for first in range(0, num, size)]


def ranges_of_weight(start: Ints, weight: int) -> Sequence[tuple[int, int]]:
    """Cut rows into ranges that hold about `weight` entries each; a row is never cut.

    start: (R + 1,) where each row's entries begin, and where the last ends.
    """
    num_rows, num_entries = len(start) - 1, int(start[-1])
    wanted = np.arange(weight, num_entries, weight)
    cuts = np.unique(np.concatenate([[0], np.searchsorted(start, wanted), [num_rows]]))
    return [(int(a), int(b)) for a, b in pairwise(cuts)]


_LED: ContextVar[int] = ContextVar("_LED", default=0)
_LOCK: Final = Lock()
_POOLS: Final[dict[tuple[str, int], ThreadPoolExecutor]] = {}


def _num_threads() -> int:
    return _LED.get() or torch.get_num_threads()


def _threads(name: str, num: int) -> ThreadPoolExecutor:
    """Return so many threads, which are kept: one set to lead and one to work, as those who wait for others would
    keep them from starting.
    """
    with _LOCK:
        if (name, num) not in _POOLS:
            common = torch.get_num_threads()
            pool = ThreadPoolExecutor(num, f"thalweg-{name}", initializer=_join)
            together = Barrier(num)
            try:
                list(pool.map(lambda _: together.wait(), range(num)))  # so that all of them have joined
            except BaseException:  # no room for another thread: those that are here do not wait for it for ever
                together.abort()
                pool.shutdown(wait=False)
                torch.set_num_threads(common)
                raise
            # What a thread sets for itself is also what later threads of anyone begin with.
            torch.set_num_threads(common)
            _POOLS[name, num] = pool
    return _POOLS[name, num]


def _join() -> None:
    # A thread takes the common number when it first asks, so that asking must come before setting.
    torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
