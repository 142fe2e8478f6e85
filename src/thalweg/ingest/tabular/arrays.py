"""Turns Arrow's batches into frames: checked in full, bounded in memory, without types that frames cannot hold."""

from __future__ import annotations

import zoneinfo
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import polars as pl

from thalweg.ingest.tabular.bounds import HEAD_BYTES, RowBytes
from thalweg.tables import FIRST_US, LAST_US

if TYPE_CHECKING:
    import pyarrow as pa  # not imported at run time: a receiver of exporters does not need its 30 MB

_UNITS: Final = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_DAY_S: Final = 86_400
_MAX_DEPTH: Final = 24
"""Of lists and structs within each other; Polars takes seconds for 500."""


def frames_of(batch: pa.RecordBatch, chunk_rows: int, size: RowBytes) -> Iterator[pl.DataFrame]:
    """Yield a batch, all of whose columns are readable, in frames of at most `chunk_rows`.

    size: adds up what each frame takes in memory, before it takes it.

    Raises ArrowInvalid if the batch is damaged, and SourceError if its rows take too much memory.
    """
    batch.validate(full=True)
    at = 0
    while at < batch.num_rows:
        part = batch.slice(at, chunk_rows)
        num_bytes = sum(map(_expanded, part.columns))
        if num_bytes > HEAD_BYTES and part.num_rows > 1:
            chunk_rows = max(part.num_rows * HEAD_BYTES // (2 * num_bytes), 1)
            continue
        size.add(part.num_rows, num_bytes)
        columns = (cast(pl.Series, pl.from_arrow(_readable(array))) for array in part.columns)
        yield pl.DataFrame(dict(zip(part.schema.names, columns, strict=True)))
        at += part.num_rows


def is_readable(kind: pa.DataType, depth: int = 0) -> bool:
    """Return whether a column of this type can be one of a frame."""
    import pyarrow as pa
    import pyarrow.types as types

    if depth > _MAX_DEPTH:
        return False
    if isinstance(kind, pa.BaseExtensionType):
        return is_readable(kind.storage_type, depth)
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return not types.is_nested(kind.value_type) and is_readable(kind.value_type, depth + 1)
    if types.is_struct(kind):
        fields = [kind.field(index).type for index in range(kind.num_fields)]
        return bool(fields) and all(is_readable(one, depth + 1) for one in fields)
    if types.is_map(kind):
        return _is_plain(kind.key_type) and _is_plain(kind.item_type, depth + 2)
    if _is_list(kind):
        return _is_plain(kind.value_type, depth + 1)
    return not (types.is_nested(kind) or types.is_interval(kind))


def _is_plain(kind: pa.DataType, depth: int = 0) -> bool:
    """Return whether Polars reads arrays of this type as they are, whatever their values."""
    import pyarrow.types as types

    if depth > _MAX_DEPTH:
        return False
    if types.is_struct(kind):
        return kind.num_fields > 0 and all(_is_plain(kind.field(i).type, depth + 1) for i in range(kind.num_fields))
    if _is_list(kind):
        return _is_plain(kind.value_type, depth + 1)
    is_number = types.is_integer(kind) or types.is_float32(kind) or types.is_float64(kind) or types.is_boolean(kind)
    return bool(is_number or types.is_string(kind) or types.is_large_string(kind))


def _is_list(kind: pa.DataType) -> bool:
    import pyarrow.types as types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _readable(array: Any) -> Any:
    """Return an array of a type that Polars reads, with null for times and dates that no datetime can hold."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as types

    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        return _readable(array.storage)
    if types.is_dictionary(kind):
        return _readable(array.dictionary_decode())
    if types.is_run_end_encoded(kind):
        return _readable(pc.run_end_decode(array))
    if types.is_struct(kind):
        fields = [_readable(array.field(index)) for index in range(kind.num_fields)]
        names = [kind.field(index).name for index in range(kind.num_fields)]
        return pa.StructArray.from_arrays(fields, names, mask=pc.is_null(array))
    if types.is_string_view(kind):
        return array.cast(pa.large_string())
    if types.is_binary_view(kind):
        return array.cast(pa.large_binary())
    if types.is_float16(kind):
        return array.cast(pa.float32())
    if types.is_decimal(kind) and (types.is_decimal256(kind) or not 0 <= kind.scale <= kind.precision):
        return array.cast(pa.float64())
    if types.is_temporal(kind):
        return _within_bounds(array)
    return array


def _within_bounds(array: Any) -> Any:
    """Return dates, times and durations with null for those out of bounds, and ms for seconds."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as types

    kind = array.type
    if types.is_date32(kind):
        number, units = array.cast(pa.int32()), 1 / _DAY_S
    else:
        number = array.cast(pa.int32() if types.is_time32(kind) else pa.int64())
        units = _UNITS["ms" if types.is_date64(kind) else kind.unit]
    first, last = FIRST_US / 1e6, LAST_US / 1e6
    if types.is_time(kind):
        first, last = 0, _DAY_S
    elif types.is_duration(kind):
        first, last = first - last, last - first
    low, high = max(round(first * units), -(1 << 63)), min(round(last * units) - 1, (1 << 63) - 1)
    is_held = pc.and_(pc.greater_equal(number, low), pc.less_equal(number, high))
    number = pc.if_else(is_held, number, pa.scalar(None, number.type))
    if types.is_timestamp(kind) or types.is_duration(kind):
        unit = kind.unit
        if unit == "s":
            number, unit = pc.multiply(number, 1000), "ms"
        if types.is_duration(kind):
            return number.cast(pa.duration(unit))
        zone = kind.tz if kind.tz is None or kind.tz in _zones() else "UTC"
        return number.cast(pa.timestamp(unit, zone))
    return number.cast(kind)


@cache
def _zones() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones())


def _expanded(array: Any) -> int:
    """Return how many bytes an array takes once each row holds its own value."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as types

    kind, num = array.type, len(array)
    if isinstance(array, pa.ExtensionArray):
        return _expanded(array.storage)
    if types.is_dictionary(kind):
        if not len(array.dictionary):
            return num
        if types.is_dictionary(kind.value_type) or not _has_offsets(kind.value_type):
            return num * -(-_expanded(array.dictionary) // len(array.dictionary))
        lengths = pc.binary_length(array.dictionary)
        return 16 * num + (pc.sum(pc.take(lengths, array.indices)).as_py() or 0)
    if types.is_run_end_encoded(kind):
        return num * (_expanded(array.values) + 1) if len(array.values) else num
    if types.is_struct(kind):
        return num + sum(_expanded(array.field(index)) for index in range(kind.num_fields))
    if types.is_string_view(kind) or types.is_binary_view(kind):
        views = np.frombuffer(array.buffers()[1], np.int32).reshape(-1, 4)[array.offset : array.offset + num, 0]
        is_valid = array.is_valid().to_numpy(zero_copy_only=False)
        return 16 * num + int(views[is_valid].sum(dtype=np.int64))
    if types.is_null(kind):
        return num
    return num + int(array.nbytes)


def _has_offsets(kind: pa.DataType) -> bool:
    import pyarrow.types as types

    return bool(
        types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind) or types.is_large_binary(kind)
    )
