"""One Thalweg and one nfcapd that receive the same datagrams for the whole session, as starting takes seconds."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import pytest

from tests.e2e.programs import HERE, Listening, Program, Relay, execute, free_port, softflowd, udp_socket, wait_until
from tests.e2e.traffic import conversations, now_ms
from tests.ingest.captures.packets import Packet, write_pcap

VERSIONS: Final = {5: "127.0.0.5", 9: "127.0.0.9", 10: "127.0.0.10"}
"""NetFlow's versions, 10 being IPFIX, and the addresses of their exporters."""
REPLAYED: Final = {5: "127.0.0.205", 9: "127.0.0.209"}
"""Exporters that only nfcapd receives: their datagrams are replayed."""


@pytest.fixture(scope="session")
def collecting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    """Thalweg, which writes records as they come, unpaired."""
    folder = tmp_path_factory.mktemp("collecting")
    args = ("--from", f"udp://{HERE}:0", "--hold", "0", "--window", "200000,1s")
    with Listening("collect", *args, folder=folder) as listening:
        yield listening


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class SideBySide:
    """What both Thalweg and nfcapd received. packets: of each version's exporter; records: of nfdump's, by the
    exporter's address; folder: of nfcapd's files.
    """

    packets: dict[int, list[Packet]]
    records: dict[str, list[dict[str, Any]]]
    folder: Path


@pytest.fixture(scope="session")
def side_by_side(collecting: Listening, tmp_path_factory: pytest.TempPathFactory) -> SideBySide:
    """Let softflowd export to both, in every version."""
    folder = tmp_path_factory.mktemp("nfcapd")
    files = folder / "files"
    files.mkdir()
    port = free_port()
    begin = now_ms() - 20_000
    packets = {version: conversations(version, begin, ipv6=version != 5) for version in VERSIONS}
    options = ("-p", str(port), "-b", HERE, "-w", files, "-t", "3600", "-B", "4000000")
    with Program("nfcapd", *options, log=folder / "log") as nfcapd:
        nfcapd.wait_for_text("Startup")
        for version, source in VERSIONS.items():
            pcap = write_pcap(folder / f"{version}.pcap", packets[version])
            with Relay(source, collecting.port, port) as relay:
                softflowd(pcap, relay.port, version, "-a")
        for version, source in REPLAYED.items():
            of = conversations(200 + version, begin, num=60, ipv6=version != 5)
            pcap = write_pcap(folder / f"{200 + version}.pcap", of)
            with Relay(source, port) as relay:
                softflowd(pcap, relay.port, version, "-a")
        wait_until(lambda: udp_socket(port) == (0, 0), "nfcapd has taken all datagrams, and lost none")
        nfcapd.finish(signal.SIGTERM)
    records: dict[str, list[dict[str, Any]]] = {}
    for record in json.loads(execute("nfdump", "-R", files, "-o", "json")):
        records.setdefault(record["ip4_router"], []).append(record)
    return SideBySide(packets=packets, records=records, folder=files)
