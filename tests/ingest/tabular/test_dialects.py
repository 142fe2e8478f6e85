"""Each dialect, from small hand-written tables, in text and as Parquet."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from thalweg.errors import ConfigError, SchemaError
from thalweg.ingest import DIALECTS, ReadOptions, read
from thalweg.ingest.tabular.dialects.recognition import recognise
from thalweg.ingest.tabular.dialects.rules import PROTOCOLS, protocol

NF_V1 = (
    "IPV4_SRC_ADDR,L4_SRC_PORT,IPV4_DST_ADDR,L4_DST_PORT,PROTOCOL,L7_PROTO,IN_BYTES,OUT_BYTES,IN_PKTS,OUT_PKTS,"
    "TCP_FLAGS,FLOW_DURATION_MILLISECONDS,Label,Attack\n"
    "10.0.0.1,50000,10.0.0.2,443,6,91.0,1200,3400,9,8,27,150,0,Benign\n"
    "10.0.0.3,50001,10.0.0.2,22,6,92,80,0,2,0,2,4294967,1,Brute Force\n"
)
NF_V3 = (
    "FLOW_START_MILLISECONDS,FLOW_END_MILLISECONDS,IPV4_SRC_ADDR,L4_SRC_PORT,IPV4_DST_ADDR,L4_DST_PORT,PROTOCOL,"
    "IN_BYTES,IN_PKTS,OUT_BYTES,OUT_PKTS,TCP_FLAGS,CLIENT_TCP_FLAGS,FLOW_DURATION_MILLISECONDS,Label,Attack\n"
    "1424242193040,1424242193043,2001:db8::1,52670,2001:db8::2,53,17,146,2,178,2,0,0,3,0,Benign\n"
)
BINETFLOW = (
    "StartTime,Dur,Proto,SrcAddr,Sport,Dir,DstAddr,Dport,State,sTos,dTos,TotPkts,TotBytes,SrcBytes,Label\n"
    "2011/08/16 10:01:46.972101,3599.5,tcp,1.2.3.4,49213,  <?>,5.6.7.8,18250,A_,0,0,9,1000,400,flow=Back\n"
    "2011/08/16 10:01:47,0.25,icmp,1.2.3.4,0x0303,   ->,5.6.7.8,,URP,0,,1,70,70,flow=From-Botnet-V47-ICMP\n"
    "2011/08/16 10:01:48.5,0,arp,1.2.3.4,,  who,5.6.7.8,,CON,,,2,120,60,flow=From-Normal-V47-Grill\n"
    "2011/08/16 10:01:49.0,0,tcp,1.2.3.4,0x0303,   ->,5.6.7.8,80,CON,,,2,120,60,flow=Background\n"
)
_COLUMNS = (
    "ts uid id.orig_h id.orig_p id.resp_h id.resp_p proto duration orig_bytes resp_bytes conn_state "
    "orig_pkts resp_pkts label detailed-label"
)
_KINDS = "time string addr port addr port enum interval count count string count count string string"
_FIRST = "1545403816.962094 CrD 10.0.0.1 41040 10.0.0.2 80 tcp 3.139211 10 20 S0 3 1 Benign -"
_SECOND = "1545403824.181240 CY9 fe80::1 5353 ff02::fb 5353 udp - - - S0 1 0 malicious C&C"
ZEEK_COLUMNS = _COLUMNS.split()
ZEEK_ROWS = [_FIRST.split(), _SECOND.split()]


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_thalweg_names(tmp_path: Path) -> None:
    path = write(
        tmp_path / "own.csv",
        "start,duration_ms,src_addr,dst_addr,fwd_bytes,bwd_bytes,src_port,protocol,label,attack,note\n"
        "2026-05-01T08:00:00Z,1.5,10.0.0.1,10.0.0.2,100,200,1234,6,false,,x\n"
        "2026-05-01T08:00:01.5+02:00,2,10.0.0.1,10.0.0.3,100,200,1235,udp,true,scan,y\n",
    )
    flows = read(path)
    assert flows.frame.to_dicts()[1] == {
        "row": 1,
        "start": datetime(2026, 5, 1, 6, 0, 1, 500_000, UTC),
        "duration_ms": 2.0,
        "src_addr": "10.0.0.1",
        "dst_addr": "10.0.0.3",
        "fwd_bytes": 100,
        "bwd_bytes": 200,
        "src_port": 1235,
        "protocol": 17,
        "label": True,
        "attack": "scan",
    }
    assert flows.frame["start"][0] == datetime(2026, 5, 1, 8, tzinfo=UTC)
    assert flows.source is not None
    assert flows.source["note"].to_list() == ["x", "y"]
    assert not flows.tally


def test_nf_v1_zeroes_wrapped_durations_and_counts_them(tmp_path: Path) -> None:
    path = write(tmp_path / "nf.csv", NF_V1)
    flows = read(path)
    assert flows.frame["duration_ms"].to_list() == [150.0, 0.0]
    assert flows.tally["wrapped_durations"] == 1
    assert f"{path}, line 3" in flows.tally.lines()[0]
    assert flows.frame["label"].to_list() == [False, True]
    assert flows.frame["attack"].to_list() == ["Benign", "Brute Force"]
    assert flows.frame.select("fwd_bytes", "bwd_bytes", "fwd_packets", "bwd_packets").row(0) == (
        1200,
        3400,
        9,
        8,
    )
    assert flows.source is not None
    assert flows.source["FLOW_DURATION_MILLISECONDS"].to_list() == [150.0, 4294967.0]
    assert flows.source.columns == NF_V1.split("\n")[0].split(",")


def test_wrapped_durations_are_kept_when_asked(tmp_path: Path) -> None:
    flows = read(write(tmp_path / "nf.csv", NF_V1), keep_wrapped=True)
    assert flows.frame["duration_ms"].to_list() == [150.0, 4294967.0]
    assert not flows.tally


def test_a_mapped_duration_is_not_unwrapped(tmp_path: Path) -> None:
    flows = read(write(tmp_path / "nf.csv", NF_V1), mapping={"duration_ms": "IN_BYTES"})
    assert flows.frame["duration_ms"].to_list() == [1200.0, 80.0]


def test_nf_v3_has_starts_and_ipv6(tmp_path: Path) -> None:
    flows = read(write(tmp_path / "nf.csv", NF_V3))
    assert flows.frame["start"][0] == datetime(2015, 2, 18, 6, 49, 53, 40_000, UTC)
    assert flows.frame["src_addr"][0] == "2001:db8::1"


@pytest.mark.parametrize("kind", ["csv", "parquet as text"])
def test_binetflow(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "a.binetflow", BINETFLOW)
    if kind != "csv":
        frame = pl.read_csv(path, infer_schema=False).fill_null("")
        path = tmp_path / "a.parquet"
        frame.write_parquet(path)
    flows = read(path)
    frame = flows.frame
    assert frame["start"][0] == datetime(2011, 8, 16, 10, 1, 46, 972101, UTC)
    assert frame["start"].null_count() == 0
    assert frame["duration_ms"].to_list() == [3_599_500.0, 250.0, 0.0, 0.0]
    assert frame["fwd_bytes"].to_list() == [400, 70, 60, 60]
    assert frame["bwd_bytes"].to_list() == [600, 0, 60, 60]
    assert frame["protocol"].to_list() == [6, 1, None, 6]
    assert frame["src_port"].to_list() == [49213, None, None, None]
    assert frame["label"].to_list() == [False, True, False, False]
    assert frame["attack"].to_list() == [None, "Botnet", None, None]
    # Hexadecimal is expected where ICMP has no ports, and unreadable for TCP.
    assert flows.tally.as_dict() == {"unreadable_values": 1}


def _zeek_tsv(joined: bool) -> str:
    def line(cells: list[str]) -> str:
        return "\t".join(cells[:-2]) + ("   " if joined else "\t") + ("   " if joined else "\t").join(cells[-2:])

    kinds = _KINDS.split()
    return "\n".join(
        [
            "#separator \\x09", "#set_separator\t,", "#empty_field\t(empty)", "#unset_field\t-",
            "#fields\t" + line(ZEEK_COLUMNS), "#types\t" + line(kinds), *map(line, ZEEK_ROWS),
            "#close\t2019-03-15", "",
        ]
    )  # fmt: skip


ZEEK_TEXTS = {
    "tsv": _zeek_tsv(joined=False),
    "labeled": _zeek_tsv(joined=True),
    "csv": "\n".join(",".join(row) for row in [ZEEK_COLUMNS, *ZEEK_ROWS]),
    "json": (
        '{"ts":1545403816.962094,"uid":"CrD","id.orig_h":"10.0.0.1","id.orig_p":41040,"id.resp_h":"10.0.0.2",'
        '"id.resp_p":80,"proto":"tcp","duration":3.139211,"orig_bytes":10,"resp_bytes":20,"conn_state":"S0",'
        '"orig_pkts":3,"resp_pkts":1,"label":"Benign","tunnel_parents":["a","b"]}\n'
        '{"ts":"2018-12-21T14:50:24.181240Z","uid":"CY9","id.orig_h":"fe80::1","id.orig_p":5353,'
        '"id.resp_h":"ff02::fb","id.resp_p":5353,"proto":"udp","conn_state":"S0","orig_pkts":1,"resp_pkts":0,'
        '"label":"malicious","detailed-label":"C&C"}\n'
    ),
}


@pytest.mark.parametrize("kind", list(ZEEK_TEXTS))
def test_zeek(tmp_path: Path, kind: str) -> None:
    flows = read(write(tmp_path / "conn.log", ZEEK_TEXTS[kind]))
    assert flows.frame.drop("row").rows() == [
        (
            datetime(2018, 12, 21, 14, 50, 16, 962094, UTC), 3139.211, "10.0.0.1", "10.0.0.2", 10, 20, 41040,
            80, 6, 3, 1, False, None,
        ),
        (
            datetime(2018, 12, 21, 14, 50, 24, 181240, UTC), 0.0, "fe80::1", "ff02::fb", 0, 0, 5353, 5353, 17,
            1, 0, True, "C&C",
        ),
    ]  # fmt: skip
    assert flows.tally.as_dict() == {"unset_as_zero": 1}
    assert flows.source is not None
    assert set(ZEEK_COLUMNS) <= set(flows.source.columns)
    if kind == "json":
        assert flows.source["tunnel_parents"].to_list() == ['["a","b"]', None]


def test_zeek_json_may_lack_unset_fields_altogether(tmp_path: Path) -> None:
    line = '{"ts":1.5,"id.orig_h":"a","id.resp_h":"b","proto":"tcp","conn_state":"S0"}\n'
    flows = read(write(tmp_path / "conn.json", line))
    assert flows.frame.select("duration_ms", "fwd_bytes", "bwd_bytes").row(0) == (0.0, 0, 0)


def test_zeek_as_parquet_of_text(tmp_path: Path) -> None:
    pl.DataFrame(ZEEK_ROWS, schema=ZEEK_COLUMNS, orient="row").write_parquet(tmp_path / "z.parquet")
    flows = read(tmp_path / "z.parquet")
    assert flows.frame["duration_ms"].to_list() == [3139.211, 0.0]
    assert flows.frame["fwd_bytes"].to_list() == [10, 0]
    assert flows.frame["attack"].to_list() == [None, "C&C"]


def test_the_most_specific_dialect_wins() -> None:
    columns = NF_V3.split("\n")[0].split(",")
    assert "start" in recognise(columns).rules
    assert "start" not in recognise(columns, dialect="nf-v2").rules
    assert set(DIALECTS) == {
        "thalweg", "nf-v1", "nf-v2", "nf-v3", "binetflow", "zeek", "suricata", "vpc", "goflow2", "goflow2-v1",
        "pmacct", "pmacct-csv",
    }  # fmt: skip
    assert {name for name, dialect in DIALECTS.items() if dialect.one_way} == {
        "vpc", "goflow2", "goflow2-v1", "pmacct", "pmacct-csv",
    }  # fmt: skip


ANY = "Source;Target;Millis;Sent;Got;When;Kind\n10.0.0.1;10.0.0.2;5;100;200;1700000000;TCP\n"
MAPPING = {
    "src_addr": "Source", "dst_addr": "Target", "duration_ms": "Millis", "fwd_bytes": "Sent",
    "bwd_bytes": "Got", "start": "When", "protocol": "Kind",
}  # fmt: skip


def test_a_mapping_reads_any_table(tmp_path: Path) -> None:
    flows = read(write(tmp_path / "any.csv", ANY), mapping=MAPPING)
    assert flows.frame.drop("row").row(0) == (
        datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC), 5.0, "10.0.0.1", "10.0.0.2", 100, 200, 6,
    )  # fmt: skip


def test_a_mapping_extends_a_dialect(tmp_path: Path) -> None:
    flows = read(write(tmp_path / "nf.csv", NF_V1), mapping={"exporter": "Attack"})
    assert flows.frame["exporter"].to_list() == ["Benign", "Brute Force"]
    assert flows.frame["fwd_bytes"].to_list() == [1200, 80]


def test_a_mapping_to_a_column_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"src_addr=source .*did you mean 'Source'.*Columns found: Source, Target"):
        read(write(tmp_path / "any.csv", ANY), mapping={**MAPPING, "src_addr": "source"})


@pytest.mark.parametrize("name", ["source_addr", "row"])
def test_an_unknown_mapping_key(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}=x.*the declared ones are start, duration_ms, src_addr"):
        ReadOptions(mapping={name: "x"})


def test_an_unknown_dialect() -> None:
    with pytest.raises(ConfigError, match=r"no dialect named 'nf'.*thalweg, nf-v1, nf-v2, nf-v3, binetflow, zeek"):
        ReadOptions(dialect="nf")


def test_runs_hold_at_least_a_row() -> None:
    with pytest.raises(ConfigError, match="chunk_rows is at least 1, not 0"):
        ReadOptions(chunk_rows=0)


def test_protocols_by_name_number_and_neither() -> None:
    given = pl.DataFrame({"p": ["TCP", " udp ", "58", "arp", "", None, "warp"]})
    read_as = given.select(protocol("p").expr(given.schema))["p"].to_list()
    assert read_as == ["6", "17", "58", None, None, None, "warp"]
    assert all(number is None or 0 < number < 256 for number in PROTOCOLS.values())


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (["10", "20"], pl.Categorical()),
        ([10, 20], pl.Decimal(10, 2)),
        ([10, 20], pl.Duration("ms")),
        ([10.0, 20.0], pl.Float32()),
    ],
)
def test_durations_of_other_dtypes(tmp_path: Path, values: list[object], dtype: pl.DataType) -> None:
    frame = pl.DataFrame({"src_addr": ["a", "b"], "dst_addr": ["c", "d"], "fwd_bytes": [1, 2], "bwd_bytes": [3, 4]})
    frame.with_columns(pl.Series("duration_ms", values).cast(dtype)).write_parquet(tmp_path / "d.parquet")
    assert read(tmp_path / "d.parquet").frame["duration_ms"].to_list() == [10.0, 20.0]


def test_unreadable_times_and_labels_are_counted(tmp_path: Path) -> None:
    text = (
        "start,label,duration_ms,src_addr,dst_addr,fwd_bytes,bwd_bytes\n"
        "soon,perhaps,1,::1,::2,1,1\n,,1,::1,::2,1,1\n2026-01-01 00:00:00,yes,1,::1,::2,1,1\n"
    )
    flows = read(write(tmp_path / "t.csv", text))
    assert flows.tally.as_dict() == {"unreadable_values": 2}
    assert flows.frame["start"].to_list() == [None, None, datetime(2026, 1, 1, tzinfo=UTC)]
    assert flows.frame["label"].to_list() == [None, None, True]
    assert "t.csv, line 2, column start" in flows.tally.lines()[0]


def test_a_column_of_a_kind_that_is_no_number(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"src_addr": ["a"], "dst_addr": ["c"], "fwd_bytes": [[1]], "bwd_bytes": [3], "duration_ms": [1]}
    )
    frame.write_parquet(tmp_path / "d.parquet")
    with pytest.raises(SchemaError, match=r"d\.parquet: a column has a type that cannot be read as declared"):
        read(tmp_path / "d.parquet")


@pytest.mark.parametrize("name", ["*", "^.*$", "^src.*$"])
def test_a_column_whose_name_is_a_pattern_is_refused(name: str) -> None:
    columns = ["src_addr", "dst_addr", "fwd_bytes", "bwd_bytes", "duration_ms", name]
    for mapping in ({}, {"exporter": name}):
        with pytest.raises(SchemaError, match="as a pattern"):
            recognise(columns, mapping=mapping)
