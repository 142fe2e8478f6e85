"""The dialects of data sets and tools, and how a table's dialect is recognised by its columns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final, final

import polars as pl

from thalweg.errors import ConfigError, SchemaError
from thalweg.ingest.tabular.dialects.collectors import CLOUD_DIALECTS
from thalweg.ingest.tabular.dialects.rules import (
    PORTED,
    Dialect,
    Others,
    Rule,
    Schema,
    boolean,
    boolean_of,
    count_or_zero,
    given,
    is_unset,
    protocol,
    read_as,
    seconds,
    text,
    timestamp,
    value_of,
)
from thalweg.tables import FLOW_COLUMNS, NEEDED, missing_column

MAPPABLE: Final = tuple(name for name in FLOW_COLUMNS if name != "row")
"""The declared columns that a source column can be mapped to; `row` is always the position in the file."""

WRAPPED_ABOVE_MS: Final = 4_290_000
"""An NF-* duration above this is a 32-bit counter of microseconds (at most 4,294,967 ms) that wrapped below zero."""


_NF_V1: Final[Mapping[str, Rule]] = {
    "duration_ms": given("FLOW_DURATION_MILLISECONDS"),
    "src_addr": text("IPV4_SRC_ADDR"),
    "dst_addr": text("IPV4_DST_ADDR"),
    "fwd_bytes": given("IN_BYTES"),
    "bwd_bytes": given("OUT_BYTES"),
    "src_port": given("L4_SRC_PORT"),
    "dst_port": given("L4_DST_PORT"),
    "protocol": protocol("PROTOCOL"),
    "tcp_flags": given("TCP_FLAGS"),
    "fwd_packets": given("IN_PKTS"),
    "bwd_packets": given("OUT_PKTS"),
    "label": boolean("Label"),
    "attack": text("Attack"),
}
_NF_MARKS: Final = frozenset({"IPV4_SRC_ADDR", "IPV4_DST_ADDR", "IN_BYTES", "OUT_BYTES", "FLOW_DURATION_MILLISECONDS"})
_NF_HINTS: Final[Schema] = {
    **dict.fromkeys(("L7_PROTO", "FTP_COMMAND_RET_CODE"), pl.Float64()),
    **dict.fromkeys(("SRC_TO_DST_SECOND_BYTES", "DST_TO_SRC_SECOND_BYTES"), pl.Float64()),
}


def _botnet(schema: Schema) -> pl.Expr:  # noqa: ARG001 - every rule takes the dtypes
    return pl.col("Label").cast(pl.String).str.to_lowercase().str.contains("botnet", literal=True)


def _argus_port(source: str) -> Rule:
    def expr(schema: Schema) -> pl.Expr:
        text = value_of(source, schema[source]).cast(pl.String)
        # Instead of ports, Argus writes an ICMP type and code or an ESP index in hexadecimal.
        ported = pl.col("Proto").cast(pl.String).str.strip_chars().str.to_lowercase().is_in(PORTED)
        return pl.when(ported | ~text.str.starts_with("0x")).then(text)

    return Rule((source, "Proto"), expr)


def _argus_bwd_bytes(schema: Schema) -> pl.Expr:
    total, sent = (value_of(name, schema[name]).cast(pl.Int64, strict=False) for name in ("TotBytes", "SrcBytes"))
    return total - sent


def _zeek_attack(schema: Schema) -> pl.Expr:
    kind = pl.when(~is_unset("detailed-label", schema["detailed-label"])).then(
        value_of("detailed-label", schema["detailed-label"])
    )
    malicious = boolean_of(pl.col("label"), schema["label"])
    return pl.when(malicious).then(pl.coalesce(kind, pl.lit("Malicious")))


def _is_other_log(schema: Schema) -> pl.Expr:
    """Return an expression that is true for the lines of Zeek's other logs, each of which repeats a connection."""
    signs = []
    if "_path" in schema:
        signs.append(pl.col("_path").cast(pl.String, strict=False) != "conn")
    if "conn_state" in schema:
        signs.append(is_unset("conn_state", schema["conn_state"]))
    return pl.any_horizontal(signs) if signs else pl.lit(value=False)


DIALECTS: Final[Mapping[str, Dialect]] = {
    dialect.name: dialect
    for dialect in (
        Dialect("thalweg", frozenset(NEEDED), {name: read_as(name, name) for name in MAPPABLE}),
        Dialect("nf-v1", _NF_MARKS, _NF_V1, _NF_HINTS, wraps=True),
        Dialect("nf-v2", _NF_MARKS | {"CLIENT_TCP_FLAGS"}, _NF_V1, _NF_HINTS, wraps=True),
        Dialect(
            "nf-v3",
            _NF_MARKS | {"CLIENT_TCP_FLAGS", "FLOW_START_MILLISECONDS"},
            {"start": timestamp("FLOW_START_MILLISECONDS"), **_NF_V1},
            _NF_HINTS,
            wraps=True,
        ),
        Dialect(
            "binetflow",
            frozenset({"StartTime", "Dur", "SrcAddr", "DstAddr", "TotBytes", "SrcBytes"}),
            {
                "start": timestamp("StartTime"),
                "duration_ms": seconds("Dur"),
                "src_addr": text("SrcAddr"),
                "dst_addr": text("DstAddr"),
                "fwd_bytes": given("SrcBytes"),
                "bwd_bytes": Rule(("TotBytes", "SrcBytes"), _argus_bwd_bytes),
                "src_port": _argus_port("Sport"),
                "dst_port": _argus_port("Dport"),
                "protocol": protocol("Proto"),
                "label": Rule(("Label",), _botnet),
                "attack": Rule(("Label",), lambda schema: pl.when(_botnet(schema)).then(pl.lit("Botnet"))),
            },
            dict.fromkeys(("Sport", "Dport", "Proto", "StartTime", "Label"), pl.String()),
        ),
        Dialect(
            "zeek",
            frozenset({"id.orig_h", "id.resp_h", "proto", "conn_state"}),
            {
                "start": timestamp("ts"),
                "duration_ms": seconds("duration", zero_if_unset=True),
                "src_addr": text("id.orig_h"),
                "dst_addr": text("id.resp_h"),
                "fwd_bytes": count_or_zero("orig_bytes"),
                "bwd_bytes": count_or_zero("resp_bytes"),
                "src_port": given("id.orig_p"),
                "dst_port": given("id.resp_p"),
                "protocol": protocol("proto"),
                "fwd_packets": given("orig_pkts"),
                "bwd_packets": given("resp_pkts"),
                "label": boolean("label"),
                "attack": Rule(("detailed-label", "label"), _zeek_attack),
            },
            {"duration": pl.Float64(), "uid": pl.String(), "service": pl.String(), "history": pl.String()},
            unset="-",
            others=Others(
                "other_events",
                ("_path", "conn_state"),
                _is_other_log,
                re.compile(rb'"_path"'),
                re.compile(rb'"_path"\s*:\s*"conn"'),
                marks=frozenset({"_path", "ts"}),
            ),
        ),
        *CLOUD_DIALECTS,
    )
}
"""All dialects by name. Add one here; `docs/formats.md` has a table for each."""


@final
@dataclass(frozen=True, slots=True)
class Recognition:
    """What a table was recognised as: the dialect's name, the rules in effect, and what it says of rows and values."""

    dialect: str
    rules: Mapping[str, Rule]
    hints: Schema
    unset: str | None
    wraps: bool
    others: Others | None = None
    one_way: bool = False
    nested: bool = False

    def used(self) -> frozenset[str]:
        """Return the source columns that any declared column is read from."""
        return frozenset(source for rule in self.rules.values() for source in rule.sources)

    def dtype(self, source: str, guessed: pl.DataType) -> pl.DataType:
        """Return the dtype to parse a text column with: the guess, unless it could be too narrow."""
        if source in self.hints:
            return self.hints[source]
        # A duration between two timestamps is a number; the timestamps may be text.
        names = [
            name
            for name, rule in self.rules.items()
            if source == rule.sources[0] and (name != "duration_ms" or len(rule.sources) == 1)
        ]
        for wanted in (FLOW_COLUMNS[name].dtype for name in names):
            # One 12.5 among the first rows must not round counts above 2^53.
            if isinstance(wanted, pl.String | pl.Float64 | pl.UInt64):
                return wanted
        # Polars guesses 128 bits from a single huge number; CSV writers and SQL do not support that.
        return pl.Float64() if guessed in (pl.Int128, pl.UInt128) else guessed


def recognise(
    columns: Sequence[str],
    *,
    dialect: str | None = None,
    mapping: Mapping[str, str] | None = None,
    sparse: bool = False,
    subject: str = "table",
) -> Recognition:
    """Choose how a table with these columns is read.

    Of several dialects that match, the one with most marks wins. mapping: declared name -> source column; it overrides
    or extends the dialect, or is used alone. sparse: a column without values may be absent, as in JSON lines.

    Raises SchemaError if the mapping names a column that the table lacks, or a needed column has no source. Raises
    ConfigError if no dialect has that name.
    """
    mapping = mapping or {}
    for column in columns:
        if column == "*" or (column.startswith("^") and column.endswith("$")):
            raise SchemaError(f"{subject}: Polars reads the name of the column {column!r} as a pattern: rename it")
    for name, source in mapping.items():
        if source not in columns:
            near = get_close_matches(source.lower(), [c.lower() for c in columns], n=1, cutoff=0.6)
            spelled = next((c for c in columns if near and c.lower() == near[0]), None)
            raise SchemaError(
                f"{subject}: --map {name}={source} names a column that is not there"
                + (f" (did you mean {spelled!r}?)" if spelled else "")
                + f". Columns found: {', '.join(columns)}."
            )
    if dialect is not None:
        chosen = known(dialect)
    else:
        fits = [d for d in DIALECTS.values() if d.marks.issubset(columns)]
        fits = fits or [d for d in DIALECTS.values() if sparse and _has_only_others(d, columns)]
        # If no dialect matches, our own names are tried, and the error lists the missing columns.
        chosen = max(fits, key=lambda d: len(d.marks)) if fits else DIALECTS["thalweg"]
    # In a log of several kinds of lines, the first lines may not be flows and so lack their columns.
    is_mixed = sparse and (chosen.nested or _has_only_others(chosen, columns))
    rules: dict[str, Rule] = {}
    for name, given_rules in chosen.rules.items():
        options = given_rules if isinstance(given_rules, tuple) else (given_rules,)
        fitting = [rule for rule in options if set(rule.sources).issubset(columns)]
        may_be_absent = is_mixed and name not in ("label", "attack")
        fitting = fitting or [rule for rule in options if may_be_absent or (sparse and rule.zero_if_unset)]
        if fitting:
            rules[name] = fitting[0]
    rules |= {name: read_as(name, source) for name, source in mapping.items()}
    absent = [name for name in NEEDED if name not in rules]
    if absent:
        raise missing_column(absent, columns, subject)
    wraps = chosen.wraps and "duration_ms" not in mapping
    return Recognition(
        chosen.name, rules, chosen.hints, chosen.unset, wraps, chosen.others, chosen.one_way, chosen.nested
    )


def _has_only_others(dialect: Dialect, columns: Sequence[str]) -> bool:
    """Return whether the first lines are of a dialect, but hold no flow."""
    marks = frozenset() if dialect.others is None else dialect.others.marks
    return bool(marks) and marks.issubset(columns) and not dialect.marks.issubset(columns)


def known(dialect: str) -> Dialect:
    """Return the dialect of that name. Raises ConfigError with the known names if there is none."""
    if dialect not in DIALECTS:
        raise ConfigError(f"no dialect named {dialect!r}: the known ones are {', '.join(DIALECTS)}")
    return DIALECTS[dialect]
