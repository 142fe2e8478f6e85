"""The published data sets, if they are present: their counts must match published ones."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from thalweg.ingest import read

DATA = Path(__file__).parents[2].parent / "shared" / "data"

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the published data sets are not here (../shared/data)")


@pytest.mark.parametrize(
    ("name", "num_flows", "num_addresses", "num_attacks", "counts"),
    [
        ("nf-cicids2018-v2-sample.csv.gz", 177_139, 17_862, 22_490, {"wrapped_durations": 24_768}),
        ("nf-toniot-v2-sample.csv.gz", 213_460, 1_012, 159_436, {"wrapped_durations": 53_223}),
        ("nf-botiot-v2-sample.csv.gz", 278_781, 37, 277_496, {"wrapped_durations": 254_718}),
        ("ctu13-20110816.binetflow.parquet", 558_919, 107_341, 4_630, {"named_hosts": 5}),
        ("iot23/34-1.conn.log.labeled", 23_145, 49, 21_222, {"unset_as_zero": 17_824}),
        ("iot23/CTU-Honeypot-Capture-5-1-labeled.csv", 1_374, 154, 0, {"unset_as_zero": 298}),
    ],
)
def test_counts(name: str, num_flows: int, num_addresses: int, num_attacks: int, counts: dict[str, int]) -> None:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not here")
    flows = read(path)
    assert len(flows) == num_flows
    assert pl.concat([flows.frame["src_addr"], flows.frame["dst_addr"]]).n_unique() == num_addresses
    assert flows.frame["label"].sum() == num_attacks
    assert flows.tally.as_dict() == counts
    assert flows.source is not None
    assert flows.source.height == num_flows
    assert flows.frame["row"].to_list() == list(range(num_flows))
    if num_attacks:
        assert flows.frame.filter("label")["attack"].null_count() == 0


def test_wrapped_durations_kept_as_published() -> None:
    path = DATA / "nf-botiot-v2-sample.csv.gz"
    if not path.exists():
        pytest.skip(f"{path.name} is not here")
    flows = read(path, keep_wrapped=True)
    assert int((flows.frame["duration_ms"] > 4_290_000).sum()) == 254_718
