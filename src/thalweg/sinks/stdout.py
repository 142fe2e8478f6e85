"""Standard output: JSON lines for the next program of a pipe."""

from __future__ import annotations

import sys
from typing import final

from thalweg.errors import SinkError
from thalweg.sinks.json_lines import lines_of
from thalweg.sinks.sink import ScoredWindow, State


@final
class StandardOutput:
    """A line of JSON for each flow. After a kill, the window that was being written is printed again."""

    def open(self, state: State | None) -> State:
        """Do nothing: it is open already."""
        del state
        return {}

    def write(self, window: ScoredWindow) -> State:
        """Print a window's lines. Raises BrokenPipeError if the reader is gone, SinkError on any other error."""
        try:
            for lines in lines_of(window.frame):
                sys.stdout.buffer.write(lines)
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise SinkError(f"cannot write to standard output: {error}") from error
        return {}

    def close(self) -> None:
        """Do nothing: others write there too."""
