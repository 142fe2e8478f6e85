"""`thalweg collect` reads files that other programs wrote: it ends if nothing more can come, or stops on a signal."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from tests.e2e.conftest import VERSIONS, SideBySide
from tests.e2e.programs import Listening, Relay, needs, softflowd
from tests.e2e.traffic import conversations, nfdump_flows, now_ms, true_flows, written_flows
from tests.ingest.captures.packets import udp_packet, write_pcap

_ZEEK_HEADER = "\t".join(
    ("#fields", "ts", "uid", "id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p", "proto", "duration", "orig_bytes",
     "resp_bytes", "orig_pkts", "orig_ip_bytes", "resp_pkts", "resp_ip_bytes")
)  # fmt: skip


@needs("softflowd")
def test_a_capture_of_exports_is_read_to_its_end(tmp_path: Path) -> None:
    packets = conversations(80, now_ms() - 20_000, num=40)
    with Relay("127.0.0.80") as relay:
        softflowd(write_pcap(tmp_path / "traffic.pcap", packets), relay.port, 10, "-a")
    sent = (udp_packet("192.0.2.80", "192.0.2.1", 9, 4739, one, time_us=now_ms() * 1000) for one in relay.datagrams)
    write_pcap(tmp_path / "exports.pcap", sent)
    with Listening("collect", "--from", "pcap:exports.pcap", "--hold", "0", folder=tmp_path) as listening:
        listening.finished = listening.process.finish()
        assert listening.finished.code == 0, listening.finished.err
        assert written_flows(listening.flows()) == true_flows(packets)
        assert listening.flows()["exporter"].unique().to_list() == ["192.0.2.80"]


@needs("softflowd", "nfcapd", "nfdump")
def test_a_folder_of_nfcapd_is_watched_until_told_to_stop(side_by_side: SideBySide, tmp_path: Path) -> None:
    args = ("--from", f"nfcapd:{side_by_side.folder}", "--hold", "0", "--window", "200000,1s")
    with Listening("collect", *args, folder=tmp_path) as listening:
        num = sum(map(len, side_by_side.records.values()))
        listening.process.wait_until(lambda: len(listening.flows()) == num)
        assert listening.stop().code == 0
        flows = listening.flows()
    # nfdump's IPFIX times are wrong in its file, too.
    of = VERSIONS[5], VERSIONS[9]
    expected = nfdump_flows(record for one in of for record in side_by_side.records[one])
    assert written_flows(flows.filter(pl.col("exporter").is_in(of))) == expected


def test_a_log_of_zeek_is_followed_until_told_to_stop(tmp_path: Path) -> None:
    log = tmp_path / "conn.log"
    log.write_text(f"#separator \\x09\n{_ZEEK_HEADER}\n")
    args = ("--from", f"zeek:{log}", "--window", "200000,1s")
    with Listening("collect", *args, folder=tmp_path) as listening:
        listening.process.wait_until(lambda: listening.receiver())
        with log.open("a") as stream:
            for i in range(100):
                fields = (now_ms() / 1000, f"C{i}", f"10.90.0.{i}", 50_000 + i, "10.90.9.9", 443, "tcp", 0.5, 100 + i,
                          2000, 4, 300 + i, 5, 2200)  # fmt: skip
                stream.write("\t".join(map(str, fields)) + "\n")
        listening.process.wait_until(lambda: len(listening.flows()) == 100)
        assert listening.stop().code == 0
        flows = listening.flows()
    assert sorted(flows["src_port"]) == list(range(50_000, 50_100))
    assert flows["src_addr"].n_unique() == 100
    assert flows["bwd_packets"].unique().to_list() == [5]
