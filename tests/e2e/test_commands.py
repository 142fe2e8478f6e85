"""`exporters`, `decode` and `/metrics` report what softflowd sent; `collect` reads files."""

from __future__ import annotations

import json
import re
import socket
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from tests.cli.process import Running, succeed
from tests.e2e.programs import (
    HERE,
    Listening,
    Program,
    Relay,
    free_port,
    needs,
    send,
    softflowd,
    udp_socket,
    wait_until,
)
from tests.e2e.traffic import conversations, now_ms, true_flows, untimed, written_flows
from tests.ingest.captures.packets import Packet, udp_packet, write_pcap

pytestmark = needs("softflowd")

NUM: Final = 40


@pytest.fixture(scope="module")
def packets() -> list[Packet]:
    """Traffic of just now."""
    return conversations(70, now_ms() - 20_000, num=NUM)


@pytest.fixture(scope="module")
def pcap(packets: list[Packet], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A capture of it."""
    return write_pcap(tmp_path_factory.mktemp("traffic") / "traffic.pcap", packets)


@pytest.fixture(scope="module")
def exports(pcap: Path) -> list[bytes]:
    """Datagrams that softflowd makes of it, v9."""
    with Relay("127.0.0.70") as relay:
        softflowd(pcap, relay.port, 9, "-a")
    return relay.datagrams


def as_capture(path: Path, exports: list[bytes]) -> Path:
    """Write export packets as they would be captured."""
    return write_pcap(
        path, (udp_packet("192.0.2.9", "192.0.2.1", 50_000, 2055, one, time_us=now_ms() * 1000) for one in exports)
    )


def test_exporters_says_who_sends_while_it_does(packets: list[Packet], pcap: Path, tmp_path: Path) -> None:
    port = free_port()
    asked = Running("exporters", "--from", f"udp://{HERE}:{port}", "--seconds", "10", "--json", folder=tmp_path)
    asked.wait_until(lambda: udp_socket(port))
    for version in (5, 9, 10):
        with Relay(f"127.0.0.{70 + version}", port) as relay:
            softflowd(pcap, relay.port, version, "-a")
    finished = asked.finish()
    assert finished.code == 0, finished.err
    found = finished.json()
    expected = true_flows(packets)
    ipv4 = sum(":" not in flow.src for flow in expected.elements())
    assert {one["exporter"]: (one["version"], one["flows"]) for one in found["exporters"]} == {
        "127.0.0.75": (5, ipv4),  # softflowd leaves IPv6 out
        "127.0.0.79": (9, expected.total()),
        "127.0.0.80": (10, expected.total()),
    }
    assert all(abs(one["clock_error_s"]) < 60 for one in found["exporters"])
    assert found["counts"].get("kernel_drops", 0) == 0
    assert found["sockets"][0]["address"].endswith(f":{port}")


def test_decode_prints_a_line_for_each_record_of_a_capture(
    packets: list[Packet], exports: list[bytes], tmp_path: Path
) -> None:
    as_capture(tmp_path / "capture.pcap", exports)
    decoded = succeed("decode", "capture.pcap", folder=tmp_path)
    lines = [json.loads(line) for line in decoded.out.splitlines()]
    flows = [line["fields"] for line in lines if line["kind"] == "flow"]
    expected = true_flows(packets)
    assert len(flows) == expected.total()
    assert sum(one["octetDeltaCount"] for one in flows) == sum(one.num_bytes for one in expected.elements())
    assert {one["tcpControlBits"] for one in flows if "tcpControlBits" in one} == {one.flags for one in expected}
    assert f"{expected.total():,} flow" in decoded.err
    few = succeed("decode", "capture.pcap", "-n", "3", "--templates", folder=tmp_path).out.splitlines()
    assert [json.loads(line)["kind"] for line in few] == ["template"] * 3


@needs("tcpdump", root=True)
def test_decode_reads_what_tcpdump_caught(exports: list[bytes], tmp_path: Path) -> None:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as taking:
        taking.bind((HERE, 0))
        port = taking.getsockname()[1]
        command = (
            "tcpdump",
            "-i",
            "lo",
            "-U",
            "-w",
            tmp_path / "caught.pcap",
            "-c",
            str(len(exports)),
            f"udp port {port}",
        )
        with Program(*command, log=tmp_path / "log") as tcpdump:
            tcpdump.wait_for_text("listening on")
            send(exports, "127.0.0.70", port)
            tcpdump.finish()
    by_hand = as_capture(tmp_path / "by_hand.pcap", exports)
    caught, expected = (
        [json.loads(line)["fields"] for line in succeed("decode", name, folder=tmp_path).out.splitlines()]
        for name in ("caught.pcap", by_hand.name)
    )
    assert caught == expected
    assert len(caught) > 4 * NUM


def test_the_metrics_say_what_is_written(packets: list[Packet], exports: list[bytes], tmp_path: Path) -> None:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as found:
        found.bind((HERE, 0))
        port = found.getsockname()[1]
    args = ("--from", f"udp://{HERE}:0", "--hold", "0", "--window", "200000,1s", "--metrics", f"{HERE}:{port}")
    num = true_flows(packets).total()
    with Listening("collect", *args, folder=tmp_path) as listening:
        send(exports, "127.0.0.70", listening.port)
        wait_until(lambda: metrics(port).get("thalweg_scored_flows_total") == num, "all flows are written", every_s=0.2)
        counters = metrics(port)
        assert counters["thalweg_received_datagrams_total"] == len(exports)
        assert counters["thalweg_received_bytes_total"] == sum(map(len, exports))
        assert counters['thalweg_exporter_flows_total{domain="0",exporter="127.0.0.70",version="9"}'] == num
        assert counters['thalweg_exporter_lost_total{domain="0",exporter="127.0.0.70",version="9"}'] == 0
        assert counters['thalweg_counted_total{what="kernel_drops"}'] == 0
        asked = succeed("exporters", "--spool", listening.spool, "--json", folder=tmp_path).json()
        assert [one["flows"] for one in asked["exporters"]] == [num]


def test_told_to_stop_as_soon_as_it_has_begun_it_still_writes_what_it_received(
    packets: list[Packet], exports: list[bytes], tmp_path: Path
) -> None:
    with Listening("collect", "--from", f"udp://{HERE}:0", "--hold", "0", folder=tmp_path) as listening:
        send(exports, "127.0.0.71", listening.port)
        wait_until(lambda: udp_socket(listening.port) == (0, 0), "all datagrams are taken")
        assert listening.stop().code == 0
        assert untimed(written_flows(listening.flows())) == untimed(true_flows(packets))


def metrics(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://{HERE}:{port}/metrics") as page:
        text = page.read().decode()
    return {name: float(value) for name, value in re.findall(r"^(thalweg_\S+) (\S+)$", text, re.MULTILINE)}
