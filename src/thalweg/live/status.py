"""The status of the two processes of a run: each writes a file of its own in the spool's folder once a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from thalweg.runtime.whole_file import whole_file

RECEIVER: Final = "receiver.json"
SCORER: Final = "scorer.json"


def write_status(folder: Path, name: str, status: dict[str, Any]) -> None:
    """Replace a status as a whole. Raises OSError if the folder cannot be written."""
    # Once a second, and of no use after a power loss: an fsync would be in vain.
    with whole_file(folder / name, durable=False) as partial:
        partial.write_text(json.dumps(status))


def read_status(folder: Path, name: str) -> dict[str, Any] | None:
    """Return the latest status, or None if there is none yet."""
    try:
        found = json.loads((folder / name).read_text())
    except (OSError, ValueError):  # without descriptors or rights, there is none for now
        return None
    return found if isinstance(found, dict) else None
