"""On a spool's disk that is full, what is written is freed, and a run starts and ends."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tests.live.score.test_batches import BEGIN_US, put
from tests.live.score.test_restart import config, written
from tests.live.senders import datagram, name_of
from thalweg.errors import SinkError
from thalweg.live.config import RunConfig
from thalweg.live.receive.receiver import Receiver
from thalweg.live.score.scorer import Scorer
from thalweg.live.spool.folder import segments, write_needed
from thalweg.live.spool.layout import DATAGRAM, MARK, STOP
from thalweg.live.spool.reserve import keep_reserve
from thalweg.live.spool.writer import SpoolConfig, SpoolWriter

RESERVE = 64 << 10


@pytest.fixture
def on_tiny_disk(tiny_disk: Path, tmp_path: Path) -> RunConfig:
    spool = SpoolConfig(
        folder=tiny_disk / "spool", max_bytes=200_000, segment_bytes=4_000, reserve_bytes=RESERVE, snapshot_s=1e9
    )
    return replace(config(tmp_path), spool=spool)


def fill(disk: Path) -> Path:
    ballast = disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return ballast


def test_a_scorer_saves_its_state_in_the_reserve_and_frees_what_is_written(
    on_tiny_disk: RunConfig, tiny_disk: Path, tmp_path: Path
) -> None:
    folder = on_tiny_disk.spool.folder
    writer = SpoolWriter(folder, on_tiny_disk.spool)
    for number in range(8):
        put(writer, datagram(30 * number), BEGIN_US + number, "10.0.0.1")
        writer.add(MARK, BEGIN_US + number)
    writer.add(STOP, BEGIN_US + 1_000)
    writer.close()
    assert len(segments(folder)) > 1
    assert keep_reserve(folder, RESERVE)
    fill(tiny_disk)
    Scorer(on_tiny_disk).run()
    assert written(tmp_path) == Counter(map(name_of, range(240)))
    assert len(segments(folder)) == 1
    assert (folder / "snapshot.npz").exists()


def test_the_writer_leaves_the_reserve_to_the_state_and_drops_the_oldest(
    on_tiny_disk: RunConfig, tiny_disk: Path
) -> None:
    folder = on_tiny_disk.spool.folder
    writer = SpoolWriter(folder, on_tiny_disk.spool)
    assert keep_reserve(folder, RESERVE)
    for _ in range(4):
        writer.add(DATAGRAM, 1, bytes(9_990))
    fill(tiny_disk)
    for number in range(20):  # each takes the place of the oldest
        writer.add(DATAGRAM, 2, bytes([number]) * 9_990)
    assert writer.dropped["datagrams"] > 15
    writer.close()


def test_what_becomes_free_goes_to_the_reserve_first(on_tiny_disk: RunConfig, tiny_disk: Path) -> None:
    folder = on_tiny_disk.spool.folder
    writer = SpoolWriter(folder, on_tiny_disk.spool)
    assert keep_reserve(folder, RESERVE)
    write_needed(folder, 0, 1_000)  # nothing may be dropped
    ballast = fill(tiny_disk)
    with pytest.raises(SinkError, match="No space left"):
        writer.add(DATAGRAM, 1, bytes(9_990))
    (folder / "reserve").unlink()  # the scorer saved its state in it, and freed what it had read
    for _ in range(3):
        with pytest.raises(SinkError, match="No space left"):
            writer.add(DATAGRAM, 1, bytes(9_990))
    assert (folder / "reserve").stat().st_size == RESERVE
    ballast.unlink()
    writer.add(DATAGRAM, 4, bytes(9_990))
    writer.close()


def test_a_run_starts_on_a_full_disk(
    on_tiny_disk: RunConfig, tiny_disk: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = on_tiny_disk.spool.folder
    SpoolWriter(folder, on_tiny_disk.spool).close()
    (folder / "lock").touch()
    (folder / "sources.json").write_text('["udp://:0"]')
    ballast = fill(tiny_disk)
    receiver = Receiver(on_tiny_disk)

    def stop(_: dict[str, object]) -> None:
        receiver._stopping = receiver._stopping or ballast.exists()
        ballast.unlink(missing_ok=True)

    assert receiver.run(stop) == 0
    assert "its disk has room for 0.0 GB" in capfd.readouterr().err
