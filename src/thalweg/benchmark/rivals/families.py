"""Every rival by name: what `Detector` can be given to compare Thalweg's model with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Final

from thalweg.benchmark.rivals.rival import Method
from thalweg.errors import ConfigError

# Paths and not functions: PyTorch Geometric and PyOD are slow to import, and a comparison may need neither.
RIVALS: Final[Mapping[str, str]] = {
    "published": "thalweg.published.model:methods",
    "anomal-e": "thalweg.benchmark.rivals.anomal_e.model:methods",
    "iforest": "thalweg.benchmark.rivals.classical:iforest",
    "pca": "thalweg.benchmark.rivals.classical:pca",
    "hbos": "thalweg.benchmark.rivals.classical:hbos",
    "ecod": "thalweg.benchmark.rivals.classical:ecod",
    "knn": "thalweg.benchmark.rivals.classical:knn",
    "autoencoder": "thalweg.benchmark.rivals.plain_autoencoder:methods",
    "unseen-pair": "thalweg.benchmark.rivals.rules:unseen_pair",
    "unseen-source": "thalweg.benchmark.rivals.rules:unseen_source",
    "busiest-source": "thalweg.benchmark.rivals.rules:busiest_source",
}
"""Families of methods. Each factory takes `quick`, for smaller budgets, and gives unfitted models by their names."""


def make_rivals(family: str, *, quick: bool = False) -> tuple[Method, ...]:
    """Make a family's models, unfitted.

    quick: train for less long where it takes long, to see that everything works; the figures are not the method's.
    Raises ConfigError if there is no such family; MissingExtraError if its packages are not installed.
    """
    if family not in RIVALS:
        raise ConfigError(f"no rival {family!r}: choose from {', '.join(RIVALS)}")
    module, name = RIVALS[family].split(":")
    factory: Callable[..., tuple[Method, ...]] = getattr(import_module(module), name)
    return factory(quick=quick)
