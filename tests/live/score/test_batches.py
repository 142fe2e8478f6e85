"""The same batches give the same windows, from any snapshot on."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.live.senders import datagram
from thalweg.ingest.pairing.config import PairingConfig
from thalweg.ingest.records import address_halves
from thalweg.ingest.sources import UdpConfig
from thalweg.live.config import RunConfig, SinkConfig, WindowConfig
from thalweg.live.score.batches import BatchWindows
from thalweg.live.score.process import ScorerTask
from thalweg.live.score.snapshot import Snapshot
from thalweg.live.score.windower import LiveWindow
from thalweg.live.spool.folder import SpoolPosition
from thalweg.live.spool.layout import DATAGRAM, ENTRY, MAGIC, MARK, STOP
from thalweg.live.spool.reader import SpoolReader
from thalweg.live.spool.writer import SpoolConfig, SpoolWriter

BEGIN_US = 1_780_000_000_000_000


def config(folder: Path) -> RunConfig:
    return RunConfig(
        source=(UdpConfig(address="udp://:0"),), sink=(SinkConfig(address="-"),), spool=SpoolConfig(folder=folder),
        window=WindowConfig(flows=100, span_s=10.0), pairing=PairingConfig(hold_s=3.0),
    )  # fmt: skip


def put(spool: SpoolWriter, payload: bytes, time_us: int, address: str) -> None:
    entry = np.zeros(1, ENTRY)
    entry["magic"], entry["kind"], entry["length"], entry["time_us"] = MAGIC, DATAGRAM, len(payload), time_us
    entry["hi"], entry["lo"] = address_halves(address)
    spool.write([entry.tobytes(), payload], ENTRY.itemsize + len(payload), 1)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """A spool of half a minute: two exporters, a pause, and the end."""
    folder, chance = tmp_path / "spool", random.Random(3)
    writer = SpoolWriter(folder)
    now, flow = BEGIN_US, 0
    for step in range(120):
        now += 250_000
        if not 40 <= step < 80:
            for _ in range(chance.randrange(3)):
                put(writer, datagram(flow, num=7), now, chance.choice(("10.0.0.1", "10.0.0.2")))
                flow += 7
        writer.add(MARK, now)
    writer.add(STOP, now)
    writer.close()
    return folder


def read(
    batches: BatchWindows, folder: Path, position: SpoolPosition
) -> tuple[list[LiveWindow], list[tuple[int, Snapshot]]]:
    """Return all windows from a position on, and a snapshot after each batch with how many windows came before it."""
    reader, windows, snapshots = SpoolReader(folder, position), [], []
    while (batch := reader.next()) is not None:
        windows += list(batches.windows(batch))
        snapshots.append((len(windows), batches.snapshot(batch.after)))
    return windows, snapshots


def same(one: LiveWindow, other: LiveWindow) -> bool:
    return (one.number, one.time_us) == (other.number, other.time_us) and one.flows.frame.equals(other.flows.frame)


def test_windows_end_by_count_or_by_the_clock_and_hold_every_flow_once(spool: Path) -> None:
    batches = BatchWindows(config(spool))
    windows, _ = read(batches, spool, SpoolPosition(0, 0))
    assert [window.number for window in windows] == list(range(len(windows)))
    assert all(len(window) <= 100 for window in windows)
    rows = pl.concat([window.flows.frame for window in windows]).select("src_addr", "src_port")
    assert rows.height == rows.n_unique() == sum(one["flows"] for one in batches.assembler.exporters())
    assert batches.num_waiting == 0


def test_from_every_snapshot_on_the_rest_is_the_same(spool: Path) -> None:
    windows, snapshots = read(BatchWindows(config(spool)), spool, SpoolPosition(0, 0))
    for num_before, snapshot in snapshots[::7]:
        snapshot.save(spool)
        kept = Snapshot.load(spool)
        assert kept is not None
        batches = BatchWindows(config(spool))
        batches.restore(kept)
        again, _ = read(batches, spool, kept.position)
        assert len(again) == len(windows) - num_before
        assert all(same(one, other) for one, other in zip(windows[num_before:], again, strict=True))


def test_counts_and_exporters_outlive_a_snapshot(spool: Path) -> None:
    batches = BatchWindows(config(spool))
    _, snapshots = read(batches, spool, SpoolPosition(0, 0))
    other = BatchWindows(config(spool))
    other.restore(snapshots[50][1])
    read(other, spool, snapshots[50][1].position)
    assert other.counts().as_dict() == batches.counts().as_dict()
    assert other.assembler.exporters() == batches.assembler.exporters()


def test_a_snapshot_of_other_settings_tells_them_apart(spool: Path) -> None:
    settings = config(spool)
    task = ScorerTask(config=settings, sources=settings.addresses)
    assert settings.deciding() == ScorerTask.from_json(task.to_json()).config.deciding()
    assert settings.deciding() != replace(settings, window=WindowConfig(flows=99)).deciding()
    assert task == ScorerTask.from_json(task.to_json())
