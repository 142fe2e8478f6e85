"""Small tables of flows, and settings that all tests share."""

from __future__ import annotations

import os

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, settings

from thalweg.tables import Flows, conform

if not torch.cuda.is_available():
    # Interpret the GPU kernels. Set it here: Triton reads it at its first import, which may be by PyTorch Geometric.
    os.environ["TRITON_INTERPRET"] = "1"

# The time that an example takes depends on the load of the machine, so it must not fail a test.
settings.register_profile("thalweg", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("thalweg")


def make_flows(num: int, *, seed: int = 0, num_hosts: int = 30, timed: bool = True) -> Flows:
    """Make flows to a few servers that all hosts use, each with a typical size of its own."""
    rng = np.random.default_rng(seed)
    src = rng.integers(6, num_hosts, num)
    dst = np.minimum(rng.geometric(0.4, num) - 1, 5)
    size = np.exp(rng.normal(4 + dst, 0.3))
    frame = pl.DataFrame(
        {
            "src_addr": pl.Series([f"10.0.{h // 10}.{h}" for h in range(num_hosts)]).gather(src),
            "dst_addr": pl.Series([f"10.9.0.{h}" for h in range(6)]).gather(dst),
            "fwd_bytes": size.astype(np.uint64),
            "bwd_bytes": (size * (1 + dst)).astype(np.uint64),
            "duration_ms": np.round(rng.exponential(50, num), 3),
        }
    )
    if timed:
        start = np.datetime64("2026-03-02T08:00:00", "us") + np.cumsum(rng.integers(0, 2_000_000, num))
        frame = frame.with_columns(pl.Series("start", start).dt.replace_time_zone("UTC"))
    return conform(frame)


@pytest.fixture
def flows() -> Flows:
    return make_flows(400)
