"""Reads damaged files and log pieces of every format: each gives flows or a clean error, in bounded time and memory.

    python studies/fuzz_files.py --inputs 500000 [--workers 2] [--seed 1] [--only .parquet] [--keep FOLDER]
    python studies/fuzz_files.py --inputs 1 --seed 1 --first 123456      # one input again

Every input is read as `thalweg score` reads files or as `thalweg run` reads pieces, and what it gives is written as
the sinks write. The readers run in processes of their own, so that a signal, a panic, a wait or memory without bound is
noticed, too. Each kind of escape is printed with the number of its first input; the exit code is 1 if there is one.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter
from mmap import mmap
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

sys.path.insert(0, str(Path(__file__).parents[1]))

if TYPE_CHECKING:
    from collections.abc import Iterator

    import polars as pl

    from thalweg.ingest.records import Records

MOST_S: Final = 2.0
"""The most processor time that an input of a few kB may take."""
STUCK_S: Final = 60.0
TOLD_S: Final = 60.0
MOST_MB: Final = 1_200
"""The most that memory may grow for one input."""
_EVERY_WAY: Final = -1
RESTART_AFTER: Final = 20_000
NOW_US: Final = 1_700_000_000_000_000
_NUMBERS: Final = (
    0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 62, (1 << 63) - 1,
    1 << 63, (1 << 64) - 1,
)  # fmt: skip
_WORDS: Final = (
    b"", b"-", b"NaN", b"inf", b"-1", b"1e308", b"-1e999", b"99999999999999999999", b"18446744073709551615", b"null",
    b"true", b"[1]", b'{"a":1}', b"[" * 40 + b"]" * 40, b'"\\ud800"', b'"\\u0000"', b'"', b"\r", b"\n", b"\0", b"\xff",
    b",", b"\t", b" ", b"#", b"0000-00-00 00:00:00", b"9999-12-31 23:59:59", b"-0001-01-01 00:00:00", b"1.5", b"0x10",
    b"+99999-01-01T00:00:00Z", b"2026-05-01T10:00:00+99:99", b"192.0.2.1/32", b"[2001:db8::1]", b"\xef\xbb\xbf",
    b"\xe2\x80\xa8", b"\\x09", b"#separator ", b"#fields", b"a" * 300, b'"' * 9, b"%s", b"\\",
)  # fmt: skip


def main(words: list[str]) -> int:
    """Read damaged inputs, print what escaped, and return the exit code."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--inputs", type=int, default=100_000, help="how many inputs to read")
    options.add_argument("--first", type=int, default=0, help="number of the first one")
    options.add_argument("--seed", type=int, default=0, help="seed of the damage")
    options.add_argument("--workers", type=int, default=2, help="processes that read")
    options.add_argument("--only", default="", help="only formats whose name contains this")
    options.add_argument("--keep", type=Path, help="folder for inputs that escaped")
    given = options.parse_args(words)
    # Each input is small: threads would only cost time. Polars prints every panic, with a trace if asked to.
    os.environ |= {"POLARS_MAX_THREADS": "1", "NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "RUST_BACKTRACE": "0"}
    begun = time.monotonic()
    found = Overseer(given).run()
    for what, (num, first, detail) in sorted(found.items()):
        print(f"\n{num:,} x {what}\n  first: --first {first}\n  {detail}")
    seconds = time.monotonic() - begun
    print(f"\n{given.inputs:,} inputs in {seconds:,.0f} s; {len(found)} kinds of escapes")
    return bool(found)


class Overseer:
    """Starts readers, notices how they end, and continues after the input that ended one."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.found: dict[str, tuple[int, int, str]] = {}

    def run(self) -> dict[str, tuple[int, int, str]]:
        """Read all inputs. Returns: by kind of escape, how many, the number of the first input, and a trace."""
        first, num, workers = self.given.first, self.given.inputs, min(self.given.workers, self.given.inputs)
        ends = [first + num * (i + 1) // workers for i in range(workers)]
        waiting = list(zip([first, *ends[:-1]], ends, strict=True))
        running: dict[int, _Reader] = {}
        mark = time.monotonic()
        while waiting or running:
            if time.monotonic() - mark > TOLD_S:
                mark = time.monotonic()
                print("reads", *(f"{reader.at:,} of {reader.end:,}" for reader in running.values()), flush=True)
            for begin, end in waiting:
                reader = _Reader(self.given, begin, end)
                running[reader.pid] = reader
            waiting = []
            time.sleep(0.2)
            for pid, reader in list(running.items()):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if not ended:
                    if reader.is_stuck():
                        os.kill(pid, signal.SIGKILL)
                    continue
                del running[pid]
                for what, at, detail in reader.escapes():
                    self._note(what, at, detail)
                next_ = reader.at + 1
                if status:
                    how = os.waitstatus_to_exitcode(status)
                    name = "was stuck" if reader.was_stuck else f"ended with {how}"
                    self._note(f"{reader.name}: the process {name}", reader.at, "")
                else:
                    next_ = reader.at
                if next_ < reader.end:
                    waiting.append((next_, reader.end))
        return self.found

    def _note(self, what: str, at: int, detail: str) -> None:
        num, first, text = self.found.get(what, (0, at, detail))
        self.found[what] = (num + 1, min(first, at), text)
        if not num:
            print(f"{what} (--first {at})", flush=True)


class _Reader:
    """One process that reads inputs; it writes the number of each into memory that it shares."""

    def __init__(self, given: argparse.Namespace, begin: int, end: int) -> None:
        self.end, self.was_stuck = end, False
        self._shared = mmap(-1, 4096)
        self._shared[:8] = struct.pack("<q", begin)
        self._pipe, there = os.pipe()
        self._text = b""
        self._seen: tuple[int, float] = (begin, time.monotonic())
        self.pid = os.fork()
        if not self.pid:
            os.close(self._pipe)
            status = 1
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                read_all(given, begin, end, self._shared, there)
                status = 0
            except BaseException:
                os.write(there, f"the study itself\t{begin}\t{traceback.format_exc()!r}\n".encode())
            finally:
                os._exit(status)
        os.close(there)
        os.set_blocking(self._pipe, False)

    @property
    def at(self) -> int:
        """The number of the input that is read, or comes next."""
        return int(struct.unpack("<q", self._shared[:8])[0])

    @property
    def name(self) -> str:
        """The name of what is read."""
        return self._shared[8:72].rstrip(b"\0").decode()

    def is_stuck(self) -> bool:
        """Return whether one input takes too long."""
        self._drain()
        if self._seen[0] != self.at:
            self._seen = (self.at, time.monotonic())
        self.was_stuck = time.monotonic() - self._seen[1] > STUCK_S
        return self.was_stuck

    def escapes(self) -> Iterator[tuple[str, int, str]]:
        """Yield what the process has reported: kind, number of the input, trace."""
        self._drain()
        os.close(self._pipe)
        for line in self._text.decode(errors="replace").splitlines():
            what, at, detail = line.split("\t", 2)
            yield what, int(at), detail

    def _drain(self) -> None:
        while True:
            try:
                part = os.read(self._pipe, 1 << 16)
            except BlockingIOError:
                return
            if not part:
                return
            self._text += part


def read_all(given: argparse.Namespace, begin: int, end: int, shared: mmap, report: int) -> None:
    """Read inputs one after the other, and report each that escapes."""
    from tests.ingest.seeds import seeds

    warnings.simplefilter("ignore")
    contents = {name: content for name, content in (seeds() | compressed()).items() if given.only in name}
    names = list(contents)
    reported: Counter[str] = Counter()
    with TemporaryDirectory(prefix="fuzz-files-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        readers = Readers(Path(folder))
        for name in names:  # compiles
            list(readers.read(name, contents[name], at=_EVERY_WAY))
        for at in range(begin, min(end, begin + RESTART_AFTER)):
            chance = random.Random(f"{given.seed} {at}")
            name = chance.choice(names)
            shared[:72] = struct.pack("<q64s", at, name.encode()[:64])
            content = damaged(name, contents, chance)
            before, mark = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
            escapes = list(readers.read(name, content, at))
            took, grown = time.process_time() - mark, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            if took > MOST_S:
                escapes.append(("took too long", f"{took:.1f} s"))
            if grown > MOST_MB << 10:
                escapes.append(("took too much memory", f"{grown >> 10:,} MB"))
            for what, detail in escapes:
                reported[what] += 1
                if reported[what] <= 100:
                    os.write(report, f"{name}: {what}\t{at}\t{detail!r}\n".encode(errors="replace")[:60_000])
                if given.keep is not None and reported[what] <= 3:
                    given.keep.mkdir(parents=True, exist_ok=True)
                    (given.keep / f"{at}-{name}").write_bytes(content)
            if grown > MOST_MB << 10:
                at += 1
                shared[:8] = struct.pack("<q", at)
                return
        shared[:8] = struct.pack("<q", min(end, begin + RESTART_AFTER))


class Readers:
    """The ways in which a file or piece is read; what they give is written as the sinks write."""

    def __init__(self, folder: Path) -> None:
        from thalweg.ingest.netflow.config import DecoderConfig
        from thalweg.ingest.netflow.decoder import Decoder

        self.folder = folder
        self._decoder = Decoder(DecoderConfig(max_exporters=64, max_templates=64, max_fields=20_000))

    def read(self, name: str, content: bytes, at: int) -> Iterator[tuple[str, str]]:
        """Read an input in one of the ways that its name allows. Yields: the kind of each escape, and its trace."""
        path = self.folder / name
        path.write_bytes(content)
        kind = {".pcap": "pcap", ".pcapng": "pcap", ".ipfix": "ipfix", ".nfcapd": "nfcapd"}.get(_suffix(name))
        ways = ("export", "score") if kind else ("score", "log", "kafka", "folder")
        for way in ways if at == _EVERY_WAY else (ways[at % len(ways)],):
            try:
                getattr(self, f"_{way}")(path, content, kind, at)
            except BaseException as error:
                from thalweg.errors import ThalwegError

                # Only files may give an error, and one of ours; `score` shows it without a trace.
                is_clean = isinstance(error, ThalwegError) and way == "score"
                if not is_clean:
                    yield f"{way}: {_described(error)}", "".join(traceback.format_exception(error)[-3:])
                elif isinstance(cause := error.__cause__, BaseException) and "cannot be read" in str(error):
                    yield (
                        f"{way}, caught at the last: {_described(cause)}",
                        "".join(traceback.format_exception(cause)[-3:]),
                    )

    def _score(self, path: Path, content: bytes, kind: str | None, at: int) -> None:
        from thalweg.ingest import FileSource, ReadOptions

        del content, kind
        for flows in FileSource(path, ReadOptions(chunk_rows=5 if at % 16 == 0 else 200_000)):
            write(flows.frame if at % 8 == 0 else flows.output(), self.folder, at)

    def _log(self, path: Path, content: bytes, kind: str | None, at: int) -> None:
        from thalweg.ingest.feeds.logs.reader import LogReader
        from thalweg.ingest.options import ReadOptions

        del kind
        dialect = {"zeek.log": "zeek", "stream.json": "zeek", "eve.json": "suricata"}.get(path.name) if at % 3 else None
        for run in LogReader(ReadOptions(dialect=dialect)).read(content, NOW_US):
            self._emit(run, at)

    def _kafka(self, path: Path, content: bytes, kind: str | None, at: int) -> None:
        from thalweg.ingest.feeds.kafka.reader import KafkaReader, json_lines

        del path, kind
        lines = json_lines(content)
        for run in KafkaReader(subject="kafka://broker/flows").read(content if lines is None else lines, NOW_US):
            self._emit(run, at)

    def _folder(self, path: Path, content: bytes, kind: str | None, at: int) -> None:
        from thalweg.ingest.feeds.folder import FolderReader
        from thalweg.ingest.feeds.watched import pack_paths

        del content, kind
        for run in FolderReader().read(pack_paths([path], {}).payload, NOW_US):
            self._emit(run, at)

    def _export(self, path: Path, content: bytes, kind: str | None, at: int) -> None:
        from thalweg.ingest.feeds.exports import ExportReader
        from thalweg.ingest.feeds.watched import pack_paths
        from thalweg.ingest.netflow.datagrams import Datagrams

        del content
        assert kind is not None
        reader = ExportReader(kind)
        for run in reader.read(pack_paths([path], {}).payload, NOW_US):
            if isinstance(run, Datagrams):
                self._records(self._decoder.decode(run), self._decoder.names, at)
            else:
                self._emit(run, at, reader.exporters)

    def _emit(self, run: Any, at: int, names: Any = None) -> None:
        from thalweg.tables import Flows

        if isinstance(run, Flows):
            write(run.output(), self.folder, at)
        else:
            self._records(run, names or ["here"] * 1_000, at)

    def _records(self, records: Records, names: Any, at: int) -> None:
        from thalweg.ingest.pairing.pairing import Pairing
        from thalweg.ingest.records import flows_of

        if not len(records):
            return
        records["exporter"] = 0
        if at % 8 == 0:
            pairing = Pairing()
            write(flows_of([pairing.feed(records, NOW_US).copy()], [*names, "x"]).frame, self.folder, at)
            write(flows_of([pairing.flush().copy()], [*names, "x"]).frame, self.folder, at)
        else:
            write(flows_of([records], [*names, "x"]).frame, self.folder, at)


def compressed() -> dict[str, bytes]:
    """Return nfcapd's files in every compression, which nfdump reads; none if it is not installed."""
    from tests.ingest.seeds import seeds

    if shutil.which("nfdump") is None:
        return {}
    found = {}
    with TemporaryDirectory() as folder:
        plain, packed = Path(folder) / "plain", Path(folder) / "packed"
        plain.write_bytes(seeds()["file.nfcapd"])
        for option in ("-z", "-y", "-j"):
            command = ["nfdump", "-q", "-r", str(plain), option, "-w", str(packed)]
            subprocess.run(command, check=False, capture_output=True)
            if packed.exists():
                found[f"packed{option}.nfcapd"] = packed.read_bytes()
                packed.unlink()
    return found


def write(frame: pl.DataFrame, folder: Path, at: int) -> None:
    """Write a frame as `score` and the sinks do."""
    from thalweg.sinks.table_file import FORMATS, TableFile

    with TableFile(folder / f"written{FORMATS[at % len(FORMATS)]}") as table:
        table.write(frame)


def damaged(name: str, contents: dict[str, bytes], chance: random.Random) -> bytes:
    """Return a file with bits flipped, numbers and words replaced, pieces of others, or a part missing or twice."""
    octets = bytearray(contents[name])
    is_text = not octets[:4096].count(b"\0") and not octets.startswith((b"\x1f\x8b", b"\x28\xb5"))
    for _ in range(chance.choice((1, 1, 1, 2, 3, 5, 16))):
        if not octets:
            break
        at = chance.randrange(len(octets))
        if not is_text and chance.random() < 0.3:  # footers and headers decide most
            at = max(len(octets) - 1 - chance.randrange(min(len(octets), 600)), 0)
        match chance.randrange(10 if is_text else 8):
            case 0:
                octets[at] ^= 1 << chance.randrange(8)
            case 1:
                octets[at] = chance.randrange(256)
            case 2 | 3:
                size, order = chance.choice((1, 2, 4, 8)), chance.choice("<>")
                number = chance.choice(_NUMBERS) & ((1 << 8 * size) - 1)
                at -= at % size if chance.random() < 0.7 else 0
                octets[at : at + size] = number.to_bytes(size, "little" if order == "<" else "big")
            case 4:
                octets[at:at] = chance.randbytes(chance.choice((1, 4, 40)))
            case 5:
                other = chance.choice(list(contents.values()))
                begin = chance.randrange(len(other))
                octets[at : at + 64] = other[begin : begin + chance.choice((8, 64, 256))]
            case 6:
                del octets[at : at + chance.choice((1, 2, 4, 16, len(octets)))]
            case 7:
                octets[at:at] = octets[max(at - chance.choice((4, 64, 512)), 0) : at]
            case _:
                _replace_word(octets, at, chance)
    return bytes(octets)


def _replace_word(octets: bytearray, at: int, chance: random.Random) -> None:
    """Put another word in the place of the one at an offset."""
    ends = b',\t\n;" :{}[]'
    begin = end = at
    while begin > 0 and octets[begin - 1] not in ends:
        begin -= 1
    while end < len(octets) and octets[end] not in ends:
        end += 1
    octets[begin:end] = chance.choice(_WORDS)


def _suffix(name: str) -> str:
    return Path(name.removesuffix(".gz").removesuffix(".zst")).suffix


def _described(error: BaseException) -> str:
    """Name an error and the place in the program from which it came."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "thalweg" in frame.filename and "studies" not in frame.filename]
    place = f"{Path(ours[-1].filename).name}, {ours[-1].name}" if ours else "?"
    return f"{type(error).__name__} in {place}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
