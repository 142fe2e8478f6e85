"""The conformance kit of feeds and readers passes correct ones and finds each kind of fault."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, final

import polars as pl
import pytest

from thalweg.errors import SourceError
from thalweg.ingest.feeds.feed import Piece, Position
from thalweg.ingest.netflow.datagrams import Datagrams
from thalweg.ingest.records import Records, no_records
from thalweg.tables import Flows, conform
from thalweg.tally import Tally
from thalweg.testing import check_feed
from thalweg.testing.feeds import rows_of


@final
class NumberFeed:
    """Emits the numbers of a list, three in a piece, with the fault that `fault` names."""

    def __init__(self, numbers: list[int], fault: str = "") -> None:
        self._numbers, self._fault = numbers, fault
        self._at = 0
        self._is_open = False
        self._was_closed = False
        self.tally = Tally()
        self.name = "" if fault == "has no name" else "numbers:"

    @property
    def ended(self) -> bool:
        return False

    def open(self, position: Position | None) -> None:
        self._is_open = True
        self._at = 0 if position is None else int(position["at"])
        if self._fault == "restarts" and position is not None:
            self._at = 0
        if self._fault == "goes to the end" and position is not None:
            self._at = len(self._numbers)
        if self._fault == "forgets the oldest position" and position is not None and self._at < len(self._numbers) - 80:
            raise SourceError("gone")
        if self._fault == "counts undamaged content":
            self.tally.add("malformed_rows")

    def poll(self) -> Iterator[Piece]:
        while self._at < len(self._numbers):
            part = self._numbers[self._at : self._at + 3]
            self._at += 3 if self._fault == "counts three always" else len(part)
            position: dict[Any, Any] = {"at": self._at}
            if self._fault == "is one behind":
                position = {"at": max(self._at - 1, 0)}
            if self._fault == "has positions that are no JSON":
                position = {"at": self._at, 5: 1}
            if self._fault == "has large positions":
                position["done"] = "x" * 20_000
            payload: Any = json.dumps(part).encode()
            if self._fault == "gives text":
                payload = payload.decode()
            if self._fault == "gives only a piece at a time, and then no more" and self._at > 30:
                return
            yield Piece(payload, position)
        if self._fault == "polls on":
            yield Piece(b"[]", {"at": self._at})

    def close(self) -> None:
        if self._fault == "closes once" and self._was_closed:
            raise ValueError("closed twice")
        self._was_closed = True


class NumberReader:
    """Makes flows, records or datagrams of numbers, with the fault that `fault` names."""

    def __init__(self, kind: str = "flows", fault: str = "") -> None:
        self._kind, self._fault = kind, fault
        self._num_read = 0
        self.tally = Tally()
        self.exporters: Sequence[str] = ["one"]

    def read(self, piece: bytes, arrival_us: int) -> Iterator[Records | Flows | Datagrams]:
        del arrival_us
        try:
            numbers = json.loads(piece)
            if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n < 1 << 16 for n in numbers):
                raise ValueError("no numbers")
        except ValueError:
            if self._fault == "raises":
                raise
            if self._fault == "reports":
                raise SourceError("no numbers") from None
            if self._fault != "counts nothing":
                self.tally.add("unreadable_files")
            if self._fault == "gives up":
                self._kind = "nothing"
            return
        self._num_read += 1
        if self._fault == "remembers":
            numbers = [self._num_read, *numbers[1:]]
        if self._fault == "leaves one out":
            numbers = numbers[1:]
        yield from self._runs(numbers)

    def split(self, piece: bytes) -> Sequence[bytes]:
        return [piece]

    def _runs(self, numbers: list[int]) -> Iterator[Records | Flows | Datagrams]:
        if self._kind == "datagrams":
            yield Datagrams.of((b"x" * n, 5, 6, 7) for n in numbers)
        elif self._kind == "records":
            records = no_records(len(numbers))
            records["src_port"] = numbers
            records["exporter"] = 1 if self._fault == "names nobody" else 0
            yield records
        elif self._kind == "flows":
            ends = {"src_addr": "10.0.0.1", "dst_addr": "10.0.0.2", "duration_ms": 1.0, "bwd_bytes": 0}
            yield conform(pl.DataFrame([{"fwd_bytes": n, **ends} for n in numbers], {"fwd_bytes": pl.UInt64, **_ENDS}))


_ENDS: Final[Mapping[str, Any]] = {
    "src_addr": pl.String, "dst_addr": pl.String, "duration_ms": pl.Float64, "bwd_bytes": pl.UInt64
}  # fmt: skip


def check(feed_fault: str = "", reader_fault: str = "", kind: str = "flows", timeout_s: float = 30.0) -> None:
    numbers: list[int] = []

    def more(portion: int) -> int:
        numbers.extend(range(100 * portion, 100 * portion + 25))
        return 25

    check_feed(
        lambda: NumberFeed(numbers, feed_fault),
        lambda: NumberReader(kind, reader_fault),
        more,
        timeout_s=timeout_s,
    )


def patience(message: str) -> float:
    """Return how long to wait for rows: not long if the fault is that they never arrive."""
    return 0.2 if message == "rows arrived within" else 30.0


@pytest.mark.parametrize("kind", ["flows", "records", "datagrams"])
@pytest.mark.parametrize("reports", ["", "reports"])
def test_the_kit_passes_a_feed_that_is_right(kind: str, reports: str) -> None:
    check(reader_fault=reports, kind=kind)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("restarts", "a row was emitted twice"),
        ("goes to the end", "rows arrived within"),
        ("counts three always", "rows arrived within"),
        ("forgets the oldest position", "gone"),
        ("is one behind", "a row was emitted twice"),
        ("has positions that are no JSON", "JSON changes the position"),
        ("has large positions", "a position has 20,?0[0-9]+ bytes, more than"),
        ("gives text", "not bytes"),
        ("polls on", "poll emits pieces although there is nothing"),
        ("closes once", "closed twice"),
        ("has no name", "the name of a feed must not be empty"),
        ("counts undamaged content", "undamaged content was counted"),
        ("gives only a piece at a time, and then no more", "rows arrived within"),
    ],
)
def test_the_kit_finds_what_is_wrong_with_a_feed(fault: str, message: str) -> None:
    with pytest.raises((AssertionError, ValueError, SourceError), match=message):
        check(fault, timeout_s=patience(message))


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        ("raises", "flows", "Expecting value|codec can't decode|no numbers"),
        ("counts nothing", "flows", "neither read nor counted"),
        ("gives up", "flows", "after damaged pieces"),
        ("leaves one out", "flows", "rows arrived within"),
        ("names nobody", "records", "exporter has no name"),
    ],
)
def test_the_kit_finds_what_is_wrong_with_a_reader(fault: str, kind: str, message: str) -> None:
    with pytest.raises((AssertionError, ValueError), match=message):
        check("", fault, kind, timeout_s=patience(message))


def test_rows_of_pieces_show_that_a_reader_remembers_earlier_ones() -> None:
    reader = NumberReader("flows", "remembers")
    assert rows_of(reader, b"[5,6]") != rows_of(reader, b"[5,6]")
    assert rows_of(NumberReader("flows", "remembers"), b"[5,6]") == rows_of(NumberReader(), b"[1,6]")


def test_runs_may_not_be_larger_than_their_bound() -> None:
    class Large(NumberReader):
        def read(self, piece: bytes, arrival_us: int) -> Iterator[Records | Flows | Datagrams]:
            del piece, arrival_us
            yield no_records(200_001)

    with pytest.raises(AssertionError, match="more than 200,000"):
        rows_of(Large(), b"")
