"""Disk space that the spool keeps in reserve: on a full disk, the state is saved in it, and what is read is freed."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from thalweg.live.spool.folder import open_inside

_RESERVE: Final = "reserve"
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


def is_full(error: BaseException | None) -> bool:
    """Whether an error says that a disk, or what a user may use of it, is full."""
    return isinstance(error, OSError) and error.errno in _FULL


def free_bytes(folder: Path) -> int:
    """Return how much this user may still write to the folder's disk."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def keep_reserve(folder: Path, num_bytes: int) -> bool:
    """Keep so much disk space in reserve. Returns whether there was room for it."""
    path = folder / _RESERVE
    if not num_bytes:
        return True
    try:
        with open_inside(path, os.O_RDWR | os.O_CREAT) as file:
            if os.fstat(file).st_size != num_bytes:
                os.ftruncate(file, 0)
                os.posix_fallocate(file, 0, num_bytes)
    except OSError:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        return False
    return True


def save_with_reserve(folder: Path, save: Callable[[], None]) -> None:
    """Save something in the folder; if the disk is full, give up the reserve for it. Raises OSError as `save` does."""
    try:
        save()
    except OSError as error:
        if not is_full(error):
            raise
        give_up_reserve(folder)
        save()


def give_up_reserve(folder: Path) -> None:
    """Let what must be written now have the reserve. Raises OSError if the folder cannot be written."""
    (folder / _RESERVE).unlink(missing_ok=True)
