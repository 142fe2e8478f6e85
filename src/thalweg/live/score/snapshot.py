"""What outlives a kill: where to go on reading the spool, with all that was in memory then.

    DIR/snapshot.npz      a place in the spool and everything known there; replaced as a whole
    DIR/committed.json    the last window whose scores are written; see `committed`

After a kill, reading begins again at the snapshot and gives the same windows again; those that are written are passed
over. So nothing is written twice, and nothing that was spooled is left out.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, final
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import polars as pl

from thalweg.errors import SourceError
from thalweg.ingest.records import RECORD, Records, no_records
from thalweg.live.spool.writer import Place
from thalweg.runtime.whole_file import whole_file

_VERSION: Final = 1
_SNAPSHOT: Final = "snapshot.npz"


@final
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Snapshot:
    """Everything that later windows depend on.

    place: where reading goes on. window: the number of the next one. decoder: see `Decoder.state`. pairing: see
    `Pairing.state`. records, frame: rows of the window that is open. opened: the span that it
    belongs to. latest_us: the clock. positions:
    of each feed, by its address. counts: by name. settings: see
    `RunConfig.deciding`.
    """

    place: Place
    window: int = 0
    decoder: Mapping[str, Any] | None = None
    pairing: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    records: Records = field(default_factory=no_records)
    frame: pl.DataFrame | None = None
    opened: int | None = None
    latest_us: int = 0
    positions: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write it in the place of the one before. Raises: OSError."""
        about = {
            "version": _VERSION,
            "record": [list(map(str, one)) for one in RECORD.descr],
            "place": list(self.place),
            "window": self.window,
            "decoder": self.decoder,
            "opened": self.opened,
            "positions": dict(self.positions),
            "counts": dict(self.counts),
            "settings": dict(self.settings),
            "latest_us": self.latest_us,
        }
        arrays: dict[str, npt.NDArray[Any]] = {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)}
        arrays |= {f"pairing.{name}": value for name, value in self.pairing.items()}
        arrays["records"] = self.records
        if self.frame is not None:
            content = io.BytesIO()
            self.frame.write_ipc(content)
            arrays["frame"] = np.frombuffer(content.getvalue(), np.uint8)
        with whole_file(folder / _SNAPSHOT) as partial, partial.open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]  # names that NumPy's own arguments do not have

    @classmethod
    def load(cls, folder: Path) -> Snapshot | None:
        """Read it back; None where there is none.

        Raises: SourceError, where it is damaged or of another version of the program.
        """
        path = folder / _SNAPSHOT
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as kept:
                about = json.loads(bytes(kept["about"]))
                if about["version"] != _VERSION or about["record"] != [list(map(str, one)) for one in RECORD.descr]:
                    raise SourceError(
                        f"{path} is of another version of Thalweg: finish with that one, or remove {folder} to begin "
                        "anew (what is spooled there is lost)"
                    )
                return cls(
                    place=Place(*about["place"]),
                    window=about["window"],
                    decoder=about["decoder"],
                    pairing={
                        name.removeprefix("pairing."): kept[name] for name in kept.files if name.startswith("pairing.")
                    },
                    records=kept["records"],
                    frame=pl.read_ipc(io.BytesIO(kept["frame"].tobytes())) if "frame" in kept.files else None,
                    latest_us=about["latest_us"],
                    opened=about["opened"],
                    positions=about["positions"],
                    counts=about["counts"],
                    settings=about["settings"],
                )
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile, pl.exceptions.PolarsError) as error:
            if isinstance(error, SourceError):
                raise
            raise SourceError(f"{path} is damaged ({error}): remove {folder} to begin anew") from error
