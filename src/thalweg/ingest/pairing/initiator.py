"""Identifies the initiator of a flow by flags, ports, ICMP types and times.

A result of +1 means the record's source, −1 its destination, 0 unknown.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from thalweg.ingest.pairing.table import compiled_without_refcounts, has_ports, mix, span_of

UNKNOWN, TIME, PORTS, FLAGS, EXPORTER = range(5)  # as in records.INITIATOR

_SYN, _SYN_ACK, _RST_ACK, _CONTROL = 0x02, 0x12, 0x14, 0x17


@compiled_without_refcounts
def icmp_role(protocol: Any, dst_port: Any) -> Any:
    """Return +1 for an ICMP request, −1 for a reply, 0 for any other message (RFC 792, 950, 4443, 4861)."""
    kind = np.int64(dst_port) >> 8
    if protocol == 1:
        if kind == 8 or kind == 13 or kind == 15 or kind == 17:
            return 1
        return -1 if kind == 0 or kind == 14 or kind == 16 or kind == 18 else 0
    if protocol == 58:
        if kind == 128 or kind == 133 or kind == 135:
            return 1
        return -1 if kind == 129 or kind == 134 or kind == 136 else 0
    return 0


@compiled_without_refcounts
def icmp_subject(record: Any) -> Any:
    """Return a number that an ICMP request and its reply share; 0 for other protocols."""
    protocol, dst_port = np.int64(record["protocol"]), np.int64(record["dst_port"])
    if protocol != 1 and protocol != 58:
        return np.int64(0)
    if icmp_role(protocol, dst_port) >= 0:
        return dst_port + 1
    step = 1 if protocol == 58 or dst_port >> 8 != 0 else -8
    return dst_port + 1 - (step << 8)


@compiled_without_refcounts
def memory_key(record: Any, key: Any, direction: Any, hash_: Any) -> Any:
    """Return the key and hash for `table`, which tells ICMP conversations apart by type and requesting side."""
    subject = icmp_subject(record)
    if subject == 0:
        return key, hash_
    if icmp_role(record["protocol"], record["dst_port"]) * (1 - 2 * direction) < 0:
        subject |= 1 << 20  # the side of the higher address sent the request
    return (key[0], key[1], key[2], key[3], key[4] | subject), np.int64(mix(np.uint64(hash_), subject))


@compiled_without_refcounts
def initiator_by_ports(src_port: Any, dst_port: Any, bound: Any) -> Any:
    """Identify the initiator by ports: if exactly one is below `bound`, it is the server's. Port 0 is no port."""
    if src_port == 0 or dst_port == 0 or (src_port < bound) == (dst_port < bound):
        return 0
    return 1 if dst_port < bound else -1


@compiled_without_refcounts
def initiator_of_one(record: Any) -> Any:
    """Return the initiator of a flow of which one direction is known, and the evidence."""
    protocol, flags = record["protocol"], np.int64(record["tcp_flags"])
    if record["initiator"] != UNKNOWN:
        return 1, np.int64(record["initiator"])
    if not has_ports(protocol):
        side = icmp_role(protocol, record["dst_port"])
        return side, np.int64(PORTS if side != 0 else UNKNOWN)
    if protocol == 6 and flags & _SYN_ACK == _SYN:
        return 1, np.int64(FLAGS)
    side = initiator_by_ports(record["src_port"], record["dst_port"], 1024)
    if side == 0:
        side = initiator_by_ports(record["src_port"], record["dst_port"], 32768)
    if side != 0:
        return side, np.int64(PORTS)
    # A single packet that accepts or refuses a connection responds to a SYN (RFC 9293, 3.10.7). With more packets, or
    # if the ports identify the server, it may be a client that probes with SYN and ACK or gives up an old connection.
    one_packet = record["fwd_packets"] == 1 and record["sampling"] <= 1
    if protocol == 6 and one_packet and (flags & _CONTROL == _SYN_ACK or flags & _CONTROL == _RST_ACK):
        return -1, np.int64(FLAGS)
    return 0, np.int64(UNKNOWN)


@compiled_without_refcounts
def initiator_of_pair(first: Any, second: Any) -> Any:
    """Return the initiator of a flow of two known directions, +1 for the source of `first`, and the evidence."""
    protocol = first["protocol"]
    if (first["initiator"] == EXPORTER) != (second["initiator"] == EXPORTER):
        return 1 if first["initiator"] == EXPORTER else -1, np.int64(EXPORTER)
    one, other = np.int64(first["tcp_flags"]), np.int64(second["tcp_flags"])
    # Flags are or-ed over all packets: the client of an established connection has sent SYN and ACK, as its server has.
    if protocol == 6 and (one & _SYN_ACK == _SYN) != (other & _SYN_ACK == _SYN):
        return 1 if one & _SYN_ACK == _SYN else -1, np.int64(FLAGS)
    earlier = np.int64(np.sign(span_of(second)[0] - span_of(first)[0]))
    if has_ports(protocol):
        side = initiator_by_ports(first["src_port"], first["dst_port"], 1024)
        if side != 0:
            return side, np.int64(PORTS)
        # One clock saw both handshakes: the SYN came before its response. Sampled records need not start with it.
        unsampled = first["sampling"] <= 1 and second["sampling"] <= 1
        one_clock = first["exporter"] == second["exporter"] and unsampled
        if protocol == 6 and one & other & _SYN != 0 and earlier != 0 and one_clock:
            return earlier, np.int64(FLAGS)
        side = initiator_by_ports(first["src_port"], first["dst_port"], 32768)
        if side != 0:
            return side, np.int64(PORTS)
    else:
        side = icmp_role(protocol, first["dst_port"]) - icmp_role(protocol, second["dst_port"])
        if side != 0:
            return 1 if side > 0 else -1, np.int64(PORTS)
    return earlier, np.int64(TIME if earlier != 0 else UNKNOWN)
