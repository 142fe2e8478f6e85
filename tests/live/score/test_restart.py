"""After a kill and a restart, whatever has changed in between, nothing is lost, and what cannot be kept is reported."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.live.score.test_batches import BEGIN_US, put
from tests.live.senders import datagram, name_of
from thalweg.errors import ConfigError
from thalweg.ingest.feeds.feed import Piece, pack_piece
from thalweg.ingest.pairing.config import PairingConfig
from thalweg.ingest.sources import UdpConfig, source_at
from thalweg.live.config import RunConfig, SinkConfig, WindowConfig
from thalweg.live.score.batches import BatchWindows
from thalweg.live.score.committed import Committed
from thalweg.live.score.scorer import Scorer
from thalweg.live.spool.folder import SpoolPosition
from thalweg.live.spool.layout import MARK, PIECE, STOP
from thalweg.live.spool.reader import SpoolReader
from thalweg.live.spool.writer import SpoolConfig, SpoolWriter
from thalweg.sinks import open_sink
from thalweg.sinks.sink import ScoredWindow


class KilledError(SystemExit):
    """Stands for kill -9: nothing that comes after it is done."""


def config(folder: Path, **more: object) -> RunConfig:
    whole = RunConfig(
        source=(UdpConfig(address="udp://:0"),), sink=(SinkConfig(address=f"{folder}/out/"),),
        spool=SpoolConfig(folder=folder / "spool", snapshot_s=1e9), window=WindowConfig(flows=100, span_s=3600.0),
        pairing=PairingConfig(pair=False),
    )  # fmt: skip
    return replace(whole, **more)  # type: ignore[arg-type]  # fields by name


def killed_after(scorer: Scorer, num_windows: int) -> None:
    """Run a scorer that dies after so many windows, before it can keep a snapshot."""
    (sink,) = scorer.sinks.values()
    write = sink.write

    def dying(window: ScoredWindow) -> object:
        if window.number >= num_windows:
            raise KilledError
        return write(window)

    sink.write = dying  # type: ignore[method-assign, assignment]
    with pytest.raises(KilledError):
        scorer.run()


def written(folder: Path) -> Counter[tuple[str, int]]:
    frames = [pl.read_parquet(path) for path in sorted((folder / "out").rglob("*.parquet"))]
    return Counter(row for frame in frames for row in frame.select("src_addr", "src_port").iter_rows())


def spool_of(folder: Path, num_datagrams: int, first: int = 0) -> None:
    writer, now = SpoolWriter(folder / "spool"), BEGIN_US
    for i in range(num_datagrams):
        put(writer, datagram(first + 30 * i), now, "10.0.0.1")
        now += 300_000
        writer.add(MARK, now)
    writer.add(STOP, now)
    writer.close()


def test_other_settings_are_refused_after_a_kill_before_the_first_snapshot(tmp_path: Path) -> None:
    spool_of(tmp_path, 20)
    killed_after(Scorer(config(tmp_path)), 3)
    with pytest.raises(ConfigError, match=r"window\.flows"):
        Scorer(config(tmp_path, window=WindowConfig(flows=250, span_s=3600.0))).run()
    Scorer(config(tmp_path)).run()
    assert written(tmp_path) == Counter(name_of(flow) for flow in range(600))


def test_after_a_clean_stop_settings_may_change(tmp_path: Path) -> None:
    spool_of(tmp_path, 10)
    Scorer(config(tmp_path)).run()
    spool_of(tmp_path, 10, first=300)
    Scorer(config(tmp_path, window=WindowConfig(flows=250, span_s=3600.0))).run()
    assert sum(written(tmp_path).values()) == 600


def test_a_file_that_is_gone_when_it_is_read_again_takes_no_other_flows_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    table = folder / "a.csv"
    rows = "\n".join(f"172.16.0.1,192.0.2.{i % 200},1,10,20,{i},443" for i in range(130))
    table.write_text("src_addr,dst_addr,duration_ms,fwd_bytes,bwd_bytes,src_port,dst_port\n" + rows + "\n")
    writer, now = SpoolWriter(tmp_path / "spool"), BEGIN_US
    piece = Piece(json.dumps({"path": str(table)}).encode(), {})
    for i in range(20):
        put(writer, datagram(30 * i), now, "10.0.0.1")
        if i == 4:
            writer.add(PIECE, now, pack_piece(piece), 1)
        now += 300_000
        writer.add(MARK, now)
    writer.add(STOP, now)
    writer.close()
    both = {"source": (UdpConfig(address="udp://:0"), source_at(f"folder:{folder}"))}
    killed_after(Scorer(config(tmp_path, **both)), 4)
    before = written(tmp_path)
    table.unlink()
    scorer = Scorer(config(tmp_path, **both))
    scorer.run()
    after = written(tmp_path)
    assert all(after[name_of(flow)] >= 1 for flow in range(600))
    assert all(after[name] >= num for name, num in before.items()), "what was written stays"
    assert scorer.batches.counts()["windows_read_otherwise"] == 1
    assert Committed.load(tmp_path / "spool").num_flows == sum(after.values())


def test_two_spools_write_into_one_folder(tmp_path: Path) -> None:
    for name in ("one", "two"):
        spool_of(tmp_path / name, 10)
        Scorer(config(tmp_path / name, sink=(SinkConfig(address=f"{tmp_path}/out/"),))).run()
    assert sum(written(tmp_path).values()) == 600


@pytest.mark.parametrize("back_s", [5, 7_200])
def test_a_clock_that_is_set_back_stops_nothing(tmp_path: Path, back_s: int) -> None:
    writer, now, flow = SpoolWriter(tmp_path / "spool"), BEGIN_US, 0
    for step in range(400):
        if step == 200:
            now -= back_s * 1_000_000
        put(writer, datagram(flow, num=10), now, "10.0.0.1")
        flow += 10
        now += 250_000
        writer.add(MARK, now)
    writer.close()
    settings = config(tmp_path, pairing=PairingConfig(hold_s=3.0), window=WindowConfig(flows=100_000, span_s=10.0))
    batches = BatchWindows(settings)
    reader, rows = SpoolReader(tmp_path / "spool", SpoolPosition(0, 0)), []
    while (batch := reader.next()) is not None:
        rows += [row for w in batches.windows(batch) for row in w.flows.frame.select("src_addr", "src_port").rows()]
    assert batches.counts()["clock_steps"] == 1
    assert len(rows) == len(set(rows))
    # Held are the last seconds alone, and the window that is open.
    assert len(rows) + batches.num_waiting == flow
    assert batches.num_waiting < 600


def test_a_sink_is_known_by_its_spool(tmp_path: Path) -> None:
    sink = open_sink(f"{tmp_path}/out/")
    sink.open(None)
    frame = pl.DataFrame({"a": np.arange(3)})
    for spool in ("0a", "0b"):
        sink.write(ScoredWindow(0, BEGIN_US, frame, spool))
    assert sorted(path.name for path in tmp_path.rglob("*.parquet")) == [
        "0a-000000000000.parquet", "0b-000000000000.parquet"
    ]  # fmt: skip
