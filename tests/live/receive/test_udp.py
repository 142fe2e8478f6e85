"""The UDP listener, against real sockets on the loopback."""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from thalweg.errors import ConfigError, SinkError, SourceError
from thalweg.ingest.records import address_halves
from thalweg.ingest.sources import UdpConfig
from thalweg.live.receive.udp import UdpListener
from thalweg.live.spool.folder import SpoolPosition
from thalweg.live.spool.layout import DATAGRAM, MARK
from thalweg.live.spool.reader import Batch, unread
from thalweg.live.spool.writer import SpoolWriter

LOOPBACK: Final = "127.0.0.1"
DEADLINE_S: Final = 20.0


def _has_v6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_v6 = pytest.mark.skipif(not _has_v6(), reason="this machine has no IPv6")
both_ways = pytest.mark.parametrize("way", ["many at once", "one by one"])


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[SpoolWriter]:
    writer = SpoolWriter(tmp_path)
    yield writer
    writer.close()


def address_of(host: str, port: int = 0) -> str:
    return f"udp://[{host}]:{port}" if ":" in host else f"udp://{host}:{port}"


def listener(way: str = "many at once", host: str = LOOPBACK, **settings: Any) -> UdpListener:
    """Listen at a free port; "one by one" as without recvmmsg."""
    found = UdpListener(UdpConfig(address=address_of(host), **settings))
    if way == "one by one":
        found._receive = None
    elif found._receive is None:
        found.close()
        pytest.skip("this system has no recvmmsg")
    return found


def sender(host: str = LOOPBACK) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((host, 0))
    return made


def take(listening: UdpListener, spool: SpoolWriter, num: int, time_us: int = 7) -> None:
    """Receive so many datagrams, and see that there are no more."""
    deadline = time.monotonic() + DEADLINE_S
    while num > 0:
        assert time.monotonic() < deadline, f"{num} datagrams have not come"
        num -= listening.receive(spool, time_us)
    assert (num, listening.receive(spool, time_us)) == (0, 0)


def batch_of(spool: SpoolWriter) -> Batch:
    spool.add(MARK, 1)
    (batch,) = unread(spool.folder, SpoolPosition(0, 0))
    return batch


def payloads(batch: Batch) -> list[bytes]:
    entries = batch.entries
    return [
        batch.data[at : at + num].tobytes()
        for at, num in zip(entries["offset"].tolist(), entries["length"].tolist(), strict=True)
    ]


def senders(batch: Batch) -> list[tuple[tuple[int, int], int]]:
    hi, lo, port = (batch.entries[name].tolist() for name in ("hi", "lo", "port"))
    return list(zip(zip(hi, lo, strict=True), port, strict=True))


@both_ways
def test_datagrams_of_several_exporters_keep_their_order_and_their_senders(spool: SpoolWriter, way: str) -> None:
    hosts = [LOOPBACK, "127.0.0.2", "127.0.0.3"]
    with closing(listener(way)) as listening:
        exporters = [sender(host) for host in hosts]
        ports = [exporter.getsockname()[1] for exporter in exporters]
        sent = []
        for i in range(600):
            payload = f"{i}".encode() * (i % 9)
            exporters[i % 3].sendto(payload, (LOOPBACK, listening.port))
            sent.append(payload)
            if i % 100 == 99:
                take(listening, spool, 100, time_us=1_700_000_000_000_000 + i)
        for exporter in exporters:
            exporter.close()
        assert listening.num_datagrams == 600
        assert listening.num_bytes == sum(map(len, sent))
        assert (listening.num_refused, listening.kernel_drops) == (0, 0)
    batch = batch_of(spool)
    assert payloads(batch) == sent
    assert senders(batch) == [(address_halves(hosts[i % 3]), ports[i % 3]) for i in range(600)]
    assert batch.entries["time_us"].tolist() == [1_700_000_000_000_000 + i // 100 * 100 + 99 for i in range(600)]
    assert set(batch.entries["kind"].tolist()) == {DATAGRAM}
    assert spool.num_entries == 601


@needs_v6
@both_ways
def test_ipv6_exporters_are_known_by_their_address(spool: SpoolWriter, way: str) -> None:
    with closing(listener(way, "::1")) as listening, sender("::1") as exporter:
        exporter.sendto(b"six", ("::1", listening.port))
        take(listening, spool, 1)
        port = exporter.getsockname()[1]
    batch = batch_of(spool)
    assert (payloads(batch), senders(batch)) == ([b"six"], [(address_halves("::1"), port)])


@needs_v6
@both_ways
def test_all_addresses_are_those_of_both_families(spool: SpoolWriter, way: str) -> None:
    with closing(listener(way, "")) as listening, sender("::1") as six, sender("127.0.0.2") as four:
        for payload in (b"a", b"b"):
            six.sendto(payload, ("::1", listening.port))
            four.sendto(payload * 2, (LOOPBACK, listening.port))
        take(listening, spool, 4)
        ports = six.getsockname()[1], four.getsockname()[1]
    batch = batch_of(spool)
    assert payloads(batch) == [b"a", b"aa", b"b", b"bb"]
    wanted = [(address_halves("::1"), ports[0]), (address_halves("127.0.0.2"), ports[1])]
    assert senders(batch) == wanted * 2


def test_a_name_with_addresses_of_both_families_is_received_where_exporters_send(spool: SpoolWriter) -> None:
    with closing(listener(host="localhost")) as listening, sender() as exporter:
        exporter.sendto(b"x", (LOOPBACK, listening.port))
        take(listening, spool, 1)


@both_ways
def test_empty_and_largest_datagrams_come_whole(spool: SpoolWriter, way: str) -> None:
    sent = [b"", bytes(range(256)) * 255 + b"z" * 227, b"", b"\0\x05", b"q" * 65_507, b""]
    assert len(sent[1]) == 65_507
    with closing(listener(way)) as listening, sender() as exporter:
        for payload in sent:
            exporter.sendto(payload, (LOOPBACK, listening.port))
        take(listening, spool, len(sent))
        assert listening.num_bytes == 2 * 65_507 + 2
    batch = batch_of(spool)
    assert payloads(batch) == sent
    assert batch.entries["flows"].tolist() == [0] * 6


def v5(count: int, num_records: int) -> bytes:
    return struct.pack(">HH", 5, count) + bytes(20 + 48 * num_records)


@both_ways
def test_flows_are_noted_as_v5_headers_tell_them_and_never_more_than_there_are(spool: SpoolWriter, way: str) -> None:
    sent = {
        v5(30, 30): 30, v5(0, 3): 0, v5(65_535, 2): 2, v5(3, 0): 0, v5(2, 2)[:-1]: 1, v5(1, 1)[:23]: 0,
        v5(1, 1)[:3]: 0, b"\0\x09\0\x05" + bytes(400): 0, b"\0": 0,
    }  # fmt: skip
    with closing(listener(way)) as listening, sender() as exporter:
        for payload in sent:
            exporter.sendto(payload, (LOOPBACK, listening.port))
        take(listening, spool, len(sent))
    assert batch_of(spool).entries["flows"].tolist() == list(sent.values())
    assert spool._written[0] == {"datagrams": len(sent), "pieces": 0, "flows": sum(sent.values())}


@both_ways
@pytest.mark.parametrize(
    ("allow", "taken"),
    [
        ((), [0, 1, 2]),
        (("127.0.0.2",), [1]),
        (("127.0.0.2/31",), [1, 2]),
        (("127.0.0.1", "127.0.0.3/32"), [0, 2]),
        (("0.0.0.0/0",), [0, 1, 2]),
        (("10.0.0.0/8",), []),
        (("::1", "2001:db8::/32"), []),
        (("::ffff:127.0.0.0/126",), [0, 1, 2]),
    ],
)
def test_only_allowed_networks_are_received_and_others_counted(
    spool: SpoolWriter, way: str, allow: tuple[str, ...], taken: list[int]
) -> None:
    with closing(listener(way, allow=allow)) as listening:
        for i, host in enumerate((LOOPBACK, "127.0.0.2", "127.0.0.3")):
            with sender(host) as exporter:
                exporter.sendto(f"{i}".encode(), (LOOPBACK, listening.port))
        take(listening, spool, 3)
        assert (listening.num_datagrams, listening.num_refused) == (len(taken), 3 - len(taken))
        assert listening.num_bytes == len(taken)
    assert payloads(batch_of(spool)) == [f"{i}".encode() for i in taken]


@needs_v6
@both_ways
@pytest.mark.parametrize(
    ("allow", "taken"),
    [(("::1",), [b"6"]), (("::/64",), [b"6"]), (("127.0.0.0/8",), [b"4"]), (("127.0.0.1", "::1/128"), [b"6", b"4"])],
)
def test_allowed_networks_of_both_families_hold_where_all_addresses_are_received(
    spool: SpoolWriter, way: str, allow: tuple[str, ...], taken: list[bytes]
) -> None:
    if allow == ("::/64",):
        taken = [b"6", b"4"]  # IPv4 is within ::/64, as ::ffff:a.b.c.d
    with closing(listener(way, "", allow=allow)) as listening, sender("::1") as six, sender() as four:
        six.sendto(b"6", ("::1", listening.port))
        four.sendto(b"4", (LOOPBACK, listening.port))
        take(listening, spool, 2)
        assert (listening.num_datagrams, listening.num_refused) == (len(taken), 2 - len(taken))
    assert payloads(batch_of(spool)) == taken


def test_datagrams_that_found_the_buffer_full_are_reported(spool: SpoolWriter) -> None:
    with closing(listener(buffer_bytes=4096)) as listening, sender() as exporter:
        if not _tells_drops(listening):
            pytest.skip("this kernel does not report drops")
        for _ in range(500):
            exporter.sendto(bytes(200), (LOOPBACK, listening.port))
        deadline = time.monotonic() + DEADLINE_S
        while listening.num_datagrams + listening.kernel_drops < 500 and time.monotonic() < deadline:
            listening.receive(spool, 1)
    # It is read after everything is closed, for the last status.
    assert listening.kernel_drops > 0
    assert listening.num_datagrams + listening.kernel_drops == 500
    assert len(payloads(batch_of(spool))) == listening.num_datagrams


def _tells_drops(listening: UdpListener) -> bool:
    try:
        return len(listening._socket.getsockopt(socket.SOL_SOCKET, 55, 64)) >= 36
    except OSError:
        return False


def test_the_two_ways_of_receiving_make_the_same_entries(tmp_path: Path) -> None:
    found = []
    with sender() as exporter:
        for way in ("many at once", "one by one"):
            spool = SpoolWriter(tmp_path / way)
            with closing(listener(way)) as listening:
                for payload in (v5(2, 2), b"", b"x" * 3000, b"\0\x0a"):
                    exporter.sendto(payload, (LOOPBACK, listening.port))
                take(listening, spool, 4)
            spool.close()
            found.append((tmp_path / way / "000000000000.spool").read_bytes())
    assert found[0] == found[1]
    assert len(found[0]) == 4 * 40 + 120 + 3000 + 2


def test_more_datagrams_than_one_call_takes_come_in_several(spool: SpoolWriter) -> None:
    with closing(listener(buffer_bytes=4 << 20)) as listening, sender() as exporter:
        for i in range(1000):
            exporter.sendto(struct.pack("<I", i), (LOOPBACK, listening.port))
        nums: list[int] = []
        deadline = time.monotonic() + DEADLINE_S
        while sum(nums) < 1000 and time.monotonic() < deadline:
            nums.append(listening.receive(spool, 1))
        assert listening.kernel_drops == 0
    assert (sum(nums), max(nums) < 1000) == (1000, True)
    assert [struct.unpack("<I", payload)[0] for payload in payloads(batch_of(spool))] == list(range(1000))


@both_ways
def test_what_waits_is_drained_and_where_more_comes_all_the_while_not_for_ever(
    spool: SpoolWriter, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(listener(way, buffer_bytes=4 << 20)) as listening, sender() as exporter:
        for _ in range(1000):
            exporter.sendto(b"x", (LOOPBACK, listening.port))
        assert listening.drain(spool) == 1000
        assert listening.drain(spool) == 0
        receive = listening.receive

        def and_more(spool: SpoolWriter, time_us: int) -> int:
            exporter.sendto(b"x", (LOOPBACK, listening.port))
            return receive(spool, time_us)

        monkeypatch.setattr(listening, "receive", and_more)
        assert listening.drain(spool, within_s=0.1) > 0


@both_ways
def test_nothing_there_is_no_trouble(spool: SpoolWriter, way: str) -> None:
    with closing(listener(way)) as listening:
        assert listening.receive(spool, 1) == 0
    assert spool.num_entries == 0


@both_ways
def test_a_socket_that_fails_is_reported(spool: SpoolWriter, way: str) -> None:
    with closing(listener(way)) as listening, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.setblocking(False)
        real, listening._socket = listening._socket, other
        if listening._receive is not None:
            listening._receive._file = other.fileno()
        with pytest.raises(SourceError, match="receiving failed"):
            listening.receive(spool, 1)
        listening._socket = real


def test_a_port_that_is_taken_is_reported_with_the_next_step() -> None:
    with closing(listener()) as listening:
        with pytest.raises(SourceError, match="ss -lunp") as refused:
            UdpListener(UdpConfig(address=address_of(LOOPBACK, listening.port)))
        assert f"udp://127.0.0.1:{listening.port}: cannot listen there (Address already in use)" in str(refused.value)


def test_a_port_that_needs_privileges_is_reported_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(SourceError, match="ports below 1024 need privileges") as refused:
        UdpListener(UdpConfig(address=address_of(LOOPBACK, 162)))
    assert "another collector" not in str(refused.value)


@both_ways
def test_datagrams_that_the_spool_does_not_take_are_counted(spool: SpoolWriter, way: str) -> None:
    with closing(listener(way, allow=("127.0.0.1",))) as listening, sender() as one, sender("127.0.0.2") as two:
        for exporter in (two, one, one):
            exporter.sendto(b"x", (LOOPBACK, listening.port))
        spool.close()
        with pytest.raises(SinkError):
            listening.receive(spool, 1)
        assert (listening.num_refused, listening.num_datagrams, listening.num_bytes) == (1, 0, 0)
        assert listening.num_unspooled == (2 if way == "many at once" else 1)


@needs_v6
def test_all_addresses_are_not_half_of_them_where_a_port_is_taken() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as other:
        other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        other.bind(("::", 0))
        with pytest.raises(SourceError, match="Address already in use"):
            UdpListener(UdpConfig(address=address_of("", other.getsockname()[1])))


def test_a_machine_without_ipv6_hears_ipv4(spool: SpoolWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket

    def only_v4(family: int = -1, *rest: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(family, *rest)

    monkeypatch.setattr(socket, "socket", only_v4)
    listening = UdpListener(UdpConfig(address="udp://:0"))
    monkeypatch.undo()
    with closing(listening), sender() as exporter:
        exporter.sendto(b"four", (LOOPBACK, listening.port))
        take(listening, spool, 1)
    assert senders(batch_of(spool))[0][0] == address_halves(LOOPBACK)


@pytest.mark.parametrize("host", ["203.0.113.9", "a..b"])
def test_an_address_of_another_machine_is_reported(host: str) -> None:
    with pytest.raises(SourceError, match="udp://"):
        UdpListener(UdpConfig(address=address_of(host)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"address": "udp://:65536"}, "between 0 and 65535"),
        ({"address": "udp://:-1"}, "write it as udp://:2055"),
        ({"allow": ("10.0.0.1/8",)}, "host bits set; write it as"),
        ({"allow": ("10.0.0.0/8", "my network")}, "--allow my network"),
        ({"buffer_bytes": 0}, "a socket's buffer"),
        ({"buffer_bytes": 1 << 31}, "a socket's buffer"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        UdpConfig(**{"address": "udp://:2055", **settings})


def test_the_buffer_is_what_the_kernel_gives(spool: SpoolWriter) -> None:
    del spool
    with closing(listener(buffer_bytes=100_000)) as small, closing(listener(buffer_bytes=200_000)) as large:
        assert (small.buffer_bytes, large.buffer_bytes) == (100_000, 200_000)
        assert small.fileno() != large.fileno()


def test_networks_are_compared_by_all_their_bits() -> None:
    from thalweg.live.receive.udp import _allowed, _masked
    from thalweg.live.spool.layout import ENTRY

    addresses = ["10.0.0.1", "10.0.1.1", "2001:db8::1", "2001:db8:0:1::1", "::a00:1"]
    entries = np.zeros(len(addresses), ENTRY)
    for i, address in enumerate(addresses):
        entries["hi"][i], entries["lo"][i] = address_halves(address)
    for network, wanted in {
        "10.0.0.0/24": [0], "10.0.0.0/23": [0, 1], "2001:db8::/64": [2], "2001:db8::/63": [2, 3],
        "2001:db8::1/128": [2], "0.0.0.0/0": [0, 1], "::/96": [4], "::/0": [0, 1, 2, 3, 4],
    }.items():  # fmt: skip
        assert np.flatnonzero(_allowed(entries, [_masked(network)])).tolist() == wanted, network
