"""The flows of nfcapd's files -> records, a run at a time.

A file that nfdump 1.7 wrote without compression is read as it is. Any other one is first put into that form by nfdump
itself (`nfdump -r FILE -w COPY`), its fastest output that loses nothing; where that nfdump writes another layout, its
text is read. A copy lies in the folder for temporary files while it is read, and is as large as the flows are
uncompressed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, Final, final

import numpy as np
import polars as pl

from thalweg.addresses import parse_addresses
from thalweg.errors import SourceError
from thalweg.ingest.captures.nfcapd.layout import (
    BLOCK_HEADER,
    BROKEN,
    EVENTS,
    FILE_HEADER,
    FLOWS,
    MAX_BLOCK,
    RECORD_BLOCK,
    REVERSED,
    WALKED,
    Sources,
    header_of,
)
from thalweg.ingest.records import Records, no_records
from thalweg.ingest.streams import NoFlowsError
from thalweg.tally import Tally

MAX_ROWS: Final = 200_000
UNKNOWN: Final = "nfcapd"
"""The exporter's name if the file does not give one."""

_PIECE: Final = 1 << 23
_FIELDS: Final = (
    "ts", "te", "tr", "sa", "da", "sp", "dp", "pr", "flg", "ipkt", "ibyt", "opkt", "obyt", "ra", "dir", "fl",
)  # fmt: skip
# Not %tsr and %ter, the same as numbers: nfdump 1.7.1 writes %ter wrongly.
_TIMES: Final = ("ts", "te", "tr")
_DAY_MS: Final = 86_400_000
_FLAGS: Final = "CEUAPRSF"
_PROTOCOLS: Final = {
    "ICMP": 1,
    "IGMP": 2,
    "TCP": 6,
    "UDP": 17,
    "GRE": 47,
    "ESP": 50,
    "AH": 51,
    "ICMP6": 58,
    "SCTP": 132,
}


def read_nfcapd(path: Path, exporters: list[str], *, tally: Tally) -> Iterator[Records]:
    """Yield the flows of one file in the file's order, in runs of at most 200,000.

    `fwd_*` are nfdump's in counters, `bwd_*` its out counters; all are scaled by the sampling, as in nfcapd.
    exporters: names known so far; new ones are appended as addresses, or `nfcapd` if the file does not name them.

    Raises SourceError if the file is not an nfcapd file, or if nfdump is needed and not installed or cannot read it.
    """
    try:
        first = _head(path)
    except OSError as error:
        raise SourceError(f"{path}: cannot be opened ({error.strerror or error}); check the path") from error
    if not first:
        raise NoFlowsError(f"{path} is empty: give a file that nfcapd wrote")
    header = header_of(first)
    if header is None:
        raise SourceError(f"{path}: not a file of nfcapd; give one, or name the feed by what the file holds")
    if header.is_known and header.is_plain:
        yield from _read_plain(path, str(path), exporters, tally)
        return
    nfdump = _nfdump(path)
    with TemporaryDirectory(prefix="thalweg-") as folder:
        copy = Path(folder) / "flows"
        complaint = _convert(nfdump, path, copy)
        known = header_of(_head(copy)) if copy.is_file() else None
        if known is None:
            raise SourceError(
                f"{path}: nfdump cannot read it ({complaint or 'it wrote nothing'}); check the file with nfdump -v, "
                "and that nfdump is as new as the nfcapd that wrote it"
            )
        if known.is_known and known.is_plain:
            num_flows = yield from _read_plain(copy, str(path), exporters, tally)
            _compare(nfdump, path, num_flows, complaint, tally)
            return
    yield from read_text(nfdump, path, exporters, tally)


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(FILE_HEADER.size)


def _nfdump(path: Path) -> str:
    found = shutil.which("nfdump")
    if found is None:
        raise SourceError(
            f"{path}: it is compressed or of another version than 1.7, and nfdump, which reads it, is not installed; "
            "apt-get install nfdump, or have nfcapd write without -z, -y and -j"
        )
    return found


def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C", "TZ": "UTC"}


def _convert(nfdump: str, path: Path, copy: Path) -> str:
    """Write the flows of a file to an uncompressed copy; return nfdump's complaint, "" if there is none."""
    # nfdump exits with 0 even if it fails; only its messages show it.
    done = subprocess.run(
        [nfdump, "-r", str(path.resolve()), "-q", "-w", str(copy)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=_environment(),
        check=False,
    )
    return _first_line(done.stderr) or (f"nfdump ended with {done.returncode}" if done.returncode else "")


def _compare(nfdump: str, path: Path, num_flows: int, complaint: str, tally: Tally) -> None:
    """Count the flows that the file states but that were not read; nfdump skips damaged blocks silently."""
    done = subprocess.run(
        [nfdump, "-I", "-r", str(path.resolve())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_environment(),
        check=False,
    )
    stated = re.search(rb"^Flows: (\d+)", done.stdout, re.MULTILINE)
    num_lost = int(stated[1]) - num_flows if stated is not None else 0
    if num_lost > 0:
        complaint = complaint or f"{num_lost} of its {num_flows + num_lost} flows cannot be read"
        tally.add("malformed_rows", num_lost, f"{path}: {complaint}")
    if complaint:
        tally.add("damaged_files", 1, f"{path}: {complaint}")


def _first_line(output: bytes) -> str:
    return output.decode(errors="replace").strip().partition("\n")[0]


@final
class _Runs:
    """Records gathered until there are enough of them."""

    def __init__(self) -> None:
        self.records, self.row = no_records(MAX_ROWS), 0

    def full(self) -> bool:
        return self.row == len(self.records)

    def take(self) -> Records:
        taken = self.records[: self.row]
        self.records, self.row = no_records(MAX_ROWS), 0
        return taken


def _read_plain(path: Path, subject: str, exporters: list[str], tally: Tally) -> Generator[Records, None, int]:
    """Yield the flows of an uncompressed file; return how many there were, as nfdump counts them."""
    num_flows = 0
    sources, runs = Sources(exporters, UNKNOWN), _Runs()
    with path.open("rb") as stream:
        stream.seek(FILE_HEADER.size)
        while len(head := stream.read(BLOCK_HEADER.size)) == BLOCK_HEADER.size:
            num_records, size, kind, _ = BLOCK_HEADER.unpack(head)
            place = f"{subject}, byte {stream.tell() - BLOCK_HEADER.size}"
            if size > MAX_BLOCK:
                raise SourceError(f"{place}: the file is damaged (a block of {size} bytes); check it with nfdump -v")
            content = stream.read(size)
            if len(content) < size:
                tally.add("damaged_files", 1, f"{place}: the block is cut short")
            if kind != RECORD_BLOCK:
                continue
            block = np.frombuffer(content, np.uint8)
            sources.learn(block)
            sources.counts[:] = 0
            at, before = 0, -1
            while before != at:
                before = at
                at, runs.row = sources.read(block, at, runs.records, runs.row)
                if runs.full():
                    yield runs.take()
                    before = -1
            counts = sources.counts
            num_flows += int(counts[FLOWS])
            tally.add("malformed_rows", int(counts[BROKEN]) + max(num_records - int(counts[WALKED]), 0), place)
            tally.add("event_records", int(counts[EVENTS]), place)
            tally.add("reversed_times", int(counts[REVERSED]), place)
        if head:
            tally.add("damaged_files", 1, f"{subject}: the last block is cut short")
    if runs.row:
        yield runs.take()
    return num_flows


def read_text(nfdump: str, path: Path, exporters: list[str], tally: Tally) -> Iterator[Records]:
    """Give the flows of one file by way of nfdump's text, which has all but the sampling and is far slower.

    Raises: SourceError, where nothing is read and nfdump complains.
    """
    layout = "fmt:" + ",".join(f"%{field}" for field in _FIELDS)
    num_rows, num_flows, complaint = 0, 0, ""
    # Without -6 some versions shorten IPv6 addresses, and others do not know it.
    for options in (["-6"], []):
        command = [nfdump, "-r", str(path.resolve()), "-q", "-N", *options, "-o", layout]
        with TemporaryFile() as complaints:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=complaints, env=_environment()
            )
            try:
                assert process.stdout is not None
                for lines in _whole_lines(process.stdout):
                    if b"," not in lines:  # "No matching flows"
                        continue
                    records, num = _records_of_text(lines, exporters, f"{path}, flow {num_rows}", tally)
                    num_rows += len(records)
                    num_flows += num
                    for begin in range(0, len(records), MAX_ROWS):
                        yield records[begin : begin + MAX_ROWS]
            finally:
                process.kill()
                process.communicate()
            complaints.seek(0)
            complaint = _first_line(complaints.read())
        if num_rows or "option" not in complaint:
            break
    if complaint and not num_rows:
        raise SourceError(
            f"{path}: nfdump cannot read it ({complaint}); check that nfdump is as new as the nfcapd that wrote it"
        )
    _compare(nfdump, path, num_flows, complaint, tally)


def _whole_lines(stream: IO[bytes]) -> Iterator[bytes]:
    rest = b""
    while piece := stream.read(_PIECE):
        data = rest + piece
        end = data.rfind(b"\n") + 1
        rest = data[end:]
        if end:
            yield data[:end]
    if rest:
        yield rest


def _milliseconds(name: str) -> pl.Expr:
    time = pl.col(name).str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="ms", strict=False)
    unset = pl.col(name).str.starts_with("0000-")
    return pl.when(unset).then(0).otherwise(time.dt.epoch("ms")).alias(name)


def _records_of_text(lines: bytes, exporters: list[str], place: str, tally: Tally) -> tuple[Records, int]:
    """Return the records of lines of nfdump's, and how many flows they stand for."""
    raw = pl.read_csv(
        lines, has_header=False, new_columns=list(_FIELDS), infer_schema=False, quote_char=None,
        truncate_ragged_lines=True, schema=dict.fromkeys(_FIELDS, pl.String),
    )  # fmt: skip
    raw = raw.with_columns(pl.all().str.strip_chars())
    whole = pl.when(pl.col("dp").str.contains(".", literal=True))
    kind = pl.col("dp").str.split_exact(".", 1)
    flags = pl.sum_horizontal(
        pl.when(pl.col("flg").str.slice(-1 - bit, 1) == _FLAGS[7 - bit]).then(1 << bit).otherwise(0) for bit in range(8)
    )
    frame = raw.select(
        *(_milliseconds(name) for name in _TIMES),
        *(pl.col(name).cast(pl.UInt64, strict=False) for name in ("ipkt", "ibyt", "opkt", "obyt")),
        pl.col("sa"),
        pl.col("da"),
        pl.col("sp").cast(pl.UInt16, strict=False),
        # Of ICMP: type.code
        whole.then(
            kind.struct.field("field_0").cast(pl.UInt16, strict=False) * 256
            + kind.struct.field("field_1").cast(pl.UInt16, strict=False)
        )
        .otherwise(pl.col("dp").cast(pl.UInt16, strict=False))
        .alias("dp"),
        pl.coalesce(
            pl.col("pr").cast(pl.UInt8, strict=False),
            pl.col("pr").replace_strict(_PROTOCOLS, default=None, return_dtype=pl.UInt8),
        ).alias("pr"),
        flags.cast(pl.UInt16).alias("flg"),
        pl.when(pl.col("ra").is_in(["0.0.0.0", "::", ""])).then(pl.lit(UNKNOWN)).otherwise(pl.col("ra")).alias("ra"),
        pl.col("fl").cast(pl.Int64, strict=False),
        (pl.col("dir") == "E").cast(pl.UInt8).fill_null(0).alias("dir"),
    )
    good = frame.drop_nulls()
    tally.add("malformed_rows", len(frame) - len(good), place)
    records = no_records(len(good))
    for side in ("src", "dst"):
        octets, _ = parse_addresses(good[f"{side[0]}a"])
        halves = octets.view(">u8")
        records[f"{side}_hi"], records[f"{side}_lo"] = halves[:, 0], halves[:, 1]
    first, last, received = (good[name].to_numpy() for name in _TIMES)
    last = np.where(last == 0, first, last)
    last = np.where(last == 0, received, last)
    first = np.where(first == 0, last, first)
    tally.add("reversed_times", int((last < first).sum()), place)
    # As in nfcapd_layout.read_flows.
    swapped = (last < first) & (first - last < _DAY_MS)
    first, last = np.where(swapped, last, first), np.maximum(first, last)
    records["start_us"], records["end_us"] = first * 1000, last * 1000
    records["arrival_us"] = np.where(received == 0, last, received) * 1000
    for name, column in (
        ("fwd_packets", "ipkt"), ("fwd_bytes", "ibyt"), ("bwd_packets", "opkt"), ("bwd_bytes", "obyt"),
        ("dst_port", "dp"), ("protocol", "pr"), ("tcp_flags", "flg"), ("egress", "dir"),
    ):  # fmt: skip
        records[name] = good[column].to_numpy()
    records["two_way"] = (records["bwd_packets"] | records["bwd_bytes"]) != 0
    records["src_port"] = np.where(np.isin(records["protocol"], (1, 58)), 0, good["sp"].to_numpy())
    records["sampling"] = 1
    for name in good["ra"].unique(maintain_order=True):
        if name not in exporters:
            exporters.append(name)
    records["exporter"] = good["ra"].replace_strict({name: i for i, name in enumerate(exporters)}).to_numpy()
    return records, int(frame["fl"].sum())
