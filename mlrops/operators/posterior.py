"""Factors of an MLR covariance given samples: their posterior, and scores by least squares."""

from typing import Any, TypeAlias

import numpy as np

from .. import kernels
from .._common.cached import cached_property, computed_once
from .._common.typing import BoolArray, FloatArray, Real
from .._common.validate import as_finite, as_real
from .._common.wording import counted
from ..kernels.layout import group_of

__all__ = ["FactorMoments", "FactorPosterior", "LeastSquaresScores", "factor_without_loss",
           "split_of"]

MLR: TypeAlias = Any  # its file imports this one

# A pivot is taken for zero where it is this many units of rounding of its own column, or less.
SINGULAR = 100


def _in_tree_order(covariance: MLR, X: Real, check_finite: bool = True) -> FloatArray:
    """Samples (n, N), one a column, in the precision of an MLR and C-contiguous."""
    check = as_finite if check_finite else as_real
    X = check(X, "X", dtype=covariance.dtype, ndim=2)
    if X.shape[0] != covariance.shape[0]:
        raise ValueError(
            f"X must have one row a feature ({covariance.shape[0]}), got shape {X.shape}")
    return np.ascontiguousarray(covariance.hierarchy._gather(X))


def split_of(covariance: MLR) -> Any:
    """The `Split` of an MLR, None where it has no long rows."""
    A = covariance
    if not A._layout.R:
        return None
    split = kernels.residual.Split(A._F, A._d, A._dinv, A._layout)
    return split if split.rows.size else None


def factor_without_loss(covariance: MLR) -> None:
    """Factor an MLR whose D is far below its variances, unless it has been factored.

    By rotations of the long rows of D^{-1/2}F: where these are few it costs what Cholesky does, and
    QR many times as much.
    """
    A = covariance

    def factor():
        found = kernels.residual.factor(A._F, A._d, A._dinv, A._layout)
        if found.fail is not None:
            raise A._breakdown(*found.fail)
        found.K.flags.writeable = False
        return found

    computed_once(A, "_factor", factor)


class FactorMoments:
    """Means (s, N) and covariance of the factors of an MLR, kept node by node."""

    def __init__(self, covariance: MLR, K: FloatArray | None, means: FloatArray) -> None:
        self._sigma, self._K, self._means = covariance, K, means

    def mean(self, level: int) -> FloatArray:
        """Means of the factors of one level, shape (p_l, r_l, N)."""
        layout = self._sigma._layout
        level = range(layout.L)[level]
        block = self._means[layout.node_rows(level)]
        p, r = self._sigma.hierarchy.group_counts[level], self._sigma.ranks[level]
        return block.reshape(p, r, self._means.shape[1]).copy()

    def covariance(self, level: int) -> FloatArray:
        """Covariance of the factors within each group of a level, shape (p_l, r_l, r_l).

        The same for every sample.
        """
        layout = self._sigma._layout
        level = range(layout.L)[level]
        own = layout.columns(level)
        return self._path_covariance[layout.first_leaves[level][:-1]][:, own, own]

    @cached_property
    def _path_covariance(self):
        layout = self._sigma._layout
        if layout.R == 0:
            return np.empty((layout.n_leaves, 0, 0), self._sigma.dtype)
        return kernels.tree.path_covariance(self._K, layout)


class FactorPosterior(FactorMoments):
    """Factors of every group given centred samples (n, N) of ``x = F z + e``, ``cov(e) = diag(D)``.

    The means follow one solve with Σ, the covariances of the factors along a path from leaf to root
    one coarse → fine recursion: two sweeps over the tree and one product with the factors, ``2 n R
    N`` flops plus small change.  No n×n and no spread-out n×s matrix is formed.

    Where the variance of a feature is more than 4e6 times its D (float32: 100 times), these may
    lose so many units of rounding.  Then the means are corrected by the residuals ``x - F z`` of
    such features, and sums of their squares take the place of differences: `total_inv_quad`,
    `regress` and `gradient` lose the root of variance / D at most, as the data themselves do.
    """

    def __init__(self, covariance: MLR, X: Real, check_finite: bool = True,
                 exact: bool = True) -> None:
        A = covariance
        self._X = X = _in_tree_order(A, X, check_finite)
        N, W = X.shape[1], None
        self._split = split_of(A) if exact else None
        if self._split is not None:
            factor_without_loss(A)
            t = kernels.tree.project(A._F, X, self._split.others, None, A._layout)
            means, _, self._rest = self._split.means(A._factor.K, t, X[self._split.rows])
            super().__init__(A, A._factor.K, means)
            return
        if A._layout.R and N:
            def factor():
                nonlocal W  # one pass over F does both
                found, W = kernels.tree.factor_and_project(A._F, A._dinv, X, A._layout)
                kept = A._checked(found)
                if kept.K is not found.K:  # pivots had lost too much: W is of another factor
                    W = None
                return kept

            computed_once(A, "_factor", factor)
            means, self._squares = kernels.tree.posterior(
                A._F, A._dinv, A._factor.K, X, A._layout, W)
        else:
            means, self._squares = np.empty((A._layout.s, N), A.dtype), np.zeros(N)
        K = A._factor.K if A._layout.R else None
        super().__init__(A, K, means)

    def total_inv_quad(self, sums_of_squares: FloatArray) -> float:
        """``Σ_j x_jᵀ Σ⁻¹ x_j`` over the samples, from the features' sums of squares (n,).

        Formed as ``Σ_i ss_i / D_i - Σ ‖w‖²``, without a further pass over data or factors, unless a
        D is so small that this would lose digits: then it is a sum of squares.
        """
        if self._split is not None:
            others = self._sigma.hierarchy._gather(np.asarray(sums_of_squares, float))
            return float(others @ self._split.others) + self._rest
        # No BLAS: its threads would spin on and take the cores from the sweeps that follow.
        plain = np.divide(sums_of_squares, self._sigma.D, dtype=float).sum()
        return float(plain - self._squares.sum(dtype=float))

    def regress(self, sums_of_squares: FloatArray, n_samples: float | None = None,
                out: tuple[FloatArray, FloatArray] | None = None, keep_moments: bool = False,
                ridge: float = 0.0) -> tuple[FloatArray, FloatArray]:
        """Regress the features on their factors, the M-step: F (n, R) and D (n,).

        ``F_leaf = V W⁻¹`` with ``V = X_leaf Zᵀ`` and ``W = N Cov + Z Zᵀ`` along the leaf's path;
        ``D = (diag(X Xᵀ) - rowsum(F ∘ V)) / N`` may reach zero, nothing is clipped.  The diagonal
        of X Xᵀ is `sums_of_squares` (n,).  N is `n_samples`, where X is a compressed form of so
        many with the same X Xᵀ.  `out` has C-contiguous arrays to fill.  `keep_moments` keeps W and
        W⁻¹ of every leaf, ``2 n_leaves R²`` numbers, for `gradient` and `precondition`.  `ridge` is
        added to the diagonal of W: the M-step for a penalty ``ridge tr(Fᵀ D⁻¹ F) / 2`` of the
        log-likelihood.
        """
        A = self._sigma
        n_samples = self._X.shape[1] if n_samples is None else n_samples
        F, D = (np.empty_like(A._F), np.empty_like(A._d)) if out is None else out
        h = A.hierarchy
        yy = h._gather(np.asarray(sums_of_squares, A.dtype))
        if A._layout.R == 0:
            D[:] = yy / n_samples
        else:
            shape = (2, A._layout.n_leaves, A._layout.R, A._layout.R)
            keep = np.empty(shape, A.dtype) if keep_moments else None
            kernels.tree.regress(A._factor.K, self._means, self._X, yy, n_samples,
                                 A._layout, F, D, keep, ridge)
            self._moments: Any = keep
            if self._split is not None:
                D[self._split.rows] = self._mean_squares(F[self._split.rows], n_samples, ridge)
        return h._scatter(F), h._scatter(D)

    def _mean_squares(self, F, n_samples, ridge):
        """``E ‖x_i - F_i z‖² / N`` of features with long rows, as sums of squares."""
        split = self._split
        E = split.residuals(self._means, self._X[split.rows], F)
        squares = np.einsum("ik,ik->i", E, E, dtype=float)
        if ridge:
            squares += ridge * np.einsum("ij,ij->i", F, F)
        return squares / n_samples + split.times_covariance(self._K, F)[1]

    def gradient(self, F: FloatArray, D: FloatArray, n_samples: float | None = None,
                 scale: FloatArray | None = None, out: FloatArray | None = None
                 ) -> tuple[FloatArray, FloatArray]:
        """Derivatives (n, R) and (n,) of the average log-likelihood a sample by F and D.

        F and D here are what ``regress(..., keep_moments=True)`` returned, for the same
        `n_samples`.  With its V and W, dF is ``D⁻¹ (V - F W) / N``, F and D those of the
        covariance: by Fisher's identity the same as for the expected complete-data log-likelihood.
        `scale` (n,) multiplies the rows of dF, which fills `out`, that may be of lower precision.
        """
        A, h, N = self._sigma, self._sigma.hierarchy, n_samples or self._X.shape[1]
        out = np.empty_like(F) if out is None else out
        if A._layout.R == 0:
            return out, (D / A.D - 1) / (2 * A.D)
        scale = np.ones_like(A._d) if scale is None else h._gather(scale)
        dF = out if h._in_order else np.empty_like(out)
        dD = kernels.curvature.gradient(A._F, A._d, h._gather(F), h._gather(D), self._moments[0],
                                        N, scale, A._layout, dF)
        return _scattered(h, dF, out), h._scatter(dD)

    def precondition(self, G: FloatArray, n_samples: float | None = None,
                     scale: FloatArray | None = None, out: FloatArray | None = None) -> FloatArray:
        """The change of F by which EM would answer the gradient G (n, R): ``N D G W⁻¹``.

        `n_samples`, `scale` and `out` are those of `gradient`.
        """
        A, h, N = self._sigma, self._sigma.hierarchy, n_samples or self._X.shape[1]
        out = np.empty_like(G) if out is None else out
        if A._layout.R:
            moved = out if h._in_order else np.empty_like(out)
            scale = A._d if scale is None else A._d * h._gather(scale)
            kernels.curvature.precondition(h._gather(G), scale, self._moments[1], N, A._layout,
                                           moved)
            _scattered(h, moved, out)
        return out


def _scattered(hierarchy, x, out):
    """Rows of x in feature order, in `out`."""
    if x is not out:
        out[...] = hierarchy._scatter(x)
    return out


class LeastSquaresScores(FactorMoments):
    """Weighted least squares scores ``(Fᵀ D⁻¹ F)⁻¹ Fᵀ D⁻¹ x`` of the factors of all groups jointly.

    For samples ``x = F z + e``, ``cov(e) = diag(D)``, F spread out, they are unbiased with
    covariance ``(Fᵀ D⁻¹ F)⁻¹`` about z: M. S. Bartlett, "The statistical conception of mental
    factors" (1937).  The elimination is that of `MLR`, with ``A_own,own`` in place of ``A_own,own +
    I``, and one step of iterative refinement on ``x - F z`` follows: ``6 n R N`` flops and ``n R²``
    to factor.

    A factor whose loadings are all zero within a group has score 0 with the variance 1 of its
    prior.  Where ``Fᵀ D⁻¹ F`` is singular to working precision otherwise, LinAlgError names the
    level and group of the first factor that depends on finer ones.

    Features that are not `shown` (n,) are left out, whatever finite number X has for them.
    """

    def __init__(self, covariance: MLR, X: Real, check_finite: bool = True,
                 shown: BoolArray | None = None) -> None:
        A, layout = covariance, covariance._layout
        X = _in_tree_order(A, X, check_finite)
        dinv = A._dinv if shown is None else np.where(A.hierarchy._gather(shown), A._dinv, 0)
        K = _factor_without_prior(A, dinv) if layout.R else None

        def score(x):
            return kernels.tree.posterior(A._F, dinv, K, x, layout)[0]

        if layout.R and X.size:
            means = score(X)
            ones = np.ones_like(A._d)
            means += score(kernels.tree.spread(A._F, ones, means, X, layout, sign=-1.0))
        else:
            means = np.empty((layout.s, X.shape[1]), A.dtype)
        super().__init__(A, K, means)


def _factor_without_prior(A: MLR, dinv: FloatArray) -> FloatArray:
    """Rows [X | C] of the nodes for ``Fᵀ D⁻¹ F``, with a pivot of 1 for factors that are zero.

    The inverse of D is `dinv`, zero for features that are left out.
    """
    layout, bounds = A._layout, A.hierarchy.boundaries
    levels = zip(np.split(A._F, layout.cols[1:-1], axis=1), bounds, strict=True)
    unused = np.concatenate([
        np.add.reduceat(np.square(F) * A._dinv[:, None], offsets[:-1], axis=0).ravel() == 0
        for F, offsets in levels])
    factor = kernels.tree.factor(A._F, dinv, layout, unused.astype(A.dtype))
    K, fail = factor.K, factor.fail
    if fail is None:
        pivots = np.square(kernels.tree.pivots(K, layout))
        found = np.flatnonzero(
            ~unused & (pivots <= SINGULAR * np.finfo(K.dtype).eps * factor.sizes))
        if found.size:
            fail = group_of(found, layout.tree)
    if fail is not None:
        level, group = fail
        raise np.linalg.LinAlgError(
            f"least squares scores are not determined: at level {level}, group {group}"
            f" ({counted(A.hierarchy.group_sizes(level)[group], 'feature')}) a factor's loadings"
            " depend on those of finer levels or of its own group; posterior scores exist"
            " for any loadings")
    return K
