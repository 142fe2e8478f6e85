from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from thalweg.addresses import parse_addresses
from thalweg.graph import PrefixVocabulary, converge, octet_features, undirected

SEEN = ["10.1.2.3", "10.1.2.4", "192.168.7.9", "2001:db8:aaaa:bbbb::1", "printer"]


def parse(texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    octets, kind = parse_addresses(pl.Series(texts))
    return torch.from_numpy(octets), torch.from_numpy(kind)


def fit(texts: list[str], min_flows: int = 1, num_levels: int = 4) -> PrefixVocabulary:
    octets, kind = parse(texts)
    num_flows = np.arange(1, len(texts) + 1)
    return PrefixVocabulary.fit(octets.numpy(), kind.numpy(), num_flows, min_flows=min_flows, num_levels=num_levels)


def test_octets_of_known_addresses() -> None:
    x = octet_features(*parse(["10.0.0.255", "2001:db8::1", "printer"]))
    assert torch.allclose(x[0] * 255, torch.tensor([0.0] * 10 + [255, 255, 10, 0, 0, 255]))
    assert (x[1] * 255).round().int().tolist() == [0x20, 0x01, 0x0D, 0xB8, *[0] * 11, 1]
    assert not x[2].any()


@pytest.mark.parametrize(
    ("address", "known"),
    [
        ("10.1.2.3", [True, True, True, True]),
        ("10.1.2.99", [True, True, True, False]),
        ("10.1.9.9", [True, True, False, False]),
        ("10.9.9.9", [True, False, False, False]),
        ("11.1.2.3", [False] * 4),
        ("2001:db8:aaaa:bbbb::1", [True] * 4),
        ("2001:db8:aaaa:bbbb::2", [True, True, True, False]),
        ("2001:db8:aaaa:cccc::1", [True, True, False, False]),
        ("2001:db8:eeee::1", [True, False, False, False]),
        ("2001:db9::1", [False] * 4),
        ("printer", [False, False, False, True]),
        ("scanner", [False] * 4),
    ],
)
def test_an_unseen_host_falls_back_to_its_subnet(address: str, known: list[bool]) -> None:
    assert (fit(SEEN).lookup(*parse([address]))[0] > 0).tolist() == known


def test_prefixes_are_shared_by_a_subnet_and_differ_between_them() -> None:
    ids = fit(SEEN).lookup(*parse(SEEN))
    assert ids[0, :3].tolist() == ids[1, :3].tolist()
    assert ids[0, 3] != ids[1, 3]
    assert ids[0, 0] != ids[2, 0]


def test_rare_prefixes_are_left_out() -> None:
    vocabulary = fit(SEEN, min_flows=3)  # the hosts carry 1, 2, 3, 4 and 5 flows
    ids = vocabulary.lookup(*parse(SEEN))
    assert (ids[0] > 0).tolist() == [True, True, True, False]  # 1 + 2 flows make the subnet, not the host
    assert (ids[2] > 0).all()


def test_num_levels_keeps_only_the_widest_levels() -> None:
    vocabulary = fit(SEEN, num_levels=3)
    assert vocabulary.sizes[3] == 0 < vocabulary.sizes[2]
    assert (vocabulary.lookup(*parse(SEEN))[:, 3] == 0).all()


def test_converged_embeddings_are_the_dense_solution() -> None:
    rng = torch.Generator().manual_seed(0)
    num = 40
    src, dst = torch.randint(0, num - 3, (2, 90), generator=rng)  # the last three hosts have no neighbour
    adjacency = undirected(src, dst, num)
    e0 = torch.rand(num, 5, generator=rng, dtype=torch.float64)
    dense = adjacency.csr(torch.float64).to_dense()
    assert torch.equal(dense, dense.T)
    assert not dense.diagonal().any()
    mean = dense / adjacency.degree.clamp(min=1)[:, None]
    for restart in (0.2, 0.5):
        solved = torch.linalg.solve(torch.eye(num) - (1 - restart) * mean, restart * e0)
        assert torch.allclose(converge(e0, adjacency, restart=restart, tol=1e-12), solved, atol=1e-9)
        rough = converge(e0, adjacency, restart=restart, tol=1e-3)
        assert (rough - solved).abs().max() < 1e-3 / restart
