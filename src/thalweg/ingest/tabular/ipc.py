"""Reads Arrow's files and streams in batches, each checked before it is decompressed.

A buffer states the size that it decompresses to, which is allocated at once, and a batch can state more rows than it
has bytes. Source: the format's Message.fbs, File.fbs and Schema.fbs, and the layout of FlatBuffers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, final

from thalweg.ingest.tabular.bounds import check_expansion

if TYPE_CHECKING:
    import pyarrow as pa

MAGIC: Final = b"ARROW1"
_CONTINUATION: Final = b"\xff\xff\xff\xff"
_DICTIONARY, _BATCH = 2, 3
_MAX_METADATA: Final = 1 << 26
_BLOCK: Final = 24


def ipc_batches(file: Path | BinaryIO, *, is_file: bool) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Return the schema, and the batches. is_file: not a stream, but a file with a footer.

    Raises ValueError, OSError or an ArrowException, now or while iterating, if the file is damaged or expands too much.
    """
    import pyarrow as pa
    import pyarrow.ipc as ipc

    if isinstance(file, Path):
        with file.open("rb") as stream:
            _check(stream, is_file=is_file)
    else:
        _check(file, is_file=is_file)
        file.seek(0)
    # Not mapped into memory: a file that is truncated while it is read would end the process.
    source = pa.OSFile(str(file)) if isinstance(file, Path) else file
    if is_file:
        arrow = ipc.open_file(source)
        return arrow.schema, (arrow.get_batch(i) for i in range(arrow.num_record_batches))
    batches = ipc.open_stream(source)
    return batches.schema, iter(batches)


def _check(stream: BinaryIO, *, is_file: bool) -> None:
    """Check all batches of a file or stream. Raises ValueError if one expands too much, or is not laid out right."""
    end = stream.seek(0, 2)
    try:
        places = _blocks(stream, end) if is_file else _messages(stream, end)
        for at, size, body in places:
            stream.seek(at)
            _check_message(stream, stream.read(size), body, end)
    except (struct.error, OverflowError) as error:
        raise ValueError(f"it is not laid out as Arrow is ({error})") from error


def _blocks(stream: BinaryIO, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield the offset and size of each message's metadata, and the offset of its body, from the footer of a file."""
    stream.seek(max(end - 10, 0))
    tail = stream.read()
    if not tail.endswith(MAGIC):
        raise ValueError("it has no footer")
    (size,) = struct.unpack_from("<i", tail)
    if not 0 < size <= min(end - 10, _MAX_METADATA):
        raise ValueError("its footer has an impossible size")
    stream.seek(end - 10 - size)
    footer = _Table.root(stream.read(size))
    for number in (2, 3):  # dictionaries, batches
        begin, num = footer.vector(number, _BLOCK)
        for index in range(num):
            offset, length = struct.unpack_from("<qi", footer.octets, begin + index * _BLOCK)
            if not (0 <= offset < end and 0 < length <= _MAX_METADATA):
                raise ValueError("its footer names a batch that is not there")
            stream.seek(offset)
            prefix = 8 if stream.read(4) == _CONTINUATION else 4
            yield offset + prefix, length - prefix, offset + length


def _messages(stream: BinaryIO, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield the same of the messages of a stream, one after the other."""
    at = 0
    while at + 8 <= end:
        stream.seek(at)
        head = stream.read(8)
        prefix = 8 if head[:4] == _CONTINUATION else 4
        (size,) = struct.unpack_from("<i", head, prefix - 4)
        if size == 0:
            return
        if not 0 < size <= min(end - at, _MAX_METADATA):
            raise ValueError("a message has an impossible size")
        at += prefix
        stream.seek(at)
        (length,) = struct.unpack("<q", _Table.root(stream.read(size)).inline(3, 8) or bytes(8))
        if not 0 <= length <= end:
            raise ValueError("a message has an impossible size")
        yield at, size, at + size
        at += size + length


def _check_message(stream: BinaryIO, octets: bytes, body: int, end: int) -> None:
    message = _Table.root(octets)
    kind = (message.inline(1, 1) or b"\0")[0]
    if kind not in (_DICTIONARY, _BATCH):
        return
    header = message.table(2)
    batch = header.table(1) if kind == _DICTIONARY and header is not None else header
    if batch is None:
        raise ValueError("a message without a batch")
    (num_rows,) = struct.unpack("<q", batch.inline(0, 8) or bytes(8))
    is_compressed = batch.table(3) is not None
    begin, num = batch.vector(2, 16)
    packed = unpacked = 0
    for offset, length in struct.iter_unpack("<qq", batch.octets[begin : begin + 16 * num]):
        if not (0 <= offset <= end - body and 0 <= length <= end - body - offset):
            raise ValueError("a batch is cut short")
        size = length
        if is_compressed and length >= 8:
            stream.seek(body + offset)
            (size,) = struct.unpack("<q", stream.read(8))
            size = length - 8 if size == -1 else size  # -1: not compressed
            if size < 0:
                raise ValueError("a buffer has an impossible size")
        packed += length
        unpacked += size
    check_expansion(packed, unpacked, "a batch")
    if kind == _BATCH and num_rows > 8 * unpacked:
        raise ValueError(f"a batch states {num_rows:,} rows, but holds {unpacked:,} bytes")


@final
class _Table:
    """A table of FlatBuffers. Raises struct.error if an offset points outside."""

    def __init__(self, octets: bytes, at: int) -> None:
        self.octets, self._at = octets, at
        self._fields = at - struct.unpack_from("<i", octets, at)[0]
        if at < 0 or self._fields < 0:
            raise struct.error("an offset before the first byte")
        (self._size,) = struct.unpack_from("<H", octets, self._fields)

    @classmethod
    def root(cls, octets: bytes) -> _Table:
        """Return the table that a buffer holds."""
        return cls(octets, struct.unpack_from("<I", octets)[0])

    def _place(self, number: int) -> int | None:
        at = 4 + 2 * number
        if at + 2 > self._size:
            return None
        (offset,) = struct.unpack_from("<H", self.octets, self._fields + at)
        return self._at + offset if offset else None

    def inline(self, number: int, size: int) -> bytes | None:
        """Return a field's own bytes; None if it is not set."""
        at = self._place(number)
        if at is None:
            return None
        return bytes(struct.unpack_from(f"{size}s", self.octets, at)[0])

    def table(self, number: int) -> _Table | None:
        """Return the table that a field points to; None if it is not set."""
        at = self._place(number)
        return None if at is None else _Table(self.octets, at + struct.unpack_from("<I", self.octets, at)[0])

    def vector(self, number: int, size: int) -> tuple[int, int]:
        """Return where the elements of a vector begin, and how many there are; none if it is not set."""
        at = self._place(number)
        if at is None:
            return 0, 0
        at += struct.unpack_from("<I", self.octets, at)[0]
        (num,) = struct.unpack_from("<I", self.octets, at)
        if at + 4 + num * size > len(self.octets):
            raise struct.error("a vector that ends outside")
        return at + 4, num
