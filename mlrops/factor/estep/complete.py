"""Complete data of a factor model in memory: centred, compressed, one feature a row."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg

from ... import kernels
from ..._common.labelled import named
from ..._common.typing import FloatArray
from ..._common.wording import counted
from ...kernels.layout import BLOCK_ITEMS, Layout
from ...operators.mlr import MLR
from ...operators.posterior import FactorPosterior
from ...tree.hierarchy import Hierarchy
from .. import estep
from .protocol import EStep, Filled, Maybe, Moved, loading_penalty, log_likelihood
from .residual import ResidualStep, SplitMoments, split_moments

__all__ = ["CompleteData", "CompleteStep", "EveryCell", "check_enough", "check_varies",
           "complete_source"]

# Samples at a time at least: products with fewer columns are slow.
LEAST_WIDTH = 64


class EveryCell:
    """What the sources without missing cells have in common."""

    mean: FloatArray  # (n,)
    sums_of_squares: FloatArray  # (n,) float64, of the centred and weighted samples
    weight: float  # Σ w_t
    mean_is_free = False
    is_dear = False
    ridge = 0.0  # penalty ``ridge tr(Fᵀ D⁻¹ F) / 2`` of the log-likelihood of all samples

    @property
    def variance(self) -> FloatArray:
        """Mean square of each feature."""
        return self.sums_of_squares / self.weight

    @property
    def shares(self) -> FloatArray:
        """All samples show every feature."""
        return np.ones(self.mean.size)

    def share_of_pairs(self, features: np.ndarray) -> float:
        """All samples show all features."""
        return float(features.size > 1)

    def centred_blocks(self, layout: Layout) -> Iterator[Any]:
        """The centred and weighted samples, some at a time.

        A `DenseBlock` or the like, good until the next one is asked for.
        """
        raise NotImplementedError

    def split_moments(self, covariance: MLR, split: Any) -> SplitMoments:
        """The samples summed up, for `ResidualStep`."""
        return split_moments(covariance, split, self.centred_blocks(covariance._layout))

    def _plain_step(self, covariance: MLR) -> EStep:
        """The E-step where D is not far below the variances."""
        raise NotImplementedError

    def evaluate(self, covariance: MLR, mean: FloatArray) -> EStep:
        """The E-step at a covariance: one pass over the samples."""
        A = covariance
        if A._layout.R and kernels.residual.loses_digits(self.variance, A._d):
            split = kernels.residual.Split(A._F, A._d, A._dinv, A._layout)
            if split.rows.size:
                return ResidualStep(A, self, split)
        return self._plain_step(A)


@dataclass(frozen=True)
class CompleteData(EveryCell):
    """Complete data in memory, all in tree order; a `Source` of EM."""

    X: FloatArray  # (n, k), C-contiguous, X Xᵀ = Σ_t w_t (y_t - mean)(y_t - mean)ᵀ
    sums_of_squares: FloatArray  # (n,)
    mean: FloatArray  # (n,)
    n_samples: int  # N, which k may be smaller than
    weight: float  # Σ w_t
    ridge: float = 0.0
    names: tuple[str, ...] | None = None
    dtype: np.dtype = np.dtype(float)

    def start_data(self, width: int, seed: int | None) -> FloatArray:
        """The samples themselves."""
        same = self.weight == self.n_samples
        return self.X if same else self.X * (self.n_samples / self.weight) ** 0.5

    def centred_blocks(self, layout: Layout) -> Iterator[Any]:
        """All samples in one, unless there are many: products of small leaves would take room."""
        width = max(2 * layout.R, LEAST_WIDTH, BLOCK_ITEMS // (layout.n_leaves * layout.R))
        for start in range(0, self.X.shape[1], width):
            part = np.ascontiguousarray(self.X[:, start : start + width])
            yield estep.moments.DenseBlock(part)

    def _plain_step(self, covariance):
        return CompleteStep(covariance, self)


class CompleteStep:
    """The E-step of complete data held in memory; see `EStep`."""

    def __init__(self, covariance: MLR, data: CompleteData):
        self._data = data
        self._posterior = FactorPosterior(covariance, data.X, check_finite=False, exact=False)
        quad = self._posterior.total_inv_quad(data.sums_of_squares)
        self.loglik = log_likelihood(covariance, quad, data.weight)
        if data.ridge:
            self.loglik -= loading_penalty(covariance, data.ridge) / data.weight
        self._kept = False

    def update(self, out: Filled = None, keep: bool = False) -> Moved:
        """The M-step: F, D (not clipped) and mean."""
        self._kept = keep
        F, D = self._posterior.regress(
            self._data.sums_of_squares, self._data.weight, out, keep, self._data.ridge)
        return F, D, self._data.mean

    def gradient(self, F: FloatArray, D: FloatArray, mean: FloatArray, scale: Maybe = None,
                 out: Maybe = None) -> Moved:
        """Derivatives of the average log-likelihood by F and D, from the outcome of `update`."""
        if not self._kept:
            F, D, mean = self.update(keep=True)
        dF, dD = self._posterior.gradient(F, D, self._data.weight, scale, out)
        return dF, dD, np.zeros_like(mean)

    def precondition(self, dF: FloatArray, dmean: FloatArray, scale: Maybe = None,
                     out: Maybe = None) -> tuple[FloatArray, FloatArray]:
        """EM's answer to a gradient by F; the mean stays."""
        return self._posterior.precondition(dF, self._data.weight, scale, out), dmean


def complete_source(Y: FloatArray, hierarchy: Hierarchy, center: bool,
                    weights: FloatArray | None = None, names: Sequence[str] | None = None,
                    compress: bool = True) -> CompleteData:
    """Bring finite data `Y` (N, n) with positive weights to the form that EM works on.

    With N > n and `compress` the samples are replaced by the n rows of the triangular factor of
    their QR factorization, which has the same ``YᵀY``: every EM iterate stays the same.
    """
    N, n = Y.shape
    check_enough(N)
    check_varies(Y.min(axis=0), Y.max(axis=0), np.arange(n), names)
    mean, root, weight = np.zeros(n), np.ones((1, 1)), float(N)
    if weights is not None:
        root, weight = np.sqrt(weights)[:, None], float(weights.sum())
    if center and weights is None:
        mean = Y.mean(axis=0, dtype=np.float64)
    elif center:  # about the first sample: large equal numbers lose no digits
        mean = Y[0] + weights @ (Y - Y[0].astype(float)) / weight
    if N > n and compress:
        centred = (Y - mean) * root
        X = scipy.linalg.qr(centred, mode="r", overwrite_a=True, check_finite=False)[0][:n].T
    else:
        X = Y.T - mean[:, None]
        X *= root.T
    X = np.ascontiguousarray(hierarchy._gather(X))
    return CompleteData(X, np.einsum("ik,ik->i", X, X), hierarchy._gather(mean), N, weight,
                        dtype=Y.dtype)


def check_enough(N: int) -> None:
    """Refuse data of fewer than 2 samples."""
    if N < 2:
        raise ValueError(f"Y must hold at least 2 samples (rows) of positive weight, got {N}")


def check_varies(low: FloatArray, high: FloatArray, features: np.ndarray,
                 names: Sequence[str] | None) -> None:
    """Refuse features whose range (low, high), given in the order of `features`, is a point."""
    constant = np.sort(features[low == high])
    if constant.size:
        raise ValueError(
            f"Y has {counted(constant.size, 'constant feature')} ({named(constant, names)}), for"
            " which no variance can be estimated; leave them out")
