"""The traffic of speed benchmarks: of the stated size, the same from a seed, different in each window."""

import numpy as np
import polars as pl
import pytest

from thalweg.benchmark.speed.cases import CASES, Case, Traffic, choose_cases, growing
from thalweg.errors import ConfigError
from thalweg.tables import Flows

SMALL = Case("small", 40, 300, 2_000)


def size_of(flows: Flows) -> tuple[int, int]:
    """Hosts and channels."""
    frame = flows.frame
    hosts = pl.concat([frame["src_addr"], frame["dst_addr"]]).n_unique()
    return hosts, frame.select(pl.struct("src_addr", "dst_addr").n_unique()).item()


# As docs/performance.md gives them.
@pytest.mark.parametrize(
    ("name", "hosts", "channels"),
    [
        ("d50", 50, 1_600),
        ("d200", 200, 17_000),
        ("p2k", 2_000, 84_000),
        ("p20k", 19_900, 148_000),
        ("p60k", 58_000, 172_000),
    ],
)
def test_a_case_is_as_large_as_it_says(name: str, hosts: int, channels: int) -> None:
    flows = Traffic(CASES[name], seed=3).window(1)
    assert len(flows) == 200_000
    assert list(size_of(flows)) == pytest.approx([hosts, channels], rel=0.03)


def test_windows_have_the_same_hosts_and_new_flows() -> None:
    first, second = Traffic(SMALL, seed=1).windows(2)
    ends = [set(flows.frame["src_addr"]) | set(flows.frame["dst_addr"]) for flows in (first, second)]
    assert ends[0] == ends[1]
    pairs = [set(flows.frame.select("src_addr", "dst_addr").iter_rows()) for flows in (first, second)]
    assert 0.7 < len(pairs[0] & pairs[1]) / len(pairs[0]) < 1
    assert not first.frame.drop("row", "start").equals(second.frame.drop("row", "start"))
    assert first.frame["start"].is_sorted()
    assert first.frame["start"][-1] <= second.frame["start"][0]


def test_a_seed_means_the_same_flows() -> None:
    assert Traffic(SMALL, seed=4).window(2).frame.equals(Traffic(SMALL, seed=4).window(2).frame)
    assert not Traffic(SMALL, seed=5).window(2).frame.equals(Traffic(SMALL, seed=4).window(2).frame)


def test_a_few_channels_carry_most_and_sizes_repeat() -> None:
    flows = Traffic(CASES["d200"], seed=0).window(1).frame
    sizes = flows.group_by("src_addr", "dst_addr").len()["len"].sort(descending=True)
    assert sizes.head(len(sizes) // 10).sum() > 0.5 * len(flows)
    assert flows.filter(pl.col("src_addr") == pl.col("dst_addr")).is_empty()
    same = flows.group_by("fwd_bytes", "bwd_bytes").len()["len"]
    assert 0.1 < same.filter(same > 1).sum() / len(flows) < 0.9


@pytest.mark.parametrize("num_flows", [300, 10_000, 1_000_000])
@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_a_case_can_be_seen_in_other_windows(case: Case, num_flows: int) -> None:
    other = case.resized(num_flows)
    assert other.num_flows == num_flows
    assert (other.num_channels > case.num_channels) == (num_flows > case.num_flows)
    if num_flows < 1_000:
        assert size_of(Traffic(other).window(0)) == (other.num_hosts, other.num_channels)


def test_a_growing_case_grows_in_proportion() -> None:
    sizes = np.array([[c.num_hosts, c.num_channels] for c in map(growing, (10_000, 2_500_000))])
    assert sizes[1].tolist() == (250 * sizes[0]).tolist() == [500_000, 1_850_000]


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="cannot run over 10 channels of 3 hosts"):
        Case("tiny", 3, 10, 100)
    with pytest.raises(ConfigError, match="choose from d50, d200, p2k, p20k, p60k"):
        choose_cases(["d60"])
    assert [case.name for case in choose_cases(["p2k", "d50"])] == ["p2k", "d50"]


def test_hosts_that_ask_much_are_asked_much() -> None:
    channels = Traffic(CASES["p20k"], seed=0).window(1).frame.select("src_addr", "dst_addr").unique()
    busiest = [set(channels[end].value_counts(sort=True)[end].head(100)) for end in ("src_addr", "dst_addr")]
    assert len(busiest[0] & busiest[1]) > 60
