"""Splits labelled flows into training and test flows without label columns."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, final

import numpy as np
import numpy.typing as npt
import polars as pl

from thalweg.addresses import IPV4, IPV6, parse_addresses
from thalweg.errors import SchemaError
from thalweg.ingest import FileSource, ReadOptions
from thalweg.tables import Flows, concat
from thalweg.windows import DEFAULT_SIZE

TRAINING_SPAN: Final = 0.4
"""The part of the time span that is learned from, if flows have times."""

_LABELS: Final = ("label", "attack")


@final
@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Flows to learn from and flows to judge; neither has a label column.

    label: (E,) bool, attack and start: (E,) or None, of the E test flows. timed: split by time. note: what a
    reader of the figures should know.
    """

    train: Flows
    test: Flows
    label: npt.NDArray[np.bool_]
    attack: pl.Series | None
    start: pl.Series | None
    timed: bool
    note: str


def read_flows(path: Path, *, keep_wrapped: bool = False) -> Flows:
    """Read all flows of a labelled file, with the declared columns only.

    Raises SchemaError if the file has no labels; else as reading does.
    """
    runs = [Flows(run.frame) for run in FileSource([path], ReadOptions(keep_wrapped=keep_wrapped))]
    flows = concat(runs)
    if "label" not in flows.frame.columns:
        raise SchemaError(f"{path}: these flows carry no labels to judge by; the benchmark needs the published file")
    return flows


def split(flows: Flows, seed: int, *, contamination: float = 0.0) -> Split:
    """Split labelled flows into those to learn from and those to judge, in their order.

    If flows have times, the first 40 % of the span is learned from without its attack flows, and the rest is judged;
    the seed plays no part. If they do not, a seeded random half of the benign flows is learned from, and all others are
    judged.

    contamination: this share of the training flows are attack flows, drawn by the seed from the training period (from
    all flows if there are no times) and not judged; fewer if there are not enough.

    Raises SchemaError if there are no flows to learn from or none to judge.
    """
    frame = flows.frame
    label = frame["label"].fill_null(False).to_numpy()
    known = frame["label"].is_not_null().to_numpy()
    notes = [] if known.all() else [f"{int((~known).sum()):,} unlabelled flows left out"]
    rng = np.random.default_rng([seed, 40])
    early = _early(frame)
    if early is None:
        benign = np.flatnonzero(known & ~label)
        train = np.zeros(len(flows), bool)
        train[rng.permutation(benign)[: len(benign) // 2]] = True
        test = known & ~train
        plantable = np.flatnonzero(known & label)
    else:
        dated = frame["start"].is_not_null().to_numpy()
        if not dated.all():
            notes.append(f"{int((~dated).sum()):,} flows without a time left out")
        train = known & ~label & dated & early
        test = known & dated & ~early
        plantable = np.flatnonzero(known & label & dated & early)
    if contamination:
        wanted = round(contamination / (1 - contamination) * int(train.sum()))
        planted = rng.choice(plantable, min(wanted, len(plantable)), replace=False)
        train[planted], test[planted] = True, False
        reached = len(planted) / max(int(train.sum()), 1)
        short = "" if len(planted) == wanted else f", all that the learned period has (asked for {contamination:.0%})"
        notes.append(f"{len(planted):,} attack flows among those learned from, {reached:.2%} of them{short}")
    if not train.any() or not test.any():
        raise SchemaError("these flows cannot be split: there must be benign flows to learn from and others to judge")
    judged = frame.filter(pl.Series(test))
    bare = frame.drop(_LABELS, strict=False)
    return Split(
        Flows(bare.filter(pl.Series(train))),
        Flows(bare.filter(pl.Series(test))),
        label[test],
        judged["attack"] if "attack" in judged.columns else None,
        judged["start"] if early is not None else None,
        early is not None,
        "; ".join(notes),
    )


def _early(frame: pl.DataFrame) -> npt.NDArray[np.bool_] | None:
    """Return which flows start in the first part of the span; None if there is no span."""
    if "start" not in frame.columns:
        return None
    low, high = frame["start"].min(), frame["start"].max()
    if not isinstance(low, datetime) or not isinstance(high, datetime) or low == high:
        return None
    border = low + TRAINING_SPAN * (high - low)
    return (frame["start"] < border).fill_null(False).to_numpy()


def renumber(flows: Flows, seed: int, *, size: int = DEFAULT_SIZE) -> Flows:
    """Replace addresses by random ones, drawn again every `size` flows, as if the network were renumbered each time.

    The mapping is one to one; IPv4 stays IPv4 (1.0.0.0 to 223.255.255.255), IPv6 stays
    IPv6 (2000::/3), and a name stays a name. Nothing else changes.
    """
    parts = []
    for number, at in enumerate(range(0, len(flows), size)):
        frame = flows[at : at + size].frame
        old = pl.concat([frame["src_addr"], frame["dst_addr"]]).unique(maintain_order=True)
        new = _new_addresses(old, np.random.default_rng([seed, 41, number]))
        parts.append(
            frame.with_columns(
                pl.col(side).replace_strict(old, new, return_dtype=pl.String) for side in ("src_addr", "dst_addr")
            )
        )
    return Flows(pl.concat(parts)) if parts else flows


def _new_addresses(old: pl.Series, rng: np.random.Generator) -> pl.Series:
    _, kind = parse_addresses(old)
    num = len(old)
    low, high = 1 << 24, 224 << 24
    # More than are needed, since some may be drawn twice.
    numbers = np.unique(rng.integers(low, high, 2 * num + 16))
    v4 = rng.permutation(numbers)[:num]
    halves = rng.integers(0, 1 << 16, (num, 7))
    texts = []
    for i in range(num):
        if kind[i] == IPV4:
            octets = (int(v4[i]) >> shift & 255 for shift in (24, 16, 8, 0))
            texts.append(".".join(map(str, octets)))
        elif kind[i] == IPV6:
            texts.append(":".join(f"{part:x}" for part in (0x2000 | i & 0x1FFF, *halves[i])))
        else:
            texts.append(f"host-{v4[i]:x}")
    return pl.Series(texts, dtype=pl.String)
