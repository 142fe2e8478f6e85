"""A stream of items through several steps that work at the same time, each on another item, in order.

    stage 1 ──queue──▶ stage 2 ──queue──▶ … ──queue──▶ whoever iterates

The first stage runs in the thread that iterates, every other one in a thread of its own. Ctrl-C is told to the
main thread alone, and a wait for input is the one wait that nothing else could end.
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
    """What a stage has done so far. May be read at any time; its seconds are of the last item that it ended.

    num_items, num_flows: given on. busy_s: at work; waited_in_s: for an item to work on; waited_out_s: for room to
    give one on. num_queued: items that wait before it. Where stages take turns, a stage waits while others work.
    """

    num_items: int = 0
    num_flows: int = 0
    busy_s: float = 0.0
    waited_in_s: float = 0.0
    waited_out_s: float = 0.0
    num_queued: int = 0
    _mark: float = field(default_factory=time.perf_counter, repr=False)

    def start(self) -> None:
        """Count the seconds from now on."""
        self._mark = time.perf_counter()

    def lap(self, what: Literal["busy_s", "waited_in_s", "waited_out_s"]) -> None:
        """Count the seconds since the last lap."""
        now = time.perf_counter()
        setattr(self, what, getattr(self, what) + now - self._mark)
        self._mark = now

    @property
    def busy_share(self) -> float:
        """Share of the time that it was at work, in [0, 1]."""
        return self.busy_s / max(self.busy_s + self.waited_in_s + self.waited_out_s, 1e-9)

    @property
    def flows_per_s(self) -> float:
        """Flows per second of work: what the stage could do if it never had to wait."""
        return self.num_flows / max(self.busy_s, 1e-9)

    def as_dict(self) -> dict[str, Any]:
        """Return it for machines."""
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
    """A named step of one run: an iterator of items in, an iterator of items out. The first one gets no items.

    size: flows in an item that it gives. meter: its own; a stage is run once.
    """

    name: str
    work: Callable[[Iterator[Any]], Iterable[Any]]
    size: Callable[[Any], int] = len
    meter: Meter = field(default_factory=Meter)


def for_each(function: Callable[[Any], Any]) -> Callable[[Iterator[Any]], Iterator[Any]]:
    """Return the work of a stage that does the same with every item."""

    def work(items: Iterator[Any]) -> Iterator[Any]:
        for item in items:
            result = function(item)
            del item  # nothing is held that has been given on
            yield result
            del result

    return work


def slowest(stages: Sequence[Stage]) -> Stage:
    """Return the stage that worked longest: the one that the others wait for."""
    return max(stages, key=lambda stage: stage.meter.busy_s)


def run_stages(
    stages: Sequence[Stage], *, overlapped: bool = True, bound: int = QUEUE_BOUND
) -> Generator[Any, None, None]:
    """Give what the last stage gives, all stages at work at once; with `overlapped` off, one at a time.

    Either way the items are the same, in the same order, and so is the error: one raised in a stage passes
    through the later ones as if they called each other, after all items before it, and comes out here, itself, with
    its traceback. No more than `bound` items wait between two stages. Closing the iterator, or an exception in
    between, stops all stages after the item they are at; no thread outlives it. A KeyboardInterrupt waits for no
    item before it.

    A stage that fails while the first one waits for input is heard of when that wait is over.
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
    """Give a stage's items on, and measure what it waits for."""
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
    """What a stage gets, and how long it waits for it. No generator, which would hold what it has given."""

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
    """The last thing in a queue: nothing more comes, or the error that says why."""

    error: BaseException | None = None

    def tell(self) -> None:
        """Raise the error, where there is one."""
        if self.error is not None:
            raise self.error


class _Stopped(BaseException):
    """Raised in a stage that is to end; a BaseException, so that no stage takes it for an error of its own."""


@final
class _Link:
    """A queue with a bound, made of two without, both of which can be woken.

    Not `queue.Queue`: its locks are Python's, and a KeyboardInterrupt at the wrong moment leaves them locked.
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
        self.give(item)

    def give(self, item: Any) -> None:
        """Put without waiting: for those who have waited for room themselves."""
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
            item.tell()
            raise StopIteration
        return item

    def stop(self) -> None:
        self._stopped = True
        self.items.put(_STOP)
        self.room.put(_STOP)


def _at_once(stages: Sequence[Stage], bound: int) -> Generator[Any, None, None]:
    # Link i leads to stage i + 1; the last one back to here. Here both room for the source's next item and items of
    # the last stage are waited for, so that both come in one queue.
    links = [_Link(bound, stage.meter) for stage in stages[1:]] + [_Link(bound, Meter())]
    first, last = links[0], links[-1]
    first.room = inbox = last.items
    threads = [
        Thread(target=_serve, args=(stage, before, after, inbox), name=f"thalweg-{stage.name}", daemon=True)
        for stage, before, after in zip(stages[1:], links, links[1:], strict=False)
    ]
    source = _outputs(stages[0], iter(()))
    num_room, has_more = bound, True
    try:
        for thread in threads:
            thread.start()
        while True:
            # A result that is ready goes before reading more.
            if has_more and num_room and inbox.empty():
                item = _next(source)
                has_more = not isinstance(item, _End)
                num_room -= 1
                first.give(item)
            elif (item := inbox.get()) is _ROOM:
                num_room += 1
            elif isinstance(item, _End):
                item.tell()
                return
            else:
                yield item
                last.room.put(_ROOM)
            del item
    finally:
        item = None  # no circle of the error, its traceback and this frame
        for link in links:
            link.stop()
        source.close()
        for thread in threads:
            if thread.ident is not None:
                thread.join()


def _next(source: Iterator[Any]) -> Any:
    try:
        return next(source, _End())
    except Exception as error:  # a KeyboardInterrupt is no part of the stream: it goes out at once
        return _End(error)


def _serve(stage: Stage, before: _Link, after: _Link, inbox: SimpleQueue[Any]) -> None:
    """Be the thread of one stage."""
    try:
        end = _End()
        try:
            for item in _outputs(stage, before):
                after.put(item)
                del item
        except _Stopped:
            raise
        except KeyboardInterrupt as error:  # Polars raises it in the thread that is inside it
            inbox.put(_End(error))
            return
        except BaseException as error:
            end = _End(error)
        after.put(end)
    except _Stopped:
        pass
