"""The data of a factor model: checked, centred, compressed, one feature a row."""

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from ..operators._validate import as_finite, name_some
from .em import Complete

__all__ = ["CompleteData", "prepare"]


@dataclass(frozen=True)
class CompleteData:
    """Complete data in memory, all in tree order; a source of EM (see `em`)."""

    X: np.ndarray  # (n, k), C-contiguous, X Xᵀ = Σ_t (y_t - mean)(y_t - mean)ᵀ
    sums_of_squares: np.ndarray  # (n,)
    mean: np.ndarray  # (n,)
    n_samples: int  # N, which k may be smaller than
    weight: float  # number of samples that X Xᵀ sums over
    mean_is_free = False

    @property
    def dtype(self):
        return self.X.dtype

    @property
    def variance(self):
        """Mean square of each feature."""
        return self.sums_of_squares.astype(float) / self.weight

    def start_data(self, width, seed):
        return self.X

    def evaluate(self, covariance, mean):
        return Complete(covariance, self)


def prepare(Y, hierarchy, center):
    """Check `Y` (N, n) and bring it to the form EM works on.

    With N > n the samples are replaced by the n rows of the triangular factor of their QR
    factorization, which has the same ``YᵀY``: every EM iterate stays the same.
    """
    Y = as_finite(Y, "Y", ndim=2, axis_name="feature", axis=1)
    N, n = Y.shape
    if n != hierarchy.n:
        raise ValueError(
            f"Y must have one column for each of the hierarchy's {hierarchy.n} features,"
            f" got shape {Y.shape} (samples are rows)"
        )
    if N < 2:
        raise ValueError(f"Y must hold at least 2 samples (rows), got {N}")
    constant = np.flatnonzero(Y.max(axis=0) == Y.min(axis=0))
    if constant.size:
        raise ValueError(
            f"Y has {constant.size} constant features ({name_some(constant)}), for which no"
            " variance can be estimated; leave them out"
        )
    mean = Y.mean(axis=0, dtype=np.float64) if center else np.zeros(n)
    mean = mean.astype(Y.dtype)
    if N > n:
        X = scipy.linalg.qr(Y - mean, mode="r", overwrite_a=True, check_finite=False)[0][:n].T
    else:
        X = Y.T - mean[:, None]
    X = np.ascontiguousarray(hierarchy._gather(X))
    return CompleteData(X, np.einsum("ik,ik->i", X, X), hierarchy._gather(mean), N, float(N))
