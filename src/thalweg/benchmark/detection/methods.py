"""What is compared: Thalweg, its ablations, and the rivals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, final

from thalweg.benchmark.rivals import RIVALS, make_rivals
from thalweg.errors import ConfigError
from thalweg.graph.attributes import AttributeSet
from thalweg.model.interface import FlowModel
from thalweg.model.thalweg import ThalwegModel

THALWEG: Final = "thalweg"
_LEAST_EFFORT: Final = 0.01

REVISION: Final = 7
"""Raise it if Thalweg learns differently from the same settings: its older rows are then stale."""

TEST_TUNED: Final = ("anomal-e",)
"""Families for which the table also shows the head and threshold that are best on the test labels."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """Fields of ModelConfig, TrainingConfig and NoiseConfig that an ablation sets, and the attributes that it uses."""

    meaning: str
    shape: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    noise: Mapping[str, Any] = field(default_factory=dict)
    attributes: AttributeSet = "standard"


HIDDEN: Final = "no-addresses"

ABLATIONS: Final[Mapping[str, Change]] = {
    HIDDEN: Change(meaning="the model knows no addresses", shape={"use_addresses": False}),
    "no-graph": Change(meaning="no messages between hosts", shape={"use_graph": False}),
    "no-unet": Change(meaning="no Graph U-Net", shape={"use_unet": False}),
    "no-window": Change(meaning="no global edge embedding", shape={"use_window": False}),
    "no-channel": Change(meaning="no statistics of the channel", shape={"use_channel": False}),
    "no-neighbourhood": Change(meaning="no converged neighbour averages", shape={"use_neighbourhood": False}),
    "uniform-noise": Change(meaning="single random pairs instead of structured noise", noise={"uniform": True}),
    "no-familiarity": Change(meaning="no counts of what occurred before", shape={"use_familiarity": False}),
    "no-thinning": Change(meaning="training windows of neighbouring flows only", training={"thinning": 1.0}),
    "host-vectors": Change(meaning="each busy host has a learned vector, too", shape={"prefix_levels": 4}),
    "extended": Change(meaning="packets, protocol, flags and ports as well", attributes="extended"),
    "trim": Change(meaning="the 2 % of training flows that fit worst left out of the loss", training={"trim": 0.02}),
}
"""What `--ablations` changes, one at a time, extended attributes included. Add one here: any field of the settings."""


def families(names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the families to run: the named ones, or Thalweg and all rivals.

    Raises ConfigError if a name is neither Thalweg, nor an ablation, nor a rival.
    """
    known = (THALWEG, *ablated(), *RIVALS)
    for name in names or ():
        if name not in known:
            raise ConfigError(f"--methods {name}: no such method. Known: {', '.join(known)}")
    return (THALWEG, *RIVALS) if names is None else tuple(dict.fromkeys(names))


def ablated() -> tuple[str, ...]:
    """Return the family of each ablation."""
    return tuple(f"{THALWEG}/{name}" for name in ABLATIONS)


def is_thalweg(family: str) -> bool:
    """Return whether a family is Thalweg or one of its ablations."""
    return family == THALWEG or is_ablation(family)


def is_known(family: str) -> bool:
    """Return whether a family of that name can be run."""
    return family in (THALWEG, *RIVALS) or (is_ablation(family) and family.removeprefix(f"{THALWEG}/") in ABLATIONS)


def is_ablation(family: str) -> bool:
    """Return whether a family is an ablation of Thalweg."""
    return family.startswith(f"{THALWEG}/")


def make_models(
    family: str, *, quick: bool, effort: float = 1.0, hidden: bool = False
) -> tuple[tuple[str, FlowModel], ...]:
    """Make a family's unfitted models, by method name.

    quick: shorter training for the slow rivals; Thalweg keeps its own, which may not converge in less. effort: factor
    on the number of flows that Thalweg trains on. hidden: without addresses, for Thalweg only; rivals do not change.

    Raises ConfigError if there is no such family.
    """
    if is_thalweg(family):
        return ((family, _thalweg(family, effort, hidden)),)
    return make_rivals(family, quick=quick)


def settings_of(family: str, *, quick: bool, effort: float, hidden: bool) -> str:
    """Describe everything that determines what a family computes, as text to compare.

    A rival's own settings are left out: they only change with the package's version.
    """
    if not is_thalweg(family):
        return f"{family} quick={quick}"
    model = _thalweg(family, effort, hidden)
    return repr((REVISION, model.shape, model.training, model.attributes, model.window_size))


def _thalweg(family: str, effort: float, hidden: bool) -> ThalwegModel:
    model = ThalwegModel()
    shape, training, attributes = model.shape, model.training, model.attributes
    training = training.longer(effort)
    if effort < _LEAST_EFFORT:  # training never takes fewer than 100 steps by itself
        training = replace(training, steps=max(round(100 * effort / _LEAST_EFFORT), 1))
    changes = [ABLATIONS[family.removeprefix(f"{THALWEG}/")]] if is_ablation(family) else []
    changes += [ABLATIONS[HIDDEN]] if hidden else []
    for change in changes:
        shape = replace(shape, **change.shape)
        training = replace(training, **change.training, noise=replace(training.noise, **change.noise))
        attributes = attributes if change.attributes == "standard" else change.attributes
    return replace(model, shape=shape, training=training, attributes=attributes)
