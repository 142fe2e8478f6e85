"""When a host is worth an alert, without labels."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from thalweg.tables import check_scores

BIN: Final = timedelta(minutes=5)
ALERTS_PER_HOUR: Final = 1.0


def rank_hosts(
    src_addr: pl.Series,
    logit: npt.NDArray[np.floating],
    anomalous: npt.NDArray[np.bool_],
    *,
    threshold_logit: float,
    label: npt.NDArray[np.bool_] | None = None,
) -> pl.DataFrame:
    """Rank the hosts that open flows, the strangest first, without any label.

    A host's strangeness is Σ max(0, threshold_logit − logit) / √flows over the flows it opened: how far
    beyond the threshold its flows reach on average, times the root of how many they are. The sum alone would
    put the busiest server first, since a few in a thousand of its flows are always mildly odd; the mean alone
    would put a host first that was seen once. If flows are odd by chance, their sum grows with the root of
    their number.

    label: (E,) bool, only to count the attack flows beside the ranking.

    Returns: src_addr, flows, anomalous, strangeness, attacks (if labels are given), rank (1 is strangest).
    Raises SchemaError if the lengths differ; ModelError if a logit is not a number.
    """
    check_scores(logit, src_addr=src_addr, anomalous=anomalous, label=label)
    columns = {"src_addr": src_addr, "excess": np.maximum(0.0, threshold_logit - logit.astype(np.float64))}
    counted = {"anomalous": anomalous} | ({} if label is None else {"attacks": label})
    return (
        pl.DataFrame({**columns, **counted})
        .group_by("src_addr")
        .agg(
            pl.len().cast(pl.Int64).alias("flows"),
            pl.col("anomalous").sum().cast(pl.Int64),
            (pl.col("excess").sum() / pl.len().sqrt()).alias("strangeness"),
            *(pl.col(name).sum().cast(pl.Int64) for name in counted if name == "attacks"),
        )
        .sort("strangeness", "anomalous", "src_addr", descending=[True, True, False])
        .with_row_index("rank", offset=1)
        .select(pl.exclude("rank"), pl.col("rank").cast(pl.Int64))
    )


def host_bins(start: pl.Series, src_addr: pl.Series, logit: npt.NDArray[np.floating], threshold: float) -> pl.DataFrame:
    """Rate every host in every five minutes of the clock in which it opened a flow, without labels.

    A host's strangeness in a bin is Σ max(0, threshold − logit) / √flows over the flows it opened in it, as in
    `rank_hosts`; the bins begin at full five minutes.

    start, src_addr, logit: (E,). Returns: bin, src_addr, strangeness; hosts of strangeness 0 are left out.
    """
    excess = np.maximum(0.0, threshold - logit.astype(np.float64))
    return (
        pl.DataFrame({"start": start, "src_addr": src_addr, "excess": excess})
        .group_by(pl.col("start").dt.truncate(BIN).alias("bin"), "src_addr")
        .agg((pl.col("excess").sum() / pl.len().sqrt()).alias("strangeness"))
        .filter(pl.col("strangeness") > 0)
        .sort("bin", "src_addr")
    )


def alert_limit(trained: pl.DataFrame, hours: float) -> float:
    """Set the limit so that the training period would have had one alerted host an hour at most, and one at least.

    trained: `host_bins` of the flows learned from; hours: how long they last. A host counts once, with its
    strangest bin. Learned flows look more usual than new ones, so expect more alerts later.
    """
    found = trained.group_by("src_addr").agg(pl.col("strangeness").max())["strangeness"].sort(descending=True)
    allowed = max(int(ALERTS_PER_HOUR * hours), 1)
    return float(found[allowed]) if allowed < len(found) else 0.0
