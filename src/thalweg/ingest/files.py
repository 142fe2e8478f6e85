"""Reads files, folders and standard input into runs of `Flows`, in file order; every row is a flow or counted."""

from __future__ import annotations

import glob
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import BinaryIO, Final, cast, final

import polars as pl

from thalweg.errors import SourceError, ThalwegError
from thalweg.ingest.options import ReadOptions
from thalweg.ingest.streams import CutShortError, NoFlowsError, fingerprint, pieces_of
from thalweg.ingest.tabular.bounds import RowBytes
from thalweg.ingest.tabular.columnar import MAGICS, read_columnar, seekable
from thalweg.ingest.tabular.conformed import block_flows, conformed
from thalweg.ingest.tabular.dialects.recognition import Recognition, recognise
from thalweg.ingest.tabular.text import read_text
from thalweg.tables import Flows, Origin, concat
from thalweg.tally import Tally

STDIN: Final = Path("-")
SUFFIXES: Final = (
    ".csv", ".tsv", ".parquet", ".pq", ".arrow", ".arrows", ".ipc", ".feather", ".log", ".labeled", ".json",
    ".jsonl", ".ndjson", ".binetflow",
)  # fmt: skip
"""Endings of flow files in a folder, optionally followed by .gz or .zst; a file given by name may have any."""

_FIRST_BYTES: Final = 1 << 16


@final
class FileSource:
    """Flows from files, folders, globs or standard input, one run at a time; each iteration reads the files again.

    Memory does not grow with the size of the files. `tally` counts what the latest iteration changed or left out.

    Raises SourceError if there is no file or, while iterating, if a file is damaged or no file holds flows. Raises
    SchemaError while iterating if a needed column is missing, or with `strict` if a row is malformed.
    """

    def __init__(self, paths: str | Path | Iterable[str | Path], options: ReadOptions | None = None) -> None:
        self.paths = expand(paths)
        self.options = options or ReadOptions()
        self._tally = Tally()

    @property
    def tally(self) -> Tally:
        """What the latest iteration has changed or left out so far."""
        return self._tally

    def __iter__(self) -> Iterator[Flows]:
        self._tally = tally = Tally()
        num_flows = 0
        empty: NoFlowsError | None = None
        for path in self.paths:
            try:
                for _, flows in read_file(path, self.options, tally):
                    num_flows += len(flows)
                    if len(flows):
                        yield flows
            except NoFlowsError as error:
                # A file of an hour without traffic must not stop the files of other hours.
                if len(self.paths) > 1:
                    tally.add("empty_files", 1, _subject(path))
                empty = error
        if empty is not None and not num_flows:
            raise empty


def expand(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """Return the files that files, globs, folders (all recognised files inside, sorted) and "-" stand for.

    Raises SourceError if a path or glob matches nothing, or a folder holds no recognised file.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    if not given:
        raise SourceError("no file was named: give files, folders or globs, or - for standard input")
    return [path for one in given for path in _expand_one(Path(one))]


def _expand_one(path: Path) -> list[Path]:
    if path == STDIN:
        return [path]
    if path.is_dir():
        found = sorted(child for child in path.rglob("*") if is_recognised(child.relative_to(path)) and child.is_file())
        if not found:
            raise SourceError(
                f"{path}: the folder holds no flow files; their names end in {', '.join(SUFFIXES)} "
                "(also with .gz or .zst after it)"
            )
        return found
    if path.exists():
        return [path]
    if glob.has_magic(str(path)):
        matches = sorted(Path(name) for name in glob.glob(str(path), recursive=True))  # noqa: PTH207
        matches = [match for match in matches if match.is_file()]
        if not matches:
            raise SourceError(f"{path}: no file matches; check the folder, and quote the pattern for the shell")
        return matches
    raise SourceError(f"{path}: no such file; check the path")


def is_recognised(path: Path) -> bool:
    """Return whether a path inside a folder is read: it has a known ending and no part of it is hidden."""
    if any(part.startswith(".") for part in path.parts):
        return False
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in (".gz", ".zst"):
        suffixes.pop()
    return bool(suffixes) and suffixes[-1] in SUFFIXES


def read(
    paths: str | Path | Iterable[str | Path],
    *,
    dialect: str | None = None,
    mapping: Mapping[str, str] | None = None,
    strict: bool = False,
    keep_wrapped: bool = False,
    chunk_rows: int = 200_000,
) -> Flows:
    """Read all flows into memory, in file order; the result's `tally` counts what was changed or left out.

    `ReadOptions` explains the options. Raises what `FileSource` and `ReadOptions` raise.
    """
    options = ReadOptions(
        dialect=dialect,
        mapping=mapping or {},
        strict=strict,
        keep_wrapped=keep_wrapped,
        chunk_rows=chunk_rows,
    )
    source = FileSource(paths, options)
    joined = concat(source)
    return Flows(joined.frame, joined.source, joined.origin, source.tally)


def _subject(path: Path) -> str:
    return "standard input" if path == STDIN else str(path)


def read_file(
    path: Path, options: ReadOptions, tally: Tally, *, is_bare: bool = False
) -> Iterator[tuple[Recognition, Flows]]:
    """Yield the flows of one file with the rules they are read by, adding to `tally` as they are yielded.

    is_bare: the file's own columns are not needed.

    Raises what `FileSource` raises.
    """
    subject = _subject(path)
    num_rows = num_flows = 0
    own = Tally()
    with ExitStack() as stack:
        try:
            stream = cast(BufferedReader, sys.stdin.buffer) if path == STDIN else stack.enter_context(path.open("rb"))
            first = stream.read(_FIRST_BYTES)
            # A pipe can be read only once, so it has no fingerprint.
            plain = path if path != STDIN and path.is_file() else None
            origin = None if plain is None else Origin(path.name, fingerprint(path))
        except OSError as error:
            raise SourceError(f"{subject}: cannot be opened ({error.strerror or error}); check the path") from error
        if not first:
            raise NoFlowsError(f"{subject} is empty: give a file that holds flows")
        if first.startswith(MAGICS):
            with _failures_named(subject):
                file = plain or stack.enter_context(seekable(stream, first))
            runs = _columnar_runs(file, first, options, origin, subject)
        else:
            runs = _text_runs(pieces_of(first, stream), options, origin, subject, is_bare=is_bare)
        with _failures_named(subject, lambda: f", after {num_rows:,} rows had been read"):
            for recognition, rows, flows in runs:
                num_rows += rows
                num_flows += len(flows)
                own.merge(flows.tally)
                tally.merge(flows.tally)
                yield from ((recognition, piece) for piece in _pieces(flows, options.chunk_rows))
    if not num_rows:
        raise NoFlowsError(f"{subject} holds a header but no flows: give a file with rows")
    if not num_flows:
        raise NoFlowsError(f"{subject}: none of its {num_rows:,} rows is a flow: {'; '.join(own.lines())}")


def read_bytes(data: bytes, options: ReadOptions, subject: str, tally: Tally) -> Iterator[tuple[Recognition, Flows]]:
    """Yield the flows of a table in memory, header included; nothing if it is empty.

    Only the declared columns are kept.

    Raises SourceError if it is not a table, and SchemaError if a needed column is missing.
    """
    if not data.strip():
        return
    with _failures_named(subject):
        if data.startswith(MAGICS):
            runs = _columnar_runs(BytesIO(data), data[:8], options, None, subject)
        else:
            runs = _text_runs(iter([data]), options, None, subject, is_bare=True)
        for recognition, _, flows in runs:
            tally.merge(flows.tally)
            bare = Flows(flows.frame, None, None, flows.tally)
            yield from ((recognition, piece) for piece in _pieces(bare, options.chunk_rows))


@contextmanager
def _failures_named(subject: str, after: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Raise SourceError for whatever the content of a file makes the libraries raise that read it."""
    try:
        yield
    except ThalwegError:
        raise
    except CutShortError as error:
        raise SourceError(f"{subject}: {error}{after()}; fetch or write the file again") from error
    except (Exception, pl.exceptions.PanicException) as error:  # a panic of Polars is no Exception
        reason = str(error).split("\n")[0]
        raise SourceError(
            f"{subject}: it cannot be read{after()} ({type(error).__name__}: {reason}); look for a damaged place"
        ) from error


def _pieces(flows: Flows, num: int) -> Iterator[Flows]:
    """Cut a block's flows into runs of `num`; the first run carries the counts."""
    if len(flows) <= num:
        yield flows
        return
    yield replace(flows[:num], tally=flows.tally)
    for at in range(num, len(flows), num):
        yield flows[at : at + num]


def _recognition(columns: Sequence[str], options: ReadOptions, subject: str, sparse: bool) -> Recognition:
    recognition = recognise(columns, dialect=options.dialect, mapping=options.mapping, sparse=sparse, subject=subject)
    return replace(recognition, wraps=recognition.wraps and not options.keep_wrapped)


def _text_runs(
    pieces: Iterator[bytes], options: ReadOptions, origin: Origin | None, subject: str, *, is_bare: bool = False
) -> Iterator[tuple[Recognition, int, Flows]]:
    # A block holds about one run of flows, within bounds that keep memory and overhead low.
    block_bytes = max(1 << 10, min(1 << 24, options.chunk_rows << 8))
    recognition, blocks = read_text(
        pieces,
        lambda columns, sparse: _recognition(columns, options, subject, sparse),
        block_bytes,
        subject,
        is_bare=is_bare,
    )
    late: set[str] = set()
    size = RowBytes(subject)
    for block in blocks:
        size.add(block.source.height, int(block.source.estimated_size()))
        flows = block_flows(block, recognition, origin=origin, subject=subject, strict=options.strict)
        if new := [name for name in block.late_columns if name not in late]:
            late.update(new)
            flows.tally.add("late_columns", len(new), f"{subject}, column {new[0]}")
        yield recognition, block.num_rows, flows


def _columnar_runs(
    file: Path | BinaryIO, first: bytes, options: ReadOptions, origin: Origin | None, subject: str
) -> Iterator[tuple[Recognition, int, Flows]]:
    table = read_columnar(file, first, options.chunk_rows, subject)
    recognition = _recognition(table.names, options, subject, sparse=False)
    row = 0
    for frame in table.frames:
        flows = conformed(frame, recognition, first_row=row, origin=origin, subject=subject, strict=options.strict)
        if not row:
            flows.tally.add("unread_columns", table.num_unread, subject)
        yield recognition, frame.height, flows
        row += frame.height
