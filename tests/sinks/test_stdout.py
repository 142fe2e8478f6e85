"""The sink of standard output: windows as lines, and readers that go away."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import pytest

from tests.sinks.numbered import window
from thalweg.errors import SinkError
from thalweg.sinks.sink import Sink
from thalweg.sinks.stdout import StandardOutput


def test_standard_output_gives_windows_as_lines(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    sink = StandardOutput()
    assert isinstance(sink, Sink)
    assert sink.open(None) == sink.write(window(0)) == {}
    sink.write(window(1, range(0)))
    sink.close()
    sink.open({})
    sink.write(window(2))
    assert [json.loads(line)["row"] for line in capsysbinary.readouterr().out.splitlines()] == [
        *range(10),
        *range(20, 30),
    ]


def test_a_reader_that_goes_away_is_told_as_a_broken_pipe() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with pytest.MonkeyPatch.context() as patch:
        stream = io.TextIOWrapper(io.BufferedWriter(io.FileIO(write_end, "w"), 16))
        patch.setattr(sys, "stdout", stream)
        with pytest.raises(BrokenPipeError):
            StandardOutput().write(window(0))
        stream.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_standard_output_that_is_full_is_told() -> None:
    with pytest.MonkeyPatch.context() as patch:
        stream = io.TextIOWrapper(io.BufferedWriter(io.FileIO("/dev/full", "w"), 16))
        patch.setattr(sys, "stdout", stream)
        with pytest.raises(SinkError, match="No space left"):
            StandardOutput().write(window(0))
        stream.close()
