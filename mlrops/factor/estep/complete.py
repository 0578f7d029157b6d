"""Complete data of a factor model in memory: checked, centred, compressed, one feature a row."""

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from ..._common.validate import as_finite
from ..em import Complete
from .rows import check_enough, check_features, check_varies, check_weights

__all__ = ["CompleteData", "complete_source"]


@dataclass(frozen=True)
class CompleteData:
    """Complete data in memory, all in tree order; a source of EM (see `em`)."""

    X: np.ndarray  # (n, k), C-contiguous, X Xᵀ = Σ_t w_t (y_t - mean)(y_t - mean)ᵀ
    sums_of_squares: np.ndarray  # (n,)
    mean: np.ndarray  # (n,)
    n_samples: int  # N, which k may be smaller than
    weight: float  # Σ w_t
    ridge: float = 0.0  # penalty ``ridge tr(Fᵀ D⁻¹ F) / 2`` of the log-likelihood of all samples
    names: tuple | None = None
    dtype: np.dtype = np.dtype(float)
    mean_is_free = False

    @property
    def variance(self):
        """Mean square of each feature."""
        return self.sums_of_squares / self.weight

    def shown(self, features):
        return np.ones((1, features.size), bool), np.ones(1)

    def start_data(self, width, seed):
        same = self.weight == self.n_samples
        return self.X if same else self.X * (self.n_samples / self.weight) ** 0.5

    def evaluate(self, covariance, mean):
        return Complete(covariance, self)


def complete_source(Y, hierarchy, center, weights=None, names=None, compress=True):
    """Bring `Y` (N, n) to the form EM works on.

    With N > n and `compress` the samples are replaced by the n rows of the triangular factor of
    their QR factorization, which has the same ``YᵀY``: every EM iterate stays the same.
    """
    Y = as_finite(Y, "Y", ndim=2)
    check_features(Y.shape[1], hierarchy, "Y", Y.shape)
    weights = check_weights(weights, len(Y))
    if weights is not None and not weights.all():
        Y, weights = Y[weights > 0], weights[weights > 0]
    N, n = Y.shape
    check_enough(N)
    check_varies(Y.min(axis=0), Y.max(axis=0), np.arange(n), names)
    mean = np.zeros(n)
    if center:
        mean = Y.mean(axis=0, dtype=np.float64) if weights is None else weighted_mean(Y, weights)
    root = 1 if weights is None else np.sqrt(weights)[:, None]
    if N > n and compress:
        centred = (Y - mean) * root
        X = scipy.linalg.qr(centred, mode="r", overwrite_a=True, check_finite=False)[0][:n].T
    else:
        X = Y.T - mean[:, None]
        X *= root if weights is None else root.T
    X = np.ascontiguousarray(hierarchy._gather(X))
    weight = float(N if weights is None else weights.sum())
    return CompleteData(X, np.einsum("ik,ik->i", X, X), hierarchy._gather(mean), N, weight,
                        dtype=Y.dtype)


def weighted_mean(Y, weights):
    """Weighted mean of the rows, about the first one: large equal numbers lose no digits."""
    return Y[0] + weights @ (Y - Y[0].astype(float)) / weights.sum()
