"""Sparse matrices, their products with dense columns, and the closed walks that a Graph U-Net leaves out, compiled.

Shapes: R rows, C columns, M entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from thalweg.graph import compiled as graph_loops
from thalweg.runtime.jit import ANY_ORDER, compiled
from thalweg.runtime.parallel import even_ranges, parallel_map, ranges_of_weight

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Indices = npt.NDArray[Any]

_ENTRIES: Final = 8192
_HOSTS: Final = 256


@final
@dataclass(frozen=True, slots=True, eq=False)
class CSR:
    """A sparse matrix (R, C), its entries row by row; no place has two.

    start: (R + 1,), the first entry of each row; col: (M,); value: (M,).
    """

    start: Ints
    col: Ints
    value: npt.NDArray[Any]
    num_cols: int

    @classmethod
    def of(cls, row: Ints, col: Ints, value: npt.NDArray[Any], shape: tuple[int, int]) -> CSR:
        """Gather entries that come in any order; a row's are in order of their columns. row, col: (M,)."""
        by_col, _ = graph_loops.sort(col, shape[1])
        by_row, start = graph_loops.sort(row[by_col], shape[0])
        order = by_col[by_row]
        return cls(start, col[order], value[order], shape[1])

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self.start) - 1

    def plus_identity(self) -> CSR:
        """Return the sum of a square matrix without a diagonal and the identity."""
        row, all_ = np.repeat(np.arange(self.num_rows), np.diff(self.start)), np.arange(self.num_rows)
        ones = np.ones(self.num_rows, self.value.dtype)
        rows, cols = np.concatenate([row, all_]), np.concatenate([self.col, all_])
        return CSR.of(rows, cols, np.concatenate([self.value, ones]), (self.num_rows, self.num_cols))

    def rows(self, keep: Ints) -> CSR:
        """Return the rows `keep` (K,), in that order. Returns: (K, C)."""
        size = np.diff(self.start)[keep]
        start = _starts(size)
        entries = np.repeat(self.start[keep] - start[:-1], size) + np.arange(start[-1])
        return CSR(start, self.col[entries], self.value[entries], self.num_cols)

    def columns(self, keep: Ints) -> CSR:
        """Return the columns `keep` (K,), in that order; a row's entries stay as they were ordered. Returns: (R, K)."""
        place = np.full(self.num_cols, -1)
        place[keep] = np.arange(len(keep))
        col = place[self.col]
        is_kept = col >= 0
        return CSR(_starts(is_kept)[self.start], col[is_kept], self.value[is_kept], len(keep))

    def transposed(self) -> CSR:
        """Return the transpose, a row's entries in order of their columns. Returns: (C, R)."""
        order, start = graph_loops.sort(self.col, self.num_cols)
        row = np.repeat(np.arange(self.num_rows), np.diff(self.start))
        return CSR(start, row[order], self.value[order], self.num_rows)

    def arrays(self) -> tuple[Ints, Ints, npt.NDArray[Any]]:
        """Return the arguments for compiled loops."""
        return self.start, self.col, self.value


def _starts(size: npt.NDArray[Any]) -> Ints:
    return np.concatenate([[0], np.cumsum(size)])


def times(
    matrix: CSR, x: npt.NDArray[Any], own: npt.NDArray[Any] | None = None, of: npt.NDArray[Any] | None = None
) -> npt.NDArray[Any]:
    """Return matrix @ x, plus own[:, None] * of if they are given.

    matrix: (R, C); x: (C, D), own: (R,), of: (R, D), of the same type. Returns: (R, D).
    """
    out = np.empty((matrix.num_rows, x.shape[1]), x.dtype)
    own = np.zeros(0, x.dtype) if own is None else own
    of = np.zeros((0, 0), x.dtype) if of is None else of
    given = (*matrix.arrays(), np.ascontiguousarray(x), own, of, out)
    parallel_map(_times, ranges_of_weight(matrix.start, _ENTRIES), *given)
    return out


@final
@dataclass(frozen=True, slots=True, eq=False)
class TwoSteps:
    """T1 = out @ into with its diagonal emptied, never formed. K hosts are kept of N.

    out: (K, N), into: (N, K) of float64, and their transposes, so that columns can be followed too.
    closed: (K,), the diagonal of out @ into.
    """

    out: CSR
    into: CSR
    out_t: CSR
    into_t: CSR
    closed: Doubles

    @classmethod
    def among(cls, near: CSR, keep: Ints) -> TwoSteps:
        """Restrict near @ near to the hosts `keep` (K,). near: (N, N) of whole numbers, float64, rows in order."""
        out, into = near.rows(keep), near.columns(keep)
        into_t, closed = into.transposed(), np.empty(len(keep))
        _closed_by_one(*out.arrays(), *into_t.arrays(), closed)
        return cls(out, into, out.transposed(), into_t, closed)

    def dense(self) -> Doubles:
        """Return out @ into, its diagonal included. Returns: (K, K)."""
        product = np.zeros((self.out.num_rows, self.into.num_cols))
        ranges = ranges_of_weight(self.out.start, _ENTRIES)
        parallel_map(_product, ranges, *self.out.arrays(), *self.into.arrays(), product)
        return product

    def apply(self, x: Doubles, stay: float = 0.0) -> Doubles:
        """Return T1 @ x + stay x. x: (K, D). Returns: (K, D)."""
        return times(self.out, times(self.into, x), stay - self.closed, x)

    def closed_by_two(self, keep: Ints) -> Doubles:
        """Return the diagonal of (T1 + I)² at the hosts `keep` (L,). Returns: (L,)."""
        walks = np.empty(len(keep))
        parallel_map(_closed_by_two, even_ranges(len(keep), _HOSTS), keep, *self._arrays(), walks)
        return walks

    def closed_by_four(self, keep: Ints, keep_next: Ints) -> Doubles:
        """Return the diagonal of (T2 + I)² at some hosts, T2 = (T1 + I)² among `keep` with an empty diagonal.

        keep: (L,) below K; keep_next: (M,) below L. Returns: (M,).
        """
        walks, is_kept = np.empty(len(keep_next)), np.zeros(len(self.closed), np.bool_)
        is_kept[keep] = True
        given = (keep[keep_next], *self._arrays(), self.closed, is_kept, walks)
        parallel_map(_closed_by_four, even_ranges(len(keep_next), _HOSTS // 4), *given)
        return walks

    def _arrays(self) -> tuple[Indices | Doubles, ...]:
        matrices = (self.out, self.into, self.out_t, self.into_t)
        return tuple(part for matrix in matrices for part in matrix.arrays())


@compiled(*ANY_ORDER)
def _times(
    first: int,
    last: int,
    start: Indices,
    col: Indices,
    value: Indices,
    x: Indices,
    own: Indices,
    of: Indices,
    out: Indices,
) -> None:
    width = x.shape[1]
    for row in range(first, last):
        into = out[row]
        if len(own):
            amount, other = own[row], of[row]
            for d in range(width):
                into[d] = amount * other[d]
        else:
            for d in range(width):
                into[d] = 0
        for at in range(start[row], start[row + 1]):
            amount, other = value[at], x[col[at]]
            for d in range(width):
                into[d] += amount * other[d]


@compiled(*ANY_ORDER)
def _product(
    first: int,
    last: int,
    start_1: Indices,
    col_1: Indices,
    value_1: Doubles,
    start_2: Indices,
    col_2: Indices,
    value_2: Doubles,
    out: Doubles,
) -> None:
    """Add the product of two matrices to `out`."""
    for row in range(first, last):
        for i in range(start_1[row], start_1[row + 1]):
            amount, middle = value_1[i], col_1[i]
            for j in range(start_2[middle], start_2[middle + 1]):
                out[row, col_2[j]] += amount * value_2[j]


@compiled(*ANY_ORDER)
def _closed_by_one(
    out_start: Indices,
    out_col: Indices,
    out_value: Doubles,
    into_t_start: Indices,
    into_t_col: Indices,
    into_t_value: Doubles,
    walks: Doubles,
) -> None:
    """Fill in the diagonal of out @ into. Rows of both are in order."""
    for host in range(len(walks)):
        total, j, last = 0.0, into_t_start[host], into_t_start[host + 1]
        for i in range(out_start[host], out_start[host + 1]):
            while j < last and into_t_col[j] < out_col[i]:
                j += 1
            if j < last and into_t_col[j] == out_col[i]:
                total += out_value[i] * into_t_value[j]
        walks[host] = total


@compiled(*ANY_ORDER)
def _two_steps_from(
    host: int,
    start_1: Indices,
    col_1: Indices,
    value_1: Doubles,
    start_2: Indices,
    col_2: Indices,
    value_2: Doubles,
    reached: Doubles,
    which: Indices,
) -> int:
    """Add row `host` of the product of two matrices to `reached`; list in `which` what was 0 there. All values > 0.

    Returns: how many are listed.
    """
    num = 0
    for i in range(start_1[host], start_1[host + 1]):
        amount, middle = value_1[i], col_1[i]
        for j in range(start_2[middle], start_2[middle + 1]):
            at = col_2[j]
            if reached[at] == 0:
                which[num] = at
                num += 1
            reached[at] += amount * value_2[j]
    return num


@compiled(*ANY_ORDER)
def _closed_by_two(
    first: int,
    last: int,
    keep: Indices,
    out_start: Indices,
    out_col: Indices,
    out_value: Doubles,
    into_start: Indices,
    into_col: Indices,
    into_value: Doubles,
    out_t_start: Indices,
    out_t_col: Indices,
    out_t_value: Doubles,
    into_t_start: Indices,
    into_t_col: Indices,
    into_t_value: Doubles,
    walks: Doubles,
) -> None:
    num_hosts = len(out_start) - 1
    forth, back = np.zeros(num_hosts), np.zeros(num_hosts)
    which, other = np.empty(num_hosts, np.int64), np.empty(num_hosts, np.int64)
    for place in range(first, last):
        host = keep[place]
        num = _two_steps_from(host, out_start, out_col, out_value, into_start, into_col, into_value, forth, which)
        num_other = _two_steps_from(
            host, into_t_start, into_t_col, into_t_value, out_t_start, out_t_col, out_t_value, back, other
        )
        total = 1.0  # to stay and to stay again
        for i in range(num):
            at = which[i]
            if at != host:
                total += forth[at] * back[at]
            forth[at] = 0
        for i in range(num_other):
            back[other[i]] = 0
        walks[place] = total


@compiled(*ANY_ORDER)
def _closed_by_four(
    first: int,
    last: int,
    hosts: Indices,
    out_start: Indices,
    out_col: Indices,
    out_value: Doubles,
    into_start: Indices,
    into_col: Indices,
    into_value: Doubles,
    out_t_start: Indices,
    out_t_col: Indices,
    out_t_value: Doubles,
    into_t_start: Indices,
    into_t_col: Indices,
    into_t_value: Doubles,
    closed: Doubles,
    is_kept: npt.NDArray[np.bool_],
    walks: Doubles,
) -> None:
    num_kept, num_hosts = len(out_start) - 1, len(into_start) - 1
    near, far, mid = np.zeros(num_kept), np.zeros(num_kept), np.zeros(num_hosts)
    which_near, which_far = np.empty(num_kept, np.int64), np.empty(num_kept, np.int64)
    which_mid = np.empty(num_hosts, np.int64)
    for place in range(first, last):
        host = hosts[place]
        # Column `host` of T1 + I; exact, as its diagonal is set and not subtracted.
        num = _two_steps_from(
            host, into_t_start, into_t_col, into_t_value, out_t_start, out_t_col, out_t_value, near, which_near
        )
        near[host] = 1
        # Then that of its square, (out @ into - closed + I) @ near, at the hosts kept, `host` left out.
        num_mid = _step(near, which_near, num, into_t_start, into_t_col, into_t_value, mid, which_mid)
        num_far = _step(mid, which_mid, num_mid, out_t_start, out_t_col, out_t_value, far, which_far)
        for i in range(num):
            # What is near is far too, by staying; so it is listed.
            at = which_near[i]
            far[at] += (1 - closed[at]) * near[at]
        _forget(near, which_near, num)
        _forget(mid, which_mid, num_mid)
        for i in range(num_far):
            at = which_far[i]
            if not is_kept[at] or at == host:
                far[at] = 0
        # The row of the square times that: one step less, as each of its last steps ends where `far` is known.
        num = _two_steps_from(host, out_start, out_col, out_value, into_start, into_col, into_value, near, which_near)
        near[host] = 1
        num_mid = _step(near, which_near, num, out_start, out_col, out_value, mid, which_mid)
        total = 1.0  # to stay and to stay again
        for i in range(num_mid):
            middle = which_mid[i]
            overlap = 0.0
            for j in range(into_start[middle], into_start[middle + 1]):
                overlap += into_value[j] * far[into_col[j]]
            total += mid[middle] * overlap
        for i in range(num):
            at = which_near[i]
            total += (1 - closed[at]) * near[at] * far[at]
        walks[place] = total
        _forget(near, which_near, num)
        _forget(mid, which_mid, num_mid)
        _forget(far, which_far, num_far)


@compiled(*ANY_ORDER)
def _step(
    amounts: Doubles,
    which: Indices,
    num: int,
    start: Indices,
    col: Indices,
    value: Doubles,
    reached: Doubles,
    which_reached: Indices,
) -> int:
    """Add the rows `which[:num]` of a matrix, times their amounts, to `reached`; list in `which_reached` what was 0.

    Returns: how many are listed.
    """
    num_reached = 0
    for i in range(num):
        amount = amounts[which[i]]
        for j in range(start[which[i]], start[which[i] + 1]):
            at = col[j]
            if reached[at] == 0:
                which_reached[num_reached] = at
                num_reached += 1
            reached[at] += amount * value[j]
    return num_reached


@compiled(*ANY_ORDER)
def _forget(amounts: Doubles, which: Indices, num: int) -> None:
    for i in range(num):
        amounts[which[i]] = 0
