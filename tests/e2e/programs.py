"""The programs that these tests run: those of others, Thalweg, and a relay of datagrams between them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from fcntl import ioctl
from pathlib import Path
from termios import FIONREAD
from types import TracebackType
from typing import Any, Final, Self, final

import polars as pl
import pytest

from tests.cli.process import Finished, Running
from thalweg.live.status import RECEIVER, SCORER, read_status

HERE: Final = "127.0.0.1"
PATIENCE_S: Final = 120.0
_SO_RCVBUFFORCE: Final = 33
_PATH: Final = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
"""Exporters are installed where a user's path does not lead."""


def needs(*programs: str, root: bool = False) -> pytest.MarkDecorator:
    """Skip if a program is not installed, or if root is needed."""
    missing = [name for name in programs if shutil.which(name, path=_PATH) is None]
    reasons = [f"{' and '.join(missing)} not installed"] if missing else []
    if root and os.geteuid() != 0:
        reasons.append("only root can make network namespaces and capture packets")
    return pytest.mark.skipif(bool(reasons), reason="; ".join(reasons))


def program(name: str) -> str:
    """Return the path of a program."""
    found = shutil.which(name, path=_PATH)
    assert found is not None, name
    return found


def wait_until(happened: Callable[[], object], what: str, *, every_s: float = 0.02) -> None:
    """Wait for something that another process does."""
    give_up = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < give_up, f"still waiting: {what}"
        time.sleep(every_s)


def execute(name: str, *args: str | Path) -> str:
    """Run another's program to its end, and return what it printed."""
    done = subprocess.run(
        [program(name), *map(str, args)], capture_output=True, text=True, timeout=PATIENCE_S, env={"TZ": "UTC"}
    )
    assert done.returncode == 0, f"{name} ended with {done.returncode}: {done.stderr}"
    return done.stdout


@final
class Program:
    """Another's program that goes on until it is stopped; what it prints is kept in a file."""

    def __init__(self, *command: str | Path, log: Path) -> None:
        self.log = log
        self.name = str(command[0])
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                [program(self.name), *map(str, command[1:])],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env={"TZ": "UTC", "PATH": _PATH},
            )

    def wait_for_text(self, text: str) -> None:
        """Wait until it has printed this."""
        wait_until(lambda: self.process.poll() is not None or text in self.log.read_text(), f"{self.name}: {text!r}")
        assert text in self.log.read_text(), f"{self.name} ended: {self.log.read_text()}"

    def finish(self, number: signal.Signals | None = None, *, codes: tuple[int, ...] = (0,)) -> None:
        """Wait for its end, after a signal, with one of these exit codes."""
        if number is not None:
            self.process.send_signal(number)
        code = self.process.wait(PATIENCE_S)
        assert code in codes, f"{self.name} ended with {code}: {self.log.read_text()}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def free_port() -> int:
    """Return a UDP port that nobody has now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        found.bind((HERE, 0))
        return int(found.getsockname()[1])


def udp_socket(port: int) -> tuple[int, int] | None:
    """Return how many bytes wait at a UDP port of IPv4 and how many datagrams it dropped; None if nobody listens."""
    for line in Path("/proc/net/udp").read_text().splitlines()[1:]:
        words = line.split()
        if int(words[1].rpartition(":")[2], 16) == port:
            return int(words[4].rpartition(":")[2], 16), int(words[12])
    return None


def send(datagrams: Iterable[bytes], source: str, port: int) -> None:
    """Send datagrams from an address of this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
        sending.bind((source, 0))
        for datagram in datagrams:
            sending.sendto(datagram, (HERE, port))


@final
class Relay:
    """Takes datagrams at a port of its own, keeps them, and sends each on to several ports from `source`: so every
    exporter has an address of its own, in 127.0.0.0/8, and several collectors receive the same datagrams.

    into: where datagrams are taken, such as a socket in another network namespace.
    """

    def __init__(self, source: str, *ports: int, into: socket.socket | None = None) -> None:
        self.source, self.ports = source, ports
        self.datagrams: list[bytes] = []
        self._in = into or socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._in.bind((HERE, 0))
        with suppress(PermissionError):
            self._in.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 23)
        self._in.settimeout(0.1)
        self.port = int(self._in.getsockname()[1])
        self._out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._out.bind((source, 0))
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._carry, name=f"relay {source}")
        self._thread.start()

    def _carry(self) -> None:
        while not self._closing.is_set():
            with suppress(TimeoutError):
                datagram = self._in.recv(65_535)
                self.datagrams.append(datagram)
                for port in self.ports:
                    self._out.sendto(datagram, (HERE, port))

    def _waiting_bytes(self) -> int:
        return int.from_bytes(ioctl(self._in, FIONREAD, bytes(4)), "little")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        wait_until(lambda: not self._waiting_bytes(), f"all datagrams of {self.source} are carried")
        self._closing.set()
        self._thread.join()
        self._in.close()
        self._out.close()


@final
class Listening:
    """`thalweg run` or `collect` in a folder, at a port that the system chose; ends when the block does.

    Its windows last a second, and are in `flows/`.
    """

    def __init__(self, command: str, *args: str | Path, folder: Path) -> None:
        self.folder, self.spool = folder, folder / "spool"
        given = (*args, "--to", "flows/", "--spool", "spool", "--json-log")
        self.process = Running(command, *given, folder=folder)
        self.finished: Finished | None = None

    @property
    def port(self) -> int:
        """Where it listens, as soon as it does."""
        self.process.wait_until(lambda: read_status(self.spool, RECEIVER))
        return int(self.receiver()["sockets"][0]["address"].rpartition(":")[2])

    def receiver(self) -> dict[str, Any]:
        """Return the latest status of the process that receives."""
        return read_status(self.spool, RECEIVER) or {}

    def scorer(self) -> dict[str, Any]:
        """Return the latest status of the process that scores; without its keys before there is one."""
        return read_status(self.spool, SCORER) or {"exporters": [], "counts": {}, "reloads": 0, "reload_error": ""}

    def exporter(self, address: str) -> dict[str, Any]:
        """Return what is known of an exporter; empty before its first datagram."""
        return next((one for one in self.scorer()["exporters"] if one["exporter"] == address), {})

    def flows(self) -> pl.DataFrame:
        """Return all flows that are written."""
        paths = sorted((self.folder / "flows").glob("*/*.parquet"))
        return pl.concat([pl.read_parquet(path) for path in paths]) if paths else pl.DataFrame({"exporter": []})

    def flows_of(self, exporter: str, num: int) -> pl.DataFrame:
        """Return the flows of one exporter, as soon as so many are written."""
        give_up = time.monotonic() + PATIENCE_S
        while len(found := self.flows().filter(pl.col("exporter") == exporter)) < num:
            assert time.monotonic() < give_up, f"{len(found)} flows of {num}; {self.exporter(exporter)}"
            time.sleep(0.1)
        return found

    def stop(self) -> Finished:
        """End it as `kill` does, and wait until all is written."""
        self.process.kill(signal.SIGTERM)
        self.finished = self.process.finish()
        return self.finished

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.finished is not None:
            return
        if error is not None:
            self.process.kill(signal.SIGKILL)
        else:
            self.stop()


def softflowd(pcap: Path, port: int, version: int, *options: str) -> None:
    """Let softflowd read a capture, and export all its flows at its end."""
    execute("softflowd", "-r", pcap, "-n", f"{HERE}:{port}", "-v", str(version), "-d", *options)
