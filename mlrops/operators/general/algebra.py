"""Sums, products and conversions of multilevel low rank matrices, through one canonical split.

A member of the family is ``Σ_l B_l C_lᵀ + diag(d)`` on a pair of trees: `split` takes it apart,
`join` puts it together as a `GeneralMLR`, whose finest level of single features is diag(d).
"""

from typing import NamedTuple

import numpy as np

from ... import kernels
from ..._common.validate import as_positive
from ..._common.wording import counted
from ...tree.hierarchy import Hierarchy
from ..mlr import MLR, check_ranks

__all__ = ["Parts", "add_diagonal", "add_low_rank", "add_parts", "compress", "join",
           "multiply_parts", "positive_form", "split", "to_mlr"]


class Parts(NamedTuple):
    """``Σ_l B_l C_lᵀ + diag(d)``; arrays in tree order.

    C is B itself where left and right are equal, d is None where there is no such part.
    """

    rows: Hierarchy
    cols: Hierarchy
    ranks: tuple
    B: np.ndarray
    C: np.ndarray
    d: np.ndarray | None
    symmetric: bool

    @property
    def columns(self):
        return np.concatenate([[0], np.cumsum(self.ranks, dtype=np.intp)])

    @property
    def dtype(self):
        return self.B.dtype

    def levels(self, X):
        """The columns of X, B or C, level by level."""
        return np.split(X, self.columns[1:-1], axis=1)

    def scaled(self, c):
        C = c * self.C
        return self._replace(C=C, d=None if self.d is None else c * self.d)

    @property
    def T(self):
        return self._replace(rows=self.cols, cols=self.rows, B=self.C, C=self.B)

    def tail(self, level, X):
        """``(Σ_{k >= level} B_k C_kᵀ + diag(d)) X`` for X (n, r) in tree order."""
        out = np.zeros((self.rows.n, X.shape[1]), self.dtype)
        start = self.columns[level]
        if start < self.columns[-1] and X.shape[1]:
            layouts = (kernels.layout.make_layout(
                h.boundaries[level:], h._paths[:, level:], self.ranks[level:])
                for h in (self.rows, self.cols))
            out = kernels.tree.transfer(np.ascontiguousarray(self.B[:, start:]),
                                        np.ascontiguousarray(self.C[:, start:]),
                                        np.ascontiguousarray(X), *layouts)
        return out if self.d is None else out + self.d[:, None] * X

    def below(self, level):
        """Whether there is anything at levels finer than `level`."""
        return self.d is not None or any(self.ranks[level + 1:])


# ---------------------------------------------------------------- take apart, put together


def _of_singles(h):
    return h.group_counts[-1] == h.n


def _without_singles(h):
    return Hierarchy._make(h.permutation, h.boundaries[:-1], h._names[:-1], h.feature_names)


def _with_singles(h):
    return Hierarchy._make(h.permutation, (*h.boundaries, np.arange(h.n + 1)), (*h._names, None),
                           h.feature_names)


def _with_root(h):
    return Hierarchy._make(h.permutation, (np.array([0, h.n]), *h.boundaries), (None, *h._names))


def split(A):
    """The parts of an MLR, a GeneralMLR or a multiple of one; None for anything else."""
    from ..composed import Scaled
    from .mlr import GeneralMLR

    if isinstance(A, Scaled):
        base = split(A.base)
        return base and base.scaled(A.c)
    if isinstance(A, MLR):
        return Parts(A.hierarchy, A.hierarchy, A.ranks, A._F, A._F, A._d, True)
    if isinstance(A, GeneralMLR):
        return Parts(A.rows, A.cols, A.ranks, A._B, A._C, None, A.symmetric)
    return None


def _merged(parts):
    """The same with a finest level of single features in d, its columns left out."""
    kept = parts.columns[-2]
    d = np.einsum("ij,ij->i", parts.B[:, kept:], parts.C[:, kept:])
    B = parts.B[:, :kept]
    C = B if parts.C is parts.B else parts.C[:, :kept]
    return parts._replace(ranks=parts.ranks[:-1], B=B, C=C, d=_plus(parts.d, d))


def _shapes(parts):
    """These parts, and where that can be, the same on the tree without its single features."""
    yield parts
    h = parts.rows
    if _of_singles(h) and h == parts.cols and h.n_levels > 1:
        h = _without_singles(h)
        yield _merged(parts)._replace(rows=h, cols=h)


def join(parts, equal_to=None):
    """The GeneralMLR of these parts; diag(d) is its finest level, of rank 1 (0 for d = 0)."""
    from .mlr import GeneralMLR

    rows, cols = parts.rows, parts.cols
    if parts.d is not None:
        if _of_singles(rows):
            parts = _merged(parts)
        else:
            rows = cols = _with_singles(rows)
    _, _, ranks, B, C, d, symmetric = parts
    if d is not None:
        ranks = (*ranks, int(d.any()))
        if ranks[-1]:
            root = np.sqrt(np.abs(d))[:, None]
            same = C is B and (d >= 0).all()
            C = np.hstack([C, root])
            B = C if same else np.hstack([B, np.sign(d)[:, None] * root])
    return GeneralMLR._from_tree(rows, cols, ranks, B, C, symmetric, equal_to)


# ---------------------------------------------------------------- sums


def _side_by_side(*levels):
    """Levels of several operands next to each other: one array of all columns, (n, R)."""
    return np.hstack([X for pair in zip(*levels, strict=True) for X in pair])


def _plus(d, e):
    return e if d is None else d if e is None else d + e


def _meeting(a, b, match):
    """a and b on trees that match, their single features merged into d where it takes that."""
    both = ((x, y) for x in _shapes(a) for y in _shapes(b))
    return next((pair for pair in both if match(*pair)), (None, None))


def add_parts(a, b):
    """Levels side by side, ``B_l C_lᵀ + E_l G_lᵀ = [B_l E_l] [C_l G_l]ᵀ``; None on unlike trees."""
    a, b = _meeting(a, b, lambda x, y: x.rows == y.rows and x.cols == y.cols)
    if a is None:
        return None
    ranks = tuple(r + q for r, q in zip(a.ranks, b.ranks, strict=True))
    B = _side_by_side(a.levels(a.B), b.levels(b.B))
    same = a.C is a.B and b.C is b.B
    C = B if same else _side_by_side(a.levels(a.C), b.levels(b.C))
    return Parts(a.rows, a.cols, ranks, B, C, _plus(a.d, b.d), a.symmetric and b.symmetric)


def add_diagonal(a, d):
    """``a + diag(d)``, d in feature order; None where rows and columns have different trees."""
    if a.rows != a.cols:
        return None
    d = _plus(a.d, a.rows._gather(d))
    dtype = np.result_type(a.dtype, d)
    B = a.B.astype(dtype, copy=False)
    C = B if a.C is a.B else a.C.astype(dtype, copy=False)
    return a._replace(B=B, C=C, d=d)


def add_low_rank(a, U, V, symmetric):
    """``a + U Vᵀ`` in the coarsest level, one group of all; made where there is none."""
    if a.rows.group_counts[0] != 1:
        a = a._replace(rows=_with_root(a.rows), cols=_with_root(a.cols), ranks=(0, *a.ranks))
    wide, L = np.zeros((a.rows.n, 0), U.dtype), len(a.ranks)
    tall = np.zeros((a.cols.n, 0), U.dtype)
    left, right = a.rows._gather(U), a.cols._gather(V)
    B = _side_by_side(a.levels(a.B), [left] + [wide] * (L - 1))
    same = a.C is a.B and V is U and a.rows == a.cols
    C = B if same else _side_by_side(a.levels(a.C), [right] + [tall] * (L - 1))
    ranks = (a.ranks[0] + U.shape[1], *a.ranks[1:])
    return a._replace(ranks=ranks, B=B, C=C, symmetric=symmetric)


# ---------------------------------------------------------------- products


def multiply_parts(a, b):
    """The product, ranks added; None where the inner trees differ.

    ``(B_l C_lᵀ)(E_m G_mᵀ)`` is of the coarser level: for l <= m its left factor is B_l, else its
    right factor is G_m.  So with M_l the sum of the levels of b from l on, N_l that of the levels
    of a finer than l, diagonals included:

        left_l = [B_l,  N_l E_l]        right_l = [M_lᵀ C_l,  G_l]
    """
    a, b = _meeting(a, b, lambda x, y: x.cols == y.rows)
    if a is None:
        return None
    dtype = np.result_type(a.dtype, b.dtype)
    a, b = _cast(a, dtype), _cast(b, dtype)
    ranks, left, right = [], [], []
    levels = zip(a.levels(a.B), a.levels(a.C), b.levels(b.B), b.levels(b.C), strict=True)
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
    return Parts(a.rows, b.cols, tuple(ranks), np.hstack(left), np.hstack(right), d, False)


def _cast(a, dtype):
    B = a.B.astype(dtype, copy=False)
    C = B if a.C is a.B else a.C.astype(dtype, copy=False)
    return a._replace(B=B, C=C, d=None if a.d is None else a.d.astype(dtype, copy=False))


# ---------------------------------------------------------------- conversions


def positive_form(A):
    """The MLR equal to a GeneralMLR with equal sides and a positive diagonal level, else None."""
    h, start = A.rows, A._columns[-2]
    if A._C is not A._B or not _of_singles(h):
        return None
    last = A._B[:, start:]
    d = np.einsum("ij,ij->i", last, last)
    if not ((d > 0) & np.isfinite(d)).all():
        return None
    return _mlr(h, A.ranks[:-1], A._B[:, :start], d)


def _mlr(h, ranks, F, d):
    """An MLR on the levels of h but the last, of single features; on that one if it is alone."""
    if h.n_levels == 1:
        return MLR._from_tree(h, (0,), np.zeros((h.n, 0), d.dtype), d)
    return MLR._from_tree(_without_singles(h), ranks, F, d)


def to_mlr(A, tol):
    """See `GeneralMLR.to_mlr`."""
    if isinstance(A._equal_to, MLR):
        return A._equal_to
    h, last = A.rows, A.rows.n_levels - 1
    if h != A.cols:
        raise ValueError("to_mlr: rows and columns must have one hierarchy; these two differ")
    if not _of_singles(h):
        sizes = h.group_sizes(last)
        g = int(np.argmax(sizes > 1))
        raise ValueError(
            f"to_mlr: the finest level must be one of single features, to be D; group {g} of level"
            f" {last} has {sizes[g]} (add a positive Diagonal first)"
        )
    columns = A._columns
    B, C = A._B[:, columns[-2]:], A._C[:, columns[-2]:]
    d = as_positive(h._scatter(np.einsum("ij,ij->i", B, C)), "to_mlr: the diagonal level")
    levels = [_symmetric_factors(A, level, tol) for level in range(last)]
    F = np.hstack([np.zeros((h.n, 0), A.dtype), *levels])
    return _mlr(h, A.ranks[:-1], F, h._gather(d))


def _symmetric_factors(A, level, tol):
    """F_l with ``F_g F_gᵀ = B_g C_gᵀ`` for every group of a level, or an error naming the group."""
    own, offsets = slice(*A._columns[level : level + 2]), A.rows.boundaries[level]
    B, C = A._B[:, own], A._C[:, own]
    if A._C is A._B or B.shape[1] == 0:
        return B
    axes, values, asymmetry, size = kernels.paired.eigen_blocks(B, C, offsets)
    sizes = np.diff(offsets)
    allowed = size * (100 * sizes * np.finfo(A.dtype).eps if tol is None else tol)
    for wrong, what in ((asymmetry > allowed, "symmetric"),
                        (values.min(axis=1) < -allowed, "positive semidefinite")):
        if wrong.any():
            g = int(np.argmax(wrong))
            raise ValueError(
                f"to_mlr: the block of level {level}, group {g} ({counted(sizes[g], 'feature')})"
                f" is not {what}, so that it is no F Fᵀ"
            )
    return axes * np.repeat(values > 0, sizes, axis=0)


# ---------------------------------------------------------------- lower ranks


def _triples(A, level):
    """(left, right, sigma, symmetric) of the blocks of a level, the largest triples first."""
    own = slice(*A._columns[level : level + 2])
    B, C = A._B[:, own], A._C[:, own]
    row_off, col_off = A.rows.boundaries[level], A.cols.boundaries[level]
    if B.shape[1] == 0:
        return B, C, np.zeros((row_off.size - 1, 0), A.dtype), True
    if A._C is A._B:
        axes, lengths = kernels.groups.principal_axes(np.ascontiguousarray(B), row_off)
        return axes, axes, lengths**2, True
    if A.symmetric:
        axes, values, asymmetry, size = kernels.paired.eigen_blocks(B, C, row_off)
        if (asymmetry <= 100 * np.diff(row_off) * np.finfo(A.dtype).eps * size).all():
            signs = np.repeat(np.where(values < 0, -1, 1), np.diff(row_off), axis=0)
            return axes * signs.astype(A.dtype), axes, np.abs(values), True
    return *kernels.paired.singular_blocks(B, C, row_off, col_off), False


def compress(A, ranks, tol):
    """See `GeneralMLR.compress`."""
    from .mlr import GeneralMLR

    L = A.rows.n_levels
    if ranks is not None:
        ranks = check_ranks((ranks,) * L if np.ndim(ranks) == 0 else ranks, A.rows)
    if tol is not None and not 0 <= tol < np.inf:
        raise ValueError(f"tol must be finite and non-negative, got {tol}")
    eps = np.finfo(A.dtype).eps
    sides, widths, symmetric = ([], []), [], A.symmetric
    for level in range(L):
        *factors, sigma, mirrored = _triples(A, level)
        sizes = [np.diff(h.boundaries[level]) for h in (A.rows, A.cols)]
        cut = tol if tol is not None else (
            0.0 if ranks is not None else eps * np.maximum(*sizes)[:, None])
        keep = sigma > cut * sigma[:, :1]
        width = int(keep.sum(axis=1).max())
        widths.append(width if ranks is None else min(width, ranks[level]))
        symmetric &= mirrored
        for side, X, counts in zip(sides, factors, sizes, strict=True):
            side.append((X * np.repeat(keep, counts, axis=0))[:, : widths[-1]])
    B = np.hstack(sides[0])
    C = B if A._C is A._B else np.hstack(sides[1])
    return GeneralMLR._from_tree(A.rows, A.cols, widths, B, C, symmetric)
