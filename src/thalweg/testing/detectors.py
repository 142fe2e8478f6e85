"""The conformance kit of detectors, for any model in them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from thalweg.detect import Detector
    from thalweg.tables import Flows


def check_detector(make: Callable[[], Detector], *, num_flows: int = 400) -> None:
    """Check that a detector scores flow i in row i, and repeats its scores, also after it is saved and loaded.

    make: returns a new detector on the CPU that is not fitted; small and quick settings are enough.
    """
    import numpy as np

    from thalweg.errors import NotFittedError

    flows = _made_flows(num_flows)
    try:
        make().score(flows)
    except NotFittedError:
        pass
    else:
        raise AssertionError("a detector that is not fitted returns scores instead of raising NotFittedError")
    detector = make().fit(flows)
    scores = detector.score(flows)
    for values in (scores.score, scores.logit, scores.anomalous):
        assert values.shape == (len(flows),), f"{values.shape} scores for {len(flows)} flows"
    kinds = tuple(values.dtype.name for values in (scores.score, scores.logit, scores.anomalous))
    assert kinds == ("float32", "float32", "bool"), f"score, logit and anomalous are {kinds}"
    assert np.isfinite(scores.logit).all(), "a logit is not finite"
    assert ((scores.score >= 0) & (scores.score <= 1)).all(), "a score is not from 0 to 1"
    assert _is_same(detector.score(flows).logit, scores.logit), "scoring twice gives different scores"
    assert _is_same(make().fit(flows).score(flows).logit, scores.logit), "the same seed gives different scores"
    size = detector.model.window_size
    window = flows[: min(size, len(flows))]
    alone = detector.score(window).logit
    # Flows that change places keep their scores, up to the order of additions.
    order = np.random.default_rng(3).permutation(len(window))
    moved = detector.score(_taken(window, order)).logit
    assert np.allclose(moved, alone[order], rtol=1e-3, atol=1e-3), "a flow's score depends on its row"
    # Parallel flows: each flow occurs twice.
    twice = np.concatenate([np.arange(len(window) // 2), np.arange(len(window) // 2)])
    both = detector.score(_taken(window, twice)).logit
    half = len(twice) // 2
    assert np.allclose(both[:half], both[half:], rtol=1e-3, atol=1e-3), "two equal flows have different scores"
    assert len(np.unique(both[:half])) > 1, "all flows have the same score"
    assert len(detector.score(flows[:0])) == 0, "an empty table of flows has scores"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        detector.save(path)
        loaded = type(detector).load(path, device="cpu")
        assert _is_same(loaded.score(flows).logit, scores.logit), "the loaded detector gives different scores"
        assert loaded.threshold == detector.threshold, "the loaded detector has a different threshold"


def _is_same(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    return one.tobytes() == other.tobytes()


def _taken(flows: Flows, rows: np.ndarray[Any, Any]) -> Flows:
    from thalweg.tables import conform

    return conform(flows.frame.drop("row", strict=False)[rows.tolist()])


def _made_flows(num: int) -> Flows:
    """Make flows to a few servers that all hosts use, each with a typical size of its own."""
    import numpy as np
    import polars as pl

    from thalweg.tables import conform

    rng = np.random.default_rng(0)
    server = np.minimum(rng.geometric(0.4, num) - 1, 5)
    size = np.exp(rng.normal(4 + server, 0.3))
    start = 1_772_438_400_000_000 + np.cumsum(rng.integers(0, 2_000_000, num))
    return conform(
        pl.DataFrame(
            {
                "start": pl.Series(start, dtype=pl.Int64).cast(pl.Datetime("us", "UTC")),
                "duration_ms": rng.exponential(50, num),
                "src_addr": [f"10.0.0.{host}" for host in rng.integers(6, 30, num)],
                "dst_addr": [f"10.9.0.{host}" for host in server],
                "fwd_bytes": size.astype(np.uint64),
                "bwd_bytes": (size * (1 + server)).astype(np.uint64),
                "dst_port": np.array([80, 443, 53, 22, 25, 123])[server],
                "protocol": np.where(server == 2, 17, 6),
            }
        )
    )
