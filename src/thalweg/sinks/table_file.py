"""Writes frames as one table, whole or not at all: Parquet, CSV or JSON lines."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self, final

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from thalweg.errors import ConfigError, SinkError
from thalweg.runtime.terminal import printable
from thalweg.runtime.whole_file import check_folder, whole_file
from thalweg.sinks.json_lines import lines_of
from thalweg.sinks.parquet import COMPRESSION
from thalweg.tables import SCORE_COLUMNS
from thalweg.tally import Tally

FORMATS: Final = (".parquet", ".csv", ".jsonl")
STDOUT: Final = Path("-")
_FORMULA: Final = "^\\s*(?:[=@\uff1d\uff20]|[-+\uff0b\uff0d][^>])"
_NUMBER: Final = r"^\s*[-+]?[0-9.]*([eE][-+]?[0-9]+)?\s*$"
"""Neither is Zeek's dash for "unset", nor the arrow of binetflow, a formula."""


def check_output(path: Path) -> None:
    """Check an output path before any work is done.

    Raises ConfigError if its ending is none of FORMATS, SinkError if its folder is missing.
    """
    if path == STDOUT:
        return
    if path.suffix not in FORMATS:
        raise ConfigError(
            f"{path}: the ending chooses the format; use one of {', '.join(FORMATS)}, or - for CSV on standard output"
        )
    check_folder(path)


@final
class TableFile:
    """A table that grows by frames and appears under its name only when it is complete.

    Until then it is `.NAME.PID.partial` beside it (see `whole_file`). Memory holds one frame. tally: counts what was
    changed in writing.

    Raises ConfigError and SinkError as `check_output` does, and SinkError if a frame does not fit the first.
    """

    def __init__(self, path: Path) -> None:
        check_output(path)
        self.path = path
        self.tally = Tally()
        self._schema: pl.Schema | None = None
        self._open = ExitStack()
        self._file: IO[bytes] | None = None
        self._parquet: pq.ParquetWriter | None = None

    def __enter__(self) -> Self:
        if self.path == STDOUT:
            self._file = sys.stdout.buffer
            return self
        try:
            with ExitStack() as opening:
                partial = opening.enter_context(whole_file(self.path))
                self._file = opening.enter_context(partial.open("wb"))
                self._open = opening.pop_all()
        except OSError as error:
            raise SinkError(f"cannot write {self.path}: {error.strerror}") from error
        return self

    def write(self, frame: pl.DataFrame) -> None:
        """Append rows."""
        assert self._file is not None, "write inside the with block"
        first = self._schema is None
        if self._schema is None:
            self._schema = frame.schema
        frame = self._fit(frame, self._schema)
        try:
            if self.path.suffix == ".parquet":
                table = frame.to_arrow()
                if self._parquet is None:
                    repeating = _repeating(frame.schema)
                    writer = pq.ParquetWriter(self._file, table.schema, use_dictionary=repeating, **COMPRESSION)
                    self._parquet = self._open.enter_context(writer)
                self._parquet.write_table(table)
            elif self.path.suffix == ".jsonl":
                self._file.writelines(lines_of(frame))
            else:
                self._write_csv(frame.with_columns(pl.col(pl.Binary).bin.encode("hex")), include_header=first)
        except SinkError:
            raise
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, pa.ArrowException) as error:
            reason = str(error).partition("\n")[0]
            raise SinkError(f"{self.path}: a column cannot be written ({reason}); write .parquet") from error
        except OSError as error:
            if self.path == STDOUT and (error.errno == errno.EPIPE or f"os error {errno.EPIPE}" in str(error)):
                raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)) from error  # the reader has seen enough
            raise SinkError(f"cannot write {self.path}: {error}") from error

    def _write_csv(self, frame: pl.DataFrame, *, include_header: bool) -> None:
        assert self._file is not None
        safe = _without_formulas(frame, self.tally)
        if not self._file.isatty():
            safe.write_csv(self._file, include_header=include_header)
            return
        text = safe.write_csv(include_header=include_header)
        self._file.write(printable(text, keep="\n").encode())

    def _fit(self, frame: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
        if frame.schema == schema:
            return frame
        new = [name for name in frame.columns if name not in schema]
        if new:
            raise SinkError(
                f"{self.path}: a later file has columns that the first lacks ({', '.join(new)}): score the files apart"
            )
        filled = frame.with_columns(pl.lit(None).alias(name) for name in schema if name not in frame.columns)
        return filled.select(self._as(filled[name], dtype) for name, dtype in schema.items())

    def _as(self, column: pl.Series, dtype: pl.DataType) -> pl.Series:
        cast = column.cast(dtype, strict=False)
        if not column.equals(cast.cast(column.dtype, strict=False), null_equal=True):  # 12.7 is not 12
            raise SinkError(
                f"{self.path}: column {column.name} is {dtype} in the first file and {column.dtype} in a later one, "
                f"with values that do not fit: score the files apart"
            )
        return cast

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._open.__exit__(kind, error, trace)
        except OSError as trouble:
            raise SinkError(f"cannot write {self.path}: {trouble}") from trouble


def _without_formulas(frame: pl.DataFrame, tally: Tally) -> pl.DataFrame:
    """Put a ' before text that a spreadsheet would compute; flows and labels can hold whatever somebody sent."""
    # By series, as an expression would read a column's name such as ^.*$ as a pattern.
    guarded = []
    for column in frame.iter_columns():
        if column.dtype in (pl.String, pl.Categorical, pl.Enum):
            text = column.alias("text").cast(pl.String)
            found = (text.str.contains(_FORMULA) & ~text.str.contains(_NUMBER)).fill_null(value=False)
            if found.any():
                tally.add("guarded_cells", int(found.sum()))
                guarded.append(("'" + text).zip_with(found, text).alias(column.name))
    new_names: dict[str, str] = {}
    for name in frame.columns:
        if re.match(_FORMULA, name):
            new = f"'{name}"
            while new in frame.columns or new in new_names.values():
                new = f"'{new}"
            new_names[name] = new
    return frame.with_columns(guarded).rename(new_names)


def _repeating(schema: pl.Schema) -> list[str]:
    """Return the columns whose values repeat. Dictionaries for the others took half the writing time for no gain."""
    return [
        name
        for name, dtype in schema.items()
        if name not in SCORE_COLUMNS and dtype != pl.Boolean and not dtype.is_temporal()
    ]


def write_table(
    path: Path, frames: Iterable[pl.DataFrame], each: Callable[[pl.DataFrame], None] = lambda _: None
) -> None:
    """Write an iterable of frames as one table; `each` is called with every frame once it is written."""
    with TableFile(path) as table:
        for frame in frames:
            table.write(frame)
            each(frame)
