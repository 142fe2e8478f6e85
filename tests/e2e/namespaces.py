"""Two network namespaces that a cable joins: machines of their own, as far as packets go."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.programs import program

_CLONE_NEWNET: Final = 0x40000000

CLIENT, SERVER = "client", "server"
ADDRESSES: Final = {CLIENT: ("10.77.0.1", "fd77::1"), SERVER: ("10.77.0.2", "fd77::2")}
CABLE: Final = "cable"
"""The interface in each."""


def ip(*words: str) -> None:
    """Run `ip`. Raises CalledProcessError if it fails."""
    subprocess.run([program("ip"), *words], check=True, capture_output=True, text=True)


@contextmanager
def two_machines() -> Iterator[dict[str, str]]:
    """Make them; gives the namespaces' names. Skips the test if the kernel does not allow it."""
    names = {side: f"thalweg-{os.getpid()}-{side}" for side in ADDRESSES}
    with ExitStack() as stack:
        try:
            for name in names.values():
                ip("netns", "add", name)
                stack.callback(ip, "netns", "delete", name)
            ip("link", "add", CABLE, "netns", names[CLIENT], "type", "veth", "peer", "name", CABLE,
               "netns", names[SERVER])  # fmt: skip
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces cannot be made here: {error.stderr.strip()}")
        for side, (ipv4, ipv6) in ADDRESSES.items():
            ip("-n", names[side], "address", "add", f"{ipv4}/24", "dev", CABLE)
            ip("-n", names[side], "address", "add", f"{ipv6}/64", "dev", CABLE, "nodad")
            for device in ("lo", CABLE):
                ip("-n", names[side], "link", "set", device, "up")
        yield names


def socket_in(name: str, family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
    """Make a socket in a namespace, to be used from anywhere. Raises OSError if that fails."""
    made: list[socket.socket] = []
    errors: list[OSError] = []

    def make() -> None:  # in a thread of its own, which alone changes its namespace
        try:
            with Path("/run/netns", name).open("rb") as space:
                if ctypes.CDLL(None, use_errno=True).setns(space.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), f"setns {name}")
            made.append(socket.socket(family, kind))
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return made[0]
