"""Parquet by hour: a folder for each hour, a file for each window in it."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, TypedDict, final

from thalweg.errors import SinkError
from thalweg.runtime.whole_file import partial_name, remove_leftovers, whole_file
from thalweg.sinks.sink import ScoredWindow, State


class _Compression(TypedDict):
    compression: Literal["zstd"]
    compression_level: int


COMPRESSION: Final[_Compression] = {"compression": "zstd", "compression_level": 1}
"""How every Parquet file of scores is compressed: higher levels take much longer and save little."""


@final
class HourlyParquet:
    """A folder for each hour (UTC), a Parquet file for each window in it, each whole or not there at all.

    FOLDER/2026-11-25T14/5f3a9c01-000000000123.parquet holds window 123 of the spool 5f3a9c01. To read them all:
    `pl.scan_parquet("FOLDER/**/*.parquet")`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, state: State | None) -> State:
        """Make the folder. Raises SinkError if no file can be written in it."""
        del state  # a window that is written again replaces itself
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for left in self.folder.glob("*/.*-*.parquet.*.partial"):
                remove_leftovers(left.with_name(left.name.split(".parquet")[0].removeprefix(".") + ".parquet"))
            probe = partial_name(self.folder / "probe")
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise SinkError(
                f"cannot write into {self.folder}: {error.strerror}; choose another --to, or grant write permission"
            ) from error
        return {}

    def write(self, window: ScoredWindow) -> State:
        """Write one file."""
        hour = self.folder / datetime.fromtimestamp(window.time_us / 1e6, UTC).strftime("%Y-%m-%dT%H")
        path = hour / f"{window.spool}-{window.number:012d}.parquet"
        content = io.BytesIO()
        window.frame.write_parquet(content, **COMPRESSION, statistics=False)
        try:
            hour.mkdir(parents=True, exist_ok=True)
            # Durable: after a power loss, one empty file would make a scan of all of them fail.
            with whole_file(path) as partial:
                partial.write_bytes(content.getbuffer())
        except OSError as error:
            raise SinkError(f"cannot write {path}: {error}; the flows wait in the spool") from error
        return {}

    def close(self) -> None:
        """Nothing is open."""
