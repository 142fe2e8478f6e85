"""Runs compiled loops on all cores; results do not depend on the number of cores.

A compiled loop is single-threaded and releases the interpreter lock; the threads of this module run its pieces. A
parallel loop of the compiler would bring a second runtime, whose threads spin while they wait and take cores from
torch's. Torch's own threads spin, too. So torch has one thread inside each of ours, and `run_on_leader` runs the code
between the loops on such a thread.
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
"""Fewest items of a piece: waking a thread for fewer costs more than it saves."""
_FEW_FLOWS: Final = 30_000
"""Smaller windows use one thread: on two cores that share units, 40,000 flows take as long on one as on both."""
_NUM_LEADERS: Final = 8

_R = TypeVar("_R")


def parallel_for(work: Callable[[int, int], None], num: int, *, least: int = _LEAST) -> None:
    """Call `work(begin, end)` for the pieces of range(num), in parallel if there are enough items.

    `work` must write each item's result to a place of its own, and release the GIL for most of its time. Uses as many
    threads as torch would. least: fewest items of a piece.
    Raises what `work` raises, after the other pieces are done.
    """
    num_pieces = max(min(_num_threads(), num // least), 1)
    parallel_map(work, [(num * i // num_pieces, num * (i + 1) // num_pieces) for i in range(num_pieces)])


def parallel_map(job: Callable[..., object], ranges: Iterable[tuple[int, int]], *arguments: Any) -> None:
    """Call `job(first, last, *arguments)` for each range, in any order, in parallel as `parallel_for` does."""
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
    """Call `work` on a thread in which torch is single-threaded, and `parallel_for` uses as many threads as here.

    Torch's threads then do not spin on the cores that ours need, and torch's results are the same to the bit for any
    number of threads. Gradients are off. num_flows: of the window; if they are few, `parallel_for` uses one thread,
    too, since handing work over would take longer.
    """
    num_threads = torch.get_num_threads()
    if num_threads == 1:
        return work()

    def led() -> _R:
        _LED.set(num_threads if num_flows >= _FEW_FLOWS else 1)
        return work()

    _threads("work", num_threads)  # made here: a leader would see its own number of torch threads, not the common one
    return _threads("lead", _NUM_LEADERS).submit(led).result()


@contextmanager
def one_thread_less() -> Iterator[None]:
    """Leave a core to another thread: torch and `parallel_for` use one thread less inside the block.

    Threads started inside the block do so, too. Torch's threads spin while they wait, on the core that the other thread
    needs.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(max(num_threads - 1, 1))
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def even_ranges(num: int, size: int) -> Sequence[tuple[int, int]]:
    """Split range(num) into ranges of at most `size`."""
    return [(first, min(first + size, num)) for first in range(0, num, size)]


def ranges_of_weight(start: Ints, weight: int) -> Sequence[tuple[int, int]]:
    """Split rows into ranges that hold about `weight` entries each; a row is never split.

    start: (R + 1,) offset of each row's entries, and the end of the last.
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
    """Return a pool of `num` threads, which is kept. Leaders and workers have separate pools: a leader waits for
    workers, and in one pool it could keep them from starting.
    """
    with _LOCK:
        if (name, num) not in _POOLS:
            common = torch.get_num_threads()
            pool = ThreadPoolExecutor(num, f"thalweg-{name}", initializer=_join)
            together = Barrier(num)
            try:
                list(pool.map(lambda _: together.wait(), range(num)))  # until every thread has run `_join`
            except BaseException:  # a thread could not start: release those that wait for it
                together.abort()
                pool.shutdown(wait=False)
                torch.set_num_threads(common)
                raise
            # torch.set_num_threads in one thread is also the default of all later threads: restore it.
            torch.set_num_threads(common)
            _POOLS[name, num] = pool
    return _POOLS[name, num]


def _join() -> None:
    # A thread adopts the common number at its first query, so query before setting.
    torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
