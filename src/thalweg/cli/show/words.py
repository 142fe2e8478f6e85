"""Phrases that several commands print."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thalweg.detect import Threshold


def seconds_in_words(seconds: float) -> str:
    """Write a span of time in short.

    >>> seconds_in_words(42), seconds_in_words(150), seconds_in_words(7300)
    ('42 s', '2 min 30 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def threshold_in_words(threshold: Threshold) -> str:
    """Describe a threshold on one line, and how certain it is on the next."""
    t = threshold
    how = "counted on" if t.method == "quantile" else "extrapolated by a tail fitted to"
    meaning = (
        f"a flow is anomalous above score {t.score:.4f}: about 1 in {1 / t.share:,.0f} usual flows "
        f"(budget {t.budget}, {how} {t.num_flows:,} held-out flows)"
    )
    expected = f"{t.low_share:.2g} to {t.high_share:.2g}"
    if t.is_certain:
        return f"{meaning}\nof more such flows, a share of {expected} should lie above it"
    return (
        f"{meaning}\nbudget {t.budget}: {t.num_flows:,} held-out flows are too few to know this within a factor of 1.5 "
        f"(expect a share of {expected}); fit on about {t.flows_needed:,} flows, or state a larger budget"
    )
