"""Flow records as fixed-size rows of one numpy dtype, for decoding, pairing and snapshots.

A record is one direction of a flow, or both if the exporter reports both. The last step turns records into `Flows`.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from thalweg.addresses import parse_addresses
from thalweg.runtime.jit import compiled
from thalweg.tables import FIRST_US, LAST_US, Flows, conform
from thalweg.tally import Tally

RECORD: Final = np.dtype(
    [
        # Each address is two 64-bit halves in host byte order; IPv4 is mapped to ::ffff:a.b.c.d (RFC 4291, 2.5.5.2).
        ("src_hi", "u8"),
        ("src_lo", "u8"),
        ("dst_hi", "u8"),
        ("dst_lo", "u8"),
        ("start_us", "i8"),  # microseconds since 1970, UTC
        ("end_us", "i8"),  # never before start_us
        ("fwd_bytes", "u8"),  # counters are scaled by the sampling interval
        ("fwd_packets", "u8"),
        ("bwd_bytes", "u8"),
        ("bwd_packets", "u8"),
        ("arrival_us", "i8"),  # when its datagram was received, microseconds since 1970
        ("src_port", "u2"),  # ICMP: 0
        ("dst_port", "u2"),  # ICMP: type * 256 + code
        ("tcp_flags", "u2"),
        ("protocol", "u1"),
        ("egress", "u1"),  # 1 if observed leaving the exporter (IE 61)
        ("exporter", "u4"),  # index into a list of exporter names
        ("sampling", "u4"),  # interval: one packet in this many was seen
        ("initiator", "u1"),  # how src was identified as the initiator: an index into INITIATOR
        ("two_way", "u1"),  # 1 if bwd_* was reported or paired, 0 if it is unknown
        ("continued", "u1"),  # 1 if an earlier piece of the same flow has been emitted
    ],
    align=True,
)
"""One record, 112 bytes."""

Records: TypeAlias = npt.NDArray[np.void]
"""(R,) array of RECORD."""

# Senders choose the addresses; without a secret salt they could choose many with the same hash.
_SALT: Final = np.uint64(int.from_bytes(os.urandom(8), "little"))

NO_TIME: Final = FIRST_US - 1
"""`start_us` and `end_us` of a flow whose time is not known."""

_LONGEST_MS: Final = 1e15

INITIATOR: Final = ("unknown", "time", "ports", "flags", "exporter")
"""How the initiator of a flow was identified, from least to most certain."""


def no_records(num: int = 0) -> Records:
    """Return `num` records, all zero."""
    return np.zeros(num, RECORD)


def flows_of(
    parts: Sequence[Records], exporters: Sequence[str], *, subject: str = "records", tally: Tally | None = None
) -> Flows:
    """Convert runs of records to `Flows`, joined in order.

    exporters: the names that `records["exporter"]` indexes. subject, tally: see `tables.conform`. A flow whose start or
    end no datetime can hold has no start and a duration of 0, and is counted.
    """
    tally = Tally() if tally is None else tally

    def column(name: str) -> npt.NDArray[Any]:
        return np.concatenate([part[name] for part in parts]) if parts else no_records()[name].copy()

    start, end, names = column("start_us"), column("end_us"), pl.Series(list(exporters), dtype=pl.String)
    times = pl.Series(start, dtype=pl.Int64)
    if len(start) and (start.min() < FIRST_US or start.max() > LAST_US or end.max() > LAST_US):
        wrong = (start < FIRST_US) | (start > LAST_US) | (end > LAST_US)
        tally.add("unreadable_values", int(wrong.sum()), f"{subject}, column start")
        times, end = times.set(pl.Series(wrong), None), np.where(wrong, start, end)
    frame = pl.DataFrame(
        {
            "start": times.cast(pl.Datetime("us", "UTC")),
            "duration_ms": (end - start) / 1000.0,
            "src_addr": _texts(column("src_hi"), column("src_lo")),
            "dst_addr": _texts(column("dst_hi"), column("dst_lo")),
            **{
                name: column(name)
                for name in (
                    "fwd_bytes", "bwd_bytes", "src_port", "dst_port", "protocol", "tcp_flags", "fwd_packets",
                    "bwd_packets", "sampling",
                )
            },
            "exporter": names.gather(column("exporter")),
            "initiator": pl.Series(INITIATOR).gather(column("initiator")),
            "continued": column("continued") != 0,
        }
    )  # fmt: skip
    return conform(frame, subject=subject, tally=tally, exact=True)


def _texts(hi: npt.NDArray[np.uint64], lo: npt.NDArray[np.uint64]) -> pl.Series:
    """Format addresses as text, formatting each distinct address once."""
    which = np.empty(len(hi), np.uint32)
    first = np.empty(len(hi), np.int64)
    # At least twice as many slots as rows: half of them stay empty, which keeps probing short.
    slots = np.full(1 << max(int(2 * len(hi)).bit_length(), 4), -1, np.int32)
    num = _intern(hi, lo, _SALT, slots, which, first)
    rows = first[:num]
    texts = [address_text(high, low) for high, low in zip(hi[rows].tolist(), lo[rows].tolist(), strict=True)]
    return pl.Series(texts, dtype=pl.String).gather(which)


@compiled()
def _intern(hi: Any, lo: Any, salt: Any, slots: Any, which: Any, first: Any) -> int:
    """Number the distinct addresses in order of first occurrence, and return how many there are.

    slots: an open-addressing hash table, all -1. which: (R,), filled with the number of each row's address. first:
    (R,), filled with the row in which each number first occurs.
    """
    num = 0
    mask = np.uint64(len(slots) - 1)
    for row in range(len(hi)):
        mixed = (hi[row] ^ salt) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(32)) ^ lo[row]) * np.uint64(0xD1B54A32D192ED03)
        at = (mixed ^ (mixed >> np.uint64(29))) & mask
        while True:
            found = slots[at]
            if found < 0:
                slots[at] = num
                first[num] = row
                which[row] = num
                num += 1
                break
            known = first[found]
            if hi[known] == hi[row] and lo[known] == lo[row]:
                which[row] = found
                break
            at = (at + np.uint64(1)) & mask
    return num


def address_text(hi: int, lo: int) -> str:
    """Format an address in its usual notation.

    >>> address_text(0, 0xFFFF_0A00_0001), address_text(0x2001_0DB8_0000_0000, 1)
    ('10.0.0.1', '2001:db8::1')
    """
    if hi == 0 and lo >> 32 == 0xFFFF:
        return f"{lo >> 24 & 255}.{lo >> 16 & 255}.{lo >> 8 & 255}.{lo & 255}"
    return str(ipaddress.IPv6Address(hi << 64 | lo))


def address_halves(text: str) -> tuple[int, int]:
    """Parse an address into two 64-bit halves; IPv4 is mapped. Raises ValueError if it is not an address."""
    address = ipaddress.ip_address(text)
    number = int(address) if address.version == 6 else 0xFFFF << 32 | int(address)
    return number >> 64, number & (1 << 64) - 1


def records_of(flows: Flows, exporters: list[str], arrival_us: int) -> Records:
    """Convert the rows of a table that has one direction per row to records for pairing, in order.

    exporters: replaced by the names that the records index; its first name, if any, keeps index 0, which every record
    gets if the table has no exporter column. arrival_us: when the rows were read; the start of a flow that has none.
    A host that is not an IP address is represented by a hash of its name.
    """
    frame = flows.frame
    records = no_records(len(flows))
    for side in ("src", "dst"):
        octets, _ = parse_addresses(frame[f"{side}_addr"])
        halves = octets.view(">u8")
        records[f"{side}_hi"], records[f"{side}_lo"] = halves[:, 0], halves[:, 1]
    for name in (
        "fwd_bytes",
        "bwd_bytes",
        "src_port",
        "dst_port",
        "protocol",
        "tcp_flags",
        "fwd_packets",
        "bwd_packets",
    ):
        if name in frame.columns:
            records[name] = frame[name].fill_null(0).to_numpy()
    records["sampling"] = frame["sampling"].fill_null(1).to_numpy() if "sampling" in frame.columns else 1
    start: Any = (
        frame["start"].dt.epoch("us").fill_null(arrival_us).to_numpy() if "start" in frame.columns else arrival_us
    )
    records["start_us"] = start
    duration_us = (np.minimum(frame["duration_ms"].to_numpy(), _LONGEST_MS) * 1000).astype("i8")
    records["end_us"] = records["start_us"] + np.minimum(duration_us, LAST_US - records["start_us"])
    records["arrival_us"] = arrival_us
    # Names of earlier runs are dropped; otherwise a sender of ever new names could fill the memory.
    numbers = {name: i for i, name in enumerate(exporters[:1])}
    if "exporter" in frame.columns:
        given = frame["exporter"].fill_null("")
        for name in given.unique(maintain_order=True):
            numbers.setdefault(name, len(numbers))
        records["exporter"] = given.replace_strict(numbers, return_dtype=pl.UInt32).to_numpy()
    exporters[:] = numbers
    return records
