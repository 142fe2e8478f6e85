"""The planted attacks: when each occurs, between which hosts, with how many flows of what shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np
import numpy.typing as npt

from thalweg.synthetic.batch import (
    ACK,
    EPHEMERAL,
    PSH,
    RST,
    SYN,
    TCP,
    UDP,
    USUAL_FLAGS,
    Batch,
    Ints,
    make_batch,
)
from thalweg.synthetic.sites import Hosts, Site

_MINUTE_US: Final = 60_000_000
_HOUR_US: Final = 60 * _MINUTE_US
_MIN_OCCURRENCES: Final = 3
_MAX_FLOWS: Final = 50_000  # of one occurrence; a larger budget means more occurrences
_MIN_FLOWS: Final = 10  # of one occurrence
_SEED_STREAM: Final = 2  # the hosts use stream 0, normal traffic stream 1


@final
@dataclass(frozen=True, slots=True, eq=False)
class Occurrence:
    """One planted attack: `num_flows` flows from `begin_us` to `end_us` since the simulation's start."""

    attack: str
    number: int
    begin_us: int
    end_us: int
    num_flows: int


Maker = Callable[[Site, Occurrence, np.random.Generator], Batch]


def plan_attacks(
    names: Sequence[str], *, num_flows: int, share: float, clean_us: int, span_us: int, seed: int
) -> list[Occurrence]:
    """Place attacks in the span after `clean_us`. Returns: their occurrences, sorted by their beginning.

    Together the noisy attacks take `share` of `num_flows`. An occurrence of a quiet attack takes as many flows as its
    pace gives, at most 0.5 % of `num_flows`.
    """
    loud = sum(ATTACKS[name].weight for name in names)
    room = span_us - clean_us
    plan = []
    for name in names:
        kind = ATTACKS[name]
        rng = np.random.default_rng([seed, _SEED_STREAM, list(ATTACKS).index(name)])
        budget = round(num_flows * share * kind.weight / loud) if kind.weight else 0
        num_times = max(_MIN_OCCURRENCES, -(-budget // kind.most))
        for number in range(num_times):
            lasts = min(int(kind.lasts_us * rng.uniform(0.5, 1.5)), room // 4)
            slot = clean_us + room * number // num_times
            begin = min(slot + int(rng.uniform(0, room / num_times)), span_us - lasts)
            size = budget // num_times
            if not kind.weight:
                size = min(int(lasts / (kind.pace_us * rng.uniform(0.7, 1.4))), num_flows // 200)
            plan.append(Occurrence(name, number, begin, begin + lasts, max(size, _MIN_FLOWS)))
    return sorted(plan, key=lambda occurrence: occurrence.begin_us)


def make_attack(site: Site, occurrence: Occurrence, seed: int) -> Batch:
    """Draw the flows of one occurrence, not sorted by time."""
    at = list(ATTACKS).index(occurrence.attack)
    rng = np.random.default_rng([seed, _SEED_STREAM, at, occurrence.number])
    batch = ATTACKS[occurrence.attack].make(site, occurrence, rng)
    batch["attack"][:] = at + 1
    return batch


def _infected(site: Site, occurrence: Occurrence) -> int:
    """Return the infected workstation: the n-th occurrences of all attacks share one."""
    workstations = site.groups["workstations"]
    return int(workstations[(7 + 5 * occurrence.number) % len(workstations)])


def _one(rng: np.random.Generator, hosts: Hosts) -> int:
    return int(rng.choice(hosts))


def _times(rng: np.random.Generator, occurrence: Occurrence, jitter: float = 1.0) -> npt.NDArray[np.float64]:
    """Draw the flows' times, evenly spaced but for a jitter, which is in units of the spacing."""
    num, span = occurrence.num_flows, occurrence.end_us - occurrence.begin_us
    return np.asarray(occurrence.begin_us + (np.arange(num) + jitter * rng.random(num)) / num * span)


def _ephemeral(rng: np.random.Generator, num: int) -> Ints:
    return rng.integers(*EPHEMERAL, num)


def _log_normal(rng: np.random.Generator, num: int, median: float, spread: float) -> Ints:
    return np.rint(median * np.exp(spread * rng.standard_normal(num))).astype(np.int64)


def _probe(rng: np.random.Generator, state: npt.NDArray[np.float64]) -> dict[str, npt.NDArray[np.int64]]:
    """Return the columns of half-open probes. state: 0 if unanswered, up to 1 if refused, above 1 if open."""
    silent, is_open = state == 0, state > 1
    tries = np.where(silent, rng.integers(1, 3, len(state)), 1)
    return {
        "fwd_packets": tries + is_open,
        "fwd_bytes": 44 * tries + 40 * is_open,
        "bwd_packets": np.where(silent, 0, 1),
        "bwd_bytes": np.where(silent, 0, np.where(is_open, 44, 40)),
        "tcp_flags": np.where(silent, SYN, SYN | RST | ACK),
    }


def _port_scan(site: Site, occurrence: Occurrence, rng: np.random.Generator) -> Batch:
    num = occurrence.num_flows
    ports = rng.permutation(np.arange(1, max(10_000, num) + 1))[:num]
    from_inside = occurrence.number % 2 == 0
    src = _infected(site, occurrence) if from_inside else _one(rng, site.groups["strangers"])
    state = np.where(rng.random(num) < 0.08, 0.0, rng.random(num) + 0.01)
    return make_batch(
        num,
        time_us=_times(rng, occurrence),
        duration_ms=np.round(rng.exponential(0.4, num) * (state > 0), 3),
        src=src,
        dst=_one(rng, site.groups["servers"]),
        src_port=rng.integers(*EPHEMERAL),
        dst_port=ports,
        protocol=TCP,
        **_probe(rng, state),
    )


def _host_sweep(site: Site, occurrence: Occurrence, rng: np.random.Generator) -> Batch:
    num = occurrence.num_flows
    src = _infected(site, occurrence)
    alive = rng.permutation(site.groups["internal"][site.groups["internal"] != src])
    # Many of the targets do not exist; a sweep longer than the list of targets repeats it.
    targets = np.concatenate([alive, site.groups["dark"]])
    first = rng.permutation(len(targets))[: max(min(num, len(targets)), 1)]
    dst = targets[np.resize(first, num)]
    there = np.isin(dst, alive)
    state = np.where(there, rng.random(num) + 0.5, 0.0)
    return make_batch(
        num,
        time_us=_times(rng, occurrence),
        duration_ms=np.round(np.where(there, rng.exponential(0.8, num), 0.0), 3),
        src=src,
        dst=dst,
        src_port=_ephemeral(rng, num),
        dst_port=rng.choice([22, 445, 3389, 5900]),
        protocol=TCP,
        **_probe(rng, state),
    )


def _brute_force(site: Site, occurrence: Occurrence, rng: np.random.Generator) -> Batch:
    num = occurrence.num_flows
    port = int(rng.choice([22, 3389, 21]))
    fwd, bwd = {22: (1_900, 2_700), 3389: (1_500, 1_800), 21: (420, 560)}[port]
    return make_batch(
        num,
        time_us=_times(rng, occurrence),
        duration_ms=np.round(1_800 * np.exp(0.25 * rng.standard_normal(num)), 3),
        src=_one(rng, site.groups["strangers"]),
        dst=_one(rng, site.groups["servers"]),
        fwd_bytes=_log_normal(rng, num, fwd, 0.03),
        bwd_bytes=_log_normal(rng, num, bwd, 0.02),
        src_port=_ephemeral(rng, num),
        dst_port=port,
        protocol=TCP,
        tcp_flags=USUAL_FLAGS | RST,
        fwd_packets=rng.integers(10, 14, num),
        bwd_packets=rng.integers(9, 13, num),
    )


def _flood(site: Site, occurrence: Occurrence, rng: np.random.Generator) -> Batch:
    num = occurrence.num_flows
    by_udp = occurrence.number % 2 == 1
    packets = rng.integers(1, 3, num) * (60 if by_udp else 1)
    answered = rng.random(num) < 0.1
    return make_batch(
        num,
        time_us=_times(rng, occurrence),
        duration_ms=np.round(rng.exponential(3.0, num) * (packets > 1), 3),
        src=_one(rng, site.groups["strangers"]),
        dst=_one(rng, np.concatenate([site.groups["web"], site.groups["dns"]])),
        fwd_bytes=packets * (540 if by_udp else 40),
        bwd_bytes=answered * (0 if by_udp else 44),
        src_port=_ephemeral(rng, num),
        dst_port=53 if by_udp else 80,
        protocol=UDP if by_udp else TCP,
        tcp_flags=0 if by_udp else SYN,
        fwd_packets=packets,
        bwd_packets=answered * (not by_udp),
    )


def _many_to_one(site: Site, occurrence: Occurrence, rng: np.random.Generator) -> Batch:
    num = occurrence.num_flows
    bots = rng.permutation(site.groups["bots"])[: max(min(num // 3, len(site.groups["bots"])), 5)]
    asks = rng.random(num) < 0.5  # half request a page, half send only a SYN
    return make_batch(
        num,
        time_us=_times(rng, occurrence),
        duration_ms=np.round(np.where(asks, rng.exponential(400, num), 0.0), 3),
        src=rng.choice(bots, num),
        dst=_one(rng, site.groups["web"]),
        fwd_bytes=np.where(asks, _log_normal(rng, num, 560, 0.1), 60),
        bwd_bytes=np.where(asks, 172, 0),
        src_port=_ephemeral(rng, num),
        dst_port=443,
        protocol=TCP,
        tcp_flags=np.where(asks, SYN | ACK | PSH, SYN),
        fwd_packets=np.where(asks, 5, 1),
        bwd_packets=np.where(asks, 3, 0),
    )


def _beaconing(site: Site, occurrence: Occurrence, rng: np.random.Generator) -> Batch:
    num = occurrence.num_flows
    with_task = rng.random(num) < 0.04
    return make_batch(
        num,
        time_us=_times(rng, occurrence, jitter=0.06),
        duration_ms=np.round(160 * np.exp(0.12 * rng.standard_normal(num)), 3),
        src=_infected(site, occurrence),
        dst=_one(rng, site.groups["strangers"]),
        fwd_bytes=876,
        bwd_bytes=np.where(with_task, _log_normal(rng, num, 22_000, 0.6), 612),
        src_port=_ephemeral(rng, num),
        dst_port=rng.choice([443, 8080, 8443]),
        protocol=TCP,
        tcp_flags=USUAL_FLAGS,
        fwd_packets=np.where(with_task, 16, 8),
        bwd_packets=np.where(with_task, 22, 6),
    )


def _exfiltration(site: Site, occurrence: Occurrence, rng: np.random.Generator) -> Batch:
    num = occurrence.num_flows
    fwd = _log_normal(rng, num, 9e6, 0.5)
    packets = fwd // 1_400 + 4
    return make_batch(
        num,
        time_us=_times(rng, occurrence),
        duration_ms=np.round(fwd / rng.uniform(60, 140, num), 3),
        src=_infected(site, occurrence),
        dst=_one(rng, site.groups["strangers"]),
        fwd_bytes=fwd,
        bwd_bytes=52 * (packets // 2) + 4_200,
        src_port=_ephemeral(rng, num),
        dst_port=443,
        protocol=TCP,
        tcp_flags=USUAL_FLAGS,
        fwd_packets=packets,
        bwd_packets=packets // 2 + 6,
    )


def _lateral_movement(site: Site, occurrence: Occurrence, rng: np.random.Generator) -> Batch:
    num = occurrence.num_flows
    first = _infected(site, occurrence)
    reach = np.concatenate([site.groups["workstations"], site.groups["servers"]])
    reached = rng.permutation(reach[reach != first])[: max(4, min(num // 2, 24))]
    # From the first host to the others; in the last third also from the first two hosts reached.
    hop = np.arange(num) * 3 // num == 2
    src = np.where(hop & (rng.random(num) < 0.5), rng.choice(reached[:2], num), first)
    dst = rng.choice(reached[2:], num)
    copies = rng.random(num) < 0.3  # tools are copied to the target
    fwd = np.where(copies, _log_normal(rng, num, 1.6e6, 0.3), _log_normal(rng, num, 5_200, 0.5))
    bwd = _log_normal(rng, num, 6_800, 0.6)
    return make_batch(
        num,
        time_us=_times(rng, occurrence),
        duration_ms=np.round(3_000 * np.exp(0.9 * rng.standard_normal(num)), 3),
        src=src,
        dst=dst,
        fwd_bytes=fwd,
        bwd_bytes=bwd,
        src_port=_ephemeral(rng, num),
        dst_port=rng.choice([445, 135, 3389, 5985], num),
        protocol=TCP,
        tcp_flags=USUAL_FLAGS,
        fwd_packets=fwd // 1_380 + 8,
        bwd_packets=bwd // 1_380 + 7,
    )


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Attack:
    """A kind of attack.

    weight: relative share of the noisy attacks' flows, 0 for a quiet attack. lasts_us: duration of one occurrence.
    pace_us: time between the flows of a quiet attack. most: most flows of one occurrence. meaning: a description.
    """

    make: Maker
    lasts_us: int
    meaning: str
    weight: float = 0.0
    pace_us: int = _MINUTE_US
    most: int = _MAX_FLOWS


ATTACKS: Final[dict[str, Attack]] = {
    "port_scan": Attack(
        make=_port_scan,
        weight=0.10,
        lasts_us=6 * _MINUTE_US,
        meaning="one host tries many ports of one server",
    ),
    "host_sweep": Attack(
        make=_host_sweep,
        weight=0.10,
        lasts_us=10 * _MINUTE_US,
        most=10_000,
        meaning="one host tries one port of many hosts",
    ),
    "brute_force": Attack(
        make=_brute_force,
        weight=0.10,
        lasts_us=40 * _MINUTE_US,
        meaning="one external host tries passwords at one server",
    ),
    "flood": Attack(
        make=_flood,
        weight=0.35,
        lasts_us=3 * _MINUTE_US // 2,
        meaning="one external host sends one server very many flows",
    ),
    "many_to_one_flood": Attack(
        make=_many_to_one,
        weight=0.35,
        lasts_us=3 * _MINUTE_US,
        meaning="very many external hosts send one server a few flows each",
    ),
    "beaconing": Attack(
        make=_beaconing,
        lasts_us=4 * _HOUR_US,
        pace_us=2 * _MINUTE_US,
        meaning="an infected host contacts one external host at a steady pace, always with the same few bytes",
    ),
    "slow_exfiltration": Attack(
        make=_exfiltration,
        lasts_us=3 * _HOUR_US,
        pace_us=6 * _MINUTE_US,
        meaning="an infected host sends one external host some megabytes every few minutes",
    ),
    "lateral_movement": Attack(
        make=_lateral_movement,
        lasts_us=_HOUR_US,
        pace_us=_MINUTE_US,
        meaning="an infected host connects to other internal hosts, and two of these to more",
    ),
}
"""Every kind of attack, by its class name in column `attack`."""
