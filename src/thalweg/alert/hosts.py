"""When a host is worth an alert, on flows that carry time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, final

import numpy as np
import numpy.typing as npt
import polars as pl

from thalweg.errors import SchemaError
from thalweg.evaluate.metrics import rank_hosts

BIN: Final = timedelta(minutes=5)
ALERTS_PER_HOUR: Final = 1.0


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class HostAlerts:
    """What host alerts would have told.

    num_hosts: hosts that opened flows. infected: hosts that opened an attack flow. rank: of the best-ranked
    infected host over the whole test, 1 is strangest. minutes: from the first flow judged to the end of the bin
    of the first alert of an infected host after it attacked; None where there is none. false_per_hour: other
    hosts that were alerted, once each. limit: the strangeness in one bin beyond which a host is alerted; None,
    and no alerts, where no training period could set it.
    """

    num_hosts: int
    infected: int
    rank: int | None
    minutes: float | None
    false_per_hour: float | None
    limit: float | None


def host_bins(start: pl.Series, src_addr: pl.Series, logit: npt.NDArray[np.floating], threshold: float) -> pl.DataFrame:
    """Rate every host in every five minutes of the clock in which it opened a flow, without labels.

    A host's strangeness in a bin is Σ max(0, threshold − logit) / √flows over the flows it opened in it, as in
    `rank_hosts`; the bins begin at full five minutes.

    start, src_addr, logit: (E,). Returns: bin, src_addr, strangeness; hosts of strangeness 0 are left out.
    """
    excess = np.maximum(0.0, threshold - logit.astype(np.float64))
    return (
        pl.DataFrame({"start": start, "src_addr": src_addr, "excess": excess})
        .group_by(pl.col("start").dt.truncate("5m").alias("bin"), "src_addr")
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


def judge_hosts(
    *,
    start: pl.Series,
    src_addr: pl.Series,
    logit: npt.NDArray[np.floating],
    label: npt.NDArray[np.bool_],
    threshold: float,
    limit: float | None,
) -> HostAlerts:
    """Judge host alerts by labels that the limit never saw.

    A host is alerted by its first bin of five minutes with a strangeness above the limit; later bins belong to the
    same alert. It is false where the host opens no attack flow in the whole test. An infected host's bins before
    its first attack are neither counted as false nor as found.

    start, src_addr, logit, label: (E,) of the flows judged. limit: from `alert_limit`.

    Raises: SchemaError, where there is no span of time.
    """
    low, high = start.min(), start.max()
    if not isinstance(low, datetime) or not isinstance(high, datetime) or low == high:
        raise SchemaError("host alerts need flows that span some time: judge a longer capture")
    ranked = rank_hosts(src_addr, logit, logit < threshold, threshold_logit=threshold, label=label)
    infected = ranked.filter(pl.col("attacks") > 0)
    minutes = false_per_hour = None
    if limit is not None:
        alerts = host_bins(start, src_addr, logit, threshold).filter(pl.col("strangeness") > limit)
        attacked = (
            pl.DataFrame({"start": start, "src_addr": src_addr})
            .filter(pl.Series(label))
            .group_by("src_addr")
            .agg(pl.col("start").min().dt.truncate("5m").alias("first"))
        )
        caught = alerts.join(attacked, on="src_addr").filter(pl.col("bin") >= pl.col("first"))["bin"].min()
        if isinstance(caught, datetime):
            minutes = (min(caught + BIN, high) - low) / timedelta(minutes=1)
        false = alerts.join(attacked, on="src_addr", how="anti")["src_addr"].n_unique()
        false_per_hour = false / ((high - low) / timedelta(hours=1))
    return HostAlerts(
        num_hosts=ranked.height,
        infected=infected.height,
        rank=int(infected["rank"][0]) if infected.height else None,
        minutes=minutes,
        false_per_hour=false_per_hour,
        limit=limit,
    )
