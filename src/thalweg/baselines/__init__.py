"""Models to compare with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

RIVALS: Final[Mapping[str, str]] = {
    "published": "thalweg.baselines.published:rival",
}
"""Every rival of the benchmark: a family's name -> "module:factory".

A factory takes `quick: bool = False` and returns a tuple of (method name, unfitted FlowModel), more than one where
they share work, as several heads on one embedding do.
"""
