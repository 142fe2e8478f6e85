"""Rules that read a declared column from a table's own columns, of whatever dtypes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, final

import polars as pl

from thalweg.tables import FLOW_COLUMNS, time_of_us, us_of

Schema = Mapping[str, pl.DataType]

PROTOCOLS: Final[Mapping[str, int | None]] = {
    "icmp": 1, "igmp": 2, "ipip": 4, "tcp": 6, "egp": 8, "igp": 9, "udp": 17, "rtp": 17, "rtcp": 17,
    "udt": 17, "dccp": 33, "ipv6": 41, "ipv6-route": 43, "ipv6-frag": 44, "rsvp": 46, "gre": 47, "esp": 50,
    "ah": 51, "ipv6-icmp": 58, "icmp6": 58, "icmpv6": 58, "ipv6-nonxt": 59, "ipv6-opts": 60, "eigrp": 88,
    "ospf": 89, "ospfigp": 89, "etherip": 97, "pim": 103, "ipcomp": 108, "vrrp": 112, "l2tp": 115, "sctp": 132,
    "udplite": 136, "arp": None, "rarp": None, "ipx/spx": None, "llc": None, "lldp": None, "stp": None,
    "unas": None, "unknown": None, "unknown_transport": None,
}  # fmt: skip
"""Protocol names of tools -> IANA numbers; None if IP does not carry the protocol."""

_TIMESTAMP: Final = pl.Datetime("us", "UTC")
_TIME: Final = "%Y-%m-%d %H:%M:%S%.f"
_ZERO_TIME: Final = r"^(?:0000-00-00.*|1970-01-01(?:[T ]00:00(?::00(?:\.0*)?)?)?(?:Z|[+-]00:?00)?|0+(?:\.0*)?)$"
_TRUE: Final = ("1", "1.0", "true", "t", "yes", "attack", "malicious", "botnet", "anomaly")
_FALSE: Final = ("0", "0.0", "false", "f", "no", "benign", "normal", "background")
PORTED: Final = ("tcp", "udp", "rtp", "rtcp", "udt", "sctp", "dccp", "udplite", "6", "17")
"""Protocols with ports, as text."""


@final
@dataclass(frozen=True, slots=True)
class Rule:
    """How one declared column is read: from which source columns, and by which expression.

    expr: takes the table's dtypes, as a column is text in one file and a number in another. checked: count a null that
    was made from a value as unreadable. zero_if_unset: read an unset value as 0, and count it. corrected: true for rows
    whose times are impossible or incomplete, which are counted.
    """

    sources: tuple[str, ...]
    expr: Callable[[Schema], pl.Expr]
    checked: bool = False
    zero_if_unset: bool = False
    corrected: Callable[[Schema], pl.Expr] | None = None


@final
@dataclass(frozen=True, slots=True)
class Others:
    """Rows of a table that are not flows: the name of their count, and an expression that is true for them.

    sources: the columns that `expr` uses. key, line: a JSON line that contains `key` but not `line` is such a row and
    is not parsed. marks: the columns of JSON lines by which the dialect is recognised if no flow is among the first.
    """

    count: str
    sources: tuple[str, ...]
    expr: Callable[[Schema], pl.Expr]
    key: re.Pattern[bytes] | None = None
    line: re.Pattern[bytes] | None = None
    marks: frozenset[str] = frozenset()


@final
@dataclass(frozen=True, slots=True)
class Dialect:
    """One family of tables.

    marks: the columns that it is recognised by. rules: how each declared column is read; of several rules, the first
    whose source columns the table has; a column without such a rule is left out. hints: dtypes for columns of text
    files whose first rows suggest too narrow a dtype. unset: the text for no value. wraps: durations come from a
    counter that can wrap below zero. others: rows that are not flows. one_way: each row is one direction of a flow.
    nested: names with a dot are values in objects of JSON lines, and any of them may be absent from the first lines.
    """

    name: str
    marks: frozenset[str]
    rules: Mapping[str, Rule | tuple[Rule, ...]]
    hints: Schema = field(default_factory=lambda: MappingProxyType({}))
    unset: str | None = None
    wraps: bool = False
    others: Others | None = None
    one_way: bool = False
    nested: bool = False


def given(source: str) -> Rule:
    """Read a column unchanged; `tables.conform` casts it."""
    return Rule((source,), lambda schema: value_of(source, schema[source]))


def text(source: str) -> Rule:
    """Read names and addresses as text; `tables.conform` strips the spaces."""
    return Rule((source,), lambda schema: _text(source, schema[source]))


def timestamp(source: str) -> Rule:
    """Read a date and time (UTC if it names no zone), or a number of time units since 1970.

    The size of the number says whether it is seconds, milliseconds, microseconds or nanoseconds, which is unambiguous
    for dates from 1973 to 5138.
    """
    return Rule((source,), lambda schema: _timestamp(source, schema[source]), checked=True)


def boolean(source: str) -> Rule:
    """Read a label: a boolean, a number (0 is false) or a word such as Malicious or Benign."""
    return Rule((source,), lambda schema: boolean_of(pl.col(source), schema[source]), checked=True)


def protocol(source: str) -> Rule:
    """Read a protocol number or name."""

    def expr(schema: Schema) -> pl.Expr:
        value = value_of(source, schema[source])
        if schema[source] not in (pl.String, pl.Categorical, pl.Enum):
            return value
        numbers = [None if number is None else str(number) for number in PROTOCOLS.values()]
        # A name that is not in the table stays text, so that `conform` counts it as unreadable.
        return value.str.to_lowercase().replace(list(PROTOCOLS), pl.Series(numbers, dtype=pl.String))

    return Rule((source,), expr)


def seconds(source: str, *, zero_if_unset: bool = False) -> Rule:
    """Convert seconds to milliseconds."""

    def expr(schema: Schema) -> pl.Expr:
        number = value_of(source, schema[source]).cast(pl.Float64, strict=False) * 1000
        return pl.when(is_unset(source, schema[source])).then(0.0).otherwise(number) if zero_if_unset else number

    return Rule((source,), expr, zero_if_unset=zero_if_unset)


def between(start: str, end: str, *, most_ms: float | None = None) -> Rule:
    """Read the time between two timestamps, in milliseconds.

    It is 0, and counted, if only one of them is given, the end lies before the start or it would exceed `most_ms`. It
    is 0 if none is given. A time of 0, as in 1970-01-01 or 0000-00-00, is not given.
    """

    def is_impossible(schema: Schema) -> pl.Expr:
        length = _length(start, end, schema)
        return (length < 0) if most_ms is None else ~length.is_between(0, most_ms)

    def expr(schema: Schema) -> pl.Expr:
        lacks = is_zero_time(start, schema[start]) | is_zero_time(end, schema[end])
        # A value that is no time gives null: such a row is malformed.
        return pl.when(lacks | is_impossible(schema)).then(0.0).otherwise(_length(start, end, schema))

    def corrected(schema: Schema) -> pl.Expr:
        lacks_start, lacks_end = is_zero_time(start, schema[start]), is_zero_time(end, schema[end])
        return (lacks_start ^ lacks_end) | (~lacks_start & is_impossible(schema))

    return Rule((start, end), expr, corrected=corrected)


def _length(start: str, end: str, schema: Schema) -> pl.Expr:
    return (_timestamp(end, schema[end]) - _timestamp(start, schema[start])).dt.total_microseconds() / 1000


def is_zero_time(source: str, dtype: pl.DataType) -> pl.Expr:
    """Return an expression that is true if a time is missing or 0."""
    value = value_of(source, dtype)
    if dtype.is_temporal():
        return value.is_null() | (us_of(value, dtype) == 0)
    if dtype.is_numeric() or dtype == pl.Boolean:
        return value.is_null() | (value == 0)
    return value.is_null() | value.cast(pl.String, strict=False).str.contains(_ZERO_TIME)


def count_or_zero(source: str) -> Rule:
    """Read a count of which an unset value means 0."""

    def expr(schema: Schema) -> pl.Expr:
        dtype = schema[source]
        zero = pl.lit("0") if dtype in (pl.String, pl.Categorical, pl.Enum) else pl.lit(0)
        return pl.when(is_unset(source, dtype)).then(zero).otherwise(value_of(source, dtype))

    return Rule((source,), expr, zero_if_unset=True)


def is_unset(source: str, dtype: pl.DataType) -> pl.Expr:
    """Return an expression that is true if a value is unset: null, empty, or Zeek's dash."""
    if dtype not in (pl.String, pl.Categorical, pl.Enum):
        return pl.col(source).is_null()
    text = pl.col(source).cast(pl.String).str.strip_chars()
    return text.is_null() | text.is_in(["", "-"])


def boolean_of(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Convert booleans, numbers and words to true or false, and anything else to null."""
    if dtype == pl.Boolean:
        return column
    if dtype.is_numeric():
        return column.cast(pl.Float64).fill_nan(None) != 0
    words = column.cast(pl.String, strict=False).str.strip_chars().str.to_lowercase()
    return pl.when(words.is_in(_TRUE)).then(True).when(words.is_in(_FALSE)).then(False)


def _text(source: str, dtype: pl.DataType) -> pl.Expr:
    return pl.col(source) if dtype == pl.String else pl.col(source).cast(pl.String, strict=False)


def value_of(source: str, dtype: pl.DataType) -> pl.Expr:
    """Return a column as a plain number, text without spaces around it, or null; `conform` casts the rest."""
    column = pl.col(source)
    if dtype == pl.Null:
        return column.cast(pl.String)
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        text = column.cast(pl.String).str.strip_chars()
        return pl.when(text != "").then(text)
    if isinstance(dtype, pl.Decimal):
        return column.cast(pl.Float64)
    if isinstance(dtype, pl.Duration):
        return column.dt.total_microseconds() / 1000
    return column


def _timestamp(source: str, dtype: pl.DataType) -> pl.Expr:
    if isinstance(dtype, pl.Datetime) or dtype == pl.Date:
        return time_of_us(us_of(pl.col(source), dtype))
    value = value_of(source, dtype)
    if dtype.is_numeric():
        return _from_number(value)
    return value.cast(pl.String, strict=False).map_batches(_parse_timestamps, return_dtype=_TIMESTAMP)


def _parse_timestamps(text: pl.Series) -> pl.Series:
    text = text.str.replace_all("/", "-", literal=True)
    text = text.str.replace("T", " ", literal=True).str.strip_suffix("Z")
    parsed = text.str.to_datetime(_TIME, time_unit="us", strict=False).dt.replace_time_zone("UTC")
    if parsed.null_count() == text.null_count():
        return pl.select(time_of_us(pl.lit(parsed))).to_series()
    # Other formats are rare, and each costs another pass.
    number = text.cast(pl.Float64, strict=False).alias("number")
    zoned = text.str.to_datetime(_TIME + "%z", time_unit="us", time_zone="UTC", strict=False)
    return pl.select(
        time_of_us(pl.coalesce(parsed, zoned, number.to_frame().select(_from_number(pl.col("number"))).to_series()))
    ).to_series()


def _from_number(number: pl.Expr) -> pl.Expr:
    number = number.cast(pl.Float64)
    size = number.abs()
    micros = (
        pl.when(size < 1e11).then(number * 1e6)
        .when(size < 1e14).then(number * 1e3)
        .when(size < 1e17).then(number)
        .otherwise(number / 1e3)
    )  # fmt: skip
    return time_of_us(micros.round())


def read_as(name: str, source: str) -> Rule:
    """Return the rule that reads a source column as the declared column `name`, in the same units."""
    if FLOW_COLUMNS[name].dtype == pl.String:
        return text(source)
    return {"start": timestamp, "label": boolean, "protocol": protocol}.get(name, given)(source)
