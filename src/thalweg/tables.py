"""The tables that rooms exchange: their columns, dtypes and units, and `conform`, which makes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Final, final

import numpy as np
import numpy.typing as npt
import polars as pl

from thalweg.addresses import in_usual_spelling
from thalweg.errors import ModelError, SchemaError
from thalweg.tally import Tally


@final
@dataclass(frozen=True, slots=True)
class Column:
    """One declared column: its dtype, whether every source must have it, and what it means."""

    dtype: pl.DataType
    needed: bool
    meaning: str


FLOW_COLUMNS: Final[Mapping[str, Column]] = {
    "row": Column(pl.UInt64(), False, "row number in its file, from 0, malformed rows included"),
    "start": Column(pl.Datetime("us", "UTC"), False, "first packet, UTC; null if the source has none"),
    "duration_ms": Column(pl.Float64(), True, "last packet minus first packet, milliseconds"),
    "src_addr": Column(pl.String(), True, "address of the side that opened the flow, IPv4 or IPv6"),
    "dst_addr": Column(pl.String(), True, "address of the other side"),
    "fwd_bytes": Column(pl.UInt64(), True, "bytes from src_addr to dst_addr"),
    "bwd_bytes": Column(pl.UInt64(), True, "bytes from dst_addr to src_addr"),
    "src_port": Column(pl.UInt16(), False, "transport port of src_addr"),
    "dst_port": Column(pl.UInt16(), False, "transport port of dst_addr"),
    "protocol": Column(pl.UInt8(), False, "IANA protocol number: 6 TCP, 17 UDP, 1 ICMP"),
    "tcp_flags": Column(pl.UInt16(), False, "bitwise OR of all TCP flags seen"),
    "fwd_packets": Column(pl.UInt64(), False, "packets from src_addr to dst_addr"),
    "bwd_packets": Column(pl.UInt64(), False, "packets from dst_addr to src_addr"),
    "exporter": Column(pl.String(), False, "the exporter that reported the flow"),
    "sampling": Column(pl.UInt32(), False, "one packet in this many was sampled"),
    "initiator": Column(pl.String(), False, "how src_addr was chosen: exporter, flags, ports, time or unknown"),
    "continued": Column(pl.Boolean(), False, "true if an earlier part of the same flow was reported before"),
    "label": Column(pl.Boolean(), False, "true for an attack; used only to judge scores"),
    "attack": Column(pl.String(), False, "the attack's class; used only to judge scores"),
}
"""The columns of `Flows`, in order. If the source lacks an optional column, so does `Flows`."""

SCORE_COLUMNS: Final[Mapping[str, Column]] = {
    "score": Column(pl.Float32(), True, "1 - P(the flow's edge exists), from 0, usual, to 1, strange"),
    "logit": Column(pl.Float32(), True, "log-odds that the edge exists; lower is stranger; does not saturate"),
    "anomalous": Column(pl.Boolean(), True, "score above the model's threshold"),
}
"""The columns that scoring adds, in order."""

_SHOWN: Final = 60
FIRST_US: Final = -62_135_596_800_000_000
LAST_US: Final = 253_402_300_799_999_999
"""The times that datetimes of Python and others can hold, years 1 to 9999, us since 1970; any other is no time."""

NEEDED: Final = tuple(name for name, column in FLOW_COLUMNS.items() if column.needed)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Flows:
    """One row per flow, made only by `conform`; edge i of every graph built from it is row i.

    `frame` holds the declared columns. `source` holds all columns of the file or table that was read, for the same
    rows, so that results can keep them; None if it had none. `origin` identifies the file that was read; None if it was
    no file, or more than one. `tally` counts what reading changed or left out.
    """

    frame: pl.DataFrame
    source: pl.DataFrame | None = None
    origin: Origin | None = None
    tally: Tally = field(default_factory=Tally)

    def __len__(self) -> int:
        return self.frame.height

    def __getitem__(self, rows: slice) -> Flows:
        """Return a slice of the rows. Raises ValueError if the slice has a step."""
        if rows.step not in (None, 1):
            raise ValueError("flows keep their order: a slice has no step; use filter()")
        offset, stop, _ = rows.indices(len(self))
        num = max(stop - offset, 0)
        source = None if self.source is None else self.source.slice(offset, num)
        return Flows(self.frame.slice(offset, num), source, self.origin)

    def filter(self, keep: npt.NDArray[np.bool_]) -> Flows:
        """Return the rows that `keep` marks, in order. keep: (E,) bool."""
        mask = pl.Series(keep)
        source = None if self.source is None else self.source.filter(mask)
        return Flows(self.frame.filter(mask), source, self.origin)

    def wide(self) -> pl.DataFrame:
        """Return the source's own columns and the declared ones side by side, for expressions over both.

        If both have a column of the same name, the result has the declared one.
        """
        if self.source is None:
            return self.frame
        return self.source.drop(self.frame.columns, strict=False).hstack(self.frame)

    def output(self) -> pl.DataFrame:
        """Return the rows as the user gave them: the source's own columns or, if there are none, the declared ones."""
        return self.frame.drop("row", strict=False) if self.source is None else self.source


@final
@dataclass(frozen=True, slots=True)
class Origin:
    """The content that flows were read from; equal for copies of a file under different names."""

    name: str
    digest: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Origin) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """How strange each flow is. Row i belongs to row i of `flows`.

    score: (E,) float32 in [0, 1], 1 - P(edge exists); logit: (E,) float32; anomalous: (E,) bool.
    """

    flows: Flows
    score: npt.NDArray[np.float32]
    logit: npt.NDArray[np.float32]
    anomalous: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.score)

    def output(self, tally: Tally | None = None) -> pl.DataFrame:
        """Return every input column plus `score`, `logit`, `anomalous`.

        An input column with one of these names becomes `input_<name>` and is counted. If that name is taken, too, as in
        a table that was scored twice, it becomes `input_input_<name>`.
        """
        given = self.flows.output()
        taken = [name for name in SCORE_COLUMNS if name in given.columns]
        if taken and tally is not None:
            tally.add("renamed_columns", len(taken) - tally["renamed_columns"], ", ".join(taken))
        new_names: dict[str, str] = {}
        for name in taken:
            new = f"input_{name}"
            while new in given.columns or new in new_names.values():
                new = f"input_{new}"
            new_names[name] = new
        return given.rename(new_names).with_columns(
            pl.Series("score", self.score, pl.Float32),
            pl.Series("logit", self.logit, pl.Float32),
            pl.Series("anomalous", self.anomalous, pl.Boolean),
        )


def check_scores(logit: npt.NDArray[np.floating], **others: npt.NDArray[np.generic] | pl.Series | None) -> None:
    """Check that logits are numbers, and that other columns of the same flows are as long.

    logit: (E,); others: (E,) each, by the names that an error gives them.

    Raises: SchemaError if the lengths differ; ModelError if a logit is not a number.
    """
    for name, column in others.items():
        if column is not None and len(column) != len(logit):
            raise SchemaError(f"{name} has {len(column):,} rows, the scores have {len(logit):,}: pass the same flows")
    wrong = np.isnan(logit)
    if wrong.any():
        raise ModelError(
            f"{int(wrong.sum()):,} of {len(logit):,} logits are not a number "
            f"(first: row {int(wrong.argmax())}): the model is broken; fit it again"
        )


def concat(parts: Iterable[Flows]) -> Flows:
    """Concatenate runs of flows. Raises ValueError if there are none.

    The result has source columns if all parts have them; a column that only some parts have is filled with null. It has
    an origin if all parts share it.
    """
    runs = list(parts)
    if not runs:
        raise ValueError("concat needs at least one part")
    if len(runs) == 1:
        return runs[0]
    frame = pl.concat([run.frame for run in runs], how="diagonal", rechunk=True)
    frame = frame.select([name for name in FLOW_COLUMNS if name in frame.columns])
    sources = [run.source for run in runs]
    source = (
        None
        if any(s is None for s in sources)
        else pl.concat([s for s in sources if s is not None], how="diagonal_relaxed", rechunk=True)
    )
    origin = runs[0].origin if all(run.origin == runs[0].origin for run in runs) else None
    tally = Tally()
    for run in runs:
        tally.merge(run.tally)
    return Flows(frame, source, origin, tally)


def missing_column(names: Sequence[str], found: Sequence[str], subject: str) -> SchemaError:
    """Return the error for absent columns: it names these, the nearest spellings, and the columns found."""
    parts = []
    for name in names:
        near = get_close_matches(name.lower(), [f.lower() for f in found], n=1, cutoff=0.6)
        spelled = next((f for f in found if near and f.lower() == near[0]), None)
        parts.append(f"{name!r}" + (f" (did you mean {spelled!r}?)" if spelled else ""))
    return SchemaError(
        f"{subject}: no column for {', '.join(parts)}. Columns found: {', '.join(found) or 'none'}. "
        f"Name them with --map, for example --map {names[0]}=COLUMN."
    )


def conform(
    frame: pl.DataFrame,
    *,
    source: pl.DataFrame | None = None,
    origin: Origin | None = None,
    subject: str = "table",
    first_row: int = 0,
    line_offset: int | None = None,
    strict: bool = False,
    exact: bool = False,
    tally: Tally | None = None,
) -> Flows:
    """Make `Flows` from a frame whose columns have the declared names, in any castable dtype.

    Rows with a needed field that is missing, negative, not whole (bytes), not finite or not a number are left out and
    counted as `malformed_rows`. Addresses are written in their usual spelling, and flows of hosts that are names are
    counted as `named_hosts`. Optional values that do not fit become null and are counted as `unreadable_values`.
    Columns that are not declared are ignored; pass them in `source`.

    Args:
        frame: columns by declared name.
        source: the reader's own columns for the same rows, which the result keeps.
        origin: the content that the rows come from.
        subject: the name of the table in errors, usually the file's.
        first_row: row number in the file of the frame's first row.
        line_offset: line number of row 0 in a text file, for messages; None if there are no lines.
        strict: raise an error at the first malformed row.
        exact: the caller guarantees that every value is valid and has its declared dtype: nothing is cast or checked.
        tally: the counts to add to; a new one by default.

    Raises SchemaError if a needed column is absent, a column cannot be cast or, with `strict`, a row is malformed.
    """
    absent = [name for name in NEEDED if name not in frame.columns]
    if absent:
        raise missing_column(absent, (source if source is not None else frame).columns, subject)
    tally = Tally() if tally is None else tally
    if "row" not in frame.columns:
        frame = frame.with_columns(pl.int_range(first_row, first_row + frame.height, dtype=pl.UInt64).alias("row"))
    names = [name for name in FLOW_COLUMNS if name in frame.columns]
    if exact:
        wrong = [name for name in names if frame.schema[name] != FLOW_COLUMNS[name].dtype]
        assert not wrong, f"{subject}: {wrong} are not of their declared type"
        return Flows(frame.select(names), source, origin, tally)
    try:
        cast = frame.select(_cast(frame.schema[name], name) for name in names)
    except pl.exceptions.PolarsError as error:
        raise SchemaError(
            f"{subject}: a column has a type that cannot be read as declared: {str(error).splitlines()[0]}"
        ) from error
    sides = {name: in_usual_spelling(cast[name]) for name in ("src_addr", "dst_addr")}
    cast = cast.with_columns(texts.alias(name) for name, (texts, _) in sides.items())
    hosts = pl.DataFrame([texts.set(~is_name, None).alias(name) for name, (texts, is_name) in sides.items()])
    good = cast.select(_is_good()).to_series()

    def place(row: int) -> str:
        return f"{subject}, " + (f"row {row}" if line_offset is None else f"line {row + line_offset}")

    if not good.all():
        bad = ~good
        first = int(cast["row"].filter(bad)[0])
        if strict:
            raise SchemaError(f"{place(first)}: {_why(frame, cast, bad.arg_true()[0])}")
        tally.add("malformed_rows", int(bad.sum()), place(first))
        cast = cast.filter(good)
        frame = frame.filter(good)
        hosts = hosts.filter(good)
        source = None if source is None else source.filter(good)
    for name in names:
        lost = cast[name].null_count() - frame[name].null_count()
        if lost > 0:
            at = (cast[name].is_null() & frame[name].is_not_null()).arg_max() or 0
            tally.add("unreadable_values", lost, f"{place(int(cast['row'][at]))}, column {name}")
    host = hosts.select(pl.coalesce(pl.all())).to_series()
    if num_named := len(host) - host.null_count():
        at = host.is_not_null().arg_max() or 0
        tally.add("named_hosts", num_named, f"{place(int(cast['row'][at]))}, {host[at][:_SHOWN]!r}")
    return Flows(cast, source, origin, tally)


def _cast(dtype: pl.DataType, name: str) -> pl.Expr:
    wanted = FLOW_COLUMNS[name].dtype
    column = pl.col(name)
    if dtype == wanted and not isinstance(wanted, pl.String | pl.Datetime):
        return column
    if wanted.is_integer() and (dtype.is_float() or dtype == pl.String):
        # "12" and "12.0" are both 12; "12.5" is no count. First try u64, whose largest values f64 cannot hold.
        stripped = column.str.strip_chars() if dtype == pl.String else column
        real = stripped.cast(pl.Float64, strict=False)
        whole = pl.when((real == real.round()) & (real >= 0)).then(real).cast(wanted, strict=False)
        return pl.coalesce(stripped.cast(wanted, strict=False), whole).alias(name) if dtype == pl.String else whole
    if isinstance(wanted, pl.String):
        if name.endswith("_addr") and (dtype.is_numeric() or dtype == pl.Binary):
            raise SchemaError(f"{name} holds {dtype}, not text: write addresses as 10.0.0.1 or 2001:db8::1")
        text = column.cast(pl.String, strict=False).str.strip_chars()
        return pl.when(text != "").then(text).alias(name)
    if isinstance(wanted, pl.Datetime):
        if dtype == pl.String:
            return time_of_us(column.str.to_datetime(time_unit="us", time_zone="UTC", strict=False)).alias(name)
        return time_of_us(us_of(column, dtype)).alias(name)
    return (column.str.strip_chars() if dtype == pl.String else column).cast(wanted, strict=False)


def us_of(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Return dates and times as us since 1970, UTC if they name no zone; whole numbers are us already."""
    unit = "D" if dtype == pl.Date else dtype.time_unit if isinstance(dtype, pl.Datetime) else "us"
    number = column.cast(pl.Int64, strict=False)
    if unit == "ns":
        return number // 1000
    factor = {"D": 86_400_000_000, "ms": 1000}.get(unit, 1)
    return pl.when(number.is_between(FIRST_US // factor, LAST_US // factor)).then(number * factor)


def time_of_us(us: pl.Expr) -> pl.Expr:
    """Return us since 1970, or a datetime in us, as times in UTC; null if no datetime can hold them."""
    number = us.cast(pl.Int64, strict=False)
    return pl.when(number.is_between(FIRST_US, LAST_US)).then(number).cast(pl.Datetime("us", "UTC"))


def _is_good() -> pl.Expr:
    there = pl.all_horizontal(pl.col(name).is_not_null() for name in NEEDED)
    return (there & pl.col("duration_ms").is_finite() & (pl.col("duration_ms") >= 0)).fill_null(False)


def _why(frame: pl.DataFrame, cast: pl.DataFrame, at: int) -> str:
    for name in NEEDED:
        given, got = frame[name][at], cast[name][at]
        if given is None:
            return f"{name} is missing"
        if got is None or (name == "duration_ms" and not 0 <= got < float("inf")):
            return f"{name} is {given!r}, not {FLOW_COLUMNS[name].meaning}"
    return "malformed"
