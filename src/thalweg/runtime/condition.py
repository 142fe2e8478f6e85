"""Conditions in SQL on the rows of a table: expressions over its columns, which may come from an untrusted file.

Only the tokens, operators and functions listed here pass, and they are written out again before the SQL engine parses
them. So no query, table function, file or address can be reached, and what a condition costs is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

import polars as pl

from thalweg.errors import ConfigError

_MOST_CHARACTERS: Final = 100_000
_MOST_DEPTH: Final = 24
_MOST_OPERATORS: Final = 500
"""Polars walks through an expression recursively, one level for each of these."""
_MOST_SUMS: Final = 8
_LONGEST_TEXT: Final = 300
"""On texts, + makes longer ones, for every row."""
_LONGEST_SHOWN: Final = 200

_TOKEN: Final = re.compile(
    r"""(?P<space>\s+)
    |(?P<text>'(?:[^']|'')*')
    |(?P<column>"(?:[^"]|"")+"|`[^`]+`)
    |(?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?![\w.]))
    |(?P<word>[^\W\d][\w$]*(?:\.[^\W\d][\w$]*)*)
    |(?P<mark><=>|<>|!=|<=|>=|==|::|!~\*|!~|~\*|~|//|--|/\*|[-+*/%&|=<>(),])""",
    re.VERBOSE,
)
_PATTERNS: Final = {"LIKE", "ILIKE", "REGEXP", "RLIKE", "~", "!~", "~*", "!~*"}
"""Operators with a pattern on their right, which is compiled once if it is a text; Polars bounds its size."""
_OPERATORS: Final = _PATTERNS | {
    "AND", "OR", "NOT", "IS", "IN", "BETWEEN", "WHEN", "<=>", "<>", "!=", "<=", ">=", "==", "::", "//", "-",
    "+", "*", "/", "%", "&", "|", "=", "<", ">",
}  # fmt: skip
_KEYWORDS: Final = _OPERATORS | {"NULL", "TRUE", "FALSE", "CASE", "THEN", "ELSE", "END"}
_FUNCTIONS: Final = {
    "ABS", "CAST", "CEIL", "CEILING", "CHAR_LENGTH", "COALESCE", "DATE_PART", "ENDS_WITH", "EXP", "EXTRACT", "FLOOR",
    "GREATEST", "IFNULL", "LEAST", "LEFT", "LENGTH", "LN", "LOG", "LOG10", "LOG1P", "LOG2", "LOWER", "LTRIM", "NULLIF",
    "OCTET_LENGTH", "RIGHT", "ROUND", "RTRIM", "SIGN", "SQRT", "STARTS_WITH", "STRPOS", "SUBSTR", "TRY_CAST", "UPPER",
}  # fmt: skip
"""None of them makes more rows or longer text than it is given, or reads anything else."""
_TYPES: Final = {
    "BIGINT", "BOOLEAN", "DATE", "DATETIME", "DOUBLE", "FLOAT", "INT", "INTEGER", "REAL", "SMALLINT", "STRING", "TEXT",
    "TIME", "TIMESTAMP", "VARCHAR",
}  # fmt: skip
_LITERALS: Final = {"DATE", "INTERVAL", "TIME", "TIMESTAMP"}
_QUERIES: Final = {"EXISTS", "FROM", "SELECT", "TABLE", "UNION", "VALUES", "WITH"}
_PARTS: Final = {"DAY", "DOW", "HOUR", "ISODOW", "MINUTE", "MONTH", "QUARTER", "SECOND", "WEEK", "YEAR"}


class _Token(NamedTuple):
    """kind: text, number, mark, word, or column (text: its name without quotes). word: a word or mark in capitals."""

    kind: str
    text: str
    word: str = ""


def check_condition(where: str) -> None:
    """Check that a text can be a condition on some table.

    Raises ConfigError if it is a query, or has a function, a keyword or a size that conditions do not have.
    """
    _as_sql(where, ())


def rows_where(where: str, frame: pl.DataFrame) -> pl.Series:
    """Evaluate a condition on every row; null counts as false. Returns: (frame.height,) Boolean.

    Raises ConfigError if it is not a condition over these columns.
    """
    query = _as_sql(where, frame.columns)
    try:
        chosen = frame.sql(f"SELECT ({query}) AS chosen FROM self")["chosen"]
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, OverflowError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise ConfigError(
            f"cannot evaluate --where {_shown(where)}: {reason}. Columns: {', '.join(frame.columns)}"
        ) from error
    if chosen.dtype != pl.Boolean:
        raise _error(where, f"is not a condition: it gives {chosen.dtype}, not true or false")
    if len(chosen) != frame.height:
        raise _error(where, "gives one answer for the table, not one for each row")
    return chosen.fill_null(value=False)


def _as_sql(where: str, columns: Sequence[str]) -> str:
    """Return the condition as the SQL engine reads it, with every name of a column in quotes."""
    tokens = _checked(where)
    return " ".join(_written(where, tokens, i, columns) for i in range(len(tokens)))


@lru_cache(maxsize=8)
def _checked(where: str) -> tuple[_Token, ...]:
    """Return a condition's tokens, within all bounds."""
    if len(where) > _MOST_CHARACTERS:
        raise _error(where, f"has {len(where):,} characters: {_MOST_CHARACTERS:,} are allowed")
    tokens: list[_Token] = []
    depth = num_operators = num_sums = 0
    before = ""
    for token in _tokens(where):
        tokens.append(token)
        num_operators += token.word in _OPERATORS
        num_sums += token.word == "+"
        depth += (token.word in ("(", "CASE")) - (token.word in (")", "END"))
        if num_operators > _MOST_OPERATORS:
            raise _error(where, f"has more than {_MOST_OPERATORS} operators: write long lists as IN (…)")
        if num_sums > _MOST_SUMS:
            raise _error(where, f"has more than {_MOST_SUMS} times a +")
        if depth < 0:
            raise _error(where, f"has a {token.text} too many")
        if depth > _MOST_DEPTH:
            raise _error(where, f"is nested more than {_MOST_DEPTH} levels deep")
        if token.kind in ("text", "number") and len(token.text) > _LONGEST_TEXT:
            raise _error(where, f"has a {token.kind} of more than {_LONGEST_TEXT} characters")
        if before in _PATTERNS and token.kind != "text":
            raise _error(where, f"needs a text in quotes after {before}")
        before = token.word
    return tuple(tokens)


def _written(where: str, tokens: Sequence[_Token], i: int, columns: Sequence[str]) -> str:
    """Write one token as SQL."""
    token = tokens[i]
    if token.kind == "column":
        return _quoted(token.text)
    if token.kind != "word":
        return token.text
    if _is_own_word(tokens, i):
        return token.word
    if _word(tokens, i + 1) == "(":
        if token.word not in _FUNCTIONS:
            raise _error(where, f"has no function {token.text}: choose from {', '.join(sorted(_FUNCTIONS))}")
        return token.word
    if token.word in _QUERIES:
        raise _error(where, f"contains a query ({token.text}): write a condition over the columns of one row")
    if token.text in columns:
        return _quoted(token.text)
    return ".".join(map(_quoted, token.text.split(".")))  # a field of a structure


def _is_own_word(tokens: Sequence[_Token], i: int) -> bool:
    """Whether a word is SQL's in its place, and not the name of a column or function."""
    word, before, after = tokens[i].word, _word(tokens, i - 1), _word(tokens, i + 1)
    if word in _KEYWORDS:
        return True
    if word in _TYPES and before in ("AS", "::"):
        return True
    if word in _LITERALS and i + 1 < len(tokens) and tokens[i + 1].kind == "text":
        return True
    if word == "AS":
        return after in _TYPES
    if word == "DISTINCT":
        return before in ("IS", "NOT") and after == "FROM"
    if word in _PARTS:
        return before == "(" and _word(tokens, i - 2) == "EXTRACT"
    return word == "FROM" and (before == "DISTINCT" or (before in _PARTS and _word(tokens, i - 3) == "EXTRACT"))


def _tokens(where: str) -> Iterator[_Token]:
    at = 0
    while at < len(where):
        found = _TOKEN.match(where, at)
        if found is None or found[0] in ("--", "/*"):
            raise _error(where, f"cannot be read at {where[at : at + 20]!r}")
        at = found.end()
        kind, text = found.lastgroup, found[0]
        if kind == "column":
            yield _Token("column", text[1:-1].replace('""', '"') if text[0] == '"' else text[1:-1])
        elif kind in ("word", "mark"):
            yield _Token(kind, text, text.upper())
        elif kind in ("text", "number"):
            yield _Token(kind, text)


def _word(tokens: Sequence[_Token], i: int) -> str:
    return tokens[i].word if 0 <= i < len(tokens) else ""


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _error(where: str, what: str) -> ConfigError:
    return ConfigError(f"--where {_shown(where)} {what}")


def _shown(where: str) -> str:
    return repr(where if len(where) <= _LONGEST_SHOWN else f"{where[:_LONGEST_SHOWN]}…")
