"""The scorer as a process of its own: how it is begun, and how it begins. What is large is imported in it alone."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from typing import Final

from thalweg.errors import ConfigError, SinkError, ThalwegError
from thalweg.live.config import RunConfig

CANNOT_BEGIN: Final = 2
UNHEARD: Final = 3
"""Exit code: nobody reads what it prints any more."""
_CANNOT_WRITE: Final = 4
_AGAIN: Final = "again"
_HELD_BACK: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def begin_scorer(config: RunConfig) -> subprocess.Popen[str]:
    """Begin a scorer; it ends with this process."""
    command = [sys.executable, "-m", "thalweg.live.score.process", str(os.getpid())]
    # Inherited: what comes before the scorer can listen to it, waits until then.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert process.stdin is not None, "asked for above"
    with suppress(BrokenPipeError), process.stdin as pipe:  # it may have died already
        pipe.write(config.to_json())
    return process


def score_spool(config: RunConfig, *, is_first: bool = False) -> int:
    """Score until the spool says that listening has stopped. Returns: the exit code.

    is_first: where loops had to be compiled, begin once more and find them on disk.

    SIGHUP loads the model again, between two windows. SIGINT and SIGTERM are for the receiver, which says in the spool
    when to stop.
    """
    parent = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    reload_asked = threading.Event()  # asked for while the model is being loaded, it is loaded once more
    signal.signal(signal.SIGHUP, lambda *_: reload_asked.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD_BACK)
    from thalweg.runtime.memory import pool_little

    pool_little()
    _leave_out_blas()
    try:
        from thalweg.live.score.scorer import Scorer
        from thalweg.runtime.jit import compiling

        with compiling(_say_compiling) as heard:
            try:
                scorer = Scorer(config, reload_asked)
            except ThalwegError:
                raise
            except (OSError, ValueError, RuntimeError) as error:
                raise ConfigError(f"the scorer cannot begin: {error}") from error
        if is_first and heard.are_kept:
            _begin_again(config, parent, reload_asked)
        scorer.run()
    except BrokenPipeError:
        return UNHEARD
    except ThalwegError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)  # noqa: T201  # the receiver's terminal is ours, too
        return _CANNOT_WRITE if isinstance(error, SinkError) else CANNOT_BEGIN
    return 0


def _say_compiling() -> None:
    said = "compiling loops for this machine, once; what comes meanwhile waits in the spool"
    print(said, file=sys.stderr, flush=True)  # noqa: T201  # as above


def _leave_out_blas() -> None:
    """Load numba without SciPy's linear algebra: it looks for it, no loop of ours uses it, and it takes 13 MB."""
    sys.modules["scipy.linalg"] = None  # type: ignore[assignment]  # documented: importing it fails
    with suppress(ImportError):
        import numba.np.arraymath  # noqa: F401  # where it looks
    del sys.modules["scipy.linalg"]


def _begin_again(config: RunConfig, parent: int, reload_asked: threading.Event) -> None:
    """Become a fresh process under the same number: the compiler lets go of its 200 MB in no other way."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)
    if reload_asked.is_set():
        signal.pthread_kill(threading.get_ident(), signal.SIGHUP)  # held back, it is there for the new one
    try:
        with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
            file.write(config.to_json())
            file.seek(0)
            os.dup2(file.fileno(), sys.stdin.fileno())
        os.execv(sys.executable, [sys.executable, "-m", "thalweg.live.score.process", str(parent), _AGAIN])
    except OSError:  # no place for a file: rather more memory than no scores
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD_BACK)


def _die_with(parent: int) -> None:
    """Ask the kernel to kill this process when the one that began it is gone: two must never score one spool."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


if __name__ == "__main__":
    _die_with(int(sys.argv[1]))
    sys.exit(score_spool(RunConfig.from_json(sys.stdin.read()), is_first=_AGAIN not in sys.argv))
