"""The conditions under which a method is judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

from thalweg.benchmark.detection.datasets import Found
from thalweg.errors import ConfigError

CLEAN: Final = "clean"
FROM: Final = "from"


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    """How a scenario differs from the clean one.

    contamination: share of attack flows among those learned from. keep_wrapped: NF-* durations as published.
    netflow_only: applies only to the NF-* sets. hidden: the model knows no addresses. renumbered: addresses are
    replaced by new random ones in every test window.
    """

    meaning: str
    contamination: float = 0.0
    keep_wrapped: bool = False
    netflow_only: bool = False
    hidden: bool = False
    renumbered: bool = False


SCENARIOS: Final[Mapping[str, Scenario]] = {
    CLEAN: Scenario(meaning="benign flows are learned from; the reader's own defaults"),
    "wrapped-kept": Scenario(
        meaning="durations that a 32-bit counter wrapped are kept as published, instead of being read as 0",
        keep_wrapped=True,
        netflow_only=True,
    ),
    "contaminated-4": Scenario(meaning="4 % of the flows learned from are attacks, unmarked", contamination=0.04),
    "contaminated-12": Scenario(meaning="12 % of the flows learned from are attacks, unmarked", contamination=0.12),
    "hidden": Scenario(meaning="the model knows no addresses", hidden=True),
    "renumbered": Scenario(
        meaning="every 200,000 judged flows have new random addresses, one for one", renumbered=True
    ),
    FROM: Scenario(meaning="learned from another network's set, judged on this one"),
}
"""Every scenario by name; rows name the other set of `from`, as in from:ton-iot-v2-sample."""


def parse_scenarios(names: Sequence[str]) -> tuple[str, ...]:
    """Check the names of scenarios, and drop repeated ones.

    Raises ConfigError if one is unknown.
    """
    for name in names:
        base, _, other = name.partition(":")
        if base not in SCENARIOS or (other and base != FROM):
            raise ConfigError(
                f"--scenarios {name}: no such scenario. Known: {', '.join(SCENARIOS)}; from:NAME names the other set"
            )
    return tuple(dict.fromkeys(names))


def scenarios_of(name: str, judged: Found, found: Sequence[Found]) -> tuple[tuple[str, Found], ...]:
    """Resolve one requested scenario for one data set, to pairs of (name in the rows, set to learn from).

    `from` alone means every other set in --data.

    Raises ConfigError if from:NAME names a set that is not in --data.
    """
    base, _, other = name.partition(":")
    if base != FROM:
        fits = judged.data_set.family == "netflow" or not SCENARIOS[base].netflow_only
        return ((name, judged),) if fits else ()
    others = [one for one in found if one.name != judged.name]
    if other:
        if other not in {one.name for one in found} | {one.data_set.name for one in found}:
            raise ConfigError(f"--scenarios {name}: {other} is not in --data; there are {_names(found)}")
        others = [one for one in others if other in (one.name, one.data_set.name)]
    return tuple((f"{FROM}:{one.name}", one) for one in others)


def _names(found: Sequence[Found]) -> str:
    return ", ".join(one.name for one in found)
