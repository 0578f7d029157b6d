"""The matrix that a fit is to come near to, on its pair of trees: checks, and its residual."""

from typing import Any

import numpy as np
from scipy.sparse import csr_array, issparse
from scipy.sparse.linalg import aslinearoperator

from .._common.validate import as_finite, working_dtype
from .._common.wording import counted, name_some
from ..operators.arithmetic import is_operator
from .blocks import DenseBlocks, SparseBlocks
from .factors import EXTRA
from .labelled import read_trees
from .pairs import GroupPairs
from .peeled import OVERSAMPLING, PeeledBlocks
from .residuals import DenseResidual, OperatorResidual, SparseResidual, row_chunks

__all__ = ["Target", "asymmetry"]

# How far below the root of the largest number ‖A‖ has to be.
MARGIN = 1000
# What the diagonal level of a semidefinite fit keeps of A's diagonal, so that the fit is an `MLR`.
DIAGONAL_SHARE = 1e-3
# Asymmetry that passes for rounding, in units of the precision and of the largest entry.
ROUNDING = 1000


def asymmetry(A: Any) -> tuple[float, int, int, float]:
    """The largest difference of two mirrored entries, their place, and the largest finite entry.

    A is a square array, which may hold infinity, or a sparse array without.
    """
    if issparse(A):
        D = abs(A - A.T).tocoo()
        if not D.nnz:
            return 0.0, 0, 0, float(abs(A).max())
        at = D.data.argmax()
        return float(D.data[at]), int(D.row[at]), int(D.col[at]), float(abs(A).max())
    largest, place, scale = -1.0, (0, 0), 0.0
    for part in row_chunks(*A.shape):
        with np.errstate(invalid="ignore"):
            D = np.abs(A[part] - A[:, part].T)
        D[np.isnan(D)] = 0  # of two infinite entries
        i, j = np.unravel_index(D.argmax(), D.shape)
        scale = max(scale, float(np.abs(A[part]).max(where=np.isfinite(A[part]), initial=0)))
        if D[i, j] > largest:
            largest, place = float(D[i, j]), (part.start + int(i), int(j))
    return largest, *place, scale


class Target:
    """A matrix and the pair of trees it is fitted on, checked; without `cols` one tree serves both.

    `A` (ndarray, csr_array or LinearOperator) keeps the order of the features of the trees.
    """

    def __init__(self, A, rows, cols, symmetric, psd):
        A, rows, cols = read_trees(A, rows, cols)
        self.pairs = GroupPairs(rows, rows if cols is None else cols)
        self.kind = "sparse" if issparse(A) else "operator" if is_operator(A) else "dense"
        if self.kind == "dense":
            h = self.pairs.rows
            names = h.feature_names if np.shape(A)[:1] == (h.n,) else None
            if np.ma.isMaskedArray(A) and np.ma.is_masked(A):
                mask = np.ma.getmaskarray(A)
                where = np.flatnonzero(mask.any(axis=tuple(range(1, mask.ndim))))
                raise ValueError(f"A must have all of its entries, got {mask.sum()} masked ones of"
                                 f" {mask.size} (row {name_some(where)}); fill them first")
            A = as_finite(A, "A", ndim=2, axis_name="row", labels=names)
        elif self.kind == "sparse":
            A = csr_array(A)
            A = A.astype(working_dtype(A.dtype, "A"), copy=False)
            bad = np.flatnonzero(~np.isfinite(A.data))
            if bad.size:
                rows_of = np.unique(np.searchsorted(A.indptr, bad, side="right") - 1)
                raise ValueError(f"A must be finite, got NaN or infinity in {bad.size} of its"
                                 f" stored entries (row {name_some(rows_of)})")
        else:
            A = aslinearoperator(A)
        if tuple(A.shape) != self.pairs.shape:
            if cols is None and len(A.shape) == 2 and A.shape[0] == rows.n:
                raise ValueError(f"A has {counted(A.shape[1], 'column')} for"
                                 f" {counted(rows.n, 'row')}: pass a hierarchy of its columns,"
                                 " too, of the shape of that of the rows")
            raise ValueError(
                f"A must have a row for each of the {counted(self.pairs.shape[0], 'feature')} of"
                f" rows and a column for each of the {self.pairs.shape[1]} of cols, got shape"
                f" {A.shape}")
        self.A = A
        self.dtype = working_dtype(np.float64 if A.dtype is None else A.dtype, "A")
        self.psd = bool(psd)
        self.symmetric = self._symmetry(symmetric)

    def check_scale(self, norm):
        """Refuse an A with nothing to fit, or whose norm says that squares would be lost."""
        if norm == 0 and not (self.kind == "dense" and self.A.any()
                              or self.kind == "sparse" and self.A.data.any()):
            raise ValueError("A is all zero: there is nothing to fit, and no relative error")
        if np.isnan(norm):
            raise ValueError("A must be finite, got a norm that is NaN")
        limits = np.finfo(self.dtype)
        low, high = np.sqrt(float(limits.tiny)), np.sqrt(float(limits.max)) / MARGIN
        if not low <= norm <= high:
            raise ValueError(f"A must have a norm between {low:.1g} and {high:.1g}, so that squares"
                             f" do not leave the range of {self.dtype}, got {norm:.1e}: multiply A"
                             " by a number")

    def _symmetry(self, wanted):
        if self.psd and wanted is not None and not wanted:
            raise ValueError("psd=True is for symmetric fits, got symmetric=False")
        wanted = True if self.psd else wanted
        if wanted is None:
            if self.kind == "operator" or self.pairs.rows != self.pairs.cols:
                return False
            return self._asymmetry()[0] == 0
        if not wanted:
            return False
        if self.pairs.rows != self.pairs.cols:
            raise ValueError("a symmetric fit needs the same hierarchy of rows and columns;"
                             " leave cols out")
        gap, where, scale = self._asymmetry()
        if not gap <= ROUNDING * np.finfo(self.dtype).eps * scale:
            option = "psd" if self.psd else "symmetric"
            raise ValueError(f"{option}=True needs a symmetric A: {where} (largest entry:"
                             f" {scale:.3g})")
        return True

    def _asymmetry(self):
        """Largest difference of two mirrored entries, in words too, and the largest entry."""
        A = self.A
        if self.kind == "operator":
            v, w = np.random.default_rng(0).standard_normal((2, A.shape[1])).astype(self.dtype)
            Av, Aw = A.matvec(v), A.matvec(w)
            gap = abs(float(w @ Av - v @ Aw))
            words = f"for random v and w, w @ A @ v and v @ A @ w differ by {gap:.3g}"
            return gap, words, float(np.linalg.norm(w) * np.linalg.norm(Av))
        gap, i, j, scale = asymmetry(A)
        return gap, f"A[{i}, {j}] and A[{j}, {i}] differ by {gap:.3g}", scale

    def blocks(self, rng, total):
        """The matrix as sibling blocks; of an operator they have room for a `total` rank."""
        if self.kind == "operator":
            return PeeledBlocks(self.A, self.pairs, self.dtype, self.symmetric,
                                total + max(total, OVERSAMPLING), rng)
        of = DenseBlocks if self.kind == "dense" else SparseBlocks
        return of(self.A, self.pairs, self.dtype)

    def least_diagonal(self):
        """What a semidefinite fit's level of single features may not fall below, or None.

        Entries are a share of A's own diagonal, (n + 1,) in tree order.
        """
        h = self.pairs.rows
        if not self.psd or h.group_counts[-1] != h.n or not hasattr(self.A, "diagonal"):
            return None
        diagonal = np.asarray(self.A.diagonal(), dtype=np.float64)[h.permutation]
        return np.append(DIAGONAL_SHARE * np.maximum(diagonal, 0), 0)

    def held_out(self, operator, blocks, rng):
        """Relative error of an operator and its standard error, from random products.

        They are of a peeled operator, of which blocks are an approximation; else (None, None).
        """
        return blocks.held_out(operator, rng) if self.kind == "operator" else (None, None)

    def residual(self, levels, ranks):
        """The residual, for visits of some levels; it holds nothing before ``restart``."""
        if self.kind == "dense":
            return DenseResidual(self.A, self.pairs, self.dtype)
        if self.kind == "sparse":
            return SparseResidual(self.A, self.pairs, self.dtype)
        widths = [r + EXTRA if level in levels else 0 for level, r in enumerate(ranks)]
        return OperatorResidual(self.A, self.pairs, self.dtype, widths, self.symmetric)
