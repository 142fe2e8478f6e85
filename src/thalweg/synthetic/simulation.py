"""Labelled flows from a seed: all at once, or as a stream whose memory does not grow with its length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, final, get_args

import numpy as np
import polars as pl

from thalweg.errors import ConfigError
from thalweg.synthetic.attacks import ATTACKS, Occurrence, make_attack, plan_attacks
from thalweg.synthetic.batch import COLUMNS, Batch, join, take
from thalweg.synthetic.sites import Site, SiteName, make_site
from thalweg.synthetic.traffic import make_clock, make_traffic
from thalweg.tables import Flows, conform

BENIGN: Final = "Benign"
_SLICE: Final = 1 << 17  # flows drawn at a time; the flows of a seed depend on it, so it is no setting
_SEED_STREAM: Final = 1


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class SimulationConfig:
    """What to simulate. Equal settings give equal flows.

    site: "office", about 60 hosts, or "campus", about 4,800, and 2,000 or 30,000 external ones. flows: how many in all.
    start: the beginning of the span; the site's clock is UTC. duration: the span that the flows fill, by default two
    working days, the first of them clean. attacks: names from `ATTACKS`, "all" or "none". attack_share: the noisy
    attacks' share of all flows. clean_until: the part of the span, from 0 to 1, before the first attack.

    Raises ConfigError if a value is out of range.
    """

    site: SiteName = "office"
    flows: int = 100_000
    start: datetime = datetime(2026, 3, 2, tzinfo=UTC)  # a Monday
    duration: timedelta = timedelta(days=2)
    seed: int = 0
    attacks: tuple[str, ...] | Literal["all", "none"] = "all"
    attack_share: float = 0.1
    clean_until: float = 0.5

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.site not in get_args(SiteName):
            raise ConfigError(f"no site named {self.site!r}: choose {' or '.join(get_args(SiteName))}")
        if self.start.tzinfo is None:
            raise ConfigError("the simulation's start needs a time zone: add tzinfo=UTC")
        if self.duration < timedelta(minutes=1):
            raise ConfigError(f"a simulation lasts at least a minute, not {self.duration}")
        if self.seed < 0:
            raise ConfigError(f"a seed is not negative: {self.seed}")
        if isinstance(self.attacks, str) and self.attacks not in ("all", "none"):
            raise ConfigError(f"attacks are 'all', 'none' or a tuple of names, not {self.attacks!r}")
        for name in self.attack_names:
            if name not in ATTACKS:
                raise ConfigError(f"no attack named {name!r}. Known: {', '.join(ATTACKS)}")
        if len(set(self.attack_names)) < len(self.attack_names):
            raise ConfigError("an attack is named twice")
        if not 0 <= self.clean_until < 1:
            raise ConfigError(f"clean_until is a share of the span, at least 0 and below 1, not {self.clean_until}")
        if not 0 <= self.attack_share <= 0.5:
            raise ConfigError(f"attack_share is a share of the flows, from 0 to 0.5, not {self.attack_share}")
        least = 1_000 if self.attack_names else 1
        if self.flows < least:
            raise ConfigError(f"a simulation {'with attacks ' * (least > 1)}needs at least {least:,} flows")

    @property
    def attack_names(self) -> tuple[str, ...]:
        """Return the names of the attacks, in the order of `ATTACKS` for "all"."""
        if isinstance(self.attacks, tuple):
            return self.attacks
        return tuple(ATTACKS) if self.attacks == "all" else ()


def simulate(config: SimulationConfig) -> Flows:
    """Simulate a network's flows, sorted by start, all in memory.

    Column `label` is true for the flow of an attack; `attack` is its class, or "Benign".
    """
    (flows,) = simulate_stream(config, chunk_flows=config.flows)
    return flows


def simulate_stream(config: SimulationConfig, chunk_flows: int = 1_000_000) -> Iterator[Flows]:
    """Simulate the same flows as `simulate`, `chunk_flows` at a time; the last chunk may be shorter.

    Memory grows with `chunk_flows`, not with the number of flows.

    Raises ConfigError if `chunk_flows` is not positive.
    """
    if chunk_flows < 1:
        raise ConfigError(f"a chunk holds at least one flow, not {chunk_flows}")
    return _chunks(config, chunk_flows)


def _chunks(config: SimulationConfig, chunk_flows: int) -> Iterator[Flows]:
    site = make_site(config.site, config.seed)
    held: list[pl.DataFrame] = []
    num_held = num_emitted = 0
    for batch in _slices(config, site):
        frame = _frame(config, site, batch)
        at = 0
        while num_held + frame.height - at >= chunk_flows:
            piece = frame.slice(at, chunk_flows - num_held)
            at += piece.height
            yield conform(pl.concat([*held, piece]), subject="simulation", first_row=num_emitted)
            num_emitted += chunk_flows
            held, num_held = [], 0
        if at < frame.height:
            held.append(frame.slice(at))
            num_held += frame.height - at
    if held:
        yield conform(pl.concat(held), subject="simulation", first_row=num_emitted)


def _slices(config: SimulationConfig, site: Site) -> Iterator[Batch]:
    """Draw the flows in slices of time, each with a seed of its own, so that the flows do not depend on the chunks."""
    span_us = config.duration // timedelta(microseconds=1)
    plan = plan_attacks(
        config.attack_names,
        num_flows=config.flows,
        share=config.attack_share,
        clean_us=int(span_us * config.clean_until),
        span_us=span_us,
        seed=config.seed,
    )
    num_benign = config.flows - sum(occurrence.num_flows for occurrence in plan)
    assert num_benign > 0, "attacks fill the simulation"
    num_slices = -(-num_benign // _SLICE)
    clock = make_clock(config.start, config.duration)
    edges = clock.cut(num_slices)
    later: list[Batch] = []  # flows that are drawn but start after the slice
    for k in range(num_slices):
        begin, end = float(edges[k]), float(edges[k + 1])
        rng = np.random.default_rng([config.seed, _SEED_STREAM, k])
        num = num_benign * (k + 1) // num_slices - num_benign * k // num_slices
        benign = make_traffic(site, clock, rng, num, begin, end)
        batch = join([benign, *later, *_attacks_until(config, site, plan, end)])
        order = np.argsort(batch["time_us"], kind="stable")
        if k < num_slices - 1:
            num_now = int(np.searchsorted(batch["time_us"], end, sorter=order))
            later = [take(batch, order[num_now:])]
            order = order[:num_now]
        yield take(batch, order)


def _attacks_until(config: SimulationConfig, site: Site, plan: list[Occurrence], end_us: float) -> Iterator[Batch]:
    """Draw the attacks that begin before `end_us`, and remove them from the plan."""
    while plan and plan[0].begin_us < end_us:
        yield make_attack(site, plan.pop(0), config.seed)


def _frame(config: SimulationConfig, site: Site, batch: Batch) -> pl.DataFrame:
    classes = pl.Series([BENIGN, *ATTACKS])
    start = pl.Series("start", batch["time_us"]) + int(config.start.timestamp() * 1e6)
    same = {name: batch[name] for name in COLUMNS if name not in ("time_us", "src", "dst", "attack")}
    return pl.DataFrame(
        {
            **same,
            "start": start.cast(pl.Datetime("us", "UTC")),
            "src_addr": site.addresses.gather(batch["src"]),
            "dst_addr": site.addresses.gather(batch["dst"]),
            "label": batch["attack"] > 0,
            "attack": classes.gather(batch["attack"].astype(np.uint32)),
        }
    )
