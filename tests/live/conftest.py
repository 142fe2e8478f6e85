"""A small model, and a `thalweg run` in processes of its own, as people start it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, final

import pytest

from tests.cli.process import ONE_THREAD
from thalweg.detect import Detector
from thalweg.model.autoencoder import ModelConfig
from thalweg.model.learning.training import TrainingConfig
from thalweg.model.thalweg import ThalwegModel
from thalweg.synthetic import SimulationConfig, simulate

PATIENCE_S: Final = 900.0
"""Time limit for a wait: with many others on the machine, a run takes minutes to start."""


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a simulated office, fitted in a second."""
    path = tmp_path_factory.mktemp("model") / "office.thalweg"
    flows = simulate(SimulationConfig(site="office", flows=1_500, attacks="none", seed=5))
    model = ThalwegModel(
        shape=ModelConfig(width=8, max_pool=16), training=TrainingConfig(steps=4, min_window=50), window_size=500
    )
    Detector(model, seed=1, device="cpu").fit(flows).save(path)
    return path


def free_port() -> int:
    """Return a UDP port of the loopback that nobody has now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(what: Callable[[], Any], why: str) -> Any:
    """Wait for something to be true, and return it."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        found = what()
        if found:
            return found
        time.sleep(0.02)  # between two looks; what is waited for is the condition
    raise AssertionError(f"not within {PATIENCE_S:.0f} s: {why}")


@final
class LiveRun:
    """`thalweg WORDS --spool FOLDER/spool` in a folder."""

    def __init__(self, folder: Path, *words: str | Path) -> None:
        self.folder, self.spool = folder, folder / "spool"
        self.words = [str(word) for word in words]
        self.program = ["-m", "thalweg"]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, or restart."""
        command = [sys.executable, *self.program, *self.words, "--spool", str(self.spool)]
        log = (self.folder / "stderr.txt").open("ab")
        self.process = subprocess.Popen(
            command, cwd=self.folder, env={**os.environ, **ONE_THREAD}, stdout=subprocess.DEVNULL, stderr=log
        )
        log.close()

    def status(self, name: str = "scorer") -> dict[str, Any]:
        """Return the latest status of a process; empty if there is none."""
        try:
            found = json.loads((self.spool / f"{name}.json").read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def wait_ready(self) -> None:
        """Wait until both of its processes have reported their status."""

        def ready() -> bool:
            assert self.process is not None, "started before"
            assert self.process.poll() is None, self.said()
            reported = (self.status("receiver").get("pid"), self.status().get("pid"))
            return reported == (self.process.pid, self.scorer_pid())

        until(ready, "the run is ready")

    def scorer_pid(self) -> int | None:
        """Return the scorer's process, if there is one."""
        assert self.process is not None, "started before"
        try:
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        except FileNotFoundError:
            return None
        return int(children[0]) if children else None

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end, and wait for it. Returns: the exit code."""
        assert self.process is not None, "started before"
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def said(self) -> str:
        """Return what it has written to standard error."""
        return (self.folder / "stderr.txt").read_text()


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Callable[..., LiveRun]]:
    """Give a way to make runs; those that are still there at the end are killed."""
    made: list[LiveRun] = []

    def make(*words: str | Path) -> LiveRun:
        made.append(LiveRun(tmp_path, *words))
        return made[-1]

    yield make
    for run in made:
        if run.process is not None and run.process.poll() is None:
            run.process.kill()
            run.process.wait()


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of 256 KiB."""
    mount = shutil.which("mount")
    at = tmp_path / "disk"
    at.mkdir()
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(at)]
    if mount is None or os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here: that takes root, and the right to mount")
    try:
        yield at
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)
