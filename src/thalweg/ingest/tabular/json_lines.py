"""Reads JSON lines into frames: one object per line; nested values stay JSON text."""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from typing import Final, cast

import numpy as np
import numpy.typing as npt
import polars as pl

MAX_COLUMNS: Final = 4_096
"""The most columns of a table, which bounds what one row can take."""
_MAX_DEPTH: Final = 24
"""Polars takes seconds for one line of 500 lists within each other."""
_MAX_CELLS: Final = 1 << 26
"""The most values of a block as a frame, in which each line has every key of all lines."""


def json_names(head: bytes) -> tuple[list[str], list[str]]:
    """Return the keys of the objects in the first lines, in order; none if the lines are not JSON.

    Returns: the keys; the keys of nested objects, as in `flow.start`.
    """
    names: dict[str, None] = {}
    nested: dict[str, None] = {}
    lines = head.split(b"\n")
    # The last line may be cut off by the end of the sample.
    for line in islice((text for text in lines if text.strip()), max(len(lines) - 1, 1)):
        found = _object(line) or {}
        names |= dict.fromkeys(found)
        for name, value in found.items():
            if isinstance(value, dict):
                nested |= dict.fromkeys(f"{name}.{inner}" for inner in value)
    return list(names), [name for name in nested if name not in names]


def json_schema(dtypes: Mapping[str, pl.DataType], nested: Sequence[str]) -> dict[str, pl.DataType]:
    """Return the Polars schema for reading only these columns; `nested` are those within objects."""
    schema = {name: dtype for name, dtype in dtypes.items() if name not in nested}
    inside: dict[str, dict[str, pl.DataType]] = {}
    for name in nested:
        outer, _, inner = name.partition(".")
        if name in dtypes and outer not in schema:
            inside.setdefault(outer, {})[inner] = dtypes[name]
    return schema | {outer: pl.Struct(fields) for outer, fields in inside.items()}


def json_frame(
    data: bytes,
    nested: Sequence[str] = (),
    schema: Mapping[str, pl.DataType] | None = None,
    known: Collection[str] = (),
) -> tuple[pl.DataFrame, npt.NDArray[np.bool_]]:
    """Read lines of JSON objects; every key that occurs in them becomes a column.

    nested: keys within objects, as in `flow.start`, that also become columns. schema: the only columns needed, which
    is faster; if a value does not fit it, all columns are read. known: columns that come first if there are too many.

    Returns: a frame with a row for each line that is an object; (lines,) bool, true for lines that are not.
    """
    lines = [line for line in data.split(b"\n") if line not in (b"", b"\r")]
    bad = np.zeros(len(lines), bool)
    if not lines:
        return pl.DataFrame(), bad
    if schema is not None:
        frame = _parse(data, schema)
        if frame is not None and frame.height == len(lines):
            return _unnested(frame, nested), bad
    frame = _parse_all(data, len(lines))
    if frame is not None and frame.height == len(lines):
        return _flat(_unnested(frame, nested)), bad
    objects = [_object(line) for line in lines]
    bad = np.array([one is None for one in objects])
    good = [one for one in objects if one is not None]
    rest = b"\n".join(line for line, is_bad in zip(lines, bad, strict=True) if not is_bad) + b"\n"
    frame = _parse_all(rest, len(good)) if good else None
    if frame is not None and frame.height == len(good):
        return _flat(_unnested(frame, nested)), bad
    return _unnested(_as_text(good, known if schema is None else schema, is_open=schema is None), nested), bad


def _as_text(objects: Sequence[Mapping[str, object]], names: Collection[str], *, is_open: bool) -> pl.DataFrame:
    """Write all values as text; is_open: also those of other keys, up to MAX_COLUMNS."""
    rows: dict[str, list[int]] = {name: [] for name in names}
    texts: dict[str, list[str | None]] = {name: [] for name in names}
    for row, found in enumerate(objects):
        for name, value in found.items():
            if name not in rows:
                if not is_open or len(rows) >= MAX_COLUMNS:
                    continue
                rows[name], texts[name] = [], []
            rows[name].append(row)
            texts[name].append(_text(value))
    empty = pl.repeat(None, len(objects), dtype=pl.String, eager=True)
    columns = (empty.clone().scatter(rows[name], texts[name]).alias(name) for name in rows if is_open or rows[name])
    return pl.DataFrame(list(columns))


def _unnested(frame: pl.DataFrame, nested: Sequence[str]) -> pl.DataFrame:
    """Add columns for keys within objects."""
    added = []
    for name in nested:
        outer, _, inner = name.partition(".")
        dtype = frame.schema.get(outer)
        if name in frame.columns:
            continue
        if isinstance(dtype, pl.Struct) and inner in (field.name for field in dtype.fields):
            added.append(pl.col(outer).struct.field(inner).alias(name))
        elif dtype == pl.String:
            # A key with objects in some lines and other values in others has been read as text.
            added.append(pl.col(outer).str.json_path_match(f"$['{inner}']").alias(name))
    return frame.with_columns(added) if added else frame


def _parse(data: bytes, schema: Mapping[str, pl.DataType] | None = None) -> pl.DataFrame | None:
    try:
        return pl.read_ndjson(data, schema=schema, infer_schema_length=None)
    except pl.exceptions.PolarsError:
        return None


def _parse_all(data: bytes, num_lines: int) -> pl.DataFrame | None:
    """Parse lines with all their keys; return None if Polars cannot, or if it would take much time or memory."""
    if _depth(data) > _MAX_DEPTH:
        return None
    try:
        schema = pl.scan_ndjson(io.BytesIO(data), infer_schema_length=None).collect_schema()
    except pl.exceptions.PolarsError:
        return None
    num_objects = data.count(b"{")
    num_cells = sum(_num_leaves(dtype, num_lines, num_objects) for dtype in schema.values())
    return None if num_cells > _MAX_CELLS else _parse(data, schema)


def _num_leaves(dtype: pl.DataType, num: int, num_objects: int) -> int:
    """Count the values of a column. num: of its rows; num_objects: the most objects in all its lists."""
    if isinstance(dtype, pl.Struct):
        return num + sum(_num_leaves(cast(pl.DataType, one.dtype), num, num_objects) for one in dtype.fields)
    if isinstance(dtype, pl.List):
        return num + _num_leaves(cast(pl.DataType, dtype.inner), num_objects, num_objects)
    return num


def _depth(data: bytes) -> int:
    """Return how many lists and objects lie within each other at most; brackets in text count, too."""
    octets = np.frombuffer(data, np.uint8)
    folded = octets & 0xDF  # [ and { become one, ] and } another
    opens = folded == 0x5B
    at = np.flatnonzero(opens | (folded == 0x5D))
    if not len(at):
        return 0
    sums = np.cumsum(np.where(opens[at], 1, -1))
    line = np.searchsorted(np.flatnonzero(octets == 10), at)
    first = np.flatnonzero(np.diff(line, prepend=-1))
    before = np.where(first > 0, sums[first - 1], 0)
    return int((sums - np.repeat(before, np.diff(first, append=len(at)))).max())


def _object(line: bytes) -> dict[str, object] | None:
    """Parse a line; return None if it is not an object, or has text that is no Unicode (a lone half of a pair)."""
    try:
        found = json.loads(line)
        if b"\\u" in line:
            json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and len(found) <= MAX_COLUMNS else None


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)


def _flat(frame: pl.DataFrame) -> pl.DataFrame:
    nested = [name for name, dtype in frame.schema.items() if dtype.is_nested()]
    if not nested:
        return frame
    # JSON text can be written in every output format, lists and objects cannot.
    return frame.with_columns(
        pl.when(pl.col(name).is_not_null())
        .then(pl.struct(pl.col(name).alias("v")).struct.json_encode().str.strip_prefix('{"v":').str.strip_suffix("}"))
        .alias(name)
        for name in nested
    )
