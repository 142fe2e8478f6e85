"""How `--sampling` is read: addresses are written as exporters are reported, so that what is typed is found."""

from __future__ import annotations

import pytest

from thalweg.cli.stream import _intervals
from thalweg.errors import ConfigError
from thalweg.ingest.netflow.config import DecoderConfig
from thalweg.ingest.records import address_halves, address_text


@pytest.mark.parametrize(
    "typed",
    ["10.0.0.1", "::ffff:10.0.0.1", "::FFFF:a00:1", "2001:DB8::1", "2001:db8:0:0::1", "2001:db8::10.0.0.1", "::1"],
)
def test_an_address_is_found_however_it_is_typed(typed: str) -> None:
    config = DecoderConfig(sampling=_intervals([f"{typed}=1000"]))
    assert config.sampling == {address_text(*address_halves(typed)): 1000}


def test_all_exporters_files_and_addresses_with_a_zone_are_accepted() -> None:
    config = DecoderConfig(sampling={"*": 10, "file": 5, "fe80::1%eth0": 20})
    assert config.sampling == {"*": 10, "file": 5, "fe80::1": 20}


@pytest.mark.parametrize("typed", ["10.0.0.0/24", "router1", "", " 10.0.0.1", "10.0.0.01", "10.0.0.1:2055"])
def test_what_would_never_be_found_is_refused(typed: str) -> None:
    with pytest.raises(ConfigError, match=r"is no address; write --sampling 10\.0\.0\.1=1000"):
        DecoderConfig(sampling={typed: 1000})
