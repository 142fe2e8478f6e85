"""Whatever the rows, the format and the size of the runs, the same flows are read."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.ingest import read
from thalweg.ingest.streams import cut_records
from thalweg.tables import NEEDED, conform

COLUMNS = {
    "src_addr": pl.String, "dst_addr": pl.String, "duration_ms": pl.Float64, "fwd_bytes": pl.Int64,
    "bwd_bytes": pl.UInt64, "src_port": pl.Int64, "note": pl.String,
}  # fmt: skip

addresses = st.sampled_from(["10.0.0.1", "192.168.1.200", "2001:db8::1", "fe80::1%eth0", "printer"])
words = st.text(st.characters(exclude_categories=["C"]), max_size=6)
row = st.fixed_dictionaries(
    {
        "src_addr": addresses | st.none(),
        "dst_addr": addresses,
        "duration_ms": st.floats(-1, 1e300, allow_nan=False) | st.none(),
        "fwd_bytes": st.integers(-(2**63), 2**63 - 1) | st.integers(0, 10),
        "bwd_bytes": st.integers(0, 2**64 - 1) | st.none(),
        "src_port": st.integers(-5, 70_000) | st.none(),
        # An empty text and no text look the same in a CSV file.
        "note": words.filter(lambda text: text.strip() == text and text != "") | st.none(),
    }
)


def flows_of(text_or_frame: str | pl.DataFrame, suffix: str, **options: Any) -> tuple[list[Any], dict[str, int]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"t.{suffix}"
        if isinstance(text_or_frame, str):
            path.write_text(text_or_frame, newline="")
        else:
            text_or_frame.write_parquet(path, row_group_size=3)
        flows = read(path, **options)
    assert flows.source is not None
    notes = flows.source["note"].cast(pl.String).to_list()
    return [*flows.frame.rows(), *notes], flows.tally.as_dict()


@settings(max_examples=60)
@given(st.lists(row, min_size=1, max_size=30), st.integers(1, 40))
def test_all_formats_and_sizes_agree(rows: list[dict[str, Any]], chunk_rows: int) -> None:
    # One row that is a flow, and text in every text column: a file without any flow is an error.
    rows.append(
        {"src_addr": "a", "dst_addr": "b", "duration_ms": 0.5, "fwd_bytes": 1, "bwd_bytes": 1, "src_port": 1,
         "note": "end"}
    )  # fmt: skip
    frame = pl.DataFrame(rows, schema=COLUMNS)
    wanted = conform(frame, source=frame)
    assert wanted.source is not None
    expected = [*wanted.frame.rows(), *wanted.source["note"].to_list()]
    text = frame.write_csv()
    lines = "\n".join(json.dumps(one, ensure_ascii=False) for one in rows)
    for content, suffix in (
        (text, "csv"),
        (text.replace("\n", "\r\n"), "csv"),
        (lines, "jsonl"),
        (frame, "parquet"),
    ):
        got, counts = flows_of(content, suffix, chunk_rows=chunk_rows)
        assert got == expected
        assert counts == wanted.tally.as_dict()


@settings(max_examples=60)
@given(st.data())
def test_every_row_is_either_a_flow_or_counted(data: st.DataObject) -> None:
    cell = st.sampled_from(["1", "10.0.0.1", "", "x", "-1", "1.5", " 7 ", "1e3", "99999999999999999999"])
    width = st.integers(0, 3).map(lambda extra: len(NEEDED) + 2 - extra)
    rows = data.draw(st.lists(width.flatmap(lambda n: st.lists(cell, min_size=n, max_size=n)), max_size=40))
    rows = [one for one in rows if one] + [["0", "a", "b", "0", "0", "n"]]
    header = [*NEEDED, "note"]
    text = "\n".join(",".join(one) for one in [header, *rows])
    many, _ = counted = flows_of(text, "csv")
    assert counted == flows_of(text, "csv", chunk_rows=data.draw(st.integers(1, 10)))
    num_flows = len(many) // 2
    assert num_flows + counted[1].get("malformed_rows", 0) == len(rows)
    good = [i for i, one in enumerate(rows) if len(one) == len(header)]
    assert {flow[0] for flow in many[:num_flows]} <= set(good)


@settings(max_examples=150)
@given(
    st.lists(st.lists(st.text(st.sampled_from('a",\n'), max_size=5), min_size=1, max_size=4), max_size=12),
    st.integers(1, 60),
    st.integers(1, 30),
)
def test_records_are_cut_where_they_end(rows: list[list[str]], block_bytes: int, piece: int) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    content = text.getvalue().encode()
    pieces = (content[at : at + piece] for at in range(0, len(content), piece))
    blocks = list(cut_records(pieces, block_bytes, ","))
    assert b"".join(block.data for block in blocks) == content
    cut = [one for block in blocks for one in _cut(block.data, block.ends.tolist())]
    assert [next(csv.reader(io.StringIO(one, newline="")), []) for one in cut] == rows


def _cut(data: bytes, ends: list[int]) -> Iterator[str]:
    at = 0
    for end in ends:
        yield data[at : end + 1].decode()
        at = end + 1
    assert at == len(data)


@settings(max_examples=100)
@given(st.text(st.sampled_from('a",\n'), max_size=60), st.integers(1, 60))
def test_no_byte_is_lost_however_quotes_stand(text: str, block_bytes: int) -> None:
    content = text.encode()
    blocks = list(cut_records(iter([content] if content else []), block_bytes, ","))
    joined = b"".join(block.data for block in blocks)
    assert joined in (content, content + b"\n")
    assert all(block.data[end] == 10 for block in blocks for end in block.ends.tolist())


def test_a_line_without_an_end_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thalweg.ingest.streams.MAX_LINE", 1000)
    with pytest.raises(Exception, match="a line is longer than"):
        list(cut_records(iter([b"x" * 500] * 10), 100, ","))
