"""Elementary operators: identity, diagonal, dense and low rank matrices."""

import warnings

import numpy as np
from numpy.typing import DTypeLike
from scipy import linalg

from .._common.cached import cached_property
from .._common.stored import COUNT, DTYPE, FLAG, floats, maybe
from .._common.typing import FloatArray, Real, Vector
from .._common.validate import (
    as_finite,
    check_rank,
    read_only,
    rowwise,
    working_dtype,
)
from .._common.wording import agree, counted, name_some
from .base import StructuredOperator
from .refine import refined

__all__ = ["Dense", "Diagonal", "Identity", "LowRank"]


class Diagonal(StructuredOperator):
    """Diagonal matrix ``diag(d)``.

    Parameters
    ----------
    d : array_like, shape (n,)
        Any finite real entries, zero and negative ones too.

    Raises
    ------
    ValueError
        `d` is not 1-d, or has NaN or infinite entries.
    TypeError
        `d` is complex, sparse or not numeric.

    Notes
    -----
    Positive definite when all entries are positive.  Every verb costs n flops a column.  `solve`
    and `inv` raise ``numpy.linalg.LinAlgError`` naming the zero entries.

    Examples
    --------
    >>> from mlrops import Diagonal
    >>> A = Diagonal([1.0, -2.0, 4.0])
    >>> A
    <3x3 Diagonal, symmetric, float64>
    >>> A @ [1, 1, 1]
    array([ 1., -2.,  4.])
    >>> A.solve([1, 1, 1])
    array([ 1.  , -0.5 ,  0.25])
    >>> A.slogdet()[0]
    -1.0
    """

    def __init__(self, d: Vector) -> None:
        self._d = read_only(as_finite(d, "d", ndim=1))
        super().__init__(self._d.dtype, self._d.shape * 2, symmetric=True,
                         positive_definite=bool((self._d > 0).all()))

    stored_fields = {"d": floats(1)}

    @property
    def d(self) -> FloatArray:
        """The diagonal, read-only ndarray of shape (n,)."""
        return self._d

    @property
    def _semidefinite(self):
        return bool((self._d >= 0).all())

    @property
    def _has_direct_solve(self):
        return bool(self._d.all())

    @property
    def _nonzero(self):
        """The diagonal, where no entry is zero."""
        zero = np.flatnonzero(self._d == 0)
        if zero.size:
            raise np.linalg.LinAlgError(
                f"Diagonal is singular: {zero.size} of {counted(self._d.size, 'entry')}"
                f" {agree(zero.size, 'is', 'are')} zero (feature {name_some(zero)})")
        return self._d

    def _mul(self, x):
        return rowwise(self._d, x) * x

    def _solve(self, b):
        return b / rowwise(self._nonzero, b)

    def _slogdet(self):
        if not self._d.all():
            return 0.0, -np.inf
        sign = -1.0 if np.count_nonzero(self._d < 0) % 2 else 1.0
        return sign, np.log(np.abs(self._d), dtype=np.float64).sum()

    def _diagonal(self):
        return self._d.copy()

    def _inv(self):
        return Diagonal(1 / self._nonzero)

    def _whiten(self, x):
        return x / np.sqrt(rowwise(self._d, x))

    def _color(self, z):
        return z * np.sqrt(rowwise(self._d, z))


class Identity(Diagonal):
    """Identity matrix of order n, stored as its size alone.

    Parameters
    ----------
    n : int
        Order, non-negative.
    dtype : dtype, optional
        float64 (default) or float32.

    Raises
    ------
    TypeError
        `n` is not an integer, or `dtype` is not a real dtype.
    ValueError
        `n` is negative.

    Notes
    -----
    A product or solve copies its operand; ``d`` is a read-only view of a single 1.

    Examples
    --------
    >>> from mlrops import Identity
    >>> Identity(3) @ [1, 2, 3]
    array([1., 2., 3.])
    >>> 2 * Identity(2)
    <2x2 Diagonal, positive definite, float64>
    """

    def __init__(self, n: int, dtype: DTypeLike = np.float64) -> None:
        one, n = np.ones((), working_dtype(dtype, "dtype")), check_rank(n, "n")
        StructuredOperator.__init__(self, one.dtype, (n, n), positive_definite=True)
        self._d = np.broadcast_to(one, (n,))

    stored_fields = {"n": COUNT, "dtype": DTYPE}

    def to_fields(self) -> dict[str, object]:
        return {"n": self.shape[0], "dtype": self.dtype.name}

    _semidefinite = _has_direct_solve = True

    def __reduce__(self):
        return Identity, (self.shape[0], self.dtype)

    def _mul(self, x):
        return x.copy()

    _solve = _whiten = _color = _mul

    def _inv(self):
        return self


class Dense(StructuredOperator):
    """A matrix held as an array, with its factorization kept.

    Parameters
    ----------
    A : array_like, shape (m, n)
        Finite real entries.
    symmetric : bool, optional
        None (default) finds out by exact comparison of `A` with its transpose; True demands it;
        False makes no claim.
    positive_definite : bool, optional
        True proves it by a Cholesky factorization at once, which then serves every verb.  Without
        it no Dense is taken to be positive definite.

    Raises
    ------
    ValueError
        `A` is not 2-d, has NaN or infinite entries, or is not equal to its transpose although
        `symmetric` or `positive_definite` says so.
    numpy.linalg.LinAlgError
        ``positive_definite=True`` and the Cholesky factorization fails.
    TypeError
        `A` is complex, sparse or not numeric.

    Notes
    -----
    m n numbers stored, 2 m n flops a product.  The first `solve` or `slogdet` takes 2 n³/3 flops
    (LU), ``positive_definite=True`` n³/3 (Cholesky); later solves take 2 n² a column.  A zero pivot
    means singular: `solve` raises ``numpy.linalg.LinAlgError``, `slogdet` returns ``(0, -inf)``.

    Examples
    --------
    >>> from mlrops import Dense
    >>> A = Dense([[2.0, 1.0], [1.0, 2.0]], positive_definite=True)
    >>> A
    <2x2 Dense, positive definite, float64>
    >>> A.solve([3.0, 3.0])
    array([1., 1.])
    >>> Dense([[1.0, 2.0, 3.0]]) @ [1, 1, 1]
    array([6.])
    """

    def __init__(self, A: Real, symmetric: bool | None = None, positive_definite: bool = False, *,
                 _proved: bool = False, _order: str = "C") -> None:
        # `_proved` says that A is a sum or a multiple of positive definite matrices.
        X = read_only(as_finite(A, "A", ndim=2, axis_name="row"), _order)
        square, demanded = X.shape[0] == X.shape[1], symmetric or positive_definite
        if demanded and not square:
            raise ValueError(f"A symmetric Dense must be square, got shape {X.shape}")
        if demanded or (symmetric is None and square):
            symmetric = np.array_equal(X, X.T)
            if demanded and not symmetric:
                off = np.abs(X - X.T)
                i, j = np.unravel_index(off.argmax(), off.shape)
                raise ValueError(
                    f"Dense was declared symmetric, but A[{i}, {j}] - A[{j}, {i}] ="
                    f" {X[i, j] - X[j, i]:.3g}; pass (A + A.T) / 2 if that is rounding")
        super().__init__(X.dtype, X.shape, symmetric=bool(symmetric),
                         positive_definite=bool(positive_definite or (_proved and symmetric)))
        self._A = X
        if positive_definite:
            _ = self._cholesky

    stored_fields = {"A": floats(2), "symmetric": FLAG, "positive_definite": FLAG}

    def to_fields(self) -> dict[str, object]:
        if self.positive_definite:
            _ = self._cholesky  # what cannot be shown again is not saved either
        return super().to_fields()

    @classmethod
    def from_fields(cls, A: FloatArray, symmetric: bool, positive_definite: bool) -> "Dense":
        return cls(A, symmetric, positive_definite, _order="K")

    @property
    def A(self) -> FloatArray:
        """The matrix, read-only ndarray of shape (m, n)."""
        return self._A

    @cached_property
    def _cholesky(self):
        """Lower triangular C with A = C Cᵀ."""
        try:
            return linalg.cholesky(self._A, lower=True, check_finite=False)
        except np.linalg.LinAlgError as error:
            raise np.linalg.LinAlgError(
                f"Dense of shape {self.shape} is not positive definite: {error}") from None

    @cached_property
    def _lu(self):
        with warnings.catch_warnings():
            # The verbs look for a pivot that is exactly zero, and report it.
            warnings.simplefilter("ignore", linalg.LinAlgWarning)
            warnings.simplefilter("ignore", RuntimeWarning)
            return linalg.lu_factor(self._A, check_finite=False)

    def _mul(self, x):
        return self._A @ x

    def _rmul(self, x):
        return self._A.T @ x

    def _solve(self, b):
        if b.size == 0:
            return b.copy()
        if self._positive_definite:
            return linalg.cho_solve((self._cholesky, True), b, check_finite=False)
        zero = np.flatnonzero(self._lu[0].diagonal() == 0)
        if zero.size:
            raise np.linalg.LinAlgError(
                f"Dense of shape {self.shape} is singular: pivot {name_some(zero)} of its LU"
                " factorization is zero")
        return linalg.lu_solve(self._lu, b, check_finite=False)

    def _slogdet(self):
        if self._positive_definite:
            return 1.0, 2 * np.log(self._cholesky.diagonal(), dtype=np.float64).sum()
        if self.shape[0] == 0:
            return 1.0, 0.0
        lu, swaps = self._lu
        pivots = lu.diagonal()
        if not pivots.all():
            return 0.0, -np.inf
        flips = np.count_nonzero(pivots < 0) + np.count_nonzero(swaps != np.arange(swaps.size))
        return (-1.0) ** flips, np.log(np.abs(pivots), dtype=np.float64).sum()

    def _diagonal(self):
        return self._A.diagonal().copy()

    def _transpose(self):
        return Dense(self._A.T, symmetric=False, _order="K")

    def toarray(self) -> FloatArray:
        """A copy of the matrix, shape (m, n)."""
        return np.array(self._A)

    # The root of A = C Cᵀ is S = C, and W = C⁻¹.

    def _whiten(self, x):
        if x.size == 0:
            return x.copy()
        return linalg.solve_triangular(self._cholesky, x, lower=True, check_finite=False)

    def _color(self, z):
        return self._cholesky @ z


class LowRank(StructuredOperator):
    """Low rank matrix ``U Vᵀ``.

    Parameters
    ----------
    U : array_like, shape (m, k)
        Left factor; k may be 0.
    V : array_like, shape (n, k), optional
        Right factor; None (default) stands for `U`: the symmetric ``U Uᵀ``.

    Raises
    ------
    ValueError
        Not 2-d, different numbers of columns, NaN or infinite entries.
    TypeError
        Complex, sparse or non-numeric factors.

    Notes
    -----
    (m + n) k numbers stored, 2 (m + n) k flops a product.  Tagged symmetric when V equals U
    exactly; never tagged positive definite.  A square one with k < n is singular by construction:
    `slogdet` is ``(0, -inf)`` and `solve` raises ``numpy.linalg.LinAlgError``.  With k >= n the
    product is no larger than its factors, and is factored as a `Dense`.

    Examples
    --------
    >>> from mlrops import LowRank
    >>> A = LowRank([[1.0], [2.0]])
    >>> A.toarray()
    array([[1., 2.],
           [2., 4.]])
    >>> A.slogdet()
    (0.0, -inf)
    >>> LowRank([[1.0], [2.0]], [[1.0], [0.0], [1.0]]).shape
    (2, 3)
    """

    def __init__(self, U: Real, V: Real | None = None) -> None:
        X = Y = as_finite(U, "U", ndim=2, axis_name="row")
        if V is not None:
            Y = as_finite(V, "V", ndim=2, axis_name="row")
            if Y.shape[1] != X.shape[1]:
                raise ValueError(
                    f"U and V must have equally many columns, got shapes {X.shape} and {Y.shape}")
        symmetric = X is Y or np.array_equal(X, Y)
        dtype = X.dtype if symmetric else np.result_type(X, Y)
        self._U = read_only(X.astype(dtype, copy=False))
        self._V = self._U if symmetric else read_only(Y.astype(dtype, copy=False))
        super().__init__(dtype, (X.shape[0], Y.shape[0]), symmetric=symmetric)

    stored_fields = {"U": floats(2), "V": maybe(floats(2))}

    @property
    def U(self) -> FloatArray:
        """Left factor, read-only ndarray of shape (m, k)."""
        return self._U

    @property
    def V(self) -> FloatArray:
        """Right factor, read-only ndarray of shape (n, k); the same object as `U` if symmetric."""
        return self._V

    @property
    def rank(self) -> int:
        """Number of columns k, an upper bound of the rank (int)."""
        return self._U.shape[1]

    @property
    def _semidefinite(self):
        return self._symmetric

    @property
    def _has_direct_solve(self):
        return self.shape[0] == self.shape[1] <= self.rank

    def _mul(self, x):
        return self._U @ (self._V.T @ x)

    def _rmul(self, x):
        return self._V @ (self._U.T @ x)

    @cached_property
    def _square_product(self):
        n, k = self._U.shape
        if k < n:
            raise np.linalg.LinAlgError(
                f"LowRank of shape {self.shape} with {counted(k, 'column')} is singular: its rank"
                f" is at most {k}; add a diagonal before solving")
        return Dense(self._U @ self._V.T)

    def _solve(self, b):
        return refined(self, self._square_product._solve, b)

    def _slogdet(self):
        if self.rank < self.shape[0]:
            return 0.0, -np.inf
        return self._square_product._slogdet()

    def _inv(self):
        _ = self._square_product  # raises when k < n
        return super()._inv()

    def _diagonal(self):
        r = min(self.shape)
        return np.einsum("ij,ij->i", self._U[:r], self._V[:r])

    def _transpose(self):
        return LowRank(self._V, self._U)
