"""The scorer as a process of its own. Large modules are imported only there, not in the process that starts it."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Self, final

from thalweg.errors import ConfigError, SinkError, ThalwegError
from thalweg.live.config import RunConfig
from thalweg.runtime.settings import as_values, make_settings
from thalweg.runtime.terminal import escape_tracebacks, print_on_stderr

CANNOT_START: Final = 2
OUTPUT_CLOSED: Final = 3
"""Exit code: the reader of a sink's output, as in `thalweg run … --to - | head`, is gone."""
CANNOT_WRITE: Final = 4
_RESTARTED: Final = "restarted"
_BLOCKED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

assert __spec__ is not None, "imported, or run by -m"
_COMMAND: Final = (sys.executable, "-m", __spec__.name)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ScorerTask:
    """What a scorer's process is given on its standard input."""

    config: RunConfig
    sources: tuple[str, ...]
    """The addresses of all sources that the spool has known, by number."""

    def to_json(self) -> str:
        """Write it down for another process."""
        return json.dumps(as_values(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        return make_settings(cls, json.loads(text), "a scorer's task:")


def start_scorer(task: ScorerTask) -> subprocess.Popen[str]:
    """Start a scorer; it ends with this process."""
    command = [*_COMMAND, str(os.getpid())]
    # Inherited: a signal that comes before the scorer handles it waits until then.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert process.stdin is not None, "asked for above"
    with suppress(BrokenPipeError), process.stdin as pipe:  # it may have died already
        pipe.write(task.to_json())
    return process


def score_spool(task: ScorerTask, *, is_first: bool = False) -> int:
    """Score until the spool says that receiving has stopped. Returns the exit code.

    is_first: if loops had to be compiled, restart once and load them from disk.

    SIGHUP reloads the model between two windows. SIGINT and SIGTERM are for the receiver, which marks the stop in the
    spool.
    """
    parent = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    reload_asked = threading.Event()  # if set while the model is loading, it is loaded once more
    signal.signal(signal.SIGHUP, lambda *_: reload_asked.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _BLOCKED)
    from thalweg.runtime.memory import pool_little

    pool_little()
    _leave_out_blas()
    try:
        from thalweg.live.score.scorer import Scorer
        from thalweg.runtime.jit import compiling

        with compiling(_report_compiling) as compiled:
            try:
                scorer = Scorer(task.config, task.sources, reload_asked)
            except ThalwegError:
                raise
            except (OSError, ValueError, RuntimeError) as error:
                raise ConfigError(f"the scorer cannot start: {error}") from error
        if is_first and compiled.are_kept:
            _restart(task, parent, reload_asked)
        scorer.run()
    except BrokenPipeError:
        return OUTPUT_CLOSED
    except ThalwegError as error:
        print_on_stderr(f"error: {error}")
        return CANNOT_WRITE if isinstance(error, SinkError) else CANNOT_START
    return 0


def _report_compiling() -> None:
    print_on_stderr("compiling loops for this machine, once; datagrams wait in the spool meanwhile")


def _leave_out_blas() -> None:
    """Load numba without SciPy's linear algebra, which it imports if it can: no loop uses it, and it takes 13 MB."""
    sys.modules["scipy.linalg"] = None  # type: ignore[assignment]  # documented: importing it fails
    with suppress(ImportError):
        import numba.np.arraymath  # noqa: F401  # imports it
    del sys.modules["scipy.linalg"]


def _restart(task: ScorerTask, parent: int, reload_asked: threading.Event) -> None:
    """Become a fresh process under the same number: nothing else frees the compiler's 200 MB."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
    if reload_asked.is_set():
        signal.pthread_kill(threading.get_ident(), signal.SIGHUP)  # blocked, it waits for the new program
    try:
        with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
            file.write(task.to_json())
            file.seek(0)
            os.dup2(file.fileno(), sys.stdin.fileno())
        os.execv(sys.executable, [*_COMMAND, str(parent), _RESTARTED])
    except OSError:  # no room for a file: better more memory than no scores
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _BLOCKED)


def _die_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent is gone: two must never score one spool."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


if __name__ == "__main__":
    escape_tracebacks()
    _die_with(int(sys.argv[1]))
    sys.exit(score_spool(ScorerTask.from_json(sys.stdin.read()), is_first=_RESTARTED not in sys.argv))
