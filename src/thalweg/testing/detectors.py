"""What every detector does, whatever model is in it."""

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
    """Check that a detector rates flow i in row i, the same each time, and the same after it was saved and loaded.

    make: gives a new detector that is not fitted, on the CPU; small and quick settings will do.
    """
    import numpy as np

    from thalweg.errors import NotFittedError

    flows = _made_flows(num_flows)
    try:
        make().score(flows)
    except NotFittedError:
        pass
    else:
        raise AssertionError("a detector that is not fitted scores")
    detector = make().fit(flows)
    scores = detector.score(flows)
    for values in (scores.score, scores.logit, scores.anomalous):
        assert values.shape == (len(flows),), f"{values.shape} scores for {len(flows)} flows"
    kinds = tuple(values.dtype.name for values in (scores.score, scores.logit, scores.anomalous))
    assert kinds == ("float32", "float32", "bool"), f"scores are {kinds}"
    assert np.isfinite(scores.logit).all(), "a logit is not finite"
    assert ((scores.score >= 0) & (scores.score <= 1)).all(), "a score is no share"
    assert _is_same(detector.score(flows).logit, scores.logit), "scoring twice gives other scores"
    assert _is_same(make().fit(flows).score(flows).logit, scores.logit), "the same seed gives other scores"
    size = detector.model.window_size
    window = flows[: min(size, len(flows))]
    alone = detector.score(window).logit
    # Row i is row i: flows that change places take their scores with them, but for the order of additions.
    order = np.random.default_rng(3).permutation(len(window))
    moved = detector.score(_taken(window, order)).logit
    assert np.allclose(moved, alone[order], rtol=1e-3, atol=1e-3), "a flow's score depends on its row"
    # Parallel flows, and the very same flow twice.
    twice = np.concatenate([np.arange(len(window) // 2), np.arange(len(window) // 2)])
    both = detector.score(_taken(window, twice)).logit
    half = len(twice) // 2
    assert np.allclose(both[:half], both[half:], rtol=1e-3, atol=1e-3), "the same flow twice has two scores"
    assert len(np.unique(both[:half])) > 1, "all flows have one score"
    assert len(detector.score(flows[:0])) == 0, "no flows have scores"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        detector.save(path)
        loaded = type(detector).load(path, device="cpu")
        assert _is_same(loaded.score(flows).logit, scores.logit), "what was loaded gives other scores"
        assert loaded.threshold == detector.threshold, "what was loaded has another threshold"


def _is_same(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    return one.tobytes() == other.tobytes()


def _taken(flows: Flows, rows: np.ndarray[Any, Any]) -> Flows:
    from thalweg.tables import conform

    return conform(flows.frame.drop("row", strict=False)[rows.tolist()])


def _made_flows(num: int) -> Flows:
    """Make flows of a few servers that everyone talks to, with a size of their own each."""
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
