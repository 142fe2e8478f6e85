"""How a declared column is read from a table's own columns, whatever their dtypes are."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, final

import polars as pl

from thalweg.tables import FLOW_COLUMNS

Schema = Mapping[str, pl.DataType]

PROTOCOLS: Final[Mapping[str, int | None]] = {
    "icmp": 1, "igmp": 2, "ipip": 4, "tcp": 6, "egp": 8, "igp": 9, "udp": 17, "rtp": 17, "rtcp": 17,
    "udt": 17, "dccp": 33, "ipv6": 41, "ipv6-route": 43, "ipv6-frag": 44, "rsvp": 46, "gre": 47, "esp": 50,
    "ah": 51, "ipv6-icmp": 58, "icmp6": 58, "icmpv6": 58, "ipv6-nonxt": 59, "ipv6-opts": 60, "eigrp": 88,
    "ospf": 89, "ospfigp": 89, "etherip": 97, "pim": 103, "ipcomp": 108, "vrrp": 112, "l2tp": 115, "sctp": 132,
    "udplite": 136, "arp": None, "rarp": None, "ipx/spx": None, "llc": None, "lldp": None, "stp": None,
    "unas": None, "unknown": None, "unknown_transport": None,
}  # fmt: skip
"""Names that tools give protocols -> IANA numbers; None where it is none that IP carries."""

_MOMENT: Final = pl.Datetime("us", "UTC")
_TIME: Final = "%Y-%m-%d %H:%M:%S%.f"
_TRUE: Final = ("1", "1.0", "true", "t", "yes", "attack", "malicious", "botnet", "anomaly")
_FALSE: Final = ("0", "0.0", "false", "f", "no", "benign", "normal", "background")
PORTED: Final = ("tcp", "udp", "rtp", "rtcp", "udt", "sctp", "dccp", "udplite", "6", "17")
"""Protocols with ports, as text."""


@final
@dataclass(frozen=True, slots=True)
class Rule:
    """How one declared column is read: from which source columns, and by which expression.

    `expr` is given the dtypes of the table at hand, as the same column is text in one file and a number in
    another. `checked` says that a null made from a value that was there is a value lost, to be counted.
    `zero_if_unset` says that an unset value is read as 0, to be counted.
    """

    sources: tuple[str, ...]
    expr: Callable[[Schema], pl.Expr]
    checked: bool = False
    zero_if_unset: bool = False


@final
@dataclass(frozen=True, slots=True)
class Others:
    """Rows of a table that are no flows: the name they are counted under, and how `expr` tells them.

    `sources` are columns that it looks at. In JSON lines, a line that holds `key` but not `line` is such a row, so
    that it need not be parsed.
    """

    count: str
    sources: tuple[str, ...]
    expr: Callable[[Schema], pl.Expr]
    key: re.Pattern[bytes] | None = None
    line: re.Pattern[bytes] | None = None


@final
@dataclass(frozen=True, slots=True)
class Dialect:
    """One family of tables.

    `marks` are the columns it is recognised by. `rules` say how each declared column is read, by the first of
    several ways whose source columns a table has; one that has no such way is left out. `hints` are dtypes for
    text files, where a guess from the first rows could be too narrow. `unset` is the text that stands for no
    value. `wraps` says that its durations come from a counter that runs below zero. `others` are rows that are
    no flows. `one_way` says that each row is one direction of a flow.
    """

    name: str
    marks: frozenset[str]
    rules: Mapping[str, Rule | tuple[Rule, ...]]
    hints: Schema = field(default_factory=lambda: MappingProxyType({}))
    unset: str | None = None
    wraps: bool = False
    others: Others | None = None
    one_way: bool = False


def given(source: str) -> Rule:
    """Read a column as it is; `tables.conform` casts it."""
    return Rule((source,), lambda schema: value_of(source, schema[source]))


def text(source: str) -> Rule:
    """Read names and addresses, which `tables.conform` strips of spaces."""
    return Rule((source,), lambda schema: _text(source, schema[source]))


def moment(source: str) -> Rule:
    """Read a time: a date and time (UTC where it names no zone), or a count since 1970.

    A number is seconds, milliseconds, microseconds or nanoseconds by its size, which is unambiguous for
    every date from 1973 to 5138.
    """
    return Rule((source,), lambda schema: _moment(source, schema[source]), checked=True)


def truth(source: str) -> Rule:
    """Read a label: a boolean, a number (0 is false) or a word such as Malicious or Benign."""
    return Rule((source,), lambda schema: truth_of(pl.col(source), schema[source]), checked=True)


def protocol(source: str) -> Rule:
    """Read a protocol's number, or its name."""

    def expr(schema: Schema) -> pl.Expr:
        value = value_of(source, schema[source])
        if schema[source] not in (pl.String, pl.Categorical, pl.Enum):
            return value
        numbers = [None if number is None else str(number) for number in PROTOCOLS.values()]
        # A name that is not in the table stays text, so that `conform` counts it as unreadable.
        return value.str.to_lowercase().replace(list(PROTOCOLS), pl.Series(numbers, dtype=pl.String))

    return Rule((source,), expr)


def seconds(source: str, *, zero_if_unset: bool = False) -> Rule:
    """Read seconds as milliseconds."""

    def expr(schema: Schema) -> pl.Expr:
        number = value_of(source, schema[source]).cast(pl.Float64, strict=False) * 1000
        return pl.when(is_unset(source, schema[source])).then(0.0).otherwise(number) if zero_if_unset else number

    return Rule((source,), expr, zero_if_unset=zero_if_unset)


def between(start: str, end: str) -> Rule:
    """Read the time from one moment to another as milliseconds."""

    def expr(schema: Schema) -> pl.Expr:
        length = _moment(end, schema[end]) - _moment(start, schema[start])
        return length.dt.total_microseconds() / 1000

    return Rule((start, end), expr)


def count_or_zero(source: str) -> Rule:
    """Read a count whose unset value means none was seen."""

    def expr(schema: Schema) -> pl.Expr:
        dtype = schema[source]
        zero = pl.lit("0") if dtype in (pl.String, pl.Categorical, pl.Enum) else pl.lit(0)
        return pl.when(is_unset(source, dtype)).then(zero).otherwise(value_of(source, dtype))

    return Rule((source,), expr, zero_if_unset=True)


def is_unset(source: str, dtype: pl.DataType) -> pl.Expr:
    """Tell where a value is absent: null, empty, or Zeek's dash."""
    if dtype not in (pl.String, pl.Categorical, pl.Enum):
        return pl.col(source).is_null()
    text = pl.col(source).cast(pl.String).str.strip_chars()
    return text.is_null() | text.is_in(["", "-"])


def truth_of(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Read booleans, numbers and words as true or false; null where it is none of them."""
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


def _moment(source: str, dtype: pl.DataType) -> pl.Expr:
    if isinstance(dtype, pl.Datetime):
        zoned = pl.col(source).dt.cast_time_unit("us")
        return zoned.dt.replace_time_zone("UTC") if dtype.time_zone is None else zoned.dt.convert_time_zone("UTC")
    if dtype == pl.Date:
        return pl.col(source).cast(pl.Datetime("us"))
    value = value_of(source, dtype)
    if dtype.is_numeric():
        return _since_1970(value)
    return value.cast(pl.String, strict=False).map_batches(_parse_moments, return_dtype=_MOMENT)


def _parse_moments(text: pl.Series) -> pl.Series:
    text = text.str.replace_all("/", "-", literal=True)
    text = text.str.replace("T", " ", literal=True).str.strip_suffix("Z")
    parsed = text.str.to_datetime(_TIME, time_unit="us", strict=False).dt.replace_time_zone("UTC")
    if parsed.null_count() == text.null_count():
        return parsed
    # The other spellings are rare, and each costs a pass.
    number = text.cast(pl.Float64, strict=False).alias("number")
    zoned = text.str.to_datetime(_TIME + "%z", time_unit="us", time_zone="UTC", strict=False)
    return pl.select(
        pl.coalesce(parsed, zoned, number.to_frame().select(_since_1970(pl.col("number"))).to_series())
    ).to_series()


def _since_1970(number: pl.Expr) -> pl.Expr:
    number = number.cast(pl.Float64)
    size = number.abs()
    micros = (
        pl.when(size < 1e11).then(number * 1e6)
        .when(size < 1e14).then(number * 1e3)
        .when(size < 1e17).then(number)
        .otherwise(number / 1e3)
    )  # fmt: skip
    whole = micros.round().cast(pl.Int64, strict=False)
    return whole.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")


def read_as(name: str, source: str) -> Rule:
    """Return the rule by which a source column is read as the declared column `name`; units stay."""
    if FLOW_COLUMNS[name].dtype == pl.String:
        return text(source)
    return {"start": moment, "label": truth, "protocol": protocol}.get(name, given)(source)
