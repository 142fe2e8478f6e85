"""Reads JSON lines into frames: one object per line; nested values stay JSON text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np
import numpy.typing as npt
import polars as pl


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
    data: bytes, nested: Sequence[str] = (), schema: Mapping[str, pl.DataType] | None = None
) -> tuple[pl.DataFrame, npt.NDArray[np.bool_]]:
    """Read lines of JSON objects; every key that occurs in them becomes a column.

    nested: keys within objects, as in `flow.start`, that also become columns. schema: the only columns needed, which
    is faster; if a value does not fit it, all columns are read.

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
    frame = _parse(data)
    if frame is not None and frame.height == len(lines):
        return _flat(_unnested(frame, nested)), bad
    objects = [_object(line) for line in lines]
    bad = np.array([found is None for found in objects])
    good = [found for found in objects if found is not None]
    frame = _parse(b"\n".join(line for line, is_bad in zip(lines, bad, strict=True) if not is_bad) + b"\n")
    if frame is not None and frame.height == len(good):
        return _flat(_unnested(frame, nested)), bad
    names = dict.fromkeys(name for found in good for name in found)
    texts = {name: pl.Series(name, [_text(o.get(name)) for o in good], pl.String) for name in names}
    return _unnested(pl.DataFrame(texts), nested), bad


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


def _object(line: bytes) -> dict[str, object] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


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
