"""Pieces of logs -> flows: as a whole file of the same lines is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.ingest.feeds.logs.test_feed import HEADER, lines
from thalweg.errors import ThalwegError
from thalweg.ingest import ReadOptions
from thalweg.ingest import read as read_whole
from thalweg.ingest.feeds.logs.reader import LogReader
from thalweg.tables import Flows


def test_a_piece_without_flows_is_no_trouble_and_one_that_is_no_table_is_counted() -> None:
    reader = LogReader()
    stats = '{"timestamp":"2026-03-01T10:00:05.1+0100","event_type":"stats","stats":{"uptime":8}}\n'
    assert not list(reader.read(stats.encode(), 0))
    assert reader.tally.as_dict() == {"other_events": 1}
    assert not list(reader.read(b"", 0))
    assert not list(reader.read(HEADER.encode(), 0))
    for bad in (b"\0\1\2", b"a,b\n1,2\n", b"#separator \\x09\n1\t2\n"):
        with pytest.raises(ThalwegError):
            list(reader.read(bad, 0))
    assert not list(reader.read(HEADER.encode() + HEADER.encode()[:20] + b"\n", 0))
    assert reader.tally["other_events"] == 1


def test_runs_have_a_bounded_number_of_rows() -> None:
    reader = LogReader(ReadOptions(chunk_rows=3, strict=True))
    runs = list(reader.read((HEADER + "broken\n" + lines(*range(8))).encode(), 0))
    assert [len(run) for run in runs] == [3, 3, 2]
    assert reader.tally.as_dict() == {"malformed_rows": 1}


ZEEK = {"ts": 1.5, "id.orig_h": "10.0.0.1", "id.resp_h": "10.0.0.2", "proto": "tcp", "conn_state": "S0"}
EVE = {
    "timestamp": "2026-03-01T10:00:05.000001+0100", "flow_id": 1, "event_type": "flow", "src_ip": "10.0.0.1",
    "src_port": 50000, "dest_ip": "10.0.0.2", "dest_port": 443, "proto": "TCP", "tcp": {"tcp_flags": "1b"},
    "flow": {
        "pkts_toserver": 10, "pkts_toclient": 8, "bytes_toserver": 1420, "bytes_toclient": 9800,
        "start": "2026-03-01T10:00:00.250000+0100", "end": "2026-03-01T10:00:01.500000+0100",
    },
}  # fmt: skip
ODD: list[dict[str, object]] = [
    {}, {"src_port": "70000"}, {"proto": 17}, {"tcp": "none"}, {"flow": {"bytes_toserver": 12.5}}, {"flow": None},
    {"src_ip": 7}, {"src_port": None}, {"event_type": "dns"}, {"late": {"a": [1]}}, {"orig_bytes": 2.5},
    {"duration": "1.25", "orig_bytes": "7"}, {"duration": [1]}, {"resp_bytes": -1}, {"id.orig_p": True},
]  # fmt: skip


@pytest.mark.parametrize("base", [ZEEK, EVE])
@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("end", ["", "{broken\n"])
def test_a_piece_is_read_as_a_file_of_the_same_lines_is(
    tmp_path: Path, base: dict[str, object], odd: dict[str, object], end: str
) -> None:
    text = "".join(json.dumps(one) + "\n" for one in (base, base | odd, base)) + end
    (tmp_path / "log.json").write_text(text)
    expected = read_whole(tmp_path / "log.json")
    reader = LogReader()
    (run,) = reader.read(text.encode(), 0)
    assert isinstance(run, Flows)
    assert run.frame.to_dicts() == expected.frame.to_dicts()
    counts = expected.tally.as_dict()
    # A value that is lost from a column that is not kept does not count.
    assert reader.tally.as_dict() == {name: num for name, num in counts.items() if name != "late_columns"}
