"""Host alerts against labels, by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
import polars as pl
import pytest

from thalweg.alert.hosts import host_bins
from thalweg.evaluate.hosts import judge_hosts

BEGIN: Final = datetime(2026, 3, 2, tzinfo=UTC)


def hosts_at(rows: list[tuple[float, str, float, bool]]) -> dict[str, Any]:
    minutes, hosts, logits, labels = zip(*rows, strict=True)
    return {
        "start": pl.Series([BEGIN + timedelta(minutes=m) for m in minutes], dtype=pl.Datetime("us", "UTC")),
        "src_addr": pl.Series(hosts),
        "logit": np.array(logits, np.float32),
        "label": np.array(labels),
    }


def test_host_alerts_by_hand() -> None:
    given = hosts_at(
        [
            (0, "bot", 1, False),
            (1, "web", -4, False),  # (0 - -4) / 1 = 4: a false alert in the first bin
            (2, "web", 1, False),  # and half as odd flows: 4 / sqrt(2)
            (11, "bot", -2, True),
            (12, "bot", -2, True),  # 4 / sqrt(2), in the bin from 10 to 15 minutes
            (30, "web", -9, False),  # the same alert again
            (60, "bot", 1, False),
        ]
    )
    label = given.pop("label")
    bins = host_bins(**given, threshold=0.0)
    assert bins["strangeness"].to_list() == pytest.approx([4 / 2**0.5, 4 / 2**0.5, 9])
    found = judge_hosts(**given, label=label, threshold=0.0, limit=2.0)
    assert (found.num_hosts, found.infected, found.minutes, found.false_per_hour) == (2, 1, 15.0, 1.0)
    assert found.rank in (1, 2)
    strict = judge_hosts(**given, label=label, threshold=0.0, limit=9.0)
    assert (strict.minutes, strict.false_per_hour) == (None, 0.0)
    unknown = judge_hosts(**given, label=label, threshold=0.0, limit=None)
    assert (unknown.minutes, unknown.false_per_hour, unknown.rank) == (None, None, found.rank)
