"""Judges host alerts by labels that had no part in making them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import final

import numpy as np
import numpy.typing as npt
import polars as pl

from thalweg.alert.hosts import BIN, host_bins, rank_hosts
from thalweg.errors import SchemaError


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class HostAlerts:
    """What host alerts would have reported.

    num_hosts: hosts that opened flows. infected: hosts that opened an attack flow. rank: of the best-ranked
    infected host over the whole test, 1 is strangest. minutes: from the first flow judged to the end of the bin
    of the first alert of an infected host after it attacked; None if there is none. false_per_hour: other
    hosts that were alerted, once each. limit: the strangeness in one bin beyond which a host is alerted; None,
    and no alerts, if no training period could set it.
    """

    num_hosts: int
    infected: int
    rank: int | None
    minutes: float | None
    false_per_hour: float | None
    limit: float | None


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
    same alert. It is false if the host opens no attack flow in the whole test. An infected host's bins before
    its first attack are neither counted as false nor as found.

    start, src_addr, logit, label: (E,) of the flows judged. limit: from `alert_limit`.

    Raises SchemaError if the flows span no time.
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
            .agg(pl.col("start").min().dt.truncate(BIN).alias("first"))
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
