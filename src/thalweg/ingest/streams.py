"""Decompresses a file piece by piece and cuts the text into blocks of complete records."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from io import BufferedIOBase
from itertools import chain
from pathlib import Path
from typing import Final, Protocol, final

import numpy as np
import numpy.typing as npt
import zstandard

from thalweg.errors import SourceError

PIECE: Final = 1 << 20
# Compressed input is decompressed in smaller pieces, as a piece of zstd can grow a thousandfold.
COMPRESSED_PIECE: Final = 1 << 16
# Four bytes of zstd can become 128 KiB (RFC 8878, 3.1.1.2.2), and its decompressor has no other bound: 64 MiB at once.
_ZSTD_STEP: Final = 1 << 11
# A quote that is not closed within this many bytes is a stray character, not the start of a multi-line field.
MAX_RECORD: Final = 1 << 20
# A longer line is an error, which bounds the memory; no flow needs this much.
MAX_LINE: Final = 1 << 26
# What belongs to each record of a block takes a hundred bytes or more, however short the record is.
MAX_RECORDS: Final = 1 << 18

GZIP: Final = b"\x1f\x8b"
ZSTD: Final = b"\x28\xb5\x2f\xfd"
_BOM: Final = b"\xef\xbb\xbf"


class CutShortError(Exception):
    """Data ends early, is damaged or is not lines of text; the reader adds the file name and the rows read."""


class NoFlowsError(SourceError):
    """A file holds no flow; an error unless other files hold some."""


class _Inflater(Protocol):
    """Decompresses one of the streams that a file holds end to end."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def pieces(self, data: bytes, /) -> Iterator[bytes]: ...


@final
class _Gzip:
    """Decompresses one member of gzip, in pieces of at most PIECE."""

    def __init__(self) -> None:
        self._inflater = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inflater.eof

    @property
    def unused_data(self) -> bytes:
        return self._inflater.unused_data

    def pieces(self, data: bytes, /) -> Iterator[bytes]:
        piece = b""
        while data or len(piece) == PIECE:
            piece = self._inflater.decompress(data, PIECE)
            data = self._inflater.unconsumed_tail
            yield piece


@final
class _Zstd:
    """Decompresses one frame of zstd, a few bytes at a time."""

    def __init__(self) -> None:
        self._inflater = zstandard.ZstdDecompressor().decompressobj()
        self._unread = b""

    @property
    def eof(self) -> bool:
        return self._inflater.eof

    @property
    def unused_data(self) -> bytes:
        return self._inflater.unused_data + self._unread

    def pieces(self, data: bytes, /) -> Iterator[bytes]:
        at = 0
        while at < len(data) and not self._inflater.eof:
            yield self._inflater.decompress(data[at : at + _ZSTD_STEP])
            at += _ZSTD_STEP
        self._unread = data[at:]


def fingerprint(path: Path) -> str:
    """Return a digest of a file's size and its first and last MiB, which does not depend on the file's name."""
    size = path.stat().st_size
    digest = blake2b(str(size).encode(), digest_size=16)
    with path.open("rb") as stream:
        digest.update(stream.read(PIECE))
        if size > PIECE:
            stream.seek(max(PIECE, size - PIECE))
            digest.update(stream.read(PIECE))
    return digest.hexdigest()


def pieces_of(first: bytes, stream: BufferedIOBase) -> Iterator[bytes]:
    """Yield a stream's content in pieces: decompressed if it begins as gzip or zstd, and without a byte order mark.

    `first` is the part of the stream that has already been read.

    Raises CutShortError if compressed data ends early or is damaged.
    """
    # read1 returns whatever a pipe holds, and returns to Python after each wait. A read that keeps waiting in C would
    # miss a Ctrl-C that arrived while another thread held the interpreter.
    rest = iter(lambda: stream.read1(PIECE), b"")
    if first.startswith(GZIP):
        pieces = _inflated(stream, first, _Gzip, "gzip")
    elif first.startswith(ZSTD):
        pieces = _inflated(stream, first, _Zstd, "zstd")
    else:
        pieces = chain([first], rest)
    pieces = (piece for piece in pieces if piece)
    yield next(pieces, b"").removeprefix(_BOM)
    yield from pieces


def _inflated(stream: BufferedIOBase, first: bytes, make: Callable[[], _Inflater], kind: str) -> Iterator[bytes]:
    inflater = make()
    data = first
    try:
        while data:
            yield from inflater.pieces(data)
            data = b""
            if inflater.eof:
                # A file may hold several compressed streams end to end; zeros after the last one are padding.
                data = inflater.unused_data
                data = data if data.strip(b"\0") else stream.read1(COMPRESSED_PIECE)
                if data.strip(b"\0"):
                    inflater = make()
                    continue
                data = b""
            else:
                data = stream.read1(COMPRESSED_PIECE)
    except (zlib.error, zstandard.ZstdError) as error:
        raise CutShortError(f"the {kind} data is damaged ({error})") from error
    if not inflater.eof:
        raise CutShortError(f"the {kind} data ends early")


def peek(pieces: Iterator[bytes], num_bytes: int) -> tuple[bytes, Iterator[bytes]]:
    """Return up to `num_bytes` of the first bytes, and an iterator over all pieces from the first one on."""
    held: list[bytes] = []
    size = 0
    failure: CutShortError | None = None
    try:
        while size < num_bytes:
            held.append(next(pieces))
            size += len(held[-1])
    except StopIteration:
        pass
    except CutShortError as error:
        failure = error

    def replayed() -> Iterator[bytes]:
        yield from held
        if failure is not None:
            raise failure
        yield from pieces

    return b"".join(held)[:num_bytes], replayed()


@final
@dataclass(frozen=True, slots=True, eq=False)
class TextRecords:
    """A block of complete records; each ends with a newline.

    ends: (R,) int64, offsets of the newlines that end records. inside: (B,) bool, true for bytes within quotes; None
    if the block has no quotes. broken: (R,) bool, true for records with a misplaced quote; None if every quote is
    where RFC 4180 allows it. If `broken` is given, `inside` is None and records are split one by one.
    """

    data: bytes
    ends: npt.NDArray[np.int64]
    inside: npt.NDArray[np.bool_] | None = None
    broken: npt.NDArray[np.bool_] | None = None

    def after(self, num: int) -> TextRecords:
        """Return the block without its first `num` records."""
        return self._part(num, len(self.ends))

    def parts(self, most: int) -> Iterator[TextRecords]:
        """Cut the block into parts of at most so many records."""
        num = len(self.ends)
        for at in range(0, num, most):
            yield self if num <= most else self._part(at, min(at + most, num))

    def _part(self, first: int, last: int) -> TextRecords:
        begin = int(self.ends[first - 1]) + 1 if first else 0
        end = int(self.ends[last - 1]) + 1 if last else 0
        inside = None if self.inside is None else self.inside[begin:end]
        broken = None if self.broken is None else self.broken[first:last]
        return TextRecords(self.data[begin:end], self.ends[first:last] - begin, inside, broken)


def cut_records(
    pieces: Iterator[bytes], block_bytes: int, separator: str | None, most_records: int = MAX_RECORDS
) -> Iterator[TextRecords]:
    """Cut pieces into blocks of about `block_bytes` at record boundaries; the last block gets a final newline.

    separator: the byte between fields if quotes have a meaning, else None. most_records: of a block.

    Raises CutShortError if the data ends early or a line is longer than MAX_LINE, after all records before that place
    have been yielded.
    """
    rest = b""
    target = block_bytes
    failure: CutShortError | None = None
    at_end = False
    while not at_end:
        held, size = [rest], len(rest)
        try:
            while size < target:
                held.append(next(pieces))
                size += len(held[-1])
        except StopIteration:
            at_end = True
            if size and not (held[-1] or rest).endswith(b"\n"):
                held.append(b"\n")
        except CutShortError as error:
            at_end, failure = True, error
        data = b"".join(held)
        at = 0
        while at < len(data) and (at_end or len(data) - at >= target):
            stop = min(at + target, len(data))
            block = _cut(data[at:stop], separator, at_end and stop == len(data))
            if block is not None:
                at += len(block.data)
                target = block_bytes
                yield from block.parts(most_records)
                continue
            if stop - at > MAX_LINE:
                raise CutShortError(f"a line is longer than {MAX_LINE >> 20} MiB: these are not lines of text")
            # No record ends within the target. Doubling it keeps the cost of one long record linear.
            target *= 2
            if stop == len(data):
                break
        rest = data[at:]
    if failure is not None:
        raise failure


def _cut(data: bytes, separator: str | None, is_last: bool) -> TextRecords | None:
    if separator is None or b'"' not in data:
        end = data.rfind(b"\n") + 1
        if not end:
            return None
        array = np.frombuffer(data, np.uint8, end)
        return TextRecords(data[:end], np.flatnonzero(array == 10))
    array = np.frombuffer(data, np.uint8)
    quotes = array == 34
    # Only the parity is needed, and it survives the overflow of eight bits.
    inside = (np.cumsum(quotes, dtype=np.uint8) & 1).astype(bool)
    ends = np.flatnonzero((array == 10) & ~inside)
    tail = len(data) - (int(ends[-1]) + 1 if len(ends) else 0)
    if _is_regular(array, quotes, inside, ord(separator)) and not (tail and (is_last or tail > MAX_RECORD)):
        if not len(ends):
            return None
        end = int(ends[-1]) + 1
        return TextRecords(data[:end], ends, inside[:end])
    return _cut_irregular(data, separator, is_last)


def _is_regular(
    array: npt.NDArray[np.uint8],
    quotes: npt.NDArray[np.bool_],
    inside: npt.NDArray[np.bool_],
    separator: int,
) -> bool:
    """Return whether every quote opens a field, closes one, or is one of a doubled pair."""
    at = np.flatnonzero(quotes)
    opening, closing = at[inside[at]], at[~inside[at]]
    before = array[np.maximum(opening - 1, 0)]
    after = array[np.minimum(closing + 1, len(array) - 1)]
    opens = (opening == 0) | np.isin(before, [separator, 10, 34])
    closes = (closing == len(array) - 1) | np.isin(after, [separator, 10, 13, 34])
    return bool(opens.all() and closes.all())


def _cut_irregular(data: bytes, separator: str, is_last: bool) -> TextRecords | None:
    """Find the records one by one, for a block in which some quote is misplaced.

    A record that follows RFC 4180 is kept whole, and a quote within an unquoted field counts as a plain character.
    Any other line is a record of its own and marked broken.
    """
    sep = re.escape(separator.encode())
    one = rb'(?:"[^"]*(?:""[^"]*)*"(?=%b|\r?\n)|(?!")[^%b\n]*)' % (sep, sep)
    record = re.compile(rb"%b(?:%b%b)*\n" % (one, sep, one))
    ends: list[int] = []
    broken: list[bool] = []
    at = 0
    while at < len(data):
        match = record.match(data, at)
        line_end = data.find(b"\n", at)
        if match is None and (line_end < 0 or (not is_last and len(data) - at < MAX_RECORD)):
            break
        ends.append(line_end if match is None else match.end() - 1)
        broken.append(match is None)
        at = ends[-1] + 1
    if not ends:
        return None
    return TextRecords(data[:at], np.array(ends, np.int64), None, np.array(broken))
