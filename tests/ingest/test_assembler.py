"""What was received becomes paired records and flows, and a restored state goes on as if nothing had happened."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from tests.live.senders import datagram, name_of
from thalweg.errors import SourceError
from thalweg.ingest.assembler import Assembler, AssemblerConfig
from thalweg.ingest.feeds.feed import Piece
from thalweg.ingest.netflow.datagrams import Datagrams
from thalweg.ingest.pairing.config import PairingConfig
from thalweg.ingest.records import Records, address_halves, address_text
from thalweg.tables import Flows

NOW_US: Final = 1_780_000_000_000_000
SOURCES: Final = ("udp://:2055", "folder:flows/", "kafka://broker/flows?format=json", "gopher:gone")
CONFIG: Final = AssemblerConfig(sources=SOURCES, pairing=PairingConfig(hold_s=3.0))


def datagrams(*payloads: bytes, time_us: int = NOW_US, address: str = "10.0.0.1") -> Datagrams:
    hi, lo = address_halves(address)
    return Datagrams.of((payload, time_us, hi, lo) for payload in payloads)


def answer_to(payload: bytes) -> bytes:
    """Return a v5 datagram with the other direction of each flow."""
    answers = bytearray(payload)
    for at in range(24, len(payload), 48):
        answers[at : at + 8] = payload[at + 4 : at + 8] + payload[at : at + 4]
        answers[at + 32 : at + 36] = payload[at + 34 : at + 36] + payload[at + 32 : at + 34]
    return bytes(answers)


def message(port: int, exporter: str) -> bytes:
    """Return a message of goflow2's, one direction of a flow."""
    fields = {
        "type": "NETFLOW_V9", "time_received_ns": NOW_US * 1000, "sampler_address": exporter, "src_addr": "10.4.0.1",
        "dst_addr": "10.5.0.1", "src_port": port, "dst_port": 443, "proto": "TCP", "bytes": 100, "packets": 1,
        "time_flow_start_ns": NOW_US * 1000 - 10**9, "time_flow_end_ns": NOW_US * 1000,
    }  # fmt: skip
    return json.dumps(fields).encode()


def rows(runs: Iterable[Records | Flows], assembler: Assembler) -> list[tuple[Any, ...]]:
    """Return source, port, exporter and whether both directions are known, of each row."""
    found: list[tuple[Any, ...]] = []
    for run in runs:
        if isinstance(run, Flows):
            found += [(*row, None, None) for row in run.frame.select("src_addr", "src_port").rows()]
            continue
        found += [
            (address_text(int(one["src_hi"]), int(one["src_lo"])), int(one["src_port"]),
             assembler.names[int(one["exporter"])], bool(one["two_way"]))
            for one in run
        ]  # fmt: skip
    return found


def test_both_directions_become_one_record_whatever_source_they_come_from() -> None:
    assembler = Assembler(CONFIG)
    there = datagram(0, num=2)
    assert rows([assembler.decode(datagrams(there))], assembler) == []
    assert assembler.num_held == 2
    paired = rows([assembler.decode(datagrams(answer_to(there)))], assembler)
    assert paired == [(*name_of(0), "10.0.0.1", True), (*name_of(1), "10.0.0.1", True)]
    lines = b"\n".join([message(1, "192.0.2.1"), message(2, "192.0.2.2")]) + b"\n"
    assert rows(assembler.read(2, Piece(lines, {"offsets": {"0": 2}}), NOW_US), assembler) == []
    rest = rows([assembler.release(NOW_US + 10_000_000)], assembler)
    assert rest == [("10.4.0.1", 1, "192.0.2.1", False), ("10.4.0.1", 2, "192.0.2.2", False)]
    assert assembler.counts().as_dict() == {"unpaired_records": 2}
    assert assembler.num_held == 0


def test_whole_flows_wait_for_nothing(tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text("src_addr,dst_addr,duration_ms,fwd_bytes,bwd_bytes,src_port\n10.0.0.9,10.0.0.8,1,2,3,44\n")
    assembler = Assembler(CONFIG)
    piece = Piece(json.dumps({"path": str(table)}).encode(), {"done": [["a.csv", 1, 2]]})
    assert rows(assembler.read(1, piece, NOW_US), assembler) == [("10.0.0.9", 44, None, None)]
    assert assembler.positions == {"folder:flows/": {"done": [["a.csv", 1, 2]]}}


def test_a_piece_that_nothing_can_read_is_reported_and_its_position_kept() -> None:
    assembler = Assembler(CONFIG)
    for source in (0, 3):
        with pytest.raises(SourceError, match="nothing reads pieces"):
            list(assembler.read(source, Piece(b"x", {"at": source}), NOW_US))
    assert assembler.positions == {"udp://:2055": {"at": 0}, "gopher:gone": {"at": 3}}


def test_a_restored_state_gives_what_the_first_one_would_have_given() -> None:
    first = Assembler(CONFIG)
    there, later = datagram(0, num=3), datagram(3, sequence=3, num=3)
    first.decode(datagrams(there))
    list(first.read(2, Piece(message(7, "192.0.2.1") + b"\n", {"offsets": {"0": 1}}), NOW_US))
    state = first.state()
    arrays = {name: value for name, value in state.items() if isinstance(value, np.ndarray)}
    kept = json.loads(json.dumps({name: value for name, value in state.items() if name not in arrays})) | arrays
    second = Assembler(CONFIG)
    names = second.names
    second.restore(kept)
    assert second.names is names
    for assembler in (first, second):
        found = rows([assembler.decode(datagrams(later, answer_to(there), time_us=NOW_US + 1_000_000))], assembler)
        found += rows([assembler.flush()], assembler)
        assert [(port, exporter, is_paired) for _, port, exporter, is_paired in found] == [
            *((name_of(flow)[1], "10.0.0.1", True) for flow in range(3)),
            (7, "192.0.2.1", False),
            *((name_of(flow)[1], "10.0.0.1", False) for flow in range(3, 6)),
        ]  # fmt: skip
    assert second.counts().as_dict() == first.counts().as_dict()
    assert second.exporters() == first.exporters()
    assert second.positions == first.positions


def test_when_the_clock_is_set_back_nothing_waits_for_it() -> None:
    assembler = Assembler(CONFIG)
    assembler.decode(datagrams(datagram(0, num=4)))
    assert len(assembler.set_clock_back(NOW_US - 3_600_000_000)) == 4
    assembler.decode(datagrams(datagram(4, num=4), time_us=NOW_US - 3_600_000_000))
    assert len(assembler.release(NOW_US - 3_590_000_000)) == 4
