from __future__ import annotations

import numpy as np
import torch

from thalweg.graph.familiarity import (
    LEVELS,
    NUM_FEATURES,
    NUM_OF_AMOUNTS,
    NUM_SHARED,
    OF_DST,
    OF_SRC,
    Familiarity,
    flow_keys,
)

A, B, C, D = (np.int64(n) for n in (11, 22, 33, 44))


def amounts(*rows: tuple[float, float, float]) -> np.ndarray:
    return np.log1p(np.asarray(rows, np.float32))


SRC, DST = np.array([A, A, A, B]), np.array([B, B, C, C])
BYTES = amounts((100, 50, 1), (100, 50, 1), (100, 50, 900), (7, 0, 1))
LEARNED = np.ones(4, bool)


def counted(flow_counts: np.ndarray) -> list[dict[str, int]]:
    return [dict(zip(LEVELS, row.astype(int).tolist(), strict=True)) for row in flow_counts.T]


def features(familiarity: Familiarity, *window: np.ndarray) -> np.ndarray:
    keys = flow_keys(*window)
    nothing = np.zeros((keys.shape[1], 0), np.float32)
    return familiarity.append_features(nothing, familiarity.lookup(keys), keys)


def test_counts_by_hand() -> None:
    familiarity, _ = Familiarity.fit(SRC, DST, BYTES, LEARNED)
    known, stranger = counted(
        familiarity.lookup(flow_keys(np.array([A, D]), np.array([B, C]), amounts((100, 50, 1), (7, 0, 1))))
    )
    assert known == {
        "fwd": 0, "bwd": 0, "fwd_bwd": 0, "amounts": 0, "src": 3, "dst": 2, "channel": 2, "src_amounts": 3,
        "dst_amounts": 2, "channel_amounts": 2,
    }  # fmt: skip
    assert stranger == {
        "fwd": 1, "bwd": 1, "fwd_bwd": 1, "amounts": 1, "src": 0, "dst": 2, "channel": 0, "src_amounts": 0,
        "dst_amounts": 1, "channel_amounts": 0,
    }  # fmt: skip


def test_amounts_count_the_other_sources_that_sent_them() -> None:
    src, sizes = np.array([A, A, A, B, C]), amounts(*[(100, 50, 1)] * 4, (100, 50, 900))
    familiarity, flow_counts = Familiarity.fit(src, np.array([D] * 5), sizes, np.ones(5, bool))
    assert [row["fwd_bwd"] for row in counted(flow_counts)] == [2, 2, 2, 2, 2]
    assert [row["amounts"] for row in counted(flow_counts)] == [1, 1, 1, 1, 0]  # with the duration
    assert counted(familiarity.lookup(flow_keys(src, np.array([D] * 5), sizes)))[0]["fwd_bwd"] == 2
    assert counted(familiarity.lookup(flow_keys(np.array([D]), src[:1], sizes[:1])))[0]["fwd_bwd"] == 3


def test_a_flow_does_not_vouch_for_itself_nor_for_its_neighbours_in_time() -> None:
    _, alone = Familiarity.fit(SRC, DST, BYTES, LEARNED, num_blocks=4)
    assert counted(alone)[0]["channel_amounts"] == 1  # the second flow, not itself
    assert counted(alone)[3]["fwd"] == 0  # no other source sent it
    _, together = Familiarity.fit(SRC, DST, BYTES, LEARNED, num_blocks=2)
    assert counted(together)[0]["channel_amounts"] == 0  # the second flow is in its block


def test_held_out_flows_are_not_counted_and_get_all_counts() -> None:
    learned = np.array([True, True, True, False])
    familiarity, flow_counts = Familiarity.fit(SRC, DST, BYTES, learned, num_blocks=4)
    assert familiarity.num_flows == 3
    assert counted(flow_counts)[3]["dst"] == 1
    assert counted(familiarity.lookup(flow_keys(SRC[3:], DST[3:], BYTES[3:])))[0] == counted(flow_counts)[3]


def test_only_the_most_frequent_are_kept() -> None:
    familiarity, _ = Familiarity.fit(SRC, DST, BYTES, LEARNED, max_size=1)
    assert counted(familiarity.lookup(flow_keys(SRC, DST, BYTES)))[3]["src"] == 0
    assert counted(familiarity.lookup(flow_keys(SRC, DST, BYTES)))[0]["src"] == 3


def test_levels_with_a_host_depend_on_that_host_alone() -> None:
    familiarity, _ = Familiarity.fit(SRC, DST, BYTES, LEARNED)
    before = familiarity.lookup(flow_keys(SRC[:1], DST[:1], BYTES[:1]))[:, 0]
    other_src = familiarity.lookup(flow_keys(np.array([D]), DST[:1], BYTES[:1]))[:, 0]
    other_dst = familiarity.lookup(flow_keys(SRC[:1], np.array([D]), BYTES[:1]))[:, 0]
    # For a source that never sent these amounts, one more other source did.
    assert set(np.flatnonzero(before != other_src)) == {*OF_SRC, *range(NUM_OF_AMOUNTS)}
    assert set(np.flatnonzero(before != other_dst)) == set(OF_DST)
    assert min(*OF_SRC, *OF_DST) == NUM_OF_AMOUNTS


def test_more_of_the_usual_is_a_surge() -> None:
    rng = np.random.default_rng(0)
    src, dst = rng.integers(1, 20, 1000), rng.integers(1, 20, 1000)
    sizes = amounts(*[(float(n), 0.0, 1.0) for n in rng.integers(40, 90, 1000)])
    familiarity, _ = Familiarity.fit(src, dst, sizes, np.ones(1000, bool))
    usual = features(familiarity, src, dst, sizes)
    assert usual.shape == (1000, NUM_FEATURES)
    surge = slice(NUM_SHARED - 2, NUM_SHARED)
    assert np.allclose(usual[:, surge], 0, atol=1e-5)  # the same flows at the same rates
    flooded = [np.concatenate([of, np.repeat(of[:1], 1000, axis=0)]) for of in (src, dst, sizes)]
    after = features(familiarity, *flooded)
    assert after[-1, NUM_SHARED - 1] > 1.0 / 4 > usual[0, NUM_SHARED - 1]
    assert after[1, NUM_SHARED - 3] < usual[1, NUM_SHARED - 3]  # all other flows are now a smaller share


def test_a_burst_of_an_unknown_host_has_the_same_surge_in_every_window() -> None:
    rng = np.random.default_rng(0)
    src, dst = rng.integers(1, 20, (2, 4000))
    sizes = amounts(*[(float(n), 0.0, 1.0) for n in rng.integers(40, 90, 4000)])
    familiarity, _ = Familiarity.fit(src, dst, sizes, np.ones(4000, bool))
    surprise = []
    for num in (100, 400, 4000):
        window = [
            np.concatenate([src[:num], np.full(10, 99)]),
            np.concatenate([dst[:num], np.full(10, 98)]),
            np.concatenate([sizes[:num], np.repeat(sizes[:1], 10, axis=0)]),
        ]
        last = features(familiarity, *window)[-1]
        surprise.append(last[NUM_SHARED - 2 : NUM_SHARED] * 4)
    assert np.allclose(surprise, np.log1p(10), atol=1e-5)  # the surges of the source and of the destination


def test_it_is_restored_from_its_tensors() -> None:
    familiarity, _ = Familiarity.fit(SRC, DST, BYTES, LEARNED)
    tensors = {name: torch.clone(tensor) for name, tensor in familiarity.tensors().items()}
    again = Familiarity.restore(tensors, familiarity.num_flows)
    assert np.array_equal(again.lookup(flow_keys(SRC, DST, BYTES)), familiarity.lookup(flow_keys(SRC, DST, BYTES)))


def test_nothing_to_count() -> None:
    none = np.zeros(0, np.int64)
    familiarity, flow_counts = Familiarity.fit(none, none, amounts().reshape(0, 3), np.zeros(0, bool))
    assert flow_counts.shape == (len(LEVELS), 0)
    assert counted(familiarity.lookup(flow_keys(SRC, DST, BYTES)))[0]["fwd"] == 0
    assert features(familiarity, none, none, amounts().reshape(0, 3)).shape == (0, NUM_FEATURES)


def test_noise_of_a_known_host_gets_the_counts_of_its_real_flows() -> None:
    rng = np.random.default_rng(0)
    src, dst = rng.integers(1, 12, (2, 600))
    sizes = amounts(*[(float(n), 0.0, 1.0) for n in rng.integers(40, 60, 600)])
    familiarity, flow_counts = Familiarity.fit(src, dst, sizes, np.ones(600, bool))
    here = slice(100, 300)  # a window is a run of rows, so its flows leave out only a few blocks
    fake = rng.integers(1, 14, (2, 500)), amounts(*[(float(n), 0.0, 1.0) for n in rng.integers(40, 60, 500)])
    window = (
        np.concatenate([src[here], fake[0][0]]),
        np.concatenate([dst[here], fake[0][1]]),
        np.concatenate([sizes[here], fake[1]]),
    )
    invented = familiarity.lookup(flow_keys(fake[0][0], fake[0][1], fake[1]))
    both = np.concatenate([flow_counts[:, here], invented], axis=1)
    all_counted = both.copy()
    familiarity.copy_counts(rng, both, flow_keys(*window), 200)
    for level, key in ((4, window[0]), (5, window[1]), (6, window[0] * 100 + window[1])):
        for value in np.unique(key[:200]):
            real, noise = both[level, :200][key[:200] == value], both[level, 200:][key[200:] == value]
            assert set(noise) <= set(real)
            assert all((all_counted[level, 200:][key[200:] == value] > max(real)).tolist())
    unshared = ~np.isin(window[0][200:], window[0][:200])
    assert np.array_equal(both[4, 200:][unshared], all_counted[4, 200:][unshared])


def test_without_addresses_all_levels_count_flows_and_know_no_source() -> None:
    familiarity, flow_counts = Familiarity.fit(SRC, DST, BYTES, LEARNED, use_addresses=False, num_blocks=4)
    assert [row["fwd_bwd"] for row in counted(flow_counts)] == [2, 2, 2, 0]
    assert not flow_counts[NUM_OF_AMOUNTS:].any()
    one, other = (familiarity.lookup(flow_keys(src, DST, BYTES)) for src in (SRC, SRC + 1000))
    assert np.array_equal(one, other)
    assert [row["fwd_bwd"] for row in counted(one)] == [3, 3, 3, 1]
