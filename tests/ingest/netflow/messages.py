"""Datagrams made by hand: NetFlow v5 and v9, and IPFIX."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias

from thalweg.ingest.netflow.datagrams import Datagrams
from thalweg.ingest.netflow.decoder import Decoder
from thalweg.ingest.netflow.values import Describer
from thalweg.ingest.records import Records

Field: TypeAlias = tuple[int, int] | tuple[int, int, int]
"""(element, length) or (element, length, enterprise)."""
Fields: TypeAlias = Sequence[Field]

NOW_S: Final = 1_700_000_000
"""When everything happens: arrivals, exports and flows are around it."""
NOW_US: Final = NOW_S * 1_000_000
UP_MS: Final = 10_000_000
"""How long exporters have run."""
ADDRESS: Final = (0, 0xFFFF_0A00_0001)
"""10.0.0.1, the sender."""

FILE: Final = {"hi": 0, "lo": 0}
"""The sender of messages in a file, as an argument of `decode`."""

VARIABLE: Final = 65_535
FLOW: Final[Fields] = ((8, 4), (12, 4), (7, 2), (11, 2), (4, 1), (1, 4), (2, 4))
"""Addresses, ports, protocol, bytes, packets."""
TIMED: Final[Fields] = (*FLOW, (152, 8), (153, 8))


def ip(text: str) -> bytes:
    return bytes(int(part) for part in text.split("."))


def flow(
    src: str = "10.1.0.1", dst: str = "10.2.0.2", ports: tuple[int, int] = (40_000, 443), protocol: int = 6,
    octets: int = 1_000, packets: int = 10,
) -> bytes:  # fmt: skip
    """Return a record of FLOW."""
    return ip(src) + ip(dst) + struct.pack(">HHBII", *ports, protocol, octets, packets)


def timed(start_ms: int = NOW_S * 1000 - 5_000, end_ms: int = NOW_S * 1000 - 1_000, octets: int = 1_000) -> bytes:
    """Return a record of TIMED."""
    return flow(octets=octets) + struct.pack(">QQ", start_ms, end_ms)


def v5_record(octets: int = 1_000, packets: int = 10, first: int = UP_MS - 5_000, last: int = UP_MS - 1_000) -> bytes:
    return struct.pack(
        ">4s4s4sHHIIIIHHBBBBHHBBH", ip("10.1.0.1"), ip("10.2.0.2"), bytes(4), 1, 2, packets, octets, first, last,
        40_000, 443, 0, 0x1B, 6, 0, 0, 0, 0, 0, 0,
    )  # fmt: skip


def v5(
    *records: bytes, sequence: int = 0, uptime: int = UP_MS, seconds: int = NOW_S, sampling: int = 0, engine: int = 0,
    count: int | None = None,
) -> bytes:  # fmt: skip
    count = len(records) if count is None else count
    return struct.pack(">HHIIIIHH", 5, count, uptime, seconds, 0, sequence, engine, sampling) + b"".join(records)


def variable(content: bytes, *, long: bool = False) -> bytes:
    """Return a field with its length in front (RFC 7011 section 7)."""
    if long or len(content) > 254:
        return b"\xff" + struct.pack(">H", len(content)) + content
    return bytes([len(content)]) + content


def set_of(id_: int, content: bytes, padding: int = 0) -> bytes:
    return struct.pack(">HH", id_, 4 + len(content) + padding) + content + bytes(padding)


def fields_of(fields: Fields) -> bytes:
    found = b""
    for field in fields:
        if len(field) == 3:
            found += struct.pack(">HHI", field[0] | 0x8000, field[1], field[2])
        else:
            found += struct.pack(">HH", *field)
    return found


def template(id_: int, fields: Fields) -> bytes:
    return struct.pack(">HH", id_, len(fields)) + fields_of(fields)


def v9_options_template(id_: int, scope: Fields, fields: Fields) -> bytes:
    return struct.pack(">HHH", id_, 4 * len(scope), 4 * len(fields)) + fields_of(scope) + fields_of(fields)


def ipfix_options_template(id_: int, scope: Fields, fields: Fields) -> bytes:
    num = len(scope) + len(fields)
    return struct.pack(">HHH", id_, num, len(scope)) + fields_of(scope) + fields_of(fields)


Templates: TypeAlias = Mapping[int, Fields]
Options: TypeAlias = Mapping[int, tuple[Fields, Fields]]
Data: TypeAlias = Mapping[int, Iterable[bytes]]


def v9(
    *sets: bytes, templates: Templates | None = None, options: Options | None = None, data: Data | None = None,
    sequence: int = 0, domain: int = 0, uptime: int = UP_MS, seconds: int = NOW_S, count: int = 1,
) -> bytes:  # fmt: skip
    """Return a datagram with all templates in one set, then all of options, then data, then the sets that are given."""
    parts = []
    if templates:
        parts.append(set_of(0, b"".join(template(id_, fields) for id_, fields in templates.items())))
    if options:
        parts.append(set_of(1, b"".join(v9_options_template(id_, *fields) for id_, fields in options.items())))
    parts += [set_of(id_, b"".join(records)) for id_, records in (data or {}).items()]
    return struct.pack(">HHIIII", 9, count, uptime, seconds, sequence, domain) + b"".join([*parts, *sets])


def ipfix(
    *sets: bytes, templates: Templates | None = None, options: Options | None = None, data: Data | None = None,
    sequence: int = 0, domain: int = 0, seconds: int = NOW_S,
) -> bytes:  # fmt: skip
    """Return a message, as `v9` does."""
    parts = []
    if templates:
        parts.append(set_of(2, b"".join(template(id_, fields) for id_, fields in templates.items())))
    if options:
        parts.append(set_of(3, b"".join(ipfix_options_template(id_, *fields) for id_, fields in options.items())))
    parts += [set_of(id_, b"".join(records)) for id_, records in (data or {}).items()]
    content = b"".join([*parts, *sets])
    return struct.pack(">HHIII", 10, 16 + len(content), seconds, sequence, domain) + content


def withdrawal(id_: int) -> bytes:
    """Return what withdraws a template (RFC 7011 section 8.1)."""
    return struct.pack(">HH", id_, 0)


def decode(
    decoder: Decoder, *payloads: bytes, at_us: int = NOW_US, hi: int = ADDRESS[0], lo: int = ADDRESS[1]
) -> Records:
    """Decode datagrams of one sender in one call."""
    return decoder.decode(Datagrams.of([(payload, at_us, hi, lo) for payload in payloads]))


def described(*payloads: bytes) -> list[dict[str, object]]:
    describer = Describer()
    return [one for payload in payloads for one in describer.describe(payload, time_us=NOW_US, lo=ADDRESS[1])]
