"""Which attack flows have a benign twin: the evidence on classes that are missed, in docs/detection.md.

    python studies/twins.py DIR

For each labelled set in DIR and each class: how many of its flows a benign flow of the same set equals in
destination, port, protocol and bytes each way; in bytes each way and the source; in bytes each way alone. The row
`benign` is one random half of the benign flows looked up in the other: as alike as flows are that nobody doubts.
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
    """Print one row a class, and where most of its flows go."""
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
    """Return the share of flows that equal one of `among` in all keys; an absent value equals an absent one."""
    return part.join(among.select(keys).unique(), on=keys, how="semi", nulls_equal=True).height / max(part.height, 1)


def _service(part: pl.DataFrame) -> str:
    keys = [key for key in ("dst_addr", "dst_port", "protocol") if key in part.columns]
    first = part.group_by(keys).len().sort("len", descending=True).row(0)
    return f"{':'.join(map(str, first[:-1]))} in {first[-1] / part.height:.0%}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
