"""nfreplay sends what nfcapd received from softflowd, and Thalweg decodes the same records."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.e2e.conftest import REPLAYED, SideBySide
from tests.e2e.programs import HERE, Listening, Relay, execute, needs
from tests.e2e.traffic import OneWay, nfdump_flows, untimed, written_flows

pytestmark = needs("softflowd", "nfcapd", "nfdump", "nfreplay")


@pytest.fixture(scope="module")
def replayed(
    collecting: Listening, side_by_side: SideBySide, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, Counter[OneWay]]:
    """Replay in the original version, and return what was replayed."""
    path = tmp_path_factory.mktemp("replayed") / "nfcapd.one"
    for version, source in REPLAYED.items():
        execute("nfdump", "-R", side_by_side.folder, "-w", path, f"router ip {source}")
        with Relay(source, collecting.port) as relay:
            execute("nfreplay", "-H", HERE, "-p", str(relay.port), "-v", str(version), "-r", path)
    return {version: nfdump_flows(side_by_side.records[source]) for version, source in REPLAYED.items()}


def test_v5_replayed_gives_the_same_records(collecting: Listening, replayed: dict[int, Counter[OneWay]]) -> None:
    # The clock of nfreplay's v5 is an hour after the first flow, and the flows' times are relative to it.
    flows = collecting.flows_of(REPLAYED[5], replayed[5].total())
    assert written_flows(flows) == replayed[5]


def test_v9_replayed_gives_the_same_records(collecting: Listening, replayed: dict[int, Counter[OneWay]]) -> None:
    flows = written_flows(collecting.flows_of(REPLAYED[9], replayed[9].total()))
    assert untimed(flows) == untimed(replayed[9])


def test_v9_replayed_keeps_its_times(collecting: Listening, replayed: dict[int, Counter[OneWay]]) -> None:
    # The header's clock of nfreplay's v9 is a day before the first flow; the flows' times are absolute (IE 152, 153).
    assert written_flows(collecting.flows_of(REPLAYED[9], replayed[9].total())) == replayed[9]
