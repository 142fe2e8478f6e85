"""Reads Parquet in batches that are bounded in memory, whatever its pages expand to.

A page can decompress to 2 GiB, and a short page can stand for a long text of the dictionary in every row. So the
headers of all pages are read first, since the file's own metadata may say otherwise. Source: the format's
parquet.thrift, and Thrift's compact protocol.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeAlias, final

from thalweg.ingest.tabular.bounds import check_expansion

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_Struct: TypeAlias = dict[int, Any]
"""A Thrift struct: numbers and structs by field number; the other fields are left out."""

_PLANNED: Final = 16  # row groups
_BATCH_BYTES: Final = 1 << 28
# By the type of a data page: the fields of its own header, and in that one of its encoding.
_DATA_PAGES: Final = {0: (5, 2), 3: (8, 4)}
_DELTA_BYTE_ARRAY: Final = 7
_IN_DICTIONARY: Final = frozenset({2, 8})
_FIRST_READ, _LAST_READ = 1 << 12, 1 << 24
_MAX_DEPTH: Final = 8


@final
@dataclass(slots=True)
class _Chunk:
    """What the page headers of one column of a row group state; sizes in bytes."""

    packed: int = 0
    unpacked: int = 0
    largest_packed: int = 0
    largest: int = 0
    num_values: int = 0
    encodings: set[int] = field(default_factory=set)


def parquet_batches(file: Path | BinaryIO, chunk_rows: int) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Return the schema, and the rows in batches of at most `chunk_rows`; long texts of dictionaries stay there.

    Raises ValueError, OSError or an ArrowException, now or while iterating, if the file is damaged or expands too much.
    """
    parquet = _opened(file)
    return parquet.schema_arrow, _batches(file, parquet, chunk_rows)


def _opened(file: Path | BinaryIO, in_dictionaries: Sequence[str] = ()) -> pq.ParquetFile:
    import pyarrow.parquet as pq

    # Without pre-buffering, only one page of each column is in memory, however long the row groups are.
    return pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20, read_dictionary=list(in_dictionaries))


def _batches(file: Path | BinaryIO, parquet: pq.ParquetFile, chunk_rows: int) -> Iterator[pa.RecordBatch]:
    columns = [parquet.schema.column(index) for index in range(len(parquet.schema))]
    texts = [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]
    for begin in range(0, parquet.num_row_groups, _PLANNED):
        groups = range(begin, min(begin + _PLANNED, parquet.num_row_groups))
        plans = ((_plan(file, parquet, group, chunk_rows), group) for group in groups)
        for (num_rows, in_dictionaries), planned in groupby(plans, key=lambda one: one[0]):
            reader = _opened(file, texts) if in_dictionaries else parquet
            yield from reader.iter_batches(num_rows, row_groups=[group for _, group in planned])


def _plan(file: Path | BinaryIO, parquet: pq.ParquetFile, group: int, chunk_rows: int) -> tuple[int, bool]:
    """Check what the pages of a row group expand to.

    Returns: how many rows to read at once; whether to leave texts in their dictionaries.
    """
    about, schema = parquet.metadata.row_group(group), parquet.schema
    chunks = [_chunk(file, about.column(index)) for index in range(about.num_columns)]
    check_expansion(sum(one.largest_packed for one in chunks), sum(one.largest for one in chunks), "its pages")
    row_bytes, paths = 1, []
    for index, chunk in enumerate(chunks):
        column = schema.column(index)
        each = 1
        if column.max_repetition_level:
            check_expansion(chunk.packed, 16 * chunk.num_values, f"column {column.path}")  # lists of a few bytes
            each += chunk.num_values // max(about.num_rows, 1)
        if column.physical_type == "FIXED_LEN_BYTE_ARRAY":
            row_bytes += each * column.length
        elif column.physical_type == "BYTE_ARRAY" and _DELTA_BYTE_ARRAY in chunk.encodings:
            row_bytes += each * chunk.unpacked  # a text may begin with all of the one before it
        elif column.physical_type == "BYTE_ARRAY" and chunk.encodings & _IN_DICTIONARY:
            paths.append(column.path)
    num_rows = min(max(_BATCH_BYTES // row_bytes, 1), chunk_rows)
    return num_rows, bool(paths) and _longest(file, group, paths) * num_rows > _BATCH_BYTES


def _longest(file: Path | BinaryIO, group: int, paths: Sequence[str]) -> int:
    """Return the sum of the lengths of each column's longest text in its dictionary."""
    import pyarrow.compute as pc

    total = 0
    batch = next(_opened(file, paths).iter_batches(1, row_groups=[group], columns=list(paths)), None)
    for column in [] if batch is None else batch.columns:
        for values in _dictionaries(column):
            total += pc.max(pc.binary_length(values)).as_py() or 0
    return total


def _dictionaries(array: pa.Array) -> Iterator[pa.Array]:
    import pyarrow as pa

    if isinstance(array, pa.DictionaryArray):
        yield array.dictionary
    elif isinstance(array, pa.StructArray):
        for index in range(array.type.num_fields):
            yield from _dictionaries(array.field(index))
    elif isinstance(array, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray | pa.MapArray):
        yield from _dictionaries(array.values)


def _chunk(file: Path | BinaryIO, about: pq.ColumnChunkMetaData) -> _Chunk:
    """Read the page headers of one column of a row group, and check what its pages expand to."""
    at = about.data_page_offset
    if about.has_dictionary_page and about.dictionary_page_offset:
        at = min(at, about.dictionary_page_offset)
    end = at + about.total_compressed_size
    if isinstance(file, Path):
        with file.open("rb") as stream:
            chunk = _pages(stream, at, end)
    else:
        chunk = _pages(file, at, end)
    check_expansion(chunk.packed, chunk.unpacked, f"column {about.path_in_schema}")
    return chunk


def _pages(stream: BinaryIO, at: int, end: int) -> _Chunk:
    chunk = _Chunk()
    while at < end:
        header, size = _header(stream, at, end)
        unpacked, packed = _number(header, 2), _number(header, 3)
        if unpacked < 0 or packed < 0:
            raise ValueError("a page of no size")
        chunk.packed += packed
        chunk.unpacked += unpacked
        if unpacked > chunk.largest:
            chunk.largest, chunk.largest_packed = unpacked, packed
        if (kind := _number(header, 1)) in _DATA_PAGES:
            about_at, encoding_at = _DATA_PAGES[kind]
            about = header.get(about_at)
            if not isinstance(about, dict):
                raise ValueError("a page without a header of its own")
            chunk.num_values += max(_number(about, 1), 0)
            chunk.encodings.add(_number(about, encoding_at))
        at += size + packed
    return chunk


def _number(struct: _Struct, number: int) -> int:
    value = struct.get(number)
    if not isinstance(value, int):
        raise ValueError("a page's header lacks a number")
    return value


def _header(stream: BinaryIO, at: int, end: int) -> tuple[_Struct, int]:
    """Parse the page header at an offset. Returns: the header; its size."""
    size = _FIRST_READ
    while True:
        stream.seek(at)
        octets = stream.read(min(size, end - at))
        try:
            return _struct(octets, 0, 0)
        except IndexError as error:
            if len(octets) < size or size >= _LAST_READ:
                raise ValueError("a page's header is cut short") from error
            size *= 64


def _struct(octets: bytes, at: int, depth: int) -> tuple[_Struct, int]:
    """Parse a Thrift struct. Returns: the struct; the offset after it. Raises IndexError if the bytes end within it."""
    if depth > _MAX_DEPTH:
        raise ValueError("a page's header has structs within structs")
    found: _Struct = {}
    number = 0
    while kind := octets[at]:
        at += 1
        if kind >> 4:
            number += kind >> 4
        else:
            number, at = _varint(octets, at)
            number = number >> 1 ^ -(number & 1)
        kind &= 15
        if kind in (3, 4, 5, 6):
            value, at = _varint(octets, at) if kind > 3 else (octets[at], at + 1)
            found[number] = value >> 1 ^ -(value & 1)
        elif kind == 12:
            found[number], at = _struct(octets, at, depth + 1)
        else:
            at = _after(octets, at, kind, depth)
    return found, at + 1


def _after(octets: bytes, at: int, kind: int, depth: int) -> int:
    """Return the offset after a value that is not needed."""
    if kind in (1, 2):  # a truth value is its kind
        return at
    if kind == 7:
        return at + 8
    if kind == 8:
        size, at = _varint(octets, at)
        return at + size
    if kind in (9, 10):
        size, of = octets[at] >> 4, octets[at] & 15
        at += 1
        if size == 15:
            size, at = _varint(octets, at)
        for _ in range(size):
            if of in (1, 2, 3):
                at += 1
            elif of in (4, 5, 6):
                _, at = _varint(octets, at)
            elif of == 12:
                _, at = _struct(octets, at, depth + 1)
            else:
                at = _after(octets, at, of, depth + 1)
            if at > len(octets):
                raise IndexError
        return at
    raise ValueError("a page's header holds what it cannot")


def _varint(octets: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        octet = octets[at]
        at += 1
        value |= (octet & 127) << shift
        if octet < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a page's header holds a number that is too large")
