"""Samples with missing cells seen through an MLR covariance: EM moments, filling in, conditioning.

A missing cell is a feature of zero precision in its sample: with ``m ∘ D⁻¹`` in place of ``D⁻¹``
everything that holds for complete samples holds for the features that m marks as seen, on the same
tree.  Nothing is filled in before it is estimated.
"""

import copy
import math

import numpy as np

from ... import kernels
from ..._common.cached import cached_property
from ..._common.validate import as_real
from ..._common.wording import counted, name_some
from ...operators.base import StructuredOperator
from ...operators.mlr import MLR
from . import kernels as passes

__all__ = ["ConditionalMap", "IncompleteMoments", "IncompleteSamples", "fill", "loglik_samples"]


class IncompleteSamples:
    """Samples with missing cells, grouped by their patterns of missing cells, once and for all.

    Parameters
    ----------
    hierarchy : Hierarchy
    X : array_like, shape (n, N)
        Samples, one a column, rows in feature order; NaN marks a missing cell.
    weights : array_like, shape (N,), optional
        Positive weights of the samples; default ones.

    Notes
    -----
    A sorted copy of X is kept, and a bit for each pair of a class of features and a pattern.  Work
    and memory of what follows go by the number of patterns P and of *classes*, sets of features of
    one leaf that are missing in the same samples: a pattern costs one factorization, a class
    ``(R + 1)(R + 2) / 2`` numbers.  Cells missing at random make P = N patterns and n classes;
    blocks and monotone missing data make few.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import Hierarchy
    >>> from mlrops.factor.estep.incomplete_samples import IncompleteSamples
    >>> X = np.array([[1.0, 2, 3, 4], [np.nan, 1, 0, np.nan]])
    >>> samples = IncompleteSamples(Hierarchy.flat(2), X)
    >>> samples.n_samples, samples.n_patterns, samples.counts
    (4, 2, array([4., 2.]))
    """

    def __init__(self, hierarchy, X, weights=None):
        X = as_real(X, "X", ndim=2)
        if X.shape[0] != hierarchy.n:
            raise ValueError(f"X must have one row a feature ({hierarchy.n}), got {X.shape}")
        self.hierarchy = hierarchy
        leaf_off = np.asarray(hierarchy.boundaries[-1], np.int64)
        X = hierarchy._gather(X)
        self._patterns, self._order = passes.incomplete.group(~np.isnan(X), leaf_off)
        self._X = np.take(X, self._order, axis=1)
        weights = np.ones(X.shape[1]) if weights is None else np.asarray(weights, float)
        self._roots = np.sqrt(weights[self._order]).astype(X.dtype)
        self._pattern_weights = np.add.reduceat(weights[self._order], self._patterns.starts[:-1])

    def with_values(self, X):
        """The same cells with other values; samples are not grouped anew.

        Parameters
        ----------
        X : array_like, shape (n, N)
            Values at missing cells are ignored, NaN or not.

        Returns
        -------
        IncompleteSamples
            Of the dtype of X, with the weights of these samples.

        Raises
        ------
        ValueError
            Another shape, or NaN at an observed cell.
        """
        h, patterns = self.hierarchy, self._patterns
        X = as_real(X, "X", ndim=2)
        if X.shape != self._X.shape:
            raise ValueError(f"X must have shape (n, N) = {self._X.shape}, got {X.shape}")
        other = copy.copy(self)
        other._X = passes.incomplete_solve.gather(
            np.ascontiguousarray(X), h.permutation, self._order, patterns,
            patterns.owner(0, self.n_samples), fill=np.nan)
        bad = np.flatnonzero((np.isnan(other._X) & ~np.isnan(self._X)).any(axis=1))
        if bad.size:
            raise ValueError(
                f"X must have a number at every observed cell, got NaN at"
                f" {counted(bad.size, 'feature')} ({name_some(np.sort(h.permutation[bad]))});"
                " cells that are missing elsewhere need samples of their own"
            )
        other._roots = self._roots.astype(X.dtype, copy=False)
        return other

    @property
    def dtype(self):
        return self._X.dtype

    @property
    def n_samples(self):
        """Number of samples N (int)."""
        return self._X.shape[1]

    @property
    def n_patterns(self):
        """Number of different patterns of missing cells (int)."""
        return self._patterns.starts.size - 1

    @cached_property
    def weight(self):
        """Sum of the weights (float)."""
        return float(self._pattern_weights.sum())

    @cached_property
    def _tree_counts(self):
        patterns, counts = self._patterns, np.empty(self.hierarchy.n)
        counts[patterns.rows] = np.repeat(patterns.seen @ self._pattern_weights, patterns.sizes)
        return counts

    @property
    def counts(self):
        """Summed weights of the samples that show each feature, (n,), feature order."""
        return self.hierarchy._scatter(self._tree_counts)

    def shown(self, features):
        """Which of k features, in tree order, each pattern shows: (P, k) bool; its weight (P,)."""
        patterns, cls = self._patterns, np.empty(self.hierarchy.n, int)
        cls[patterns.rows] = np.repeat(np.arange(patterns.sizes.size), patterns.sizes)
        return patterns.seen[cls[features]].T, self._pattern_weights

    def zero_filled(self):
        """``√w x`` with zeros for missing cells, (n, N), feature order; samples in some order."""
        h = self.hierarchy
        return h._scatter(passes.incomplete.centre(
            self._X, np.zeros(h.n, self.dtype), self._roots, 0, self.n_samples))

    def _sweeps(self, covariance, mean, total):
        """Yield (batch, swept): the E-step batch after batch of samples."""
        A, layout, patterns = covariance, covariance._layout, self._patterns
        mean = A.hierarchy._gather(np.asarray(mean, A.dtype))
        outer = passes.incomplete.products(A._F, A._dinv, patterns)
        for first, last in passes.incomplete.batches(patterns, layout):
            X = passes.incomplete.centre(self._X, mean, self._roots, first, last)
            batch = passes.incomplete.Batch(patterns, first, X, self._roots[first:last])
            swept = passes.incomplete.sweep(A._F, A._dinv, outer, batch, layout, total)
            if swept.fail is not None:
                raise A._breakdown(*swept.fail)
            yield batch, swept


class IncompleteMoments:
    """The E-step of samples with missing cells: what the M-step needs, summed over the samples.

    Parameters
    ----------
    covariance : MLR
        On the hierarchy of the samples and of their dtype.
    samples : IncompleteSamples
    mean : array_like, shape (n,)
        Mean of the samples, feature order.

    Notes
    -----
    For each feature i the moments over the samples that show it: ``v_i = Σ w x_i (z, 1)``, the
    second moments ``W_i = Σ w E[(z, 1)(z, 1)ᵀ]`` of its regressors along the path of its leaf,
    shared by its class, and ``Σ w x_i²``, x relative to the mean that went in.  With P patterns and
    C classes this costs ``2 C P R²`` flops in products of matrices, ``4 n R N`` for the data and P
    sweeps of the tree; two arrays of ``C R² / 2`` numbers are the largest.

    Little and Rubin, "Statistical Analysis with Missing Data" (1987), for EM with missing cells.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import MLR, Hierarchy
    >>> from mlrops.factor.estep.incomplete_samples import IncompleteMoments, IncompleteSamples
    >>> h = Hierarchy.flat(2)
    >>> samples = IncompleteSamples(h, np.array([[1.0, 2, 3, 4], [np.nan, 1, 0, np.nan]]))
    >>> independent = MLR(h, [np.zeros((2, 0))], D=np.ones(2))
    >>> F, D, offset = IncompleteMoments(independent, samples, np.zeros(2)).regress()
    >>> offset, D  # means and variances of what is there
    (array([2.5, 0.5]), array([1.25, 0.25]))
    """

    def __init__(self, covariance, samples, mean):
        A, self._sigma, self._samples = covariance, covariance, samples
        R, patterns = A._layout.R, samples._patterns
        self._V = np.zeros((A.shape[0], R + 1), A.dtype)
        self._W = np.zeros((patterns.row_off.size - 1, (R + 1) * (R + 2) // 2), A.dtype)
        squares, logdet, explained = np.zeros(A.shape[0]), 0.0, 0.0
        for batch, swept in samples._sweeps(A, mean, total=True):
            passes.incomplete.add_moments(swept, batch, A._layout, self._V, self._W)
            squares += np.einsum("ik,ik->i", batch.X, batch.X)
            explained += swept.squares[0].sum()
            starts = batch.shown[2]
            weights = np.add.reduceat(np.square(batch.roots, dtype=float), starts[:-1])
            logdet += weights @ swept.logdet
        self._squares = squares.astype(A.dtype)
        d, counts = A._d.astype(float), samples._tree_counts
        logdet += counts @ np.log(d)
        twice = counts.sum() * math.log(2 * math.pi) + logdet + squares @ (1 / d) - explained
        self.loglik = -0.5 * float(twice) / samples.weight

    def regress(self, mean_is_free=True, out=None):
        """Regress each feature on its factors, and on a constant where the mean is free: M-step.

        Parameters
        ----------
        mean_is_free : bool, optional
        out : (ndarray (n, R), ndarray (n,)), optional
            C-contiguous arrays to fill.

        Returns
        -------
        F : ndarray, shape (n, R)
        D : ndarray, shape (n,)
            May reach zero, nothing is clipped.
        offset : ndarray, shape (n,)
            What to add to the mean; zeros where it is not free.
        """
        A = self._sigma
        F, D = (np.empty_like(A._F), np.empty_like(A._d)) if out is None else out
        offset = np.empty_like(D)
        passes.incomplete.regress(self._V, self._W, self._squares, self._samples._patterns,
                                   mean_is_free, F, D, offset)
        return tuple(map(A.hierarchy._scatter, (F, D, offset)))

    def gradient(self):
        """Derivatives of the average log-likelihood by F (n, R), D (n,) and mean (n,).

        By Fisher's identity those of the expected log-likelihood of samples and factors together.
        """
        A = self._sigma
        derivatives = passes.incomplete.gradient(
            A._F, A._d, self._V, self._W, self._squares, self._samples._patterns)
        return tuple(A.hierarchy._scatter(x / x.dtype.type(self._samples.weight))
                     for x in derivatives)

    def precondition(self, dF, dmean=None):
        """Changes of F (n, R) and mean (n,) by which an M-step would answer a gradient.

        ``N D_i (dF_i, dmean_i) W_i⁻¹``; without `dmean` the mean is fixed.
        """
        A, gather, N = self._sigma, self._sigma.hierarchy._gather, self._samples.weight
        V = np.zeros_like(self._V)
        V[:, :-1] = gather(dF)
        V[:, -1] = 0 if dmean is None else gather(dmean)
        V *= (N * A._d)[:, None]
        F, D, offset = np.empty_like(A._F), np.empty_like(A._d), np.empty_like(A._d)
        passes.incomplete.regress(V, self._W, self._squares, self._samples._patterns,
                                   dmean is not None, F, D, offset)
        return A.hierarchy._scatter(F), A.hierarchy._scatter(offset)


def loglik_samples(covariance, mean, samples):
    """Log-likelihood of the observed cells of each sample, (N,); 0 for a sample without any.

    The quadratic form is ``‖D^{-1/2}(x - F z)‖² + ‖z‖²`` at the posterior mean z, a sum of squares.
    """
    A, patterns = covariance, samples._patterns
    d = A._d.astype(float)
    per_class = np.add.reduceat((math.log(2 * math.pi) + np.log(d))[patterns.rows],
                                patterns.row_off[:-1])
    constant = per_class @ patterns.seen
    out = np.zeros(samples.n_samples)
    for batch, swept in samples._sweeps(A, mean, total=False):
        p0, p1, starts = batch.shown
        left, here = np.empty_like(batch.X), slice(batch.first, batch.last)
        kernels.leaf.dot(A._F, swept.Z, batch.X, A._dinv, A._layout, 0, A._layout.n_leaves, left,
                         solve=True)
        left[np.isnan(samples._X[:, here])] = 0
        quad = np.einsum("ik,ik,i->k", left, left, A._d) + swept.squares[1]
        of_pattern = constant[p0:p1] + swept.logdet
        out[samples._order[here]] -= 0.5 * (np.repeat(of_pattern, np.diff(starts)) + quad)
    return out


def fill(covariance, mean, samples, return_std=False):
    """Samples with conditional means for missing cells, (n, N), feature order.

    With `return_std` also the conditional standard deviations ``(D_i + F_i Cov F_iᵀ)^{1/2}`` of the
    missing cells, (n, N), zero at the others.
    """
    A, h, layout = covariance, covariance.hierarchy, covariance._layout
    center = h._gather(np.asarray(mean, A.dtype))
    out = np.empty_like(samples._X)
    std = np.empty_like(out) if return_std else None
    zeros = np.zeros_like(A._d)
    for batch, swept in samples._sweeps(A, mean, total=False):
        fitted, here = np.empty_like(batch.X), slice(batch.first, batch.last)
        kernels.leaf.dot(A._F, swept.Z, batch.X, zeros, layout, 0, layout.n_leaves, fitted)
        known, columns = samples._X[:, here], samples._order[here]
        out[:, columns] = np.where(np.isnan(known), center[:, None] + fitted, known)
        if return_std:
            std[:, columns] = np.sqrt(passes.incomplete.variance(
                A._F, A._d, swept, batch, layout))
    return (h._scatter(out), h._scatter(std)) if return_std else h._scatter(out)


class ConditionalMap(StructuredOperator):
    r"""How the mean of some features follows others: :math:`\Sigma_{mo} \Sigma_{oo}^{-1}`.

    Parameters
    ----------
    covariance : MLR
        Covariance of n features.
    observed, missing : ndarray of int
        Disjoint sets of features; columns and rows of the operator, in this order.

    Notes
    -----
    With ``C = (I + F_oᵀ D_o⁻¹ F_o)⁻¹`` the matrix is ``F_m C F_oᵀ D_o⁻¹``: an upward and a downward
    sweep over the tree and two products with the factors, ``4 n R`` flops, in either direction.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import MLR, Hierarchy
    >>> from mlrops.factor.estep.incomplete_samples import ConditionalMap
    >>> A = MLR(Hierarchy.flat(3), [np.ones((3, 1))], D=np.ones(3))
    >>> ConditionalMap(A, np.array([0, 2]), np.array([1])).toarray()
    array([[0.33333333, 0.33333333]])
    """

    def __init__(self, covariance, observed, missing):
        super().__init__(covariance.dtype, (missing.size, observed.size))
        self._sigma, self._observed, self._missing = covariance, observed, missing

    @cached_property
    def _factor(self):
        A = self._sigma
        precision = np.zeros_like(A._dinv)
        seen = A.hierarchy._position[self._observed]
        precision[seen] = A._dinv[seen]
        K, _, fail = kernels.tree.factor(A._F, precision, A._layout)
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
    def covariance(self):
        """Covariance of the missing features given the observed ones, an `MLR` of the same ranks.

        ``diag(D_m) + F_m C F_mᵀ`` with ``C = Λ⁻ᵀ Λ⁻¹``: the rows of ``F Λ⁻ᵀ`` have the sparsity of
        the factors.
        """
        A = self._sigma
        if not A._layout.R:
            return A.restrict(self._missing)
        rows = kernels.tree.inverse_rows(A._F, np.ones_like(A._d), self._factor, A._layout)
        return MLR._from_tree(A.hierarchy, A.ranks, rows, A._d).restrict(self._missing)
