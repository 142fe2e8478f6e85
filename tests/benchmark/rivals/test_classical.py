"""The detectors on single rows: against PyOD, by hand, and on degenerate rows."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from pyod.models.ecod import ECOD
from pyod.models.hbos import HBOS
from pyod.models.iforest import IForest
from pyod.models.knn import KNN
from pyod.models.pca import PCA

from thalweg.benchmark.rivals import classical, make_rivals
from thalweg.benchmark.rivals.classical import DETECTORS, NEED_PYOD, ClassicalRival, fit_ecod, fit_knn
from thalweg.benchmark.rivals.rival import Matrix
from thalweg.errors import ConfigError, MissingExtraError


def rows(num: int, seed: int = 0) -> Matrix:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((num, 3)) * [1, 2, 3] + rng.exponential(1, (num, 1))


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("iforest", IForest(random_state=4)),
        ("hbos", HBOS()),
        ("pca", PCA()),
        ("knn", KNN(n_neighbors=5)),
    ],
)
def test_scores_rank_as_those_of_pyod(name: str, theirs: IForest | HBOS | PCA | KNN) -> None:
    x, new = rows(300), rows(100, seed=1)
    ours, others = DETECTORS[name](x, 4)(new), theirs.fit(x).decision_function(new)
    # PyOD's isolation forest is shifted by a constant.
    np.testing.assert_allclose(ours - ours.mean(), others - others.mean(), atol=1e-9)


def test_ecod_rates_each_row_as_pyod_rates_it_alone() -> None:
    x, new = rows(200), np.concatenate([rows(20, seed=1), [[50.0, -50.0, 0.0]], rows(200)[:3]])
    theirs = ECOD().fit(x)
    alone = np.concatenate([theirs.decision_function(row[None]) for row in new])
    np.testing.assert_allclose(fit_ecod(x, 0)(new), alone, rtol=1e-9)


def test_ecod_by_hand_and_however_many_come() -> None:
    x = np.array([[1.0], [2.0], [2.0], [3.0]])
    rate = fit_ecod(x, 0)
    # 0 lies below all: 1 of 5 with itself. 2 has 4 of 5 not above it and 4 of 5 not below.
    np.testing.assert_allclose(rate(np.array([[0.0], [2.0]])), [np.log(5), np.log(5 / 4)])
    np.testing.assert_allclose(rate(np.full((1000, 1), 9.0)), np.log(5))


def test_neighbours_are_sought_among_a_part_of_many_rows_drawn_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classical, "_MOST_NEIGHBOURS", 40)
    x, new = rows(500), rows(50, seed=1)
    first, again, other = (fit_knn(x, seed)(new) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert fit_knn(x[:2], 0)(x[:2]) == pytest.approx([np.linalg.norm(x[0] - x[1])] * 2)


@pytest.mark.parametrize("name", DETECTORS)
def test_columns_without_variance_and_repeated_rows_give_finite_scores(name: str) -> None:
    x = np.zeros((60, 3))
    x[:, 0] = np.arange(60) % 3
    copied = np.concatenate([x, x[:, :1] * 2 + 1], axis=1)
    far = np.array([[9.0, 0, 0], [1.0, 0, 0]])
    scores = DETECTORS[name](x, 0)(far)
    assert np.isfinite(scores).all()
    assert scores[0] >= scores[1]
    assert np.isfinite(DETECTORS[name](copied, 0)(copied)).all()
    assert np.isfinite(DETECTORS[name](x[:1], 0)(far)).all()


def test_without_pyod_the_next_step_is_said_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyod", None)
    for family in ("pca", "hbos", "anomal-e"):
        with pytest.raises(MissingExtraError, match=r"pip install 'thalweg\[benchmark\]'"):
            make_rivals(family)
    for name in sorted(set(DETECTORS) - NEED_PYOD):
        assert ClassicalRival(name).name == name
    with pytest.raises(ConfigError, match="no detector 'svm': choose from iforest"):
        ClassicalRival("svm")


def test_the_rest_imports_without_pyod() -> None:
    code = (
        "import sys; sys.modules['pyod'] = None\n"
        "import thalweg.cli.app, thalweg.detect, thalweg.benchmark.rivals\n"
        "import thalweg.published.model, thalweg.benchmark.rivals.anomal_e.model, thalweg.benchmark.rivals.rules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
