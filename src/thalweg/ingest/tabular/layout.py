"""Determines how the lines of a text file become columns: header, separator, unset values."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

import polars as pl

from thalweg.errors import SourceError
from thalweg.ingest.tabular.dialects.rules import Others
from thalweg.ingest.tabular.json_lines import MAX_COLUMNS, json_names

SEPARATORS: Final = ",;\t|"
VPC_FIELDS: Final = (
    "version", "account-id", "interface-id", "srcaddr", "dstaddr", "srcport", "dstport", "protocol", "packets",
    "bytes", "start", "end", "action", "log-status",
)  # fmt: skip
"""The default fields of AWS VPC flow logs, which are delivered without a header in some cases."""
_VPC_RECORD: Final = re.compile(rb"(\d{4}-\S+ )?2 \S+ \S+ (\S+ ){7}\d+ \d+ (ACCEPT|REJECT|-) (OK|NODATA|SKIPDATA)\s*")

_NO_SEPARATORS: Final = '\n\r\0"#\\'

_ZEEK_DTYPES: Final[Mapping[str, pl.DataType]] = {
    "time": pl.Float64(),
    "interval": pl.Float64(),
    "double": pl.Float64(),
} | dict.fromkeys(("count", "int", "port"), pl.Int64())


@final
@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """How the lines of one file become columns.

    first_line: the line of the first data row, from 1. is_joined: columns of a Zeek log are separated by runs of
    spaces, as in IoT-23. nested: columns of JSON lines within another column's object, as in `flow.start`. others:
    recognises lines that are not flows. schema: of JSON lines, if only the columns in it are kept.
    """

    names: list[str]
    dtypes: Mapping[str, pl.DataType]
    separator: str
    unset: str | None
    first_line: int
    is_zeek: bool
    is_json: bool
    is_joined: bool
    nested: tuple[str, ...] = ()
    others: Others | None = None
    schema: Mapping[str, pl.DataType] | None = None


def json_layout(head: bytes, subject: str) -> Layout:
    """Find the columns of JSON lines in their first bytes. Raises SourceError if there are none."""
    names, nested = json_names(head)
    if not names:
        raise SourceError(f"{subject}: the first line is not a JSON object: give one object per line")
    return Layout(names, {}, "", None, 1, is_zeek=False, is_json=True, is_joined=False, nested=tuple(nested))


def delimited_layout(head: bytes, subject: str) -> Layout:
    """Find the columns of CSV or of a Zeek log in its first bytes.

    Raises SourceError if there are too many, if the first line is not a header, or if a Zeek log has no #fields line.
    """
    lines = head.split(b"\n")
    if not head.startswith((b"#separator", b"#fields", b"#set_separator")):
        # Blank lines before the header are skipped.
        at = next((i for i, line in enumerate(lines) if line.strip()), 0)
        header = lines[at].decode("utf-8", "replace").rstrip("\r")
        if _VPC_RECORD.fullmatch(header.encode()):
            names = [*VPC_FIELDS] if header.count(" ") == len(VPC_FIELDS) - 1 else ["timestamp", *VPC_FIELDS]
            return Layout(names, {}, " ", None, at + 1, False, False, False)
        outside = re.sub(r'"[^"]*"', "", header)
        separator = max(SEPARATORS, key=outside.count)
        # AWS separates fields by spaces. Column names may contain spaces, so the space is tried last.
        separator = separator if separator in outside else " "
        try:
            names = next(csv.reader([header], delimiter=separator), [])
        except csv.Error as error:
            raise SourceError(f"{subject}, line {at + 1}: not a header of column names ({error})") from error
        check_width(len(names), subject)
        return Layout(distinct(names), {}, separator, None, at + 2, False, False, False)
    values = {"separator": "\t", "unset_field": "-"}
    separator = "\t"
    for number, line in enumerate(lines, 1):
        if not line.startswith(b"#"):
            break
        text = line.decode("utf-8", "replace").rstrip("\r")
        if text.startswith("#separator"):
            separator = re.sub(r"\\x([0-9a-fA-F]{2})", lambda m: chr(int(m[1], 16)), text.split(" ", 1)[-1])
            if len(separator) != 1 or not separator.isascii() or separator in _NO_SEPARATORS:
                raise SourceError(f"{subject}, line {number}: {separator!r} cannot separate the columns of a Zeek log")
            continue
        name, _, value = text[1:].partition(separator)
        values[name] = value
        first_line = number + 1
    if not values.get("fields"):
        raise SourceError(f"{subject}: a Zeek log without a #fields line: its columns have no names")
    is_joined = "  " in values["fields"]
    fields, types = (
        (re.sub(r" {2,}", separator, values.get(key, "")) if is_joined else values.get(key, "")).split(separator)
        for key in ("fields", "types")
    )
    check_width(len(fields), subject)
    names = distinct(fields)
    types += ["string"] * (len(names) - len(types))
    dtypes: dict[str, pl.DataType] = {
        name: _ZEEK_DTYPES.get(kind, pl.String()) for name, kind in zip(names, types, strict=False)
    }
    return Layout(names, dtypes, separator, values["unset_field"], first_line, True, False, is_joined)


def check_width(num_columns: int, subject: str) -> None:
    """Raise SourceError if a table has too many columns."""
    if num_columns > MAX_COLUMNS:
        raise SourceError(
            f"{subject}: {num_columns:,} columns; a table has at most {MAX_COLUMNS:,}: leave out those not needed"
        )


def is_header(line: bytes) -> bool:
    """Return whether the first line of a delimited file is a header."""
    return not _VPC_RECORD.fullmatch(line.rstrip(b"\r\n"))


def distinct(names: Sequence[str]) -> list[str]:
    """Number repeated names, as Polars does."""
    taken = set(names)
    seen: dict[str, int] = {}
    distinct = []
    for name in names:
        again = seen.get(name, -1) + 1
        new = f"{name}_duplicated_{again - 1}" if again else name
        while again and new in taken:
            again += 1
            new = f"{name}_duplicated_{again - 1}"
        seen[name] = again
        taken.add(new)
        distinct.append(new)
    return distinct
