"""The limits of a decoder's memory. Apart from the decoder, whose compiled loops the receiver need not import."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, final, get_args

from thalweg.errors import ConfigError

Header: TypeAlias = Literal["inner", "outer"]


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderConfig:
    """The limits of a decoder's memory; whatever exceeds one is counted.

    Raises ConfigError if one of the first four is below 1, an interval is not from 1 to
    4,294,967,295, a sampling exporter is no address, or the tunnel header is neither.
    """

    max_exporters: int = 4_096
    """Combinations of address, observation domain and version."""
    max_templates: int = 1_024
    """Templates of one exporter."""
    max_fields: int = 1_000_000
    """Fields of all templates."""
    max_samplers: int = 262_144
    """Samplers of all exporters."""
    hold_s: float = 60.0
    """How long data is held that arrived before its template."""
    max_held_bytes: int = 4 << 20
    """How much data is held that arrived before its template."""
    template_lifetime_s: float = 86_400.0
    """A template that is not repeated within this time is dropped (RFC 7011 section 8.4)."""
    sampling: Mapping[str, int] = field(default_factory=dict)
    """One packet in so many, by exporter address, or "*" for all; overrides what exporters state."""
    tunnel_header: Header = "inner"
    """The header of a tunnel's packets that makes a flow, if a record has both: "inner" or "outer"."""

    def __post_init__(self) -> None:
        """Check the limits."""
        if min(self.max_exporters, self.max_templates, self.max_fields, self.max_samplers) < 1:
            raise ConfigError("max_exporters, max_templates, max_fields and max_samplers are at least 1")
        if bad := [name for name, interval in self.sampling.items() if not 1 <= interval < 1 << 32]:
            raise ConfigError(f"--sampling {bad[0]}={self.sampling[bad[0]]}: an interval is 1 to 4,294,967,295 packets")
        if self.tunnel_header not in get_args(Header):
            raise ConfigError(f'tunnel_header is "inner" or "outer", not "{self.tunnel_header}"')
        named = {_as_reported(name): interval for name, interval in self.sampling.items()}
        object.__setattr__(self, "sampling", named)


def _as_reported(exporter: str) -> str:
    """Write an exporter's address as it is reported: mapped IPv4 as IPv4, IPv6 in its short form.

    `file` is the exporter of a file of messages that names none. Raises ConfigError if it is no address.
    """
    if exporter in ("*", "file"):
        return exporter
    try:
        address = ipaddress.ip_address(exporter)
    except ValueError:
        raise ConfigError(
            f"sampling of {exporter!r}: this is no address; write --sampling 10.0.0.1=1000, or *=1000 for all exporters"
        ) from None
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(address.ipv4_mapped or ipaddress.IPv6Address(int(address)))  # without a zone, as %eth0
