"""Files of an exporter's or a collector's: pcaps and IPFIX files with datagrams in them, and nfcapd's own."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import final

from thalweg.errors import ConfigError, SourceError, ThalwegError
from thalweg.ingest.captures.ipfix import read_messages
from thalweg.ingest.captures.nfcapd.file import read_nfcapd
from thalweg.ingest.captures.pcap import Datagram, read_datagrams
from thalweg.ingest.feeds.feed import Piece, Position
from thalweg.ingest.netflow.datagrams import Datagrams
from thalweg.ingest.records import Records
from thalweg.ingest.streams import NoFlowsError
from thalweg.tables import Flows
from thalweg.tally import Tally


@final
class ExportFeed:
    """Files of an exporter's or a collector's, each once: one file, or those of a folder, in the order of their names.

    A folder is watched, and those inside it. A file is taken when it is whole: one of nfcapd's at once, as it gets its
    name then; any other when one with a later name is there, or when it has not been written to for `settle_s`. What
    comes later under an earlier name is left out and counted. Hidden names are passed over. A single file is taken as
    it is, and then the feed has ended.

    Raises: ConfigError, where `settle_s` is negative.
    """

    def __init__(
        self, address: str, path: Path, *, settle_s: float = 60.0, now: Callable[[], float] = time.time
    ) -> None:
        if settle_s < 0:
            raise ConfigError(f"files settle within some seconds, not {settle_s}")
        self._address, self._path = address, path
        self._settle_s, self._now = settle_s, now
        self._tally = Tally()
        self._last = ""
        self._last_size: int | None = None
        self._before: set[str] | None = None
        self._ended = False

    @property
    def name(self) -> str:
        """Its address."""
        return self._address

    @property
    def tally(self) -> Tally:
        """What was lost or doubted so far."""
        return self._tally

    @property
    def ended(self) -> bool:
        """Whether it was one file, and is read."""
        return self._ended

    def open(self, position: Position | None) -> None:
        """Begin, or go on after a file. Raises: SourceError, where nothing is there."""
        if not self._path.exists():
            raise SourceError(f"{self._address}: there is no {self._path}; check the path")
        position = position or {}
        self._last, self._last_size = str(position.get("last", "")), position.get("size")
        self._before, self._ended = None, False

    def poll(self) -> Iterator[Piece]:
        """Give the files that are new, as their names."""
        if not self._path.is_dir():
            if self._last != self._path.name:
                self._last = self._path.name
                yield _piece(self._path, {"last": self._last})
            self._ended = True
            return
        found = self._found()
        self._count_passed_over(found)
        later = [name for name in found if name > self._last]
        for i, name in enumerate(later):
            if i == len(later) - 1 and not self._is_whole(self._path / name):
                return
            self._last, self._last_size = name, found[name]
            if self._before is not None:
                self._before.add(name)
            yield _piece(self._path / name, {"last": name, "size": found[name]})

    def close(self) -> None:
        """Nothing is open."""

    def _found(self) -> dict[str, int]:
        """Return the files that are there, by name, and their sizes; sorted."""
        found: dict[str, int] = {}
        for folder, folders, names in os.walk(self._path):
            folders[:] = [inner for inner in folders if not inner.startswith(".")]
            for name in names:
                path = Path(folder, name)
                if name.startswith((".", "nfcapd.current")) or not path.is_file():
                    continue
                with suppress(OSError):  # gone meanwhile
                    found[path.relative_to(self._path).as_posix()] = path.stat().st_size
        return dict(sorted(found.items()))

    def _count_passed_over(self, found: Mapping[str, int]) -> None:
        before = {name for name in found if name <= self._last}
        if self._before is not None and (new := sorted(before - self._before)):
            self._tally.add("passed_over_files", len(new), str(self._path / new[0]))
        self._before = before
        size = found.get(self._last, self._last_size)
        if self._last_size is not None and size != self._last_size:
            self._tally.add("passed_over_files", 1, str(self._path / self._last))
        self._last_size = size

    def _is_whole(self, path: Path) -> bool:
        try:
            with path.open("rb") as stream:
                first = stream.read(4)
            return export_kind(first) == "nfcapd" or abs(self._now() - path.stat().st_mtime) >= self._settle_s
        except OSError:
            return False


def _piece(path: Path, position: Position) -> Piece:
    return Piece(json.dumps({"path": str(path.resolve())}).encode(), position)


@final
class ExportReader:
    """Makes records of files of nfcapd's, and datagrams of the others. names: who reported, for records."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._tally = Tally()
        self.exporters: list[str] = []

    @property
    def tally(self) -> Tally:
        """What was left out so far."""
        return self._tally

    def read(self, piece: bytes, arrival_us: int) -> Iterator[Records | Flows | Datagrams]:
        """Give what is in the file that a piece names; one that is gone or damaged is counted."""
        del arrival_us
        try:
            path = Path(json.loads(piece)["path"])
        except (ValueError, KeyError, TypeError) as error:
            self._tally.add("unreadable_pieces", 1, f"the piece names no file ({error})")
            return
        try:
            if self._kind == "nfcapd":
                self.exporters.clear()
                yield from read_nfcapd(path, self.exporters, tally=self._tally)
                return
            read = read_datagrams if self._kind == "pcap" else read_messages
            for batch in read(path, tally=self._tally):
                yield datagrams_of(batch)
        except NoFlowsError:
            self._tally.add("empty_files", 1, str(path))
        except (ThalwegError, OSError, ValueError) as error:
            is_gone = not os.path.lexists(path)
            self._tally.add("vanished_files" if is_gone else "unreadable_files", 1, str(error).split("\n")[0])


def datagrams_of(batch: list[Datagram]) -> Datagrams:
    """Put datagrams of a file together for the decoder."""
    return Datagrams.of((bytes(one.payload), one.time_us, one.address_hi, one.address_lo) for one in batch)


def export_kind(first: bytes) -> str | None:
    """Tell what a file of exports is by its first bytes; None where it is none."""
    if first[:4] in (
        b"\xd4\xc3\xb2\xa1",
        b"\xa1\xb2\xc3\xd4",
        b"\x4d\x3c\xb2\xa1",
        b"\xa1\xb2\x3c\x4d",
        b"\x0a\x0d\x0d\x0a",
    ):
        return "pcap"
    if first[:2] in (b"\x0c\xa5", b"\xa5\x0c"):
        return "nfcapd"
    if first[:2] == b"\x00\x0a":
        return "ipfix"
    return None
