"""The E-step of complete samples where D is far below the variances: no digit is lost.

Features whose D is so small have long rows in D^{-1/2}F.  With ``x = F z + e``,
``cov(e) = diag(D)``, W the second moments of the factors along the path of a leaf, and the
residuals e = x - F z at the posterior means, ``V = F W + U`` and the M-step of these features is

    U_leaf = E Zᵀ - N F Cov            res_i = Σ E(x_i - f_i z)² = ‖e_i‖² + N f_i Cov f_iᵀ
    F ← F + U W⁻¹                      D_i ← (res_i - U_i W⁻¹ U_iᵀ) / N

and their derivatives ``D⁻¹ U / N`` and ``½ (res_i / (N D_i) - 1) / D_i``: what is small is formed
as such, and res is a sum of squares.  The other features have the plain forms of `StreamedStep`.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from ..._common.typing import FloatArray
from ...operators.mlr import MLR
from ...operators.posterior import factor_without_loss
from .. import estep
from .from_moments import FromMoments
from .protocol import Filled, Maybe, Moved, loading_penalty, log_likelihood, scaled

if TYPE_CHECKING:
    from ...kernels.residual import Split

__all__ = ["ResidualStep", "SplitMoments", "split_moments"]


class Samples(Protocol):
    """What the step asks of its data."""

    mean: FloatArray
    sums_of_squares: FloatArray
    weight: float
    ridge: float

    def split_moments(self, covariance: MLR, split: "Split") -> "SplitMoments":
        """The samples summed up; the covariance is factored without loss."""


class SplitMoments(NamedTuple):
    """What the step needs of the samples."""

    V: FloatArray  # (n, R) cross moments of samples and factors
    S: FloatArray  # (s, R) second moments of the factors
    U: FloatArray  # (b, R) cross moments of the residuals of long rows
    squares: FloatArray  # (b,) sums of squares of these
    quad: float  # Σ xᵀΣ⁻¹x without Σ x²/D of the other rows


def split_moments(A: MLR, split: "Split", blocks: Iterator[Any]) -> SplitMoments:
    """The `SplitMoments` of centred and weighted samples, a `DenseBlock` or the like at a time."""
    V, U, squares = np.zeros_like(A._F), np.zeros_like(split.F), np.zeros(split.rows.size)
    S, quad = np.zeros((A._layout.s, A._layout.R), A.dtype), 0.0
    for block in blocks:
        quad += estep.moments.accumulate_split(A, split, block, V, S, U, squares)
    return SplitMoments(V, S, U, squares, quad)


class ResidualStep(FromMoments):
    """The E-step that takes features with long rows by their residuals; see `EStep`.

    A step takes the products with F that others take: corrections of the means need those with the
    long rows, and sweeps of the tree.
    """

    def __init__(self, covariance: MLR, data: Samples, split: "Split"):
        A = self._sigma = covariance
        self._data, self._rows, N, rows = data, split.rows, data.weight, split.rows
        factor_without_loss(A)
        ridge, (V, S, U, squares, quad) = data.ridge, data.split_moments(A, split)
        quad += float(data.sums_of_squares @ split.others)
        self.loglik = log_likelihood(A, quad, N)
        if ridge:
            self.loglik -= loading_penalty(A, ridge) / N
        known, lengths = split.times_covariance(A._factor.K)
        U -= N * known
        squares += N * lengths
        if ridge:
            U -= ridge * split.F
            squares += ridge * np.einsum("ij,ij->i", split.F, split.F)
        self._second, self._cross, self._squares = S, V, np.array(data.sums_of_squares, A.dtype)
        self._cross[rows], self._squares[rows] = U, squares

    def update(self, out: Filled = None, keep: bool = False) -> Moved:
        """The M-step: F, D (not clipped) and mean.  The moments are kept in any case."""
        A, data = self._sigma, self._data
        F, D = (np.empty_like(A._F), np.empty_like(A._d)) if out is None else out
        self._times_moments(self._cross, F, invert=True)
        estep.moments.share_rows(lambda lo, hi: estep._compiled_moments.rows_residual(
            self._cross, F, self._squares, data.weight, lo, hi, D), len(D), F.size)
        F[self._rows] += A._F[self._rows]
        return F, D, data.mean

    def gradient(self, F: FloatArray, D: FloatArray, mean: FloatArray, scale: Maybe = None,
                 out: Maybe = None) -> Moved:
        """Derivatives by Fisher's identity; the outcome of `update` is not needed."""
        A, N, rows, dD = self._sigma, self._data.weight, self._rows, np.empty_like(self._sigma._d)
        dF = self._times_moments(A._F, np.empty_like(A._F), invert=False)
        estep.moments.share_rows(lambda lo, hi: estep._compiled_moments.rows_gradient(
            A._F, self._cross, A._dinv, self._squares, N, lo, hi, dF, dD), len(dD), 2 * dF.size)
        d = A._d[rows]
        dF[rows] = self._cross[rows] / (N * d)[:, None]
        dD[rows] = (self._squares[rows] / (N * d) - 1) / (2 * d)
        return scaled(dF, scale, out), dD, np.zeros_like(mean)
