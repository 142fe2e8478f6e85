"""Feeds, polled in a thread of their own: a folder of a hundred thousand files must not keep a socket waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from queue import Empty, Full, Queue
from typing import TYPE_CHECKING, Any, Final, final

from thalweg.tally import Tally

if TYPE_CHECKING:
    from thalweg.ingest.feeds.feed import Feed, Piece

_PAUSE_S: Final = 0.2
_RESTING: Final = 10
"""A poll that found nothing is followed by a pause of so many times its own length."""
_WAITING: Final = 4
"""Pieces that wait to be spooled, a few MB each; then the feeds wait: what they read from keeps what is not taken."""


@final
class Feeding:
    """Polls feeds until it is stopped. Only its thread touches them while it runs.

    feeds: with their numbers. tally: readings that failed and were tried again.
    """

    def __init__(self, feeds: Sequence[tuple[int, Feed]]) -> None:
        self.tally = Tally()
        self._feeds = list(feeds)
        self._pieces: Queue[tuple[int, Piece]] = Queue(_WAITING)
        self._accepted: dict[str, Any] = {}
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
        """Return what the feeds lost or doubted, and readings that failed."""
        total = Tally()
        for part in (self.tally, *(feed.tally for _, feed in self._feeds)):
            total.merge(part)
        return total

    def take(self) -> tuple[int, Piece] | None:
        """Return the next piece and its feed's number, or None where there is none now."""
        with suppress(Empty):
            return self._pieces.get_nowait()
        return None

    def accept(self, positions: dict[str, Any]) -> None:
        """Tell the feeds, soon, what is written for good."""
        self._accepted = positions

    def stop(self) -> None:
        """Stop polling, after the poll that is under way; pieces that were not taken come again next time."""
        self._stopping.set()
        if self._feeds:
            self._thread.join(10.0)

    def close(self) -> None:
        """Stop, tell servers the last that was accepted, and close the feeds."""
        self.stop()
        self._acknowledge()
        for _, feed in self._feeds:
            feed.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            begun = time.monotonic()
            num = sum(self._poll(number, feed) for number, feed in self._feeds)
            self._acknowledge()
            if all(feed.ended for _, feed in self._feeds):
                self._all_ended = True
                return
            took = time.monotonic() - begun
            self._stopping.wait(_PAUSE_S if num else max(_PAUSE_S, _RESTING * took))

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
        except Exception as error:  # a disk that is away, a server that is down: it goes on where it was
            self.tally.add("failed_readings", 1, f"{feed.name}: {error}")
        return num

    def _acknowledge(self) -> None:
        accepted, self._accepted = self._accepted, {}
        if not accepted:
            return
        from thalweg.ingest.feeds.feed import Acknowledging

        for _, feed in self._feeds:
            if feed.name in accepted and isinstance(feed, Acknowledging):
                feed.accepted(accepted[feed.name])
