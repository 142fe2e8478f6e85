"""Prints which attack flows have a benign twin, to explain the missed classes in docs/detection.md.

    python studies/twins.py DIR

For each labelled set in DIR and each class: the share of flows for which the same set has a benign flow with equal
destination, port, protocol and bytes in both directions; with equal source and bytes; with equal bytes alone. For
comparison, the row `benign` looks up a random half of the benign flows in the other half.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from thalweg.benchmark.detection.datasets import find_data_sets
from thalweg.benchmark.detection.splits import read_flows

TWINS: Final = {
    "service and bytes": ("dst_addr", "dst_port", "protocol", "fwd_bytes", "bwd_bytes"),
    "source and bytes": ("src_addr", "fwd_bytes", "bwd_bytes"),
    "bytes": ("fwd_bytes", "bwd_bytes"),
}


def main(folder: Path) -> None:
    """Print one row per class, with the service that most of its flows use."""
    print("set | class | flows |", " | ".join(TWINS), "| most frequent service")
    for found in find_data_sets(folder):
        frame = read_flows(found.path).frame
        benign = frame.filter(~pl.col("label"))
        half = pl.Series(np.random.default_rng(0).random(benign.height) < 0.5)
        groups = {"benign": benign.filter(half)}
        attacks = frame.filter("label")
        if "attack" in frame.columns:
            groups |= {str(name): part for (name,), part in attacks.group_by("attack", maintain_order=True)}
        else:
            groups["attack"] = attacks
        for name, part in groups.items():
            among = benign.filter(~half) if name == "benign" else benign
            shares = [
                f"{_share(part, among, keys):.1%}" if set(keys) <= set(frame.columns) else "–"
                for keys in TWINS.values()
            ]
            print(f"{found.name} | {name} | {part.height:,} |", " | ".join(shares), "|", _service(part), flush=True)


def _share(part: pl.DataFrame, among: pl.DataFrame, keys: Sequence[str]) -> float:
    """Return the share of flows that equal a flow of `among` in all keys; two absent values are equal."""
    return part.join(among.select(keys).unique(), on=keys, how="semi", nulls_equal=True).height / max(part.height, 1)


def _service(part: pl.DataFrame) -> str:
    keys = [key for key in ("dst_addr", "dst_port", "protocol") if key in part.columns]
    first = part.group_by(keys).len().sort("len", descending=True).row(0)
    return f"{':'.join(map(str, first[:-1]))} in {first[-1] / part.height:.0%}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
