"""What a model says of samples with missing cells: likelihoods, filling in, scores, conditioning.
"""

import math
from collections.abc import Callable, Iterable

import numpy as np

from ... import kernels
from ..._common.cached import cached_property
from ..._common.typing import FloatArray, IntArray
from ..._common.wording import agree, name_some
from ...operators.base import StructuredOperator
from ...operators.mlr import MLR
from ...operators.posterior import LeastSquaresScores
from .. import estep
from .exact import own_blocks
from .incomplete import IncompleteSamples

__all__ = ["ConditionalMap", "FactorsOfSome", "fill", "least_squares", "loglik_samples",
           "posterior"]


def loglik_samples(covariance: MLR, mean: FloatArray, samples: IncompleteSamples) -> FloatArray:
    """Log-likelihood of the observed cells of each sample, (N,); 0 for a sample without any.

    The quadratic form is ``‖D^{-1/2}(x - F z)‖² + ‖z‖²`` at the posterior mean z, a sum of squares.
    """
    A, patterns = covariance, samples._patterns
    d = A._d.astype(float)
    per_class = np.add.reduceat((math.log(2 * math.pi) + np.log(d))[patterns.rows],
                                patterns.row_off[:-1])
    constant = per_class @ patterns.seen
    out = np.zeros(samples.n_samples)
    for batch, swept in samples.sweeps(A, mean):
        p0, p1, starts = batch.shown
        left, here = np.empty_like(batch.X), slice(batch.first, batch.last)
        kernels.leaf.dot(A._F, swept.Z, batch.X, A._dinv, A._layout, 0, A._layout.n_leaves, left,
                         solve=True)
        left[np.isnan(samples._X[:, here])] = 0
        quad = np.einsum("ik,ik,i->k", left, left, A._d, dtype=np.float64) + swept.squares[1]
        of_pattern = constant[p0:p1] + swept.logdet
        out[samples._order[here]] -= 0.5 * (np.repeat(of_pattern, np.diff(starts)) + quad)
    return out


def fill(covariance: MLR, mean: FloatArray, samples: IncompleteSamples, return_std: bool = False
         ) -> FloatArray | tuple[FloatArray, FloatArray]:
    """Samples with conditional means for missing cells, (n, N), feature order.

    With `return_std` also the conditional standard deviations ``(D_i + F_i Cov F_iᵀ)^{1/2}`` of the
    missing cells, (n, N), zero at the others.
    """
    A, h, layout = covariance, covariance.hierarchy, covariance._layout
    center = h._gather(np.asarray(mean, A.dtype))
    out = np.empty_like(samples._X)
    std = np.empty_like(out if return_std else out[:0])
    zeros = np.zeros_like(A._d)
    for batch, swept in samples.sweeps(A, mean):
        fitted, here = np.empty_like(batch.X), slice(batch.first, batch.last)
        kernels.leaf.dot(A._F, swept.Z, batch.X, zeros, layout, 0, layout.n_leaves, fitted)
        known, columns = samples._X[:, here], samples._order[here]
        out[:, columns] = np.where(np.isnan(known), center[:, None] + fitted, known)
        if return_std:
            std[:, columns] = np.sqrt(_missing_variance(A, swept, batch))
    return (h._scatter(out), h._scatter(std)) if return_std else h._scatter(out)


def _missing_variance(A, swept, batch):
    """(n, k) conditional variances of the missing cells of a batch, from its path covariances."""
    layout, patterns, (p0, p1, starts) = A._layout, batch.patterns, batch.shown
    out = np.empty_like(batch.X)
    kernels.threads.run(lambda lo, hi: estep._compiled_incomplete.missing_variance(
        A._F, A._d, patterns.seen, patterns.rows, patterns.row_off, patterns.class_off, swept.S,
        starts, p0, lo, hi, out),
        layout.leaf_off, 0, layout.n_leaves, layout.n * (p1 - p0) * layout.R**2)
    return out


class FactorsOfSome:
    """Means of the factors in each of N samples, and if asked for their covariance in each pattern.

    It is to samples with missing cells what `FactorMoments` is to complete ones, for some levels.
    """

    def __init__(self, A: MLR, samples: IncompleteSamples, levels: Iterable[int],
                 covariance: bool):
        N, P, counts = samples.n_samples, samples.n_patterns, A.hierarchy.group_counts
        self.means: dict[int, FloatArray] = {}
        self.covariances: dict[int, FloatArray] = {}
        for level in levels:
            p, r = counts[level], A.ranks[level]
            self.means[level] = np.empty((p, r, N), A.dtype)
            if covariance:
                self.covariances[level] = np.empty((P, p, r, r), A.dtype)
        self._owner = np.empty(N, int)
        self._owner[samples._order] = samples._patterns.owner(0, N)

    def mean(self, level: int) -> FloatArray:
        """Means of the factors of one level, (p_l, r_l, N)."""
        return self.means[level]

    def covariance(self, level: int) -> FloatArray:
        """Covariance of the factors within each group of a level, (N, p_l, r_l, r_l)."""
        return self.covariances[level][self._owner]


def posterior(A: MLR, samples: IncompleteSamples, found: FactorsOfSome) -> None:
    """Fill in the factors given the observed cells of centred samples."""
    blocks = own_blocks(A._layout)
    for batch, swept in samples.sweeps(A, np.zeros_like(A._d)):
        columns, (p0, p1, _) = samples._order[batch.first : batch.last], batch.shown
        for level, means in found.means.items():
            leaves, own = blocks[level]
            means[:, :, columns] = swept.Z[leaves, own]
        for level, covariances in found.covariances.items():
            leaves, own = blocks[level]
            a = np.arange(own.start, own.stop)
            high, low = np.maximum.outer(a, a), np.minimum.outer(a, a)
            packed = swept.S[leaves][:, :, high * (high + 1) // 2 + low]
            covariances[p0:p1] = packed.swapaxes(0, 1)


def least_squares(A: MLR, samples: IncompleteSamples, found: FactorsOfSome,
                  name: Callable[[IntArray], list[str]]) -> None:
    """Fill in the `LeastSquaresScores` of the observed cells of centred samples.

    They are found pattern after pattern.  Where they are not determined, LinAlgError names the
    samples by what ``name(numbers)`` calls them.
    """
    h, patterns = A.hierarchy, samples._patterns
    seen = patterns.classes.spread(patterns.seen)
    for p in range(samples.n_patterns):
        part = slice(*patterns.starts[p : p + 2])
        columns, X = samples._order[part], np.nan_to_num(samples._X[:, part])
        try:
            scores = LeastSquaresScores(A, h._scatter(X), False, h._scatter(seen[:, p]))
        except np.linalg.LinAlgError as error:
            verb = agree(columns.size, "shows", "show")
            raise np.linalg.LinAlgError(
                f"{agree(columns.size, 'row', 'rows')} {name_some(name(np.sort(columns)))} {verb}"
                f" {np.count_nonzero(seen[:, p])} of {h.n} features, too few for all factors:"
                f" {error}") from None
        for level, means in found.means.items():
            means[:, :, columns] = scores.mean(level)
        for level, covariances in found.covariances.items():
            covariances[p] = scores.covariance(level)


class ConditionalMap(StructuredOperator):
    """How the mean of some features follows others: ``Σ_mo Σ_oo⁻¹``, (missing, observed).

    The two are disjoint arrays of features.  With ``C = (I + F_oᵀ D_o⁻¹ F_o)⁻¹`` the matrix is
    ``F_m C F_oᵀ D_o⁻¹``: an upward and a downward sweep over the tree and two products with the
    factors, ``4 n R`` flops, in either direction.
    """

    def __init__(self, covariance: MLR, observed: np.ndarray, missing: np.ndarray):
        super().__init__(covariance.dtype, (missing.size, observed.size))
        self._sigma, self._observed, self._missing = covariance, observed, missing

    @cached_property
    def _factor(self):
        A = self._sigma
        precision = np.zeros_like(A._dinv)
        seen = A.hierarchy._position[self._observed]
        precision[seen] = A._dinv[seen]
        K, _, fail, *_ = kernels.tree.factor(A._F, precision, A._layout)
        if fail is not None:
            raise A._breakdown(*fail)
        return K

    def _carry(self, x, features, into, scale):
        """``F_into C F_featuresᵀ diag(scale) x``."""
        A, position = self._sigma, self._sigma.hierarchy._position
        t = np.zeros((A.shape[0], x.size // max(len(x), 1)), A.dtype)
        if A._layout.R and x.size:
            t[position[features]] = x.reshape(len(x), -1)
            z, _ = kernels.tree.posterior(A._F, scale, self._factor, t, A._layout)
            t = kernels.tree.spread(A._F, np.zeros_like(scale), z, t, A._layout)
        return t[position[into]].reshape(into.shape + x.shape[1:])

    def _mul(self, x):
        return self._carry(x, self._observed, self._missing, self._sigma._dinv)

    def _rmul(self, x):
        y = self._carry(x, self._missing, self._observed, np.ones_like(self._sigma._dinv))
        return (y.T / self._sigma.D[self._observed]).T

    @cached_property
    def covariance(self) -> MLR:
        """Covariance of the missing features given the observed ones, an `MLR` of the same ranks.

        ``diag(D_m) + F_m C F_mᵀ`` with ``C = Λ⁻ᵀ Λ⁻¹``: the rows of ``F Λ⁻ᵀ`` have the sparsity of
        the factors.
        """
        A = self._sigma
        if not A._layout.R:
            return A.restrict(self._missing)
        rows = kernels.tree.inverse_rows(A._F, np.ones_like(A._d), self._factor, A._layout)
        return MLR._from_tree(A.hierarchy, A.ranks, rows, A._d).restrict(self._missing)
