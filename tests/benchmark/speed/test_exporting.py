"""What `benchmark ingest` sends and decodes: the same flows in every version; nothing is timed."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import numpy as np
import pytest

from thalweg.benchmark.speed.cases import Case, Traffic
from thalweg.benchmark.speed.decoding import run_decode
from thalweg.benchmark.speed.exporting import PER_DATAGRAM, one_way, send, template_datagrams, v5_datagrams
from thalweg.errors import ConfigError
from thalweg.ingest.netflow.datagrams import Datagrams
from thalweg.ingest.netflow.decoder import Decoder

NOW = 1_780_000_000
FLOWS = Traffic(Case("small", 20, 60, 600), 1).window(0)


def test_every_version_tells_of_the_same_flows() -> None:
    records = one_way(FLOWS)
    decoded = []
    for payloads in (
        [row.tobytes() for row in v5_datagrams(records)],
        template_datagrams(records, 9, NOW),
        template_datagrams(records, 10, NOW),
    ):
        decoder = Decoder()
        found = decoder.decode(Datagrams.of((payload, NOW * 1_000_000, 0, 1) for payload in payloads))
        assert not decoder.tally
        assert not decoder.exporters.table["lost"].any()
        decoded.append(found)
    assert len(decoded[0]) == len(records) == 2 * len(FLOWS)
    for name in ("src_lo", "dst_lo", "src_port", "dst_port", "protocol", "tcp_flags", "fwd_bytes", "fwd_packets"):
        assert all(np.array_equal(found[name], decoded[0][name]) for found in decoded[1:]), name
    lengths = [found["end_us"] - found["start_us"] for found in decoded]
    assert all(np.array_equal(length, lengths[0]) for length in lengths[1:])
    assert np.array_equal(decoded[1]["end_us"], decoded[2]["end_us"])


def test_records_of_all_versions_are_decoded_and_counted() -> None:
    rows = run_decode(1_000, 1, 0)
    assert [row["kind"] for row in rows] == ["NetFlow v5", "NetFlow v9", "IPFIX"]
    assert all(row["records"] == 1_000 // PER_DATAGRAM * PER_DATAGRAM for row in rows)
    assert all(row["records_per_cpu_s"] > 0 for row in rows)
    with pytest.raises(ConfigError, match="--rounds"):
        run_decode(1_000, 0, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="sending many datagrams in one call needs Linux")
def test_the_sender_numbers_its_flows_without_a_gap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "d.npy", v5_datagrams(one_way(FLOWS))[:7])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiving:
        receiving.bind(("127.0.0.1", 0))
        receiving.settimeout(30)
        send(str(tmp_path / "d.npy"), receiving.getsockname()[1], [3_000, 6_000], 0.2)
        printed = json.loads(capsys.readouterr().out)
        got = [receiving.recv(2_000) for _ in range(printed["datagrams"])]
    assert printed["flows"] == printed["datagrams"] * PER_DATAGRAM == 1_800
    assert [int.from_bytes(one[16:20], "big") for one in got] == list(range(0, 1_800, PER_DATAGRAM))
