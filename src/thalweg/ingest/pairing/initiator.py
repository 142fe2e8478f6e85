"""Who opened a flow: what flags, ports, ICMP types and times tell of it.

+1 means the record's source, −1 its destination, 0 that nothing tells.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from thalweg.ingest.pairing.table import has_ports, mix, span_of, unowned

UNKNOWN, TIME, PORTS, FLAGS, EXPORTER = range(5)  # as in records.INITIATOR

_SYN, _SYN_ACK, _RST_ACK, _CONTROL = 0x02, 0x12, 0x14, 0x17


@unowned
def asks(protocol: Any, dst_port: Any) -> Any:
    """Tell an ICMP request (+1) from a reply (−1): RFC 792, RFC 950, RFC 4443, RFC 4861."""
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


@unowned
def subject_of(record: Any) -> Any:
    """Return what an ICMP record is about, the same number for a request and its reply; 0 for other protocols."""
    protocol, dst_port = np.int64(record["protocol"]), np.int64(record["dst_port"])
    if protocol != 1 and protocol != 58:
        return np.int64(0)
    if asks(protocol, dst_port) >= 0:
        return dst_port + 1
    step = 1 if protocol == 58 or dst_port >> 8 != 0 else -8
    return dst_port + 1 - (step << 8)


@unowned
def remembered_as(record: Any, key: Any, way: Any, hash_: Any) -> Any:
    """Return the conversation and its hash as memory has them: each side's ICMP requests, each kind, are one."""
    subject = subject_of(record)
    if subject == 0:
        return key, hash_
    if asks(record["protocol"], record["dst_port"]) * (1 - 2 * way) < 0:
        subject |= 1 << 20  # the side of the higher address asked
    return (key[0], key[1], key[2], key[3], key[4] | subject), np.int64(mix(np.uint64(hash_), subject))


@unowned
def by_ports(src_port: Any, dst_port: Any, bound: Any) -> Any:
    """Tell by ports, of which exactly one below `bound` is the server's; 0 is no port."""
    if src_port == 0 or dst_port == 0 or (src_port < bound) == (dst_port < bound):
        return 0
    return 1 if dst_port < bound else -1


@unowned
def opener_alone(record: Any) -> Any:
    """Tell who opened a flow of which one direction is known, and how that is known."""
    protocol, flags = record["protocol"], np.int64(record["tcp_flags"])
    if record["initiator"] != UNKNOWN:
        return 1, np.int64(record["initiator"])
    if not has_ports(protocol):
        told = asks(protocol, record["dst_port"])
        return told, np.int64(PORTS if told != 0 else UNKNOWN)
    if protocol == 6 and flags & _SYN_ACK == _SYN:
        return 1, np.int64(FLAGS)
    told = by_ports(record["src_port"], record["dst_port"], 1024)
    if told == 0:
        told = by_ports(record["src_port"], record["dst_port"], 32768)
    if told != 0:
        return told, np.int64(PORTS)
    # One packet that accepts or refuses a connection answers a SYN (RFC 9293, 3.10.7). Of more packets, or beside
    # ports that tell, it may be a client's, which probes with SYN and ACK or gives up an old connection.
    one_packet = record["fwd_packets"] == 1 and record["sampling"] <= 1
    if protocol == 6 and one_packet and (flags & _CONTROL == _SYN_ACK or flags & _CONTROL == _RST_ACK):
        return -1, np.int64(FLAGS)
    return 0, np.int64(UNKNOWN)


@unowned
def opener_of_two(first: Any, second: Any) -> Any:
    """Tell who opened a flow of which both directions are known, +1 for the source of `first`, and how."""
    protocol = first["protocol"]
    if (first["initiator"] == EXPORTER) != (second["initiator"] == EXPORTER):
        return 1 if first["initiator"] == EXPORTER else -1, np.int64(EXPORTER)
    one, other = np.int64(first["tcp_flags"]), np.int64(second["tcp_flags"])
    # Flags are those of all packets: a client whose connection came about has sent SYN and ACK, as its server has.
    if protocol == 6 and (one & _SYN_ACK == _SYN) != (other & _SYN_ACK == _SYN):
        return 1 if one & _SYN_ACK == _SYN else -1, np.int64(FLAGS)
    sooner = np.int64(np.sign(span_of(second)[0] - span_of(first)[0]))
    if has_ports(protocol):
        told = by_ports(first["src_port"], first["dst_port"], 1024)
        if told != 0:
            return told, np.int64(PORTS)
        # Both handshakes by one clock: the SYN was sent before its answer. A sampled start is not that of the SYN.
        unsampled = first["sampling"] <= 1 and second["sampling"] <= 1
        one_clock = first["exporter"] == second["exporter"] and unsampled
        if protocol == 6 and one & other & _SYN != 0 and sooner != 0 and one_clock:
            return sooner, np.int64(FLAGS)
        told = by_ports(first["src_port"], first["dst_port"], 32768)
        if told != 0:
            return told, np.int64(PORTS)
    else:
        told = asks(protocol, first["dst_port"]) - asks(protocol, second["dst_port"])
        if told != 0:
            return 1 if told > 0 else -1, np.int64(PORTS)
    return sooner, np.int64(TIME if sooner != 0 else UNKNOWN)
