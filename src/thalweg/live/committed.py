"""What is written out: the last window, and what each sink needs to go on after it; replaced after each window."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, final

from thalweg.errors import SourceError

_COMMITTED: Final = "committed.json"


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Committed:
    """What is written out. window: the last one, -1 before the first; the sums go over all until then; sinks: what each
    sink needs to go on after it.
    """

    window: int = -1
    num_flows: int = 0
    num_anomalous: int = 0
    sinks: Mapping[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write it in the place of the one before. Raises: OSError."""
        path = folder / _COMMITTED
        partial = path.with_suffix(".partial")
        partial.write_text(
            json.dumps(
                {
                    "window": self.window,
                    "num_flows": self.num_flows,
                    "num_anomalous": self.num_anomalous,
                    "sinks": dict(self.sinks),
                }
            )
        )
        partial.replace(path)

    @classmethod
    def load(cls, folder: Path) -> Committed:
        """Read it back; the state before the first window where there is none."""
        try:
            return cls(**json.loads((folder / _COMMITTED).read_text()))
        except FileNotFoundError:
            return cls()
        except (ValueError, TypeError) as error:
            raise SourceError(f"{folder / _COMMITTED} is damaged ({error}): remove {folder} to begin anew") from error
