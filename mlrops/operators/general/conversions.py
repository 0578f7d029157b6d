"""A `GeneralMLR` as an `MLR`, where it is one, and of lower ranks."""

from typing import Any, TypeAlias, TypeVar

import numpy as np

from ... import kernels
from ..._common.typing import Ranks
from ..._common.validate import as_positive
from ..._common.wording import counted
from ..mlr import MLR, check_truncation
from .levels import Levels, without_finest

__all__ = ["compress", "positive_form", "to_mlr"]

GeneralMLR: TypeAlias = Any  # its file imports this one
M = TypeVar("M", bound=Any)  # the same, where it is what comes out


def positive_form(A: GeneralMLR) -> MLR | None:
    """The MLR equal to a GeneralMLR with equal sides and a positive diagonal level, else None."""
    if A._C is not A._B or not A._levels.of_singles():
        return None
    merged = A._levels.merged()
    d: Any = merged.d
    if not ((d > 0) & np.isfinite(d)).all():
        return None
    return _mlr(A.rows, merged.ranks, merged.B, d)


def _mlr(h, ranks, F, d):
    """An MLR on the levels of h but the last, of single features; on that one if it is alone."""
    if h.n_levels == 1:
        return MLR._from_tree(h, (0,), np.zeros((h.n, 0), d.dtype), d)
    return MLR._from_tree(without_finest(h), ranks, F, d)


def to_mlr(self: GeneralMLR, tol: float | None = None) -> MLR:
    """The same matrix as an `MLR`, where it is one.

    Parameters
    ----------
    tol : float, optional
        Unsymmetry and negative eigenvalues of a block, relative to its norm, that are taken
        for rounding; default ``100 |group| eps``.

    Returns
    -------
    MLR
        With the symmetric factors ``block = F_g F_gᵀ`` of each block; D is the finest level, of
        single features.

    Raises
    ------
    ValueError
        Rows and columns have different hierarchies, the finest level is not one of single
        features, or a block is not symmetric positive semidefinite; the message names level
        and group.
    """
    if isinstance(self._equal_to, MLR):
        return self._equal_to
    h, last = self.rows, self.rows.n_levels - 1
    if h != self.cols:
        raise ValueError("to_mlr: rows and columns must have one hierarchy; these two differ")
    if not self._levels.of_singles():
        sizes = h.group_sizes(last)
        g = int(np.argmax(sizes > 1))
        raise ValueError(
            f"to_mlr: the finest level must be one of single features, to be D; group {g} of level"
            f" {last} has {sizes[g]} (add a positive Diagonal first)")
    d = as_positive(h._scatter(self._levels.merged().d), "to_mlr: the diagonal level")
    levels = [_symmetric_factors(self, level, tol) for level in range(last)]
    F = np.hstack([np.zeros((h.n, 0), self.dtype), *levels])
    return _mlr(h, self.ranks[:-1], F, h._gather(d))


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
                f" is not {what}, so that it is no F Fᵀ")
    return axes * np.repeat(values > 0, sizes, axis=0)


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


def compress(self: M, ranks: Ranks | None = None,
             tol: float | None = None) -> M:
    """Lower the ranks: truncate the block of every group to its leading singular triples.

    Parameters
    ----------
    ranks : int or sequence of int, optional
        Largest rank to keep at each level (one number for all levels, or one a level).
    tol : float, optional
        Keep a triple where its singular value exceeds `tol` times the largest of its block.
        Default ``max(|group|) eps`` when `ranks` is None: removes only what rounding put there.

    Returns
    -------
    GeneralMLR
        On the same hierarchies.  Each level's own block is the best approximation of its rank
        in the Frobenius norm, the other levels as they are; the sum over levels need not be.

    Raises
    ------
    ValueError, TypeError
        Not a rank for each level, negative ranks or `tol`.
    """
    kept, eps = check_truncation(ranks, tol, self.rows), np.finfo(self.dtype).eps
    sides: tuple[list[Any], list[Any]] = [], []
    widths, symmetric = [], self.symmetric
    for level in range(self.rows.n_levels):
        *factors, sigma, mirrored = _triples(self, level)
        sizes = [np.diff(h.boundaries[level]) for h in (self.rows, self.cols)]
        cut = tol if tol is not None else (
            0.0 if kept is not None else eps * np.maximum(*sizes)[:, None])
        keep = sigma > cut * sigma[:, :1]
        width = int(keep.sum(axis=1).max())
        widths.append(width if kept is None else min(width, kept[level]))
        symmetric &= mirrored
        for side, X, counts in zip(sides, factors, sizes, strict=True):
            side.append((X * np.repeat(keep, counts, axis=0))[:, : widths[-1]])
    B = np.hstack(sides[0])
    C = B if self._C is self._B else np.hstack(sides[1])
    return self._of(Levels(self.rows, self.cols, tuple(widths), B, C), symmetric)
