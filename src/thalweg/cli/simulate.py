"""`thalweg simulate`."""

# Packages are imported inside the command: `thalweg --help` should not wait for them.
from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thalweg.cli.show.terminal import ERR

if TYPE_CHECKING:
    import polars as pl


class SiteName(StrEnum):
    """Which network to simulate."""

    office = "office"
    campus = "campus"


class DialectName(StrEnum):
    """Whose columns to write."""

    thalweg = "thalweg"
    nf_v1 = "nf-v1"
    nf_v2 = "nf-v2"
    nf_v3 = "nf-v3"
    binetflow = "binetflow"
    zeek = "zeek"


def simulate(
    output: Annotated[
        Path, typer.Argument(help="The file to write: .parquet, .csv or .jsonl; - is CSV on standard output.")
    ],
    *,
    site: Annotated[
        SiteName,
        typer.Option(help="office: about 60 hosts. campus: thousands, and tens of thousands outside."),
    ] = SiteName.office,
    flows: Annotated[int, typer.Option(min=1, help="How many flows.")] = 100_000,
    days: Annotated[
        float, typer.Option(min=0.001, help="How many days the flows span; attacks come in the second half.")
    ] = 2.0,
    attacks: Annotated[str, typer.Option(help="Attacks: all, none, or names separated by commas.")] = "all",
    attack_share: Annotated[float, typer.Option(help="The share of all flows that belong to noisy attacks.")] = 0.1,
    like: Annotated[
        DialectName, typer.Option("--as", help="The dialect to write: the names and units of the columns.")
    ] = DialectName.thalweg,
    seed: Annotated[int, typer.Option(min=0, help="The seed of all randomness.")] = 0,
) -> None:
    """Simulate labelled traffic of an invented network: roles, daily rhythm, IPv6, eight kinds of attack."""
    from datetime import timedelta

    from thalweg.cli.show.progress import counting, progress
    from thalweg.sinks.table_file import write_table
    from thalweg.synthetic import SimulationConfig, as_dialect, simulate_stream

    names: Any = attacks if attacks in ("all", "none") else tuple(name.strip() for name in attacks.split(","))
    config = SimulationConfig(
        site=site.value,
        flows=flows,
        duration=timedelta(days=days),
        attacks=names,
        attack_share=attack_share,
        seed=seed,
    )
    num = 0
    with progress(ERR) as line:
        count = counting(line, "simulating")

        def each(frame: pl.DataFrame) -> None:
            nonlocal num
            num += frame.height
            count(num)

        runs = simulate_stream(config, chunk_flows=500_000)
        write_table(output, (as_dialect(run, like.value) for run in runs), each)
    ERR.print(f"wrote {num:,} flows to {output}", soft_wrap=True)
