"""What kills the scorer stops nothing: it is set aside, and all else is scored once."""

from __future__ import annotations

import json
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from tests.live.conftest import LiveRun, free_port, until
from tests.live.senders import Exporter, datagram, name_of
from tests.live.test_kill import Keeper
from tests.live.test_run import send

GOOD = (
    '{"src_addr":"10.9.0.%d","dst_addr":"10.8.0.1","src_port":1,"dst_port":2,"duration_ms":1,"fwd_bytes":1,'
    '"bwd_bytes":1}\n'
)


def written(folder: Path) -> Counter[tuple[str, int]]:
    frames = [pl.read_parquet(path, columns=["src_addr", "src_port"]) for path in sorted(folder.rglob("*.parquet"))]
    return Counter(row for frame in frames for row in frame.iter_rows())


@pytest.fixture
def poisoned(live: Callable[..., LiveRun], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[LiveRun, int]]:
    def make(where: str, *more: str) -> tuple[LiveRun, int]:
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).with_name("poisoned")))
        monkeypatch.setenv("POISON", where)
        port = free_port()
        run = live(
            "collect", "--from", f"udp://127.0.0.1:{port}", "--to", "out/", "--window", "1s", "--hold", "0", *more
        )
        return run, port

    return make


def kept_in(run: LiveRun) -> list[Path]:
    return sorted(path for path in (run.spool / "quarantine").iterdir() if path.suffix != ".json")


def test_a_piece_that_kills_is_set_aside_and_all_else_is_written_once(
    poisoned: Callable[..., tuple[LiveRun, int]], tmp_path: Path
) -> None:
    logs = {name: tmp_path / f"{name}.jsonl" for name in ("good", "bad")}
    for log in logs.values():
        log.write_text("")
    metrics = free_port()
    run, port = poisoned(
        "read", "--from", f"log:{logs['good']}", "--from", f"log:{logs['bad']}", "--metrics", f":{metrics}"
    )
    keeper = Keeper(run)
    with Exporter(port, 50) as exporter:
        run.start()
        run.wait_ready()
        logs["bad"].write_text((GOOD % 200).replace("}", ',"note":"poison"}'))
        logs["good"].write_text(GOOD % 1)
        until(lambda: run.status("receiver").get("restarts", 0) >= 1, "the scorer dies")
        with logs["good"].open("a") as appended:
            appended.write(GOOD % 2)
        until(lambda: run.status().get("counts", {}).get("quarantined_pieces"), "the piece is set aside")
        before = exporter.num_flows
        until(lambda: exporter.num_flows > before + 1_000, "more flows after it")
        page = urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=60).read().decode()
    assert run.stop() == 0, run.said()
    assert written(tmp_path / "out") == keeper.accepted() + Counter([("10.9.0.1", 1), ("10.9.0.2", 1)])
    assert run.status()["counts"]["quarantined_pieces"] == 1
    assert run.status("receiver")["restarts"] == 3
    assert 'thalweg_counted_total{what="quarantined_pieces"} 1.0' in page
    (kept,) = kept_in(run)
    assert b"poison" in kept.read_bytes()
    about = json.loads(kept.with_suffix(".json").read_text())
    assert about["source"] == f"log:{logs['bad']}"
    assert "died of it more than once" in about["reason"]
    assert f"set aside {kept.stem}" in run.said()


def test_a_datagram_that_kills_is_set_aside_alone(poisoned: Callable[..., tuple[LiveRun, int]], tmp_path: Path) -> None:
    run, port = poisoned("decode")
    run.start()
    run.wait_ready()
    send(port, datagram(0), b"poison", datagram(30), b"more poison", datagram(60))
    until(lambda: run.status().get("counts", {}).get("quarantined_datagrams") == 2, "both are set aside")
    assert run.stop() == 0, run.said()
    assert written(tmp_path / "out") == Counter(map(name_of, range(90)))
    assert [path.read_bytes() for path in kept_in(run)] == [b"poison", b"more poison"]


def test_a_window_that_kills_is_set_aside_with_its_flows(
    poisoned: Callable[..., tuple[LiveRun, int]], tmp_path: Path
) -> None:
    log = tmp_path / "a.jsonl"
    log.write_text("")
    run, port = poisoned("write", "--from", f"log:{log}")
    run.start()
    run.wait_ready()
    log.write_text((GOOD % 200).replace('"dst_port":2', '"dst_port":6666'))
    until(lambda: run.status().get("counts", {}).get("quarantined_flows"), "the window is set aside")
    send(port, datagram(0))
    until(lambda: run.status().get("flows"), "later flows are written")
    assert run.stop() == 0, run.said()
    found = written(tmp_path / "out")
    (kept,) = kept_in(run)
    aside = Counter(pl.read_ipc(kept).select("src_addr", "src_port").iter_rows())
    assert found + aside == Counter([("10.9.0.200", 1), *map(name_of, range(30))])
    assert aside.total() == run.status()["counts"]["quarantined_flows"]
