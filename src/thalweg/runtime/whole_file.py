"""Writes files atomically: a file appears under its name complete or not at all."""

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
    """Yield a temporary file beside `path`; it replaces `path` if the block succeeds, and is removed otherwise.

    durable: the file survives a power loss. This takes an fsync of 7 ms or more; without it, the file survives only the
    end of the process. Temporary files that killed processes left behind are removed first. Raises OSError if the
    folder is not writable.
    """
    remove_leftovers(path)
    partial = partial_name(path)
    partial.unlink(missing_ok=True)
    os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # new: no link that waits there
    try:
        yield partial
        if durable:
            with partial.open("rb") as written:
                os.fsync(written.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def partial_name(path: Path) -> Path:
    """Return the name that this process writes to until the file is complete."""
    return path.with_name(f".{path.name}.{os.getpid()}{_ENDING}")


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files of `path` whose processes have ended."""
    beginning = f".{path.name}."
    with os.scandir(path.parent) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(beginning) and entry.name.endswith(_ENDING)]
    for name in names:
        pid = name[len(beginning) : -len(_ENDING)]
        if pid.isdigit() and not _is_alive(int(pid)):
            path.with_name(name).unlink(missing_ok=True)


def check_folder(path: Path) -> None:
    """Check that a file can be written at `path`, before the work that produces it.

    Raises SinkError if its folder is missing, or if `path` is a folder.
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
