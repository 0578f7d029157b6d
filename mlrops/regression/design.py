"""The regressors of one equation, seen through a basis in which they are well scaled."""

from typing import Any

import numpy as np
from scipy.linalg import qr, solve_triangular
from scipy.sparse import csc_array, csr_array, diags_array, issparse
from scipy.sparse.linalg import LinearOperator, lsmr

from .._common.frames import Table, read_columns
from .._common.typing import FloatArray
from .._common.validate import all_finite, rowwise, working_dtype
from .._common.wording import counted, name_some
from ..operators import as_operator

__all__ = ["BLOCK", "Design", "name_dependent", "rounding"]

BLOCK = 64  # columns a block where columns are formed one after the other


class Design:
    """Regressors ``X = B T`` of shape (N, p), N > p; a 1-d array is one column.

    A dense X is factored: B has orthonormal columns and T is upper triangular, so that an iteration
    in the basis B does not feel the condition of X.  The columns of a sparse X are scaled to unit
    length and T is diagonal.  A linear operator is taken as it is, T = I.  `names` and `index`
    label columns and rows, None where X has no labels.  NaN, infinity, columns of zeros and
    linearly dependent ones of a dense X are refused by name, or by number.
    """

    def __init__(self, X: Any) -> None:
        table = _named(X)
        X, self.names, self.index = table.values, table.columns, table.index
        self.shape, self.dtype = X.shape, X.dtype
        N, p = X.shape
        if p == 0:
            raise ValueError(f"X must have at least one column, got shape {X.shape}")
        if N <= p:
            raise ValueError(
                f"X must have more observations (rows) than coefficients, got {counted(N, 'row')}"
                f" and {counted(p, 'column')}")
        if isinstance(X, np.ndarray):
            self._factor(X)
        elif issparse(X):
            self._scale(X)
        else:
            self._B, self._T = X, np.ones(p, X.dtype)

    def _factor(self, X: FloatArray) -> None:
        # Squares of quotients do not overflow.
        largest = _nonzero(np.abs(X).max(axis=0))
        length = self._lengths(np.sqrt(np.square(X / largest).sum(axis=0)) * largest)
        # Unit columns: what is dependent must not hang on the units of a regressor.
        self._B, R = qr(X / length, mode="economic", check_finite=False)
        _, sigma, Vt = np.linalg.svd(R)
        null = sigma <= rounding(X.shape[1], X.dtype) * sigma[0]
        if null.any():
            raise ValueError(
                f"X must have linearly independent columns, got rank {np.count_nonzero(~null)} of"
                f" {X.shape[1]}: {name_dependent(Vt[null].T, self.names)} are dependent; leave out"
                f" {np.count_nonzero(null)} of them")
        self._T = R * length

    def _scale(self, X: Any) -> None:
        largest = _nonzero(abs(X).max(axis=0).toarray().ravel())
        X = X @ diags_array(1 / largest)
        length = self._lengths(np.sqrt(X.multiply(X).sum(axis=0)).ravel())
        self._B, self._T = csr_array(X @ diags_array(1 / length)), length * largest

    def _lengths(self, length: FloatArray) -> FloatArray:
        zero = np.flatnonzero(length == 0)
        if zero.size:
            raise ValueError(f"X has columns of zeros: {name_columns(zero, self.names)}")
        return length

    def apply(self, gamma: FloatArray) -> FloatArray:
        """``B γ``, (N,) for γ (p,)."""
        B = self._B
        return B.matvec(gamma) if isinstance(B, LinearOperator) else B @ gamma

    def adjoint(self, u: FloatArray) -> FloatArray:
        """``Bᵀ u``, (p,) for u (N,) and (p, k) for (N, k)."""
        B = self._B
        if isinstance(B, LinearOperator):
            return B.rmatvec(u) if u.ndim == 1 else B.rmatmat(u)
        return B.T @ u

    def columns(self, start: int, stop: int) -> FloatArray:
        """Columns `start` to `stop` of B as a dense array."""
        B = self._B
        if isinstance(B, np.ndarray):
            return B[:, start:stop]
        if issparse(B):
            return B[:, start:stop].toarray()
        unit = np.zeros((self.shape[1], stop - start), self.dtype)
        unit[np.arange(start, stop), np.arange(stop - start)] = 1
        return B.matmat(unit)

    def blocks(self) -> list[slice]:
        """Slices of at most `BLOCK` columns that cover all p."""
        p = self.shape[1]
        return [slice(start, min(start + BLOCK, p)) for start in range(0, p, BLOCK)]

    def coefficients(self, gamma: FloatArray) -> FloatArray:
        """``T⁻¹ γ``: the coefficients of X; γ is (p,) or (p, k)."""
        if self._T.ndim == 1:
            return gamma / rowwise(self._T, gamma)
        return solve_triangular(self._T, gamma, check_finite=False)

    def in_basis(self, beta: FloatArray) -> FloatArray:
        """``T β``: the coefficients of B."""
        return self._T * beta if self._T.ndim == 1 else self._T @ beta

    def spans(self, v: FloatArray, tol: float) -> bool:
        """Whether v (N,) is a combination of the columns, to a residual of ``tol ‖v‖``."""
        if isinstance(self._B, np.ndarray):
            gamma = self._B.T @ v
        else:
            gamma = lsmr(self._B, v, atol=tol / 10, btol=tol / 10)[0]
        return bool(np.linalg.norm(v - self.apply(gamma)) <= tol * np.linalg.norm(v))


def rounding(p: int, dtype: Any) -> float:
    """Singular values this small relative to the largest, of p unit columns, are rounding.

    A Householder QR leaves a few eps in place of a zero, whatever the number of rows.
    """
    return 10 * p * np.finfo(dtype).eps


def _nonzero(largest: FloatArray) -> FloatArray:
    """Divisors for the columns whose largest entries these are."""
    return np.where(largest > 0, largest, 1).astype(largest.dtype, copy=False)


def name_columns(columns: Any, names: Any) -> str:
    return name_some(columns if names is None else (repr(names[j]) for j in columns))


def name_dependent(null: FloatArray, names: Any) -> str:
    """Name the columns that take part in the null space, (p, m), of columns of unit length."""
    part = np.abs(null).max(axis=1)
    return "columns " + name_columns(np.flatnonzero(part > 1e-6 * part.max()), names)


def _named(X: Any) -> Table:
    """X as an array, csc array or operator, with the names of columns and rows if it has some."""
    if issparse(X):
        if X.ndim != 2:
            raise ValueError(f"X must be 2-d, got shape {X.shape}")
        X = csc_array(X, dtype=working_dtype(X.dtype, "X"))
        bad = ~np.isfinite(X.data)
        _refuse(np.repeat(np.arange(X.shape[1]), np.diff(X.indptr))[bad], X.indices[bad])
        return Table(X)
    if isinstance(X, LinearOperator) or hasattr(X, "matvec"):
        return Table(as_operator(X))
    table = read_columns(X, "X")
    if not all_finite(table.values):
        rows, columns = np.nonzero(~np.isfinite(table.values))
        _refuse(columns, rows, table.columns, table.index)
    return table


def _refuse(columns: Any, rows: Any, names: Any = None, labels: Any = None) -> None:
    """Refuse numbers in these places, which are not finite."""
    columns, rows = np.unique(columns), np.unique(rows)
    if columns.size:
        where = name_some(rows if labels is None else [labels[t] for t in rows])
        raise ValueError(
            f"X must be finite, got NaN or infinity in {counted(columns.size, 'column')}"
            f" ({name_columns(columns, names)}) and {counted(rows.size, 'row')} ({where}); drop"
            " those rows, or the columns")
