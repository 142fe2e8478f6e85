"""Reads CSV, Zeek logs and JSON lines into frames, one block at a time; every row is read or counted."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from typing import Final, final

import numpy as np
import numpy.typing as npt
import polars as pl

from thalweg.errors import SourceError
from thalweg.ingest.streams import MAX_RECORDS, CutShortError, NoFlowsError, TextRecords, cut_records, peek
from thalweg.ingest.tabular.dialects.recognition import Recognition
from thalweg.ingest.tabular.dialects.rules import boolean_of
from thalweg.ingest.tabular.json_lines import MAX_COLUMNS, json_frame, json_schema
from thalweg.ingest.tabular.layout import Layout, delimited_layout, json_layout

# Dtypes are guessed from this much of a file, whatever the size of its blocks.
SAMPLE_BYTES: Final = 1 << 22
# Less is enough for JSON lines of which only the columns in use are kept.
_FEW_BYTES: Final = 1 << 18
# The values of a block; in JSON lines, one that is not there takes no space in the file.
_MAX_CELLS: Final = 1 << 24
_PCAP: Final = (b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\xc3\xd4", b"\n\r\r\n", b"\x4d\x3c\xb2\xa1")
_REPLACED: Final = "\ufffd".encode()


@final
@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A block of rows as read from a text file.

    frame: for the dialect's rules; the columns that they use may still be text. source: every input column, in the
    dtype that it has in all blocks. rows: row numbers in the file. line_offset: the line of row 0; None if lines do not
    follow rows one by one. num_rows: all rows. num_malformed: rows that could not be split into fields; malformed_row,
    malformed_line, why: of the first of them. unreadable: (count, first row, column) of values in unused columns that
    do not fit the dtype. num_others: lines that are not flows; other_line: the first of them.
    """

    frame: pl.DataFrame
    source: pl.DataFrame
    rows: pl.Series
    line_offset: int | None
    num_rows: int
    num_malformed: int = 0
    malformed_row: int = 0
    malformed_line: int = 0
    why: str = ""
    unreadable: tuple[tuple[int, int, str], ...] = ()
    num_undecodable: int = 0
    late_columns: tuple[str, ...] = ()
    num_others: int = 0
    other_line: int = 0


def read_text(
    pieces: Iterator[bytes],
    recognise: Callable[[Sequence[str], bool], Recognition],
    block_bytes: int,
    subject: str,
    *,
    is_bare: bool = False,
) -> tuple[Recognition, Iterator[Block]]:
    """Return how a text table is read, and its blocks.

    recognise: recognises the table by its columns; its second argument says whether columns without values may be
    absent. is_bare: only the columns in use are kept of JSON lines.

    Raises SourceError if it is not a table, and CutShortError while iterating if the data ends early.
    """
    head, pieces = peek(pieces, SAMPLE_BYTES)
    if b"\r" in head and b"\n" not in head:  # lines that end as on a Macintosh before 2001
        head, pieces = head.replace(b"\r", b"\n"), (piece.replace(b"\r", b"\n") for piece in pieces)
    if not head.strip():
        for _ in pieces:  # raises if the data ends early
            pass
        raise NoFlowsError(f"{subject} is empty: give a file that holds flows")
    if b"\0" in head[:4096]:
        hint = "convert a packet capture to flows first, for example with zeek -r" if head[:4] in _PCAP else (
            "readable formats are CSV, Zeek logs and JSON lines (also as .gz and .zst), Parquet and Arrow"
        )  # fmt: skip
        raise SourceError(f"{subject} is not a known format: {hint}")
    if is_bare and head.lstrip()[:1] == b"{" and 0 <= head.find(b"\n") < _FEW_BYTES:
        head = head[:_FEW_BYTES]
    layout = json_layout(head, subject) if head.lstrip()[:1] == b"{" else delimited_layout(head, subject)
    recognition = recognise([*layout.names, *layout.nested], layout.is_json)
    inside = tuple(
        name
        for name in recognition.used()
        if "." in name and name not in layout.names and (recognition.nested or name in layout.nested)
    )
    layout = replace(layout, nested=inside if layout.is_json else (), others=recognition.others)
    dtypes = _dtypes(layout, recognition, head)
    if len(dtypes) > MAX_COLUMNS:  # of JSON lines; the columns in use first, in the order of the file
        others = [name for name in dtypes if name not in recognition.used()]
        left_out = set(others[max(len(others) - len(dtypes) + MAX_COLUMNS, 0) :])
        dtypes = {name: dtype for name, dtype in dtypes.items() if name not in left_out}
    if is_bare and layout.is_json:
        needed = recognition.used().union(() if recognition.others is None else recognition.others.sources)
        dtypes = {name: dtype for name, dtype in dtypes.items() if name in needed}
        layout = replace(layout, schema=json_schema(dtypes, layout.nested))
    unset = recognition.unset if layout.unset is None else layout.unset
    layout = replace(layout, names=list(dtypes), dtypes=dtypes, unset=unset)
    return recognition, _blocks(pieces, layout, recognition.used(), block_bytes, subject)


def _dtypes(layout: Layout, recognition: Recognition, head: bytes) -> dict[str, pl.DataType]:
    """Choose the dtype of each column, once for the whole file."""
    guessed = dict(layout.dtypes)
    if not guessed:
        try:
            sample = next(_sample(head, layout, recognition), None)
        except (pl.exceptions.PolarsError, CutShortError):
            sample = None
        guessed = dict.fromkeys(layout.names, pl.String()) if sample is None else dict(sample.schema)
    settled = {
        name: pl.String() if dtype == pl.Null else recognition.dtype(name, dtype) for name, dtype in guessed.items()
    }
    # Zeek's JSON leaves out unset fields, so a column may not have occurred yet.
    absent = {} if not layout.is_json else {n: recognition.dtype(n, pl.String()) for n in recognition.used()}
    return settled | {name: dtype for name, dtype in absent.items() if name not in settled}


def _sample(head: bytes, layout: Layout, recognition: Recognition) -> Iterator[pl.DataFrame]:
    text = _after_lines(head, layout.first_line - 1)
    cut = text.rfind(b"\n") + 1 if len(head) >= (_FEW_BYTES if layout.is_json else SAMPLE_BYTES) else len(text)
    for block in cut_records(iter([text[:cut]]), len(text) + 2, None if layout.is_json else layout.separator):
        data, *_ = _split(block, layout, _others(block, layout))
        data = data.decode("utf-8", "replace").encode()
        if layout.is_json:
            frame, _ = json_frame(data, layout.nested)
            yield frame
        else:
            yield pl.read_csv(
                data, has_header=False, new_columns=layout.names, separator=layout.separator,
                null_values=recognition.unset, infer_schema_length=None,
            )  # fmt: skip


def _after_lines(data: bytes, num_lines: int) -> bytes:
    at = 0
    for _ in range(num_lines):
        at = data.find(b"\n", at) + 1
        if not at:
            return b""
    return data[at:]


def _blocks(
    pieces: Iterator[bytes], layout: Layout, used: frozenset[str], block_bytes: int, subject: str
) -> Iterator[Block]:
    quoted = None if layout.is_zeek or layout.is_json else layout.separator
    line, row = 1, 0
    to_skip = layout.first_line - 1
    for block in cut_records(pieces, block_bytes, quoted, min(MAX_RECORDS, _MAX_CELLS // len(layout.names) + 1)):
        data = block
        num_lines = block.data.count(b"\n")
        if to_skip:
            # The header comes first and may fill more than one small block.
            skipped = min(to_skip, len(block.ends))
            data = block.after(skipped)
            to_skip -= skipped
            line += block.data[: int(block.ends[skipped - 1]) + 1].count(b"\n")
            num_lines -= block.data[: int(block.ends[skipped - 1]) + 1].count(b"\n")
        if layout.is_zeek:
            _check_fields(data.data, layout, line, subject)
        if len(data.ends):
            read = _read_block(data, layout, used, row, line)
            row += read.num_rows
            yield read
        line += num_lines


def _check_fields(data: bytes, layout: Layout, line: int, subject: str) -> None:
    at = data.find(b"#fields")
    while at >= 0:
        end = data.find(b"\n", at)
        fields = data[at:end].decode("utf-8", "replace").rstrip("\r")
        fields = re.sub(r" {2,}", layout.separator, fields) if layout.is_joined else fields
        if (at == 0 or data[at - 1] == 10) and fields.split(layout.separator)[1:] != layout.names:
            number = line + data[:at].count(b"\n")
            raise SourceError(f"{subject}, line {number}: the log's columns change here: split the file in two")
        at = data.find(b"#fields", end)


def _others(block: TextRecords, layout: Layout) -> npt.NDArray[np.bool_]:
    """Return which lines are not flows, (R,) bool, without parsing them."""
    other = np.zeros(len(block.ends), bool)
    if not layout.is_json or layout.others is None or layout.others.line is None or layout.others.key is None:
        return other
    for pattern, what in ((layout.others.key, True), (layout.others.line, False)):
        at = np.fromiter((match.start() for match in pattern.finditer(block.data)), np.int64)
        other[np.searchsorted(block.ends, at)] = what
    return other


def _split(
    block: TextRecords, layout: Layout, other: npt.NDArray[np.bool_], *, exact: bool = True
) -> tuple[bytes, npt.NDArray[np.bool_], npt.NDArray[np.bool_], list[list[str]] | None]:
    """Keep the records that have the right number of fields.

    other: (R,) bool, records to leave out. exact: count the fields of each record. Otherwise only the fields of the
    whole block may be counted, and a strict parse must follow to find ragged rows.

    Returns: the bytes of the kept records; (R,) bool, records that are rows; (R,) bool, rows that are ragged; the
    fields of the kept records if they had to be split one by one, else None.
    """
    data, ends, num = block.data, block.ends, len(layout.names)
    array = np.frombuffer(data, np.uint8)
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1] + 1])[: len(ends)]
    length = ends - starts
    first = array[starts] if len(ends) else array[:0]
    is_row = (length > 0) & ~((length == 1) & (first == 13))
    if layout.is_zeek:
        is_row &= first != 35
    fields: list[list[str]] | None = None
    if layout.is_json:
        ragged = np.zeros(len(ends), bool)
    elif block.broken is not None:
        split = [
            [] if is_broken else _fields(data[begin:end].decode("utf-8", "replace").rstrip("\r"), layout.separator)
            for begin, end, is_broken in zip(starts, ends, block.broken, strict=True)
        ]
        ragged = is_row & (block.broken | (np.array([len(s) for s in split]) != num))
        fields = [s for s, keep in zip(split, is_row & ~ragged, strict=True) if keep]
    else:
        if layout.is_joined:
            data, starts, ends, array = _split_joined(data, layout.separator)
        at_separator = array == ord(layout.separator)
        if block.inside is not None:
            at_separator &= ~block.inside
        if not exact and is_row.all() and np.count_nonzero(at_separator) == len(ends) * (num - 1):
            ragged = np.zeros(len(ends), bool)
        else:
            places = np.flatnonzero(at_separator)
            counts = np.searchsorted(places, ends) - np.searchsorted(places, starts)
            ragged = is_row & (counts != num - 1)
    keep = is_row & ~ragged & ~other
    if not keep.all():
        data = array[np.repeat(keep, ends - starts + 1)].tobytes()
    return data, is_row, ragged, fields


def _fields(text: str, separator: str) -> list[str]:
    """Split one record into its fields; none if that cannot be done."""
    try:
        return next(csv.reader(StringIO(text, newline=""), delimiter=separator), [])
    except csv.Error:  # a carriage return within a field, or a field of over 128 KiB
        return []


def _decodable(data: bytes) -> tuple[bytes, int]:
    """Replace bytes that are not UTF-8. Returns: the text; the number of replacement characters."""
    if data.isascii():
        return data, 0
    clean = data.decode("utf-8", "replace").encode()
    return clean, clean.count(_REPLACED) - data.count(_REPLACED)


def _split_joined(
    data: bytes, separator: str
) -> tuple[bytes, npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Separate the columns that IoT-23 joins by runs of spaces. Returns: data, starts, ends, array."""
    data = re.sub(rb" {2,}", separator.encode(), data)
    array = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(array == 10)
    return data, np.concatenate([np.zeros(1, np.int64), ends[:-1] + 1]), ends, array


def _read_block(block: TextRecords, layout: Layout, used: frozenset[str], row: int, line: int) -> Block:
    other = _others(block, layout)
    data, is_row, ragged, fields = _split(block, layout, other, exact=False)
    starts = np.concatenate([np.zeros(1, np.int64), block.ends[:-1] + 1])
    newlines = np.flatnonzero(np.frombuffer(block.data, np.uint8) == 10)
    lines = line + np.searchsorted(newlines, starts)
    data, num_undecodable = _decodable(data)
    late: tuple[str, ...] = ()
    typed = None
    if layout.is_json:
        raw, bad = json_frame(data, layout.nested, layout.schema, layout.dtypes)
        places = np.flatnonzero(is_row & ~other)
        ragged[places[bad]] = True
        late = tuple(name for name in raw.columns if name not in layout.dtypes and layout.schema is None)
        num_good = int((~bad).sum())
        there = frozenset(raw.columns)
        raw = pl.DataFrame(
            {
                name: raw[name] if name in there else pl.repeat(None, num_good, dtype=dtype, eager=True)
                for name, dtype in layout.dtypes.items()
            }
        )
    elif fields is not None:
        cells = np.array(fields, dtype=object).reshape(len(fields), len(layout.names))
        raw = pl.DataFrame(
            {n: pl.Series(n, cells[:, i].tolist(), pl.String) for i, n in enumerate(layout.names)}
        ).with_columns(pl.when(pl.all().is_in(["", layout.unset or ""]).not_()).then(pl.all()))
    else:
        typed = texts = _parse(data, layout, layout.dtypes, int((is_row & ~ragged).sum()))
        if typed is None:
            data, is_row, ragged, _ = _split(block, layout, other)
            data, num_undecodable = _decodable(data)
            as_text = dict.fromkeys(layout.names, pl.String())
            texts = _parse(data, layout, as_text, int((is_row & ~ragged).sum()))
        if texts is None:
            # Cannot happen if the records were cut correctly; if it does, no row may be mistaken for another.
            raise CutShortError(f"the block from line {line} on cannot be split into fields")
        raw = texts
    row_of = row + np.cumsum(is_row) - 1
    kept = row_of[is_row & ~ragged & ~other]
    offsets = (lines - row_of)[is_row]
    source, lost = (typed, []) if typed is not None else _typed(raw, layout.dtypes, used)
    source = source.drop(layout.nested, strict=False)
    bad_at = np.flatnonzero(ragged)
    first_bad = int(bad_at[0]) if len(bad_at) else 0
    return Block(
        frame=raw.with_columns(source[n] for n in source.columns if n not in used) if typed is None else typed,
        source=source,
        rows=pl.Series(kept, dtype=pl.UInt64),
        line_offset=int(offsets[0]) if len(offsets) and (offsets == offsets[0]).all() else None,
        num_rows=int(is_row.sum()),
        num_malformed=len(bad_at),
        malformed_row=int(row_of[first_bad]),
        malformed_line=int(lines[first_bad]),
        why="is not a JSON object" if layout.is_json else f"does not have {len(layout.names)} fields",
        unreadable=tuple((num, int(kept[at]), name) for num, at, name in lost),
        num_undecodable=num_undecodable,
        late_columns=late,
        num_others=int(other.sum()),
        other_line=int(lines[other.argmax()]) if len(other) else 0,
    )


def _parse(data: bytes, layout: Layout, dtypes: Mapping[str, pl.DataType], num: int) -> pl.DataFrame | None:
    """Parse a block strictly; return None if a value does not fit its dtype."""
    if not data:
        return pl.DataFrame(schema=dtypes)
    try:
        frame = pl.read_csv(
            data, has_header=False, schema=dtypes, separator=layout.separator, null_values=layout.unset,
            quote_char=None if layout.is_zeek else '"',
        )  # fmt: skip
    except pl.exceptions.PolarsError:
        return None
    return frame if frame.height == num else None


def _typed(
    raw: pl.DataFrame, dtypes: Mapping[str, pl.DataType], used: frozenset[str]
) -> tuple[pl.DataFrame, list[tuple[int, int, str]]]:
    """Cast text to the file's dtypes. Returns: the frame; (count, first row, column) of values that do not fit."""
    schema = raw.schema  # made anew by each call
    source = raw.select(_cast(name, schema[name], dtype) for name, dtype in dtypes.items())
    lost = []
    for name in dtypes:
        if name in used:  # `conform` counts these
            continue
        gone = source[name].is_null() & raw[name].is_not_null()
        if schema[name] == pl.String:
            gone &= raw[name].str.strip_chars() != ""
        if gone.any():
            lost.append((int(gone.sum()), int(gone.arg_max() or 0), name))
    return source, lost


def _cast(name: str, given: pl.DataType, wanted: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    if given == wanted:
        return column
    if wanted == pl.Boolean:
        return boolean_of(column, given).alias(name)
    if given == pl.String:
        column = column.str.strip_chars()
        if wanted.is_integer():
            real = column.cast(pl.Float64, strict=False)
            whole = pl.when(real == real.round()).then(real).cast(wanted, strict=False)
            return pl.coalesce(column.cast(wanted, strict=False), whole).alias(name)
    if given.is_float() and wanted.is_integer():
        column = pl.when(column == column.round()).then(column)
    return column.cast(wanted, strict=False).alias(name)
