"""What survives a kill: where to continue in the spool, with all that was in memory then.

    DIR/snapshot.npz      a position in the spool and the state there; replaced as a whole
    DIR/committed.json    the last window whose scores are written; see `committed`

After a kill, reading restarts at the snapshot and gives the same windows again; those that are already written are
skipped. So nothing is written twice, and nothing that was spooled is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self, final
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from thalweg.errors import SourceError
from thalweg.ingest.feeds.feed import Position
from thalweg.ingest.records import RECORD
from thalweg.live.spool.folder import SpoolPosition
from thalweg.runtime.whole_file import whole_file

_VERSION: Final = 3
_SNAPSHOT: Final = "snapshot.npz"
_PARTS: Final = ("assembler", "windower")


@final
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Snapshot:
    """Everything that later windows depend on.

    position: where reading continues. assembler: see `Assembler.state`. windower: see `Windower.state`. counts: of what
    the spool lost, by name. settings: see `RunConfig.deciding`.
    """

    position: SpoolPosition
    assembler: Mapping[str, Any]
    windower: Mapping[str, Any]
    counts: Mapping[str, int]
    settings: Mapping[str, Any]

    @property
    def window(self) -> int:
        """The number of the next window."""
        return int(self.windower["number"])

    @property
    def positions(self) -> Mapping[str, Position]:
        """The position of each feed, by its address."""
        positions: Mapping[str, Position] = self.assembler["positions"]
        return positions

    def renumbered(self, window: int) -> Self:
        """Return it with another number for the next window."""
        return replace(self, windower={**self.windower, "number": window})

    def save(self, folder: Path) -> None:
        """Replace the snapshot in a spool's folder. Raises OSError."""
        about: dict[str, Any] = {
            "version": _VERSION,
            "record": _record(),
            "position": list(self.position),
            "counts": dict(self.counts),
            "settings": dict(self.settings),
        }
        arrays: dict[str, npt.NDArray[Any]] = {}
        for part in _PARTS:
            state: Mapping[str, Any] = getattr(self, part)
            about[part] = {name: value for name, value in state.items() if not isinstance(value, np.ndarray)}
            arrays |= {f"{part}.{name}": value for name, value in state.items() if isinstance(value, np.ndarray)}
        arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
        with whole_file(folder / _SNAPSHOT) as partial, partial.open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]  # names that NumPy's own arguments do not have

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Read the snapshot in a spool's folder; None if there is none.

        Raises SourceError if it is damaged or of another version of the program.
        """
        path = folder / _SNAPSHOT
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as kept:
                about = json.loads(bytes(kept["about"]))
                if about["version"] != _VERSION or about["record"] != _record():
                    raise SourceError(
                        f"{path} is of another version of Thalweg: finish with that version, or remove {folder} and "
                        "start again (what is spooled there is lost)"
                    )
                states = {part: about[part] for part in _PARTS}
                for name in kept.files:
                    part, _, rest = name.partition(".")
                    if part in states:
                        states[part][rest] = kept[name]
                return cls(
                    position=SpoolPosition(*about["position"]),
                    counts=about["counts"],
                    settings=about["settings"],
                    **states,
                )
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
            if isinstance(error, SourceError):
                raise
            raise SourceError(f"{path} is damaged ({error}): remove {folder} to start again") from error


def _record() -> list[list[str]]:
    """Return the layout of records, by which states that hold some are of another version."""
    return [list(map(str, one)) for one in RECORD.descr]
