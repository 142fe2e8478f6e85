"""What the captures' expected values say, in this decoder's spelling."""

from __future__ import annotations

import ipaddress
import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from tests.ingest.netflow.codec_names import CODEC_NAMES, LINE_NAMES, Id, ids_of
from thalweg.ingest.netflow.elements import element

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FLAGS: Final = "CEUAPRSF"
_WORDS: Final[dict[str, dict[str, int]]] = {
    "protocol": {"icmp": 1, "tcp": 6, "udp": 17},
    "ip_version": {"IPv4": 4, "IPv6": 6},
    "direction": {"ingress": 0, "egress": 1},
    "flow_end_reason": {
        "idle timeout": 1, "active timeout": 2, "end of flow": 3, "forced end": 4, "lack of resources": 5,
    },
    "fwd_status": {"unknown": 0, "forwarded": 1, "dropped": 2, "consumed": 3},
    "fwd_reason": {"unknown": 0},
}  # fmt: skip


def moment(text: str) -> datetime:
    """Read a time, to the millisecond: the others' times are cut to it."""
    read = datetime.fromisoformat(text)
    return read.replace(microsecond=read.microsecond // 1000 * 1000)


def after(text: str, ms: int) -> str:
    """Return a time so many milliseconds after another, cut to the millisecond."""
    return (moment(text) + timedelta(milliseconds=ms)).isoformat(timespec="microseconds").replace("+00:00", "Z")


def names_of(field: str, event: dict[str, Any], *, lines: bool = False) -> list[str]:
    """Return what this decoder may call a field of the expected values."""
    version = 10 if event["version"] == 10 else 9
    ids: list[Id] = list(ids_of(field, LINE_NAMES if lines else CODEC_NAMES))
    if numbered := re.fullmatch(r"type_(\d+)_(rev_)?(\d+)", field):
        pen, reverse, number = int(numbered[1]), numbered[2], int(numbered[3]) & 0x7FFF
        ids = [(pen, number | 0x4000 if reverse else number)]
    return [element(pen, number, version).name for pen, number in ids]


def header_value(field: str, event: dict[str, Any]) -> Any:
    """Return what a header says; KeyError for what is of a record."""
    of_v5 = {
        "engine_type": event["domain"] >> 8,
        "engine_id": event["domain"] & 255,
        "sampling_algorithm": event.get("samplingMode"),
        "sampling_interval": event.get("samplingInterval"),
    }
    of_all = {
        "@timestamp": event["exported"],
        "version": event["version"],
        "flow_seq_num": event["sequence"],
        "seq_number": event["sequence"],
        "flowset_id": event.get("template"),
        "sys_uptime": event.get("sysUpTime"),
    }
    return (of_all | of_v5 if event["version"] == 5 else of_all)[field]


def spelled(field: str, value: Any, like: Any, event: dict[str, Any]) -> Any:
    """Write an expected value as this decoder does. like: what it gave, for the kind and the length only."""
    if isinstance(value, dict):
        return _number_of(field, value)
    if isinstance(value, int):
        return _spelled_number(field, value, like)
    if not isinstance(value, str):
        return value
    if field in _WORDS:
        return _WORDS[field][value]
    if field.endswith("_switched"):  # a time, but the record has milliseconds since the exporter started
        ago = moment(event["exported"]) - moment(value)
        return (event["sysUpTime"] - round(ago.total_seconds() * 1000)) % (1 << 32)
    if field == "tcp_flags" and set(value) <= {".", *_FLAGS}:
        return sum(1 << (7 - i) for i, letter in enumerate(value) if letter != ".")
    if re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", value):
        return after(value, 0)
    if field.endswith("_acl_id"):
        return "0x" + value.replace("-", "")
    if field == "application_id":
        return _application(value, len(like) // 2 - 1)
    if field.endswith("ConnectionChainID"):
        return "0x" + value
    if value.startswith("0x") and isinstance(like, int):
        return int(value, 16)
    if value == "" and like == "0x":
        return "0x"
    if ":" in value and isinstance(like, str) and like.count(":") > 1 and len(value) != 17:
        return str(ipaddress.ip_address(value))
    # Their strings are octets in ISO 8859-1; here they are UTF-8 if they can be.
    return value.encode("latin-1").decode("utf-8", "replace").rstrip("\0") if not value.isascii() else value


def _number_of(field: str, parts: dict[str, int]) -> int:
    if field == "forwarding_status":
        return parts["status"] << 6 | parts["reason"]
    label = parts["label"] << 12 | parts["experimental"] << 9 | parts["bottom_of_stack"] << 8
    return label | parts["ttl"]


def _spelled_number(field: str, value: int, like: Any) -> Any:
    if isinstance(like, str) and like.startswith("0x"):
        return f"0x{value:0{len(like) - 2}x}"
    if isinstance(like, str) and re.fullmatch(r"\d{4}-\d\d-\d\dT.*Z", like):
        is_seconds = field.endswith(("Seconds", "flow_start", "flow_end", "event_time"))
        return after((_EPOCH + timedelta(milliseconds=value * (1000 if is_seconds else 1))).isoformat(), 0)
    return value


def _application(value: str, num_octets: int) -> str:
    """Write class..selector or class..enterprise..selector as octets (RFC 6759 section 4)."""
    first, *others = (int(part) for part in value.split(".."))
    octets = bytes([first])
    if len(others) == 2:
        octets += others.pop(0).to_bytes(4, "big")
    return "0x" + (octets + others[0].to_bytes(num_octets - len(octets), "big")).hex()
