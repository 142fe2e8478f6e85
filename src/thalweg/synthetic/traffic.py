"""Normal flows of a slice of time, drawn one service at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, final

import numpy as np
import numpy.typing as npt

from thalweg.synthetic.batch import (
    ACK,
    EPHEMERAL,
    ICMP,
    RST,
    SYN,
    TCP,
    USUAL_FLAGS,
    Batch,
    Ints,
    join,
    make_batch,
)
from thalweg.synthetic.services import SERVICES, Rhythm, Service
from thalweg.synthetic.sites import Hosts, Site

_RHYTHMS: Final[tuple[Rhythm, ...]] = ("work", "public", "always", "night")
_VISIT: Final = 5  # flows per page visit, on average
_STEP_US: Final = 60_000_000
_MAX_STEPS: Final = 100_000
_DAY_S: Final = 86_400


@final
@dataclass(frozen=True, slots=True, eq=False)
class Clock:
    """How the normal flows are distributed over the span.

    time_us: (T,) since the start. mass: (T,) each rhythm's cumulative rate at these times. total: (T,) the cumulative
    rate of all services together, from 0 to 1.
    """

    time_us: npt.NDArray[np.float64]
    mass: Mapping[Rhythm, npt.NDArray[np.float64]]
    total: npt.NDArray[np.float64]

    def cut(self, num: int) -> npt.NDArray[np.float64]:
        """Return the bounds of `num` slices of the span with equally many flows. Returns: (num + 1,) microseconds."""
        return np.interp(np.linspace(0, 1, num + 1), self.total, self.time_us)


def make_clock(start: datetime, duration: timedelta) -> Clock:
    """Apply the daily and weekly rhythms to the span; the site's clock is UTC."""
    span_us = duration / timedelta(microseconds=1)
    num = int(np.clip(np.ceil(span_us / _STEP_US), 64, _MAX_STEPS))
    time_us = np.linspace(0, span_us, num + 1)
    since_monday = timedelta(days=start.weekday(), hours=start.hour, minutes=start.minute, seconds=start.second)
    second = since_monday.total_seconds() + (time_us[:-1] + time_us[1:]) / 2e6
    mass = {}
    for rhythm in _RHYTHMS:
        rate = _rate(rhythm, second % _DAY_S / 3600, second // _DAY_S % 7 >= 5)
        mass[rhythm] = np.concatenate([[0.0], np.cumsum(rate * np.diff(time_us))])
    total = np.add.reduce([service.weight * mass[service.rhythm] for service in SERVICES.values()])
    return Clock(time_us, mass, total / total[-1])


def _rate(rhythm: Rhythm, hour: npt.NDArray[np.float64], weekend: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return the rate of a rhythm at an hour of the day; its mean over a working day is about 1."""

    def rise(at: float, width: float) -> npt.NDArray[np.float64]:
        return np.asarray(1 / (1 + np.exp(-(hour - at) / width)))

    if rhythm == "work":
        lunch = 1 - 0.35 * np.exp(-(((hour - 12.5) / 0.6) ** 2))
        people = rise(8.2, 0.3) * (1 - rise(17.6, 0.4)) * lunch * np.where(weekend, 0.1, 1.0)
        return np.asarray(2.5 * (0.015 + people))
    if rhythm == "public":
        return np.asarray(1 + 0.7 * np.sin((hour - 9) / 24 * 2 * np.pi))
    if rhythm == "night":
        return np.where((hour >= 22) | (hour < 4), 4.0, 0.0)
    return np.ones_like(hour)


def make_traffic(site: Site, clock: Clock, rng: np.random.Generator, num: int, begin_us: float, end_us: float) -> Batch:
    """Draw `num` normal flows of a slice of time; the last flows of a page visit may start after the slice."""

    def between(rhythm: Rhythm) -> tuple[float, float]:
        low, high = np.interp([begin_us, end_us], clock.time_us, clock.mass[rhythm])
        return float(low), float(high)

    bounds = {rhythm: between(rhythm) for rhythm in _RHYTHMS}
    shares = np.array([s.weight * (bounds[s.rhythm][1] - bounds[s.rhythm][0]) for s in SERVICES.values()])
    counts = rng.multinomial(num, shares / shares.sum())
    parts = [make_batch(0)]
    for service, count in zip(SERVICES.values(), counts, strict=True):
        if count:
            drawn = rng.uniform(*bounds[service.rhythm], count)
            times = np.interp(drawn, clock.mass[service.rhythm], clock.time_us)
            parts.append(_exchange(site, service, rng, times, clock.time_us[-1]))
    batch = join(parts)
    _prefer_v6(site, batch)
    return batch


def _exchange(
    site: Site, service: Service, rng: np.random.Generator, times: npt.NDArray[np.float64], last_us: float
) -> Batch:
    num = len(times)
    if service.pick == "browse":
        src, dst, times = _browse(site, service, rng, times)
    else:
        src, dst = _pair(site, service, rng, times)
    src, dst = _separate(site, service, src, dst)
    fwd, bwd, duration = _sizes(service, rng, num)
    fwd_packets, bwd_packets = _packets(service, fwd, bwd)
    header = 40 if service.protocol == TCP else 28
    batch = make_batch(
        num,
        time_us=np.minimum(times, last_us - 1),
        duration_ms=np.round(duration, 3),
        src=src,
        dst=dst,
        fwd_bytes=fwd + header * fwd_packets,
        bwd_bytes=bwd + header * bwd_packets,
        src_port=service.src_port or _ports(service, rng, num),
        dst_port=service.port,
        protocol=service.protocol,
        tcp_flags=USUAL_FLAGS if service.protocol == TCP else 0,
        fwd_packets=fwd_packets,
        bwd_packets=bwd_packets,
    )
    if service.protocol == TCP:
        _fail_some(rng, batch)
    return batch


def _separate(site: Site, service: Service, src: Hosts, dst: Hosts) -> tuple[Hosts, Hosts]:
    """Replace flows from a host to itself: the next server answers, or, if there is none, the monitor is the client."""
    servers = site.groups[service.servers]
    if len(servers) > 1:
        return src, np.where(src != dst, dst, np.where(src == servers[-1], servers[0], src + 1))
    return np.where(src != dst, src, site.groups["monitor"][0]), dst


def _ports(service: Service, rng: np.random.Generator, num: int) -> Ints | int:
    return 0 if service.protocol == ICMP else rng.integers(*EPHEMERAL, num)


def _pair(
    site: Site, service: Service, rng: np.random.Generator, times: npt.NDArray[np.float64]
) -> tuple[Hosts, Hosts]:
    clients, servers = site.groups[service.clients], site.groups[service.servers]
    num = len(times)
    if service.pick == "paced":
        # Each pair has a fixed offset in the period, so that its flows are exactly one period apart.
        num_pairs = max(len(clients), len(servers))
        pair = (times / (service.period_s * 1e6) % 1 * num_pairs).astype(np.int64)
        return clients[pair % len(clients)], servers[pair % len(servers)]
    at = _draw_clients(site, service, rng, num)
    choice = at if service.pick == "own" else rng.integers(0, len(servers), num, np.int32)
    return clients[at], servers[choice % len(servers)]


def _draw_clients(site: Site, service: Service, rng: np.random.Generator, num: int) -> Hosts:
    """Draw clients as positions in the service's group, busy workstations more often."""
    if service.clients == "workstations":
        return site.busy[rng.integers(0, len(site.busy), num)]
    return rng.integers(0, len(site.groups[service.clients]), num, np.int32)


def _browse(
    site: Site, service: Service, rng: np.random.Generator, times: npt.NDArray[np.float64]
) -> tuple[Hosts, Hosts, npt.NDArray[np.float64]]:
    """Draw page visits: a client, a site that it mostly knows, and a few flows within seconds."""
    num = len(times)
    num_visits = 1 + num // _VISIT
    visit = rng.integers(0, num_visits, num)
    clients = site.groups[service.clients]
    who = _draw_clients(site, service, rng, num_visits)
    column = (site.favourites.shape[1] * rng.random(num_visits) ** 2).astype(np.int64)
    usual = site.favourites[who % len(site.favourites), column]
    fresh = site.popular[rng.integers(0, len(site.popular), num)]
    # Three flows in four go to the page's own host, the others to hosts of embedded content or to new ones.
    dst = np.where(rng.random(num) < 0.75, usual[visit], fresh)
    return clients[who[visit]], dst, times[visit] + 2e6 * rng.standard_exponential(num, np.float32)


def _sizes(service: Service, rng: np.random.Generator, num: int) -> tuple[Ints, Ints, npt.NDArray[np.float64]]:
    """Draw payload bytes in both directions, and durations, from the service's mixture of log-normals."""
    modes = service.modes
    edges = np.cumsum([mode.share for mode in modes])[:-1]
    mode = np.searchsorted(edges, rng.random(num)) if len(modes) > 1 else np.zeros(num, np.int64)

    def of_mode(values: list[float]) -> npt.NDArray[np.float32]:
        return np.array(values, np.float32)[mode]

    spread = of_mode([m.spread for m in modes])
    common, own, late = rng.standard_normal((3, num), np.float32)
    # A flow that is large in one direction tends to be large in the other, and to last longer.
    fwd = of_mode([m.fwd for m in modes]) * np.exp(spread * (0.6 * common + 0.8 * own))
    bwd = of_mode([m.bwd for m in modes]) * np.exp(spread * common)
    duration = of_mode([m.duration_ms for m in modes]) * np.exp(
        of_mode([m.duration_spread for m in modes]) * (0.5 * common + 0.87 * late)
    )
    if service.names:
        # The query and answer of a name always have the same size; a few names are queried most.
        name = (service.names * rng.random(num) ** 4).astype(np.int64)
        fwd = (28 + name * 2_654_435_761 % 37).astype(np.float32)
        bwd = fwd + (16 + 16 * (name * 40_503 % 9)).astype(np.float32)
    if service.bytes_per_ms:
        duration = np.maximum(fwd, bwd) / service.bytes_per_ms
    return np.rint(fwd).astype(np.int64), np.rint(bwd).astype(np.int64), duration.astype(np.float64)


def _packets(service: Service, fwd: Ints, bwd: Ints) -> tuple[Ints, Ints]:
    """Count the packets of these payloads; TCP adds handshake, teardown and acknowledgements."""
    fwd_data = -(-fwd // service.packet_payload)
    bwd_data = -(-bwd // service.packet_payload)
    if service.protocol != TCP:
        return np.maximum(fwd_data, 1), np.maximum(bwd_data, 1)
    return fwd_data + bwd_data // 2 + 3, bwd_data + fwd_data // 2 + 2


def _fail_some(rng: np.random.Generator, batch: Batch) -> None:
    """Make some connections end with a reset, a few unanswered and a few refused, as in any network."""
    luck = rng.random(len(batch["src"]), np.float32)
    batch["tcp_flags"][luck > 0.88] |= RST
    for rows, flags, packets, answers in (
        (np.flatnonzero(luck < 0.012), SYN, 3, 0),
        (np.flatnonzero((luck >= 0.012) & (luck < 0.018)), SYN | RST | ACK, 1, 1),
    ):
        sent = rng.integers(1, packets + 1, len(rows))
        batch["tcp_flags"][rows] = flags
        batch["fwd_packets"][rows], batch["fwd_bytes"][rows] = sent, 60 * sent
        batch["bwd_packets"][rows], batch["bwd_bytes"][rows] = answers, 40 * answers
        batch["duration_ms"][rows] = np.where(sent > 1, 1_000.0 * (2.0 ** (sent - 1) - 1), 0.5 * answers)


def _prefer_v6(site: Site, batch: Batch) -> None:
    """Move flows between dual-stack hosts to IPv6, except two fifths of the pairs, which stay on IPv4."""
    src6, dst6 = site.v6[batch["src"]], site.v6[batch["dst"]]
    move = (src6 >= 0) & (dst6 >= 0) & ((batch["src"] * 31 + batch["dst"] * 17) % 5 > 1)
    batch["src"] = np.where(move, src6, batch["src"])
    batch["dst"] = np.where(move, dst6, batch["dst"])
