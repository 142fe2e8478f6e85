"""Bytes of a file, decompressed a piece at a time and cut into blocks of whole records."""

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
# Compressed input is fed in smaller pieces: a piece of zstd can grow thousandfold.
COMPRESSED_PIECE: Final = 1 << 16
# A quote that is not closed within this is a stray character, not a field of many lines.
MAX_RECORD: Final = 1 << 20
# Memory is bounded by the longest line; no flow takes this much.
MAX_LINE: Final = 1 << 26

GZIP: Final = b"\x1f\x8b"
ZSTD: Final = b"\x28\xb5\x2f\xfd"
_BOM: Final = b"\xef\xbb\xbf"


class CutShortError(Exception):
    """Compressed data that ends early or is damaged; the reader adds the file and the rows it had read."""


class NoFlowsError(SourceError):
    """A file without any flow; an error unless other files have some."""


class _Inflater(Protocol):
    """What zlib's and zstandard's decompression objects have in common."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


def fingerprint(path: Path) -> str:
    """Return a digest of a file's content (size, first and last MiB); a copy by another name has the same."""
    size = path.stat().st_size
    digest = blake2b(str(size).encode(), digest_size=16)
    with path.open("rb") as stream:
        digest.update(stream.read(PIECE))
        if size > PIECE:
            stream.seek(max(PIECE, size - PIECE))
            digest.update(stream.read(PIECE))
    return digest.hexdigest()


def pieces_of(first: bytes, stream: BufferedIOBase) -> Iterator[bytes]:
    """Give a stream's content in pieces, decompressed where it begins as gzip or zstd does, without a BOM.

    `first` is what has been read of the stream already.

    Raises: CutShortError, where compressed data ends early or is damaged.
    """
    # read1 gives what a pipe has, and back to Python after each wait: one that goes on in C would miss a Ctrl-C that
    # came while another thread had the interpreter.
    rest = iter(lambda: stream.read1(PIECE), b"")
    if first.startswith(GZIP):
        pieces = _inflated(stream, first, lambda: zlib.decompressobj(wbits=31), "gzip")
    elif first.startswith(ZSTD):
        pieces = _inflated(stream, first, lambda: zstandard.ZstdDecompressor().decompressobj(), "zstd")
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
            yield inflater.decompress(data)
            data = b""
            if inflater.eof:
                # Compressed files may be several, end to end; zeros after the last are padding.
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
    """Look at the first bytes: return up to `num_bytes` of them, and all pieces again."""
    held: list[bytes] = []
    size = 0
    trouble: CutShortError | None = None
    try:
        while size < num_bytes:
            held.append(next(pieces))
            size += len(held[-1])
    except StopIteration:
        pass
    except CutShortError as error:
        trouble = error

    def again() -> Iterator[bytes]:
        yield from held
        if trouble is not None:
            raise trouble
        yield from pieces

    return b"".join(held)[:num_bytes], again()


@final
@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """A block of whole records, each up to a newline.

    `ends` are the newlines that end records, (R,) int64. `inside` is true where a byte is within quotes, or
    None where the block has no quotes. `broken`: (R,) bool, records with a quote that is not closed; None
    where every quote stands where it may. Where it is given, `inside` is None: records are split one by one.
    """

    data: bytes
    ends: npt.NDArray[np.int64]
    inside: npt.NDArray[np.bool_] | None = None
    broken: npt.NDArray[np.bool_] | None = None


def records(pieces: Iterator[bytes], block_bytes: int, separator: str | None) -> Iterator[Records]:
    """Cut pieces into blocks of about `block_bytes` at the ends of records; the last one gets a newline.

    `separator` is the byte between fields where quotes have a meaning, else None. What was read before a
    `CutShortError` is given out before it is raised.
    """
    rest = b""
    target = block_bytes
    trouble: CutShortError | None = None
    over = False
    while not over:
        held, size = [rest], len(rest)
        try:
            while size < target:
                held.append(next(pieces))
                size += len(held[-1])
        except StopIteration:
            over = True
            if size and not (held[-1] or rest).endswith(b"\n"):
                held.append(b"\n")
        except CutShortError as error:
            over, trouble = True, error
        data = b"".join(held)
        at = 0
        while at < len(data) and (over or len(data) - at >= target):
            stop = min(at + target, len(data))
            block = _cut(data[at:stop], separator, over and stop == len(data))
            if block is not None:
                at += len(block.data)
                target = block_bytes
                yield block
                continue
            if stop - at > MAX_LINE:
                raise CutShortError(f"a line is longer than {MAX_LINE >> 20} MiB: these are not lines of text")
            # No record ends within the target: look twice as far, so that one long record costs linear time.
            target *= 2
            if stop == len(data):
                break
        rest = data[at:]
    if trouble is not None:
        raise trouble


def _cut(data: bytes, separator: str | None, is_last: bool) -> Records | None:
    if separator is None or b'"' not in data:
        end = data.rfind(b"\n") + 1
        if not end:
            return None
        array = np.frombuffer(data, np.uint8, end)
        return Records(data[:end], np.flatnonzero(array == 10))
    array = np.frombuffer(data, np.uint8)
    quotes = array == 34
    # Parity alone is needed, and it survives the overflow of eight bits.
    inside = (np.cumsum(quotes, dtype=np.uint8) & 1).astype(bool)
    ends = np.flatnonzero((array == 10) & ~inside)
    tail = len(data) - (int(ends[-1]) + 1 if len(ends) else 0)
    if _is_regular(array, quotes, inside, ord(separator)) and not (tail and (is_last or tail > MAX_RECORD)):
        if not len(ends):
            return None
        end = int(ends[-1]) + 1
        return Records(data[:end], ends, inside[:end])
    return _cut_odd(data, separator, is_last)


def _is_regular(
    array: npt.NDArray[np.uint8],
    quotes: npt.NDArray[np.bool_],
    inside: npt.NDArray[np.bool_],
    separator: int,
) -> bool:
    """Tell whether every quote opens a field, closes one, or is one of a doubled pair."""
    at = np.flatnonzero(quotes)
    opening, closing = at[inside[at]], at[~inside[at]]
    before = array[np.maximum(opening - 1, 0)]
    after = array[np.minimum(closing + 1, len(array) - 1)]
    opens = (opening == 0) | np.isin(before, [separator, 10, 34])
    closes = (closing == len(array) - 1) | np.isin(after, [separator, 10, 13, 34])
    return bool(opens.all() and closes.all())


def _cut_odd(data: bytes, separator: str, is_last: bool) -> Records | None:
    """Find the records one by one where some quote is out of place.

    A record that fits the rules of RFC 4180 (a quote within an unquoted field is a plain character) is kept
    whole; else the line is a record of its own, and broken.
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
    return Records(data[:at], np.array(ends, np.int64), None, np.array(broken))
