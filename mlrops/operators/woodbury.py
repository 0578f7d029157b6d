"""Low rank updates: `LowRankPlusDiagonal` and the general `Woodbury`."""


import numpy as np
from scipy import linalg

from .._cached import cached_property
from ._validate import as_finite, as_positive, read_only, rowwise
from .base import StructuredOperator
from .composed import Inverse, rdot
from .elementary import Dense, Diagonal
from .wrapped import as_operator

__all__ = ["LowRankPlusDiagonal", "Woodbury", "WoodburyInverse"]

# Rows of F scaled at a time: this many times k numbers stay in a level 2 cache.
_CHUNK = 1024

# A solve is corrected until the bound of its backward error is this many units of rounding.
_BACKWARD_ERROR = 100
_MAX_CORRECTIONS = 4


class LowRankPlusDiagonal(StructuredOperator):
    r"""Low rank plus diagonal matrix :math:`\Sigma = F F^T + \mathrm{diag}(D)`, positive definite.

    Parameters
    ----------
    F : array_like, shape (n, k)
        Factors; k may be 0.
    D : array_like, shape (n,)
        Positive diagonal.

    Raises
    ------
    ValueError
        Wrong shapes, NaN or infinity, ``D <= 0``; the message names the features.
    TypeError
        Complex, sparse or non-numeric entries.

    Notes
    -----
    ==================  ============  =============
    operation           flops         reads of F
    ==================  ============  =============
    ``A @ x``           4 n k         2
    factor (once)       n k²          1
    ``solve``           4 n k         2
    ``whiten, color``   4 n k         2
    ``inv``             n k² (H)      1
    ==================  ============  =============

    Stored are (n + 1) k numbers, and two k×k matrices once factored.  With
    :math:`\tilde F = D^{-1/2} F` the factorization is the Cholesky factorization of
    :math:`P = I + \tilde F^T \tilde F`, and the square root is symmetric in the scaled features:

    .. math:: S = D^{1/2} (I + \tilde F\, \varphi(\tilde F^T \tilde F)\, \tilde F^T),
              \quad \varphi(\lambda) = 1 / (1 + \sqrt{1 + \lambda}).

    `solve` forms :math:`z = P^{-1} F^T D^{-1} b` and :math:`x = D^{-1} (b - F z)`.  Exactly,
    :math:`z = F^T x`, and the residual of x is :math:`F (z - F^T x)`; for b close to the range of F
    and D small rounding alone makes this large.  A bound on it, from norms at hand, tells whether
    x has to be corrected by :math:`D^{-1} F P^{-1} (z - F^T x)`; a correction costs two more
    passes over F and the backward error ends near rounding however small D is.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import LowRankPlusDiagonal
    >>> A = LowRankPlusDiagonal([[1.0], [1.0], [2.0]], D=[1.0, 2.0, 1.0])
    >>> A.toarray()
    array([[2., 1., 2.],
           [1., 3., 2.],
           [2., 2., 5.]])
    >>> np.round(A.solve([5.0, 6.0, 9.0]), 12)
    array([1., 1., 1.])
    >>> round(A.logdet(), 6)  # log 13
    2.564949
    >>> A.inv().inv() is A
    True
    """

    def __init__(self, F, D):
        F = as_finite(F, "F", ndim=2)
        D = as_positive(D, "D", F.shape[0])
        dtype = np.result_type(F, D)
        self._F = read_only(F.astype(dtype, copy=False))
        self._D = read_only(D.astype(dtype, copy=False))
        super().__init__(dtype, (D.size, D.size), positive_definite=True)

    @property
    def F(self):
        """Factors, read-only ndarray of shape (n, k)."""
        return self._F

    @property
    def D(self):
        """Diagonal part, read-only ndarray of shape (n,)."""
        return self._D

    def _mul(self, x):
        y = self._F @ (self._F.T @ x)
        y += rowwise(self._D, x) * x
        return y

    def _diagonal(self):
        return self._D + np.einsum("ij,ij->i", self._F, self._F)

    # ---------------------------------------------------------------- factor

    @cached_property
    def _gram(self):
        """G = Fᵀ D⁻¹ F, from D^{-1/2} F a chunk of rows at a time."""
        from ..kernels._compiled import rows_scale  # imports numba: not before there is work

        n, k = self._F.shape
        scale = 1 / np.sqrt(self._D)
        G = np.zeros((k, k), self.dtype)
        scaled = np.empty((min(n, _CHUNK), k), self.dtype)
        for start in range(0, n, _CHUNK):
            rows = self._F[start:start + _CHUNK]
            part = scaled[:rows.shape[0]]
            rows_scale(self._F, scale, start, start + rows.shape[0], part)
            G += part.T @ part
        if not np.isfinite(G).all():
            raise np.linalg.LinAlgError(
                f"Fᵀ D⁻¹ F overflows {self.dtype}: entries of F reach {np.abs(self._F).max():.3g}"
                f" and of D fall to {self._D.min():.3g}; rescale the features"
            )
        return G

    @cached_property
    def _cholesky(self):
        """Lower triangular C with C Cᵀ = P = I + Fᵀ D⁻¹ F."""
        P = self._gram + np.eye(self._F.shape[1], dtype=self.dtype)
        return linalg.cholesky(P, lower=True, check_finite=False)

    def _posterior(self, t):
        """P⁻¹ t."""
        return linalg.cho_solve((self._cholesky, True), t, check_finite=False)

    @cached_property
    def _norms(self):
        """Upper bounds of ‖P‖ and ‖D^{-1/2}F‖."""
        spread = float(np.abs(self._gram).sum(axis=0).max())
        return 1 + spread, spread**0.5

    @cached_property
    def _factor_square(self):
        """‖F‖², Frobenius."""
        return float(np.vdot(self._F, self._F))

    @cached_property
    def _square_bounds(self):
        """min D tr G <= ‖F‖² <= max D tr G, and max D: for nothing."""
        low, high = float(self._D.min()), float(self._D.max())
        trace = float(self._gram.trace())
        return low * trace, high * trace, high

    def _is_small(self, gap, x_norm, b_norm):
        """Whether ‖z - Fᵀx‖ = `gap`, in units of rounding, is a small backward error of x."""
        low, high, largest = self._square_bounds

        def small(low, high):
            norm = max(low / self._F.shape[1], largest)  # ‖Σ‖ is no less
            return np.all(high**0.5 * gap <= _BACKWARD_ERROR * (norm * x_norm + b_norm))

        return small(low, high) or small(self._factor_square, self._factor_square)

    @cached_property
    def _root(self):
        """φ(G) and ψ(G), the small matrices of the square root and of its inverse."""
        values, Q = np.linalg.eigh(self._gram)
        root = np.sqrt(1 + np.maximum(values, 0))  # G is a Gram matrix: below 0 is rounding
        return (Q / (1 + root)) @ Q.T, (Q / (root * (1 + root))) @ Q.T

    # ---------------------------------------------------------------- apply

    def _solve_with_mean(self, b):
        """x = Σ⁻¹ b and the posterior mean z = Fᵀ x of the factors."""
        F, D = self._F, rowwise(self._D, b)
        if F.shape[1] == 0 or b.size == 0:
            return b / D, np.zeros(F.shape[1:] + b.shape[1:], self.dtype)
        x = b / D
        squares = _dots(b, x)
        z = self._posterior(F.T @ x)
        np.matmul(F, z, out=x)
        np.subtract(b, x, out=x)
        x /= D

        # Rounding in D⁻¹b, in Fᵀ(D⁻¹b) and in P⁻¹ moves z - Fᵀx by about
        # ‖P‖ ‖z‖ + ‖D^{-1/2}F‖ ‖D^{-1/2}b‖ units at most.  A correction by P⁻¹ of that gap leaves
        # ‖P‖ times its own length and what cancels between x and its correction.
        P_norm, scaled_norm = self._norms
        x_norm, b_norm = _norm(x), _norm(b)
        gap = P_norm * _norm(z) + scaled_norm * np.sqrt(squares)
        for _ in range(_MAX_CORRECTIONS):
            if self._is_small(gap, x_norm, b_norm):
                break
            step = self._posterior(z - F.T @ x)
            z -= step
            x += (F @ step) / D
            gap = P_norm * _norm(step) + self._factor_square**0.5 * x_norm
            x_norm = _norm(x)
        return x, z

    def _solve(self, b):
        return self._solve_with_mean(b)[0]

    def _slogdet(self):
        logs = np.log(self._D, dtype=np.float64).sum()
        return 1.0, logs + 2 * np.log(self._cholesky.diagonal(), dtype=np.float64).sum()

    def _inv_quad(self, x):
        # xᵀ Σ⁻¹ x = ‖D^{-1/2}(x - F z)‖² + ‖z‖², where x - F z = D y: nothing cancels.
        y, z = self._solve_with_mean(x)
        return _dots(rowwise(self._D, y) * y, y) + _dots(z, z)

    def _color(self, z):
        # S z = D^{1/2} z + F φ(G) Fᵀ D^{-1/2} z
        root = np.sqrt(rowwise(self._D, z))
        x = self._F @ (self._root[0] @ (self._F.T @ (z / root)))
        x += root * z
        return x

    def _whiten(self, x):
        # W x = D^{-1/2} (x - F ψ(G) Fᵀ D⁻¹ x)
        D = rowwise(self._D, x)
        y = self._F @ (self._root[1] @ (self._F.T @ (x / D)))
        np.subtract(x, y, out=y)
        y /= np.sqrt(D)
        return y

    def _sample(self, size, rng):
        n, k = self._F.shape
        z = rng.standard_normal((size, k)).astype(self.dtype, copy=False)
        e = rng.standard_normal((size, n)).astype(self.dtype, copy=False)
        e *= np.sqrt(self._D)
        e += z @ self._F.T
        return e

    def _inv(self):
        # Σ⁻¹ = D⁻¹ - H Hᵀ with H = D⁻¹ F C⁻ᵀ
        k = self._F.shape[1]
        scaled = self._F / self._D[:, None]
        H = scaled if k == 0 else linalg.solve_triangular(
            self._cholesky, scaled.T, lower=True, check_finite=False).T
        return WoodburyInverse(
            self, Diagonal(1 / self._D), H, -np.eye(k, dtype=self.dtype), None)


def _dots(x, y):
    """Inner products of the columns of x and y."""
    return np.dot(x, y) if x.ndim == 1 else np.einsum("ij,ij->j", x, y)


def _norm(x):
    return np.sqrt(_dots(x, x))


class Woodbury(StructuredOperator):
    """Low rank update ``A + U C Vᵀ`` of any square operator A.

    Parameters
    ----------
    base : square operator, array or sparse array, shape (n, n)
        A; solves and determinant need those of A.
    U : array_like, shape (n, k)
    C : array_like, shape (k, k), optional
        May be singular or indefinite; None (default) stands for the identity.
    V : array_like, shape (n, k), optional
        None (default) stands for `U`.

    Raises
    ------
    ValueError
        Wrong shapes, NaN or infinity.
    TypeError
        Complex, sparse or non-numeric arrays.

    Notes
    -----
    With the capacitance ``M = I + Vᵀ A⁻¹ U C``, formed and factored once by k solves with A,

        (A + U C Vᵀ)⁻¹ = A⁻¹ - A⁻¹ U C M⁻¹ Vᵀ A⁻¹,      det(A + U C Vᵀ) = det A det M,

    which never needs C⁻¹ (M. Woodbury, "Inverting modified matrices", 1950).  A product costs 4 n k
    flops more than one with A, a solve 4 n k more than one with A.  `solve` raises
    ``numpy.linalg.LinAlgError`` when A or M is singular.

    Symmetric when A and C are and V is U; positive definite when in addition A is and C is proved
    to be by a Cholesky factorization (or is the identity).

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import Diagonal, Woodbury
    >>> A = Woodbury(Diagonal([1.0, 2.0, 4.0]), U=np.ones((3, 1)), C=[[-0.25]])
    >>> A.toarray()
    array([[ 0.75, -0.25, -0.25],
           [-0.25,  1.75, -0.25],
           [-0.25, -0.25,  3.75]])
    >>> np.round(A.solve(A @ [1.0, 2.0, 3.0]), 12)
    array([1., 2., 3.])
    """

    def __init__(self, base, U, C=None, V=None, *, _positive_definite=False):
        base = as_operator(base)
        n = base._square("Woodbury")
        U = as_finite(U, "U", ndim=2, axis_name="row")
        if V is not None:
            V = as_finite(V, "V", ndim=2, axis_name="row")
            if V.shape == U.shape and np.array_equal(U, V):
                V = None
        for name, X in (("U", U), ("V", U if V is None else V)):
            if X.shape != (n, U.shape[1]):
                raise ValueError(
                    f"{name} must have shape (n, k) = {(n, U.shape[1])} to update a base of shape"
                    f" {base.shape}, got {X.shape}"
                )
        k = U.shape[1]
        if C is not None:
            C = as_finite(C, "C", ndim=2, axis_name="row")
            if C.shape != (k, k):
                raise ValueError(f"C must have shape (k, k) = {(k, k)}, got {C.shape}")
        dtype = np.result_type(base.dtype, *(X for X in (U, C, V) if X is not None))
        self._base = base
        self._U = read_only(U.astype(dtype, copy=False))
        self._V = self._U if V is None else read_only(V.astype(dtype, copy=False))
        self._C = None if C is None else read_only(C.astype(dtype, copy=False))
        symmetric = base.symmetric and V is None and (C is None or np.array_equal(C, C.T))
        proved = _positive_definite or (
            symmetric and base.positive_definite and (C is None or _has_cholesky(C)))
        super().__init__(dtype, (n, n), symmetric=symmetric, positive_definite=proved)

    @property
    def base(self):
        """The operator that is updated."""
        return self._base

    @property
    def U(self):
        """Left factor, read-only ndarray of shape (n, k)."""
        return self._U

    @property
    def C(self):
        """Middle matrix, read-only ndarray of shape (k, k), or None for the identity."""
        return self._C

    @property
    def V(self):
        """Right factor, read-only ndarray of shape (n, k); the same object as `U` if it was."""
        return self._V

    @property
    def _has_direct_solve(self):
        return self._base._has_direct_solve

    def _middle(self, t):
        """C t."""
        return t if self._C is None else self._C @ t

    @property
    def _left(self):
        """U C."""
        return self._U if self._C is None else self._U @ self._C

    def _mul(self, x):
        return self._base.dot(x) + self._U @ self._middle(self._V.T @ x)

    def _rmul(self, x):
        t = self._U.T @ x
        return rdot(self._base, x) + self._V @ (t if self._C is None else self._C.T @ t)

    def _diagonal(self):
        return self._base.diagonal() + np.einsum("ij,ij->i", self._left, self._V)

    def _trace(self):
        return self._base.trace() + np.einsum("ij,ij->", self._left, self._V)

    def _transpose(self):
        C = None if self._C is None else self._C.T
        return Woodbury(self._base.T, self._V, C, self._U)

    # ---------------------------------------------------------------- factor, then apply

    @cached_property
    def _solved(self):
        """A⁻¹ U."""
        return self._base.solve(self._U)

    @cached_property
    def _capacitance(self):
        """M = I + Vᵀ A⁻¹ U C."""
        M = self._V.T @ self._solved
        if self._C is not None:
            M = M @ self._C
        return Dense(M + np.eye(M.shape[0], dtype=M.dtype), symmetric=False)

    def _check_nonsingular(self):
        if self._capacitance.slogdet()[0] == 0:
            raise np.linalg.LinAlgError(
                f"Woodbury of shape {self.shape} is singular: its capacitance I + Vᵀ A⁻¹ U C,"
                f" {self._capacitance.shape}, has a zero pivot"
            )

    def _solve(self, b):
        self._check_nonsingular()
        y = self._base.solve(b)
        return y - self._solved @ self._middle(self._capacitance.solve(self._V.T @ y))

    def _slogdet(self):
        sign, logabs = self._base.slogdet()
        if sign == 0:
            raise np.linalg.LinAlgError(
                f"the base of this Woodbury, {self._base!r}, is singular:"
                " det(A) det(I + Vᵀ A⁻¹ U C) does not exist"
            )
        small_sign, small = self._capacitance.slogdet()
        return sign * small_sign, logabs + small

    def _inv(self):
        # (A + U C Vᵀ)⁻¹ = A⁻¹ + (A⁻¹U) K (A⁻ᵀV)ᵀ with K = -C M⁻¹
        self._check_nonsingular()
        k = self._U.shape[1]
        C = np.eye(k, dtype=self.dtype) if self._C is None else self._C
        K = -Dense(self._capacitance.A.T, symmetric=False).solve(C.T).T
        if self.symmetric:
            # C (I + U'A⁻¹U C)⁻¹ is symmetric; only rounding says otherwise.
            return WoodburyInverse(self, self._base.inv(), self._solved, (K + K.T) / 2, None)
        return WoodburyInverse(
            self, self._base.inv(), self._solved, K, self._base.T.solve(self._V))

    # ---------------------------------------------------------------- square root
    # With A = S Sᵀ and W U = Q R:  A + U C Uᵀ = S (I + Q (R C Rᵀ) Qᵀ) Sᵀ, and the middle factor has
    # the symmetric root I + X (√(1+Λ) - I) Xᵀ, where R C Rᵀ = E Λ Eᵀ and X = Q E.

    @cached_property
    def _root(self):
        """X and the eigenvalues √(1+Λ)."""
        Q, R = linalg.qr(self._base.whiten(self._U), mode="economic", check_finite=False)
        values, E = np.linalg.eigh(R @ self._middle(R.T))
        if values.size and values[0] <= -1:
            raise np.linalg.LinAlgError(
                f"Woodbury of shape {self.shape} is not positive definite to working precision:"
                f" smallest eigenvalue {1 + values[0]:.3g} relative to its base"
            )
        return Q @ E, np.sqrt(1 + values)

    def _color(self, z):
        X, root = self._root
        return self._base.color(z + X @ (rowwise(root - 1, z) * (X.T @ z)))

    def _whiten(self, x):
        X, root = self._root
        y = self._base.whiten(x)
        return y + X @ (rowwise(1 / root - 1, y) * (X.T @ y))


def _has_cholesky(C):
    try:
        linalg.cholesky(C, lower=True, check_finite=False)
    except np.linalg.LinAlgError:
        return False
    return True


class WoodburyInverse(Woodbury):
    """Inverse of a `Woodbury` or `LowRankPlusDiagonal`, held as a `Woodbury`; made by ``A.inv()``.

    Its products are those of ``A⁻¹ + B K Vᵀ``; solve, determinant and square root go back to the
    original, which has them without cancellation.

    Examples
    --------
    >>> from mlrops import LowRankPlusDiagonal
    >>> A = LowRankPlusDiagonal([[1.0], [1.0]], D=[1.0, 1.0]).inv()
    >>> A
    <2x2 WoodburyInverse, positive definite, float64>
    >>> A.diagonal().round(6)
    array([0.666667, 0.666667])
    """

    def __init__(self, original, base, U, C, V):
        self._inverse = original
        super().__init__(base, U, C, V, _positive_definite=original.positive_definite)

    _solve = Inverse._solve
    _slogdet = Inverse._slogdet
    _whiten = Inverse._whiten
    _color = Inverse._color

    def _transpose(self):
        return self._inverse.T.inv()
