"""Runs the stages of a stream in parallel, each on another item; the items keep their order.

    stage 1 ──queue──▶ stage 2 ──queue──▶ … ──queue──▶ the thread that iterates

The first stage runs in the thread that iterates, every other stage in a thread of its own. Python delivers Ctrl-C only
to the main thread, so the stage that can block on input runs there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final, Literal, final

QUEUE_BOUND: Final = 2
"""Items that may wait between two stages."""

_ROOM: Final = object()
_STOP: Final = object()


@final
@dataclass(slots=True, eq=False)
class Meter:
    """What a stage has done so far. It may be read at any time; its seconds end with the last finished item.

    num_items, num_flows: emitted. busy_s: seconds at work. waited_in_s: seconds waiting for an item. waited_out_s:
    seconds waiting for room to emit one. num_queued: items that wait before the stage. If stages run one at a time, a
    stage waits while others work.
    """

    num_items: int = 0
    num_flows: int = 0
    busy_s: float = 0.0
    waited_in_s: float = 0.0
    waited_out_s: float = 0.0
    num_queued: int = 0
    _mark: float = field(default_factory=time.perf_counter, repr=False)

    def start(self) -> None:
        """Start the clock."""
        self._mark = time.perf_counter()

    def lap(self, what: Literal["busy_s", "waited_in_s", "waited_out_s"]) -> None:
        """Add the seconds since the last lap to `what`."""
        now = time.perf_counter()
        setattr(self, what, getattr(self, what) + now - self._mark)
        self._mark = now

    @property
    def busy_share(self) -> float:
        """Share of its time that the stage was at work, in [0, 1]."""
        return self.busy_s / max(self.busy_s + self.waited_in_s + self.waited_out_s, 1e-9)

    @property
    def flows_per_s(self) -> float:
        """Flows per second of work: what the stage could do if it never had to wait."""
        return self.num_flows / max(self.busy_s, 1e-9)

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return {
            "items": self.num_items,
            "flows": self.num_flows,
            "busy_s": round(self.busy_s, 3),
            "waited_for_input_s": round(self.waited_in_s, 3),
            "waited_for_output_s": round(self.waited_out_s, 3),
            "busy_share": round(self.busy_share, 3),
            "flows_per_s": round(self.flows_per_s),
        }


@final
@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """A named step of one run: it takes an iterator of items and returns another. The first stage receives no items.

    size: returns the flows in an emitted item. meter: of this stage alone; a stage runs once.
    """

    name: str
    work: Callable[[Iterator[Any]], Iterable[Any]]
    size: Callable[[Any], int] = len
    meter: Meter = field(default_factory=Meter)


def for_each(function: Callable[[Any], Any]) -> Callable[[Iterator[Any]], Iterator[Any]]:
    """Return the work of a stage that applies `function` to every item."""

    def work(items: Iterator[Any]) -> Iterator[Any]:
        for item in items:
            result = function(item)
            del item  # keep no reference to an item that has been emitted
            yield result
            del result

    return work


def slowest(stages: Sequence[Stage]) -> Stage:
    """Return the stage that worked longest, for which the others wait."""
    return max(stages, key=lambda stage: stage.meter.busy_s)


def run_stages(
    stages: Sequence[Stage], *, overlapped: bool = True, bound: int = QUEUE_BOUND
) -> Generator[Any, None, None]:
    """Yield the items of the last stage; all stages run in parallel or, with `overlapped` off, one at a time.

    Both ways yield the same items in the same order, and raise the same error. An error in a stage passes through the
    later stages as if they called each other, after all items before it, and is raised here, the same object with its
    traceback. At most `bound` items wait between two stages. Closing the iterator, or an exception in the loop over it,
    stops every stage after its current item; no thread outlives the iterator. A KeyboardInterrupt does not wait for
    the items before it.

    If a stage fails while the first one waits for input, the error is raised when that wait ends.
    """
    if overlapped and len(stages) > 1:
        return _at_once(stages, bound)
    return _in_turn(stages)


def _in_turn(stages: Sequence[Stage]) -> Generator[Any, None, None]:
    items: Iterator[Any] = iter(())
    for stage in stages:
        items = _outputs(stage, items)
    yield from items


def _outputs(stage: Stage, items: Iterator[Any]) -> Generator[Any, None, None]:
    """Yield a stage's items, and measure how long it waits."""
    meter = stage.meter
    meter.start()
    for item in stage.work(_Inputs(items, meter)):
        meter.num_items += 1
        meter.num_flows += stage.size(item)
        meter.lap("busy_s")
        yield item
        del item
        meter.lap("waited_out_s")
    meter.lap("busy_s")


@final
class _Inputs:
    """A stage's input, with a measure of its waits. Not a generator, which would keep a reference to its last item."""

    def __init__(self, items: Iterator[Any], meter: Meter) -> None:
        self._items, self._meter = items, meter

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        self._meter.lap("busy_s")
        try:
            return next(self._items)
        finally:
            self._meter.lap("waited_in_s")


@final
@dataclass(frozen=True, slots=True, eq=False)
class _End:
    """The last entry of a queue: the end of the items, or the error that ended them."""

    error: BaseException | None = None

    def raise_error(self) -> None:
        """Raise the error if there is one."""
        if self.error is not None:
            raise self.error


class _Stopped(BaseException):
    """Raised in a stage that must stop; a BaseException, so that no stage handles it as an error of its own."""


@final
class _Link:
    """A bounded queue made of two unbounded ones; waits on both can be ended.

    Not `queue.Queue`: a KeyboardInterrupt at the wrong moment leaves its locks, which are Python's, locked.
    """

    def __init__(self, bound: int, meter: Meter) -> None:
        self.items: SimpleQueue[Any] = SimpleQueue()
        self.room: SimpleQueue[Any] = SimpleQueue()
        self._meter = meter
        self._stopped = self._ended = False
        for _ in range(bound):
            self.room.put(_ROOM)

    def put(self, item: Any) -> None:
        if self.room.get() is _STOP or self._stopped:
            raise _Stopped
        self.put_now(item)

    def put_now(self, item: Any) -> None:
        """Put without waiting; the caller has waited for room itself."""
        self.items.put(item)
        self._meter.num_queued = self.items.qsize()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._ended:
            raise StopIteration
        item = self.items.get()
        if item is _STOP or self._stopped:
            raise _Stopped
        self.room.put(_ROOM)
        self._meter.num_queued = self.items.qsize()
        if isinstance(item, _End):
            self._ended = True
            item.raise_error()
            raise StopIteration
        return item

    def stop(self) -> None:
        self._stopped = True
        self.items.put(_STOP)
        self.room.put(_STOP)


def _at_once(stages: Sequence[Stage], bound: int) -> Generator[Any, None, None]:
    # Link i leads to stage i + 1, the last link back to this thread. This thread waits for two things, room for the
    # source's next item and items of the last stage, so both arrive in one queue.
    links = [_Link(bound, stage.meter) for stage in stages[1:]] + [_Link(bound, Meter())]
    first, last = links[0], links[-1]
    first.room = inbox = last.items
    threads = [
        Thread(target=_run_stage, args=(stage, before, after, inbox), name=f"thalweg-{stage.name}", daemon=True)
        for stage, before, after in zip(stages[1:], links, links[1:], strict=False)
    ]
    source = _outputs(stages[0], iter(()))
    num_room, has_more = bound, True
    try:
        for thread in threads:
            thread.start()
        while True:
            # Yield a finished item before reading more.
            if has_more and num_room and inbox.empty():
                item = _next(source)
                has_more = not isinstance(item, _End)
                num_room -= 1
                first.put_now(item)
            elif (item := inbox.get()) is _ROOM:
                num_room += 1
            elif isinstance(item, _End):
                item.raise_error()
                return
            else:
                yield item
                last.room.put(_ROOM)
            del item
    finally:
        item = None  # break the reference cycle of error, traceback and frame
        for link in links:
            link.stop()
        source.close()
        for thread in threads:
            if thread.ident is not None:
                thread.join()


def _next(source: Iterator[Any]) -> Any:
    try:
        return next(source, _End())
    except Exception as error:  # a KeyboardInterrupt is not part of the stream and is raised at once
        return _End(error)


def _run_stage(stage: Stage, before: _Link, after: _Link, inbox: SimpleQueue[Any]) -> None:
    """Run one stage in its thread."""
    try:
        end = _End()
        try:
            for item in _outputs(stage, before):
                after.put(item)
                del item
        except _Stopped:
            raise
        except KeyboardInterrupt as error:  # Polars raises it in the thread that called it
            inbox.put(_End(error))
            return
        except BaseException as error:
            end = _End(error)
        after.put(end)
    except _Stopped:
        pass
