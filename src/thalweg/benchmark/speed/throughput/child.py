"""One part of the throughput benchmark, in its own process: `python -m thalweg.benchmark.speed.throughput.child`.

It reads the part as one line of JSON from its standard input and writes a line of JSON before and after each step to
its standard output. It ends if its standard input is closed, as then the parent is gone.
"""

from __future__ import annotations

import json
import os
import threading
from typing import IO, Any

from thalweg.runtime.memory import keep_blocks, pool_little


def main() -> None:
    """Read a part, measure it, and report every step."""
    # Whatever libraries print goes to standard error, so that standard output has only lines of JSON.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    # Not through sys.stdin: the interpreter fails at exit if a thread is blocked inside it.
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(0, 1) or b"\n"
    given = json.loads(line)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    # Before torch and Arrow are imported; the same for every side that is measured here.
    pool_little()
    keep_blocks()
    _measure(out, given)


def _measure(out: IO[str], given: dict[str, Any]) -> None:
    from thalweg.benchmark.machine import OUT_OF_MEMORY, limit_memory, memory_errors
    from thalweg.benchmark.speed.throughput.steps import KINDS

    failed = set(given["failed"])
    _report(out, {"begin": "models"})
    steps = KINDS[given["part"]["kind"]](given["part"], failed)
    limit_memory(given["memory"])
    _report(out, {"ready": True})
    for name, measure in steps.steps():
        if name in given["done"]:
            continue
        _report(out, {"begin": name})
        row: dict[str, Any]
        try:
            with memory_errors():
                row = measure()
        except MemoryError as error:
            row = {"failed": OUT_OF_MEMORY, "why": str(error), "memory_limit_mb": given["memory"] / 1e6}
        _report(out, {"end": name, "row": row})


def _report(out: IO[str], message: dict[str, Any]) -> None:
    print(json.dumps(message), file=out, flush=True)


def _exit_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
