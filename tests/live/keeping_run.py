"""`thalweg`, but that each segment of the spool gets a second name before anything is written to it.

python keeping_run.py FOLDER WORDS...
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from thalweg.cli.app import main
from thalweg.live.spool.folder import segment_path
from thalweg.live.spool.writer import SpoolWriter

_next_segment = SpoolWriter._next_segment


def _next_and_keep(self: SpoolWriter) -> None:
    _next_segment(self)
    segment = segment_path(self.folder, self.position.segment)
    os.link(segment, Path(sys.argv[0], segment.name))


if __name__ == "__main__":
    del sys.argv[0]
    SpoolWriter._next_segment = _next_and_keep  # type: ignore[method-assign]  # only the process that receives has it
    main()
