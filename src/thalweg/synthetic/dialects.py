"""Simulated flows under the column names of public data sets and tools."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Literal, TypeAlias

import polars as pl

from thalweg.errors import ConfigError
from thalweg.synthetic.batch import ACK, FIN, ICMP, PSH, RST, SYN, TCP, UDP
from thalweg.tables import Flows

Dialect: TypeAlias = Literal["nf-v1", "nf-v2", "nf-v3", "binetflow", "zeek", "thalweg"]

_NF_V1: Final = (
    "IPV4_SRC_ADDR", "L4_SRC_PORT", "IPV4_DST_ADDR", "L4_DST_PORT", "PROTOCOL", "L7_PROTO", "IN_BYTES",
    "OUT_BYTES", "IN_PKTS", "OUT_PKTS", "TCP_FLAGS", "FLOW_DURATION_MILLISECONDS",
)  # fmt: skip
_NF_V2: Final = (
    "IPV4_SRC_ADDR", "L4_SRC_PORT", "IPV4_DST_ADDR", "L4_DST_PORT", "PROTOCOL", "L7_PROTO", "IN_BYTES",
    "IN_PKTS", "OUT_BYTES", "OUT_PKTS", "TCP_FLAGS", "CLIENT_TCP_FLAGS", "SERVER_TCP_FLAGS",
    "FLOW_DURATION_MILLISECONDS", "DURATION_IN", "DURATION_OUT", "MIN_TTL", "MAX_TTL",
    "LONGEST_FLOW_PKT", "SHORTEST_FLOW_PKT", "MIN_IP_PKT_LEN", "MAX_IP_PKT_LEN",
    "SRC_TO_DST_SECOND_BYTES", "DST_TO_SRC_SECOND_BYTES", "RETRANSMITTED_IN_BYTES",
    "RETRANSMITTED_IN_PKTS", "RETRANSMITTED_OUT_BYTES", "RETRANSMITTED_OUT_PKTS",
    "SRC_TO_DST_AVG_THROUGHPUT", "DST_TO_SRC_AVG_THROUGHPUT", "NUM_PKTS_UP_TO_128_BYTES",
    "NUM_PKTS_128_TO_256_BYTES", "NUM_PKTS_256_TO_512_BYTES", "NUM_PKTS_512_TO_1024_BYTES",
    "NUM_PKTS_1024_TO_1514_BYTES", "TCP_WIN_MAX_IN", "TCP_WIN_MAX_OUT", "ICMP_TYPE", "ICMP_IPV4_TYPE",
    "DNS_QUERY_ID", "DNS_QUERY_TYPE", "DNS_TTL_ANSWER", "FTP_COMMAND_RET_CODE",
)  # fmt: skip
_IAT: Final = [f"{of}_IAT_{by}" for of in ("SRC_TO_DST", "DST_TO_SRC") for by in ("MIN", "MAX", "AVG", "STDDEV")]
_NF_V3: Final = ("FLOW_START_MILLISECONDS", "FLOW_END_MILLISECONDS", *_NF_V2, *_IAT)
_PROTOCOLS: Final = {ICMP: "icmp", TCP: "tcp", UDP: "udp"}


def as_dialect(flows: Flows, dialect: Dialect) -> pl.DataFrame:
    """Return the flows as a table with the columns of another data set or tool; row i is flow i.

    A column of which a simulated flow knows nothing is 0, "-" in text. NF data sets call their address columns IPV4_
    for IPv6 addresses too.

    Raises ConfigError if `dialect` is unknown.
    """
    if dialect not in _DIALECTS:
        raise ConfigError(f"no dialect named {dialect!r}. Known: {', '.join(_DIALECTS)}")
    return _DIALECTS[dialect](flows.frame)


def _nf(frame: pl.DataFrame, header: Sequence[str]) -> pl.DataFrame:
    seconds = pl.when(pl.col("duration_ms") > 0).then(pl.col("duration_ms") / 1000).otherwise(1.0)
    fwd_rate, bwd_rate = pl.col("fwd_bytes") / seconds, pl.col("bwd_bytes") / seconds
    start = pl.col("start").dt.epoch("ms")
    duration = pl.col("duration_ms").round().cast(pl.Int64)
    known: dict[str, pl.Expr] = {
        "FLOW_START_MILLISECONDS": start,
        "FLOW_END_MILLISECONDS": start + duration,
        "IPV4_SRC_ADDR": pl.col("src_addr"),
        "L4_SRC_PORT": pl.col("src_port"),
        "IPV4_DST_ADDR": pl.col("dst_addr"),
        "L4_DST_PORT": pl.col("dst_port"),
        "PROTOCOL": pl.col("protocol"),
        "L7_PROTO": pl.lit(0.0),
        "IN_BYTES": pl.col("fwd_bytes"),
        "OUT_BYTES": pl.col("bwd_bytes"),
        "IN_PKTS": pl.col("fwd_packets"),
        "OUT_PKTS": pl.col("bwd_packets"),
        "TCP_FLAGS": pl.col("tcp_flags"),
        "FLOW_DURATION_MILLISECONDS": duration,
        "SRC_TO_DST_SECOND_BYTES": fwd_rate.round(1),
        "DST_TO_SRC_SECOND_BYTES": bwd_rate.round(1),
        "SRC_TO_DST_AVG_THROUGHPUT": (8 * fwd_rate).cast(pl.Int64),
        "DST_TO_SRC_AVG_THROUGHPUT": (8 * bwd_rate).cast(pl.Int64),
    }
    return frame.select(
        *(known.get(name, pl.lit(0)).alias(name) for name in header),
        pl.col("label").cast(pl.Int64).alias("Label"),
        pl.col("attack").alias("Attack"),
    )


def _protocol() -> pl.Expr:
    return pl.col("protocol").replace_strict(_PROTOCOLS, default="other", return_dtype=pl.String)


def _seconds() -> pl.Expr:
    return (pl.col("duration_ms") / 1000).round(6)


def _has(flag: int) -> pl.Expr:
    return pl.col("tcp_flags") & flag > 0


def _binetflow(frame: pl.DataFrame) -> pl.DataFrame:
    answered = pl.col("bwd_packets") > 0
    letters = pl.concat_str(
        pl.when(_has(flag)).then(pl.lit(letter)).otherwise(pl.lit(""))
        for flag, letter in ((FIN, "F"), (SYN, "S"), (RST, "R"), (PSH, "P"), (ACK, "A"))
    )
    # A flow has one set of flags for both sides; the side that refused a probe sent RST and ACK.
    refused = answered & _has(RST) & ~_has(PSH)
    state = (
        pl.when(pl.col("protocol") != TCP)
        .then(pl.when(pl.col("protocol") == ICMP).then(pl.lit("ECO")).otherwise(_pick(answered, "CON", "INT")))
        .when(refused)
        .then(pl.lit("S_RA"))
        .when(answered)
        .then(letters + "_" + letters)
        .otherwise(letters + "_")
    )
    no_ports = pl.col("protocol") == ICMP
    port = {side: pl.when(~no_ports).then(pl.col(side).cast(pl.String)) for side in ("src_port", "dst_port")}
    return frame.select(
        StartTime=pl.col("start").dt.strftime("%Y/%m/%d %H:%M:%S%.6f"),
        Dur=_seconds(),
        Proto=_protocol(),
        SrcAddr="src_addr",
        Sport=port["src_port"].fill_null("0x0008"),
        Dir=_pick(answered, "  <->", "   ->"),
        DstAddr="dst_addr",
        Dport=port["dst_port"].fill_null("0x0000"),
        State=state,
        sTos=pl.lit(0),
        dTos=pl.lit(0),
        TotPkts=pl.col("fwd_packets") + pl.col("bwd_packets"),
        TotBytes=pl.col("fwd_bytes") + pl.col("bwd_bytes"),
        SrcBytes="fwd_bytes",
        Label=pl.when("label").then("flow=From-Botnet-" + pl.col("attack")).otherwise(pl.lit("flow=From-Normal")),
    )


def _zeek(frame: pl.DataFrame) -> pl.DataFrame:
    answered = pl.col("bwd_packets") > 0
    header = pl.when(pl.col("protocol") == TCP).then(40).otherwise(28)
    state = (
        pl.when(~answered)
        .then(pl.lit("S0"))
        .when((pl.col("protocol") == TCP) & _has(RST))
        .then(_pick(_has(PSH), "RSTO", "REJ"))
        .otherwise(pl.lit("SF"))
    )

    def payload(direction: str) -> pl.Expr:
        sent, headers = (
            pl.col(f"{direction}_bytes").cast(pl.Int64),
            pl.col(f"{direction}_packets").cast(pl.Int64) * header,
        )
        return (sent - headers).clip(lower_bound=0)

    return frame.with_row_index("number").select(
        pl.col("start").dt.epoch("us").truediv(1_000_000).round(6).alias("ts"),
        ("C" + pl.col("number").cast(pl.String).str.zfill(17)).alias("uid"),
        pl.col("src_addr").alias("id.orig_h"),
        pl.col("src_port").alias("id.orig_p"),
        pl.col("dst_addr").alias("id.resp_h"),
        pl.col("dst_port").alias("id.resp_p"),
        _protocol().alias("proto"),
        pl.lit("-").alias("service"),
        _seconds().alias("duration"),
        payload("fwd").alias("orig_bytes"),
        payload("bwd").alias("resp_bytes"),
        state.alias("conn_state"),
        pl.lit("-").alias("local_orig"),
        pl.lit("-").alias("local_resp"),
        pl.lit(0).alias("missed_bytes"),
        pl.lit("-").alias("history"),
        pl.col("fwd_packets").alias("orig_pkts"),
        pl.col("fwd_bytes").alias("orig_ip_bytes"),
        pl.col("bwd_packets").alias("resp_pkts"),
        pl.col("bwd_bytes").alias("resp_ip_bytes"),
        pl.lit("-").alias("tunnel_parents"),
        _pick(pl.col("label"), "Malicious", "Benign").alias("label"),
        pl.when("label").then("attack").otherwise(pl.lit("-")).alias("detailed-label"),
    )


def _pick(condition: pl.Expr, yes: str, no: str) -> pl.Expr:
    return pl.when(condition).then(pl.lit(yes)).otherwise(pl.lit(no))


_DIALECTS: Final[dict[str, Callable[[pl.DataFrame], pl.DataFrame]]] = {
    "nf-v1": partial(_nf, header=_NF_V1),
    "nf-v2": partial(_nf, header=_NF_V2),
    "nf-v3": partial(_nf, header=_NF_V3),
    "binetflow": _binetflow,
    "zeek": _zeek,
    "thalweg": lambda frame: frame.drop("row"),
}
