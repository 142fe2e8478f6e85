"""Conditions: expressions over one row's columns, and nothing else that SQL has."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import polars as pl
import pytest

from thalweg.errors import ConfigError
from thalweg.runtime.condition import check_condition, rows_where

TABLE: Final = pl.DataFrame(
    {
        "num": [1, 2, None],
        "name": ["x\\", "it's", "w"],
        "id.orig_h": ["10.0.0.1", "10.0.0.2", "::1"],
        "nested": [{"part": 1}, {"part": 2}, {"part": 3}],
        "start": [datetime(2026, 3, 1, hour, tzinfo=UTC) for hour in (8, 9, 10)],
        'a "quoted" one': [1, 2, 3],
        "date": [1, 2, 3],
        "label": [True, False, None],
    }
)


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("num = 1", [0]),
        ("num == 1 OR num IS NULL", [0, 2]),
        ("NOT num = 1", [1]),
        ("num <> 1 AND num <= 2", [1]),
        ("num IN (1, 2) AND num NOT IN (2)", [0]),
        ("num BETWEEN 1.5 AND 2e0", [1]),
        ("num % 2 = 1 AND -num + 1 = 0", [0]),
        ("num & 1 = 1", [0]),
        ("num IS DISTINCT FROM 1", [1, 2]),
        (r"name = 'x\'", [0]),
        ("name = 'it''s'", [1]),
        ("name LIKE 'it%' OR name ~ '^w$'", [1, 2]),
        (r"name ~ '^.{2,4}$'", [0, 1]),
        ("UPPER(name) = 'W'", [2]),
        ("starts_with(name, 'x')", [0]),
        ("id.orig_h = '10.0.0.1'", [0]),
        ("\"id.orig_h\" = '10.0.0.1'", [0]),
        ("`num` = 1", [0]),
        ("nested.part > 1", [1, 2]),
        ('"a ""quoted"" one" = 3', [2]),
        ("date = 2", [1]),
        ("start < '2026-03-01 09:30'", [0, 1]),
        ("start >= '2026-03-01 09:00:00'", [1, 2]),
        ("EXTRACT(HOUR FROM start) = 9", [1]),
        ("date_part('hour', start) = 9", [1]),
        ("start::date = '2026-03-01' AND num::text = '2'", [1]),
        ("CAST(num AS DOUBLE) / 4 = 0.5", [1]),
        ("CASE WHEN num = 1 THEN FALSE ELSE TRUE END", [1, 2]),
        ("COALESCE(num, 7) = 7", [2]),
        ("label", [0]),
        ("NOT label", [1]),
        ("TRUE", [0, 1, 2]),
    ],
)
def test_a_condition_chooses_rows(where: str, rows: list[int]) -> None:
    check_condition(where)
    assert rows_where(where, TABLE).arg_true().to_list() == rows


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("num IN (FROM self)", "contains a query"),
        ("num IN (FROM read_csv('{file}'))", "contains a query"),
        ("num IN (SELECT num FROM read_csv('{file}'))", "contains a query"),
        ("num IN (\n/**/SELECT num FROM read_csv('{file}'))", "cannot be read at"),
        ("num IN (TABLE self)", "contains a query"),
        ("num IN (VALUES (1))", "has no function VALUES"),
        ("EXISTS (SELECT 1)", "has no function EXISTS"),
        ("num = ANY (SELECT 1)", "has no function ANY"),
        ("read_csv('{file}') = 1", "has no function read_csv"),
        ("read_parquet ('{file}') IS NULL", "has no function read_parquet"),
        ("\"read_csv\"('{file}') = 1", "cannot evaluate"),
        ("num = 1) OR (num = 2", "a ) too many"),
        ("num = 1; DROP TABLE self", "cannot be read at ';"),
        ("num = 1 -- and more", "cannot be read at '--"),
        ("name = 'open", "cannot be read at"),
        ("name = $$x$$", "cannot be read at"),
        ("E'\\x41' = name", "cannot evaluate"),
        ("MAX(num) > 1", "has no function MAX"),
        ("COUNT(*) > 1", "has no function COUNT"),
        ("num > 1 OVER (ORDER BY num)", "has no function OVER"),
        ("REPEAT(name, 1000000000) = 'x'", "has no function REPEAT"),
        ("LPAD(name, 1000000000) = 'x'", "has no function LPAD"),
        ("name ~ name", "needs a text in quotes after ~"),
        ("name LIKE name", "needs a text in quotes after LIKE"),
        ("num +", "cannot evaluate"),
        ("num + 1", "is not a condition"),
        ("colour = 'red'", "cannot evaluate"),
        ("", "cannot evaluate"),
        ("num = 0x10", "cannot be read at"),
        ("num = 1\x00", "cannot be read at"),
    ],
)
def test_what_is_no_condition_over_one_row_is_refused(where: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("num\n1\n")
    with pytest.raises(ConfigError, match="--where") as caught:
        rows_where(where.replace("{file}", str(file)), TABLE)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "where",
    [
        "(" * 100_000,
        "(" * 1_000 + "num = 1" + ")" * 1_000,
        "NOT " * 400 + "label",
        "- " * 400 + "num = 1",
        "num = " + "-".join(["num"] * 480),
        " OR ".join(["num = 1"] * 240),
        " OR ".join(["num = 1"] * 10_000),
        "num IN (" + ",".join(map(str, range(15_000))) + ")",
        "num IN (" + ",".join(map(str, range(1_000_000))) + ")",
        "name = '" + "x" * 1_000_000 + "'",
        "name" + " + name" * 300 + " = 'x'",
        "CASE WHEN label THEN " * 300 + "label" + " END" * 300,
        "ABS(" * 300 + "num" + ")" * 300 + " = 1",
        "num::text" + "::bigint::text" * 200 + " = '1'",
        "name ~ '((x{1000}){1000}){1000}'",
        "name ~ '" + r"(\w*.*)*" * 30 + "'",
        "name LIKE '" + "%_" * 100 + "'",
        "(num * 1000000000000000)::timestamp::text = 'x'",
        "(num * 1000000000000000)::date = '2026-01-01'",
        "INTERVAL '999999999999999999999999 years' = num",
        "DATE '99999-01-01' = start",
        "ROUND(num, 2000000000) = 1",
        "LEFT(name, 9223372036854775807) = 'x'",
        "num // 0 = 1 OR num % 0 = 1",
        "num = 1e99999",
        "num = " + "9" * 5_000,
    ],
    ids=lambda where: where[:24],
)
def test_no_condition_costs_much_or_ends_the_process(where: str) -> None:
    begun = time.process_time()
    said = ""
    try:
        assert len(rows_where(where, TABLE)) == TABLE.height
    except ConfigError as error:
        said = str(error)
    assert len(said) < 1_500
    assert time.process_time() - begun < 5.0
