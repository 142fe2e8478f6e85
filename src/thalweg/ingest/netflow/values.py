"""Describes datagrams in full, for `thalweg decode`: every field by its element's name, as a JSON value."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final, final

from thalweg.ingest.netflow.datagrams import TROUBLES, Datagrams, walk
from thalweg.ingest.netflow.elements import element
from thalweg.ingest.netflow.options import records_in
from thalweg.ingest.netflow.templates import IPFIX, SCOPE, V5, V9, BadTemplateError, Template, read_templates
from thalweg.ingest.records import address_text

_Key = tuple[int, int, int, int, int]
_SCOPES: Final = {1: "scopeSystem", 2: "scopeInterface", 3: "scopeLineCard", 4: "scopeCache", 5: "scopeTemplate"}
"""The scope field types of v9 options (RFC 3954 section 6.1)."""
_MAX_FIELDS: Final = 200_000
"""Fields of all templates that are kept."""
_NTP_EPOCH: Final = datetime(1900, 1, 1, tzinfo=UTC)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@final
class Describer:
    """Describes datagrams one by one, and keeps the latest templates to decode later ones."""

    def __init__(self) -> None:
        self._templates: dict[_Key, Template] = {}
        """by address, domain, version and id"""
        self._num_fields = 0

    def describe(self, payload: bytes, *, time_us: int = 0, hi: int = 0, lo: int = 0) -> Iterator[dict[str, Any]]:
        """Yield the records, templates and errors in one datagram, in order, as JSON values.

        Each has a `kind`: flow, options, template, withdrawal, unknown (a set without its template) or trouble.
        """
        headers, sets = walk(Datagrams.of([(payload, time_us, hi, lo)]))
        header = headers[0]
        domain = int(header["domain"])
        about: dict[str, Any] = {
            "exporter": address_text(hi, lo) if hi or lo else None,
            "version": int(header["version"]),
            "domain": domain,
            "sequence": int(header["sequence"]),
            "exported": _moment(int(header["export_us"])),
        }
        if about["version"] in (5, V9):
            about["sysUpTime"] = int(header["uptime_ms"])
        if time_us:
            about["received"] = _moment(time_us)
        for one in sets:
            id_, version = int(one["id"]), int(one["version"])
            content = payload[int(one["begin"]) : int(one["end"])]
            if version == 5:
                sampling = int(header["sampling"])
                extra = {"samplingInterval": sampling & 0x3FFF, "samplingMode": sampling >> 14}
                yield from ({**about, **extra, "kind": "flow", "fields": fields} for fields in _records(content, V5))
            elif (version == V9 and id_ <= 1) or (version == IPFIX and id_ in (2, 3)):
                yield from self._learn(about, (hi, lo, domain, version), content, id_ in (1, 3))
            elif id_ > 255:
                template = self._templates.get((hi, lo, domain, version, id_))
                if template is None:
                    yield {**about, "kind": "unknown", "template": id_, "bytes": len(content)}
                    continue
                kind = "options" if template.is_options else "flow"
                yield from (
                    {**about, "kind": kind, "template": id_, "fields": fields} for fields in _records(content, template)
                )
        if header["trouble"]:
            yield {**about, "kind": "trouble", "what": TROUBLES[int(header["trouble"])]}

    def _learn(
        self, about: dict[str, Any], exporter: tuple[int, int, int, int], content: bytes, options: bool
    ) -> Iterator[dict[str, Any]]:
        try:
            for id_, template in read_templates(content, exporter[3], options):
                if template is None:
                    if exporter[:2] == (0, 0):  # a file; over UDP nobody sends withdrawals (RFC 7011 section 8.4)
                        self._withdraw(exporter, id_)
                    yield {**about, "kind": "withdrawal", "template": id_}
                    continue
                self._forget((*exporter, id_))
                self._templates[(*exporter, id_)] = template
                self._num_fields += len(template.fields)
                while self._num_fields > _MAX_FIELDS:
                    self._forget(next(iter(self._templates)))
                names = [
                    {"name": name, "bytes": field.length}
                    for name, field in zip(_names(template), template.fields, strict=True)
                ]
                yield {**about, "kind": "template", "template": id_, "scope": template.num_scope, "fields": names}
        except BadTemplateError as error:
            yield {**about, "kind": "trouble", "what": str(error)}

    def _withdraw(self, exporter: tuple[int, int, int, int], id_: int) -> None:
        """Remove a template, or with the id of a template set all of that kind (RFC 7011 section 8.1)."""
        keys = [(*exporter, id_)]
        if id_ < 256:
            known = self._templates.items()
            keys = [key for key, template in known if key[:4] == exporter and template.is_options == (id_ == 3)]
        for key in keys:
            self._forget(key)

    def _forget(self, key: _Key) -> None:
        template = self._templates.pop(key, None)
        self._num_fields -= len(template.fields) if template is not None else 0


def _names(template: Template) -> list[str]:
    """Return the names of the fields; a name that occurs again gets a number."""
    names: list[str] = []
    seen: dict[str, int] = {}
    for field in template.fields:
        if field.pen == SCOPE:
            name = _SCOPES.get(field.id, f"scope{field.id}")
        else:
            name = element(field.pen, field.id, 9 if template.version == 5 else template.version).name
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return names


def _records(content: bytes, template: Template) -> Iterator[dict[str, Any]]:
    names = _names(template)
    kinds = [
        "unsigned32" if field.pen == SCOPE else element(field.pen, field.id, template.version).type
        for field in template.fields
    ]
    for fields in records_in(content, template):
        yield {name: value_of(kind, data) for name, kind, data in zip(names, kinds, fields, strict=True)}


def value_of(kind: str, data: bytes) -> Any:
    """Decode a field by its abstract data type; if its length does not fit the type, return hexadecimal text.

    Source: RFC 7011 section 6.1 (encodings), section 6.2 (reduced size).
    """
    if not data:
        return None if kind not in ("string", "octetArray") else ""
    if kind.startswith("unsigned") and len(data) <= 8:
        return int.from_bytes(data, "big")
    if kind.startswith("signed") and len(data) <= 8:
        return int.from_bytes(data, "big", signed=True)
    match kind, len(data):
        case "ipv4Address", 4:
            return str(ipaddress.IPv4Address(data))
        case "ipv6Address", 16:
            return str(ipaddress.IPv6Address(data))
        case "macAddress", 6:
            return data.hex(":")
        case "boolean", 1:
            return {1: True, 2: False}.get(data[0], data[0])
        case "float32" | "float64", 4 | 8:
            number = struct.unpack(">f" if len(data) == 4 else ">d", data)[0]
            return number if abs(number) < float("inf") else str(number)  # JSON has no infinity and no NaN
        case "string", _:
            return data.rstrip(b"\0").decode("utf-8", "replace")
        case "dateTimeSeconds", 4:
            return _moment(int.from_bytes(data, "big") * 1_000_000)
        case "dateTimeMilliseconds", 8:
            return _moment(int.from_bytes(data, "big") * 1_000)
        case "dateTimeMicroseconds" | "dateTimeNanoseconds", 8:
            seconds, fraction = struct.unpack(">II", data)
            return _text(_NTP_EPOCH + timedelta(seconds=seconds, microseconds=fraction * 1_000_000 >> 32))
    return "0x" + data.hex()


def _moment(time_us: int) -> str | int:
    try:
        return _text(_EPOCH + timedelta(microseconds=time_us))
    except OverflowError:
        return time_us


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
