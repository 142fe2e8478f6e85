"""Files and pieces made to stop a run: each is read, counted or refused by name, in bounded memory."""

from __future__ import annotations

import gzip
import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
import zstandard

from tests.ingest.seeds import seeds
from thalweg.errors import SinkError, SourceError
from thalweg.ingest import FileSource, read
from thalweg.ingest.feeds.folder import FolderReader
from thalweg.ingest.feeds.kafka.reader import KafkaReader, json_lines
from thalweg.ingest.feeds.logs.reader import LogReader
from thalweg.ingest.feeds.watched import pack_paths
from thalweg.ingest.records import NO_TIME, Records, flows_of, no_records, records_of
from thalweg.ingest.streams import PIECE, pieces_of
from thalweg.sinks.table_file import TableFile
from thalweg.tables import Flows

HEADER = "start,duration_ms,src_addr,dst_addr,fwd_bytes,bwd_bytes\n"
ROW = "2026-01-01T00:00:00,5,10.0.0.1,10.0.0.2,1,2\n"
GOFLOW: dict[str, Any] = {
    "time_received_ns": 1700000000000000000, "sampler_address": "10.0.0.9", "bytes": 100, "packets": 2,
    "time_flow_start_ns": 1700000000000000000, "time_flow_end_ns": 1700000001000000000, "src_addr": "10.0.0.1",
    "dst_addr": "10.0.0.2", "proto": "TCP",
}  # fmt: skip


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def flows_table(num: int = 4, **columns: Any) -> pa.Table:
    """Return flows with other columns beside them, or in place of them."""
    table = {
        "duration_ms": pa.array([5.0] * num), "src_addr": pa.array(["10.0.0.1"] * num),
        "dst_addr": pa.array(["10.0.0.2"] * num), "fwd_bytes": pa.array([1] * num), "bwd_bytes": pa.array([2] * num),
    }  # fmt: skip
    return pa.table(table | columns)


def arrow_file(table: pa.Table, codec: str | None = None) -> bytes:
    content = io.BytesIO()
    with pa.ipc.new_file(content, table.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
        writer.write_table(table)
    return content.getvalue()


# Text ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reader", [LogReader(), KafkaReader(subject="kafka://broker/flows")])
def test_half_of_a_surrogate_pair_is_one_bad_line(reader: LogReader) -> None:
    lines = b"".join(json.dumps(one).encode() + b"\n" for one in (GOFLOW, GOFLOW | {"etype": "\ud800"}, GOFLOW))
    damaged = lines.replace(b'"packets": 2', b'"packets": [1]', 1)  # what cannot be parsed at once is parsed by lines
    (run,) = reader.read(json_lines(damaged) or b"", 0)
    assert len(run) == 2
    assert reader.tally["malformed_rows"] == 1


def test_half_of_a_surrogate_pair_in_a_key_or_a_file(tmp_path: Path) -> None:
    content = json.dumps(GOFLOW) + "\n" + json.dumps(GOFLOW | {"\udfff": 1}) + "\n{broken\n"
    flows = read(write(tmp_path / "f.json", content))
    assert (len(flows), flows.tally.as_dict()) == (1, {"malformed_rows": 2})


def test_lines_may_end_with_a_carriage_return_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "f.csv", (HEADER + ROW * 3).replace("\n", "\r"))
    assert len(read(path)) == 3
    (run,) = LogReader().read(path.read_bytes(), 0)
    assert len(run) == 3


def test_carriage_returns_within_fields_are_no_error_of_python(tmp_path: Path) -> None:
    mixed = HEADER.replace("\n", "\r") + ROW
    with pytest.raises(SourceError, match=r"f\.csv, line 1: not a header"):
        read(write(tmp_path / "f.csv", mixed))
    stray = HEADER.replace("\n", ",note\n") + ROW.replace("\n", ',a "b\rc"\n') + ROW.replace("\n", ",d\n")
    flows = read(write(tmp_path / "f.csv", stray))
    assert flows.tally["malformed_rows"] + len(flows) == 2


@pytest.mark.parametrize("separator", ["", "ab", "\\x0a", "\\xff", "\\x5c", '"', "#"])
def test_a_zeek_log_with_an_absurd_separator_is_refused(tmp_path: Path, separator: str) -> None:
    text = f"#separator {separator}\n#fields\tts\tid.orig_h\n1\t2\n"
    with pytest.raises(SourceError, match=r"z\.log, line 1: .* cannot separate"):
        read(write(tmp_path / "z.log", text))
    with pytest.raises(SourceError, match="cannot separate"):
        list(LogReader().read(text.encode(), 0))


@pytest.mark.parametrize("deep", ["[" * 500 + "]" * 500, '{"a":' * 500 + "1" + "}" * 500, "[" * 100_000])
def test_lists_within_lists_take_no_time(tmp_path: Path, deep: str) -> None:
    good = json.dumps(GOFLOW)
    path = write(tmp_path / "f.json", f'{good}\n{good[:-1]}, "x": {deep}}}\n{good}\n')
    flows = read(path)
    assert len(flows) + flows.tally["malformed_rows"] == 3


def test_lines_of_ever_other_keys_stay_small(tmp_path: Path) -> None:
    lines = [json.dumps(GOFLOW | {f"key{i}": i, "x": {f"inner{i}": i}}) for i in range(20_000)]
    flows = read(write(tmp_path / "f.json", "\n".join(lines)))
    assert len(flows) == 20_000
    assert flows.source is not None
    assert flows.source.width <= 2_048 + 1


def test_too_many_columns_are_refused(tmp_path: Path) -> None:
    for name, content in (
        ("f.csv", ",".join(f"c{i}" for i in range(5_000)) + "\n"),
        ("f.log", "#fields\t" + "\t".join(f"c{i}" for i in range(5_000)) + "\n"),
    ):
        with pytest.raises(SourceError, match=r"columns; a table has at most 2,048"):
            read(write(tmp_path / name, content))


def test_lines_of_nothing_stay_small(tmp_path: Path) -> None:
    blank = zstandard.compress(HEADER.encode() + ROW.encode() + b"\n" * (1 << 24))
    source = FileSource(write(tmp_path / "f.csv.zst", blank))
    assert sum(map(len, source)) == 1


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_compressed_text_comes_in_pieces(compress: Callable[[bytes], bytes]) -> None:
    packed = compress(bytes(1 << 28))
    sizes = [len(piece) for piece in pieces_of(packed, io.BytesIO())]
    assert sum(sizes) == 1 << 28
    assert max(sizes) <= 64 * PIECE


def test_long_cells_are_refused_before_they_fill_the_memory(tmp_path: Path) -> None:
    long = ROW.replace("\n", "," + "x" * 1_000_000 + "\n")
    path = write(tmp_path / "f.csv.zst", zstandard.compress((HEADER.replace("\n", ",note\n") + long * 400).encode()))
    with pytest.raises(SourceError, match=r"f\.csv\.zst, after \d+ rows: .* more than flows can need"):
        read(path)


# Parquet and Arrow ---------------------------------------------------------------------------------------------------


def test_a_long_text_of_a_dictionary_is_refused(tmp_path: Path) -> None:
    note = pa.DictionaryArray.from_arrays(pa.array(np.zeros(200_000, np.int32)), pa.array(["x" * 1_000_000]))
    table = flows_table(200_000, note=note)
    for path, content in (("f.arrow", arrow_file(table)), ("g.arrow", arrow_file(table, "zstd"))):
        with pytest.raises(SourceError, match=r"after \d+ rows: .* more than flows can need"):
            read(write(tmp_path / path, content))
    for store_schema in (True, False):
        pq.write_table(table, tmp_path / "f.parquet", store_schema=store_schema)
        assert (tmp_path / "f.parquet").stat().st_size < 200_000
        with pytest.raises(SourceError, match=r"after \d+ rows: .* more than flows can need"):
            read(tmp_path / "f.parquet")
    reader = FolderReader()
    list(reader.read(pack_paths([tmp_path / "f.parquet"], {}).payload, 0))
    assert reader.tally["unreadable_files"] == 1


@pytest.mark.parametrize("how", [{}, {"data_page_version": "2.0"}, {"column_encoding": {"note": "DELTA_BYTE_ARRAY"}}])
def test_pages_that_decompress_to_far_more_are_refused(tmp_path: Path, how: dict[str, Any]) -> None:
    # Each text begins with all of the one before it, or is a page of zeros.
    table = flows_table(600, note=pa.array(["\0" * 1_000_000] * 600))
    pq.write_table(table, tmp_path / "f.parquet", compression="zstd", use_dictionary=False, **how)
    with pytest.raises(SourceError, match=r"expand to|more than flows can need"):
        read(tmp_path / "f.parquet")


def test_lists_of_a_few_bytes_are_refused(tmp_path: Path) -> None:
    offsets = pa.array(np.array([0, 40_000_000, 40_000_000], np.int32))
    many = pa.ListArray.from_arrays(offsets, pa.array(np.zeros(40_000_000, np.int8)))
    pq.write_table(flows_table(2, many=many), tmp_path / "f.parquet")
    with pytest.raises(SourceError, match=r"column many\S* expand to"):
        read(tmp_path / "f.parquet")


def test_text_in_dictionaries_is_read_as_other_text(tmp_path: Path) -> None:
    notes = [f"{'long ' * 400}{i % 7}" if i % 3 else None for i in range(5_000)]
    table = flows_table(5_000, note=pa.array(notes), pair=pa.array([{"a": one, "b": 1} for one in notes]))
    pq.write_table(table, tmp_path / "f.parquet", row_group_size=900)
    flows = read(tmp_path / "f.parquet")
    assert flows.source is not None
    assert flows.source["note"].to_list() == notes
    assert flows.source["pair"].struct.field("a").to_list() == notes


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_arrow_buffers_that_state_too_much_are_refused(tmp_path: Path, codec: str) -> None:
    # The size of a buffer stands before it, as eight bytes; the column has 8 MB of zeros.
    content = arrow_file(flows_table(1_000_000, zeros=pa.array(np.zeros(1_000_000, np.int64))), codec)
    at = content.index(struct.pack("<q", 8_000_000))
    for stated in (1 << 40, -5, (1 << 63) - 1):
        path = write(tmp_path / "f.arrow", content[:at] + struct.pack("<q", stated) + content[at + 8 :])
        with pytest.raises(SourceError, match=r"f\.arrow: .*(expand to|impossible size)"):
            read(path)


def test_rows_without_bytes_are_refused(tmp_path: Path) -> None:
    table = pa.table({name: pa.nulls(1_000_000) for name in flows_table().column_names})
    with pytest.raises(SourceError, match=r"states 1,000,000 rows, but holds 0 bytes"):
        read(write(tmp_path / "f.arrow", arrow_file(table)))


def test_an_arrow_batch_with_one_byte_changed_is_refused_or_read(tmp_path: Path) -> None:
    values = pa.array([f"10.0.0.{i}" for i in range(20)])
    addresses = pa.DictionaryArray.from_arrays(pa.array([i % 20 for i in range(400)], pa.int8()), values)
    content = arrow_file(flows_table(400, src_addr=addresses))
    indices = content.index(bytes(i % 20 for i in range(400)))
    with pytest.raises(SourceError, match=r"f\.arrow: the Arrow file is damaged"):
        read(write(tmp_path / "f.arrow", content[: indices + 5] + b"\x7f" + content[indices + 6 :]))
    offset = content.index(struct.pack("<3i", 0, 8, 16)) + 5
    with pytest.raises(SourceError, match=r"f\.arrow: the Arrow file is damaged"):
        read(write(tmp_path / "f.arrow", content[:offset] + b"\x40" + content[offset + 1 :]))


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_columns_of_every_type_are_read_or_left_out_and_counted(tmp_path: Path, ending: str) -> None:
    for name in ("odd.parquet", "odd-zstd.arrow", "odd-None.arrows"):
        flows = read(write(tmp_path / name, seeds()[name]))
        assert len(flows) == 12
        assert flows.source is not None
        assert flows.source["category"].to_list()[:3] == ["one", None, "three"]
        assert flows.source["much"].to_list()[:2] == [1.5, None]
        if name != "odd.parquet":
            assert flows.source["runs"].to_list() == ["x"] * 5 + ["y"] * 7
            assert flows.source["view"][0] == "a text that is longer than twelve bytes"
            assert flows.tally["unread_columns"] == 3
        with TableFile(tmp_path / f"out{ending}") as table:
            if ending == ".csv":
                with pytest.raises(SinkError, match="a column cannot be written"):  # no lists
                    table.write(flows.output())
            else:
                table.write(flows.output())


def test_times_that_no_datetime_holds_are_none(tmp_path: Path) -> None:
    far = [0, (1 << 63) - 1, -(1 << 63), 253_402_300_800_000_000]
    columns = {
        "start": pa.array(far, pa.timestamp("us")), "seconds": pa.array(far, pa.timestamp("s")),
        "day": pa.array([0, (1 << 31) - 1, -(1 << 31), 3_000_000], pa.date32()),
        "took": pa.array([1, 1 << 62, -(1 << 63), (1 << 63) - 1], pa.duration("s")),
        "zoned": pa.array([1] * 4, pa.timestamp("ms", "Mars/Olympus")),
    }  # fmt: skip
    table = flows_table(4, **columns)
    write(tmp_path / "f.arrow", arrow_file(table))
    flows = read(tmp_path / "f.arrow")
    assert flows.source is not None
    assert flows.frame["start"].is_null().to_list() == [False, True, True, True]
    for name in ("seconds", "day", "took"):
        assert flows.source[name].is_null().to_list() == [False, True, True, True]
    for ending in (".csv", ".jsonl", ".parquet"):
        with TableFile(tmp_path / f"out{ending}") as out:
            out.write(flows.output().drop("took"))


def test_numbers_that_are_no_times_are_counted(tmp_path: Path) -> None:
    for start in ("9e21", "1e300", "-9e21", "+99999-01-01T00:00:00Z", "inf"):
        flows = read(write(tmp_path / "f.csv", HEADER + ROW.replace("2026-01-01T00:00:00", start) + ROW))
        assert flows.frame["start"].is_null().to_list() == [True, False]
        assert flows.tally.as_dict() == {"unreadable_values": 1}


@pytest.mark.parametrize("cut", [9, 100, 1_000])
@pytest.mark.parametrize("name", ["snappy.parquet", "odd-zstd.arrow", "odd-None.arrows"])
def test_files_that_are_cut_short_give_an_error(tmp_path: Path, name: str, cut: int) -> None:
    with pytest.raises(SourceError, match=r"damaged or incomplete"):
        read(write(tmp_path / name, seeds()[name][:-cut]))


# Records -------------------------------------------------------------------------------------------------------------


def test_records_without_a_time_that_a_datetime_holds_have_none(tmp_path: Path) -> None:
    records: Records = no_records(5)
    records["start_us"] = [0, NO_TIME, 1 << 60, -(1 << 62), 1_000]
    records["end_us"] = [5_000, NO_TIME, (1 << 60) + 1, 0, (1 << 63) - 1]
    flows = flows_of([records], ["a"])
    assert flows.frame["start"].is_null().to_list() == [False, True, True, True, True]
    assert flows.frame["duration_ms"].to_list() == [5, 0, 0, 0, 0]
    assert flows.tally.as_dict() == {"unreadable_values": 4}
    for ending in (".csv", ".jsonl", ".parquet"):
        with TableFile(tmp_path / f"out{ending}") as out:
            out.write(flows.frame)


def test_an_endless_flow_ends_with_the_last_time() -> None:
    frame = pl.DataFrame(
        {
            "start": ["2026-01-01T00:00:00", None], "duration_ms": [1e300, 5.0], "src_addr": ["10.0.0.1"] * 2,
            "dst_addr": ["10.0.0.2"] * 2, "fwd_bytes": [1, 1], "bwd_bytes": [0, 0],
        }
    )  # fmt: skip
    from thalweg.tables import conform

    records = records_of(conform(frame), [], 7)
    assert records["end_us"][1] == 7 + 5_000
    assert isinstance(flows_of([records], ["a"]), Flows)
    assert flows_of([records], ["a"]).frame["start"].null_count() == 0


@pytest.mark.parametrize(
    "addresses",
    [
        pa.array([3221225985, 16777216, 4278190080, 17], pa.uint32()),
        pa.array([3221225985, 16777216, 4278190080, 17], pa.int64()),
        pa.array([3221225985 - (1 << 32), 16777216, -16777216, 17], pa.int32()),
        pa.array([b"\xc0\0\2\1", b"\1\0\0\0", b"\xff\0\0\0", b"seventeen"], pa.binary()),
        pa.array([b"192.0.2.1", b"1.0.0.0", b"255.0.0.0", b"17"], pa.binary()),
    ],
)
def test_addresses_of_other_types_are_read(tmp_path: Path, addresses: pa.Array) -> None:
    pq.write_table(flows_table(4, src_addr=addresses), tmp_path / "f.parquet")
    flows = read(tmp_path / "f.parquet")
    assert flows.frame["src_addr"].to_list()[:3] == ["192.0.2.1", "1.0.0.0", "255.0.0.0"]
    assert flows.tally.as_dict() == {"named_hosts": 1}


def test_addresses_of_sixteen_bytes_are_read(tmp_path: Path) -> None:
    addresses = pa.array([bytes.fromhex("20010db8" + "00" * 11 + "01"), b"2001:db8::1:2:34"], pa.binary())
    pq.write_table(flows_table(2, src_addr=addresses), tmp_path / "f.parquet")
    assert read(tmp_path / "f.parquet").frame["src_addr"].to_list() == ["2001:db8::1", "2001:db8::1:2:34"]
