"""The writer keeps counts for each segment of the spool, so that dropping one needs no reading to report it."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from thalweg.live.spool import writer as spooling
from thalweg.live.spool.folder import read_dropped, segment_path
from thalweg.live.spool.layout import DATAGRAM, ENTRY, MAGIC, MARK, PIECE
from thalweg.live.spool.writer import SpoolConfig, SpoolWriter

ONE_EACH: Final = SpoolConfig(max_bytes=2, segment_bytes=1)
"""Every entry begins a segment, and the one before is dropped."""
NOTHING: Final = {"datagrams": 0, "pieces": 0, "flows": 0}


def entry_of(flows: int, payload: bytes = b"x") -> bytes:
    header = np.zeros(1, ENTRY)
    header["magic"], header["kind"], header["length"], header["flows"] = MAGIC, DATAGRAM, len(payload), flows
    return header.tobytes() + payload


def write(writer: SpoolWriter, *flows: int, way: str = "parts") -> None:
    entries = [entry_of(num) for num in flows]
    num_bytes = sum(map(len, entries))
    if way == "parts":
        writer.write(entries, num_bytes, len(entries), sum(flows))
        return
    buffers = [ctypes.create_string_buffer(entry, len(entry)) for entry in entries]
    rows = [(ctypes.addressof(buffer), len(buffer)) for buffer in buffers]
    vectors = np.array(rows, np.dtype([("base", "u8"), ("length", "u8")]))
    writer.write_vectors(vectors, num_bytes, len(entries), sum(flows))


@pytest.mark.parametrize("way", ["parts", "vectors"])
def test_segments_of_this_process_are_dropped_by_what_was_noted_and_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    def refuse(path: Path) -> dict[str, int]:
        raise AssertionError(f"{path} is read")

    monkeypatch.setattr(spooling, "_contents", refuse)
    writer = SpoolWriter(tmp_path, ONE_EACH)
    write(writer, 3, 0, 4, way=way)
    writer.add(PIECE, 1, b"piece")
    writer.add(DATAGRAM, 2, b"datagram")
    writer.add(MARK, 3)
    writer.add(MARK, 4)
    assert read_dropped(tmp_path)["segments"] == {
        0: {"datagrams": 3, "pieces": 0, "flows": 7}, 1: NOTHING | {"pieces": 1}, 2: NOTHING | {"datagrams": 1},
        3: NOTHING,
    }  # fmt: skip
    assert writer.dropped == {"segments": 4, "datagrams": 4, "pieces": 1, "flows": 7}
    writer.close()


def test_what_is_noted_is_what_reading_finds(tmp_path: Path) -> None:
    config = SpoolConfig(max_bytes=1 << 20, segment_bytes=150)
    found = []
    for noted in (True, False):
        folder = tmp_path / str(noted)
        writer = SpoolWriter(folder, config)
        for i in range(60):
            write(writer, i, 1, way="vectors")
            writer.add((PIECE, MARK, DATAGRAM)[i % 3], i, b"payload")
        if not noted:
            writer.close()
            writer = SpoolWriter(folder, config)
        # The bound is smaller now, as it were.
        writer.config = ONE_EACH
        writer.add(MARK, 1)
        writer.add(MARK, 2)
        found.append({number: lost for number, lost in read_dropped(folder)["segments"].items() if number < 30})
        writer.close()
    assert found[0] == found[1]
    assert len(found[0]) == 30
    assert all(lost["flows"] for lost in found[0].values())


def test_a_segment_with_more_in_it_than_was_noted_is_read(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, ONE_EACH)
    write(writer, 3)
    # As a write leaves it that the disk had room for in part: one entry whole, another not.
    with segment_path(tmp_path, 0).open("ab") as segment:
        segment.write(entry_of(5) + entry_of(9)[:30])
    writer.add(MARK, 1)
    assert read_dropped(tmp_path)["segments"] == {0: {"datagrams": 2, "pieces": 0, "flows": 8}}
    writer.close()


_DROPPING: Final = """
import sys
from pathlib import Path
from thalweg.live.spool.writer import SpoolConfig, SpoolWriter
from thalweg.live.spool.layout import PIECE

writer = SpoolWriter(Path(sys.argv[1]), SpoolConfig(max_bytes=2, segment_bytes=1))
for i in range(5):
    writer.add(PIECE, i, b"piece")
assert writer.dropped["pieces"] == 4
assert "numba" not in sys.modules
"""


def test_dropping_imports_nothing_large(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", _DROPPING, str(tmp_path)], check=True)
