"""Converts a run of a table's rows to `Flows` by the rules of its dialect, and counts what was changed."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import replace
from typing import Final

import numpy as np
import polars as pl

from thalweg.errors import SchemaError
from thalweg.ingest.tabular.dialects.recognition import WRAPPED_ABOVE_MS, Recognition
from thalweg.ingest.tabular.dialects.rules import is_unset
from thalweg.ingest.tabular.text import Block
from thalweg.tables import Flows, Origin, conform
from thalweg.tally import Tally

# Masks pass through `conform` as source columns, so that it removes the rows that it leaves out from them, too.
_MASK: Final = "\0"
_ADDRESS: Final = re.compile(rb"[0-9A-Fa-f:.]+")
_CORRECTED: Final = "\0\0"


def conformed(
    frame: pl.DataFrame,
    recognition: Recognition,
    *,
    source: pl.DataFrame | None = None,
    rows: pl.Series | None = None,
    first_row: int = 0,
    line_offset: int | None = None,
    origin: Origin | None = None,
    subject: str = "table",
    strict: bool = False,
) -> Flows:
    """Make `Flows` from a frame in a dialect's own columns.

    rows: row numbers in the file; by default they count from `first_row`. source, line_offset, origin, subject,
    strict: see `tables.conform`.

    Raises SchemaError if a column has a type that cannot be read, or with `strict` if a row is malformed.
    """
    source = frame if source is None else source
    tally = Tally()
    try:
        frame = _as_text(frame, recognition)
        schema = frame.schema
        if recognition.others is not None:
            other = frame.select(recognition.others.expr(schema).fill_null(value=False)).to_series()
            if other.any():
                if rows is None:
                    rows = pl.int_range(first_row, first_row + frame.height, dtype=pl.UInt64, eager=True)
                where = _place(rows[other.arg_max() or 0], subject, line_offset)
                tally.add(recognition.others.count, int(other.sum()), where)
                frame, source, rows = frame.filter(~other), source.filter(~other), rows.filter(~other)
        declared = frame.select(rule.expr(schema).alias(name) for name, rule in recognition.rules.items())
        if rows is not None:
            declared = declared.with_columns(rows.alias("row"))
        lost = _lost_masks(frame, declared, recognition)
        flows = conform(
            declared,
            source=source.hstack(lost),
            origin=origin,
            subject=subject,
            first_row=first_row,
            line_offset=line_offset,
            strict=strict,
            tally=tally,
        )
    except pl.exceptions.PolarsError as error:
        reason = str(error).split("\n")[0]
        raise SchemaError(f"{subject}: a column is of a kind that cannot be read as flows: {reason}") from error
    for mask in lost:
        _count(flows, mask.name, subject, line_offset, tally)
    kept = flows.source.drop([mask.name for mask in lost]) if flows.source is not None else None
    flows = Flows(flows.frame, kept, origin, tally)
    return _with_wrapped_as_zero(flows, subject, line_offset) if recognition.wraps else flows


def _as_text(frame: pl.DataFrame, recognition: Recognition) -> pl.DataFrame:
    """Write the columns of bytes that are in use as text: addresses of 4 or 16 bytes, and text without a type."""
    texts = [_text_of(frame[name]) for name in recognition.used() if frame.schema.get(name) == pl.Binary]
    return frame.with_columns(texts) if texts else frame


def _text_of(column: pl.Series) -> pl.Series:
    distinct = column.unique()
    texts = [None if octets is None else _decoded(octets) for octets in distinct]
    return column.replace_strict(distinct, pl.Series(texts, dtype=pl.String)).alias(column.name)


def _decoded(octets: bytes) -> str:
    if len(octets) == 4 or (len(octets) == 16 and not _ADDRESS.fullmatch(octets)):
        return str(ipaddress.ip_address(octets))
    return octets.decode("utf-8", "replace")


def _lost_masks(frame: pl.DataFrame, declared: pl.DataFrame, recognition: Recognition) -> list[pl.Series]:
    """Return masks of values: unset but read as 0 (column `_MASK`), corrected (`_CORRECTED`), or present but unreadable
    (one per column).
    """
    schema = frame.schema
    zeroed = [
        is_unset(rule.sources[0], schema[rule.sources[0]]) for rule in recognition.rules.values() if rule.zero_if_unset
    ]
    lost = [frame.select(pl.any_horizontal(zeroed).alias(_MASK)).to_series()] if zeroed else []
    if any(rule.corrected is not None for rule in recognition.rules.values()):
        lost.append(_corrected(frame, declared, recognition))
    for name, rule in recognition.rules.items():
        source = rule.sources[0]
        if rule.checked and declared[name].null_count() > frame[source].null_count():
            there = frame.select(~is_unset(source, schema[source])).to_series()
            lost.append((there & declared[name].is_null()).alias(_MASK + name))
    return lost


def _corrected(frame: pl.DataFrame, declared: pl.DataFrame, recognition: Recognition) -> pl.Series:
    """Return the mask of rows of which a rule has corrected a time."""
    mask = np.zeros(frame.height, bool)
    for name, rule in recognition.rules.items():
        if rule.corrected is None:
            continue
        # A corrected duration is 0; reading the times of the other rows again would take long.
        rows = (declared[name] == 0).arg_true() if name == "duration_ms" else pl.arange(frame.height, eager=True)
        is_corrected = frame[rows].select(rule.corrected(frame.schema).fill_null(value=False)).to_series()
        mask[rows.filter(is_corrected).to_numpy()] = True
    return pl.Series(_CORRECTED, mask)


def _count(flows: Flows, mask: str, subject: str, line_offset: int | None, tally: Tally) -> None:
    if flows.source is None or not (num := int(flows.source[mask].sum())):
        return
    where = _place(flows.frame["row"][flows.source[mask].arg_max() or 0], subject, line_offset)
    if mask == _MASK:
        tally.add("unset_as_zero", num, where)
    elif mask == _CORRECTED:
        tally.add("corrected_times", num, where)
    else:
        tally.add("unreadable_values", num, f"{where}, column {mask.removeprefix(_MASK)}")


def _with_wrapped_as_zero(flows: Flows, subject: str, line_offset: int | None) -> Flows:
    wrapped = flows.frame["duration_ms"] > WRAPPED_ABOVE_MS
    num = int(wrapped.sum())
    if not num:
        return flows
    flows.tally.add("wrapped_durations", num, _place(flows.frame["row"][wrapped.arg_max() or 0], subject, line_offset))
    read = pl.when(wrapped).then(0.0).otherwise(pl.col("duration_ms")).alias("duration_ms")
    return replace(flows, frame=flows.frame.with_columns(read))


def _place(row: int, subject: str, line_offset: int | None) -> str:
    return f"{subject}, row {row}" if line_offset is None else f"{subject}, line {row + line_offset}"


def block_flows(block: Block, recognition: Recognition, *, origin: Origin | None, subject: str, strict: bool) -> Flows:
    """Make `Flows` from a block of text, and count the rows and values that could not be parsed.

    Raises SchemaError if a column cannot be read, or with `strict` at the first malformed row.
    """
    frame, source, rows = block.frame, block.source, block.rows
    stop = strict and block.num_malformed > 0
    if stop:
        before = rows < block.malformed_row
        frame, source, rows = frame.filter(before), source.filter(before), rows.filter(before)
    flows = conformed(
        frame,
        recognition,
        source=source,
        rows=rows,
        line_offset=block.line_offset,
        origin=origin,
        subject=subject,
        strict=strict,
    )
    where = f"{subject}, line {block.malformed_line}"
    if stop:
        raise SchemaError(f"{where}: the row {block.why}")
    tally = Tally()
    if block.num_malformed and block.malformed_row < _first_left_out(rows, flows):
        tally.add("malformed_rows", block.num_malformed, where)
        tally.merge(flows.tally)
    else:
        tally.merge(flows.tally)
        tally.add("malformed_rows", block.num_malformed, where)
    for num, row, column in block.unreadable:
        tally.add("unreadable_values", num, f"{_place(row, subject, block.line_offset)}, column {column}")
    tally.add("undecodable_text", block.num_undecodable, subject)
    if recognition.others is not None:
        tally.add(recognition.others.count, block.num_others, f"{subject}, line {block.other_line}")
    return replace(flows, tally=tally)


def _first_left_out(rows: pl.Series, flows: Flows) -> float:
    kept = flows.frame["row"]
    if len(kept) == len(rows):
        return float("inf")
    differs = rows.head(len(kept)) != kept
    return float(rows[differs.arg_max() or 0] if differs.any() else rows[len(kept)])
