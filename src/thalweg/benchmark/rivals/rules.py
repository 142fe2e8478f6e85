"""Three rules that cost nothing; a model that does not beat them has learned little. Shapes: E flows, N hosts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch

from thalweg.benchmark.rivals.rival import Learning, Rival
from thalweg.graph.flowgraph import HostTable, index_hosts
from thalweg.model.interface import Progress
from thalweg.tables import Flows

# The rules use no seed, no held-out flows, no device and no progress.
# ruff: noqa: ARG002


@final
class UnseenPair(Rival):
    """A flow is strange (1) if no training flow went from its source to its destination; otherwise 0."""

    name = "unseen-pair"

    def _learn(
        self, learned: Flows, judged: Flows, *, seed: int, device: torch.device, progress: Callable[[Progress], None]
    ) -> Learning:
        src, dst, hosts = index_hosts(learned)
        self._known = np.unique(_keys(hosts))
        rank = _rank(self._known, hosts)
        self._pairs = np.unique(self._pair(rank[src.numpy()], rank[dst.numpy()]))
        return Learning()

    def _strangeness(self, flows: Flows) -> npt.NDArray[np.floating[Any]]:
        src, dst, hosts = index_hosts(flows)
        rank = _rank(self._known, hosts)
        source, destination = rank[src.numpy()], rank[dst.numpy()]
        seen = (source >= 0) & (destination >= 0) & np.isin(self._pair(source, destination), self._pairs)
        strange: npt.NDArray[np.float64] = (~seen).astype(np.float64)
        return strange

    def _pair(self, source: npt.NDArray[np.int64], destination: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return source * len(self._known) + destination


@final
class UnseenSource(Rival):
    """A flow is strange (1) if no training flow had its source; otherwise 0."""

    name = "unseen-source"

    def _learn(
        self, learned: Flows, judged: Flows, *, seed: int, device: torch.device, progress: Callable[[Progress], None]
    ) -> Learning:
        src, _, hosts = index_hosts(learned)
        self._known = np.unique(_keys(hosts)[np.unique(src.numpy())])
        return Learning()

    def _strangeness(self, flows: Flows) -> npt.NDArray[np.floating[Any]]:
        src, _, hosts = index_hosts(flows)
        strange: npt.NDArray[np.float64] = (_rank(self._known, hosts) < 0)[src.numpy()].astype(np.float64)
        return strange


@final
class BusiestSource(Rival):
    """The strangeness of a flow is the logarithm of the number of flows that its source opens in this window.

    Nothing is learned.
    """

    name = "busiest-source"

    def _learn(
        self, learned: Flows, judged: Flows, *, seed: int, device: torch.device, progress: Callable[[Progress], None]
    ) -> Learning:
        return Learning()

    def _strangeness(self, flows: Flows) -> npt.NDArray[np.floating[Any]]:
        src = index_hosts(flows)[0].numpy()
        strange: npt.NDArray[np.float64] = np.log(np.bincount(src)[src])
        return strange


def _keys(hosts: HostTable) -> npt.NDArray[np.bytes_]:
    """Return keys that identify hosts in any window, however their addresses are written. Returns: (N,) of 17 bytes."""
    octets, kind = hosts.octets.numpy(), hosts.kind.numpy()
    return np.ascontiguousarray(np.concatenate([octets, kind[:, None]], axis=1)).view("S17").ravel()


def _rank(known: npt.NDArray[np.bytes_], hosts: HostTable) -> npt.NDArray[np.int64]:
    """Find hosts among the sorted known keys. Returns: (N,) int64 places in `known`, -1 for a host not there."""
    keys = _keys(hosts)
    at = np.searchsorted(known, keys).clip(max=len(known) - 1)
    return np.where(known[at] == keys, at, -1).astype(np.int64)
