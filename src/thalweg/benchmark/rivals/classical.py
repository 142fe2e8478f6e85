"""Outlier detectors that look at one row at a time, with fixed settings: five rivals, and heads for Anomal-E.

A detector here is a function that fits and returns a function that rates: higher is stranger. Shapes: M training
rows, E rows to rate, F columns.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt
import torch

from thalweg.benchmark.rivals.rival import AttributeRival, Learning, Matrix
from thalweg.errors import ConfigError
from thalweg.model.interface import Progress
from thalweg.runtime.extras import need

Ratings = npt.NDArray[np.floating[Any]]
Rate = Callable[[Matrix], Ratings]

_MOST_NEIGHBOURS: Final = 20_000  # rows that a flow's nearest neighbours are sought among
_NUM_NEIGHBOURS: Final = 5
_MOST_COMPONENTS: Final = 10
_LEAST_VARIANCE: Final = 1e-6  # share of it in a principal component that is kept
_NUM_CLUSTERS: Final = 8


def fit_iforest(x: Matrix, seed: int) -> Rate:
    """Isolation forest: how few random cuts separate a row from the others.

    scikit-learn's, which PyOD's wraps.

    Source: Liu, Ting & Zhou 2008, doi:10.1109/ICDM.2008.17.
    """
    from sklearn.ensemble import IsolationForest

    forest = IsolationForest(n_estimators=100, random_state=seed).fit(x)
    return lambda rows: -np.asarray(forest.score_samples(rows))


def fit_pca(x: Matrix, seed: int) -> Rate:
    """Principal components as PyOD uses them: a row's distances to the eigenvectors, those of little variance
    weighted up.

    At most ten components, and none that holds next to no variance, whose weight would be noise.

    Source: Shyu, Chen, Sarinnapakorn & Chang 2003 (a classifier of principal components).
    """
    from pyod.models.pca import PCA

    model = PCA(n_components=_num_components(x), svd_solver="full", random_state=seed)
    # Columns that are all constant have no variance to share: 0 / 0, and every row rates the same.
    with np.errstate(invalid="ignore"):
        if not np.ptp(x, axis=0).any():
            model.set_params(weighted=False)
        model.fit(x)
    return lambda rows: np.asarray(model.decision_function(rows))


def _num_components(x: Matrix) -> int:
    spread = x.std(axis=0)
    z = (x - x.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    variance = np.linalg.eigvalsh(z.T @ z)
    return int(np.clip((variance > _LEAST_VARIANCE * variance.sum()).sum(), 1, min(_MOST_COMPONENTS, *x.shape)))


def fit_hbos(x: Matrix, seed: int) -> Rate:  # noqa: ARG001  a histogram draws nothing
    """Histogram-based outlier score, ten bins a column; columns are taken as independent.

    Source: Goldstein & Dengel 2012 (HBOS).
    """
    from pyod.models.hbos import HBOS

    model = HBOS().fit(x)
    return lambda rows: np.asarray(model.decision_function(rows))


def fit_ecod(x: Matrix, seed: int) -> Rate:  # noqa: ARG001  a distribution draws nothing
    """Tail probabilities of the columns' empirical distributions, the smaller tail of each, multiplied.

    Our own few lines: PyOD's rates rows by the distribution of training *and* rated rows together, so that a flood of
    flows makes itself look usual. Here each row is rated as PyOD would if it came alone.

    Source: Li et al. 2022, arXiv:2201.00382 (ECOD).
    """
    known = np.sort(x, axis=0)

    def rate(rows: Matrix) -> Ratings:
        total = np.zeros(len(rows))
        for column, values in zip(known.T, rows.T, strict=True):
            num_below = np.searchsorted(column, values, side="right")
            num_above = len(column) - np.searchsorted(column, values, side="left")
            total -= np.log((np.minimum(num_below, num_above) + 1) / (len(column) + 1))
        return total

    return rate


def fit_knn(x: Matrix, seed: int) -> Rate:
    """Distance to the fifth nearest of at most 20,000 training rows.

    Source: Ramaswamy, Rastogi & Shim 2000, doi:10.1145/342009.335437.
    """
    from sklearn.neighbors import KDTree

    rows = np.random.default_rng(seed).permutation(len(x))[:_MOST_NEIGHBOURS]
    tree = KDTree(x[rows])
    num = min(_NUM_NEIGHBOURS, len(rows))
    return lambda rows: np.asarray(tree.query(rows, k=num)[0][:, -1])


def fit_cblof(x: Matrix, seed: int) -> Rate:
    """Cluster-based local outlier factor: distance to the centre of the nearest large cluster.

    Eight clusters, fewer if there are fewer different rows. If their sizes do not split into large and small, all are
    large.

    Source: He, Xu & Deng 2003, doi:10.1016/S0167-8655(03)00003-5.
    """
    from pyod.models.cblof import CBLOF
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    num_clusters = min(_NUM_CLUSTERS, len(np.unique(x, axis=0)))
    model = CBLOF(n_clusters=num_clusters, random_state=seed)
    with warnings.catch_warnings():
        # Rows that differ by rounding only are one point to k-means; the clusters that it does find will do.
        warnings.filterwarnings("ignore", "Number of distinct clusters", ConvergenceWarning)
        warnings.filterwarnings("ignore", "The chosen clustering for CBLOF forms", UserWarning)
        try:
            model.fit(x)
        except ValueError as error:
            if "valid cluster separation" not in str(error):
                raise
            means = KMeans(n_clusters=num_clusters, random_state=seed).fit(x)
            return lambda rows: np.asarray(means.transform(rows)).min(axis=1)
    return lambda rows: np.asarray(model.decision_function(rows))


DETECTORS: Final[Mapping[str, Callable[[Matrix, int], Rate]]] = {
    "iforest": fit_iforest,
    "pca": fit_pca,
    "hbos": fit_hbos,
    "ecod": fit_ecod,
    "knn": fit_knn,
    "cblof": fit_cblof,
}
"""Every detector by its name: from training rows (M, F) and a seed to a function from rows (E, F) to scores (E,)."""

NEED_PYOD: Final = frozenset({"pca", "hbos", "cblof"})
"""Detectors that are PyOD's. The others need at most scikit-learn."""


@final
class ClassicalRival(AttributeRival):
    """A detector out of `DETECTORS` on the attributes of single flows.

    Raises ConfigError if there is no such detector; MissingExtraError if its package is not installed.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        if name not in DETECTORS:
            raise ConfigError(f"no detector {name!r}: choose from {', '.join(DETECTORS)}")
        need("pyod" if name in NEED_PYOD else "sklearn", extra="benchmark")
        self.name = name

    def _learn_rows(
        self,
        x: Matrix,
        judged_x: Matrix,  # noqa: ARG002  nothing to stop, nothing to choose
        *,
        seed: int,
        device: torch.device,  # noqa: ARG002  these compute on the CPU
        progress: Callable[[Progress], None],  # noqa: ARG002  seconds, in one piece
    ) -> Learning:
        self._rate = DETECTORS[self.name](x, seed)
        return Learning()

    def _rate_rows(self, x: Matrix) -> Ratings:
        return self._rate(x)
