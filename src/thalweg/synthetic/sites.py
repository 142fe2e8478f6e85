"""The hosts of a simulated network: roles, addresses, habits.

Every address is invented. If an external one exists, the simulation says nothing about its owner.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, final

import numpy as np
import numpy.typing as npt
import polars as pl

SiteName: TypeAlias = Literal["office", "campus"]
Hosts: TypeAlias = npt.NDArray[np.int32]

_OFFICE: Final = {
    "workstations": 30,
    "phones": 10,
    "printers": 3,
    "cameras": 6,
    "gateways": 1,
    "dns": 2,
    "directory": 1,
    "files": 1,
    "mail": 1,
    "web": 1,
    "apps": 1,
    "databases": 1,
    "backup": 1,
    "monitor": 1,
    "recorders": 1,
    "phone_servers": 1,
}
_CAMPUS: Final = {
    "workstations": 3500,
    "phones": 800,
    "printers": 120,
    "cameras": 250,
    "gateways": 40,
    "dns": 4,
    "directory": 3,
    "files": 8,
    "mail": 3,
    "web": 8,
    "apps": 20,
    "databases": 8,
    "backup": 3,
    "monitor": 3,
    "recorders": 4,
    "phone_servers": 2,
}
ROLES: Final[Mapping[SiteName, Mapping[str, int]]] = {"office": _OFFICE, "campus": _CAMPUS}
"""How many hosts of each role a site has."""

_NUM_EXTERNAL: Final[Mapping[SiteName, int]] = {"office": 2_000, "campus": 30_000}
_NUM_BOTS: Final[Mapping[SiteName, int]] = {"office": 2_000, "campus": 8_000}
_NUM_STRANGERS: Final = 64
_SERVERS: Final = ("dns", "directory", "files", "mail", "web", "apps", "databases", "backup", "recorders")
_DUAL_STACK: Final = ("workstations", *_SERVERS)
_USABLE: Final = 253  # without .0, .1 (the gateway) and .255
_NUM_FAVOURITES: Final = 24
_WHEEL: Final = 1 << 20


@final
@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """A network's hosts, by number.

    addresses: (H,) text, the IPv4 addresses of all hosts, then the IPv6 addresses of some.
    v6: (H,) int32, index of a host's IPv6 address, -1 if it has none.
    groups: hosts by role. Besides the roles: "servers", "internal", "polled" (by monitoring), "external" (the most
    popular first), "strangers" and "bots" (external, never in normal traffic), "dark" (unused internal addresses).
    favourites: (workstations, 24) int32, external hosts that each workstation returns to.
    popular: (2**20,) int32, external hosts, each as often as it is visited, to be indexed at random.
    busy: as `popular`, but positions in groups["workstations"], each as often as it is used.
    """

    addresses: pl.Series
    v6: Hosts
    groups: Mapping[str, Hosts]
    favourites: Hosts
    popular: Hosts
    busy: Hosts


def make_site(name: SiteName, seed: int) -> Site:
    """Make the hosts of a site; the same seed gives the same hosts."""
    rng = np.random.default_rng([seed, 0])
    groups: dict[str, Hosts] = {}
    blocks: list[npt.NDArray[np.uint32]] = []
    dark: list[npt.NDArray[np.uint32]] = []
    num_hosts = 0

    def add(role: str, values: npt.NDArray[np.uint32]) -> None:
        nonlocal num_hosts
        groups[role] = np.arange(num_hosts, num_hosts + len(values), dtype=np.int32)
        blocks.append(values)
        num_hosts += len(values)

    subnet = 0
    for role, num in ROLES[name].items():
        # Subnets are about two thirds full, so that a sweep meets unused addresses.
        num_subnets = 1 + num // 170
        values = _internal(name, subnet, num_subnets)
        chosen = np.sort(rng.choice(len(values), num, replace=False))
        add(role, values[chosen])
        dark.append(np.delete(values, chosen))
        subnet += num_subnets
    external = _external(rng, _NUM_EXTERNAL[name] + _NUM_BOTS[name] + _NUM_STRANGERS)
    cuts = np.cumsum([_NUM_EXTERNAL[name], _NUM_BOTS[name]])
    for role, values in zip(("external", "bots", "strangers"), np.split(external, cuts), strict=True):
        add(role, values)
    # A network has more unused addresses than any sweep tries.
    add("dark", rng.permutation(np.concatenate(dark))[:4096])

    groups["servers"] = np.concatenate([groups[role] for role in _SERVERS])
    groups["internal"] = np.concatenate([groups[role] for role in ROLES[name]])
    groups["polled"] = np.concatenate([groups["servers"], groups["gateways"], groups["printers"]])
    v6, v6_texts = _dual_stack(rng, groups, num_hosts)
    addresses = pl.concat([_dotted(np.concatenate(blocks)), pl.Series(v6_texts, dtype=pl.String)])

    popular = groups["external"][_wheel(np.arange(1, len(groups["external"]) + 1) ** -1.05)]
    num_clients = len(groups["workstations"])
    favourites = popular[rng.integers(0, _WHEEL, (num_clients, _NUM_FAVOURITES))]
    busy = _wheel(rng.lognormal(0, 0.7, num_clients)).astype(np.int32)
    return Site(addresses, v6, groups, favourites, popular, busy)


def _wheel(weights: npt.NDArray[np.floating]) -> Hosts:
    """Repeat each position in proportion to its weight, so that a weighted draw is one look-up and not a search."""
    edges = np.cumsum(weights) / weights.sum()
    return np.searchsorted(edges, (np.arange(_WHEEL) + 0.5) / _WHEEL).astype(np.int32)


def _internal(name: SiteName, subnet: int, num_subnets: int) -> npt.NDArray[np.uint32]:
    """Return the usable addresses of consecutive /24 subnets (RFC 1918)."""
    base = (192 << 24 | 168 << 16 | 10 << 8) if name == "office" else (10 << 24 | 20 << 16)
    subnets = base + (np.arange(subnet, subnet + num_subnets, dtype=np.uint32) << 8)
    return (subnets[:, None] + np.arange(2, 2 + _USABLE, dtype=np.uint32)).ravel().astype(np.uint32)


def _external(rng: np.random.Generator, num: int) -> npt.NDArray[np.uint32]:
    """Draw distinct public addresses, concentrated in some /16 networks as those of hosting providers are."""
    first = np.array([a for a in range(11, 224) if a not in (100, 127, 169, 172, 192, 198, 203)], np.uint32)
    num_nets = max(64, num // 40)
    nets = rng.choice(first, num_nets) << np.uint32(24) | rng.integers(0, 256, num_nets, np.uint32) << 16
    crowd = (num_nets * rng.random(2 * num) ** 2).astype(np.int64)
    drawn = np.unique(nets[crowd] | rng.integers(1, 65_535, 2 * num, np.uint32))
    return rng.permutation(drawn)[:num].astype(np.uint32)


def _dotted(values: npt.NDArray[np.uint32]) -> pl.Series:
    octets = pl.DataFrame({str(shift): values >> np.uint32(shift) & np.uint32(255) for shift in (24, 16, 8, 0)})
    return octets.select(pl.concat_str(pl.all(), separator=".")).to_series()


def _dual_stack(rng: np.random.Generator, groups: Mapping[str, Hosts], num_hosts: int) -> tuple[Hosts, list[str]]:
    """Give workstations, servers and two fifths of the external hosts an IPv6 address as well.

    Internal ones are in 2001:db8::/32 (RFC 3849). Returns: `Site.v6`; the addresses.
    """
    inside = np.concatenate([groups[role] for role in _DUAL_STACK])
    outside = groups["external"][rng.random(len(groups["external"])) < 0.4]
    words = rng.integers(1, 65_536, (len(inside) + len(outside), 4))
    texts = [f"2001:db8:{1 + (host >> 8):x}::{w[0]:x}:{w[1]:x}" for host, w in zip(inside, words, strict=False)]
    texts += [f"2a0{w[0] % 16:x}:{w[1]:x}::{w[2]:x}:{w[3]:x}" for w in words[len(inside) :]]
    both = np.concatenate([inside, outside])
    v6 = np.full(num_hosts + len(both), -1, np.int32)
    v6[both] = np.arange(num_hosts, num_hosts + len(both))
    return v6, texts
