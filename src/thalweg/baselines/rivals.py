"""Every rival by name: what `Detector` can be given to compare Thalweg's model with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Final

from thalweg.baselines.rival import Method
from thalweg.errors import ConfigError

# Paths and not functions: PyTorch Geometric and PyOD are slow to import, and a comparison may need neither.
RIVALS: Final[Mapping[str, str]] = {
    "published": "thalweg.baselines.published:methods",
    "anomal-e": "thalweg.baselines.anomal_e:methods",
    "iforest": "thalweg.baselines.classical:iforest",
    "pca": "thalweg.baselines.classical:pca",
    "hbos": "thalweg.baselines.classical:hbos",
    "ecod": "thalweg.baselines.classical:ecod",
    "knn": "thalweg.baselines.classical:knn",
    "autoencoder": "thalweg.baselines.plain_autoencoder:methods",
    "unseen-pair": "thalweg.baselines.rules:unseen_pair",
    "unseen-source": "thalweg.baselines.rules:unseen_source",
    "busiest-source": "thalweg.baselines.rules:busiest_source",
}
"""Families of methods. Each factory takes `quick`, for smaller budgets, and gives unfitted models by their names."""


def make_rivals(family: str, *, quick: bool = False) -> tuple[Method, ...]:
    """Make a family's models, unfitted.

    quick: train for less long where it takes long, to see that everything works; the figures are not the method's.
    Raises: ConfigError, where there is no such family, or it needs PyOD and that is not installed.
    """
    if family not in RIVALS:
        raise ConfigError(f"no rival {family!r}: choose from {', '.join(RIVALS)}")
    module, name = RIVALS[family].split(":")
    factory: Callable[..., tuple[Method, ...]] = getattr(import_module(module), name)
    return factory(quick=quick)
