"""Information elements: their names and types, and which of them fill a flow's columns.

Source: IANA's registry of IPFIX entities; RFC 7012 (types), RFC 5103 (reverse elements); the makers' own elements as
they document them. `elements.csv` has the elements, `mapping.csv` the columns.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from types import MappingProxyType
from typing import Final, final

IANA: Final = 0
V9_ONLY: Final = -1
"""In both tables, in the place of an enterprise: elements that only v9 has, which knows no enterprises."""
CISCO: Final = 9
CERT: Final = 6871
REVERSE: Final = 29305
NTOP: Final = 35632

UNKNOWN_TYPE: Final = "octetArray"
CONDITIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "": "always",
        "forward": "the template has neither element 1 nor 2",
        "reverse": "the template has element 1 or 2, and is of v9 or has elements of ntop's",
    }
)
"""When a use of `mapping.csv` holds."""
BESIDES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "src_v4": "src_hi and src_lo, mapped",
        "src_v6": "src_hi and src_lo",
        "dst_v4": "dst_hi and dst_lo, mapped",
        "dst_v6": "dst_hi and dst_lo",
        "start": "start_us",
        "end": "end_us",
        "duration": "start_us or end_us, from the other",
        "collected": "arrival_us of relayed records",
        "init": "when the exporter began",
        "space": "packets left out between the taken, for sampling",
        "sampling_size": "packets taken of so many, for sampling",
        "sampling_population": "of how many they are taken, for sampling",
        "sampling_probability": "the share taken, for sampling",
        "sampler": "what sampling a record had, told in options",
        "sampler_mode": "how packets are chosen",
        "interface": "whose sampling a record had, told in options",
        "event": "what a firewall did: a record at a flow's begin has no counts yet",
        "nat_event": "a translation was made or removed",
        "end_reason": "why a record was sent: continued, where the flow goes on",
        "icmp": "dst_port of ICMP",
        "icmp_type": "the high byte of dst_port of ICMP",
        "icmp_code": "the low byte of dst_port of ICMP",
    }
)
"""What `mapping.csv` fills that is not a column of RECORD by itself, and what becomes of it."""

_VENDOR_IDS: Final = 1 << 15
"""v9 has the makers' own ids from here on (the bit that says in IPFIX that an enterprise number follows)."""
_NTOP_IDS: Final = 57_472
"""nProbe adds this to its ids in v9."""
_CERT_REVERSE: Final = 1 << 14
"""YAF marks the reverse of its own elements with this bit (RFC 5103 section 6.2)."""
_WORDS: Final = (
    ("IPv", "Ipv"),
    ("IPSec", "Ipsec"),
    ("VRFname", "VrfName"),
    ("VRFID", "VrfId"),
    ("TEid", "Teid"),
    ("MilliSeconds", "Milliseconds"),
    ("MCast", "Mcast"),
    ("nDPI", "ndpi"),
)
"""Spellings whose capitals do not begin words."""


@final
@dataclass(frozen=True, slots=True)
class Element:
    """One information element. pen: enterprise, 0 for IANA's; type: abstract data type (RFC 7012 section 3.1)."""

    pen: int
    id: int
    name: str
    type: str


@final
@dataclass(frozen=True, slots=True)
class Use:
    """What an element is good for. rank: 1 is best for its column; unit: of its values; condition: of CONDITIONS."""

    column: str
    rank: int
    unit: str
    condition: str


@lru_cache(maxsize=4096)
def element(pen: int, id: int, version: int = 10) -> Element:  # noqa: A002 - as in the RFCs
    """Return what an element is; one that is not known has the name unknown_ID or unknown_PEN_ID.

    version: 9 or 10. v9 has no enterprises: its pen is 0, and an id of nProbe's or of Cisco's own is given as what it
    is in IPFIX.

    >>> element(0, 8).name, element(29305, 1).name, element(35632, 1).name
    ('sourceIPv4Address', 'reverseOctetDeltaCount', 'unknown_35632_1')
    """
    known = _known()
    if version == 9 and pen == IANA:
        for key in ((V9_ONLY, id), (IANA, id), (NTOP, id - _NTOP_IDS), (CISCO, id - _VENDOR_IDS)):
            if key in known:
                return known[key]
    if (pen, id) in known:
        return known[pen, id]
    forward = None
    if pen == REVERSE:
        forward = known.get((IANA, id))
    elif pen == CERT and id & _CERT_REVERSE:
        forward = known.get((CERT, id & ~_CERT_REVERSE))
    if forward is not None:
        return Element(pen, id, f"reverse{forward.name[0].upper()}{forward.name[1:]}", forward.type)
    return Element(pen, id, f"unknown_{id}" if pen == IANA else f"unknown_{pen}_{id}", UNKNOWN_TYPE)


def snake(name: str) -> str:
    """Write an element's name in small letters with underscores.

    >>> snake("postNATSourceIPv4Address"), snake("ingressVRFID"), snake("L7_PROTO")
    ('post_nat_source_ipv4_address', 'ingress_vrf_id', 'l7_proto')
    """
    name = name.replace("-", "_")
    if not name.isupper():
        for written, meant in _WORDS:
            name = name.replace(written, meant)
        name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return name.lower().replace("__", "_")


@lru_cache(maxsize=1)
def mapping() -> Mapping[tuple[int, int], tuple[Use, ...]]:
    """Return the uses of each element by (enterprise, id) as templates have them.

    v9 has no enterprises: what nProbe and Cisco send there is found under (0, id in v9) too.
    """
    uses: dict[tuple[int, int], list[Use]] = {}
    for row in _rows("mapping.csv"):
        use = Use(row["column"], int(row["rank"]), row["unit"], row["condition"])
        for key in _keys(int(row["pen"]), int(row["id"])):
            uses.setdefault(key, []).append(use)
    return MappingProxyType({key: tuple(found) for key, found in uses.items()})


def _keys(pen: int, id_: int) -> Iterator[tuple[int, int]]:
    if pen == V9_ONLY:
        yield IANA, id_
        return
    yield pen, id_
    if pen == NTOP:
        yield IANA, id_ + _NTOP_IDS
    elif pen == CISCO:
        yield IANA, id_ + _VENDOR_IDS


@lru_cache(maxsize=1)
def _known() -> Mapping[tuple[int, int], Element]:
    elements = (Element(int(row["pen"]), int(row["id"]), row["name"], row["type"]) for row in _rows("elements.csv"))
    return MappingProxyType({(one.pen, one.id): one for one in elements})


def _rows(name: str) -> Iterator[dict[str, str]]:
    with files("thalweg.ingest.netflow").joinpath(name).open(encoding="utf-8") as lines:
        yield from csv.DictReader(lines)
