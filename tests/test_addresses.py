from __future__ import annotations

import ipaddress

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from thalweg.addresses import IPV4, IPV6, NOT_IP, in_usual_spelling, parse_addresses

NOT_ADDRESSES = ["", "abc", "1.2.3", "1.2.3.256", "01.2.3.4", ":::", "1::2::3", "1:2:3:4:5:6:7:8:9", "g::1",
                 "1:2:3:4:5:6:7", ":1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8::", "00:15:17:2c:e5:2d", "12345::",
                 "::1.2.3.400"]  # fmt: skip


@given(st.lists(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), min_size=1, max_size=20))
def test_every_address_is_read_as_the_standard_library_reads_it(
    addresses: list[ipaddress.IPv4Address],
) -> None:
    for spell in (str, lambda a: a.exploded, lambda a: str(a).upper()):
        octets, kind = parse_addresses(pl.Series([spell(a) for a in addresses]))
        for address, row, found in zip(addresses, octets, kind, strict=True):
            packed = address.packed if len(address.packed) == 16 else b"\0" * 10 + b"\xff\xff" + address.packed
            assert bytes(row) == packed
            assert found in (IPV4, IPV6)


def test_dotted_tails_zones_and_gaps() -> None:
    octets, kind = parse_addresses(
        pl.Series(["::ffff:10.0.0.7", "10.0.0.7", "64:ff9b::192.0.2.1", "fe80::1%eth0", "::"])
    )
    assert bytes(octets[0]) == bytes(octets[1])
    assert kind.tolist() == [IPV4, IPV4, IPV6, IPV6, IPV6]
    assert bytes(octets[2]) == ipaddress.ip_address("64:ff9b::192.0.2.1").packed
    assert bytes(octets[3]) == ipaddress.ip_address("fe80::1").packed


def test_different_texts_that_are_no_addresses_stay_different() -> None:
    octets, kind = parse_addresses(pl.Series([*NOT_ADDRESSES, "abc"]))
    assert (kind == NOT_IP).all()
    assert len({bytes(row) for row in octets}) == len(NOT_ADDRESSES)
    assert bytes(octets[1]) == bytes(octets[-1])


def test_spellings_of_one_address_are_one_host() -> None:
    spellings = {
        "192.0.2.1": ["192.0.2.1/32", "192.000.002.001", "'192.0.2.1'", "3221225985", "-1073741311",
                      "3221225985.0", "`192.0.2.1`"],
        "2001:db8::1": ["[2001:db8::1]", "2001:db8::1/128", '"2001:db8::1"'],
        "::ffff:192.0.2.1": ["::ffff:192.000.002.001", "[::ffff:192.0.2.1]"],
        "fe80::1%eth0": ["[fe80::1%eth0]", "fe80::1%eth0"],
    }  # fmt: skip
    for usual, others in spellings.items():
        texts, is_name = in_usual_spelling(pl.Series([usual, *others]))
        assert texts.to_list() == [usual] * (len(others) + 1)
        assert not is_name.any()


def test_what_is_no_address_is_missing_or_a_name() -> None:
    missing = ["-", "?", "(empty)", "N/A", "nan", "None", "NULL", None]
    names = [
        "nas",
        "192.0.2.1:443",
        "[2001:db8::1]:443",
        "192.0.2.0/24",
        "00:00:5e:00:53:01",
        "17",
        "99999999999",
        "a b",
    ]
    given = pl.Series([*missing, *names])
    texts, is_name = in_usual_spelling(given)
    assert texts.to_list() == [None] * len(missing) + names
    assert is_name.to_list() == [False] * len(missing) + [True] * len(names)
    assert given.to_list() == [*missing, *names]  # as it was
