"""The headers of packets, from the link layer to IP and its payload, without reading past the end of what is there."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from thalweg.runtime.jit import compiled

# The kind of a header is its EtherType (IEEE 802, IANA), or one of these numbers, which are lengths in Ethernet.
ETHERNET: Final = 0x6558  # as GRE and EtherIP carry it
IPV4: Final = 0x0800
IPV6: Final = 0x86DD
PPP: Final = 0x880B
PPPOE: Final = 0x8864
MPLS: Final = 0x8847
GRE: Final = 1
MPLS_PAYLOAD: Final = 2  # what follows the labels does not say what it is
ANY_IP: Final = 3  # IP, whose version is in its first 4 bits
CISCO_HDLC: Final = 4
_ERSPAN_1: Final = 5  # without a header of its own
_ETHERIP: Final = 6
_ERSPAN_2: Final = 0x88BE
_ERSPAN_3: Final = 0x22EB
_MPLS_UPSTREAM: Final = 0x8848
_VLAN: Final = (0x8100, 0x88A8, 0x9100, 0x9200)
_MAX_LENGTH: Final = 1_500
"""A larger number after the addresses of Ethernet is a type, not a length (IEEE 802.3, 3.2.6)."""

_FRAGMENT: Final = 44
_AUTHENTICATION: Final = 51
_EXTENSIONS: Final = (0, 43, 60, 135, 139, 140)
"""IPv6 extension headers whose length is in units of 8 bytes, without the first 8 (RFC 8200; IANA's registry)."""


@compiled(inline=True)
def _u16(buffer: Any, at: Any) -> Any:
    return (np.int64(buffer[at]) << 8) | np.int64(buffer[at + 1])


@compiled()
def _type(buffer: Any, at: Any, end: Any) -> Any:
    """Read an EtherType, or the one that follows a length and SNAP. Returns: (kind, -1 if unknown; offset after it)."""
    if at + 2 > end:
        return -1, at
    kind = _u16(buffer, at)
    if kind > _MAX_LENGTH:
        return kind, at + 2
    if at + 10 > end or _u16(buffer, at + 2) != 0xAAAA or buffer[at + 4] != 3:
        return -1, at
    kind = _u16(buffer, at + 8)
    return kind if kind > _MAX_LENGTH else -1, at + 10


@compiled()
def _gre(buffer: Any, at: Any, end: Any) -> Any:
    """Read a header of GRE (RFC 2784, RFC 2890; version 1: RFC 2637). Returns: as `_type`."""
    if at + 4 > end:
        return -1, at
    flags = _u16(buffer, at)
    kind = _u16(buffer, at + 2)
    if flags & 0x4000 or kind <= _MAX_LENGTH:  # routing (RFC 1701), long unused
        return -1, at
    has_sequence = flags & 0x1000 != 0
    at += 4 + (4 if flags & 0x8000 else 0) + (4 if flags & 0x2000 else 0) + (4 if has_sequence else 0)
    if flags & 7 == 1 and flags & 0x80:
        at += 4
    if kind == _ERSPAN_2 and not has_sequence:
        kind = _ERSPAN_1
    return kind, at


@compiled()
def find_ip(buffer: Any, at: Any, end: Any, kind: Any) -> Any:
    """Return the offset of the first IP header behind a header of some kind, -1 if there is none.

    It lies within `end`, but the bytes of the header itself may not.
    Source: IEEE 802.1Q; RFC 1042 (SNAP); RFC 3032 and 4385 (MPLS); RFC 2516 (PPPoE); RFC 1661 (PPP);
    draft-foschiano-erspan.
    """
    while 0 <= at < end:
        if kind in (IPV4, IPV6, ANY_IP):
            version = buffer[at] >> 4
            if kind == IPV4:
                return at if version == 4 else -1
            return at if version == 6 or (kind == ANY_IP and version == 4) else -1
        if kind in (ETHERNET, _ERSPAN_1):
            kind, at = _type(buffer, at + 12, end)
        elif kind in _VLAN or kind == CISCO_HDLC:
            kind, at = _type(buffer, at + 2, end)
        elif kind in (MPLS, _MPLS_UPSTREAM):
            if at + 4 > end:
                return -1
            if buffer[at + 2] & 1:  # the bottom of the stack
                kind = MPLS_PAYLOAD
            at += 4
        elif kind == MPLS_PAYLOAD:
            version = buffer[at] >> 4
            if version == 0:  # the control word of a pseudowire
                at += 4
            kind = ANY_IP if version == 4 or version == 6 else ETHERNET
        elif kind == PPPOE:
            kind = PPP
            at += 6
        elif kind == _ETHERIP:  # RFC 3378
            kind = ETHERNET
            at += 2
        elif kind == PPP:
            if at + 2 <= end and _u16(buffer, at) == 0xFF03:  # address and control, left out in PPPoE
                at += 2
            if at + 2 > end:
                return -1
            is_short = buffer[at] & 1
            protocol = np.int64(buffer[at]) if is_short else _u16(buffer, at)
            at += 1 if is_short else 2
            kind = IPV4 if protocol == 0x21 else IPV6 if protocol == 0x57 else MPLS if protocol == 0x281 else -1
        elif kind == GRE:
            kind, at = _gre(buffer, at, end)
        elif kind == _ERSPAN_2:
            kind = ETHERNET
            at += 8
        elif kind == _ERSPAN_3:
            if at + 12 > end:
                return -1
            kind = ETHERNET
            at += 20 if buffer[at + 11] & 1 else 12
        else:
            return -1
    return -1


@compiled()
def ip_payload(buffer: Any, at: Any, end: Any) -> Any:
    """Read an IP header and, in IPv6, its extensions.

    Returns: the protocol; the offset of its header, which may lie beyond the end, or -1 in a later fragment, which has
    none; the length of the packet that the header states, or -1 if the header is incomplete or contradicts itself.
    Source: RFC 791; RFC 8200; RFC 4302 (authentication).
    """
    if at < end and buffer[at] >> 4 == 4:
        size = (np.int64(buffer[at]) & 15) * 4
        if size < 20 or at + 20 > end:
            return 0, -1, -1
        length = _u16(buffer, at + 2)
        if 0 < length < size:
            return 0, -1, -1
        return np.int64(buffer[at + 9]), -1 if _u16(buffer, at + 6) & 0x1FFF else at + size, length
    if at + 40 > end or buffer[at] >> 4 != 6:
        return 0, -1, -1
    length = _u16(buffer, at + 4)
    protocol = np.int64(buffer[at + 6])
    payload = at + 40
    while payload + 8 <= end:
        if protocol == _FRAGMENT:
            protocol = np.int64(buffer[payload])
            if _u16(buffer, payload + 2) & 0xFFF8:
                payload = -1
                break
            payload += 8
        elif protocol == _AUTHENTICATION or protocol in _EXTENSIONS:
            size = np.int64(buffer[payload + 1])
            size = (size + 2) * 4 if protocol == _AUTHENTICATION else (size + 1) * 8
            protocol = np.int64(buffer[payload])
            payload += size
        else:
            break
    return protocol, payload, length + 40 if length else 0


@compiled(inline=True)
def carried_by(protocol: Any) -> Any:
    """Return the kind of header that an IP protocol carries, -1 if it is no tunnel (IANA's registry of protocols)."""
    kind = -1
    if protocol == 4:
        kind = IPV4
    elif protocol == 41:
        kind = IPV6
    elif protocol == 47:
        kind = GRE
    elif protocol == 97:
        kind = _ETHERIP
    elif protocol == 137:
        kind = MPLS
    elif protocol == 143:
        kind = ETHERNET
    return kind
