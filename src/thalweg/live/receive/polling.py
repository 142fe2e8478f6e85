"""Feeds, polled in a thread of their own: a folder of a hundred thousand files must not keep a socket waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from queue import Empty, Full, Queue
from typing import Final, final

from thalweg.ingest.feeds.feed import AcknowledgingFeed, Feed, Piece, Position
from thalweg.tally import Tally

_PAUSE_S: Final = 0.2
_IDLE_FACTOR: Final = 10
"""A poll that found nothing is followed by a pause of so many times its own length."""
_MAX_WAITING: Final = 4
"""Pieces that wait to be spooled, a few MB each; then the feeds wait: their sources keep what is not taken."""


@final
class FeedPoller:
    """Polls feeds until it is stopped. Only its thread touches them while it runs.

    feeds: each with the number of its source. tally: polls that failed and were retried.
    """

    def __init__(self, feeds: Sequence[tuple[int, Feed]]) -> None:
        self.tally = Tally()
        self._feeds = list(feeds)
        self._pieces: Queue[tuple[int, Piece]] = Queue(_MAX_WAITING)
        self._written: Mapping[str, Position] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="thalweg-feeds", daemon=True)
        self._all_ended = not self._feeds
        if self._feeds:
            self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether nothing more can come, and all of it has been taken."""
        return self._all_ended and self._pieces.empty()

    @property
    def has_pieces(self) -> bool:
        """Whether a piece waits to be taken."""
        return not self._pieces.empty()

    def counts(self) -> Tally:
        """Return what the feeds lost or doubted, and polls that failed."""
        total = Tally()
        for part in (self.tally, *(feed.tally for _, feed in self._feeds)):
            total.merge(part)
        return total

    def take(self) -> tuple[int, Piece] | None:
        """Return the next piece and the number of its source, or None if none waits."""
        with suppress(Empty):
            return self._pieces.get_nowait()
        return None

    def acknowledge(self, positions: Mapping[str, Position]) -> None:
        """Report to the feeds, soon, up to where their flows are written. positions: by the feed's name."""
        self._written = positions

    def stop(self) -> None:
        """Stop polling after the current poll; pieces that were not taken come again in the next run."""
        self._stopping.set()
        if self._feeds:
            self._thread.join(10.0)

    def close(self) -> None:
        """Stop, acknowledge to servers what is written, and close the feeds."""
        self.stop()
        self._acknowledge()
        for _, feed in self._feeds:
            feed.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            started = time.monotonic()
            num = sum(self._poll(number, feed) for number, feed in self._feeds)
            self._acknowledge()
            if all(feed.ended for _, feed in self._feeds):
                self._all_ended = True
                return
            took = time.monotonic() - started
            self._stopping.wait(_PAUSE_S if num else max(_PAUSE_S, _IDLE_FACTOR * took))

    def _poll(self, number: int, feed: Feed) -> int:
        num = 0
        try:
            for piece in feed.poll():
                num += 1
                while True:
                    if self._stopping.is_set():
                        return num
                    with suppress(Full):
                        self._pieces.put((number, piece), timeout=0.5)
                        break
        except Exception as error:  # such as a missing disk or server: the feed continues from its position
            self.tally.add("failed_readings", 1, f"{feed.name}: {error}")
        return num

    def _acknowledge(self) -> None:
        written, self._written = self._written, {}
        for _, feed in self._feeds:
            if feed.name in written and isinstance(feed, AcknowledgingFeed):
                feed.acknowledge(written[feed.name])
