"""How freed memory is given back, so that a long stream needs no more of it than a short one."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_MAX: Final = -4
_M_ARENA_MAX: Final = -8
"""mallopt's numbers, from glibc's malloc.h"""


def pool_little() -> None:
    """Keep allocators from holding pages apart for each thread; to be called before pyarrow is imported.

    Measured on 1 M and 10 M flows: with Arrow's own pool and glibc's eight arenas a core the peak grew by 7 to
    13 % from five windows to fifty; with neither, and `give_back` after each window, by 3 to 5 %.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    _glibc("mallopt", _M_ARENA_MAX, 2)


def give_back() -> None:
    """Return freed blocks to the system; about 30 ms after a window of 200,000 flows."""
    _glibc("malloc_trim", 0)


def keep_blocks() -> None:
    """Keep freed blocks for the next window instead of handing each large one back at once.

    By default glibc maps every large block anew and unmaps it when freed, and the kernel clears its pages each time:
    work of the allocator, not of a model. For measuring speed, where all sides must have the same; a long stream would
    hold on to more memory than it needs.
    """
    _glibc("mallopt", _M_MMAP_MAX, 0)
    _glibc("mallopt", _M_TRIM_THRESHOLD, -1)


def _glibc(name: str, *numbers: int) -> None:
    # Another C library has no such function, and needs none.
    function = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    if function is not None:
        function(*numbers)
