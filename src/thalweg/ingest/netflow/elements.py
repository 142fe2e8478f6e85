"""Information elements: their names and types (`elements.csv`), and the record columns they fill (`mapping.csv`).

Source: IANA's registry of IPFIX entities; RFC 7012 (types); RFC 5103 (reverse elements); vendors' documentation of
their own elements.
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
"""Stands in both tables for the enterprise number of elements that only v9 has; v9 has no enterprise numbers."""
CISCO: Final = 9
CERT: Final = 6871
REVERSE: Final = 29305
NTOP: Final = 35632

UNKNOWN_TYPE: Final = "octetArray"
CONDITIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "": "always",
        "forward": "the template has neither element 1 nor 2",
        "reverse": "the template has element 1 or 2, and is a v9 template or has elements of ntop",
    }
)
"""The conditions that a row of `mapping.csv` can have."""
VIRTUAL_COLUMNS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "src_v4": "src_hi and src_lo, mapped",
        "src_v6": "src_hi and src_lo",
        "dst_v4": "dst_hi and dst_lo, mapped",
        "dst_v6": "dst_hi and dst_lo",
        "start": "start_us",
        "end": "end_us",
        "duration": "start_us or end_us, computed from the other one",
        "collected": "arrival_us of relayed records",
        "init": "when the exporter started",
        "space": "sampling: packets skipped after each run of sampled packets",
        "sampling_size": "sampling: packets sampled out of each population",
        "sampling_population": "sampling: packets in a population",
        "sampling_probability": "sampling: the probability that a packet is sampled",
        "sampler": "the sampler of a record; options give its interval",
        "sampler_mode": "how packets are chosen",
        "interface": "the interface of a record; options give its sampling interval",
        "event": "what a firewall did; a record sent when a flow begins has no counts yet",
        "nat_event": "a translation was created or deleted",
        "end_reason": "why a record was sent; `continued` if the flow goes on",
        "receiver_v4": "dst_hi and dst_lo: the destination after NAT",
        "receiver_v6": "dst_hi and dst_lo: the destination after NAT",
        "receiver_port": "dst_port: the destination's port after NAT",
        "icmp": "dst_port of ICMP",
        "icmp_type": "the high byte of dst_port of ICMP",
        "icmp_code": "the low byte of dst_port of ICMP",
    }
)
"""The columns of `mapping.csv` that are not columns of RECORD, and what each is used for."""

_VENDOR_IDS: Final = 1 << 15
"""Vendors' own ids in v9 begin here (in IPFIX this bit says that an enterprise number follows)."""
_NTOP_IDS: Final = 57_472
"""nProbe adds this to its own ids in v9."""
_CERT_REVERSE: Final = 1 << 14
"""YAF sets this bit in the ids of reverse elements of its own (RFC 5103 section 6.2)."""
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
"""Spellings in which a capital does not begin a word, and how `snake` reads them."""


@final
@dataclass(frozen=True, slots=True)
class Element:
    """One information element. pen: enterprise number, 0 for IANA; type: abstract data type (RFC 7012 section 3.1)."""

    pen: int
    id: int
    name: str
    type: str


@final
@dataclass(frozen=True, slots=True)
class Use:
    """The use of an element for a column. rank: 1 is the best; unit: of its values; condition: a key of CONDITIONS."""

    column: str
    rank: int
    unit: str
    condition: str


@lru_cache(maxsize=4096)
def element(pen: int, id: int, version: int = 10) -> Element:  # noqa: A002 - as in the RFCs
    """Return an element; an unknown one is named unknown_ID or unknown_PEN_ID.

    version: 9 or 10. In v9, which has no enterprise numbers, `pen` is 0, and an id of nProbe or Cisco returns the
    element that it is in IPFIX.

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
    """Return an element's name in snake case.

    >>> snake("postNATSourceIPv4Address"), snake("ingressVRFID"), snake("L7_PROTO")
    ('post_nat_source_ipv4_address', 'ingress_vrf_id', 'l7_proto')
    """
    name = name.replace("-", "_")
    if not name.isupper():
        for spelling, word in _WORDS:
            name = name.replace(spelling, word)
        name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return name.lower().replace("__", "_")


@lru_cache(maxsize=1)
def mapping() -> Mapping[tuple[int, int], tuple[Use, ...]]:
    """Return the uses of each element by (enterprise number, id), as templates spell them.

    v9 has no enterprise numbers: elements that nProbe and Cisco send there are also found under (0, id in v9).
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
