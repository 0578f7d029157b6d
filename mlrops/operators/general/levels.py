"""Multilevel low rank matrices taken apart into levels and a diagonal: their sums and products."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ... import kernels
from ..._common.typing import FloatArray
from ...tree.hierarchy import Hierarchy

__all__ = ["Levels", "multiply"]


class Levels(NamedTuple):
    """``Σ_l B_l C_lᵀ + diag(d)`` on a pair of trees; arrays in tree order.

    C is B itself where left and right are equal, d is None where there is no such part.
    """

    rows: Hierarchy
    cols: Hierarchy
    ranks: tuple[int, ...]
    B: FloatArray
    C: FloatArray
    d: FloatArray | None = None

    @property
    def columns(self) -> np.ndarray:
        """The first column of each level, and R."""
        return np.concatenate([[0], np.cumsum(self.ranks, dtype=np.intp)])

    @property
    def T(self) -> "Levels":
        return self._replace(rows=self.cols, cols=self.rows, B=self.C, C=self.B)

    def of_level(self, X: FloatArray) -> list[FloatArray]:
        """The columns of X, B or C, level by level."""
        return np.split(X, self.columns[1:-1], axis=1)

    def below(self, level: int) -> bool:
        """Whether there is anything at levels finer than `level`."""
        return self.d is not None or any(self.ranks[level + 1:])

    def tail(self, level: int, X: FloatArray) -> FloatArray:
        """``(Σ_{k >= level} B_k C_kᵀ + diag(d)) X`` for X (n, r) in tree order."""
        out = np.zeros((self.rows.n, X.shape[1]), self.B.dtype)
        start = self.columns[level]
        if start < self.columns[-1] and X.shape[1]:
            layouts = (kernels.layout.make_layout(
                h.boundaries[level:], h._paths[:, level:], self.ranks[level:])
                for h in (self.rows, self.cols))
            out = kernels.tree.transfer(np.ascontiguousarray(self.B[:, start:]),
                                        np.ascontiguousarray(self.C[:, start:]),
                                        np.ascontiguousarray(X), *layouts)
        return out if self.d is None else out + self.d[:, None] * X

    def astype(self, dtype: Any) -> "Levels":
        B = self.B.astype(dtype, copy=False)
        C = B if self.C is self.B else self.C.astype(dtype, copy=False)
        return self._replace(B=B, C=C,
                             d=None if self.d is None else self.d.astype(dtype, copy=False))

    def scaled(self, c: float) -> "Levels":
        """``c`` times the matrix."""
        return self._replace(C=c * self.C, d=None if self.d is None else c * self.d)

    def plus(self, other: tuple) -> "Levels | None":
        """The sum with other levels, or with ``diag(d) + U C Vᵀ``; None on unlike trees."""
        if isinstance(other, Levels):
            return _add(self, other)
        d, U, C, V = other
        if d is not None and self.rows != self.cols:
            return None
        total = self if d is None else self._replace(d=_plus(self.d, self.rows._gather(d)))
        return total if U is None else total._with_low_rank(U if C is None else U @ C, V)

    def _with_low_rank(self, U: FloatArray, V: FloatArray) -> "Levels":
        """``U Vᵀ`` in the coarsest level, one group of all; made where there is none."""
        a = self
        if a.rows.group_counts[0] != 1:
            a = a._replace(rows=_with_root(a.rows), cols=_with_root(a.cols), ranks=(0, *a.ranks))
        first = a.ranks[0]
        B, C = (np.hstack([X[:, :first], h._gather(new), X[:, first:]])
                for X, h, new in ((a.B, a.rows, U), (a.C, a.cols, V)))
        same = a.C is a.B and V is U and a.rows == a.cols
        ranks = (first + U.shape[1], *a.ranks[1:])
        return a._replace(ranks=ranks, B=B, C=B if same else C)

    def of_singles(self) -> bool:
        """Whether the finest level is one of single features, where a diagonal may stand."""
        return self.rows.group_counts[-1] == self.rows.n

    def merged(self) -> "Levels":
        """The same with what the finest level, of single features, holds in d."""
        kept = self.columns[-2]
        d = np.einsum("ij,ij->i", self.B[:, kept:], self.C[:, kept:])
        B = self.B[:, :kept]
        C = B if self.C is self.B else self.C[:, :kept]
        return self._replace(ranks=self.ranks[:-1], B=B, C=C, d=_plus(self.d, d))

    def with_diagonal_level(self):
        """The same without d: it is the finest level, of rank 1, or 0 where d = 0."""
        if self.d is None:
            return self
        rows, cols, a = self.rows, self.cols, self
        if self.of_singles():
            a = self.merged()
        else:
            rows = cols = Hierarchy._make(
                rows.permutation, (*rows.boundaries, np.arange(rows.n + 1)), (*rows._names, None),
                rows.feature_names)
        ranks, B, C, d = a.ranks, a.B, a.C, a.d
        if d.any():
            root = np.sqrt(np.abs(d))[:, None]
            same = C is B and (d >= 0).all()
            C = np.hstack([C, root])
            B = C if same else np.hstack([B, np.sign(d)[:, None] * root])
        return Levels(rows, cols, (*ranks, int(d.any())), B, C)

    def _shapes(self) -> Iterator["Levels"]:
        """These levels, and where that can be, the same on the tree without its single features."""
        yield self
        h = self.rows
        if self.of_singles() and h == self.cols and h.n_levels > 1:
            h = without_finest(h)
            yield self.merged()._replace(rows=h, cols=h)


def without_finest(h: Hierarchy) -> Hierarchy:
    """The hierarchy without its finest level."""
    return Hierarchy._make(h.permutation, h.boundaries[:-1], h._names[:-1], h.feature_names)


def _with_root(h):
    return Hierarchy._make(h.permutation, (np.array([0, h.n]), *h.boundaries), (None, *h._names))


def _plus(d, e):
    return e if d is None else d if e is None else d + e


def _meeting(a, b, match):
    """a and b on trees that match, their single features merged into d where it takes that."""
    both = ((x, y) for x in a._shapes() for y in b._shapes())
    return next((pair for pair in both if match(*pair)), (None, None))


def _add(a, b):
    """Levels side by side: ``B_l C_lᵀ + E_l G_lᵀ = [B_l E_l] [C_l G_l]ᵀ``."""
    a, b = _meeting(a, b, lambda x, y: x.rows == y.rows and x.cols == y.cols)
    if a is None:
        return None
    ranks = tuple(r + q for r, q in zip(a.ranks, b.ranks, strict=True))
    B, C = (np.hstack([X for pair in zip(a.of_level(x), b.of_level(y), strict=True) for X in pair])
            for x, y in ((a.B, b.B), (a.C, b.C)))
    same = a.C is a.B and b.C is b.B
    return Levels(a.rows, a.cols, ranks, B, B if same else C, _plus(a.d, b.d))


def multiply(a: Levels, b: Levels) -> Levels | None:
    """The product, ranks added; None where the inner trees differ.

    ``(B_l C_lᵀ)(E_m G_mᵀ)`` is of the coarser level: for l <= m its left factor is B_l, else its
    right factor is G_m.  So with M_l the sum of the levels of b from l on, N_l that of the levels
    of a finer than l, diagonals included:

        left_l = [B_l,  N_l E_l]        right_l = [M_lᵀ C_l,  G_l]
    """
    a, b = _meeting(a, b, lambda x, y: x.cols == y.rows)
    if a is None:
        return None
    dtype = np.result_type(a.B, b.B)
    a, b = a.astype(dtype), b.astype(dtype)
    ranks: list[int] = []
    left, right = [], []
    levels = zip(a.of_level(a.B), a.of_level(a.C), b.of_level(b.B), b.of_level(b.C), strict=True)
    for level, (B, C, E, G) in enumerate(levels):
        r = len(ranks)
        first, second = a.below(level), b.below(level)
        if first and not second:  # then the products of level l with itself may go either way
            left.append(a.tail(level, E))
            right.append(G)
        elif not first and not second and E.shape[1] < B.shape[1]:
            left.append(a.tail(level, E))
            right.append(G)
        else:
            finer = [a.tail(level + 1, E)] if first else []
            left.append(np.hstack([B, *finer]))
            right.append(np.hstack([b.T.tail(level, C), *([G] if first else [])]))
        ranks.append(left[r].shape[1])
    d = None if a.d is None or b.d is None else a.d * b.d
    return Levels(a.rows, b.cols, tuple(ranks), np.hstack(left), np.hstack(right), d)
