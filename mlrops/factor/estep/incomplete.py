"""EM on data with missing cells: each cell that is missing is left out, none is filled in.

A missing cell is a feature of zero precision in its sample: with ``m ∘ D⁻¹`` in place of ``D⁻¹``
everything that holds for complete samples holds for the features that m marks as seen, on the same
tree.
"""

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..._common.cached import cached_property
from ..._common.labelled import named
from ..._common.typing import FloatArray, IntArray, Real
from ..._common.validate import as_real
from ..._common.wording import agree, counted, name_some
from ...operators.mlr import MLR
from ...tree.hierarchy import Hierarchy
from .. import estep
from . import exact
from . import patterns as passes
from .exact import has_long_rows
from .patterns import Batch, Classes, Grouped, Swept
from .protocol import Filled, Maybe, Moved, scaled

__all__ = ["IncompleteData", "IncompleteSamples", "IncompleteStep", "SomeCells", "check_observed",
           "incomplete_source", "sweeps"]


class IncompleteSamples(Grouped):
    """Samples with missing cells, grouped by their patterns of missing cells, once and for all.

    X (n, N) has one sample a column and rows in feature order; NaN marks a missing cell.  The
    weights (N,) are positive, ones by default.  A sorted copy of X is kept, and a boolean for each
    pair of a class of features and a pattern.  Work and memory of what follows go by the number of
    patterns P and of *classes*, sets of features of one leaf that are missing in the same samples:
    a pattern costs one factorization, a class ``(R + 1)(R + 2) / 2`` numbers.  Cells missing at
    random make P = N patterns and n classes; blocks and monotone missing data make few.  Where
    these are some of the samples that an E-step sums over, `classes` are those of all of them.
    """

    def __init__(self, hierarchy: Hierarchy, X: FloatArray, weights: FloatArray | None = None,
                 classes: Classes | None = None):
        X = hierarchy._gather(X)
        super().__init__(hierarchy, ~np.isnan(X), classes)
        self._X = np.take(X, self._order, axis=1)
        weights = np.ones(X.shape[1]) if weights is None else np.asarray(weights, float)
        self._roots = np.sqrt(weights[self._order]).astype(X.dtype)
        self._pattern_weights = np.add.reduceat(weights[self._order], self._patterns.starts[:-1])

    def with_values(self, X: Real) -> "IncompleteSamples":
        """The same cells and weights with other values X (n, N); samples are not grouped anew.

        Values at missing cells are ignored, NaN or not; NaN at an observed cell is refused.
        """
        h, patterns = self.hierarchy, self._patterns
        X = as_real(X, "X", ndim=2)
        if X.shape != self._X.shape:
            raise ValueError(f"X must have shape (n, N) = {self._X.shape}, got {X.shape}")
        other = copy.copy(self)
        other._X = passes.gather(
            np.ascontiguousarray(X), h.permutation, self._order, patterns,
            patterns.owner(0, self.n_samples), fill=np.nan)
        bad = np.flatnonzero((np.isnan(other._X) & ~np.isnan(self._X)).any(axis=1))
        if bad.size:
            raise ValueError(
                f"X must have a number at every observed cell, got NaN at"
                f" {counted(bad.size, 'feature')} ({name_some(np.sort(h.permutation[bad]))});"
                " cells that are missing elsewhere need samples of their own")
        other._roots = self._roots.astype(X.dtype, copy=False)
        return other

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the values."""
        return self._X.dtype

    @cached_property
    def weight(self) -> float:
        """Sum of the weights."""
        return float(self._pattern_weights.sum())

    def batches(self, covariance: MLR, mean: FloatArray) -> Iterator[Batch]:
        """The samples about a mean, batch after batch."""
        A, patterns = covariance, self._patterns
        mean = A.hierarchy._gather(np.asarray(mean, A.dtype))
        for first, last in passes.batches(patterns, A._layout):
            X = passes.centre(self._X, mean, self._roots, first, last)
            yield Batch(patterns, first, X, self._roots[first:last])

    def sweeps(self, covariance: MLR, mean: FloatArray) -> Iterator[tuple[Batch, Swept]]:
        """The E-step batch after batch, exact whatever D is; see `sweeps`."""
        A, classes = covariance, self._patterns.classes
        if not has_long_rows(A):
            yield from sweeps(A, classes, self.batches(A, mean), total=False)
            return
        for batch, found in exact.sweep(A, classes, self.batches(A, mean)):
            S = found.covariances(np.ones(found.logdet.size, A.dtype))
            yield batch, Swept(found.Z, S, found.logdet, np.stack([found.squares] * 2), None)


def sweeps(A: MLR, classes: Classes, batches: Iterable[Batch], total: bool
           ) -> Iterator[tuple[Batch, Swept]]:
    """Yield (batch, swept): the E-step batch after batch of samples; `total` as in `sweep`."""
    outer = passes.products(A._F, A._dinv, classes)
    for batch in batches:
        swept = passes.sweep(A._F, A._dinv, outer, batch, A._layout, total)
        if swept.fail is not None:
            raise A._breakdown(*swept.fail)
        yield batch, swept


class SomeCells:
    """What the sources with missing cells have in common; all in tree order."""

    mean_is_free: bool
    is_dear = True

    @property
    def classes(self) -> Classes:
        """The features that are seen in the same samples, leaf by leaf."""
        raise NotImplementedError

    @property
    def weight(self) -> float:
        """Sum of the weights of all samples."""
        raise NotImplementedError

    @property
    def counts(self) -> FloatArray | IntArray:
        """Number, or weight, of the samples that show each feature, (n,)."""
        raise NotImplementedError

    def batches(self, covariance: MLR, mean: FloatArray) -> Iterator[Batch]:
        """The samples about a mean, batch after batch, each sample in one of them."""
        raise NotImplementedError

    @property
    def shares(self) -> FloatArray:
        """Share of the samples, by weight, that show each feature, (n,)."""
        return self.counts / self.weight

    def evaluate(self, covariance: MLR, mean: FloatArray) -> "IncompleteStep":
        """The E-step at a covariance and mean."""
        return _kind_of_step(covariance)(covariance, mean, self)

    def moments(self, covariance: MLR, mean: FloatArray) -> tuple[Any, ...]:
        """What the E-step sums over the samples."""
        return _kind_of_step(covariance).moments(covariance, mean, self)


def _kind_of_step(covariance: MLR) -> "type[IncompleteStep]":
    return ResidualIncompleteStep if has_long_rows(covariance) else IncompleteStep


@dataclass(frozen=True)
class IncompleteData(SomeCells):
    """Data with missing cells, all in tree order; a `Source` of EM."""

    samples: IncompleteSamples  # relative to `mean`
    variance: FloatArray  # (n,) mean square of the observed cells about `mean`
    mean: FloatArray  # (n,) mean of the observed cells, or zeros where it is fixed
    mean_is_free: bool
    dtype: np.dtype = np.dtype(float)

    @property
    def n_samples(self) -> int:
        """Number of samples with an observed cell."""
        return self.samples.n_samples

    @property
    def classes(self) -> Classes:
        """The features that are seen in the same samples, leaf by leaf."""
        return self.samples._patterns.classes

    @property
    def weight(self) -> float:
        """Sum of the weights of all samples."""
        return self.samples.weight

    @property
    def counts(self) -> FloatArray | IntArray:
        """Number, or weight, of the samples that show each feature, (n,)."""
        return self.samples._tree_counts

    def batches(self, covariance: MLR, mean: FloatArray) -> Iterator[Batch]:
        """The samples about a mean, batch after batch."""
        return self.samples.batches(covariance, mean - self.mean)

    def share_of_pairs(self, features: np.ndarray) -> float:
        """Share of the samples, by weight, that show two or more of these features."""
        patterns, weights = self.samples._patterns, self.samples._pattern_weights
        of_feature = self.classes.spread(np.arange(self.classes.number))
        pairs = np.count_nonzero(patterns.seen[of_feature[features]], axis=0) > 1
        return float(weights @ pairs / weights.sum())

    def start_data(self, width: int, seed: int | None) -> FloatArray:
        """Missing cells at the mean, features scaled to the variance of their observed cells.

        A place to start from and nothing more: EM itself fills in nothing.
        """
        samples = self.samples
        X = passes.centre(samples._X, np.zeros(self.mean.size, samples.dtype), samples._roots, 0,
                          self.n_samples)
        X *= np.sqrt(samples.weight / samples.counts)[:, None]
        return X


class IncompleteStep:
    """The E-step of samples with missing cells: moments summed over the samples; see `EStep`.

    For each feature i the moments over the samples that show it: ``v_i = Σ w x_i (z, 1)``, the
    second moments ``W_i = Σ w E[(z, 1)(z, 1)ᵀ]`` of its regressors along the path of its leaf,
    shared by its class, and ``Σ w x_i²``, x relative to the mean that went in.  With P patterns and
    C classes this costs ``2 C P R²`` flops in products of matrices, ``4 n R N`` for the data and P
    sweeps of the tree; two arrays of ``C R² / 2`` numbers are the largest (Little and Rubin,
    "Statistical Analysis with Missing Data", 1987, for EM with missing cells).
    """

    def __init__(self, covariance: MLR, mean: FloatArray, data: SomeCells):
        self._sigma, self._mean, self._is_free = covariance, mean, data.mean_is_free
        A = covariance
        self._classes, self._weight = data.classes, data.weight
        self._V, self._W, squares, logdet, explained = data.moments(A, mean)
        self._squares = squares.astype(A.dtype)
        d, counts = A._d.astype(float), data.counts
        logdet += counts @ np.log(d)
        twice = counts.sum() * math.log(2 * math.pi) + logdet + squares @ (1 / d) - explained
        self.loglik = -0.5 * float(twice) / self._weight

    @staticmethod
    def moments(A: MLR, mean: FloatArray, data: "SomeCells") -> tuple[Any, ...]:
        """V, W, sums of squares, log-determinants and what factors explain, over the samples."""
        R, classes = A._layout.R, data.classes
        V = np.zeros((A.shape[0], R + 1), A.dtype)
        W = np.zeros((classes.number, (R + 1) * (R + 2) // 2), A.dtype)
        squares, logdet, explained = np.zeros(A.shape[0]), 0.0, 0.0
        for batch, swept in sweeps(A, classes, data.batches(A, mean), total=True):
            passes.add_moments(swept.S, swept.Z, batch, A._layout, V, W)
            squares += np.einsum("ik,ik->i", batch.X, batch.X, dtype=np.float64)
            explained += swept.squares[0].sum()
            starts = batch.shown[2]
            weights = np.add.reduceat(np.square(batch.roots, dtype=float), starts[:-1])
            logdet += weights @ swept.logdet
        return V, W, squares, float(logdet), float(explained)

    def _regress(self, V, out=None):
        """F, D and the offset of the mean: each feature on its factors, and on a constant."""
        A, W, classes = self._sigma, self._W, self._classes
        F, D = (np.empty_like(A._F), np.empty_like(A._d)) if out is None else out
        offset, m = np.empty_like(D), F.shape[1] + self._is_free
        passes.by_class(lambda lo, hi: estep._compiled_incomplete.class_regress(
            V, W, self._squares, classes.rows, classes.row_off, m, lo, hi,
            np.empty((m, m), V.dtype), np.empty(m, V.dtype), F, D, offset),
            classes, len(F) * (m + 1) ** 2 + len(W) * m**3 // 3)
        return F, D, offset

    def update(self, out: Filled = None, keep: bool = False) -> Moved:
        """The M-step: F, D (not clipped) and mean.  The moments are there in any case."""
        F, D, offset = self._regress(self._V, out)
        return F, D, self._mean + offset

    def gradient(self, F: FloatArray, D: FloatArray, mean: FloatArray, scale: Maybe = None,
                 out: Maybe = None) -> Moved:
        """Derivatives by Fisher's identity; the outcome of `update` is not needed.

        They are those of the expected log-likelihood of samples and factors together.
        """
        A, classes = self._sigma, self._classes
        dF, dD, dmean = np.empty_like(A._F), np.empty_like(A._d), np.empty_like(A._d)
        passes.by_class(lambda lo, hi: estep._compiled_incomplete.class_gradient(
            A._F, A._d, self._V, self._W, self._squares, classes.rows, classes.row_off, lo, hi,
            np.empty_like(self._V[0]), dF, dD, dmean), classes, len(dF) * dF.shape[1] ** 2)
        for x in (dF, dD, dmean):
            x /= x.dtype.type(self._weight)
        return scaled(dF, scale, out), dD, dmean if self._is_free else np.zeros_like(dmean)

    def precondition(self, dF: FloatArray, dmean: FloatArray, scale: Maybe = None,
                     out: Maybe = None) -> tuple[FloatArray, FloatArray]:
        """EM's answer to a gradient by F and mean, ``N D_i (dF_i, dmean_i) W_i⁻¹``."""
        V = np.zeros_like(self._V)
        V[:, :-1] = dF
        if self._is_free:
            V[:, -1] = dmean
        V *= (self._weight * self._sigma._d)[:, None]
        F, _, offset = self._regress(V)
        return scaled(F, scale, out), scaled(offset, scale, None) if self._is_free else dmean


class ResidualIncompleteStep(IncompleteStep):
    """The same where D is far below the variances, from residuals ``e = x - F z``; see `residual`.

    With (z, 1) for the regressors ``U = Σ w e (z, 1) - (F, 0) Σ w Cov``, Cov and the sums those of
    the samples that show a feature, and its expected squares are ``Σ w (e² + f Cov fᵀ)``.
    """

    def __init__(self, covariance: MLR, mean: FloatArray, data: SomeCells):
        self._sigma, self._mean, self._is_free = covariance, mean, data.mean_is_free
        A, R = covariance, covariance._layout.R
        classes = self._classes = data.classes
        self._weight, long = data.weight, exact.long_rows(A, classes)[0]
        V, W, cov, lengths, squares, total = data.moments(A, mean)
        total += float(data.counts @ (math.log(2 * math.pi) + np.log(A._d, dtype=float)))
        self.loglik = -0.5 * float(total) / self._weight
        explained = np.empty_like(A._d)
        passes.by_class(lambda lo, hi: estep._compiled_incomplete.class_forms(
            A._F, cov, classes.rows, classes.row_off, lo, hi, explained), classes, V.size * R)
        explained[long.rows] = lengths
        self._squares = (squares + explained).astype(A.dtype)
        W[:, : cov.shape[1]] += cov
        self._W, self._V = W, np.empty_like(V)
        cov = np.pad(cov, ((0, 0), (0, R + 1)))  # a constant has no variance
        U, shift, ones = np.empty_like(A._F), np.empty_like(A._d), np.ones_like(A._d)
        passes.by_class(lambda lo, hi: estep._compiled_incomplete.class_gradient(
            A._F, ones, V, cov, self._squares, classes.rows, classes.row_off, lo, hi,
            np.empty_like(V[0]), U, np.empty_like(shift), shift), classes, V.size * R)
        self._V[:, :R], self._V[:, R] = U, shift

    @staticmethod
    def moments(A: MLR, mean: FloatArray, data: SomeCells) -> tuple[Any, ...]:
        """V, W, covariances, lengths of long rows, sums of squares and the rest, over the samples.
        """
        layout, classes, R = A._layout, data.classes, A._layout.R
        V, known = np.zeros((A.shape[0], R + 1), A.dtype), R * (R + 1) // 2
        W = np.zeros((classes.number, known + R + 1), A.dtype)
        cov, squares, total = np.zeros((classes.number, known), A.dtype), np.zeros(A.shape[0]), 0.0
        lengths = np.zeros(exact.long_rows(A, classes)[0].rows.size)
        for batch, found in exact.sweep(A, classes, data.batches(A, mean)):
            p0, p1, starts = batch.shown
            weights = np.add.reduceat(np.square(batch.roots, dtype=float), starts[:-1])
            passes.add_moments(found.second_moments(), found.Z, batch._replace(X=found.E), layout,
                               V, W)
            passes.add_by_class(found.covariances(weights.astype(A.dtype)), batch.patterns, p0, p1,
                                cov)
            found.add_lengths(weights, lengths)
            squares += np.einsum("ik,ik->i", found.E, found.E, dtype=np.float64)
            total += weights @ found.logdet + found.quads().sum()
        return V, W, cov, lengths, squares, float(total)

    def update(self, out: Filled = None, keep: bool = False) -> Moved:
        """The M-step: F, D (not clipped) and mean.  The moments are there in any case."""
        F, D, offset = self._regress(self._V, out)
        F += self._sigma._F
        return F, D, self._mean + offset

    def gradient(self, F: FloatArray, D: FloatArray, mean: FloatArray, scale: Maybe = None,
                 out: Maybe = None) -> Moved:
        """Derivatives by Fisher's identity; the outcome of `update` is not needed."""
        d = self._sigma._d
        dF, dmean = (x / (self._weight * d) for x in (self._V[:, :-1].T, self._V[:, -1]))
        counts = self._classes.spread(self._W[:, -1])
        dD = (self._squares / d - counts) / (2 * self._weight * d)
        return scaled(dF.T, scale, out), dD, dmean if self._is_free else np.zeros_like(dmean)


def incomplete_source(Y: FloatArray, hierarchy: Hierarchy, center: bool,
                      weights: FloatArray | None = None, names: Sequence[str] | None = None
                      ) -> IncompleteData:
    """The source of EM that data (N, n) are in which NaN marks the missing cells.

    Every sample has an observed cell and a positive weight; the scale of the weights does not
    count.  Columns with fewer than two observed cells, or constant where observed, are refused.
    Without `center` the mean is fixed at zero.
    """
    weights = np.ones(len(Y)) if weights is None else weights * (len(Y) / weights.sum())
    observed = ~np.isnan(Y)
    high = np.where(observed, Y, -np.inf).max(axis=0)
    low = np.where(observed, Y, np.inf).min(axis=0)
    check_observed(observed.sum(axis=0), low, high, names)
    counts = weights @ observed
    if center:
        # About a first value of each column: sums of large equal numbers lose digits.
        origin = Y[observed.argmax(axis=0), np.arange(Y.shape[1])].astype(float)
        mean = origin + weights @ np.where(observed, Y - origin, 0) / counts
    else:
        mean = np.zeros(Y.shape[1])
    X = Y - mean
    variance = weights @ np.square(np.where(observed, X, 0)) / counts
    variance, mean = hierarchy._gather(variance), hierarchy._gather(mean)
    samples = IncompleteSamples(hierarchy._in_tree_order(), hierarchy._gather(X.T), weights)
    return IncompleteData(samples, variance, mean, bool(center), Y.dtype)


def check_observed(n_observed: IntArray, low: FloatArray, high: FloatArray,
                   names: Sequence[str] | None) -> None:
    """Refuse columns of too few observed cells, or whose range (low, high) is a point."""
    few = np.flatnonzero(n_observed < 2)
    if few.size:
        raise ValueError(
            f"Y has {counted(few.size, 'column')} with fewer than 2 observed cells"
            f" ({named(few, names)}), for which no variance can be estimated; leave them out")
    constant = np.flatnonzero(low == high)
    if constant.size:
        raise ValueError(
            f"Y has {counted(constant.size, 'feature')} that {agree(constant.size, 'is', 'are')}"
            f" constant where observed ({named(constant, names)}), for which no variance can be"
            " estimated; leave them out")
