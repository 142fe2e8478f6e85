"""Text from outside on a terminal: what would move the cursor, hide text or turn it round is written as an escape."""

from __future__ import annotations

import sys
import threading
import traceback
from types import TracebackType


def printable(text: str, keep: str = "") -> str:
    r"""Write each character that prints nothing by itself as an escape: controls, marks of direction, separators.

    keep: characters that stay, such as newlines.

    >>> printable("host\x1b[2J\u202e"), printable("a\tb\n", keep="\n")
    ('host\\x1b[2J\\u202e', 'a\\tb\n')
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in keep else _escape(one) for one in text)


def _escape(one: str) -> str:
    return one.encode("unicode_escape").decode()


def print_on_stderr(text: str) -> None:
    """Print a line on standard error, which several processes of a run share."""
    print(printable(text), file=sys.stderr, flush=True)  # noqa: T201  # above the display


def escape_tracebacks() -> None:
    """Print the tracebacks of this process with whatever they quote from outside escaped."""

    def show(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
        text = "".join(traceback.format_exception(kind, error, trace))
        sys.stderr.write(printable(text, keep="\n\t"))
        sys.stderr.flush()

    sys.excepthook = show
    threading.excepthook = lambda args: show(args.exc_type, args.exc_value, args.exc_traceback)
