"""Checks of the arguments of a `GeneralMLR`: two trees of one shape, and factors that fit them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..._common.typing import FloatArray, Indices, IntArray, Real
from ..._common.validate import as_finite, refuse_masked
from ..._common.wording import counted, name_some
from ...tree.hierarchy import Hierarchy

__all__ = ["as_indices", "check_pair", "check_sides", "mirrored", "show_equal"]


def check_pair(rows: Hierarchy, cols: Hierarchy) -> None:
    """Two hierarchies of one shape, or an error that names the first level and group that differ.
    """
    for h, name in ((rows, "rows"), (cols, "cols")):
        if not isinstance(h, Hierarchy):
            raise TypeError(f"{name} must be a Hierarchy, got {type(h).__name__}")
    if rows is cols:
        return
    if rows.n_levels != cols.n_levels:
        raise ValueError(f"rows and cols must have equally many levels, got {rows.n_levels} and"
                         f" {cols.n_levels}")
    for level, (p, q) in enumerate(zip(rows.group_counts, cols.group_counts, strict=True)):
        where = ""
        if level:  # the level above has equally many groups in both
            first, second = (
                np.diff(np.searchsorted(h.boundaries[level], h.boundaries[level - 1]))
                for h in (rows, cols))
            unlike = np.flatnonzero(first != second)
            if unlike.size:
                g = unlike[0]
                where = (f"group {g} of level {level - 1} has {first[g]} children at level {level}"
                         f" in rows, {second[g]} in cols")
        if p != q:
            raise ValueError(f"rows and cols must have equally many groups at every level: level"
                             f" {level} has {p} and {q}{where and '; '}{where}")
        if where:
            raise ValueError(f"rows and cols must be trees of one shape: {where}")


def check_sides(rows: Hierarchy, cols: Hierarchy, left: Sequence[Real],
                right: Sequence[Real]) -> list[list[FloatArray]]:
    """The factors as two lists of finite arrays, one a level, of matching widths."""
    sides: list[Any] = []
    for h, given, name in ((rows, left, "left"), (cols, right, "right")):
        if isinstance(given, np.ndarray) and given.ndim == 2:
            raise TypeError(
                f"{name} must be a sequence of {counted(h.n_levels, 'array')} ({h.n}, r_l), one a"
                f" level, got one array of shape {given.shape}; see GeneralMLR.from_compact")
        side: list[Any] = list(given)
        if len(side) != h.n_levels:
            raise ValueError(f"{name} must hold one array a level ({h.n_levels}), got {len(side)}")
        for level, f in enumerate(side):
            side[level] = f = as_finite(f, f"{name} factors of level {level}", ndim=2,
                                        axis_name="row")
            if f.shape[0] != h.n:
                raise ValueError(f"{name} factors of level {level} must have"
                                 f" {counted(h.n, 'row')}, got shape {f.shape}")
        sides.append(side)
    for level, (f, g) in enumerate(zip(*sides, strict=True)):
        if f.shape[1] != g.shape[1]:
            raise ValueError(f"left and right factors of level {level} must have equally many"
                             f" columns, got {f.shape[1]} and {g.shape[1]}")
    return sides


def mirrored(B: FloatArray, C: FloatArray) -> int | None:
    """1 where C equals B, 0 where it does up to the signs of columns, else None.

    Either proves ``Σ B_l C_lᵀ`` on equal trees to be symmetric.
    """
    if C is B:
        return 1
    for part in (slice(0, 4), slice(None)):  # most pairs differ in their first rows
        equal = (B[part] == C[part]).all(axis=0)
        if not (equal | (B[part] == -C[part]).all(axis=0)).all():
            return None
    return int(equal.all())


def as_indices(which: Indices | slice, n: int, name: str, ndim: int | None = None) -> IntArray:
    """Integers 0 to n - 1 from a slice or an array of integers; negative ones count from the end.
    """
    if isinstance(which, slice):
        return np.arange(n)[which]
    refuse_masked(which, name)
    index = np.asarray(which)
    if index.size == 0:
        index = index.astype(np.intp)
    if index.dtype.kind not in "iu":
        raise TypeError(f"{name} must be a slice or integers, got dtype {index.dtype}")
    if ndim is not None and index.ndim != ndim:
        raise ValueError(f"{name} must be {ndim}-d, got shape {index.shape}")
    bad = index[(index < -n) | (index >= n)]
    if bad.size:
        raise IndexError(f"{name} must lie in 0 to {n - 1}, got {name_some(bad)}")
    return index.astype(np.intp) % n


def show_equal(A: Any, symmetric: bool, equal_to: Any) -> None:
    """Known from the operands when A was made: here a product with any vector has to show it."""
    x = np.random.default_rng(0).standard_normal(A.shape[1]).astype(A.dtype)
    others = [A.rmatvec] if symmetric else []
    if equal_to is not None:
        others.append(equal_to.matvec)
    y, rounding = A.matvec(x), 1e3 * max(A.shape) * np.finfo(A.dtype).eps
    size = float(np.linalg.norm(A._B) * np.linalg.norm(A._C) * np.linalg.norm(x))
    if not all(np.linalg.norm(y - other(x)) <= rounding * size for other in others):
        raise ValueError("tagged symmetric or equal to a product, but it is not")
