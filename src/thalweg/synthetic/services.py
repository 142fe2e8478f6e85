"""The kinds of normal traffic: which hosts use which service, when, and how much they exchange."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, final

from thalweg.synthetic.batch import ICMP, TCP, UDP

Rhythm: TypeAlias = Literal["work", "public", "always", "night"]
"""Who uses a service, and so when: people at work, the public, machines, machines at night."""

Pick: TypeAlias = Literal["any", "own", "browse", "paced"]
"""Which server a client uses: any; always its own; as people browse; or each in turn, at a fixed period."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Mode:
    """One size of exchange, drawn log-normally.

    share: of the service's flows. fwd, bwd: median payload bytes. spread: log standard deviation of the bytes; 0
    repeats them exactly. duration_ms: median. duration_spread: log standard deviation of the duration.
    """

    share: float = 1.0
    fwd: float
    bwd: float
    spread: float = 0.0
    duration_ms: float
    duration_spread: float = 0.4


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """One kind of normal traffic.

    weight: relative share of all flows, before the rhythm. clients, servers: groups of a `Site`. period_s: time between
    the flows of a pair, if paced. names: if positive, sizes come from a table of so many names, as in DNS.
    packet_payload: most payload bytes per packet. bytes_per_ms: if positive, the duration follows from the size (calls,
    video).
    """

    weight: float
    rhythm: Rhythm
    clients: str
    servers: str
    port: int
    modes: tuple[Mode, ...]
    protocol: int = TCP
    pick: Pick = "any"
    src_port: int = 0
    period_s: float = 300.0
    names: int = 0
    packet_payload: int = 1_380
    bytes_per_ms: float = 0.0


_PAGE: Final = (
    Mode(share=0.45, fwd=900, bwd=4_500, spread=0.7, duration_ms=350, duration_spread=1.0),
    Mode(share=0.30, fwd=2_200, bwd=38_000, spread=0.9, duration_ms=4_000, duration_spread=1.1),
    Mode(share=0.20, fwd=1_400, bwd=7_000, spread=0.5, duration_ms=61_000, duration_spread=0.15),
    Mode(share=0.04, fwd=9_000, bwd=1_400_000, spread=1.1, duration_ms=25_000, duration_spread=0.9),
    Mode(share=0.01, fwd=600_000, bwd=12_000, spread=1.2, duration_ms=15_000, duration_spread=0.9),
)
_SMALL_PAGE: Final = (Mode(fwd=650, bwd=3_200, spread=0.6, duration_ms=120, duration_spread=0.8),)
_ANSWER: Final = (
    Mode(share=0.7, fwd=0, bwd=0, duration_ms=0.4, duration_spread=0.5),
    Mode(share=0.3, fwd=0, bwd=0, duration_ms=28, duration_spread=0.7),
)

SERVICES: Final[dict[str, Service]] = {
    "web": Service(
        weight=24, rhythm="work", clients="workstations", servers="external", port=443, pick="browse",
        modes=_PAGE,
    ),
    "quic": Service(
        weight=7, rhythm="work", clients="workstations", servers="external", port=443, pick="browse",
        protocol=UDP, packet_payload=1_250, modes=_PAGE,
    ),
    "plain_web": Service(
        weight=3, rhythm="work", clients="workstations", servers="external", port=80, pick="browse",
        modes=_SMALL_PAGE,
    ),
    "names": Service(
        weight=20, rhythm="work", clients="workstations", servers="dns", port=53, protocol=UDP, names=4_000,
        modes=_ANSWER,
    ),
    "server_names": Service(
        weight=4, rhythm="always", clients="servers", servers="dns", port=53, protocol=UDP, names=60,
        modes=_ANSWER,
    ),
    "resolving": Service(
        weight=4, rhythm="work", clients="dns", servers="external", port=53, protocol=UDP, names=4_000,
        pick="browse", modes=(Mode(fwd=0, bwd=0, duration_ms=30, duration_spread=0.6),),
    ),
    "intranet": Service(
        weight=5, rhythm="work", clients="workstations", servers="apps", port=443, pick="own",
        modes=(
            Mode(share=0.8, fwd=1_500, bwd=9_000, spread=0.6, duration_ms=900, duration_spread=0.9),
            Mode(share=0.2, fwd=4_000, bwd=120_000, spread=0.9, duration_ms=6_000, duration_spread=0.9),
        ),
    ),
    "database": Service(
        weight=6, rhythm="work", clients="apps", servers="databases", port=5432,
        modes=(
            Mode(share=0.6, fwd=820, bwd=1_460, duration_ms=6, duration_spread=0.3),
            Mode(share=0.4, fwd=1_900, bwd=16_000, spread=0.8, duration_ms=35, duration_spread=0.8),
        ),
    ),
    "files": Service(
        weight=5, rhythm="work", clients="workstations", servers="files", port=445, pick="own",
        modes=(
            Mode(share=0.55, fwd=3_500, bwd=4_200, spread=0.5, duration_ms=2_000, duration_spread=1.0),
            Mode(share=0.30, fwd=9_000, bwd=420_000, spread=1.2, duration_ms=20_000, duration_spread=1.0),
            Mode(share=0.15, fwd=380_000, bwd=9_000, spread=1.2, duration_ms=20_000, duration_spread=1.0),
        ),
    ),
    "tickets": Service(
        weight=3, rhythm="work", clients="workstations", servers="directory", port=88,
        modes=(Mode(fwd=1_640, bwd=1_710, spread=0.04, duration_ms=4, duration_spread=0.5),),
    ),
    "directory": Service(
        weight=2, rhythm="work", clients="workstations", servers="directory", port=389,
        modes=(Mode(fwd=1_100, bwd=3_400, spread=0.35, duration_ms=40, duration_spread=0.9),),
    ),
    "mailbox": Service(
        weight=3, rhythm="work", clients="workstations", servers="mail", port=993, pick="own",
        modes=(
            Mode(share=0.8, fwd=1_250, bwd=4_900, spread=0.2, duration_ms=700, duration_spread=0.6),
            Mode(share=0.2, fwd=2_000, bwd=90_000, spread=1.3, duration_ms=3_000, duration_spread=0.8),
        ),
    ),
    "mail_out": Service(
        weight=1, rhythm="work", clients="mail", servers="external", port=25, pick="browse",
        modes=(Mode(fwd=28_000, bwd=900, spread=1.4, duration_ms=2_500, duration_spread=0.7),),
    ),
    "mail_in": Service(
        weight=1.2, rhythm="public", clients="external", servers="mail", port=25,
        modes=(Mode(fwd=32_000, bwd=850, spread=1.4, duration_ms=2_800, duration_spread=0.7),),
    ),
    "visitors": Service(
        weight=4, rhythm="public", clients="external", servers="web", port=443,
        modes=(
            Mode(share=0.8, fwd=1_100, bwd=14_000, spread=0.9, duration_ms=900, duration_spread=1.1),
            Mode(share=0.2, fwd=2_600, bwd=160_000, spread=1.0, duration_ms=9_000, duration_spread=1.0),
        ),
    ),
    "printing": Service(
        weight=0.3, rhythm="work", clients="workstations", servers="printers", port=9100, pick="own",
        modes=(Mode(fwd=260_000, bwd=700, spread=1.1, duration_ms=9_000, duration_spread=0.7),),
    ),
    "calls": Service(
        weight=0.6, rhythm="work", clients="phones", servers="phones", port=16_384, protocol=UDP,
        packet_payload=172, bytes_per_ms=8.6,
        modes=(Mode(fwd=900_000, bwd=900_000, spread=1.0, duration_ms=0),),
    ),
    "remote_shell": Service(
        weight=0.3, rhythm="work", clients="workstations", servers="servers", port=22,
        modes=(Mode(fwd=9_000, bwd=26_000, spread=1.1, duration_ms=240_000, duration_spread=1.2),),
    ),
    "telemetry": Service(
        weight=2, rhythm="always", clients="workstations", servers="external", port=443, pick="browse",
        modes=(Mode(fwd=1_350, bwd=5_200, spread=0.08, duration_ms=260, duration_spread=0.5),),
    ),
    "clock": Service(
        weight=2, rhythm="always", clients="internal", servers="gateways", port=123, src_port=123,
        protocol=UDP, pick="paced", period_s=1_024,
        modes=(Mode(fwd=48, bwd=48, duration_ms=0.6, duration_spread=0.4),),
    ),
    "counters": Service(
        weight=3, rhythm="always", clients="monitor", servers="polled", port=161, protocol=UDP, pick="paced",
        modes=(
            Mode(share=0.7, fwd=1_184, bwd=1_612, duration_ms=35, duration_spread=0.3),
            Mode(share=0.3, fwd=86, bwd=94, duration_ms=2, duration_spread=0.3),
        ),
    ),
    "ping": Service(
        weight=2, rhythm="always", clients="monitor", servers="polled", port=0, protocol=ICMP, pick="paced",
        period_s=60, modes=(Mode(fwd=56, bwd=56, duration_ms=0.7, duration_spread=0.4),),
    ),
    "checks": Service(
        weight=1.5, rhythm="always", clients="monitor", servers="web", port=443, pick="paced", period_s=60,
        modes=(Mode(fwd=612, bwd=4_380, duration_ms=24, duration_spread=0.3),),
    ),
    "leases": Service(
        weight=0.3, rhythm="always", clients="internal", servers="gateways", port=67, src_port=68,
        protocol=UDP, pick="own", modes=(Mode(fwd=300, bwd=300, duration_ms=5, duration_spread=0.5),),
    ),
    "registering": Service(
        weight=1, rhythm="always", clients="phones", servers="phone_servers", port=5060, src_port=5060,
        protocol=UDP, pick="paced", period_s=600,
        modes=(Mode(fwd=1_042, bwd=968, duration_ms=18, duration_spread=0.3),),
    ),
    "video": Service(
        weight=1, rhythm="always", clients="recorders", servers="cameras", port=554, pick="paced",
        period_s=300, bytes_per_ms=250,
        modes=(Mode(fwd=1_100, bwd=7.5e7, spread=0.06, duration_ms=0),),
    ),
    "heartbeats": Service(
        weight=0.7, rhythm="always", clients="cameras", servers="external", port=8883, pick="own",
        modes=(Mode(fwd=418, bwd=222, duration_ms=180, duration_spread=0.2),),
    ),
    "backup": Service(
        weight=0.5, rhythm="night", clients="servers", servers="backup", port=8_443, pick="own",
        modes=(Mode(fwd=2.4e8, bwd=600_000, spread=1.3, duration_ms=400_000, duration_spread=0.8),),
    ),
}  # fmt: skip
"""Every kind of normal traffic, by name."""
