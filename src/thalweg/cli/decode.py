"""`thalweg decode`."""

# Packages are imported inside the command: `thalweg --help` should not wait for them.
from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thalweg.cli.show.terminal import ERR


def decode(
    file: Annotated[
        Path, typer.Argument(help="A pcap or pcapng with export packets, or an IPFIX file; .gz and .zst, too.")
    ],
    *,
    count: Annotated[int | None, typer.Option("-n", "--count", min=1, help="Stop after this many lines.")] = None,
    templates: Annotated[bool, typer.Option("--templates", help="Print templates, too.")] = False,
) -> None:
    """Print each record of export packets as a line of JSON, with every field under its element's name."""
    import json

    from thalweg.live.survey import describe_file

    shown = 0
    kinds: dict[str, int] = {}
    for record in describe_file(file):
        kinds[record["kind"]] = kinds.get(record["kind"], 0) + 1
        if record["kind"] in ("template", "withdrawal") and not templates:
            continue
        print(json.dumps(record))  # noqa: T201  # plain lines for other programs, not for a terminal's width
        shown += 1
        if count is not None and shown >= count:
            break
    ERR.print(", ".join(f"{num:,} {kind}" for kind, num in kinds.items()) or "no export packets", soft_wrap=True)
