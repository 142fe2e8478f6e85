"""`thalweg run` scores what softflowd sends, and takes another model without losing a flow."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final, final

import polars as pl
import pytest

from tests.cli.conftest import CONFIG
from tests.cli.process import succeed
from tests.e2e.programs import HERE, Listening, Relay, needs, softflowd, wait_until
from tests.e2e.traffic import conversations, now_ms, true_flows, written_flows
from tests.ingest.captures.packets import write_pcap

pytestmark = needs("softflowd")

EXPORTER: Final = "127.0.0.90"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two small models."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "tiny.toml").write_text(CONFIG)
    succeed("simulate", "usual.parquet", "--flows", "20000", "--attacks", "none", "--seed", "1", folder=folder)
    for name, seed in (("first", "1"), ("second", "2")):
        quickly = ("--steps", "40", "--seed", seed, "--config", "tiny.toml", "--device", "cpu")
        succeed("fit", "usual.parquet", "-o", f"{name}.thalweg", *quickly, folder=folder)
    return folder


@final
class Exporting:
    """softflowd, which exports a capture of other hosts each time, v5. num_records: sent so far."""

    def __init__(self, folder: Path, port: int) -> None:
        self._pcap, self._port = folder / "round.pcap", port
        self._num_rounds = self.num_records = 0

    def once(self) -> None:
        """Send some hundred records."""
        packets = conversations(100 + self._num_rounds % 100, now_ms() - 5_000, num=80, ipv6=False)
        softflowd(write_pcap(self._pcap, packets), self._port, 5, "-a")
        self._num_rounds += 1
        self.num_records += true_flows(packets).total()

    def until(self, happened: Callable[[], object], what: str) -> None:
        """Go on sending until something happens, and once more."""

        def sent_and_happened() -> object:
            self.once()
            return happened()

        wait_until(sent_and_happened, what, every_s=0.4)
        self.once()


def test_models_change_while_flows_come_and_each_flow_is_scored_once(models: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.thalweg"
    shutil.copy(models / "first.thalweg", model)
    args = ("--from", f"udp://{HERE}:0", "--hold", "0", "--window", "2000,1s", "--device", "cpu")
    with Listening("run", model, *args, folder=tmp_path) as listening, Relay(EXPORTER, listening.port) as relay:
        exporting = Exporting(tmp_path, relay.port)
        # The scorer is only about to begin: it is loaded once more then.
        listening.process.kill(signal.SIGHUP)
        exporting.until(lambda: listening.scorer()["reloads"] == 1, "asked for early, it is loaded again")

        shutil.copy(models / "second.thalweg", tmp_path / "new")
        (tmp_path / "new").replace(model)
        listening.process.kill(signal.SIGHUP)
        exporting.until(lambda: listening.scorer()["reloads"] == 2, "the new model is loaded")
        assert listening.scorer()["reload_error"] == ""

        model.write_bytes(model.read_bytes()[:1000])
        listening.process.kill(signal.SIGHUP)
        exporting.until(lambda: listening.scorer()["reload_error"], "the broken model is refused")
        assert "model.thalweg" in listening.scorer()["reload_error"]
        assert listening.scorer()["reloads"] == 2

        model.unlink()
        before = listening.scorer()["reload_error"]
        listening.process.kill(signal.SIGHUP)
        exporting.until(lambda: listening.scorer()["reload_error"] != before, "the missing model is refused")

        shutil.copy(models / "first.thalweg", model)
        listening.process.kill(signal.SIGHUP)
        exporting.until(lambda: listening.scorer()["reloads"] == 3, "a good one is loaded again")
        assert listening.scorer()["reload_error"] == ""

        wait_until(lambda: listening.receiver()["datagrams"] == len(relay.datagrams), "all datagrams are received")
        finished = listening.stop()
        assert finished.code == 0, finished.err
        assert listening.receiver()["restarts"] == 0
        assert listening.scorer()["flows"] == exporting.num_records
        flows = listening.flows()
    written = written_flows(flows)
    assert written.total() == exporting.num_records
    assert max(written.values()) == 1
    assert flows["logit"].is_finite().all()
    assert flows["score"].is_between(0, 1).all()
    assert flows["anomalous"].null_count() == 0


def test_without_its_model_a_run_says_what_to_do(tmp_path: Path) -> None:
    model = tmp_path / "broken.thalweg"
    model.write_bytes(b"no model")
    listening = Listening("run", model, "--from", f"udp://{HERE}:0", folder=tmp_path)
    finished = listening.process.finish()
    assert finished.code == 2
    assert "broken.thalweg" in finished.err
    assert pl.Series(finished.err.splitlines()).str.starts_with("error:").sum() == 2  # the scorer's, and the receiver's
