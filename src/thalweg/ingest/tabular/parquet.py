"""Reads Parquet in batches that are bounded in memory, whatever its pages expand to.

A page can decompress to 2 GiB, and a short page can stand for a long text of the dictionary in every row. So the
headers of all pages are read first, since the file's own metadata may say otherwise; and the metadata is read here, as
pyarrow ends the process for some that is damaged. Source: the format's parquet.thrift, and Thrift's compact protocol.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeAlias, final

from thalweg.ingest.tabular.bounds import check_expansion

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_Struct: TypeAlias = dict[int, Any]
"""A Thrift struct: numbers, structs and lists of structs by field number; the other fields are left out."""

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
    with _stream_of(file) as stream:
        row_groups = _row_groups(stream)
    parquet = _opened(file)
    return parquet.schema_arrow, _batches(file, parquet, row_groups, chunk_rows)


@contextmanager
def _stream_of(file: Path | BinaryIO) -> Iterator[BinaryIO]:
    if isinstance(file, Path):
        with file.open("rb") as stream:
            yield stream
    else:
        yield file


def _opened(file: Path | BinaryIO, in_dictionaries: Sequence[str] = ()) -> pq.ParquetFile:
    import pyarrow.parquet as pq

    # Without pre-buffering, only one page of each column is in memory, however long the row groups are.
    return pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20, read_dictionary=list(in_dictionaries))


def _batches(
    file: Path | BinaryIO, parquet: pq.ParquetFile, row_groups: Sequence[_Struct], chunk_rows: int
) -> Iterator[pa.RecordBatch]:
    columns = [parquet.schema.column(index) for index in range(len(parquet.schema))]
    # Dictionaries within lists and structs cannot be read across row groups.
    flat = frozenset(parquet.schema_arrow.names)
    texts = [column.path for column in columns if column.physical_type == "BYTE_ARRAY" and column.path in flat]
    for begin in range(0, len(row_groups), _PLANNED):
        groups = range(begin, min(begin + _PLANNED, len(row_groups)))
        plans = ((_plan(file, columns, flat, (group, row_groups[group]), chunk_rows), group) for group in groups)
        for (num_rows, in_dictionaries), planned in groupby(plans, key=lambda one: one[0]):
            reader = _opened(file, texts) if in_dictionaries else parquet
            yield from reader.iter_batches(num_rows, row_groups=[group for _, group in planned])


def _plan(
    file: Path | BinaryIO,
    columns: Sequence[pq.ColumnSchema],
    flat: Collection[str],
    row_group: tuple[int, _Struct],
    chunk_rows: int,
) -> tuple[int, bool]:
    """Check what the pages of a row group expand to. flat: names of columns. row_group: its number and metadata.

    Returns: how many rows to read at once; whether to leave texts in their dictionaries.
    """
    group, about = row_group
    with _stream_of(file) as stream:
        chunks = [_chunk(stream, one) for one in _structs(about, 1)]
    check_expansion(sum(one.largest_packed for one in chunks), sum(one.largest for one in chunks), "its pages")
    num_group_rows = max(_number(about, 3), 1)
    row_bytes, paths = 1, []
    for column, chunk in zip(columns, chunks, strict=True):
        check_expansion(chunk.packed, chunk.unpacked, f"column {column.path}")
        each = 1
        if column.max_repetition_level:
            check_expansion(chunk.packed, 16 * chunk.num_values, f"column {column.path}")  # lists of a few bytes
            each += chunk.num_values // num_group_rows
        if column.physical_type == "FIXED_LEN_BYTE_ARRAY":
            row_bytes += each * column.length
        elif column.physical_type == "BYTE_ARRAY" and _DELTA_BYTE_ARRAY in chunk.encodings:
            row_bytes += each * chunk.unpacked  # a text may begin with all of the one before it
        elif column.physical_type == "BYTE_ARRAY" and chunk.encodings & _IN_DICTIONARY:
            paths.append(column.path)
    row_bytes += _longest(file, group, [path for path in paths if path not in flat])
    num_rows = min(max(_BATCH_BYTES // row_bytes, 1), chunk_rows)
    return num_rows, _longest(file, group, [path for path in paths if path in flat]) * num_rows > _BATCH_BYTES


def _longest(file: Path | BinaryIO, group: int, paths: Sequence[str]) -> int:
    """Return the sum of the lengths of each column's longest text in its dictionary."""
    import pyarrow.compute as pc

    total = 0
    if not paths:
        return total
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


def _row_groups(stream: BinaryIO) -> list[_Struct]:
    """Parse the metadata at the end of a file. Returns: the row groups in it."""
    end = stream.seek(0, 2)
    stream.seek(max(end - 8, 0))
    tail = stream.read()
    size = int.from_bytes(tail[:4], "little")
    if not tail.endswith(b"PAR1") or size > end - 8:
        raise ValueError("it has no footer")
    stream.seek(end - 8 - size)
    try:
        footer, _ = _struct(stream.read(size), 0, 0)
    except IndexError as error:
        raise ValueError("its footer is cut short") from error
    return _structs(footer, 4)


def _chunk(stream: BinaryIO, about: _Struct) -> _Chunk:
    """Read the page headers of one column of a row group. about: its metadata."""
    about = _inner(about, 3)
    begins = [_number(about, 9), *(at for at in [about.get(11)] if isinstance(at, int) and at > 0)]
    return _pages(stream, min(begins), min(begins) + _number(about, 7))


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
            about = _inner(header, about_at)
            chunk.num_values += max(_number(about, 1), 0)
            chunk.encodings.add(_number(about, encoding_at))
        at += size + packed
    return chunk


def _number(struct: _Struct, number: int) -> int:
    value = struct.get(number)
    if not isinstance(value, int):
        raise ValueError("its metadata lacks a number")
    return value


def _inner(struct: _Struct, number: int) -> _Struct:
    value = struct.get(number)
    if not isinstance(value, dict):
        raise ValueError("its metadata lacks a struct")
    return value


def _structs(struct: _Struct, number: int) -> list[_Struct]:
    value = struct.get(number)
    if not isinstance(value, list):
        raise ValueError("its metadata lacks a list")
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
        raise ValueError("its metadata has too many structs within each other")
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
        elif kind == 9 and octets[at] & 15 == 12:
            found[number], at = _list(octets, at, depth)
        else:
            at = _after(octets, at, kind, depth)
    return found, at + 1


def _list(octets: bytes, at: int, depth: int) -> tuple[list[_Struct], int]:
    """Parse a list of structs. Returns: the list; the offset after it."""
    size = octets[at] >> 4
    at += 1
    if size == 15:
        size, at = _varint(octets, at)
    found = []
    for _ in range(size):
        one, at = _struct(octets, at, depth + 1)
        found.append(one)
    return found, at


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
    raise ValueError("its metadata holds what it cannot")


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
            raise ValueError("its metadata holds a number that is too large")
