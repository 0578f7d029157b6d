"""What EM asks of data, whatever kind they are: a `Source`, and the `EStep` that it gives.

All arrays are in tree order.  What is computed is float64, because likelihoods need it; only the
final results take the dtype of the data.
"""

import math
from typing import Protocol, TypeAlias

import numpy as np

from ..._common.typing import FloatArray
from ...operators.mlr import MLR

__all__ = ["EStep", "Filled", "Maybe", "Moved", "Source", "loading_penalty", "log_likelihood",
           "scaled"]


Maybe: TypeAlias = FloatArray | None
Filled: TypeAlias = tuple[FloatArray, FloatArray] | None  # arrays for F and D to fill
Moved: TypeAlias = tuple[FloatArray, FloatArray, FloatArray]  # F, D, mean or derivatives by them


class EStep(Protocol):
    """The E-step at a covariance and a mean: their likelihood, and what follows from it."""

    loglik: float  # average log-likelihood a sample of the parameters that went in

    def update(self, out: Filled = None, keep: bool = False) -> Moved:
        """The M-step: F, D (not clipped) and mean; F and D fill the arrays `out` if given.

        With `keep` the step keeps what the next two methods need; without, they form it again.
        """

    def gradient(self, F: FloatArray, D: FloatArray, mean: FloatArray, scale: Maybe = None,
                 out: Maybe = None) -> Moved:
        """Derivatives of ``loglik`` by the F, D and mean that went in, from those of `update`.

        The rows of the derivative by F are multiplied by ``scale`` (n,) and fill ``out``.  The one
        by the mean is zero where the mean is fixed.
        """

    def precondition(self, dF: FloatArray, dmean: FloatArray, scale: Maybe = None,
                     out: Maybe = None) -> tuple[FloatArray, FloatArray]:
        """The changes of F and mean by which an M-step would answer these derivatives.

        ``dmean`` is empty where the mean is fixed.  ``scale`` and ``out`` are as in `gradient`; the
        scale also counts for the mean.
        """


class Source(Protocol):
    """Data that EM fits a factor model to."""

    @property
    def n_samples(self) -> int:
        """Number of samples N."""

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the data and of the final results."""

    @property
    def variance(self) -> FloatArray:
        """Variance of the observed cells of each feature, (n,) float64."""

    @property
    def mean(self) -> FloatArray:
        """Where the mean starts, (n,)."""

    @property
    def is_dear(self) -> bool:
        """Whether an evaluation takes much more than the products with samples in memory."""

    @property
    def mean_is_free(self) -> bool:
        """Whether EM updates the mean; that of complete data is known from the start."""

    @property
    def shares(self) -> FloatArray:
        """Share of the samples, by weight, that show each feature, (n,).

        The log-likelihood of independent features is ``-½ Σ shares (log 2π + 1 + log variance)``.
        """

    def start_data(self, width: int, seed: int | None) -> FloatArray:
        """(n, k) array X with ``X Xᵀ / N`` like the covariance of the data.

        The data themselves, or a random sketch of about `width` columns.
        """

    def share_of_pairs(self, features: np.ndarray) -> float:
        """Share of the samples, by weight, that show two or more of these features."""

    def evaluate(self, covariance: MLR, mean: FloatArray) -> EStep:
        """The E-step at a covariance and mean."""


def log_likelihood(covariance: MLR, total_quad: float, n_samples: float) -> float:
    """Average normal log-likelihood a sample, ``-½ (n log 2π + log det Σ + tr Σ⁻¹S)``."""
    n = covariance.shape[0]
    return -0.5 * (n * math.log(2 * math.pi) + covariance._rough_logdet() + total_quad / n_samples)


def loading_penalty(covariance: MLR, ridge: float) -> float:
    """``ridge tr(Fᵀ D⁻¹ F) / 2``: of the loadings in units of √D, so that units do not matter."""
    squares = np.einsum("ij,ij->i", covariance.F, covariance.F, dtype=np.float64)
    return 0.5 * ridge * float((squares / covariance.D).sum())


def scaled(x: FloatArray, scale: Maybe, out: Maybe) -> FloatArray:
    """``diag(scale) x``, in `out` if there is one: for E-steps that have no faster way."""
    if scale is not None:
        x = (x.T * scale).T
    if out is None:
        return x
    np.copyto(out, x, casting="same_kind")
    return out
