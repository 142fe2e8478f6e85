"""Conformance kits: check your own feed, sink or model with plain asserts.

    def test_my_feed(tmp_path):
        check_feed(lambda: MyFeed(tmp_path), MyReader, lambda i: write_some(tmp_path, i))

Each kit raises an AssertionError that names what does not hold. None sleeps for long or needs a network.
"""

from __future__ import annotations

from typing import final

from thalweg.testing.detectors import check_detector
from thalweg.testing.feeds import check_feed
from thalweg.testing.sinks import check_sink

__all__ = ["FakeClock", "check_detector", "check_feed", "check_sink"]


@final
class FakeClock:
    """A clock that only `advance` moves, for any parameter that takes a `now`.

    >>> now = FakeClock(100.0)
    >>> now.advance(2.5)
    >>> now()
    102.5
    """

    def __init__(self, now_s: float = 1_700_000_000.0) -> None:
        self._now_s = now_s

    def __call__(self) -> float:
        """Return the time, in seconds since 1970."""
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Move the time forward. Raises ValueError if `seconds` is negative."""
        if seconds < 0:
            raise ValueError(f"a clock does not run backwards: {seconds} s")
        self._now_s += seconds
