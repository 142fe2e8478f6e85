"""Files, folders and standard input: every format, every count and every error."""

from __future__ import annotations

import gzip
import io
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pyarrow as pa
import pyarrow.ipc
import pytest
import zstandard

from thalweg.errors import SchemaError, SourceError
from thalweg.ingest import FileSource, ReadOptions, expand, read
from thalweg.tables import concat

HEADER = "src_addr,dst_addr,duration_ms,fwd_bytes,bwd_bytes,src_port,note\n"
ROWS = "".join(f"10.0.0.{i % 250},10.1.0.1,{i / 4},{i},{2 * i},{i},n{i}\n" for i in range(1000))
TABLE = HEADER + ROWS


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write(tmp_path / "t.csv", TABLE)


@pytest.mark.parametrize("name", ["t.csv.gz", "t.csv.zst", "no suffix", "t.parquet", "t.arrow", "t.arrows", "t.tsv"])
def test_every_format_gives_the_same_flows(tmp_path: Path, table: Path, name: str) -> None:
    wanted = read(table)
    path = tmp_path / name
    frame = wanted.source
    assert frame is not None
    if name.endswith("gz") or name == "no suffix":
        # Two members end to end, as `cat a.gz b.gz` makes them; recognised by their first bytes.
        write(path, gzip.compress(TABLE[:900].encode()) + gzip.compress(TABLE[900:].encode()))
    elif name.endswith("zst"):
        both = (zstandard.compress(TABLE[:900].encode()), zstandard.compress(TABLE[900:].encode()))
        write(path, b"".join(both))
    elif name.endswith("parquet"):
        frame.write_parquet(path, row_group_size=300)
    elif name.endswith("arrow"):
        frame.write_ipc(path)
    elif name.endswith("arrows"):
        frame.write_ipc_stream(path)
    else:
        frame.write_csv(path, separator="\t")
    flows = read(path, chunk_rows=128)
    assert flows.frame.equals(wanted.frame)
    assert flows.source is not None
    assert flows.source.equals(frame)


def test_runs_are_bounded_and_keep_the_order(table: Path, tmp_path: Path) -> None:
    pl.read_csv(table).write_parquet(tmp_path / "t.parquet", row_group_size=1000)
    for path in (table, tmp_path / "t.parquet"):
        source = FileSource(path, ReadOptions(chunk_rows=100))
        runs = list(source)
        assert max(map(len, runs)) <= 100
        rows = pl.concat([run.frame["row"] for run in runs])
        assert rows.to_list() == list(range(1000))
        assert sum(map(len, source)) == 1000  # each iteration reads again


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_flows_and_counts_are_the_same_each_time_and_in_runs_of_any_size(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"flows{suffix}"
    rows = [f"{i},10.0.0.{i % 9},10.0.1.1,{i},4" for i in range(50)] + ["x,10.0.0.1,10.0.1.1,1,2"]
    text = "\n".join(["duration_ms,src_addr,dst_addr,fwd_bytes,bwd_bytes", *rows, ""])
    if suffix == ".csv":
        path.write_text(text)
    else:
        pl.read_csv(text.encode(), infer_schema=False).write_parquet(path)
    source = FileSource(path)
    first = concat(source).frame
    counts = source.tally.as_dict()
    assert (first.height, counts) == (50, {"malformed_rows": 1})
    for _ in range(2):
        next(iter(source))  # left in the middle
        assert concat(source).frame.equals(first)
        assert source.tally.as_dict() == counts
    for size in (1, 7, 50, 200_000):
        other = FileSource(path, ReadOptions(chunk_rows=size))
        runs = list(other)
        assert max(map(len, runs)) <= size
        assert concat(runs).frame.equals(first)
        assert other.tally.as_dict() == counts


def test_rows_keep_their_numbers_where_others_are_malformed(tmp_path: Path) -> None:
    lines = TABLE.split("\n")
    lines[5] = "10.0.0.4,10.1.0.1,1,4,8,4"  # a field short
    lines[7] = "10.0.0.6,10.1.0.1,1,-6,12,6,n6"
    lines[9] = "10.0.0.8,10.1.0.1,1,8,16,8,n8,"  # one too many, so that the number of all fields is right
    lines[11] = ",10.1.0.1,1,8,16,8,n10"
    lines[13] = "10.0.0.12,10.1.0.1,1,12,24,70000,n12"
    path = write(tmp_path / "t.csv", "\n".join(lines))
    flows = read(path)
    assert [i for i in range(1000) if i not in set(flows.frame["row"])] == [4, 6, 8, 10]
    assert flows.tally.as_dict() == {"malformed_rows": 4, "unreadable_values": 1}
    assert flows.tally.lines()[0].endswith(f"(first: {path}, line 6)")
    assert flows.tally.lines()[1].endswith(f"(first: {path}, line 14, column src_port)")
    assert flows.source is not None
    assert flows.source["note"].to_list() == [f"n{i}" for i in range(1000) if i not in (4, 6, 8, 10)]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("1.1.1.1,2.2.2.2,1,1", r"line 502: the row does not have 7 fields"),
        ("1.1.1.1,2.2.2.2,1,1,1,1,n,n", r"line 502: the row does not have 7 fields"),
        ("1.1.1.1,2.2.2.2,x,1,1,1,n", r"line 502: duration_ms is 'x'"),
        ("1.1.1.1,2.2.2.2,nan,1,1,1,n", r"line 502: duration_ms is nan"),
        ("1.1.1.1,,1,1,1,1,n", r"line 502: dst_addr is missing"),
        ("1.1.1.1,2.2.2.2,1,1.5,1,1,n", r"line 502: fwd_bytes is '1.5'"),
    ],
)
@pytest.mark.parametrize("chunk_rows", [10, 200_000])
def test_strict_names_the_first_malformed_row(tmp_path: Path, line: str, why: str, chunk_rows: int) -> None:
    lines = TABLE.split("\n")
    lines[501], lines[800] = line, "short"
    path = write(tmp_path / "t.csv", "\n".join(lines))
    with pytest.raises(SchemaError, match=rf"t\.csv, {why}"):
        read(path, strict=True, chunk_rows=chunk_rows)
    assert read(path, chunk_rows=chunk_rows).tally["malformed_rows"] == 2


def test_values_of_other_columns_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thalweg.ingest.tabular.text.SAMPLE_BYTES", 200)
    rows = [f"a,b,1,1,1,80,{i}" for i in range(100)]
    rows[60] = "a,b,1,1.0,1,http,many"
    flows = read(write(tmp_path / "t.csv", HEADER + "\n".join(rows)))
    assert flows.source is not None
    assert flows.source["note"].to_list() == [None if i == 60 else i for i in range(100)]
    assert flows.source["fwd_bytes"][60] == 1
    assert flows.frame["src_port"].to_list() == [None if i == 60 else 80 for i in range(100)]
    assert flows.tally["unreadable_values"] == 2
    assert "line 62, column" in flows.tally.lines()[0]


def test_bom_crlf_and_blank_lines(tmp_path: Path, table: Path) -> None:
    text = "\ufeff" + TABLE.replace("\n", "\r\n") + "\r\n\r\n"
    flows = read(write(tmp_path / "dos.csv", text))
    assert flows.frame.equals(read(table).frame)
    assert not flows.tally
    assert flows.source is not None
    assert flows.source["note"][-1] == "n999"
    # A blank line in the middle is no row; line numbers after it are still right.
    lines = [*TABLE.split("\n")[:500], "", *TABLE.split("\n")[500:900], "short"]
    path = write(tmp_path / "gap.csv", "\n".join(lines))
    for chunk_rows in (4, 200_000):
        flows = read(path, chunk_rows=chunk_rows)
        assert flows.frame["row"].to_list() == list(range(899))
        assert flows.tally.lines()[0].endswith("gap.csv, line 902)")


def test_quoted_fields_hold_separators_quotes_and_newlines(tmp_path: Path) -> None:
    notes = ['a, "b"\nc', "", "plain", "\n\n", '"', ",,,,,,,", "x" * 3000 + "\ny"]
    frame = pl.DataFrame(
        {
            "src_addr": "10.0.0.1", "dst_addr": "10.0.0.2", "duration_ms": 1, "fwd_bytes": 1, "bwd_bytes": 1,
            "note": notes * 50,
        }
    )  # fmt: skip
    frame.write_csv(tmp_path / "q.csv", quote_style="always")
    for chunk_rows in (1, 3, 200_000):
        flows = read(tmp_path / "q.csv", chunk_rows=chunk_rows)
        assert flows.source is not None
        assert flows.source["note"].to_list() == notes * 50
        assert not flows.tally


def test_a_quote_that_is_never_closed_costs_its_line_only(tmp_path: Path) -> None:
    lines = TABLE.split("\n")[:-1]
    lines[100] = '10.0.0.1,10.1.0.1,1,1,1,1,"open'
    lines[200] = '10.0.0.1,10.1.0.1,1,1,1,1,5" disk'
    lines[300] = '10.0.0.1,10.1.0.1,1,1,1,1,"a, ""b"""'
    path = write(tmp_path / "t.csv", "\n".join(lines) + "\n")
    for chunk_rows in (4, 200_000):
        flows = read(path, chunk_rows=chunk_rows)
        assert flows.tally.as_dict() == {"malformed_rows": 1}
        assert flows.tally.lines()[0].endswith("line 101)")
        assert len(flows) == 999
        assert flows.source is not None
        assert flows.source["note"][198] == '5" disk'
        assert flows.source["note"][298] == 'a, "b"'


def test_text_that_is_not_utf8_is_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", (HEADER + "::1,::2,1,1,1,1,Web Attack X XSS\n").encode().replace(b"X ", b"\x96 "))
    flows = read(path)
    assert flows.source is not None
    assert flows.source["note"].to_list() == ["Web Attack \ufffd XSS"]
    assert flows.tally.as_dict() == {"undecodable_text": 1}


def test_columns_of_the_same_name_are_numbered(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", HEADER.replace("note", "fwd_bytes") + "a,b,1,10,1,1,20\n")
    flows = read(path)
    assert flows.source is not None
    assert flows.source.columns[-1] == "fwd_bytes_duplicated_0"
    assert flows.frame["fwd_bytes"][0] == 10


OBJECT = '{"src_addr":"::1","dst_addr":"::2","duration_ms":%s,"fwd_bytes":1,"bwd_bytes":2}'


def test_json_lines(tmp_path: Path) -> None:
    good = OBJECT % "1.5"
    lines = [
        good,
        "not json",
        good,
        "[1]",
        OBJECT % '"x"',
        good[:-1] + ',"extra":[1,{"a":2}]}',
        good[:20],
        good,
    ]
    path = write(tmp_path / "t.jsonl", "\n".join(lines))
    flows = read(path)
    assert flows.frame["row"].to_list() == [0, 2, 5, 7]
    assert flows.tally.as_dict() == {"malformed_rows": 4}
    assert flows.tally.lines()[0].endswith("line 2)")
    assert flows.source is not None
    assert flows.source["extra"][2] is not None
    with pytest.raises(SchemaError, match=r"line 2: the row is not a JSON object"):
        read(path, strict=True)


def test_json_keys_that_come_up_late_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thalweg.ingest.tabular.text.SAMPLE_BYTES", 300)
    good = OBJECT % "1"
    path = write(tmp_path / "t.jsonl", "\n".join([good] * 50 + [good[:-1] + ',"extra":1}'] * 3))
    flows = read(path, chunk_rows=2)
    assert flows.tally.as_dict() == {"late_columns": 1}
    assert len(flows) == 53


def test_standard_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, table: Path) -> None:
    pl.read_csv(table).write_parquet(tmp_path / "t.parquet")
    wanted = read(table)
    for content in (TABLE.encode(), gzip.compress(TABLE.encode()), (tmp_path / "t.parquet").read_bytes()):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
        flows = read("-")
        assert flows.frame.equals(wanted.frame)
        assert flows.origin is None
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"")))
    with pytest.raises(SourceError, match="standard input is empty"):
        read("-")


def test_a_renamed_copy_has_the_same_origin(tmp_path: Path, table: Path) -> None:
    copy = Path(shutil.copy(table, tmp_path / "copy.csv"))
    other = write(tmp_path / "other.csv", TABLE[:-2] + "x\n")
    assert read(table).origin == read(copy).origin
    assert read(table).origin != read(other).origin
    assert read([table, copy]).origin is not None
    assert read([table, other]).origin is None


def test_expand(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("b.csv", "a.csv.gz", "c.txt", ".hidden.csv", "in/d.parquet"):
        write(tmp_path / name, "x")
    assert expand(tmp_path) == [tmp_path / "a.csv.gz", tmp_path / "b.csv", tmp_path / "in/d.parquet"]
    assert expand(str(tmp_path / "*.csv")) == [tmp_path / "b.csv"]
    assert expand([tmp_path / "c.txt", "-"]) == [tmp_path / "c.txt", Path("-")]
    with pytest.raises(SourceError, match=r"\*\.json: no file matches"):
        expand(tmp_path / "*.json")
    with pytest.raises(SourceError, match=r"none\.csv: no such file"):
        expand(tmp_path / "none.csv")
    with pytest.raises(SourceError, match="no file was named"):
        expand([])
    (tmp_path / "bare").mkdir()
    with pytest.raises(SourceError, match=r"bare: the folder holds no flow files.*\.parquet"):
        expand(tmp_path / "bare")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (gzip.compress(b"", mtime=0), "is empty"),
        (HEADER.encode(), "holds a header but no flows"),
        (HEADER.encode()[:-1], "holds a header but no flows"),
        (HEADER.encode() + b"1,2\n3\n", "none of its 2 rows is a flow: 2 rows left out"),
        (b"\x7fELF\0\0\0", "is not a known format: readable formats are CSV"),
        (b"\xd4\xc3\xb2\xa1\x02\0\x04\0", "convert a packet capture to flows first"),
        (b"#separator \\x09\n#path\tconn\n", "a Zeek log without a #fields line"),
        (b"{oops\n", "the first line is not a JSON object"),
        (b"PAR1 and then nothing of the kind", "the Parquet file is damaged or incomplete"),
        (b"ARROW1\0\0 and then nothing", "the Arrow file is damaged or incomplete"),
    ],
)
def test_what_is_no_table_of_flows(tmp_path: Path, content: bytes, why: str) -> None:
    with pytest.raises(SourceError, match=rf"it\.csv.*{why}"):
        read(write(tmp_path / "it.csv", content))


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_truncated_compressed_files_say_how_far_they_were_read(tmp_path: Path, suffix: str) -> None:
    whole = gzip.compress(TABLE.encode()) if suffix == "gz" else zstandard.compress(TABLE.encode())
    path = write(tmp_path / f"t.csv.{suffix}", whole[: len(whole) * 3 // 4])
    with pytest.raises(SourceError, match=r"data ends early, after [\d,]+ rows had been read; fetch") as caught:
        read(path)
    if suffix == "gz":
        assert "after 0 rows" not in str(caught.value)
    damaged = bytearray(whole)
    damaged[len(whole) // 2 : len(whole) // 2 + 40] = bytes(40)
    with pytest.raises(SourceError, match=r"data is damaged|data ends early"):
        read(write(path, bytes(damaged)))


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_a_table_of_another_schema(tmp_path: Path, kind: str) -> None:
    frame = pl.DataFrame({"src_adr": ["a"], "dst_addr": ["b"], "duration_ms": [1], "fwd_bytes": [1], "bytes": [2]})
    path = tmp_path / f"t.{kind}"
    if kind == "parquet":
        frame.write_parquet(path)
    else:
        path.write_text(frame.write_csv() if kind == "csv" else frame.write_ndjson())
    wanted = r"no column for 'src_addr' \(did you mean 'src_adr'\?\), 'bwd_bytes'.*Columns found: src_adr, dst"
    with pytest.raises(SchemaError, match=wanted):
        read(path)


def test_a_damaged_parquet_file_says_how_far_it_was_read(tmp_path: Path, table: Path) -> None:
    path = tmp_path / "t.parquet"
    pl.read_csv(table).write_parquet(path, row_group_size=100, compression="snappy")
    content = bytearray(path.read_bytes())
    content[len(content) // 3 : len(content) // 2] = b"\xff" * (len(content) // 2 - len(content) // 3)
    with pytest.raises(SourceError, match=r"damaged or incomplete, after \d+ rows"):
        read(write(path, bytes(content)))


def test_an_empty_parquet_file(tmp_path: Path, table: Path) -> None:
    pl.read_csv(table).clear().write_parquet(tmp_path / "t.parquet")
    with pytest.raises(SourceError, match="holds a header but no flows"):
        read(tmp_path / "t.parquet")


def test_an_empty_hour_among_others_is_counted(tmp_path: Path, table: Path) -> None:
    empty = write(tmp_path / "a.csv", HEADER)
    flows = read([empty, table])
    assert len(flows) == 1000
    assert flows.tally.as_dict() == {"empty_files": 1}
    with pytest.raises(SourceError, match=r"b\.csv is empty"):
        read([empty, write(tmp_path / "b.csv", "")])


def test_zeek_columns_that_change_midway(tmp_path: Path) -> None:
    head = "#fields\tsrc_addr\tdst_addr\tduration_ms\tfwd_bytes\tbwd_bytes\n"
    row = "a\tb\t1\t2\t3\n"
    assert len(read(write(tmp_path / "ok.log", head + row + "#close\tnow\n" + head + row))) == 2
    path = write(tmp_path / "bad.log", head + row + head.replace("a", "e") + row)
    with pytest.raises(SourceError, match=r"bad\.log, line 3: the log's columns change here"):
        read(path)


def test_a_stray_comment_does_not_balance_a_short_row(tmp_path: Path) -> None:
    head = "#fields\tsrc_addr\tdst_addr\tduration_ms\tfwd_bytes\tbwd_bytes\tnote\n"
    flows = read(write(tmp_path / "c.log", head + "::1\t::2\t1\t2\t3\n#close\tnow\n::1\t::2\t1\t2\t3\tn\n"))
    assert flows.tally.as_dict() == {"malformed_rows": 1}
    assert flows.frame["row"].to_list() == [1]


def test_arrow_batches_are_cut_to_size(tmp_path: Path) -> None:
    batch = pa.record_batch(
        {"src_addr": ["a"] * 10, "dst_addr": ["b"] * 10, "duration_ms": [1] * 10, "fwd_bytes": [1] * 10,
         "bwd_bytes": [1] * 10}
    )  # fmt: skip
    with pyarrow.ipc.new_file(str(tmp_path / "t.arrow"), batch.schema) as writer:
        writer.write_batch(batch)
    assert [len(run) for run in FileSource(tmp_path / "t.arrow", ReadOptions(chunk_rows=4))] == [4, 4, 2]
