"""What is written out: the last window, and what each sink needs to go on after it; replaced after each window."""

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
    """What is written out.

    window: the last one, -1 before the first; the sums go over all until then. sinks: what each needs to go on after
    it. settings: by which windows were made, see `RunConfig.deciding`. prints: of windows since the last snapshot, by
    number: what each looked like, to be known again.
    """

    window: int = -1
    num_flows: int = 0
    num_anomalous: int = 0
    sinks: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] | None = None
    prints: Mapping[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write it in the place of the one before. Raises: OSError."""
        with whole_file(folder / _COMMITTED) as partial:
            partial.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, folder: Path) -> Committed:
        """Read it back; the state before the first window where there is none."""
        try:
            return cls(**json.loads((folder / _COMMITTED).read_text()))
        except FileNotFoundError:
            return cls()
        except (ValueError, TypeError) as error:
            raise SourceError(f"{folder / _COMMITTED} is damaged ({error}): remove {folder} to begin anew") from error
