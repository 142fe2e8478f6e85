"""One folder with simulated flows and a small model of them, made by the commands themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import polars as pl
import pytest

from tests.cli.process import succeed

NUM_FLOWS: Final = 1_200
CONFIG: Final = "[model]\nwidth = 8\nmax_pool = 16\n\n[training]\nmin_window = 50\nepochs = 2\n"
QUICKLY: Final = ("--steps", "4", "--config", "tiny.toml", "--window", "300", "--device", "cpu")
"""Options of a fit that takes a second; windows of 300 flows, so that the traffic fills four of them."""


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `traffic.csv`, `tiny.toml` and `benign.thalweg`, fitted on half of the benign flows."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "tiny.toml").write_text(CONFIG)
    succeed("simulate", "traffic.csv", "--flows", str(NUM_FLOWS), "--seed", "3", folder=folder)
    benign = ("--where", "attack = 'Benign'", "--holdout", "0.5", "--seed", "1")
    succeed("fit", "traffic.csv", "-o", "benign.thalweg", *benign, *QUICKLY, folder=folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A folder of the test's own with the same files in it."""
    for path in made.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.fixture(scope="session")
def traffic(made: Path) -> pl.DataFrame:
    """The flows of `traffic.csv`."""
    return pl.read_csv(made / "traffic.csv")
