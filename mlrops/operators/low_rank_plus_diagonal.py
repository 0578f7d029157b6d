"""`LowRankPlusDiagonal`: ``F Fᵀ + diag(D)``, positive definite."""

import numpy as np
from scipy import linalg

from .. import kernels
from .._common.cached import cached_property
from .._common.stored import floats
from .._common.typing import FloatArray, Real, Vector
from .._common.validate import as_finite, as_positive, read_only, rowwise
from ..tree.hierarchy import Hierarchy
from .composed import Inverse
from .elementary import Diagonal
from .factored import Factored, columns_of
from .refine import column_dots
from .woodbury import WoodburyInverse

__all__ = ["LowRankPlusDiagonal"]

# What SciPy's `cho_solve` calls, which takes several times as long for a few factors.
_POTRS = {np.dtype(np.float64): linalg.lapack.dpotrs, np.dtype(np.float32): linalg.lapack.spotrs}
# Multiply-adds of a product below which the calls around it take as long; see `threads.MIN_WORK`.
_LITTLE = 1_000_000


class LowRankPlusDiagonal(Factored):
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

    Stored are (n + 1) k numbers, and a k×k matrix once factored.  With
    :math:`\tilde F = D^{-1/2} F` the factorization is the Cholesky factorization of
    :math:`P = I + \tilde F^T \tilde F`, and the square root is symmetric in the scaled features:

    .. math:: S = D^{1/2} (I + \tilde F\, \varphi(\tilde F^T \tilde F)\, \tilde F^T),
              \quad \varphi(\lambda) = 1 / (1 + \sqrt{1 + \lambda}).

    `solve` forms :math:`z = P^{-1} F^T D^{-1} b` and :math:`x = D^{-1} (b - F z)`.  Exactly,
    :math:`z = F^T x`, and the residual of x is :math:`F (z - F^T x)`; for b close to the range of F
    and D small rounding alone makes this large.  A bound on it, from norms at hand, tells whether
    x has to be corrected by :math:`D^{-1} F P^{-1} (z - F^T x)`; a correction costs two more
    passes over F.

    Where D is so small beside F that the Cholesky factor would lose more than 2500 units of
    rounding, a QR factorization of :math:`[\tilde F; I]` takes its place, without squares and
    without differences: see `factorization`.  It takes 5 to 15 times as long and n k numbers more,
    and then `solve`, determinant, diagonal of the inverse, square root and quadratic form are right
    to a few units of rounding, times the condition of each, whatever D is.

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

    def __init__(self, F: Real, D: Vector) -> None:
        F = as_finite(F, "F", ndim=2)
        D = as_positive(D, "D", F.shape[0])
        dtype = np.result_type(F, D)
        self._F = read_only(F.astype(dtype, copy=False))
        self._d = read_only(D.astype(dtype, copy=False))
        super().__init__(dtype, (D.size, D.size), positive_definite=True)

    stored_fields = {"F": floats(2), "D": floats(1)}

    @property
    def _update_rank(self):
        return self._F.shape[1]

    @property
    def F(self) -> FloatArray:
        """Factors, read-only ndarray of shape (n, k)."""
        return self._F

    @property
    def D(self) -> FloatArray:
        """Diagonal part, read-only ndarray of shape (n,)."""
        return self._d

    @cached_property
    def _hierarchy(self):
        return Hierarchy.flat(self.shape[0])

    @property
    def _ranks(self):
        return self._F.shape[1:]

    @cached_property
    def _layout(self):
        one_leaf = np.zeros((1, 1), np.int64)
        return kernels.layout.make_layout([np.array([0, len(self._d)])], one_leaf, self._ranks)

    def _apply(self, compute, x):
        return compute(columns_of(x)).reshape(x.shape)

    def _is_little(self, x):
        """Whether BLAS takes products with x in less time than threads take to share them."""
        return self._F.size * x.size < _LITTLE * len(x)

    def _mul(self, x):
        if not self._is_little(x):
            return super()._mul(x)
        y = self._F @ (self._F.T @ x)
        y += rowwise(self._d, x) * x
        return y

    def _cholesky(self):
        P, share = kernels.leaf.gram_of_all(self._F, self._dinv)
        np.einsum("ii->i", P)[...] += 1
        try:
            C = np.ascontiguousarray(linalg.cholesky(P, lower=True, check_finite=False))
        except np.linalg.LinAlgError:
            C = None
        if C is None or not np.isfinite(C).all():
            return kernels.tree.Factorization(P, np.nan, (0, 0), P.diagonal(), np.inf, share)
        pivots = C.diagonal()
        gained = 2 * np.log(pivots, dtype=np.float64).sum()
        loss = (P.diagonal() / np.square(pivots)).max(initial=1.0)
        return kernels.tree.Factorization(C, float(gained), None, P.diagonal(), float(loss), share)

    def _explained(self, t):
        return _POTRS[self.dtype](self._factor.K.T, t, lower=False)[0]

    def _loadings(self, z):
        return self._F @ z

    def _once(self, b):
        F, dinv, layout = self._F, self._dinv, self._layout
        if kernels.parts.in_one_call(b, layout):
            return kernels.tree.solve(F, dinv, self._factor.K, b, layout)
        squares = np.zeros((4, b.shape[1]))
        with np.errstate(over="ignore", invalid="ignore"):
            if not self._is_little(b):
                z = self._explained(kernels.tree.project(F, b, dinv, None, layout, squares[:2]))
                x = kernels.tree.rows_from(F, dinv, b, z, None, layout, 1.0, True, squares[2:])
                return x, z, squares
            scaled = b * dinv[:, None]
            z = self._explained(F.T @ scaled)
            x = b - F @ z
            x *= dinv[:, None]
            for part, pair in zip(squares, ((b, b), (b, scaled), (z, z), (x, x)), strict=True):
                part[:] = column_dots(*pair)
        return x, z, squares

    def _sample(self, size, rng):
        n, k = self._F.shape
        z = rng.standard_normal((size, k)).astype(self.dtype, copy=False)
        e = rng.standard_normal((size, n)).astype(self.dtype, copy=False)
        e *= np.sqrt(self._d)
        e += z @ self._F.T
        return e

    @cached_property
    def _root(self):
        return self._qr if self._exactly else _SymmetricRoot(self._F, self._d, self._dinv)

    def _inv(self):
        if self._cancels:  # also raises where there is no inverse
            return Inverse(self)
        k = self._F.shape[1]
        return WoodburyInverse(self, Diagonal(1 / self._d), self._inverse_rows() if k else self._F,
                               -np.eye(k, dtype=self.dtype), None)


class _SymmetricRoot:
    """``S = D^{1/2} (I + F̃ Q f Qᵀ F̃ᵀ)``, ``F̃ = D^{-1/2} F``, and its inverse: compare kernels.root.

    F is not copied.
    """

    def __init__(self, F, d, dinv):
        self.F, self.deviation = F, np.sqrt(d)[:, None]
        gram = kernels.leaf.gram_of_all(F, dinv)[0][None]
        self.Q, self.f, self.g = (part[0] for part in kernels.root.eigen(gram))

    def _between(self, f, x):
        return self.F @ (self.Q @ (f[:, None] * (self.Q.T @ (self.F.T @ x))))

    def color(self, z):
        """``S z = D^{1/2} z + F φ Fᵀ D^{-1/2} z``, φ = Q f Qᵀ."""
        return self._between(self.f, z / self.deviation) + self.deviation * z

    def color_transpose(self, x):
        """``Sᵀ x = D^{1/2} x + D^{-1/2} F φ Fᵀ x``."""
        return self._between(self.f, x) / self.deviation + self.deviation * x

    def whiten(self, x):
        """``W x = D^{-1/2} (x - F ψ Fᵀ D⁻¹ x)``."""
        return (x - self._between(self.g, x / np.square(self.deviation))) / self.deviation
