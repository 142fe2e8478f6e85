from __future__ import annotations

import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from numba import njit
from rich.console import Console

from tests.conftest import make_flows
from thalweg.cli.show.console import compiling_notes
from thalweg.detect import Detector
from thalweg.model.autoencoder import ModelConfig
from thalweg.model.learning.training import TrainingConfig
from thalweg.model.thalweg import ThalwegModel
from thalweg.tables import Flows

_LOOPS_AFTER_WARM_UP = """
import gc, sys
from numba.core.dispatcher import Dispatcher
from thalweg.detect import Detector

def num_ready():
    return sum(len(one.signatures) for one in gc.get_objects() if isinstance(one, Dispatcher))

from tests.runtime.test_warm_up import many_flows
flows = many_flows(40_000)
detector = Detector.load(sys.argv[1], device="cpu")
none = num_ready()
detector.warm_up()
ready = num_ready()
detector.score(flows)
print(none, ready, num_ready())
"""


def many_flows(num: int) -> Flows:
    return Flows(make_flows(num).frame.with_columns(protocol=pl.lit(6, pl.UInt8)))


@pytest.mark.parametrize("attributes", ["standard", "extended"])
def test_nothing_is_left_to_compile_after_warming_up(tmp_path: Path, attributes: str) -> None:
    model = ThalwegModel(
        shape=ModelConfig(width=8, prefix_width=4, max_pool=16),
        training=TrainingConfig(steps=4, epochs=1, min_window=50),
        attributes="extended" if attributes == "extended" else "standard",
    )
    Detector(model, seed=1, device="cpu").fit(many_flows(400)).save(tmp_path / "m")
    command = [sys.executable, "-c", _LOOPS_AFTER_WARM_UP, str(tmp_path / "m")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    none, ready, after = map(int, done.stdout.split())
    assert none < ready == after


def test_compilation_is_reported_once_and_not_if_loops_are_ready() -> None:
    twice: Any = njit(lambda x: 2 * x)  # not cached on disk, unlike those of `compiled`

    console = Console(record=True, width=100, file=StringIO())
    with compiling_notes(console):
        assert twice(2.0) == 4
        assert twice(2) == 4
    first = console.export_text()
    assert first.count("compiling loops for this machine") == 1
    assert "compiled 2 loops in " in first
    with compiling_notes(console):
        assert twice(3.0) == 6
    assert console.export_text() == ""
