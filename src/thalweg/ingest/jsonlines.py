"""JSON lines -> frames: one object per line, nested values kept as JSON text."""

from __future__ import annotations

import json
from itertools import islice

import numpy as np
import numpy.typing as npt
import polars as pl


def json_names(head: bytes) -> list[str]:
    """Return the keys of the objects in the first lines, in their order; none where it is not JSON."""
    names: dict[str, None] = {}
    lines = head.split(b"\n")
    # The last line may be cut off by the end of the sample.
    for line in islice((text for text in lines if text.strip()), max(len(lines) - 1, 1)):
        found = _object(line)
        names |= dict.fromkeys(found or {})
    return list(names)


def json_frame(data: bytes) -> tuple[pl.DataFrame, npt.NDArray[np.bool_]]:
    """Read lines of JSON objects; columns are those that come up here.

    Returns: a frame with a row for each line that is an object; (lines,) bool, lines that are none.
    """
    lines = [line for line in data.split(b"\n") if line not in (b"", b"\r")]
    bad = np.zeros(len(lines), bool)
    if not lines:
        return pl.DataFrame(), bad
    frame = _parse(data)
    if frame is not None and frame.height == len(lines):
        return _flat(frame), bad
    objects = [_object(line) for line in lines]
    bad = np.array([found is None for found in objects])
    good = [found for found in objects if found is not None]
    frame = _parse(b"\n".join(line for line, is_bad in zip(lines, bad, strict=True) if not is_bad) + b"\n")
    if frame is not None and frame.height == len(good):
        return _flat(frame), bad
    names = dict.fromkeys(name for found in good for name in found)
    texts = {name: pl.Series(name, [_text(o.get(name)) for o in good], pl.String) for name in names}
    return pl.DataFrame(texts), bad


def _parse(data: bytes) -> pl.DataFrame | None:
    try:
        return pl.read_ndjson(data, infer_schema_length=None)
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
    # Lists and objects stay readable in every format that results are written in.
    return frame.with_columns(
        pl.when(pl.col(name).is_not_null())
        .then(pl.struct(pl.col(name).alias("v")).struct.json_encode().str.strip_prefix('{"v":').str.strip_suffix("}"))
        .alias(name)
        for name in nested
    )
