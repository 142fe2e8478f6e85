"""Every rival by name: models for `Detector` to compare Thalweg's with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from thalweg.benchmark.rivals.anomal_e.model import AnomalEConfig, anomal_e
from thalweg.benchmark.rivals.classical import ClassicalRival
from thalweg.benchmark.rivals.plain_autoencoder import PlainAutoencoder, PlainAutoencoderConfig
from thalweg.benchmark.rivals.rival import Rival
from thalweg.benchmark.rivals.rules import BusiestSource, UnseenPair, UnseenSource
from thalweg.errors import ConfigError
from thalweg.model.interface import FlowModel

Method: TypeAlias = tuple[str, FlowModel]
"""A method's name, as in a table of results, and an unfitted model."""
Factory: TypeAlias = Callable[[bool], tuple[Method, ...]]
"""Makes a family's unfitted models; the argument asks for a smaller budget if training takes long."""


def _published(quick: bool) -> tuple[Method, ...]:
    # PyTorch Geometric is slow to import, and a comparison may not need it.
    from thalweg.published.model import PublishedConfig, PublishedGAE

    return (("published", PublishedGAE(PublishedConfig(num_epochs=2) if quick else PublishedConfig())),)


def _anomal_e(quick: bool) -> tuple[Method, ...]:
    return tuple((model.name, model) for model in anomal_e(AnomalEConfig(num_epochs=100) if quick else None))


def _autoencoder(quick: bool) -> tuple[Method, ...]:
    config = PlainAutoencoderConfig(num_epochs=8) if quick else PlainAutoencoderConfig()
    return ((PlainAutoencoder.name, PlainAutoencoder(config)),)


def _classical(name: str) -> Factory:
    return lambda _: ((name, ClassicalRival(name)),)


def _rule(rule: type[Rival]) -> Factory:
    return lambda _: ((rule.name, rule()),)


RIVALS: Final[Mapping[str, Factory]] = {
    "published": _published,
    "anomal-e": _anomal_e,
    **{name: _classical(name) for name in ("iforest", "pca", "hbos", "ecod", "knn")},
    "autoencoder": _autoencoder,
    **{rule.name: _rule(rule) for rule in (UnseenPair, UnseenSource, BusiestSource)},
}
"""Families of methods, in the order of tables."""


def make_rivals(family: str, *, quick: bool = False) -> tuple[Method, ...]:
    """Make a family's models, unfitted.

    quick: train for less long if training takes long, to see that everything works; the figures are not the method's.
    Raises ConfigError if there is no such family, or if it needs PyOD and that is not installed.
    """
    if family not in RIVALS:
        raise ConfigError(f"no rival {family!r}: choose from {', '.join(RIVALS)}")
    return RIVALS[family](quick)
