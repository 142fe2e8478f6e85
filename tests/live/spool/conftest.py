"""What several tests of reading ask for."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a queue on disk is to be."""
    return tmp_path / "spool"
