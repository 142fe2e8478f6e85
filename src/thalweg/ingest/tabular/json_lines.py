"""Reads JSON lines into frames: one object per line; nested values stay JSON text."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import polars as pl

from thalweg.runtime.jit import compiled

MAX_COLUMNS: Final = 2_048
"""The most columns of a table, which bounds what one row can take."""
_MAX_DEPTH: Final = 24
"""Polars takes seconds for one line of 500 lists within each other."""
_MAX_KEYS: Final = 1 << 23
"""For each line, Polars looks at all keys of all lines before it."""
_SALT: Final = np.uint64(int.from_bytes(os.urandom(8), "little"))
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
    return pl.DataFrame(
        {name: empty.clone().scatter(rows[name], texts[name]) for name in rows if is_open or rows[name]}
    )


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
    depth, num_keys = _shape(np.frombuffer(data, np.uint8), _SALT, np.zeros(4 * MAX_COLUMNS, np.uint64))
    if depth > _MAX_DEPTH or num_keys > 2 * MAX_COLUMNS or num_keys * num_lines > _MAX_KEYS:
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


@compiled()
def _shape(octets: Any, salt: Any, slots: Any) -> Any:
    """Find how deep lists and objects lie within each other, and how many different keys there are.

    octets: (B,) uint8, lines of JSON. slots: (2^k,) uint64, all 0, filled with hashes of keys; once it is half full,
    all further keys count as different. Returns: depth, number of keys.
    """
    mask = np.uint64(len(slots) - 1)
    depth, deepest, num_keys = 0, 0, 0
    in_text, is_escaped, may_be_key = False, False, False
    mixed = np.uint64(0)
    for octet in octets:
        if octet == 10:
            depth, in_text, may_be_key = 0, False, False
        elif in_text:
            if is_escaped:
                is_escaped = False
            elif octet == 92:
                is_escaped = True
            elif octet == 34:
                in_text, may_be_key = False, True
            mixed = (mixed ^ np.uint64(octet)) * np.uint64(0x100000001B3)
            mixed ^= mixed >> np.uint64(29)
        elif octet == 34:
            in_text, is_escaped, mixed = True, False, salt
        elif octet == 58 and may_be_key:
            may_be_key = False
            at = mixed & mask
            while slots[at] != 0 and slots[at] != mixed and 2 * num_keys < len(slots):
                at = (at + np.uint64(1)) & mask
            if slots[at] != mixed:
                num_keys += 1
                if 2 * num_keys < len(slots):
                    slots[at] = mixed
        elif octet > 32:
            may_be_key = False
            if octet == 91 or octet == 123:
                depth += 1
                deepest = max(deepest, depth)
            elif octet == 93 or octet == 125:
                depth -= 1
    return deepest, num_keys


def warm_up() -> None:
    """Compile what damaged lines need, so that a run does not wait for it when they come."""
    _shape(np.zeros(1, np.uint8), _SALT, np.zeros(2, np.uint64))


def _object(line: bytes) -> dict[str, object] | None:
    """Parse a line; return None if it is not an object, or has text that is no Unicode (a lone half of a pair)."""
    if not line.lstrip().startswith(b"{"):
        return None
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
