"""One part of the throughput benchmark in a process of its own: `python -m thalweg.benchmark.speed.throughput.child`.

It reads the part as one line of JSON from its standard input and writes a line of JSON before and after each step to
its standard output. It ends when its standard input is closed: whoever started it is gone then.
"""

from __future__ import annotations

import json
import os
import threading
from typing import IO, Any

from thalweg.runtime.memory import keep_blocks, pool_little


def main() -> None:
    """Read a part, measure it, report every step."""
    # What a library prints goes to standard error; the lines of JSON have standard output for themselves.
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    # Not through sys.stdin: a thread that waits inside it makes the interpreter's end fail.
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(0, 1) or b"\n"
    given = json.loads(line)
    threading.Thread(target=_end_with_the_other_side, daemon=True).start()
    # Before torch and Arrow are imported; the same for every side that is measured here.
    pool_little()
    keep_blocks()
    _measure(lines, given)


def _measure(lines: IO[str], given: dict[str, Any]) -> None:
    from thalweg.benchmark.machine import OUT_OF_MEMORY, limit_memory, memory_errors
    from thalweg.benchmark.speed.throughput.steps import KINDS

    failed = set(given["failed"])
    _report(lines, {"begin": "models"})
    steps = KINDS[given["part"]["kind"]](given["part"], failed)
    limit_memory(given["memory"])
    _report(lines, {"ready": True})
    for name, measure in steps.steps():
        if name in given["done"]:
            continue
        _report(lines, {"begin": name})
        row: dict[str, Any]
        try:
            with memory_errors():
                row = measure()
        except MemoryError as error:
            row = {"failed": OUT_OF_MEMORY, "why": str(error), "memory_limit_mb": given["memory"] / 1e6}
        _report(lines, {"end": name, "row": row})


def _report(lines: IO[str], line: dict[str, Any]) -> None:
    print(json.dumps(line), file=lines, flush=True)


def _end_with_the_other_side() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
