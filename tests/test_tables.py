from __future__ import annotations

import polars as pl
import pytest

from tests.conftest import make_flows
from thalweg.errors import SchemaError
from thalweg.tables import FLOW_COLUMNS, NEEDED, Flows, Scores, concat, conform
from thalweg.tally import Tally

FIVE = {
    "duration_ms": ["1"],
    "src_addr": ["10.0.0.1"],
    "dst_addr": ["::1"],
    "fwd_bytes": ["7"],
    "bwd_bytes": ["0"],
}


def test_five_fields_are_enough_and_get_their_dtypes() -> None:
    flows = conform(pl.DataFrame(FIVE))
    assert set(NEEDED) | {"row"} == set(flows.frame.columns)
    assert all(flows.frame.schema[name] == FLOW_COLUMNS[name].dtype for name in flows.frame.columns)


@pytest.mark.parametrize(
    ("column", "value"),
    [("fwd_bytes", "-1"), ("fwd_bytes", "x"), ("fwd_bytes", "1.5"), ("bwd_bytes", "18446744073709551616"),
     ("src_addr", ""),
     ("src_addr", None), ("duration_ms", "-0.1"), ("duration_ms", "nan"), ("duration_ms", "inf")],
)  # fmt: skip
def test_a_malformed_row_is_counted_with_its_line_and_never_fatal_unless_strict(column: str, value: str | None) -> None:
    frame = pl.concat([pl.DataFrame(FIVE), pl.DataFrame(FIVE | {column: [value]}), pl.DataFrame(FIVE)])
    flows = conform(frame, subject="june.csv", line_offset=2)
    assert len(flows) == 2
    assert flows.frame["row"].to_list() == [0, 2]
    assert flows.tally["malformed_rows"] == 1
    assert "june.csv, line 3" in flows.tally.lines()[0]
    with pytest.raises(SchemaError, match=rf"june.csv, line 3: {column}"):
        conform(frame, subject="june.csv", line_offset=2, strict=True)


def test_counts_may_be_written_as_whole_floats_and_are_exact_to_the_last_u64() -> None:
    frame = pl.DataFrame(FIVE | {"fwd_bytes": ["12.0"], "bwd_bytes": ["18446744073709551615"]})
    assert conform(frame).frame.select("fwd_bytes", "bwd_bytes").row(0) == (12, 2**64 - 1)


def test_an_optional_value_that_does_not_fit_becomes_null_and_is_counted() -> None:
    flows = conform(pl.DataFrame(FIVE | {"dst_port": ["70000"]}))
    assert flows.frame["dst_port"].to_list() == [None]
    assert flows.tally["unreadable_values"] == 1


def test_the_error_for_a_missing_column_names_those_found_and_the_nearest_spelling() -> None:
    with pytest.raises(SchemaError, match=r"'src_addr' \(did you mean 'srcaddr'\?\).*Columns found: .*--map src_addr="):
        conform(pl.DataFrame(FIVE).rename({"src_addr": "srcaddr"}))


def test_slices_filters_and_joins_keep_order_and_source() -> None:
    frame = make_flows(50).frame
    flows = conform(frame.drop("row"), source=pl.DataFrame({"id": range(50)}))
    again = concat([flows[:7], flows[7:7], flows[7:]])
    assert again.frame.equals(flows.frame)
    assert again.source is not None
    assert again.source["id"].to_list() == list(range(50))
    with pytest.raises(ValueError, match="order"):
        flows[::-1]


def test_scores_keep_every_input_column_and_rename_those_that_collide(flows: Flows) -> None:
    import numpy as np

    given = Flows(flows.frame, pl.DataFrame({"score": ["mine"] * len(flows), "b": range(len(flows))}))
    num = len(flows)
    scores = Scores(given, np.zeros(num, np.float32), np.ones(num, np.float32), np.zeros(num, bool))
    tally = Tally()
    out = scores.output(tally)
    assert out.columns == ["input_score", "b", "score", "logit", "anomalous"]
    assert tally["renamed_columns"] == 1


def test_scores_can_be_scored_again_and_again(flows: Flows) -> None:
    import numpy as np

    num = len(flows)
    frame = flows.output()
    for _ in range(3):
        again = Flows(flows.frame, frame)
        frame = Scores(again, np.zeros(num, np.float32), np.ones(num, np.float32), np.zeros(num, bool)).output()
    assert frame.columns[-1] == "anomalous"
    assert "input_input_score" in frame.columns


@pytest.mark.parametrize("value", [167772161, b"\x0a\x00\x00\x01"])
def test_addresses_are_text(value: object) -> None:
    with pytest.raises(SchemaError, match=r"10\.0\.0\.1"):
        conform(pl.DataFrame(FIVE | {"src_addr": [value]}))


def test_times_may_be_dates_or_microseconds() -> None:
    from datetime import UTC, date, datetime

    for value in (date(2026, 1, 2), 1767312000000000, datetime(2026, 1, 2), "2026-01-02 00:00:00"):  # noqa: DTZ001  # naive on purpose
        flows = conform(pl.DataFrame(FIVE | {"start": [value]}))
        assert flows.frame["start"].to_list() == [datetime(2026, 1, 2, tzinfo=UTC)]


def test_a_count_needs_a_declared_name() -> None:
    with pytest.raises(KeyError, match="MEANINGS"):
        Tally().add("oops")


def test_hosts_that_are_names_are_counted_with_the_first_of_them() -> None:
    frame = pl.DataFrame({**FIVE, "src_addr": ["10.0.0.1"]})
    rows = [("10.0.0.1/32", "::1"), ("-", "::1"), ("10.0.0.1", "nas"), ("10.0.0.1:53", "nas"), ("10.0.0.1", "::1")]
    frame = pl.concat([frame.with_columns(src_addr=pl.lit(a), dst_addr=pl.lit(b)) for a, b in rows])
    flows = conform(frame, line_offset=2)
    assert flows.frame["src_addr"].to_list() == ["10.0.0.1", "10.0.0.1", "10.0.0.1:53", "10.0.0.1"]
    assert flows.tally.as_dict() == {"malformed_rows": 1, "named_hosts": 2}
    assert flows.tally.lines()[1].endswith("(first: table, line 4, 'nas')")
