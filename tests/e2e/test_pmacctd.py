"""pmacctd's nfprobe reads captures whose flows are known, and exports them in v9 and IPFIX."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Final

import pytest

from tests.e2e.programs import HERE, Listening, Program, Relay, needs, wait_until
from tests.e2e.traffic import conversations, now_ms, true_flows, written_flows
from tests.ingest.captures.packets import Packet, write_pcap

pytestmark = needs("pmacctd")

SOURCES: Final = {9: "127.0.0.59", 10: "127.0.0.60"}


@pytest.fixture(scope="module")
def probed(collecting: Listening, tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[Packet]]:
    """Let two probes work at once: each waits some seconds before it reads."""
    folder = tmp_path_factory.mktemp("pmacctd")
    captured = {}
    with ExitStack() as stack:
        probes = []
        for version, source in SOURCES.items():
            captured[version] = conversations(50 + version, now_ms() - 20_000, num=100)
            pcap = write_pcap(folder / f"{version}.pcap", captured[version])
            relay = stack.enter_context(Relay(source, collecting.port))
            config = folder / f"{version}.conf"
            config.write_text(
                "daemonize: false\nplugins: nfprobe\n"
                "aggregate: src_host,dst_host,src_port,dst_port,proto,tos,tcpflags\n"
                f"pcap_savefile: {pcap}\nnfprobe_receiver: {HERE}:{relay.port}\nnfprobe_version: {version}\n"
            )
            log = folder / f"{version}.log"
            probes.append(stack.enter_context(Program("pmacctd", "-f", config, log=log)))
        for probe in probes:
            probe.finish(codes=(0, 1))  # 1 where its core sees the probe, which has finished, end first
    return captured


@pytest.mark.parametrize("version", SOURCES)
def test_every_record_is_written_as_the_packets_were(
    collecting: Listening, probed: dict[int, list[Packet]], version: int
) -> None:
    # Its times are absolute, in milliseconds (IE 152 and 153), in both versions.
    expected = true_flows(probed[version])
    assert written_flows(collecting.flows_of(SOURCES[version], expected.total())) == expected
    wait_until(lambda: collecting.exporter(SOURCES[version]), "the exporter is reported")
    assert collecting.exporter(SOURCES[version])["version"] == version
