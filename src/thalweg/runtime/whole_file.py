"""A file that appears under its name whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from thalweg.errors import SinkError

_ENDING: Final = ".partial"


@contextmanager
def whole_file(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a name beside `path` to write to; it becomes `path` if the block succeeds, and is removed otherwise.

    durable: the content outlives power loss, which takes an fsync: 7 ms and more. Without it, only the end of the
    process is survived. What killed processes left of the same file is removed. Raises OSError if the folder cannot be
    written.
    """
    remove_leftovers(path)
    partial = partial_name(path)
    partial.touch()
    try:
        yield partial
        if durable:
            with partial.open("rb") as written:
                os.fsync(written.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def partial_name(path: Path) -> Path:
    """Return the name that this process writes to until the file is whole."""
    return path.with_name(f".{path.name}.{os.getpid()}{_ENDING}")


def remove_leftovers(path: Path) -> None:
    """Remove what processes that have ended left of a file that never became whole."""
    beginning = f".{path.name}."
    with os.scandir(path.parent) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(beginning) and entry.name.endswith(_ENDING)]
    for name in names:
        pid = name[len(beginning) : -len(_ENDING)]
        if pid.isdigit() and not _is_alive(int(pid)):
            path.with_name(name).unlink(missing_ok=True)


def check_folder(path: Path) -> None:
    """Check that a file can be put at a path, before the work whose result it is.

    Raises SinkError if its folder is missing, or it is a folder itself.
    """
    if not path.parent.is_dir():
        raise SinkError(f"{path}: there is no folder {path.parent}; make it first")
    if path.is_dir():
        raise SinkError(f"{path} is a folder: name a file in it")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
