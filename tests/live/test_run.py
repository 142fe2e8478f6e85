"""`thalweg run` and `collect` as people start them: what they write, print and refuse, and how they end."""

from __future__ import annotations

import json
import signal
import socket
import urllib.request
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from tests.cli.process import thalweg
from tests.live.conftest import LiveRun, free_port, until
from tests.live.senders import Exporter, datagram, name_of


def send(port: int, *payloads: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
        for payload in payloads:
            sending.sendto(payload, ("127.0.0.1", port))


def received(run: LiveRun, num: int) -> bool:
    return bool(sum(one["flows"] for one in run.status().get("exporters", ())) >= num)


def scored_in(folder: Path) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(path) for path in sorted(folder.rglob("*.parquet"))])


def test_flows_are_scored_in_windows_by_count_and_the_rest_at_the_end(
    model_file: Path, live: Callable[..., LiveRun], tmp_path: Path
) -> None:
    port = free_port()
    run = live(
        "run", model_file, "--from", f"udp://127.0.0.1:{port}", "--to", "out/", "--window", "70,1h", "--hold", "0"
    )
    run.start()
    run.wait_ready()
    send(port, *(datagram(30 * i) for i in range(5)))
    until(lambda: received(run, 150), "all flows are received")
    assert run.stop() == 0
    frames = [pl.read_parquet(path) for path in sorted((tmp_path / "out").rglob("*.parquet"))]
    assert [frame.height for frame in frames] == [70, 70, 10]
    rows = pl.concat(frames)
    assert rows.select("src_addr", "src_port").rows() == [name_of(flow) for flow in range(150)]
    assert rows["score"].is_between(0, 1).all()
    assert rows["exporter"].unique().to_list() == ["127.0.0.1"]
    assert not list(tmp_path.rglob("*.partial"))


def test_a_window_ends_with_its_span_though_nothing_more_comes(
    model_file: Path, live: Callable[..., LiveRun], tmp_path: Path
) -> None:
    port = free_port()
    run = live("run", model_file, "--from", f"udp://127.0.0.1:{port}", "--to", "out/", "--window", "1s", "--hold", "0")
    run.start()
    run.wait_ready()
    send(port, datagram(0))
    until(lambda: run.status().get("windows") == 1, "the window is written without another datagram")
    assert scored_in(tmp_path / "out").height == 30
    assert run.stop() == 0


def test_both_directions_become_one_flow_and_metrics_tell_of_the_exporter(
    model_file: Path, live: Callable[..., LiveRun], tmp_path: Path
) -> None:
    port, page = free_port(), free_port()
    run = live(
        "run", model_file, "--from", f"udp://127.0.0.1:{port}", "--to", "out.jsonl", "--metrics", f"127.0.0.1:{page}",
        "--json-log",
    )  # fmt: skip
    run.start()
    run.wait_ready()
    there = datagram(0)
    answers = bytearray(there)
    for at in range(24, len(there), 48):
        answers[at : at + 8] = there[at + 4 : at + 8] + there[at : at + 4]
        answers[at + 32 : at + 36] = there[at + 34 : at + 36] + there[at + 32 : at + 34]
    answers[16:20] = (30).to_bytes(4, "big")
    send(port, there, bytes(answers), b"no export packet")
    until(lambda: received(run, 60), "all records are received")
    wanted = 'thalweg_exporter_flows_total{domain="0",exporter="127.0.0.1",version="5"} 60.0'
    text = until(lambda: metrics(page, wanted), "the metrics count the flows")
    assert "thalweg_received_datagrams_total 3.0" in text
    assert 'thalweg_counted_total{what="unknown_versions"} 1.0' in text
    assert 'thalweg_exporter_lost_total{domain="0",exporter="127.0.0.1",version="5"} 0.0' in text
    assert run.stop() == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(rows) == 30
    assert {(row["dst_addr"], row["initiator"], row["fwd_packets"], row["bwd_packets"]) for row in rows} == {
        ("192.0.2.1", "ports", 3, 3)
    }
    events = [json.loads(line) for line in run.said().splitlines()]
    assert events[-1]["event"] == "stopped"
    assert events[-1]["flows"] == 30


def metrics(port: int, wanted: str) -> str | None:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        text: str = page.read().decode()
    return text if wanted in text else None


def test_collect_writes_what_fit_can_learn_from(live: Callable[..., LiveRun], tmp_path: Path) -> None:
    port = free_port()
    run = live("collect", "--from", f"udp://127.0.0.1:{port}", "--to", "flows/", "--hold", "0")
    run.start()
    run.wait_ready()
    send(port, *(datagram(30 * i) for i in range(10)))
    until(lambda: received(run, 300), "all flows are received")
    assert run.stop(signal.SIGINT) == 0
    done = thalweg("fit", "flows", "-o", "m.thalweg", "--steps", "2", "--window", "100", folder=tmp_path)
    assert done.code == 0, done.err


def test_the_model_is_loaded_again_on_a_hangup_while_flows_come(
    model_file: Path, live: Callable[..., LiveRun], tmp_path: Path
) -> None:
    port = free_port()
    run = live("run", model_file, "--from", f"udp://127.0.0.1:{port}", "--to", "out/", "--window", "600", "--hold", "0")
    run.start()
    run.wait_ready()
    with Exporter(port, 60) as exporter:
        until(lambda: run.status().get("windows", 0) > 0, "a window is written")
        assert run.process is not None
        run.process.send_signal(signal.SIGHUP)
        until(lambda: run.status().get("reloads") == 1, "the model is loaded again")
    until(lambda: received(run, exporter.num_flows), "all flows are received")
    assert run.stop() == 0
    rows = scored_in(tmp_path / "out").select("src_addr", "src_port").rows()
    assert rows == [name_of(flow) for flow in range(exporter.num_flows)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "none.thalweg", "--from", "udp://:0", "--to", "x/"), "make one with `thalweg fit`"),
        (("collect", "--to", "x/"), "no source: give --from"),
        (("collect", "--from", "udp://:0"), "no sink: give --to"),
        (("collect", "--from", "udp://:0", "--from", "udp://:0", "--to", "x/"), "given twice"),
        (("collect", "--from", "gopher://x", "--to", "x/"), "no such kind of source"),
        (("collect", "--from", "udp://nowhere", "--to", "x/"), "write it as udp://:2055"),
        (("collect", "--from", "udp://:0", "--to", "x.xlsx"), "write a folder"),
        (("collect", "--from", "udp://:0", "--to", "x/", "--window", "soon"), "60s"),
        (("collect", "--from", "udp://:0", "--to", "x/", "--sampling", "10.0.0.1"), "--sampling 10.0.0.1=1000"),
        (("collect", "--from", "udp://:0", "--to", "x/", "--sampling", "10.0.0.0/8=10"), "is no address"),
        (("collect", "--from", "udp://:0", "--to", "x/", "--allow", "10.0.0.300/8"), "--allow"),
        (("collect", "--from", "zeek:missing/conn.log", "--to", "no/such/folder/x.jsonl"), "cannot write"),
        (("exporters", "--spool", "nothing"), "no run has written its status"),
        (("decode", "nothing.pcap"), "cannot be opened"),
    ],
)
def test_an_invalid_option_is_reported_before_anything_is_received(
    words: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    done = thalweg(*words, folder=tmp_path)
    assert done.code == 2
    assert said in done.err


def test_a_second_run_on_the_same_spool_is_refused(live: Callable[..., LiveRun], tmp_path: Path) -> None:
    run = live("collect", "--from", "udp://127.0.0.1:0", "--to", "out/")
    run.start()
    run.wait_ready()
    done = thalweg("collect", "--from", "udp://127.0.0.1:0", "--to", "b/", "--spool", str(run.spool), folder=tmp_path)
    assert done.code == 2
    assert "another run uses the spool" in done.err
    assert run.stop() == 0
