"""kill -9 at random moments under load: what was accepted is scored, once, or counted as dropped."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, final

import numpy as np
import polars as pl
import pytest

from tests.live.conftest import LiveRun, free_port, until
from tests.live.senders import Exporter, flows_in
from thalweg.live.spool.entries import find_entries
from thalweg.live.spool.layout import DATAGRAM

KILLS: Final = 20


@final
class Keeper:
    """Makes a run keep every segment of its spool under a second name, so that all it accepted is read at the end."""

    def __init__(self, run: LiveRun) -> None:
        self._folder = run.folder / "kept"
        self._folder.mkdir()
        run.program = [str(Path(__file__).with_name("keeping_run.py")), str(self._folder)]

    def accepted(self) -> Counter[tuple[str, int]]:
        """Return the names of all flows in whole entries."""
        found: Counter[tuple[str, int]] = Counter()
        for path in sorted(self._folder.glob("*.spool")):
            data = np.frombuffer(path.read_bytes(), np.uint8)
            entries, _ = find_entries(data, 0)
            for entry in entries[entries["kind"] == DATAGRAM]:
                at = int(entry["offset"])
                found.update(flows_in(data[at : at + int(entry["length"])].tobytes()))
        return found


def written(folder: Path) -> Counter[tuple[str, int]]:
    frames = [pl.read_parquet(path, columns=["src_addr", "src_port"]) for path in sorted(folder.rglob("*.parquet"))]
    return Counter(row for frame in frames for row in frame.iter_rows())


@pytest.fixture
def run(model_file: Path, live: Callable[..., LiveRun]) -> Callable[..., tuple[LiveRun, int]]:
    def make(*more: str) -> tuple[LiveRun, int]:
        port = free_port()
        made = live(
            "run", model_file, "--from", f"udp://127.0.0.1:{port}", "--to", "scores/", "--to", "scores.jsonl",
            "--window", "3000,2s", "--hold", "0", *more,
        )  # fmt: skip
        return made, port

    return make


def wait_for_window(made: LiveRun) -> None:
    before = made.status().get("windows", 0)
    until(lambda: made.status().get("windows", 0) > before, "a window is written")


def kill_again_and_again(made: LiveRun, seed: int, kills: int) -> None:
    """Kill the receiver, the scorer or both, mostly when both work, sometimes while they begin."""
    chosen = random.Random(seed)
    for number in range(kills):
        assert made.process is not None
        if chosen.random() < 0.8:
            wait_for_window(made)
        time.sleep(chosen.random())  # the moment is meant to be random
        scorer = made.scorer_pid()
        if number % 2 and scorer is not None:
            with suppress(ProcessLookupError):
                os.kill(scorer, signal.SIGKILL)  # the receiver begins another one
        else:
            made.process.kill()
            made.process.wait()
            made.start()


def test_after_twenty_kills_every_accepted_flow_is_written_exactly_once(
    run: Callable[..., tuple[LiveRun, int]], tmp_path: Path
) -> None:
    made, port = run()
    keeper = Keeper(made)
    with Exporter(port, 100) as exporter:
        made.start()
        kill_again_and_again(made, 1, KILLS)
        made.wait_ready()
        before = exporter.num_flows
        until(lambda: exporter.num_flows > before + 3_000, "more flows after the last kill")
    assert made.stop() == 0, made.said()
    accepted = keeper.accepted()
    assert len(accepted) == accepted.total() > 10_000
    assert written(tmp_path / "scores") == accepted
    lines: Counter[tuple[str, int]] = Counter()
    for line in (tmp_path / "scores.jsonl").read_text().splitlines():
        row = json.loads(line)
        lines[row["src_addr"], row["src_port"]] += 1
    assert lines == accepted
    committed = json.loads((made.spool / "committed.json").read_text())
    assert committed["num_flows"] == accepted.total()


def test_what_a_full_spool_dropped_is_counted_and_the_rest_is_written(
    run: Callable[..., tuple[LiveRun, int]], tmp_path: Path
) -> None:
    made, port = run("--spool-gb", "0.001")
    keeper = Keeper(made)
    with Exporter(port, 800):
        made.start()
        made.wait_ready()
        scorer = made.scorer_pid()
        assert scorer is not None
        os.kill(scorer, signal.SIGSTOP)  # it hangs while datagrams come
        until(lambda: made.status("receiver").get("dropped", {}).get("flows", 0) > 0, "the spool drops")
        os.kill(scorer, signal.SIGKILL)
        made.process.kill() if made.process else None
        made.process.wait() if made.process else None
        made.start()
        made.wait_ready()
    assert made.stop() == 0, made.said()
    accepted = keeper.accepted().total()
    counts = made.status()["counts"]
    assert counts["dropped_flows"] > 0
    out = written(tmp_path / "scores")
    assert out.total() + counts["dropped_flows"] == accepted
    assert max(out.values()) == 1
