"""What every feed and its reader do, whatever they read."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any, Final, final

from thalweg.tally import Tally

if TYPE_CHECKING:
    from thalweg.ingest.feeds.feed import Feed, Piece, PieceReader, Position
    from thalweg.ingest.netflow.datagrams import Datagrams
    from thalweg.ingest.records import Records
    from thalweg.tables import Flows

MAX_RUN: Final = 200_000
"""The most rows that a `PieceReader` gives at once."""
_PORTIONS: Final = 4
_QUIET_POLLS: Final = 3
_ARRIVAL_US: Final = 1_700_000_000_000_000


def check_feed(
    make: Callable[[], Feed],
    read: Callable[[], PieceReader],
    feed_more: Callable[[int], int],
    *,
    settle: Callable[[], None] = lambda: None,
    max_position_bytes: int = 16_384,
    timeout_s: float = 30.0,
) -> None:
    """Check both halves of a feed: every row once, over a kill after any piece, and positions that stay good.

    Args:
        make: gives a new feed of the same place, not opened. What is there before the first call is no row.
        read: gives a new reader.
        feed_more: puts the i-th portion of content there, i from 0 to 3. Returns: how many rows it holds. Rows of
            all portions differ.
        settle: called before each poll, to let a clock run or to wait for a server.
        max_position_bytes: what a position may have as JSON.
        timeout_s: how long rows may take to come.
    """
    log = _Pieces(read, max_position_bytes)
    feed = _open(make, None)
    settle()
    assert not list(feed.poll()), "poll gives pieces where nothing is"
    num_rows = 0
    for portion in range(_PORTIONS):
        is_away = portion % 2 == 1  # content that comes while nobody listens
        if is_away:
            _close(feed)
        num_rows += feed_more(portion)
        if is_away:
            feed = _open(make, log.position)
        deadline = time.monotonic() + timeout_s
        while log.num_rows < num_rows:
            assert time.monotonic() < deadline, f"{log.num_rows} of {num_rows} rows came within {timeout_s} s"
            settle()
            if (piece := _first(feed)) is not None:
                # Killed after each piece: what it has read beyond that is read again by the next.
                log.add(piece)
                _close(feed)
                feed = _open(make, log.position)
        for _ in range(_QUIET_POLLS):
            settle()
            assert not list(feed.poll()), "poll gives pieces where nothing is new"
    assert log.num_rows == num_rows, f"{log.num_rows} rows were given, and there are {num_rows}"
    _check_halves(feed, read())
    _close(feed)
    _check_positions(make, log, settle, timeout_s)
    _check_damage(read, log)


def _open(make: Callable[[], Feed], position: Position | None) -> Feed:
    feed = make()
    _close(feed)  # of one that is not open, nothing happens
    feed.open(None if position is None else json.loads(json.dumps(position)))
    return feed


def _close(feed: Feed) -> None:
    feed.close()
    feed.close()


def _first(feed: Feed) -> Piece | None:
    """Take one piece and leave the rest, as a kill does."""
    polled = feed.poll()
    try:
        return next(iter(polled), None)
    finally:
        if hasattr(polled, "close"):
            polled.close()


@final
class _Pieces:
    """The pieces that were given, each read alone."""

    def __init__(self, read: Callable[[], PieceReader], max_position_bytes: int) -> None:
        self._read = read
        self._most = max_position_bytes
        self.pieces: list[Piece] = []
        self.rows: Counter[Any] = Counter()
        self.after: list[int] = []

    @property
    def position(self) -> Position | None:
        return self.pieces[-1].position if self.pieces else None

    @property
    def num_rows(self) -> int:
        return self.rows.total()

    def add(self, piece: Piece) -> None:
        """Take a piece in, and check it."""
        assert isinstance(piece.payload, bytes), f"a piece holds {type(piece.payload)}, not bytes"
        text = json.dumps(piece.position)
        assert json.loads(text) == piece.position, f"JSON changes the position {piece.position}"
        assert len(text) <= self._most, f"a position has {len(text)} bytes"
        rows = rows_of(self._read(), piece.payload)
        assert rows == rows_of(self._read(), piece.payload), "a piece that is read again gives other rows"
        self.pieces.append(piece)
        self.rows.update(rows)
        assert max(map(self.rows.__getitem__, rows), default=1) == 1, "a row was given twice"
        self.after.append(self.num_rows)


def _check_halves(feed: Feed, reader: PieceReader) -> None:
    from thalweg.ingest.feeds.feed import Feed, PieceReader

    assert isinstance(feed, Feed), "it lacks a part of thalweg.ingest.feeds.feed.Feed"
    assert isinstance(reader, PieceReader), "it lacks a part of thalweg.ingest.feeds.feed.PieceReader"
    assert isinstance(feed.name, str), "a feed's name is text"
    assert feed.name, "a feed has a name"
    assert isinstance(feed.ended, bool), "a feed has ended, or has not"
    for half in (feed, reader):
        assert isinstance(half.tally, Tally), "a tally is a thalweg.tally.Tally"
    assert not feed.tally.as_dict(), f"whole content was counted: {feed.tally.lines()}"


def _check_positions(make: Callable[[], Feed], log: _Pieces, settle: Callable[[], None], timeout_s: float) -> None:
    """See that each position that was ever given still leads to all that came after it."""
    for piece, num_before in zip(log.pieces, log.after, strict=True):
        feed = _open(make, piece.position)
        again = _Pieces(log._read, log._most)
        deadline = time.monotonic() + timeout_s
        while again.num_rows < log.num_rows - num_before:
            assert time.monotonic() < deadline, (
                f"from the position after {num_before} rows, {again.num_rows} came, not {log.num_rows - num_before}"
            )
            settle()
            for later in feed.poll():
                again.add(later)
        settle()
        for later in feed.poll():
            again.add(later)
        _close(feed)
        earlier = log.rows - again.rows
        assert again.num_rows == log.num_rows - num_before, "a position gives rows again that came before it"
        assert earlier.total() == num_before, "a position leads to other rows than came after it"


def _check_damage(read: Callable[[], PieceReader], log: _Pieces) -> None:
    """See that a reader raises for nothing, counts what it cannot read, and goes on afterwards."""
    reader = read()
    chance = random.Random(5)
    whole = log.pieces[0].payload
    for damaged in (b"\xff\xfe\0garbage\0", bytes(64), chance.randbytes(300)):
        counted = sum(reader.tally.as_dict().values())
        found = rows_of(reader, damaged)
        counted = sum(reader.tally.as_dict().values()) - counted
        assert found or counted, f"{damaged[:20]!r} is neither read nor counted"
    rows_of(reader, b"")
    for _ in range(100):
        cut = whole[: chance.randrange(len(whole))]
        hit = bytearray(whole)
        hit[chance.randrange(len(hit))] ^= 1 << chance.randrange(8)
        rows_of(reader, cut)
        rows_of(reader, bytes(hit))
    assert rows_of(reader, whole) == rows_of(read(), whole), "after damage, whole pieces give other rows"


def rows_of(reader: PieceReader, piece: bytes) -> list[Any]:
    """Return what is in a piece as values that can be compared, and check the runs that it comes in."""
    rows: list[Any] = []
    for run in reader.read(piece, _ARRIVAL_US):
        assert len(run) <= MAX_RUN, f"a run has {len(run):,} rows: {MAX_RUN:,} at most"
        rows += _values(run, reader.exporters)
    return rows


def _values(run: Flows | Records | Datagrams, exporters: Collection[str]) -> Iterable[Any]:
    from thalweg.ingest.netflow.datagrams import Datagrams
    from thalweg.tables import Flows

    if isinstance(run, Flows):
        return run.frame.drop("row", strict=False).rows()
    if isinstance(run, Datagrams):
        found = run.arrived
        return [
            (run.buffer[at : at + num].tobytes(), time_us, hi, lo)
            for at, num, time_us, hi, lo in zip(
                *(found[name].tolist() for name in ("offset", "length", "time_us", "hi", "lo")), strict=True
            )
        ]
    names = list(exporters)
    assert not len(run) or int(run["exporter"].max()) < len(names), "a record's exporter has no name"
    fields = [name for name in run.dtype.names or () if name != "exporter"]
    return [(*row, names[at]) for row, at in zip(run[fields].tolist(), run["exporter"].tolist(), strict=True)]
