"""softflowd watches a cable between two machines, and Thalweg pairs what it exports: the client is the source."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import polars as pl
import pytest

from tests.e2e.namespaces import ADDRESSES, CABLE, CLIENT, SERVER, socket_in, two_machines
from tests.e2e.programs import HERE, Listening, Program, Relay, execute, needs, wait_until

pytestmark = needs("softflowd", "softflowctl", "ip", root=True)

EXPORTER: Final = "127.0.0.77"
TCP_PORTS: Final = (22, 80, 443, 8443, 25_000)
UDP_PORTS: Final = (53, 123, 5_060)
CLOSED, LAST = 40_123, 9_999
ROUNDS: Final = 8
REQUEST, REPLY = 2_000, 50_000


class Opened(NamedTuple):
    """A connection as its client knows it."""

    protocol: int
    src: str
    src_port: int
    dst: str
    dst_port: int


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[set[Opened], pl.DataFrame]]:
    """Let the client talk to the server, and return what it opened, and the flows of it."""
    folder = tmp_path_factory.mktemp("live")
    args = ("--from", f"udp://{HERE}:0", "--hold", "2", "--window", "200000,1s")
    with two_machines() as names, Listening("collect", *args, folder=folder) as listening:
        taken = socket_in(names[CLIENT], socket.AF_INET, socket.SOCK_DGRAM)
        control = folder / "control"
        with Relay(EXPORTER, listening.port, into=taken) as relay:
            softflowd = ("softflowd", "-i", CABLE, "-n", f"{HERE}:{relay.port}", "-v", "9", "-d", "-c", control)
            probe = ("ip", "netns", "exec", names[CLIENT], *softflowd, "-p", folder / "pid")
            with Program(*probe, log=folder / "softflowd.log") as running:
                running.wait_for_text("starting data collection")
                opened = talk(names)
                wait_until(lambda: seen_to_the_end(names, control), "all packets are seen")
                execute("softflowctl", "-c", control, "shutdown")  # a signal would end it without its last flows
                running.finish(codes=(0, 1))
        wait_until(lambda: listening.exporter(EXPORTER).get("flows", 0) >= 2 * len(opened), "all records are counted")
        listening.stop()
        # Apart from these there are only the machines' own: neighbours and routers of IPv6.
        yield opened, listening.flows().filter(pl.col("protocol").is_in([6, 17]))


def talk(names: dict[str, str]) -> set[Opened]:
    """Open connections to each port, by IPv4 and IPv6, several at once, and wait for their end."""
    opened: set[Opened] = set()
    threads: list[threading.Thread] = []
    for family, server in zip((socket.AF_INET, socket.AF_INET6), ADDRESSES[SERVER], strict=True):
        for port in TCP_PORTS:
            listener = socket_in(names[SERVER], family, socket.SOCK_STREAM)
            listener.bind((server, port))
            listener.listen(ROUNDS)
            threads.append(threading.Thread(target=answer_all, args=(listener,)))
            asking = [socket_in(names[CLIENT], family, socket.SOCK_STREAM) for _ in range(ROUNDS)]
            threads += [threading.Thread(target=ask, args=(one, server, port, opened)) for one in asking]
        for port in UDP_PORTS:
            answering = socket_in(names[SERVER], family, socket.SOCK_DGRAM)
            answering.bind((server, port))
            asking = [socket_in(names[CLIENT], family, socket.SOCK_DGRAM) for _ in range(ROUNDS)]
            threads.append(threading.Thread(target=echo, args=(answering, asking, server, port, opened)))
        refused = socket_in(names[CLIENT], family, socket.SOCK_STREAM)
        with refused, suppress(ConnectionRefusedError):
            # Only the flags show the direction here, as both ports are equally likely.
            refused.bind((ADDRESSES[CLIENT][family == socket.AF_INET6], 40_124))
            refused.settimeout(10)
            refused.connect((server, CLOSED))
        opened.add(Opened(6, ADDRESSES[CLIENT][family == socket.AF_INET6], 40_124, server, CLOSED))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return opened


def seen_to_the_end(names: dict[str, str], control: Path) -> bool:
    """Send packets of a last flow, and return whether softflowd has seen one, and so all before.

    The kernel may hand them over by blocks of a hundred or two, and the rest only when a block is full.
    """
    with socket_in(names[CLIENT], socket.AF_INET, socket.SOCK_DGRAM) as last:
        last.bind((ADDRESSES[CLIENT][0], 50_000))
        for _ in range(100):
            last.sendto(b"last", (ADDRESSES[SERVER][0], LAST))
    return f"]:{LAST} " in execute("softflowctl", "-c", control, "dump-flows")


def answer_all(listener: socket.socket) -> None:
    """Take each request to its end, and reply."""
    with listener:
        listener.settimeout(10)
        for _ in range(ROUNDS):
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(10)
                while connection.recv(65_536):
                    pass
                connection.sendall(bytes(REPLY))


def ask(client: socket.socket, server: str, port: int, opened: set[Opened]) -> None:
    """Send a request, and read the reply to its end."""
    with client:
        client.settimeout(10)
        client.connect((server, port))
        src, src_port, *_ = client.getsockname()
        opened.add(Opened(6, src, src_port, server, port))
        client.sendall(bytes(REQUEST))
        client.shutdown(socket.SHUT_WR)
        while client.recv(65_536):
            pass


def echo(answering: socket.socket, asking: list[socket.socket], server: str, port: int, opened: set[Opened]) -> None:
    """Ask three times from each socket, and answer."""
    with answering:
        answering.settimeout(10)
        for client in asking:
            with client:
                client.settimeout(10)
                client.connect((server, port))
                src, src_port, *_ = client.getsockname()
                opened.add(Opened(17, src, src_port, server, port))
                for _ in range(3):
                    client.send(bytes(60))
                    _, sender = answering.recvfrom(100)
                    answering.sendto(bytes(200), sender)
                    client.recv(300)


def test_each_connection_is_one_flow_of_which_the_client_is_the_source(
    exported: tuple[set[Opened], pl.DataFrame],
) -> None:
    opened, flows = exported
    assert len(opened) == 2 * (ROUNDS * (len(TCP_PORTS) + len(UDP_PORTS)) + 1)
    flows = flows.filter(pl.col("dst_port") != LAST)
    rows = flows.select("protocol", "src_addr", "src_port", "dst_addr", "dst_port").rows()
    assert len(rows) == len(opened)
    assert {Opened(*row) for row in rows} == opened


def test_how_the_client_was_known_is_reported(exported: tuple[set[Opened], pl.DataFrame]) -> None:
    _, flows = exported
    for low, how in ((True, "ports"), (False, "flags")):
        of = flows.filter((pl.col("dst_port") < 32_768) == low)
        assert of["initiator"].unique().to_list() == [how]
    assert not flows["continued"].any()


def test_both_directions_are_counted(exported: tuple[set[Opened], pl.DataFrame]) -> None:
    _, flows = exported
    tcp = flows.filter(pl.col("protocol") == 6, pl.col("dst_port") != CLOSED)
    assert (tcp["fwd_bytes"] > REQUEST).all()
    assert (tcp["bwd_bytes"] > REPLY).all()
    assert (tcp["bwd_packets"] > 2).all()
    ipv6 = flows["src_addr"].str.contains(":")
    for is_ipv6, head in ((False, 28), (True, 48)):
        udp = flows.filter(pl.col("protocol") == 17, pl.col("dst_port") != LAST, ipv6 == is_ipv6)
        assert udp["fwd_bytes"].unique().to_list() == [3 * (60 + head)]
        assert udp["bwd_bytes"].unique().to_list() == [3 * (200 + head)]
        assert udp["fwd_packets"].unique().to_list() == [3]
    last = flows.filter(pl.col("dst_port") == LAST)
    assert last.select("src_addr", "bwd_bytes").rows() == [(ADDRESSES[CLIENT][0], 0)]
