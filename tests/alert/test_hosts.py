"""Which hosts are worth an alert, by hand and on a crowd."""

from __future__ import annotations

import numpy as np
import polars as pl

from thalweg.alert.hosts import alert_limit, rank_hosts


def test_hosts_by_hand() -> None:
    hosts = rank_hosts(
        pl.Series(["b", "a", "a", "c", "a", "a"]),
        np.array([-5.0, -3.0, 1.0, 2.0, -4.0, 0.0]),
        np.array([True, True, False, False, True, False]),
        threshold_logit=-1.0,
        label=np.array([False, True, False, False, True, False]),
    )
    assert hosts.to_dicts() == [
        {"src_addr": "b", "flows": 1, "anomalous": 1, "strangeness": 4.0, "attacks": 0, "rank": 1},
        {"src_addr": "a", "flows": 4, "anomalous": 2, "strangeness": 2.5, "attacks": 2, "rank": 2},
        {"src_addr": "c", "flows": 1, "anomalous": 0, "strangeness": 0.0, "attacks": 0, "rank": 3},
    ]


def test_infected_host_outranks_the_busy_and_the_seen_once() -> None:
    rng = np.random.default_rng(1)
    # A server with 200,000 flows, 1 % of them mildly odd; 500 hosts seen once, some very odd; one infected.
    server = np.where(rng.random(200_000) < 0.01, -0.5 * rng.exponential(1, 200_000), 3.0)
    once = np.where(rng.random(500) < 0.3, -3 * rng.exponential(1, 500), 3.0)
    infected = np.concatenate([np.full(100, 3.0), rng.normal(-5, 1, 120)])
    logit = np.concatenate([server, once, infected]).astype(np.float32)
    names = ["server"] * len(server) + [f"once{i}" for i in range(500)] + ["infected"] * len(infected)
    hosts = rank_hosts(pl.Series(names), logit, logit < 0, threshold_logit=0.0)
    assert hosts["src_addr"][0] == "infected"
    assert hosts["rank"].to_list() == list(range(1, 503))
    assert "attacks" not in hosts.columns


def test_the_limit_allows_one_alerted_host_an_hour_of_training() -> None:
    bins = pl.DataFrame({"src_addr": ["a", "b", "b", "c", "d"], "strangeness": [1.0, 5.0, 4.5, 3.0, 2.0]})
    assert alert_limit(bins, 0.5) == 3.0
    assert alert_limit(bins, 1.9) == 3.0
    assert alert_limit(bins, 2.9) == 2.0
    assert bins.filter(pl.col("strangeness") > alert_limit(bins, 2.9))["src_addr"].n_unique() == 2
    assert alert_limit(bins, 9.0) == 0.0
