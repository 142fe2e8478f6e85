"""Training windows: real flows with noise among them, and all that the network gets of both.

Shapes: T training flows, E flows of a window, N hosts, F flow attributes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from thalweg.addresses import IPV4
from thalweg.graph import AttributeScaling, Familiarity, FlowGraph, PrefixVocabulary, collapse, flow_keys, host_keys
from thalweg.graph.familiarity import NUM_OF_AMOUNTS, OF_DST, OF_SRC
from thalweg.graph.hosts import NUM_LEVELS, octet_levels
from thalweg.model.learning.noise import Noise, NoiseConfig, Surroundings, draw_noise


@final
@dataclass(frozen=True, slots=True, eq=False)
class TrainingData:
    """The training flows, indexed once.

    src, dst: (E,) int64; edge_attr: (E, F) float32; held_out: (E,) bool; octets: (N, 16); kind: (N,).
    pool: (M,) int64 rows from which noise borrows amounts; flow_counts: (levels, E), see `Familiarity.fit`.
    """

    src: npt.NDArray[np.int64]
    dst: npt.NDArray[np.int64]
    edge_attr: npt.NDArray[np.float32]
    held_out: npt.NDArray[np.bool_]
    octets: Tensor
    kind: Tensor
    vocabulary: PrefixVocabulary
    pool: npt.NDArray[np.int64]
    scaling: AttributeScaling
    familiarity: Familiarity | None = None
    flow_counts: npt.NDArray[np.float32] | None = None


@final
@dataclass(frozen=True, slots=True, eq=False)
class MixedWindow:
    """A graph whose first `num_real` flows are real and the rest noise, with its hosts' prefixes.

    judged: (num_real,) bool, the real flows that count in the loss.
    """

    graph: FlowGraph
    prefix_ids: Tensor
    num_real: int
    judged: Tensor
    noise: Noise

    def to(self, device: torch.device) -> MixedWindow:
        """Return the window with all its tensors on another device."""
        return replace(
            self,
            graph=self.graph.to(device),
            prefix_ids=self.prefix_ids.to(device),
            judged=self.judged.to(device),
        )


def mix_window(
    rng: np.random.Generator,
    data: TrainingData,
    config: NoiseConfig,
    rows: npt.NDArray[np.int64],
    num_noise: int,
    *,
    judged: npt.NDArray[np.bool_],
    prefix_dropout: float,
    hidden: bool,
) -> MixedWindow:
    """Make one training window: the real flows `rows`, and `num_noise` invented ones among them."""
    src, dst = data.src[rows], data.dst[rows]
    num_known = len(data.kind)
    around = Surroundings(rows, src, dst, data.edge_attr, data.pool, num_known)
    noise = draw_noise(rng, config, num_noise, around)
    ends = torch.from_numpy(np.concatenate([src, noise.src, dst, noise.dst]))
    hosts, local = torch.unique(ends, return_inverse=True)
    known = hosts < num_known
    new_octets, new_kind = _new_hosts(rng, data, int((~known).sum()))
    octets = torch.cat([data.octets[hosts[known]], new_octets])
    kind = torch.cat([data.kind[hosts[known]], new_kind])
    prefix_ids = data.vocabulary.lookup(octets, kind)
    prefix_ids, cut = _drop_prefixes(rng, prefix_ids, 1.0 if hidden else prefix_dropout, everything=hidden)
    invented = np.where((noise.like >= 0)[:, None], noise.edge_attr, data.scaling.countable(noise.edge_attr))
    attr = np.concatenate([data.edge_attr[rows], invented])
    num = len(rows) + num_noise
    if data.familiarity is not None:
        known_by = _Known(
            host_keys(octets.numpy(), kind.numpy()), local[:num].numpy(), local[num:].numpy(), cut.numpy()
        )
        attr = _with_familiarity(rng, data, rows, noise, attr, known_by)
    graph = collapse(local[:num], local[num:], torch.from_numpy(attr), octets, kind)
    return MixedWindow(graph, prefix_ids, len(rows), torch.from_numpy(judged[rows]), noise)


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Known:
    """keys: (N,) of the window's hosts; src, dst: (E,) rows of it; cut: (N,) hosts whose address is hidden."""

    keys: npt.NDArray[np.int64]
    src: npt.NDArray[np.int64]
    dst: npt.NDArray[np.int64]
    cut: npt.NDArray[np.bool_]


def _with_familiarity(
    rng: np.random.Generator,
    data: TrainingData,
    rows: npt.NDArray[np.int64],
    noise: Noise,
    attr: npt.NDArray[np.float32],
    hosts: _Known,
) -> npt.NDArray[np.float32]:
    """Append the counts of a training window's flows to their attributes, real flows first; see `append_features`."""
    familiarity, num = data.familiarity, len(rows)
    assert familiarity is not None, "the caller checked"
    assert data.flow_counts is not None, "given together with `familiarity`"
    keys = flow_keys(hosts.keys[hosts.src], hosts.keys[hosts.dst], data.scaling.amounts(attr))
    invented = familiarity.lookup(np.ascontiguousarray(keys[:, num:]))
    # Noise with the amounts of a real flow has the counts of that flow, which leave the flow's own block out.
    lent = noise.like >= 0
    invented[:NUM_OF_AMOUNTS, lent] = data.flow_counts[:NUM_OF_AMOUNTS, noise.like[lent]]
    flow_counts = np.concatenate([data.flow_counts.take(rows, axis=1), invented], axis=1)
    familiarity.copy_counts(rng, flow_counts, keys, num)
    flow_counts[:, num + np.flatnonzero(noise.copied)] = data.flow_counts[:, noise.like[noise.copied]]
    # A host whose address is hidden has no history.
    for cut, levels in ((hosts.cut[hosts.src], OF_SRC), (hosts.cut[hosts.dst], OF_DST)):
        flow_counts[list(levels)] *= ~cut
    return familiarity.append_features(attr, flow_counts, keys)


def _new_hosts(rng: np.random.Generator, data: TrainingData, num: int) -> tuple[Tensor, Tensor]:
    """Invent addresses: some in a known subnet, of any width, some anywhere."""
    like = torch.from_numpy(rng.integers(0, len(data.kind), num))
    octets, kind = data.octets[like].clone(), data.kind[like].clone()
    # Keep the first 0 to 3 levels of a known host's address and draw the rest.
    keep = torch.from_numpy(rng.integers(0, NUM_LEVELS, num))
    drawn = torch.from_numpy(rng.integers(0, 256, (num, 16), dtype=np.uint8))
    replaced = octet_levels(kind) >= keep[:, None]
    replaced[kind == IPV4, :12] = False
    return torch.where(replaced, drawn, octets), kind


def _drop_prefixes(
    rng: np.random.Generator, prefix_ids: Tensor, share: float, *, everything: bool
) -> tuple[Tensor, Tensor]:
    """Cut the prefixes of a share of the hosts short, at a level drawn for each."""
    num = len(prefix_ids)
    cut = torch.from_numpy(np.where(rng.random(num) < share, rng.integers(0, NUM_LEVELS, num), NUM_LEVELS))
    if everything:
        cut = torch.zeros_like(cut)
    return prefix_ids * (torch.arange(NUM_LEVELS)[None] < cut[:, None]), cut < NUM_LEVELS
