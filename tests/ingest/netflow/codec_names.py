"""The names of fields in the expected values of the captures, if they are neither an element's name nor `snake` of it.

Two kinds of names are met. In `scenarios.json` IPFIX fields have the registry's names, and those of v5 and v9 have the
names of Cisco's v9 field types. The names in `lines/cases` are yet others; what those do not know is type_PEN_ID.
"""

from __future__ import annotations

import csv
from functools import lru_cache
from importlib.resources import files
from typing import Final

from thalweg.ingest.netflow.elements import CERT, REVERSE, V9_ONLY, snake

Id = tuple[int, int]
"""(Enterprise, element) as in a template; v9 has no enterprises, so 0."""

HEADER_NAMES: Final = frozenset(
    {
        "@timestamp", "@version", "host", "version", "flow_seq_num", "flowset_id", "flow_records", "scope_system",
        "source", "seq_number", "sys_uptime",
    }
)  # fmt: skip
"""Not of an element but of a header or the tool's own; scope_system is scope type 1 of v9."""

CODEC_NAMES: Final[dict[str, Id]] = {
    "in_bytes": (0, 1),
    "in_pkts": (0, 2),
    "flows": (0, 3),
    "protocol": (0, 4),
    "src_tos": (0, 5),
    "tcp_flags": (0, 6),
    "l4_src_port": (0, 7),
    "ipv4_src_addr": (0, 8),
    "src_mask": (0, 9),
    "input_snmp": (0, 10),
    "l4_dst_port": (0, 11),
    "ipv4_dst_addr": (0, 12),
    "dst_mask": (0, 13),
    "output_snmp": (0, 14),
    "ipv4_next_hop": (0, 15),
    "src_as": (0, 16),
    "dst_as": (0, 17),
    "bgp_ipv4_next_hop": (0, 18),
    "last_switched": (0, 21),
    "first_switched": (0, 22),
    "out_bytes": (0, 23),
    "out_pkts": (0, 24),
    "ipv6_src_addr": (0, 27),
    "ipv6_dst_addr": (0, 28),
    "flow_inactive_timeout": (0, 37),
    "total_bytes_exp": (0, 40),
    "total_pkts_exp": (0, 41),
    "total_flows_exp": (0, 42),
    "ipv4_src_prefix": (0, 44),
    "flow_sampler_id": (0, 48),
    "ipv4_ident": (0, 54),
    "in_src_mac": (0, 56),
    "out_dst_mac": (0, 57),
    "src_vlan": (0, 58),
    "dst_vlan": (0, 59),
    "ip_protocol_version": (0, 60),
    "direction": (0, 61),
    "in_dst_mac": (0, 80),
    "out_src_mac": (0, 81),
    "if_desc": (0, 83),
    "in_permanent_bytes": (0, 85),
    "conn_id": (0, 148),
    "flow_start_msec": (0, 152),
    "icmp_type": (0, 176),
    "icmp_code": (0, 177),
    "udp_dst_port": (0, 181),
    "tcp_src_port": (0, 182),
    "ip_dscp": (0, 195),
    "mpls_label_stack_octets": (0, 201),  # the EdgeRouter sends labels in it; the registry has a length there
    "xlate_src_addr_ipv4": (0, 225),
    "xlate_dst_addr_ipv4": (0, 226),
    "xlate_src_port": (0, 227),
    "xlate_dst_port": (0, 228),
    "fwd_flow_delta_bytes": (0, 231),
    "rev_flow_delta_bytes": (0, 232),
    "fw_event": (0, 233),
    "event_time_msec": (0, 323),
    **{f"streamcore_id_rule_{number}": (0, 8383 + number) for number in range(1, 11)},
    "nprobe_proto": (0, 57590),
    "nprobe_proto_name": (0, 57591),
    "netscalerUnknown330": (5951, 330),
}
"""Names in `scenarios.json`."""

LINE_NAMES: Final[dict[str, Id]] = {
    "in_bytes": (0, 1),
    "in_packets": (0, 2),
    "flows": (0, 3),
    "protocol": (0, 4),
    "src_tos": (0, 5),
    "tcp_flags": (0, 6),
    "src_port": (0, 7),
    "src": (0, 8),
    "src_mask": (0, 9),
    "in_snmp": (0, 10),
    "dst_port": (0, 11),
    "dst": (0, 12),
    "dst_mask": (0, 13),
    "out_snmp": (0, 14),
    "next_hop": (0, 15),
    "bgp_src_as": (0, 16),
    "bgp_dst_as": (0, 17),
    "last_switched": (0, 21),
    "first_switched": (0, 22),
    "icmp_type": (0, 32),  # its high byte
    "icmp_code": (0, 32),  # its low byte
    "total_flows_exported": (0, 42),
    "dst_tos": (0, 55),
    "in_src_mac": (0, 56),
    "out_dst_mac": (0, 57),
    "vlan_src": (0, 58),
    "direction": (0, 61),
    "interface": (0, 82),
    "interface_desc": (0, 83),
    "in_total_bytes": (0, 85),
    "in_total_packets": (0, 86),
    "fwd_status": (0, 89),  # its two high bits
    "fwd_reason": (0, 89),  # its six low bits
    "app_desc": (0, 94),
    "app_id": (0, 95),
    "app_name": (0, 96),
    "exporter": (0, 130),
    "dropped_packets_total": (0, 135),
    "exporting_pid": (0, 144),
    "flow_start": (0, 150),
    "flow_end": (0, 151),
    "flow_start_ms": (0, 152),
    "flow_end_ms": (0, 153),
    "system_init_ms": (0, 160),
    "ignored_packet_total": (0, 164),
    "notsent_packet_total": (0, 167),
    "padding": (0, 210),
    "event_time": (0, 322),
    "app_latency_ms": (35632, 125),
}
"""Names in `lines/cases`; type_6871_rev_ID is an ID with the bit 0x4000, and 0x8000 may be left in others."""

OTHER_IDS: Final[dict[str, tuple[Id, ...]]] = {
    "icmp_type": ((0, 32), (0, 178)),
    "icmp_code": ((0, 179),),
    "xlate_src_addr_ipv4": ((0, 40001),),
    "xlate_dst_addr_ipv4": ((0, 40002),),
    "xlate_src_port": ((0, 40003),),
    "xlate_dst_port": ((0, 40004),),
    "fw_event": ((0, 40005),),
    "src": ((0, 27),),
    "dst": ((0, 28),),
    "src_mask": ((0, 29),),
    "dst_mask": ((0, 30),),
    "next_hop": ((0, 62),),
}
"""The same name for a second element."""


def ids_of(name: str, names: dict[str, Id] = CODEC_NAMES) -> tuple[Id, ...]:
    """Return what a field of the expected values may be; nothing for what is of no element."""
    if name in names:
        return names[name], *OTHER_IDS.get(name, ())
    return _by_spelling().get(name, ())


@lru_cache(maxsize=1)
def _by_spelling() -> dict[str, tuple[Id, ...]]:
    found: dict[str, tuple[Id, ...]] = {}
    with files("thalweg.ingest.netflow").joinpath("elements.csv").open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            for key, spelled in _spellings(int(row["pen"]), int(row["id"]), row["name"]):
                for name in {spelled, snake(spelled)}:
                    found[name] = *found.get(name, ()), key
    return found


def _spellings(pen: int, number: int, name: str) -> list[tuple[Id, str]]:
    reverse = f"reverse{name[0].upper()}{name[1:]}"
    if pen == V9_ONLY:
        return [((0, number), name)]
    if pen == 0:
        return [((0, number), name), ((REVERSE, number), reverse)]
    if pen == CERT:
        return [((pen, number), name), ((pen, number | 0x4000), reverse)]
    return [((pen, number), name)]
