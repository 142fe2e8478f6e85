"""`thalweg benchmark ingest --parts live,idle`: every record that was sent is accounted for; nothing is timed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.cli.process import succeed, thalweg
from thalweg.benchmark.speed.tables import idle_table, live_table


@pytest.mark.skipif(sys.platform != "linux", reason="UDP at a rate needs Linux")
def test_what_is_sent_is_scored_or_counted(tmp_path: Path) -> None:
    words = "benchmark ingest --parts live,idle --rate 20000 --seconds 1 --json"
    found = succeed(*words.split(), folder=tmp_path).json()
    one_way, paired = found["live"]
    assert one_way["sent_flows"] > 10_000
    for row in found["live"]:
        assert row["edges"] == row["written"]
    # A busy machine may lose datagrams, of thirty records each, but must count them.
    lost = one_way["lost_datagrams"] + one_way["dropped"]["datagrams"]
    assert one_way["edges"] + sum(one_way["left_out"].values()) + 30 * lost == one_way["sent_flows"]
    assert paired["sent_flows"] / 2 <= paired["edges"] + 30 * paired["lost_datagrams"] < paired["sent_flows"]
    idle = found["idle"]
    assert idle["memory_mb"] == sum(one["memory_mb"] for one in idle["processes"].values())
    assert all(one["memory_mb"] > 1 for one in idle["processes"].values())
    assert idle["core_share"] < 1
    for table in (live_table(found["live"]), idle_table(idle)):
        assert all(column.name for column in table.columns), "a value has no heading"


def test_a_part_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    done = thalweg("benchmark", "ingest", "--parts", "alive", folder=tmp_path)
    assert done.code == 2
    assert "choose from files, decode, hostile, live, idle, day" in done.err
