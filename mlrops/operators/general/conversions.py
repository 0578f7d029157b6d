"""A `GeneralMLR` as an `MLR`, where it is one, and of lower ranks."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ... import kernels
from ..._common.typing import Ranks
from ..._common.validate import as_positive
from ..._common.wording import counted
from ..mlr import MLR, check_ranks
from .levels import Levels, without_finest

if TYPE_CHECKING:
    from .mlr import GeneralMLR

__all__ = ["compress", "positive_form", "to_mlr"]


def positive_form(A: "GeneralMLR") -> MLR | None:
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


def to_mlr(A: "GeneralMLR", tol: float | None) -> MLR:
    """See `GeneralMLR.to_mlr`."""
    if isinstance(A._equal_to, MLR):
        return A._equal_to
    h, last = A.rows, A.rows.n_levels - 1
    if h != A.cols:
        raise ValueError("to_mlr: rows and columns must have one hierarchy; these two differ")
    if not A._levels.of_singles():
        sizes = h.group_sizes(last)
        g = int(np.argmax(sizes > 1))
        raise ValueError(
            f"to_mlr: the finest level must be one of single features, to be D; group {g} of level"
            f" {last} has {sizes[g]} (add a positive Diagonal first)"
        )
    d = as_positive(h._scatter(A._levels.merged().d), "to_mlr: the diagonal level")
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


def compress(A: "GeneralMLR", ranks: Ranks | None, tol: float | None) -> tuple[Levels, bool]:
    """See `GeneralMLR.compress`; the levels, and whether their sum is symmetric."""
    L = A.rows.n_levels
    largest: Any = ranks
    if ranks is not None:
        largest = check_ranks((ranks,) * L if np.ndim(ranks) == 0 else ranks, A.rows)
    if tol is not None and not 0 <= tol < np.inf:
        raise ValueError(f"tol must be finite and non-negative, got {tol}")
    eps = np.finfo(A.dtype).eps
    sides: tuple[list[Any], list[Any]] = [], []
    widths, symmetric = [], A.symmetric
    for level in range(L):
        *factors, sigma, mirrored = _triples(A, level)
        sizes = [np.diff(h.boundaries[level]) for h in (A.rows, A.cols)]
        cut = tol if tol is not None else (
            0.0 if ranks is not None else eps * np.maximum(*sizes)[:, None])
        keep = sigma > cut * sigma[:, :1]
        width = int(keep.sum(axis=1).max())
        widths.append(width if ranks is None else min(width, largest[level]))
        symmetric &= mirrored
        for side, X, counts in zip(sides, factors, sizes, strict=True):
            side.append((X * np.repeat(keep, counts, axis=0))[:, : widths[-1]])
    B = np.hstack(sides[0])
    C = B if A._C is A._B else np.hstack(sides[1])
    return Levels(A.rows, A.cols, tuple(widths), B, C), symmetric
