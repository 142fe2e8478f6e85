"""A flow's own attributes as numbers that a network can learn from: log1p, standardised, clipped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, final

import numpy as np
import numpy.typing as npt
import polars as pl

from thalweg.errors import ConfigError, SchemaError
from thalweg.runtime.jit import compiled
from thalweg.runtime.parallel import parallel_for
from thalweg.runtime.settings import value_of
from thalweg.tables import Flows, missing_column

AttributeSet = Literal["standard", "extended"]

STANDARD: Final = ("fwd_bytes", "bwd_bytes", "duration_ms")
_COUNTS: Final = ("fwd_packets", "bwd_packets")
_CLIP: Final = 8.0
_LEAST_SCALE: Final = 1e-3
_LARGEST: Final = 1e3
"""No center or scale of log1p(amount) is larger: that of the largest float64 is 710."""

FLAG_NAMES: Final[Mapping[str, pl.Expr]] = {
    "is_tcp": pl.col("protocol") == 6,
    "is_udp": pl.col("protocol") == 17,
    "is_icmp": pl.col("protocol").is_in([1, 58]),
    "dst_port_low": pl.col("dst_port") < 1024,
    "src_port_low": pl.col("src_port") < 1024,
    "tcp_syn": pl.col("tcp_flags") & 2 != 0,
    "tcp_ack": pl.col("tcp_flags") & 16 != 0,
    "tcp_rst": pl.col("tcp_flags") & 4 != 0,
    "tcp_fin": pl.col("tcp_flags") & 1 != 0,
    "tcp_psh": pl.col("tcp_flags") & 8 != 0,
}
"""The yes-or-no attributes of the extended set, each computed from one declared column."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class AttributeScaling:
    """Maps flows to edge attributes; fitted once, on training flows, and kept in the model file.

    names: F attribute names, the amounts (log1p) first, then the yes-or-no ones.
    center, scale: (F,) float64, of the amounts after log1p; 0 and 1 for the yes-or-no ones.
    num_amounts: how many of the F are amounts. whole: whether each amount had only whole values in training.
    """

    names: tuple[str, ...]
    center: npt.NDArray[np.float64]
    scale: npt.NDArray[np.float64]
    num_amounts: int
    whole: tuple[bool, ...] = ()

    @classmethod
    def fit(cls, flows: Flows, attributes: AttributeSet = "standard") -> AttributeScaling:
        """Choose the attributes that these flows have and measure their centre and spread.

        Raises SchemaError if the extended set is asked for and the flows have none of its columns.
        """
        names: list[str] = list(STANDARD)
        if attributes == "extended":
            found = flows.frame.columns
            names += [name for name in _COUNTS if name in found]
            num_amounts = len(names)
            names += [name for name, of in FLAG_NAMES.items() if of.meta.root_names()[0] in found]
            if len(names) == len(STANDARD):
                raise missing_column([*_COUNTS, "protocol"], found, "--attributes extended")
        else:
            num_amounts = len(names)
        scaling = cls(tuple(names), np.zeros(len(names)), np.ones(len(names)), num_amounts)
        raw = scaling._raw(flows)[:, :num_amounts].astype(np.float64)
        center, scale = np.zeros(len(names)), np.ones(len(names))
        center[:num_amounts] = raw.mean(axis=0)
        # The floor keeps the rounding noise of a constant attribute from being amplified.
        scale[:num_amounts] = np.maximum(raw.std(axis=0), _LEAST_SCALE)
        columns = (flows.frame[name] for name in names[:num_amounts])
        whole = tuple(column.dtype.is_integer() or bool((column == column.round()).all()) for column in columns)
        return cls(tuple(names), center, scale, num_amounts, whole)

    def transform(self, flows: Flows) -> npt.NDArray[np.float32]:
        """Return the edge attributes. Returns: (E, F) float32, clipped to ±8 standard deviations.

        Raises SchemaError if a column that the model was fitted on is missing.
        """
        self._check(flows)
        out = np.empty((len(flows), len(self.names)), np.float32)
        center, scale = self.center.astype(np.float32), self.scale.astype(np.float32)
        for i, name in enumerate(self.names):
            if i < self.num_amounts:
                column = flows.frame[name]
                amount = (column.fill_null(0) if column.null_count() else column).to_numpy().view()
                amount.flags.writeable = False  # mostly so already: Numba compiles once for each kind
                parallel_for(partial(_standardise, amount, center[i], scale[i], out, i), len(flows))
            else:
                flag = flows.frame.select(FLAG_NAMES[name].cast(pl.Float32).fill_null(0)).to_series().to_numpy()
                out[:, i] = ((flag - center[i]) / scale[i]).clip(-_CLIP, _CLIP)
        return out

    def clip(self, raw: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Standardise and clip raw attributes, log1p amounts and flags. raw: (E, F)."""
        z = (raw - self.center.astype(np.float32)) / self.scale.astype(np.float32)
        clipped: npt.NDArray[np.float32] = z.clip(-_CLIP, _CLIP)
        return clipped

    def countable(self, z: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Round invented attributes to values that the training flows' exporter could have reported.

        Bytes and packets are whole numbers, so are durations in some exports, and flags are 0 or 1. A model could
        recognise noise by any other value. z: (K, F) standardised. Returns: (K, F) standardised.
        """
        raw = z * self.scale.astype(np.float32) + self.center.astype(np.float32)
        for i, whole in enumerate(self.whole):
            amount = np.clip(raw[:, i], 0, 44)  # e^44 is above the largest u64 count
            raw[:, i] = np.log1p(np.rint(np.expm1(amount))) if whole else amount
        raw[:, self.num_amounts :] = np.clip(np.rint(raw[:, self.num_amounts :]), 0, 1)
        return self.clip(raw)

    def amounts(self, z: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Undo the scaling: log1p of bytes forward, bytes backward, duration. z: (E, F). Returns: (E, 3) float32."""
        num = len(STANDARD)
        raw: npt.NDArray[np.float32] = z[:, :num] * self.scale[:num].astype(np.float32) + self.center[:num].astype(
            np.float32
        )
        return raw

    def _check(self, flows: Flows) -> None:
        needed = [n if i < self.num_amounts else FLAG_NAMES[n].meta.root_names()[0] for i, n in enumerate(self.names)]
        absent = sorted({name for name in needed if name not in flows.frame.columns})
        if absent:
            raise SchemaError(
                f"the model was fitted with {', '.join(absent)}, which these flows lack: "
                f"map them, or fit a model with --attributes standard"
            )

    def _raw(self, flows: Flows) -> npt.NDArray[np.float32]:
        self._check(flows)
        frame = flows.frame.select(
            (pl.col(n).cast(pl.Float64).log1p() if i < self.num_amounts else FLAG_NAMES[n].cast(pl.Float32))
            .fill_null(0)
            .cast(pl.Float32)
            .alias(n)
            for i, n in enumerate(self.names)
        )
        return np.ascontiguousarray(frame.to_numpy(), dtype=np.float32)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "names": list(self.names),
            "center": self.center.tolist(),
            "scale": self.scale.tolist(),
            "num_amounts": self.num_amounts,
            "whole": list(self.whole),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> AttributeScaling:
        """Return the scaling whose `as_dict` gave these fields. Raises ConfigError if they are none."""
        names = value_of(tuple[str, ...], fields["names"], "scaling names")
        num_amounts = value_of(int, fields["num_amounts"], "scaling num_amounts")
        amounts, flags = names[:num_amounts], names[num_amounts:]
        of_amounts = amounts[: len(STANDARD)] == STANDARD and set(amounts[len(STANDARD) :]) <= set(_COUNTS)
        if not of_amounts or not set(flags) <= set(FLAG_NAMES) or len(set(names)) != len(names):
            raise ConfigError(f"scaling names are {num_amounts} amounts, then flags, each once, not {', '.join(names)}")
        center, scale = (value_of(tuple[float, ...], fields[key], f"scaling {key}") for key in ("center", "scale"))
        whole = value_of(tuple[bool, ...], fields["whole"], "scaling whole")
        if not len(names) == len(center) == len(scale) or len(whole) != num_amounts:
            raise ConfigError("scaling has a center and a scale for each name, and says of each amount if it is whole")
        if min(scale) < _LEAST_SCALE or max(map(abs, (*center, *scale))) > _LARGEST:
            raise ConfigError(f"scaling lies beyond what amounts can have: center {center}, scale {scale}")
        return cls(names, np.asarray(center, np.float64), np.asarray(scale, np.float64), num_amounts, whole)


@compiled()
def _standardise(amount: Any, center: float, scale: float, out: Any, column: int, begin: int, end: int) -> None:
    """Fill rows of one column of `out` (E, F) with log1p of amounts (E,), standardised and clipped, as `clip` does."""
    for i in range(begin, end):
        z = (np.float32(math.log1p(np.float64(amount[i]))) - center) / scale
        out[i, column] = min(max(z, np.float32(-_CLIP)), np.float32(_CLIP))
