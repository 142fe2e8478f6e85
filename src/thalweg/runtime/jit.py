"""Loops over flows, compiled when they are first called and kept on disk for the next time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, ParamSpec, TypeVar, final

from numba import njit
from numba.core.event import Event, Listener, install_listener

ANY_ORDER: Final = ("reassoc", "contract", "nsz", "arcp")
"""For `compiled`: sums may be reordered, which vectors need; infinities and NaN keep their meaning."""

_P = ParamSpec("_P")
_R = TypeVar("_R")


def compiled(*fastmath: str, inline: bool = False) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Compile a function when it is first called, for the types of its arguments; kept on disk for the next time.

    fastmath: what the compiler may assume of numbers, by LLVM's names; nothing by default.
    """

    def compile_(function: Callable[_P, _R]) -> Callable[_P, _R]:
        options: dict[str, Any] = {
            "nogil": True,
            "error_model": "numpy",
            "fastmath": set(fastmath) or False,
            "inline": "always" if inline else "never",
        }
        return kept_on_disk(function, options)

    return compile_


def kept_on_disk(function: Callable[_P, _R], options: dict[str, Any]) -> Callable[_P, _R]:
    """Compile a function when it is first called, and keep it on disk where there is a place for that.

    A service without a home may have none (NUMBA_CACHE_DIR can name one); it compiles each time that it begins.
    """
    try:
        made: Callable[_P, _R] = njit(cache=True, **options)(function)
    except RuntimeError:
        made = njit(**options)(function)
    return made


@final
class Compiling(Listener):
    """Hears of loops being compiled, which are not found on disk then; one is compiled at a time.

    begins: called before the first one. num_loops, seconds: so far. are_kept: some are found on disk the next time.
    """

    def __init__(self, begins: Callable[[], None]) -> None:
        self.num_loops, self.seconds, self.are_kept = 0, 0.0, False
        self._begins, self._depth, self._mark = begins, 0, 0.0

    def on_start(self, event: Event) -> None:
        """Count a loop, and the seconds unless it is compiled for another one."""
        if not self.num_loops:
            self._begins()
        self.num_loops += 1
        self.are_kept |= event.data["dispatcher"].stats.cache_path is not None
        self._depth += 1
        if self._depth == 1:
            self._mark = time.perf_counter()

    def on_end(self, event: Event) -> None:
        """Count the seconds."""
        del event
        self._depth -= 1
        if self._depth < 0:  # it had begun before anyone listened
            self._depth = 0
        elif not self._depth:
            self.seconds += time.perf_counter() - self._mark


@contextmanager
def compiling(begins: Callable[[], None]) -> Iterator[Compiling]:
    """Listen while the block runs."""
    heard = Compiling(begins)
    with install_listener("numba:compile", heard):
        yield heard
