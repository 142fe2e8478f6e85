"""Stages in parallel do exactly what stages one at a time do, and leave no thread behind."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalweg.runtime.stages import Stage, for_each, run_stages, slowest

PATIENCE_S = 30


class OopsError(Exception):
    """Raised on purpose."""


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def size(_: Any) -> int:
    return 1


def stage(name: str, work: Any) -> Stage:
    return Stage(name, work, size)


def source(items: Iterable[Any]) -> Stage:
    return stage("source", lambda _: items)


def failing_at(wrong: int | None) -> Any:
    def function(item: int) -> int:
        if item == wrong:
            raise OopsError(item)
        return item

    return for_each(function)


def pairs(items: Iterator[int]) -> Iterator[int]:
    """Yield the sum of each two items, and a last single one: like a windower, this stage holds items back."""
    held = None
    for item in items:
        if held is not None:
            yield held + item
            held = None
        else:
            held = item
    if held is not None:
        yield held


def twice(items: Iterator[int]) -> Iterator[int]:
    for item in items:
        yield item
        yield -item


WORKS = {"pairs": pairs, "twice": twice, "same": failing_at(None), "all at the end": lambda items: sorted(items)}


def outcome(stages: list[Stage], *, overlapped: bool, bound: int = 2) -> tuple[list[Any], str]:
    """Return the items, and how the run ended."""
    found: list[Any] = []
    try:
        with closing(run_stages(stages, overlapped=overlapped, bound=bound)) as items:
            found.extend(items)
    except OopsError as error:
        return found, repr(error)
    return found, "well"


@given(
    num=st.integers(0, 12),
    names=st.lists(st.sampled_from(sorted(WORKS)), max_size=4),
    bound=st.integers(1, 3),
    wrong=st.tuples(st.integers(0, 5), st.integers(-12, 24)) | st.none(),
)
def test_stages_in_parallel_yield_what_they_yield_one_at_a_time(
    num: int, names: list[str], bound: int, wrong: tuple[int, int] | None
) -> None:
    def made() -> list[Stage]:
        stages = [source(range(num)), *(stage(name, WORKS[name]) for name in names)]
        if wrong is not None:
            stages.insert(1 + min(wrong[0], len(names)), stage("wrong", failing_at(wrong[1])))
        return stages

    at_once, in_turn = made(), made()
    assert outcome(at_once, overlapped=True, bound=bound) == outcome(in_turn, overlapped=False)
    if wrong is None:
        counts = [[one.meter.num_items for one in stages] for stages in (at_once, in_turn)]
        assert counts[0] == counts[1]


@pytest.mark.parametrize("overlapped", [True, False])
def test_an_error_is_raised_itself_after_all_items_before_it(overlapped: bool) -> None:
    error = OopsError("mine")

    def wrong(items: Iterator[int]) -> Iterator[int]:
        for item in items:
            if item == 3:
                raise error
            yield item

    with pytest.raises(OopsError) as caught:
        list(run_stages([source(range(9)), stage("w", wrong), stage("x", pairs)], overlapped=overlapped))
    assert caught.value is error
    assert "wrong" in [entry.name for entry in caught.traceback]
    assert error.__context__ is None


@pytest.mark.parametrize("overlapped", [True, False])
def test_an_error_of_the_source_comes_after_its_items(overlapped: bool) -> None:
    def given() -> Iterator[int]:
        yield 1
        yield 2
        raise OopsError("no more")

    found, end = outcome([source(given()), stage("same", failing_at(None))], overlapped=overlapped)
    assert (found, end) == ([1, 2], "OopsError('no more')")


def test_of_two_errors_the_first_in_the_stream_is_raised() -> None:
    stages = [source(range(9)), stage("early", failing_at(7)), stage("late", failing_at(2))]
    assert outcome(stages, overlapped=True) == ([0, 1], "OopsError(2)")


def test_stages_work_at_the_same_time() -> None:
    meeting = threading.Barrier(3)

    def meet_at(wanted: int) -> Any:
        def function(item: int) -> int:
            if item == wanted:
                meeting.wait(PATIENCE_S)
            return item

        return for_each(function)

    stages = [source(map(int, "0123")), *(stage(f"at {item}", meet_at(item)) for item in (2, 1, 0))]
    assert list(run_stages(stages)) == [0, 1, 2, 3]


class Parcel:
    """An object that weak references can track."""


@pytest.mark.parametrize("bound", [1, 2, 3])
def test_a_slow_last_stage_keeps_no_more_alive_than_queues_and_stages_hold(bound: int) -> None:
    alive: weakref.WeakSet[Parcel] = weakref.WeakSet()
    made: list[int] = []
    go_on, full = threading.Semaphore(0), threading.Event()
    most = 0

    def parcels(_: Iterator[Any]) -> Iterator[Parcel]:
        for number in range(40):
            parcel = Parcel()
            alive.add(parcel)
            made.append(number)
            if len(made) == limit:
                full.set()
            yield parcel
            del parcel

    def slow(_: Parcel) -> int:
        nonlocal most
        assert go_on.acquire(timeout=PATIENCE_S)
        most = max(most, len(alive))
        return 1

    stages = [stage("source", parcels), stage("a", for_each(lambda p: p)), stage("b", for_each(slow))]
    # `bound` items wait before each of the two stages, which work on one each; the source makes one if there is room.
    limit = 2 * bound + 2
    found: list[int] = []

    def consume() -> None:
        found.extend(run_stages(stages, bound=bound))

    consumer = threading.Thread(target=consume)
    consumer.start()
    assert full.wait(PATIENCE_S)
    for _ in range(40):
        assert len(alive) <= limit
        go_on.release()
    consumer.join(PATIENCE_S)
    assert found == [1] * 40
    assert most <= limit
    assert not alive


@pytest.mark.parametrize("overlapped", [True, False])
def test_closing_early_ends_all_stages_and_lets_them_clean_up(overlapped: bool) -> None:
    closed = []

    def careful(name: str) -> Any:
        def work(items: Iterator[int]) -> Iterator[int]:
            try:
                yield from items
            finally:
                closed.append(name)

        return work

    stages = [source(iter(int, 1)), stage("a", careful("a")), stage("b", careful("b"))]
    with closing(run_stages(stages, overlapped=overlapped)) as items:
        assert [next(items) for _ in range(3)] == [0, 0, 0]
        assert not closed
    assert sorted(closed) == ["a", "b"]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, OopsError])
def test_an_exception_of_the_consumer_ends_all_stages(kind: type[BaseException]) -> None:
    stages = [source(iter(int, 1)), stage("a", failing_at(None))]

    def consume() -> None:
        with closing(run_stages(stages)) as items:
            next(items)
            raise kind

    with pytest.raises(kind):
        consume()


def test_ctrl_c_while_the_source_waits_does_not_wait_for_earlier_items() -> None:
    held = threading.Event()

    def given() -> Iterator[int]:
        yield 1
        held.set()
        raise KeyboardInterrupt

    def wait(item: int) -> int:
        assert held.wait(PATIENCE_S)
        return item

    with pytest.raises(KeyboardInterrupt):
        list(run_stages([source(given()), stage("wait", for_each(wait)), stage("x", pairs)]))


def test_an_interrupt_that_reaches_a_stage_s_own_thread_ends_the_run() -> None:
    def interrupted(_: int) -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(run_stages([source(iter(int, 1)), stage("a", for_each(interrupted)), stage("b", failing_at(None))]))


def test_a_stage_that_ends_early_ends_the_run() -> None:
    def two(items: Iterator[int]) -> Iterator[int]:
        yield next(items)
        yield next(items)

    assert outcome([source(iter(int, 1)), stage("two", two), stage("x", pairs)], overlapped=True) == ([0], "well")


@pytest.mark.parametrize("overlapped", [True, False])
def test_meters_count_items_flows_and_all_of_the_time(overlapped: bool) -> None:
    given = ["a", "bb", "ccc"]
    stages = [Stage("source", lambda _: given), Stage("double", for_each(lambda text: text + text))]
    assert list(run_stages(stages, overlapped=overlapped)) == ["aa", "bbbb", "cccccc"]
    figures = [one.meter.as_dict() for one in stages]
    assert [(one["items"], one["flows"]) for one in figures] == [(3, 6), (3, 12)]
    assert all(0 <= one.meter.busy_share <= 1 for one in stages)
    assert all(one.meter.num_queued == 0 for one in stages)
    assert slowest(stages) in stages
