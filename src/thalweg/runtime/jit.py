"""Just-in-time compilation of loops, at their first call and with a cache on disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, ParamSpec, TypeVar, final

from numba import njit
from numba.core.event import Event, Listener, install_listener

ANY_ORDER: Final = ("reassoc", "contract", "nsz", "arcp")
"""Flags for `compiled`: sums may be reordered, which vectorisation needs; infinities and NaN keep their meaning."""

_P = ParamSpec("_P")
_R = TypeVar("_R")


def compiled(*fastmath: str, inline: bool = False) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Compile a function at its first call, for the types of its arguments, and cache it on disk.

    fastmath: LLVM's names of what the compiler may assume of numbers, by default nothing. inline: whether to compile it
    into its callers.
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
    """Compile a function at its first call, and cache it on disk if there is a folder for that.

    A service without a home directory may have none (NUMBA_CACHE_DIR can name one); it then compiles at every start.
    """
    try:
        made: Callable[_P, _R] = njit(cache=True, **options)(function)
    except RuntimeError:
        made = njit(**options)(function)
    return made


@final
class Compiling(Listener):
    """Counts the loops that are compiled because they are not in the cache; Numba compiles one at a time.

    begins: called before the first one. num_loops, seconds: so far. are_kept: whether some are cached on disk.
    """

    def __init__(self, begins: Callable[[], None]) -> None:
        self.num_loops, self.seconds, self.are_kept = 0, 0.0, False
        self._begins, self._depth, self._mark = begins, 0, 0.0

    def on_start(self, event: Event) -> None:
        """Count a loop, and start the clock unless it is compiled inside another one."""
        if not self.num_loops:
            self._begins()
        self.num_loops += 1
        self.are_kept |= event.data["dispatcher"].stats.cache_path is not None
        self._depth += 1
        if self._depth == 1:
            self._mark = time.perf_counter()

    def on_end(self, event: Event) -> None:
        """Stop the clock at the end of the outermost loop."""
        del event
        self._depth -= 1
        if self._depth < 0:  # it began before the listener was installed
            self._depth = 0
        elif not self._depth:
            self.seconds += time.perf_counter() - self._mark


@contextmanager
def compiling(begins: Callable[[], None]) -> Iterator[Compiling]:
    """Count the loops that are compiled while the block runs."""
    listener = Compiling(begins)
    with install_listener("numba:compile", listener):
        yield listener
