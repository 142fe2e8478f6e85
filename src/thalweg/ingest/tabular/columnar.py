"""Reads Parquet and Arrow into frames, one batch at a time, so that memory does not grow with the file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, cast

import polars as pl

from thalweg.errors import SourceError

if TYPE_CHECKING:
    import pyarrow as pa  # not imported at run time: a receiver of exporters does not need its 30 MB

PARQUET: Final = b"PAR1"
ARROW_FILE: Final = b"ARROW1"
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


def read_columnar(
    file: Path | BinaryIO, first: bytes, chunk_rows: int, subject: str
) -> tuple[list[str], Iterator[pl.DataFrame]]:
    """Return the names of the columns, and the rows in frames of at most `chunk_rows`, in file order.

    first: the file's first bytes.

    Raises SourceError, immediately or while iterating, if the file is damaged.
    """
    import pyarrow as pa
    import pyarrow.ipc
    import pyarrow.parquet

    kind = "Parquet" if first.startswith(PARQUET) else "Arrow"
    try:
        if first.startswith(PARQUET):
            # Without pre-buffering, only one page of each column is in memory, however long the row groups are.
            parquet = pyarrow.parquet.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
            names, batches = parquet.schema_arrow.names, parquet.iter_batches(chunk_rows)
        elif first.startswith(ARROW_FILE):
            arrow = pyarrow.ipc.open_file(file if not isinstance(file, Path) else pa.memory_map(str(file)))
            names = arrow.schema.names
            batches = (arrow.get_batch(i) for i in range(arrow.num_record_batches))
        else:
            stream = pyarrow.ipc.open_stream(file if not isinstance(file, Path) else pa.OSFile(str(file)))
            names, batches = stream.schema.names, iter(stream)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(subject, kind, 0, error) from error
    return list(names), _frames(batches, kind, chunk_rows, subject)


def _frames(batches: Iterator[pa.RecordBatch], kind: str, chunk_rows: int, subject: str) -> Iterator[pl.DataFrame]:
    import pyarrow as pa

    num_rows = 0
    while True:
        try:
            batch = next(batches, None)
            if batch is None:
                return
            frame = cast(pl.DataFrame, pl.from_arrow(batch))
        except (pa.ArrowException, OSError, ValueError, pl.exceptions.PolarsError) as error:
            raise _damaged(subject, kind, num_rows, error) from error
        num_rows += frame.height
        yield from frame.iter_slices(chunk_rows)


def _damaged(subject: str, kind: str, num_rows: int, error: BaseException) -> SourceError:
    reason = str(error).split("\n")[0]
    return SourceError(
        f"{subject}: the {kind} file is damaged or incomplete, after {num_rows:,} rows had been "
        f"read ({reason}); fetch or write it again"
    )
