"""Which rows a model was fitted on: a rule that is small enough for the model file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

from thalweg.errors import ConfigError
from thalweg.runtime.condition import check_condition, rows_where
from thalweg.runtime.hashing import mix
from thalweg.runtime.settings import make_settings
from thalweg.tables import Flows


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """A rule that chooses rows: a SQL condition, and a seeded share of its rows that is held out.

    `where` is a condition over the source's own and the declared columns, such as "Attack = 'Benign'" or
    "start < '2011-08-16 10:50' AND NOT label". Whether `holdout` leaves a row out depends only on `seed` and the row's
    number in its file, so a copy of the file, read in any chunks, gives the same rows.

    Raises ConfigError if `holdout` is not in [0, 1), or if `where` is no condition.
    """

    where: str | None = None
    holdout: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the condition, as far as this is possible without a table, and the share."""
        if self.where is not None:
            check_condition(self.where)
        if not 0 <= self.holdout < 1:
            raise ConfigError(f"--holdout is a share of the rows, at least 0 and below 1, not {self.holdout}")

    def mask(self, flows: Flows) -> npt.NDArray[np.bool_]:
        """Return which rows are chosen. Returns: (E,) bool.

        Raises ConfigError if the condition cannot be evaluated on these columns.
        """
        keep = np.ones(len(flows), bool) if self.where is None else evaluate_condition(self.where, flows)
        if self.holdout:
            keep &= _uniform(flows.frame["row"].to_numpy(), self.seed) >= self.holdout
        return keep

    def as_dict(self) -> dict[str, Any]:
        """Return the rule for a model file's header."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Selection:
        """Return the rule whose `as_dict` gave these fields. Raises ConfigError if they are none."""
        return make_settings(cls, fields, "selection:")


def evaluate_condition(where: str, flows: Flows) -> npt.NDArray[np.bool_]:
    """Evaluate a SQL condition on every row; null counts as false. Returns: (E,) bool.

    Raises ConfigError if it is not a condition over the source's own and the declared columns.
    """
    return rows_where(where, flows.wide()).to_numpy()


def _uniform(rows: npt.NDArray[np.uint64], seed: int) -> npt.NDArray[np.float64]:
    """Map row numbers to [0, 1): splitmix64 of seed and row, the same on every machine."""
    mask = (1 << 64) - 1
    x = rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64((seed * 0xD1B54A32D192ED03 + 1) & mask)
    return mix(x).astype(np.float64) / 2.0**64
