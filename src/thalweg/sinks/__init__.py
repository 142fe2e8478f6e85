"""Where scored flows go: the sinks of a stream, by the addresses that name them; `table_file` for a batch."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from thalweg.errors import ConfigError
from thalweg.sinks.json_lines import JsonLines
from thalweg.sinks.parquet import HourlyParquet
from thalweg.sinks.sink import Sink
from thalweg.sinks.stdout import StandardOutput

SINKS: Final[Mapping[str, Callable[[str], Sink]]] = {
    "parquet": lambda address: HourlyParquet(_path(address)),
    "jsonl": lambda address: JsonLines(_path(address)),
    "-": lambda _: StandardOutput(),
}
"""Every sink by the word before `:` in its address; for a bare path, its ending chooses."""


def open_sink(address: str) -> Sink:
    """Make the sink of an address; nothing is opened yet. Raises ConfigError if the address is not understood."""
    return SINKS[_scheme(address)](address)


def open_sinks(addresses: Sequence[str]) -> dict[str, Sink]:
    """Make the sinks of addresses, by address; nothing is opened yet.

    Raises ConfigError if an address is not understood, or two name the same place.
    """
    sinks: dict[str, Sink] = {}
    places: dict[tuple[str, str], str] = {}
    for address in addresses:
        scheme = _scheme(address)
        place = (scheme, "" if scheme == "-" else os.path.realpath(_path(address)))
        if (other := places.get(place)) is not None:
            also = "was given twice" if other == address else f"and --to {other} name the same place"
            raise ConfigError(f"--to {address} {also}: every flow would be written there twice; leave one out")
        places[place] = address
        sinks[address] = SINKS[scheme](address)
    return sinks


def _path(address: str) -> Path:
    """Return the path in `scheme:path`, `scheme:///path` or a bare path. Raises ConfigError if there is none."""
    scheme, colon, rest = address.partition(":")
    path = rest.removeprefix("//") if colon and scheme in SINKS else address
    if not path:
        raise ConfigError(f"--to {address}: a path is missing, as in --to {scheme}:scores")
    return Path(path)


def _scheme(address: str) -> str:
    scheme, colon, _ = address.partition(":")
    if address == "-" or (colon and scheme != "-" and scheme in SINKS):
        return scheme
    path = Path(address)
    is_other = re.match(r"(-|[a-z][a-z0-9+-]+):", address) is not None and not path.exists()
    if address and not is_other:
        if address.endswith("/") or path.is_dir():
            return "parquet"
        if path.suffix in (".jsonl", ".ndjson", ".json"):
            return "jsonl"
        if not path.suffix:
            return "parquet"
    raise ConfigError(
        f"--to {address}: write a folder, such as scores/, for Parquet by hour; a name in .jsonl for JSON lines;  "
        "or - for standard output"
    )
