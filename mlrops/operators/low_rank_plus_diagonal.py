"""`LowRankPlusDiagonal`: ``F Fᵀ + diag(D)``, positive definite."""

import numpy as np
from scipy import linalg

from .._common.cached import cached_property
from .._common.stored import floats
from .._common.validate import as_finite, as_positive, read_only, rowwise
from . import accuracy
from .base import StructuredOperator
from .composed import Inverse
from .elementary import Diagonal
from .refine import LIMIT, of_size_one, unreached
from .woodbury import WoodburyInverse

__all__ = ["LowRankPlusDiagonal"]

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
    passes over F and the backward error ends near rounding however small D is.  What rounding could
    move by more than 1e-7 (float32: 3e-3) raises ``numpy.linalg.LinAlgError``: determinant,
    diagonal of the inverse, square root and quadratic form, for D very small beside F.

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

    stored_fields = {"F": floats(2), "D": floats(1)}

    @property
    def _update_rank(self):
        return self._F.shape[1]

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

    @cached_property
    def _sizes(self):
        """The diagonal of P and its pivots."""
        return (1 + self._gram.diagonal().astype(np.float64),
                np.square(self._cholesky.diagonal(), dtype=np.float64))

    def _posterior(self, t):
        """P⁻¹ t."""
        return linalg.cho_solve((self._cholesky, True), t, check_finite=False)

    @cached_property
    def _norms(self):
        """Upper bounds of ‖P‖ and ‖D^{-1/2}F‖."""
        spread = float(np.abs(self._gram).sum(axis=0).max(initial=0.0))
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

    @property
    def _size(self):
        """A lower bound of ‖Σ‖."""
        return max(self._factor_square / max(self._F.shape[1], 1), float(self._D.max(initial=0.0)))

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
        phi, psi = (Q / (1 + root)) @ Q.T, (Q / (root * (1 + root))) @ Q.T
        return accuracy.checked_root(
            self, (phi, psi), self._norms[0], self._D, self._diagonal(), self._mul,
            lambda z: self._rooted(phi, z), lambda x: self._rooted_transpose(phi, x),
            lambda x: self._unrooted(psi, x))

    def _rooted(self, phi, z):
        """S z = D^{1/2} z + F φ(G) Fᵀ D^{-1/2} z."""
        root = np.sqrt(rowwise(self._D, z))
        x = self._F @ (phi @ (self._F.T @ (z / root)))
        x += root * z
        return x

    def _rooted_transpose(self, phi, x):
        """Sᵀ x = D^{1/2} x + D^{-1/2} F φ(G) Fᵀ x."""
        root = np.sqrt(rowwise(self._D, x))
        z = self._F @ (phi @ (self._F.T @ x))
        z /= root
        z += root * x
        return z

    def _unrooted(self, psi, x):
        """W x = D^{-1/2} (x - F ψ(G) Fᵀ D⁻¹ x)."""
        D = rowwise(self._D, x)
        y = self._F @ (psi @ (self._F.T @ (x / D)))
        np.subtract(x, y, out=y)
        y /= np.sqrt(D)
        return y

    # ---------------------------------------------------------------- apply

    def _solve_with_mean(self, b):
        """x = Σ⁻¹ b and the posterior mean z = Fᵀ x of the factors."""
        F, D = self._F, rowwise(self._D, b)
        if F.shape[1] == 0 or b.size == 0:
            return b / D, np.zeros(F.shape[1:] + b.shape[1:], self.dtype)
        return of_size_one(self._corrected, b)

    def _corrected(self, b):
        F, D = self._F, rowwise(self._D, b)
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
                return x, z
            step = self._posterior(z - F.T @ x)
            z -= step
            x += (F @ step) / D
            gap = P_norm * _norm(step) + self._factor_square**0.5 * x_norm
            x_norm = _norm(x)
        if not self._is_small(gap, x_norm, b_norm):
            self._measure(b, x)
        return x, z

    def _measure(self, b, x):
        """Refuse x where its backward error is no answer."""
        eps = np.finfo(self.dtype).eps
        with np.errstate(over="ignore", invalid="ignore"):
            sizes = self._size * _norm(x) + _norm(b)
            error = _norm(b - self._mul(x)) / np.where(sizes > 0, sizes, 1)
            error = np.max(np.where(np.isfinite(_norm(b)), error, 0), initial=0)
        if not error <= LIMIT * eps:
            raise unreached(self, error, "D is too small beside F for this precision")

    def _solve(self, b):
        return self._solve_with_mean(b)[0]

    def _slogdet(self):
        k = self._F.shape[1]
        if k == 0:
            return 1.0, np.log(self._D, dtype=np.float64).sum()
        gained = 2 * np.log(self._cholesky.diagonal(), dtype=np.float64).sum()
        return 1.0, accuracy.check_logdet(self, self._D, k, gained) + gained

    def _inv_quad(self, x):
        # xᵀ Σ⁻¹ x = ‖D^{-1/2}(x - F z)‖² + ‖z‖², where x - F z = D y: nothing cancels.
        if self._F.shape[1] == 0 or x.size == 0:
            return _dots(x / rowwise(self._D, x), x)
        return of_size_one(self._checked_inv_quad, x, power=2)

    def _checked_inv_quad(self, x):
        y, z = self._solve_with_mean(x)
        squares = _dots(z, z)
        quad = _dots(rowwise(self._D, y) * y, y) + squares

        def cost(doubtful):  # gᵀP⁻¹g, g = z - Fᵀy
            g = z - self._F.T @ y
            return np.atleast_1d(_dots(g, self._posterior(g)))[doubtful]

        accuracy.check_quad(self, quad, squares, _dots(x / rowwise(self._D, x), x),
                            self._norms[0], cost)
        return quad

    def _color(self, z):
        return self._rooted(self._root[0], z)

    def _whiten(self, x):
        return self._unrooted(self._root[1], x)

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
        inverse = WoodburyInverse(
            self, Diagonal(1 / self._D), H, -np.eye(k, dtype=self.dtype), None)
        loss = accuracy.inverse_loss(self, self._norms[0], self._size, inverse._mul, self._mul)
        # Where that cancels, an inverse whose products are solves.
        return inverse if loss <= accuracy.PROMISED[self.dtype] else Inverse(self)

    def _inverse_diagonal(self):
        """diag(Σ⁻¹): ``(1 - f P⁻¹ fᵀ) / D``, f a row of D^{-1/2}F."""
        if self._F.shape[1] == 0:
            return 1 / self._D
        f = self._F / np.sqrt(self._D)[:, None]
        C = self._posterior(np.eye(f.shape[1], dtype=self.dtype))
        left = 1 - np.einsum("ij,ij->i", f @ C, f)
        moved = (C * self._sizes[0].astype(self.dtype)) @ C + np.diag(C.diagonal())
        accuracy.check_left(self, left, np.einsum("ij,ij->i", f @ moved, f),
                            np.arange(left.size), "diagonal of the inverse")
        return left / self._D


def _dots(x, y):
    """Inner products of the columns of x and y."""
    return np.dot(x, y) if x.ndim == 1 else np.einsum("ij,ij->j", x, y)


def _norm(x):
    return np.sqrt(_dots(x, x))
