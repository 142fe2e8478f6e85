"""The flows of nfcapd's files -> records, a run at a time.

A file that nfdump 1.7 wrote without compression is read as it is. Any other one is first put into that form by nfdump
1.7 itself (`nfdump -r FILE -w COPY`), its fastest output that loses nothing. The copy lies in the folder for temporary
files while it is read, and is as large as the flows are uncompressed.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path
from select import select
from tempfile import TemporaryDirectory
from typing import Final, final

import numpy as np

from thalweg.errors import SourceError
from thalweg.ingest.captures.nfcapd.layout import (
    BLOCK_HEADER,
    BROKEN,
    EVENTS,
    FILE_HEADER,
    FLOWS,
    MAX_BLOCK,
    RECORD_BLOCK,
    REFUSED,
    REVERSED,
    TRANSLATED,
    UNTIMED,
    WALKED,
    Sources,
    header_of,
)
from thalweg.ingest.records import Records, no_records
from thalweg.ingest.streams import NoFlowsError
from thalweg.ingest.tabular.bounds import EXPANDED_BYTES, EXPANSION
from thalweg.tally import Tally

MAX_ROWS: Final = 200_000
_LEAST_S: Final = 10.0
_BYTES_PER_S: Final = 1_000_000
_MOST_OUTPUT: Final = 1 << 16
UNKNOWN: Final = "nfcapd"
"""The exporter's name if the file does not give one."""


def read_nfcapd(path: Path, exporters: list[str], *, tally: Tally) -> Iterator[Records]:
    """Yield the flows of one file in the file's order, in runs of at most 200,000.

    `fwd_*` are nfdump's in counters, `bwd_*` its out counters; all are scaled by the sampling, as in nfcapd.
    exporters: names known so far; new ones are appended as addresses, or `nfcapd` if the file does not name them.

    Raises SourceError if the file is not an nfcapd file, or if nfdump 1.7 is needed and absent or cannot read it.
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
        if not (known.is_known and known.is_plain):
            raise SourceError(
                f"{path}: it is compressed or of another version than 1.7, and the nfdump here does not write 1.7's "
                "layout; install nfdump 1.7 (nfdump -V shows which), or have nfcapd 1.7 write without -z, -y and -j"
            )
        num_flows = yield from _read_plain(copy, str(path), exporters, tally)
        _compare(nfdump, path, num_flows, complaint, tally)


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
    output, trouble = _run([nfdump, "-r", str(path.resolve()), "-q", "-w", str(copy)], path, of_errors=True)
    return _first_line(output) or trouble


def _compare(nfdump: str, path: Path, num_flows: int, complaint: str, tally: Tally) -> None:
    """Count the flows that the file states but that were not read; nfdump skips damaged blocks silently."""
    output, _ = _run([nfdump, "-I", "-r", str(path.resolve())], path, of_errors=False)
    stated = re.search(rb"^Flows: (\d+)", output, re.MULTILINE)
    num_lost = int(stated[1]) - num_flows if stated is not None else 0
    if num_lost > 0:
        complaint = complaint or f"{num_lost} of its {num_flows + num_lost} flows cannot be read"
        tally.add("malformed_rows", num_lost, f"{path}: {complaint}")
    if complaint:
        tally.add("damaged_files", 1, f"{path}: {complaint}")


def _run(command: list[str], path: Path, *, of_errors: bool) -> tuple[bytes, str]:
    """Run nfdump, which for some damaged files never ends, or prints or writes without end.

    of_errors: return what it prints as errors, else its output. Returns: the first of that; what went wrong, or "".
    """
    size = path.stat().st_size
    deadline = time.monotonic() + _LEAST_S + size / _BYTES_PER_S
    output, trouble = b"", ""
    pipes = (subprocess.DEVNULL, subprocess.PIPE) if of_errors else (subprocess.PIPE, subprocess.DEVNULL)
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=pipes[0], stderr=pipes[1], env=_environment()
    ) as process:
        pipe = process.stderr if of_errors else process.stdout
        assert pipe is not None, "one of the two is a pipe"
        most = max(EXPANDED_BYTES, EXPANSION * size)
        with suppress(ProcessLookupError, AttributeError):  # it has ended already, or this is not Linux
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most, most))
        while not trouble:
            left = max(deadline - time.monotonic(), 0)
            if not select([pipe], [], [], left)[0]:
                trouble = "nfdump takes too long for it"
            elif not (part := os.read(pipe.fileno(), 1 << 14)):
                break
            elif len(output := output + part) > _MOST_OUTPUT:
                trouble = "nfdump prints errors without end"
        try:
            process.wait(0 if trouble else max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            process.kill()
            trouble = trouble or "nfdump takes too long for it"
    return output, trouble or (f"nfdump ended with {process.returncode}" if process.returncode else "")


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
            sources.counts[:] = 0
            sources.learn(block)
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
            tally.add("translated_destinations", int(counts[TRANSLATED]), place)
            tally.add("event_records", int(counts[EVENTS]), place)
            tally.add("refused_samplers", int(counts[REFUSED]), place)
            tally.add("unreadable_values", int(counts[UNTIMED]), f"{place}, times of a flow")
            tally.add("reversed_times", int(counts[REVERSED]), place)
        if head:
            tally.add("damaged_files", 1, f"{subject}: the last block is cut short")
    if runs.row:
        yield runs.take()
    return num_flows
