"""Records that hold the beginning of a packet instead of its fields: addresses, ports and length are read from that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from thalweg.ingest.netflow.config import Header
from thalweg.ingest.netflow.elements import mapping
from thalweg.ingest.netflow.extract import next_field
from thalweg.ingest.netflow.templates import Template
from thalweg.ingest.packets import ANY_IP, ETHERNET, MPLS_PAYLOAD, carried_by, find_ip, ip_payload
from thalweg.ingest.records import Records
from thalweg.runtime.jit import compiled

_IP_PAYLOAD: Final = 0
_KINDS: Final[Mapping[str, int]] = {
    "ip": ANY_IP, "ethernet": ETHERNET, "mpls_payload": MPLS_PAYLOAD, "ip_payload": _IP_PAYLOAD,
}  # fmt: skip
"""What a section begins with, by the unit of its element in mapping.csv."""
_ADDRESSES, _OCTETS, _PACKETS = 1, 2, 4
_MAX_HEADERS: Final = 8
"""IP headers that are read in one packet."""
_TCP, _ICMP, _ICMPV6 = 6, 1, 58
_WITH_PORTS: Final = (6, 17, 33, 132, 136)
"""Protocols whose header begins with two ports: TCP, UDP, DCCP, SCTP, UDP-Lite."""


_COUNTS: Final = frozenset({"fwd_bytes", "bwd_bytes", "fwd_packets"})
_PORTS: Final = frozenset({"src_port", "dst_port", "icmp", "icmp_type"})


@final
@dataclass(frozen=True, slots=True)
class SectionPlan:
    """How the packets in the records of one template are read.

    field: the one with the section. kind: what it begins with. size, offset, frame_type: the fields with the length of
    the whole frame, the section's offset in it, and its type; -1 if there is none. parts: what is taken from the
    packet, a sum of 1 for addresses, ports, protocol and flags, 2 for its bytes, 4 for counting it; 0 if the section
    has no IP header and says only what the ports are. is_inner: whether the innermost header that can be read makes
    the flow.
    """

    field: int
    kind: int
    size: int
    offset: int
    frame_type: int
    parts: int
    is_inner: bool

    @classmethod
    def of(
        cls, template: Template, chosen: Mapping[str, int], has_addresses: bool, header: Header
    ) -> SectionPlan | None:
        """Return the plan of a template, None if its records hold no packets or need none.

        chosen: the field of each column. has_addresses: whether the addresses are among them.
        """
        if "section" not in chosen:
            return None
        field = template.fields[chosen["section"]]
        (kind,) = (_KINDS[use.unit] for use in mapping()[field.pen, field.id] if use.column == "section")
        parts = 0
        if kind == _IP_PAYLOAD:
            if not has_addresses or "protocol" not in chosen or not _PORTS.isdisjoint(chosen):
                return None
        elif not has_addresses or _COUNTS.isdisjoint(chosen):
            parts |= 0 if has_addresses else _ADDRESSES
            parts |= 0 if "fwd_bytes" in chosen else _OCTETS
            parts |= 0 if "fwd_packets" in chosen else _PACKETS
        else:
            return None
        size, offset, frame_type = (chosen.get(name, -1) for name in ("frame_size", "section_offset", "frame_type"))
        return cls(chosen["section"], kind, size, offset, frame_type, parts, header == "inner")

    def read(
        self,
        buffer: npt.NDArray[np.uint8],
        sets: npt.NDArray[np.void],
        first_row: npt.NDArray[np.int64],
        num_rows: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.uint16],
        records: Records,
    ) -> npt.NDArray[np.bool_]:
        """Fill what the packets say into the rows of sets. lengths: (F,) of the template's fields.

        Returns: bool for each of these rows, whether there is an IP packet.
        """
        keep = np.zeros(int(num_rows.sum()), bool)
        plan = np.array(
            [self.field, self.kind, self.size, self.offset, self.frame_type, self.parts, self.is_inner], np.int64
        )
        _read_sections(buffer, sets, first_row, num_rows, lengths, plan, records, keep)
        return keep


@compiled()
def _read_sections(
    buffer: Any, sets: Any, first_row: Any, num_rows: Any, lengths: Any, plan: Any, records: Any, keep: Any
) -> None:
    """Read the packet in each record. plan: (7,) the fields of a SectionPlan, in order."""
    field, kind, size, offset, frame_type, parts, is_inner = plan
    places = np.zeros(len(lengths), np.int64)
    sizes = np.zeros(len(lengths), np.int64)
    nth = 0
    for s in range(len(sets)):
        at = np.int64(sets[s].begin)
        end = np.int64(sets[s].end)
        for row in range(first_row[s], first_row[s] + num_rows[s]):
            for f in range(len(lengths)):
                places[f], sizes[f] = next_field(buffer, at, end, lengths[f])
                at = places[f] + sizes[f]
            # A frame that is not Ethernet, or whose beginning was left out, cannot be read.
            is_whole = offset < 0 or _number(buffer, places[offset], sizes[offset]) == 0
            is_known = frame_type < 0 or _number(buffer, places[frame_type], sizes[frame_type]) <= 1
            if kind == _IP_PAYLOAD:
                keep[nth] = True
                if is_whole:
                    record = records[row]
                    _read_transport(buffer, places[field], places[field] + sizes[field], record.protocol, record)
            elif is_whole and is_known:
                frame = np.int64(0) if size < 0 else _number(buffer, places[size], sizes[size])
                begin = places[field]
                keep[nth] = _read_packet(
                    buffer, begin, begin + sizes[field], kind, max(frame, sizes[field]), parts, is_inner, records[row]
                )
            nth += 1


@compiled(inline=True)
def _number(buffer: Any, at: Any, length: Any) -> Any:
    """Read a number of up to 4 bytes; of a longer one the last 4."""
    value = np.int64(0)
    for i in range(max(length - 4, 0), length):
        value = (value << 8) | np.int64(buffer[at + i])
    return value


@compiled(inline=True)
def _half(buffer: Any, at: Any) -> Any:
    """Read 8 bytes as half of an IPv6 address."""
    value = np.uint64(0)
    for i in range(8):
        value = (value << np.uint64(8)) | np.uint64(buffer[at + i])
    return value


@compiled()
def _read_transport(buffer: Any, at: Any, end: Any, protocol: Any, record: Any) -> None:
    """Set the ports and flags of a record from the header of TCP, UDP, ICMP or the like, as far as it is there."""
    record.src_port = record.dst_port = record.tcp_flags = 0
    if protocol in _WITH_PORTS and at + 4 <= end:
        record.src_port = np.uint16(_number(buffer, at, 2))
        record.dst_port = np.uint16(_number(buffer, at + 2, 2))
        if protocol == _TCP and at + 14 <= end:
            record.tcp_flags = np.uint16(_number(buffer, at + 12, 2) & 0xFFF)
    elif protocol in (_ICMP, _ICMPV6) and at + 2 <= end:
        record.dst_port = np.uint16(_number(buffer, at, 2))


@compiled()
def _read_packet(
    buffer: Any, begin: Any, end: Any, kind: Any, frame: Any, parts: Any, is_inner: Any, record: Any
) -> bool:  # fmt: skip
    """Read one packet into its record, and return whether there is any.

    frame: bytes of the whole frame. The length of a packet is what its own header says; a header of 0, as network cards
    that segment packets leave it, counts what is left of the frame.
    """
    found = False
    at = begin
    for _ in range(_MAX_HEADERS):
        at = find_ip(buffer, at, end, kind)
        if at < 0:
            break
        protocol, payload, length = ip_payload(buffer, at, end)
        if length < 0:
            break
        found = True
        if length == 0:
            length = frame - (at - begin)
        if parts & _OCTETS:
            record.fwd_bytes = np.uint64(length)
        if parts & _PACKETS:
            record.fwd_packets = np.uint64(1)
        end = min(end, at + length)
        if parts & _ADDRESSES:
            if buffer[at] >> 4 == 4:
                record.src_hi = np.uint64(0)
                record.src_lo = np.uint64(_number(buffer, at + 12, 4)) | np.uint64(0xFFFF_0000_0000)
                record.dst_hi = np.uint64(0)
                record.dst_lo = np.uint64(_number(buffer, at + 16, 4)) | np.uint64(0xFFFF_0000_0000)
            else:
                record.src_hi = _half(buffer, at + 8)
                record.src_lo = _half(buffer, at + 16)
                record.dst_hi = _half(buffer, at + 24)
                record.dst_lo = _half(buffer, at + 32)
            record.protocol = np.uint8(protocol)
            _read_transport(buffer, payload if payload >= 0 else end, end, protocol, record)
        kind = carried_by(protocol)
        if not is_inner or payload < 0 or kind < 0:
            break
        at = payload
    return found
