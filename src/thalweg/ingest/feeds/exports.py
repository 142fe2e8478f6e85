"""Files of export packets: pcaps and IPFIX files with datagrams, and nfcapd's own format."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import final

from thalweg.errors import ConfigError, SourceError
from thalweg.ingest.captures.ipfix import VERSION, read_messages
from thalweg.ingest.captures.nfcapd.file import read_nfcapd
from thalweg.ingest.captures.nfcapd.layout import MAGIC as NFCAPD
from thalweg.ingest.captures.pcap import MAGICS, SECTION, Datagram, read_datagrams
from thalweg.ingest.feeds.feed import Piece, Position
from thalweg.ingest.feeds.watched import (
    WatchedFile,
    WatchedFolder,
    damage_counted,
    has_later_name,
    pack_paths,
    split_paths,
    unpack_paths,
    written_before,
)
from thalweg.ingest.netflow.datagrams import Datagrams
from thalweg.ingest.records import Records
from thalweg.tables import Flows
from thalweg.tally import Tally


@final
class ExportFeed:
    """Takes files of export packets, each once: one file, or those of a folder in the order of their names.

    A folder is watched, and those inside it. A file is taken when it is complete: nfcapd's at once, as nfcapd renames
    it then; any other when a file with a later name exists, or when it has not been written to for `settle_s`. A file
    that comes later under an earlier name is left out and counted. Hidden names are skipped. A single file is taken as
    it is, and then the feed has ended.

    Raises ConfigError if `settle_s` is negative.
    """

    def __init__(
        self, address: str, path: Path, *, settle_s: float = 60.0, now: Callable[[], float] = time.time
    ) -> None:
        if settle_s < 0:
            raise ConfigError(f"files settle within some seconds, not {settle_s}")
        self.name = address
        self.tally = Tally()
        self.ended = False
        self._path = path
        self._watched = WatchedFolder(
            path,
            wants=lambda name: not name.startswith("nfcapd.current"),
            rules=(has_later_name, _is_named_when_whole, written_before(settle_s, now)),
        )
        self._last = ""
        self._last_size: int | None = None
        self._before: set[str] | None = None

    def open(self, position: Position | None) -> None:
        """Start, or continue after a file. Raises SourceError if the path does not exist."""
        if not self._path.exists():
            raise SourceError(f"{self.name}: there is no {self._path}; check the path")
        position = position or {}
        self._last, self._last_size = str(position.get("last", "")), position.get("size")
        self._before, self.ended = None, False

    def poll(self) -> Iterator[Piece]:
        """Yield a piece for each new file, which names it."""
        if not self._path.is_dir():
            if self._last != self._path.name:
                self._last = self._path.name
                yield pack_paths([self._path.resolve()], {"last": self._last})
            self.ended = True
            return
        found = self._watched.files()
        self._count_skipped(found)
        for name, file in found.items():
            if name <= self._last:
                continue
            if not self._watched.is_complete(file):
                return
            self._last, self._last_size = name, file.size
            if self._before is not None:
                self._before.add(name)
            yield pack_paths([file.path.resolve()], {"last": name, "size": file.size})

    def close(self) -> None:
        """Do nothing: no file is kept open."""

    def _count_skipped(self, found: Mapping[str, WatchedFile]) -> None:
        before = {name for name in found if name <= self._last}
        if self._before is not None and (new := sorted(before - self._before)):
            self.tally.add("passed_over_files", len(new), str(self._path / new[0]))
        self._before = before
        last = found.get(self._last)
        size = self._last_size if last is None else last.size
        if self._last_size is not None and size != self._last_size:
            self.tally.add("passed_over_files", 1, str(self._path / self._last))
        self._last_size = size


def _is_named_when_whole(file: WatchedFile) -> bool:
    """Call a file complete if nfcapd wrote it, which writes under another name and renames."""
    with file.path.open("rb") as stream:
        return export_kind(stream.read(4)) == "nfcapd"


@final
class ExportReader:
    """Makes records of nfcapd's files, and datagrams of the others. exporters: of the latest records."""

    def __init__(self, kind: str) -> None:
        self.tally = Tally()
        self.exporters: list[str] = []
        self._kind = kind

    def read(self, piece: bytes, arrival_us: int) -> Iterator[Records | Flows | Datagrams]:
        """Yield the content of the file that a piece names; a missing or damaged file is counted.

        Raises SourceError if it names none.
        """
        del arrival_us
        for path in unpack_paths(piece):
            with damage_counted(path, self.tally):
                yield from self._read(path)

    def split(self, piece: bytes) -> Sequence[bytes]:
        """Return a piece for each file."""
        return split_paths(piece)

    def _read(self, path: Path) -> Iterator[Records | Datagrams]:
        if self._kind == "nfcapd":
            self.exporters.clear()
            yield from read_nfcapd(path, self.exporters, tally=self.tally)
            return
        read = read_datagrams if self._kind == "pcap" else read_messages
        for batch in read(path, tally=self.tally):
            yield datagrams_of(batch)


def datagrams_of(batch: list[Datagram]) -> Datagrams:
    """Put datagrams of a file into one buffer for the decoder."""
    payloads = ((bytes(one.payload), one.time_us, one.address_hi, one.address_lo) for one in batch)
    return Datagrams.of(payloads, are_captured=True)


def export_kind(first: bytes) -> str | None:
    """Return the format of a file of export packets by its first bytes, or None if it is none."""
    if first[:4] in MAGICS or first[:4] == SECTION:
        return "pcap"
    if first[:2] in (NFCAPD.to_bytes(2, "little"), NFCAPD.to_bytes(2, "big")):
        return "nfcapd"
    if first[:2] == VERSION:
        return "ipfix"
    return None
