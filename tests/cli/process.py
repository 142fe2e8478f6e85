"""The command line in processes of its own, forked where torch is already imported: tenths of a second each."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Final, final

ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
"""Environment of every process, since tests run in parallel."""

PATIENCE_S: Final = 180.0

# Imported only, never used before the fork: neither Polars nor torch has started its threads yet.
_SLOW_IMPORTS: Final = [
    "pytest",
    "torch_geometric.nn",
    "thalweg.batch",
    "thalweg.cli.app",
    "thalweg.evaluate.report",
    "thalweg.model.thalweg",
    "thalweg.synthetic",
]
_FORKS: Final = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(_SLOW_IMPORTS)


@final
@dataclass(frozen=True, slots=True)
class Finished:
    """A command that ended: its exit code (negative: the signal that ended it), and what it wrote."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Read what `--json` printed."""
        return json.loads(self.out)


@final
class Running:
    """`thalweg ARGS` in a process of its own, in a folder."""

    def __init__(
        self, *args: str | Path, folder: Path, stdin: bytes = b"", max_file_bytes: int = resource.RLIM_INFINITY
    ) -> None:
        os.environ.update(ONE_THREAD)  # the server inherits it at its first start
        begun = time.monotonic_ns()
        self._streams = [folder / f".{begun}.{name}" for name in ("stdin", "stdout", "stderr")]
        self._streams[0].write_bytes(stdin)
        words = [str(arg) for arg in args]
        self._process: ForkServerProcess = _FORKS.Process(
            target=_enter, args=(words, folder, self._streams, max_file_bytes)
        )
        self._process.start()

    def kill(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    @property
    def err(self) -> str:
        """What it has written on standard error so far."""
        return self._streams[2].read_text() if self._streams[2].exists() else ""

    def wait_until(self, happened: Callable[[], object]) -> None:
        """Wait for something that the process does."""
        give_up = time.monotonic() + PATIENCE_S
        while not happened():
            assert self._process.is_alive(), f"ended with {self._process.exitcode}: {self.err}"
            assert time.monotonic() < give_up, f"still waiting; on standard error: {self.err}"
            time.sleep(0.01)

    def finish(self) -> Finished:
        """Wait for the end."""
        self._process.join(PATIENCE_S)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
            raise AssertionError(f"did not end; on standard error: {self.err}")
        out, err = (path.read_text() for path in self._streams[1:])
        for path in self._streams:
            path.unlink()
        assert "Traceback" not in err, err
        assert "Warning" not in err, err
        return Finished(code, out, err)


def thalweg(*args: str | Path, folder: Path, stdin: bytes = b"") -> Finished:
    """Run a command to its end."""
    return Running(*args, folder=folder, stdin=stdin).finish()


def succeed(*args: str | Path, folder: Path, stdin: bytes = b"") -> Finished:
    """Run a command that should go well."""
    finished = thalweg(*args, folder=folder, stdin=stdin)
    assert finished.code == 0, finished.err
    return finished


def python(*args: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run an interpreter of its own, not forked."""
    environment = {**os.environ, **ONE_THREAD}
    return subprocess.run([sys.executable, *args], cwd=folder, env=environment, capture_output=True, text=True)


def _enter(args: list[str], folder: Path, streams: list[Path], max_file_bytes: int) -> None:
    os.chdir(folder)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, resource.RLIM_INFINITY))
    for number, path in enumerate(streams):
        os.dup2(os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, mode) for n, mode in enumerate(("r", "w", "w")))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["thalweg", *args]
    from thalweg.cli.app import main

    main()
