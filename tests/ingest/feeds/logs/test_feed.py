"""Following logs: whole lines, every line once, through rotation, cuts and restarts."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import zstandard

from thalweg.errors import ConfigError, SourceError
from thalweg.ingest.feeds.feed import Feed, Piece, PieceReader, Position
from thalweg.ingest.feeds.logs import feed as following
from thalweg.ingest.feeds.logs.feed import LogFeed
from thalweg.ingest.feeds.logs.reader import LogReader
from thalweg.tables import Flows

FIELDS = "ts uid id.orig_h id.orig_p id.resp_h id.resp_p proto duration orig_bytes resp_bytes conn_state"
KINDS = "time string addr port addr port enum interval count count string"
HEADER = (
    (
        "#separator \\x09\n#set_separator\t,\n#empty_field\t(empty)\n#unset_field\t-\n#path\tconn\n"
        f"#fields\t{FIELDS}\n#types\t{KINDS}\n"
    )
    .replace(" ", "\t")
    .replace("#separator\t", "#separator ")
)
WIDER = HEADER.replace("\tconn_state", "\tlocal_orig\tconn_state").replace("count\tstring", "count\tbool\tstring")


def line(n: int) -> str:
    return f"{1_700_000_000 + n}.5\tC{n}\t10.0.0.1\t{n}\t10.0.0.2\t443\ttcp\t0.25\t100\t200\tSF\n"


def lines(*numbers: int) -> str:
    return "".join(line(n) for n in numbers)


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def age(path: Path, seconds: int) -> None:
    """Say when a log was last written to, as real ones differ by more than a clock's tick."""
    os.utime(path, (1_700_000_000 + seconds, 1_700_000_000 + seconds))


def read(pieces: Iterator[Piece] | list[Piece]) -> list[int]:
    """Read pieces one by one, each alone; rows are known by their port."""
    found: list[int] = []
    reader = LogReader()
    for piece in pieces:
        for run in reader.read(piece.payload, 0):
            assert isinstance(run, Flows)
            found += run.frame["src_port"].to_list()
    assert not reader.tally
    return found


FEEDS: list[LogFeed] = []
"""What a test has opened; closed when it is over."""


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while FEEDS:
        FEEDS.pop().close()


def opened(
    path: Path,
    position: Position | None = None,
    *,
    from_start: bool = False,
    piece_bytes: int = 3 << 20,
    now: Callable[[], float] = lambda: 0.0,
) -> LogFeed:
    feed = LogFeed(path, from_start=from_start, piece_bytes=piece_bytes, now=now)
    FEEDS.append(feed)
    feed.open(position)
    return feed


def test_a_log_feed_and_its_reading_are_what_the_protocols_say() -> None:
    assert isinstance(LogFeed("conn.log"), Feed)
    assert isinstance(LogReader(), PieceReader)


def test_only_new_lines_are_given_and_with_the_header(tmp_path: Path) -> None:
    log = tmp_path / "conn.log"
    log.write_text(HEADER + lines(1, 2))
    feed = opened(log)
    assert not list(feed.poll())
    append(log, lines(3, 4))
    pieces = list(feed.poll())
    assert [piece.payload.decode() for piece in pieces] == [HEADER + lines(3, 4)]
    assert read(pieces) == [3, 4]
    assert not list(feed.poll())
    assert not feed.ended
    assert not feed.tally


def test_a_log_is_read_from_its_start_when_asked(tmp_path: Path) -> None:
    log = tmp_path / "conn.log"
    log.write_text(HEADER + lines(1, 2))
    assert read(opened(log, from_start=True).poll()) == [1, 2]


def test_a_log_that_comes_later_is_read_from_its_start(tmp_path: Path) -> None:
    log = tmp_path / "conn.log"
    feed = opened(log)
    assert not list(feed.poll())
    log.write_text(HEADER)
    assert not list(feed.poll())
    append(log, line(1))
    assert read(feed.poll()) == [1]


def test_a_line_is_given_when_it_has_its_end(tmp_path: Path) -> None:
    log = tmp_path / "conn.log"
    log.write_text(HEADER + line(1) + line(2)[:20])
    feed = opened(log)
    assert not list(feed.poll())
    append(log, line(2)[20:-1])
    assert not list(feed.poll())
    append(log, "\n")
    assert read(feed.poll()) == [2]


@pytest.mark.parametrize("piece_bytes", [1, 100, 250, 10_000])
def test_any_growth_and_any_size_of_pieces_give_each_line_once(tmp_path: Path, piece_bytes: int) -> None:
    log = tmp_path / "conn.log"
    text = HEADER + lines(*range(20)) + WIDER + lines(*range(20, 25)).replace("\tSF", "\tT\tSF") + "#close\t2026\n"
    feed = opened(log, piece_bytes=piece_bytes)
    given = []
    for at in range(0, len(text), 37):
        append(log, text[at : at + 37])
        given += list(feed.poll())
    assert read(given) == list(range(25))
    assert all(len(piece.payload) <= piece_bytes + len(WIDER) + 2 * len(line(25)) for piece in given)


def test_a_new_log_with_other_columns_has_its_own_header(tmp_path: Path) -> None:
    log = tmp_path / "conn.log"
    log.write_text(HEADER)
    feed = opened(log)
    append(log, line(1))
    log.rename(tmp_path / "conn.2026-11-25-10-00-00.log")
    log.write_text(WIDER + line(2).replace("\tSF", "\tT\tSF"))
    pieces = list(feed.poll())
    assert read(pieces) == [1, 2]
    assert [piece.payload.decode().startswith(WIDER) for piece in pieces] == [False, True]


def test_a_renamed_log_is_read_to_its_end_first(tmp_path: Path) -> None:
    log, old = tmp_path / "conn.log", tmp_path / "conn.2026-11-25-10-00-00.log"
    log.write_text(HEADER + line(1))
    feed = opened(log)
    append(log, line(2))
    log.rename(old)
    assert read(feed.poll()) == [2]
    append(old, line(3))
    log.write_text(HEADER)
    append(old, line(4))
    append(log, lines(5, 6))
    assert read(feed.poll()) == [3, 4, 5, 6]
    assert not feed.tally


def test_a_renamed_log_is_written_to_until_its_program_reopens_it(tmp_path: Path) -> None:
    clock = [0.0]
    log, old = tmp_path / "eve.json", tmp_path / "eve.json.1"
    log.write_text("")
    feed = opened(log, now=lambda: clock[0])
    log.rename(old)
    log.write_text("")
    append(old, '{"a":1}\n')
    assert [piece.payload for piece in feed.poll()] == [b'{"a":1}\n']
    append(old, '{"a":2}\n')
    assert [piece.payload for piece in feed.poll()] == [b'{"a":2}\n']
    clock[0] = 60.0
    assert not list(feed.poll())
    append(log, '{"a":3}\n')
    assert [piece.payload for piece in feed.poll()] == [b'{"a":3}\n']


def test_the_last_line_of_a_finished_log_that_has_no_end_is_counted(tmp_path: Path) -> None:
    log = tmp_path / "conn.log"
    log.write_text(HEADER)
    feed = opened(log)
    append(log, line(1) + line(2)[:30])
    log.rename(tmp_path / "conn.log.1")
    log.write_text(HEADER + line(3))
    assert read(feed.poll()) == [1, 3]
    assert feed.tally.as_dict() == {"unfinished_lines": 1}


@pytest.mark.parametrize("after", [lines(4), lines(4, 5, 6, 7, 8)])
def test_a_log_that_was_cut_is_read_from_its_start(tmp_path: Path, after: str) -> None:
    log = tmp_path / "conn.log"
    log.write_text(HEADER)
    feed = opened(log)
    append(log, lines(1, 2, 3))
    assert read(feed.poll()) == [1, 2, 3]
    with log.open("r+") as file:
        file.truncate(0)
    append(log, after * 10)
    assert read(feed.poll()) == [int(one.split("\t")[3]) for one in after.splitlines() * 10]
    assert feed.tally.as_dict() == {"truncated_logs": 1}


def test_lines_that_are_too_long_are_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "MAX_LINE", 500)
    log = tmp_path / "conn.log"
    log.write_text(HEADER)
    feed = opened(log, piece_bytes=100)
    append(log, line(1) + "x" * 400)
    given = list(feed.poll())
    append(log, "x" * 700)
    given += list(feed.poll())
    append(log, "x" * 300 + "\n" + line(2))
    given += list(feed.poll())
    assert read(given) == [1, 2]
    assert feed.tally.as_dict() == {"overlong_lines": 1}


def _packed_gzip(path: Path) -> None:
    with gzip.open(f"{path}.gz", "wb") as file:
        file.write(path.read_bytes())
    _replaced(path, Path(f"{path}.gz"))


def _packed_zstd(path: Path) -> None:
    Path(f"{path}.zst").write_bytes(zstandard.ZstdCompressor().compress(path.read_bytes()))
    _replaced(path, Path(f"{path}.zst"))


def _replaced(path: Path, packed: Path) -> None:
    shutil.copystat(path, packed)
    path.unlink()


ROTATIONS: dict[str, Callable[[Path], None]] = {
    "renamed": lambda path: None,  # noqa: ARG005 - as it is
    "gzip": _packed_gzip,
    "zstd": _packed_zstd,
}


@pytest.mark.parametrize("pack", list(ROTATIONS))
@pytest.mark.parametrize("name", ["conn.2026-11-25-1{}-00-00.log", "conn.log.{}", "conn-26-11-25_1{}.00.00.log"])
def test_a_feed_that_is_killed_anywhere_goes_on_exactly_where_it_was(tmp_path: Path, pack: str, name: str) -> None:
    log = tmp_path / "conn.log"
    log.write_text(HEADER + lines(*range(10)))
    age(log, 0)
    pieces = list(opened(log, from_start=True, piece_bytes=120).poll())
    assert len(pieces) == 5
    (tmp_path / "conn-summary.log").write_text("no log of connections\n")
    for number, rows in enumerate([range(10, 15), range(15, 20)]):
        old = tmp_path / name.format(number)
        log.rename(old)
        ROTATIONS[pack](old)
        log.write_text(HEADER + lines(*rows))
        age(log, number + 1)
    for cut in range(1, len(pieces) + 1):
        feed = opened(log, pieces[cut - 1].position, piece_bytes=120)
        rest = list(feed.poll())
        assert read(pieces[:cut] + rest) == list(range(20))
        assert not feed.tally
        feed.close()
        again = opened(log, rest[len(rest) // 2].position, piece_bytes=120)
        assert read(pieces[:cut] + rest[: len(rest) // 2 + 1] + list(again.poll())) == list(range(20))
        again.close()


def test_a_feed_goes_on_in_the_same_log(tmp_path: Path) -> None:
    log = tmp_path / "conn.log"
    log.write_text(HEADER)
    feed = opened(log)
    append(log, lines(1, 2))
    (piece,) = feed.poll()
    feed.close()
    append(log, line(3))
    assert read(opened(log, piece.position).poll()) == [3]


def test_a_log_that_is_gone_is_counted_and_the_new_one_read(tmp_path: Path) -> None:
    log = tmp_path / "conn.log"
    log.write_text(HEADER + lines(1, 2))
    (piece,) = opened(log, from_start=True).poll()
    log.unlink()
    log.write_text(HEADER + lines(3, 4))
    feed = opened(log, piece.position)
    assert read(feed.poll()) == [3, 4]
    assert feed.tally.as_dict() == {"vanished_files": 1}


def test_a_log_that_was_copied_and_cut_meanwhile_is_found_in_the_copy(tmp_path: Path) -> None:
    log = tmp_path / "conn.log"
    log.write_text(HEADER + lines(1, 2))
    (piece,) = opened(log, from_start=True).poll()
    append(log, line(3))
    shutil.copy2(log, tmp_path / "conn.log.1")
    log.write_text(HEADER + lines(4, 5, 6, 7))
    assert read(opened(log, piece.position).poll()) == [3, 4, 5, 6, 7]


def test_a_damaged_packed_log_is_counted_and_the_next_one_read(tmp_path: Path) -> None:
    log = tmp_path / "conn.log"
    log.write_text(HEADER + lines(*range(2000)))
    age(log, 0)
    first = next(opened(log, from_start=True, piece_bytes=1000).poll())
    packed = gzip.compress(log.read_bytes())
    log.unlink()
    (tmp_path / "conn.log.1.gz").write_bytes(packed[: len(packed) // 2])
    age(tmp_path / "conn.log.1.gz", 0)
    log.write_text(HEADER + line(3000))
    feed = opened(log, first.position)
    found = read([first, *feed.poll()])
    assert found[:-1] == list(range(len(found) - 1))
    assert found[-1] == 3000
    assert feed.tally.as_dict() == {"unreadable_files": 1}


def test_a_log_with_a_byte_order_mark_and_a_first_half_line_is_still_json(tmp_path: Path) -> None:
    log = tmp_path / "conn.json"
    feed = opened(log)
    row = '{"ts":1.5,"id.orig_h":"10.0.0.1","id.resp_h":"10.0.0.2","proto":"tcp","conn_state":"S0"}\n'
    log.write_text("\ufeff" + row[20:] + row, encoding="utf-8")
    given = list(feed.poll())
    append(log, row)
    given += list(feed.poll())
    reader = LogReader()
    runs = [run for piece in given for run in reader.read(piece.payload, 0)]
    assert [len(run) for run in runs] == [1, 1]
    assert feed.tally.as_dict() == {"malformed_rows": 1}
    assert not reader.tally["malformed_rows"]


def test_a_table_and_nameless_records_of_aws_are_followed(tmp_path: Path) -> None:
    record = "2 1 eni-1 10.0.0.1 10.0.0.2 {} 443 6 10 840 1700000000 1700000060 ACCEPT OK\n"
    log = tmp_path / "vpc.log"
    log.write_text(record.format(1))
    feed = opened(log, from_start=True)
    table = tmp_path / "flows.csv"
    table.write_text("duration_ms,src_addr,dst_addr,fwd_bytes,bwd_bytes,src_port\n")
    tables = opened(table)
    given = list(feed.poll())
    append(log, record.format(2))
    append(table, "1,10.0.0.1,10.0.0.2,3,4,5\n")
    reader = LogReader()
    runs = [run for piece in [*given, *feed.poll()] for run in reader.read(piece.payload, 7)]
    assert [run["src_port"].tolist() for run in runs if isinstance(run, np.ndarray)] == [[1], [2]]
    assert [reader.exporters[run["exporter"][0]] for run in runs if isinstance(run, np.ndarray)] == ["eni-1"] * 2
    assert read(tables.poll()) == [5]


def test_a_log_that_cannot_be_opened_is_counted_once_and_waited_for(tmp_path: Path) -> None:
    log = tmp_path / "conn.log"
    feed = opened(log)
    log.mkdir()
    assert not list(feed.poll())
    assert not list(feed.poll())
    assert feed.tally.as_dict() == {"unreadable_files": 1}
    log.rmdir()
    log.write_text(HEADER + line(1))
    assert read(feed.poll()) == [1]


def test_what_cannot_be_followed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no dialect named 'x'"):
        LogFeed(tmp_path / "conn.log", dialect="x")
    with pytest.raises(SourceError, match="there is no folder"):
        opened(tmp_path / "no" / "conn.log")
    with pytest.raises(SourceError, match="is a folder"):
        opened(tmp_path)
    (tmp_path / "conn.log.gz").write_bytes(gzip.compress(b"x"))
    with pytest.raises(SourceError, match="not a text log"):
        opened(tmp_path / "conn.log.gz")
