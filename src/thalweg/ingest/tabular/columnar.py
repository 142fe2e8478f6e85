"""Reads Parquet and Arrow into frames, one batch at a time, so that memory does not grow with the file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, cast, final

import polars as pl

from thalweg.errors import SourceError, ThalwegError
from thalweg.ingest.tabular.arrays import frames_of, is_readable
from thalweg.ingest.tabular.bounds import UNREADABLE, RowBytes
from thalweg.ingest.tabular.ipc import MAGIC as ARROW_FILE
from thalweg.ingest.tabular.ipc import ipc_batches
from thalweg.ingest.tabular.layout import check_width, distinct
from thalweg.ingest.tabular.parquet import parquet_batches

if TYPE_CHECKING:
    import pyarrow as pa  # not imported at run time: a receiver of exporters does not need its 30 MB

PARQUET: Final = b"PAR1"
ARROW_STREAM: Final = b"\xff\xff\xff\xff"
MAGICS: Final = (PARQUET, ARROW_FILE, ARROW_STREAM)


@contextmanager
def seekable(stream: BinaryIO, first: bytes) -> Iterator[BinaryIO]:
    """Copy a stream, whose first bytes have been read, to a temporary file; Parquet is read from its end."""
    with tempfile.TemporaryFile() as spool:
        spool.write(first)
        while piece := stream.read(1 << 20):
            spool.write(piece)
        spool.seek(0)
        yield cast(BinaryIO, spool)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Columnar:
    """A Parquet or Arrow file. names: of the columns that can be read; num_unread: how many others it has.

    frames: the rows in file order. Raises SourceError while iterating if the file is damaged or takes too much memory.
    """

    names: list[str]
    num_unread: int
    frames: Iterator[pl.DataFrame]


def read_columnar(file: Path | BinaryIO, first: bytes, chunk_rows: int, subject: str) -> Columnar:
    """Open a file, whose rows come in frames of at most `chunk_rows`. first: its first bytes.

    Raises SourceError if the file is damaged.
    """
    kind = "Parquet" if first.startswith(PARQUET) else "Arrow"
    with _damage_named(subject, kind, lambda: 0):
        if first.startswith(PARQUET):
            schema, batches = parquet_batches(file, chunk_rows)
        else:
            schema, batches = ipc_batches(file, is_file=first.startswith(ARROW_FILE))
        which = [index for index, kind in enumerate(schema.types) if is_readable(kind)]
        names = distinct([schema.names[index] for index in which])
    check_width(len(names), subject)
    frames = _frames(batches, which, names, chunk_rows, subject, kind)
    return Columnar(names, len(schema.names) - len(names), frames)


def _frames(
    batches: Iterator[pa.RecordBatch], which: Sequence[int], names: list[str], chunk_rows: int, subject: str, kind: str
) -> Iterator[pl.DataFrame]:
    num_rows, size = 0, RowBytes(subject)
    with _damage_named(subject, kind, lambda: num_rows):
        for batch in batches:
            chosen = batch.select(list(which)).rename_columns(names)
            for frame in frames_of(chosen, chunk_rows, size):
                num_rows += frame.height
                yield frame


@contextmanager
def _damage_named(subject: str, kind: str, num_rows: Callable[[], int]) -> Iterator[None]:
    """Raise SourceError for whatever a damaged file makes the libraries raise."""
    import pyarrow as pa

    try:
        yield
    except ThalwegError:
        raise
    except (pa.ArrowException, OSError, ValueError, MemoryError, *UNREADABLE) as error:
        reason = str(error).split("\n")[0]
        raise SourceError(
            f"{subject}: the {kind} file is damaged or incomplete, after {num_rows():,} rows had been "
            f"read ({reason}); fetch or write it again"
        ) from error
