"""What is written: the last window, and what each sink needs to continue after it; replaced after each window."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, final

from thalweg.errors import SourceError
from thalweg.runtime.whole_file import whole_file

_COMMITTED: Final = "committed.json"


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Committed:
    """What is written.

    window: the last one, -1 before the first. num_flows, num_anomalous: scored, of all windows until then.
    num_set_aside: flows in quarantine, since they could not be scored or written. sinks: what each needs to continue
    after it. settings: by which windows were made, see `RunConfig.deciding`. fingerprints: of windows since the last
    snapshot, by number.
    """

    window: int = -1
    num_flows: int = 0
    num_anomalous: int = 0
    num_set_aside: int = 0
    sinks: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] | None = None
    fingerprints: Mapping[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Replace the file in a spool's folder. Raises OSError."""
        with whole_file(folder / _COMMITTED) as partial:
            partial.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, folder: Path) -> Committed:
        """Read the file; the state before the first window if there is none. Raises SourceError if it is damaged."""
        try:
            return cls(**json.loads((folder / _COMMITTED).read_text()))
        except FileNotFoundError:
            return cls()
        except (ValueError, TypeError) as error:
            raise SourceError(f"{folder / _COMMITTED} is damaged ({error}): remove {folder} to start again") from error
