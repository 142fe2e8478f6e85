"""`thalweg simulate`: every dialect can be read back, and a seed gives the same flows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.process import succeed

DIALECTS = ("thalweg", "nf-v1", "nf-v2", "nf-v3", "binetflow", "zeek")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_simulate_writes_is_read_back_in_every_dialect(folder: Path, dialect: str) -> None:
    done = succeed("simulate", "like.csv", "--flows", "1000", "--as", dialect, "--seed", "5", folder=folder)
    assert done.err == "wrote 1,000 flows to like.csv\n"
    found = succeed("evaluate", "benign.thalweg", "like.csv", "--json", folder=folder).json()
    assert found["num_flows"] == 1000
    assert found["num_attacks"] > 50
    assert ("false_alerts_per_day" in found and found["false_alerts_per_day"] is None) == (
        dialect in ("nf-v1", "nf-v2")
    ), "NF-v1 and v2 have no time"


def test_simulated_flows_come_on_standard_output_and_the_same_for_a_seed(tmp_path: Path) -> None:
    words = ("simulate", "-", "--flows", "50", "--attacks", "none", "--seed")
    first, again, other = (succeed(*words, seed, folder=tmp_path).out for seed in ("1", "1", "2"))
    assert first == again != other
    assert len(first.splitlines()) == 51
