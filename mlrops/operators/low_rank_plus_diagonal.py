"""`LowRankPlusDiagonal`: ``F Fᵀ + diag(D)``, positive definite."""

import numpy as np
from scipy import linalg

from .. import kernels
from .._common.cached import cached_property
from .._common.stored import floats
from .._common.typing import FloatArray, Real, Vector
from .._common.validate import as_finite, as_positive, read_only, rowwise
from ..tree.hierarchy import Hierarchy
from . import accuracy
from .composed import Inverse
from .elementary import Diagonal
from .factored import Factored, columns_of
from .refine import (
    BACKWARD_ERROR,
    CORRECTIONS,
    LIMIT,
    check_reached,
    column_dots,
    doubtful,
    lengths,
    refine,
)
from .woodbury import WoodburyInverse

__all__ = ["LowRankPlusDiagonal"]

# A Cholesky factorization and solves with it; SciPy's functions, which call these, take several
# times as long for a few factors.
_LAPACK = {np.dtype(np.float64): (linalg.lapack.dpotrf, linalg.lapack.dpotrs),
           np.dtype(np.float32): (linalg.lapack.spotrf, linalg.lapack.spotrs)}


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

    _n_factors = _update_rank

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

    def _mul(self, x):
        y = self._F @ (self._F.T @ x)
        y += rowwise(self._d, x) * x
        return y

    _product = _mul

    def _means(self, x):
        return self._F.T @ x

    # ---------------------------------------------------------------- factor

    @cached_property
    def _gram(self):
        """G = Fᵀ D⁻¹ F; the lower triangle is what counts."""
        G = kernels.leaf.gram_of_all(self._F, self._dinv)
        if not np.isfinite(G).all():
            raise np.linalg.LinAlgError(
                f"Fᵀ D⁻¹ F overflows {self.dtype}: entries of F reach {np.abs(self._F).max():.3g}"
                f" and of D fall to {self._d.min():.3g}; rescale the features")
        return G

    @cached_property
    def _cholesky(self):
        """Lower triangular C with C Cᵀ = P = I + Fᵀ D⁻¹ F."""
        P = self._gram + np.eye(self._F.shape[1], dtype=self.dtype)
        C, fail = _LAPACK[self.dtype][0](P, lower=True)
        if fail:
            raise np.linalg.LinAlgError(
                f"{fail}-th leading minor of the array is not positive definite")
        return C

    @cached_property
    def _sizes(self):
        """The diagonal of P and its pivots."""
        return (1 + self._gram.diagonal().astype(np.float64),
                np.square(self._cholesky.diagonal(), dtype=np.float64))

    def _posterior(self, t):
        """P⁻¹ t."""
        return _LAPACK[self.dtype][1](self._cholesky, t, lower=True)[0]

    def _path_covariance(self):
        return self._posterior(np.eye(self._F.shape[1], dtype=self.dtype))[None]

    @property
    def _gained(self):
        return float(2 * np.log(self._cholesky.diagonal(), dtype=np.float64).sum())

    @cached_property
    def _norms(self):
        lower = np.abs(np.tril(self._gram))
        sums = lower.sum(axis=0) + np.tril(lower, -1).sum(axis=1)
        above = 1 + float(sums.max(initial=0.0))
        square = float(np.vdot(self._F, self._F))
        below = max(square / max(self._F.shape[1], 1), float(self._d.max(initial=0.0)))
        return above, square**0.5, below

    def _make_root(self):
        return _SymmetricRoot(self._F, self._d, self._gram)

    # ---------------------------------------------------------------- apply

    def _once(self, b):
        dinv = self._dinv[:, None]
        x = b * dinv
        z = self._posterior(self._F.T @ x)
        np.matmul(self._F, z, out=x)
        np.subtract(b, x, out=x)
        x *= dinv
        return x, z

    def _corrected(self, b):
        x, z = self._once(b)
        left = doubtful(b, x, column_dots(z), self._dinv, self._norms)
        if not left.size:
            return x
        # x and z in one array, corrected by what is left of z = Fᵀ x.
        n, both, size = len(x), np.concatenate([x, z]), lengths(b)
        _, factors, norm = self._norms

        def residual(both, columns):
            x, z = both[:n], both[n:]
            gap = z - self._means(x)
            return gap, factors * lengths(gap) / (norm * lengths(x) + size[columns])

        def step(gap, _):
            z = self._posterior(gap)
            x = self._F @ z
            x *= self._dinv[:, None]
            return np.concatenate([x, -z])

        with np.errstate(over="ignore", invalid="ignore"):
            reached = refine(both, residual, step, left, BACKWARD_ERROR * np.finfo(b.dtype).eps,
                             CORRECTIONS)
            x, high = both[:n], np.flatnonzero(~(reached <= LIMIT * np.finfo(b.dtype).eps))
            if high.size:  # by a bound; see what it is
                reached = lengths(b - self._product(x)) / (norm * lengths(x) + size)
        check_reached(self, reached[high])
        return x

    def _sample(self, size, rng):
        n, k = self._F.shape
        z = rng.standard_normal((size, k)).astype(self.dtype, copy=False)
        e = rng.standard_normal((size, n)).astype(self.dtype, copy=False)
        e *= np.sqrt(self._d)
        e += z @ self._F.T
        return e

    def _inv(self):
        # Σ⁻¹ = D⁻¹ - H Hᵀ with H = D⁻¹ F C⁻ᵀ
        k = self._F.shape[1]
        scaled = self._F / self._d[:, None]
        H = scaled if k == 0 else linalg.solve_triangular(
            self._cholesky, scaled.T, lower=True, check_finite=False).T
        inverse = WoodburyInverse(
            self, Diagonal(1 / self._d), H, -np.eye(k, dtype=self.dtype), None)
        # Where that cancels, an inverse whose products are solves.
        loss = accuracy.inverse_loss(self, inverse._mul) if k else 0.0
        return inverse if loss <= accuracy.PROMISED[self.dtype] else Inverse(self)


class _SymmetricRoot:
    """``S = D^{1/2} (I + F̃ φ(G) F̃ᵀ)``, ``F̃ = D^{-1/2} F`` and ``G = F̃ᵀF̃``, and its inverse W."""

    def __init__(self, F, d, gram):
        self.F, self.deviation = F, np.sqrt(d)[:, None]
        values, Q = np.linalg.eigh(gram)
        root = np.sqrt(1 + np.maximum(values, 0))  # G is a Gram matrix: below 0 is rounding
        self.phi, self.psi = (Q / (1 + root)) @ Q.T, (Q / (root * (1 + root))) @ Q.T

    def _between(self, M, x):
        return self.F @ (M @ (self.F.T @ x))

    def color(self, z):
        """``S z = D^{1/2} z + F φ Fᵀ D^{-1/2} z``."""
        return self._between(self.phi, z / self.deviation) + self.deviation * z

    def color_transpose(self, x):
        """``Sᵀ x = D^{1/2} x + D^{-1/2} F φ Fᵀ x``."""
        return self._between(self.phi, x) / self.deviation + self.deviation * x

    def whiten(self, x):
        """``W x = D^{-1/2} (x - F ψ Fᵀ D⁻¹ x)``."""
        return (x - self._between(self.psi, x / np.square(self.deviation))) / self.deviation
