"""Small files of every format that is read, made in code, to be damaged."""

from __future__ import annotations

import datetime
import decimal
import gzip
import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import zstandard

from tests.ingest.captures.packets import udp_packet, write_pcap, write_pcapng
from tests.ingest.netflow.seeds import SEEDS as DATAGRAMS

_NUM: Final = 12
_START: Final = datetime.datetime(2026, 5, 1, 10, tzinfo=datetime.UTC)


def _flows() -> pl.DataFrame:
    rows = range(_NUM)
    return pl.DataFrame(
        {
            "start": [_START + datetime.timedelta(seconds=i) for i in rows],
            "duration_ms": [i * 12.5 for i in rows],
            "src_addr": [f"192.0.2.{i}" for i in rows],
            "dst_addr": ["198.51.100.7", "2001:db8::1", "nas"] * 4,
            "fwd_bytes": [100 * i for i in rows],
            "bwd_bytes": [7 * i for i in rows],
            "src_port": [40000 + i for i in rows],
            "dst_port": [443, 53, 0] * 4,
            "protocol": ["tcp", "udp", "icmp"] * 4,
            "tcp_flags": [27, 0, 0] * 4,
            "exporter": ["203.0.113.1"] * _NUM,
            "sampling": [1] * _NUM,
            "label": [False, True, None] * 4,
            "note": ['a "quoted" one', "two\nlines", "ä, ö"] * 4,
        }
    )


def _lines(*objects: dict[str, Any], compact: bool = False) -> bytes:
    separators = (",", ":") if compact else None
    return "".join(json.dumps(one, separators=separators) + "\n" for one in objects).encode()


_ZEEK: Final = {
    "ts": 1700000000.25, "uid": "C1", "id.orig_h": "192.0.2.1", "id.orig_p": 40000, "id.resp_h": "198.51.100.7",
    "id.resp_p": 443, "proto": "tcp", "duration": 0.5, "orig_bytes": 5, "resp_bytes": 7, "conn_state": "SF",
    "orig_pkts": 1, "resp_pkts": 2, "tunnel_parents": ["a", "b"],
}  # fmt: skip
_DNS: Final = {
    "_path": "dns",
    "ts": 1700000000.25,
    "id.orig_h": "192.0.2.1",
    "id.resp_h": "198.51.100.53",
    "proto": "udp",
}
_EVE: Final = {
    "timestamp": "2026-03-01T10:00:05.000001+0100", "flow_id": 1, "event_type": "flow", "src_ip": "192.0.2.1",
    "src_port": 50000, "dest_ip": "198.51.100.7", "dest_port": 443, "proto": "TCP",
    "flow": {
        "pkts_toserver": 10, "pkts_toclient": 8, "bytes_toserver": 1420, "bytes_toclient": 9800,
        "start": "2026-03-01T10:00:00.250000+0100", "end": "2026-03-01T10:00:01.500000+0100", "age": 1,
    },
    "tcp": {"tcp_flags": "1b", "syn": True},
}  # fmt: skip
_GOFLOW2: Final = {
    "type": "NETFLOW_V9", "time_received_ns": 1700000000000000000, "sampling_rate": 100, "proto": "TCP",
    "sampler_address": "203.0.113.1", "time_flow_start_ns": 1700000000000000000,
    "time_flow_end_ns": 1700000001000000000, "bytes": 100, "packets": 2, "src_addr": "192.0.2.1",
    "dst_addr": "198.51.100.7", "src_port": 5, "dst_port": 80, "tcp_flags": 2, "icmp_type": 0, "icmp_code": 0,
}  # fmt: skip
_PMACCT: Final = {
    "event_type": "purge", "ip_src": "192.0.2.1", "ip_dst": "198.51.100.7", "port_src": 5, "port_dst": 80,
    "ip_proto": "tcp", "tcp_flags": "24", "timestamp_start": "2026-05-01 10:00:00.000000",
    "timestamp_end": "2026-05-01 10:00:05.000000", "packets": 10, "bytes": 840,
}  # fmt: skip
_ZEEK_LOG: Final = (
    "#separator \\x09\n#set_separator\t,\n#empty_field\t(empty)\n#unset_field\t-\n#path\tconn\n"
    "#fields\tts\tuid\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\tduration\torig_bytes\tresp_bytes\tconn_state\n"
    "#types\ttime\tstring\taddr\tport\taddr\tport\tenum\tinterval\tcount\tcount\tstring\n"
    + "1700000000.25\tC1\t192.0.2.1\t40000\t198.51.100.7\t443\ttcp\t0.5\t5\t7\tSF\n" * 4
    + "1700000001.25\tC2\tfe80::1\t40000\tfe80::2\t53\tudp\t-\t-\t-\tS0\n#close\t2026-05-01-10-00-00\n"
)
_VPC: Final = (
    "version account-id interface-id srcaddr dstaddr srcport dstport protocol packets bytes start end action "
    "log-status\n"
    "2 012345678901 eni-1 192.0.2.1 198.51.100.7 20641 22 6 20 4249 1700000000 1700000060 ACCEPT OK\n"
    "2 012345678901 eni-1 - - - - - - - 1700000000 1700000060 - NODATA\n"
)
_NF: Final = (
    "IPV4_SRC_ADDR,L4_SRC_PORT,IPV4_DST_ADDR,L4_DST_PORT,PROTOCOL,L7_PROTO,IN_BYTES,OUT_BYTES,IN_PKTS,OUT_PKTS,TCP_FLAGS,"
    "FLOW_DURATION_MILLISECONDS,Label,Attack\n"
    + "192.0.2.1,5,198.51.100.7,53,17,5.0,80,240,1,1,0,4294966,0,Benign\n"
    * 4
)
_BINETFLOW: Final = (
    "StartTime,Dur,Proto,SrcAddr,Sport,Dir,DstAddr,Dport,State,sTos,dTos,TotPkts,TotBytes,SrcBytes,Label\n"
    + "2011/08/10 09:46:59.607825,1.026539,tcp,192.0.2.1,1577,  ->,198.51.100.7,0x03,S_RA,0,0,4,276,156,Background\n"
    * 4
)


def _odd() -> pa.Table:
    """Return flows with a column of every type that Arrow has beside them."""
    flows = _flows().drop("protocol").to_arrow()

    def some(values: list[Any], kind: Any) -> pa.Array:
        return pa.array((values * _NUM)[:_NUM], kind)

    structs = pa.struct([("a", pa.int32()), ("b", pa.string())])
    text, when = ["one", None, "three"], [_START, None]
    columns: dict[str, pa.Array] = {
        "protocol": some([6, 17], pa.uint8()),
        "category": some(text, pa.string()).dictionary_encode(),
        "number": pa.DictionaryArray.from_arrays(some([0, 1], pa.int8()), pa.array([10, 20], pa.int64())),
        "large": some(text, pa.large_string()),
        "view": some(["a text that is longer than twelve bytes", None, "short"], pa.string_view()),
        "octets": some([b"\xff\0", b"abc"], pa.binary()),
        "octets_view": some([b"\xff" * 20, b"abc"], pa.binary_view()),
        "fixed": some([b"abcd"], pa.binary(4)),
        "half": some([1.5], pa.float16()),
        "money": some([decimal.Decimal("1.50"), None], pa.decimal128(20, 2)),
        "much": some([decimal.Decimal("1.50"), None], pa.decimal256(60, 2)),
        "day": some([_START.date()], pa.date32()),
        "day64": some([_START.date()], pa.date64()),
        "seconds": some(when, pa.timestamp("s")),
        "nanoseconds": some(when, pa.timestamp("ns", "Europe/Berlin")),
        "time": some([datetime.time(10)], pa.time64("us")),
        "time32": some([datetime.time(10)], pa.time32("s")),
        "took": some([datetime.timedelta(seconds=3)], pa.duration("s")),
        "interval": some([None], pa.month_day_nano_interval()),
        "nothing": pa.nulls(_NUM),
        "list": some([[1, 2], None, []], pa.list_(pa.int16())),
        "texts": some([["a", None], []], pa.list_(pa.string())),
        "list_view": some([[1, 2], None], pa.list_view(pa.int16())),
        "triple": some([[1, 2, 3]], pa.list_(pa.int8(), 3)),
        "struct": some([{"a": 1, "b": "x"}, None], structs),
        "structs": some([[{"a": 1, "b": "x"}]], pa.list_(structs)),
        "map": some([[("k", 1)]], pa.map_(pa.string(), pa.int8())),
        "runs": pa.RunEndEncodedArray.from_arrays([5, _NUM], ["x", "y"]),
        "union": pa.UnionArray.from_sparse(pa.array([0] * _NUM, pa.int8()), [pa.array(range(_NUM), pa.int8())]),
        "uuid": pa.ExtensionArray.from_storage(pa.uuid(), some([b"\1" * 16], pa.binary(16))),
    }
    for name, column in columns.items():
        flows = flows.append_column(name, column)
    return flows


def _parquets() -> Iterator[tuple[str, bytes]]:
    flows = _flows().to_arrow()
    unwritable = ("list_view", "union", "runs", "interval", "half", "view", "octets_view")
    settings: dict[str, tuple[pa.Table, dict[str, Any]]] = {
        "plain": (flows, {"compression": "none", "use_dictionary": False}),
        "snappy": (flows, {"row_group_size": 5}),
        "gzip": (flows, {"compression": "gzip", "data_page_version": "2.0"}),
        "brotli": (flows, {"compression": "brotli"}),
        "lz4": (flows, {"compression": "lz4", "write_page_index": True}),
        "zstd": (flows, {"compression": "zstd", "data_page_size": 64}),
        "delta": (flows, {"use_dictionary": False, "column_encoding": {"note": "DELTA_BYTE_ARRAY"}}),
        "odd": (_odd().drop_columns(list(unwritable)), {"compression": "none"}),
        "odd-zstd": (_odd().drop_columns(list(unwritable)), {"compression": "zstd", "data_page_version": "2.0"}),
    }
    for name, (table, how) in settings.items():
        content = io.BytesIO()
        pyarrow.parquet.write_table(table, content, **how)
        yield f"{name}.parquet", content.getvalue()
    content = io.BytesIO()
    _flows().write_parquet(content)
    yield "polars.parquet", content.getvalue()


def _arrows() -> Iterator[tuple[str, bytes]]:
    odd = _odd()
    for codec in (None, "lz4", "zstd"):
        options = pa.ipc.IpcWriteOptions(compression=codec)
        for kind, make in (("arrow", pa.ipc.new_file), ("arrows", pa.ipc.new_stream)):
            content = io.BytesIO()
            # Compressed unions and runs cannot be written by all versions.
            with make(content, odd.schema, options=options) as writer:
                writer.write_table(odd, max_chunksize=7)
            yield f"odd-{codec}.{kind}", content.getvalue()
    content = io.BytesIO()
    pyarrow.feather.write_feather(_flows().to_arrow(), content, compression="lz4")
    yield "flows.feather", content.getvalue()
    for compression in ("uncompressed", "zstd"):
        content = io.BytesIO()
        _flows().write_ipc(content, compression=compression)
        yield f"polars-{compression}.arrow", content.getvalue()
        content = io.BytesIO()
        _flows().write_ipc_stream(content, compression=compression)
        yield f"polars-{compression}.arrows", content.getvalue()


def _captures() -> Iterator[tuple[str, bytes]]:
    packets = [
        udp_packet("192.0.2.1", "192.0.2.9", 5000, 2055, one, time_us=1_700_000_000_000_000 + i)
        for i, one in enumerate(DATAGRAMS)
    ]
    packets += [udp_packet("2001:db8::1", "2001:db8::9", 5000, 2055, DATAGRAMS[0], time_us=1_700_000_000_000_000)]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "capture"
        yield "micro.pcap", write_pcap(path, packets).read_bytes()
        yield "nano.pcap", write_pcap(path, packets, order=">", nanoseconds=True).read_bytes()
        yield "a.pcapng", write_pcapng(path, packets, tsresol=9).read_bytes()
        yield "b.pcapng", write_pcapng(path, packets, order=">").read_bytes()
        yield "simple.pcapng", write_pcapng(path, packets, simple=True).read_bytes()
        yield "micro.pcap.gz", gzip.compress(write_pcap(path, packets[:4]).read_bytes())
    yield "messages.ipfix", b"".join(one for one in DATAGRAMS if one.startswith(b"\0\x0a"))


def _nfcapd() -> bytes:
    """Return a file as nfcapd 1.7 writes it without compression: exporters, samplers, flows of IPv4 and IPv6."""

    def element(kind: int, body: bytes) -> bytes:
        return struct.pack("<HH", kind, 4 + len(body)) + body

    def flow(*elements: bytes, flags: int = 0) -> bytes:
        body = b"".join(elements)
        return struct.pack("<HHHBBHBB", 11, 12 + len(body), len(elements), 0, 0, 1, flags, 9) + body

    times = (1_700_000_000_000, 1_700_000_001_000, 1_700_000_002_000)
    generic = element(1, struct.pack("<QQQQQHHBBBB", *times, 3, 300, 1024, 53, 17, 0, 0, 0))
    v4 = element(2, struct.pack("<II", 0xC0000201, 0xC6336407))
    v6 = element(3, struct.pack("<QQQQ", 0x20010DB8 << 32, 1, 0x20010DB8 << 32, 2))
    sampler = element(18, struct.pack("<QHH", 4, 1, 0))
    event = element(19, struct.pack("<QIHBB", 7000, 0, 0, 1, 0))
    out = element(5, struct.pack("<QQQ", 0, 5, 500))
    records = [
        struct.pack("<HHI16sHHI", 7, 32, 9, struct.pack("<QII", 0, 0x7F000001, 0), 2, 1, 0),
        struct.pack("<HHHHqII", 15, 24, 1, 0, 4, 1, 99),
        flow(generic, v4, element(4, bytes(12))),
        flow(generic, v6, out),
        flow(generic, v4, sampler, flags=2),
        flow(generic, v4, event, flags=1),
    ]
    body = b"".join(records)
    head = struct.pack("<HHIqBBHIqII", 0xA50C, 2, 0x01070100, 0, 0, 0, 0, 0, 0, 0, 2)
    block = struct.pack("<IIHH", len(records), len(body), 3, 0) + body
    return head + block * 2


def seeds() -> dict[str, bytes]:
    """Return the content of each file by its name; the ending of a name says how the file is read."""
    flows = _flows()
    text = flows.write_csv().encode()
    found = {
        "flows.csv": text,
        "flows.tsv": flows.drop("note").write_csv(separator="\t").encode(),
        "semicolons.csv": flows.write_csv(separator=";", line_terminator="\r\n").encode(),
        "carriage.csv": flows.drop("note").write_csv(line_terminator="\r").encode(),
        "flows.jsonl": flows.write_ndjson().encode(),
        "flows.csv.gz": gzip.compress(text),
        "flows.csv.zst": zstandard.compress(text) * 2,
        "nf.csv": _NF.encode(),
        "argus.binetflow": _BINETFLOW.encode(),
        "vpc.log": _VPC.encode(),
        "zeek.log": _ZEEK_LOG.encode(),
        "zeek.json": _lines(*[_ZEEK] * 4),
        "stream.json": _lines(_DNS, _ZEEK | {"_path": "conn"}, _DNS, _ZEEK | {"_path": "conn"}),
        "eve.json": _lines({"timestamp": "x", "event_type": "stats"}, *[_EVE] * 4, compact=True),
        "goflow2.json": _lines(*[_GOFLOW2] * 4),
        "pmacct.json": _lines({"event_type": "purge_init"}, *[_PMACCT] * 4),
        "file.nfcapd": _nfcapd(),
    }
    for made in (_parquets(), _arrows(), _captures()):
        found.update(made)
    return found
