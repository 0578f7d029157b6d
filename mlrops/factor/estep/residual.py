"""The E-step of complete samples where D is far below the features' variances: no digit is lost.

With ``x = F z + e``, ``cov(e) = diag(D)``, W the second moments of the factors along the path of a
leaf, and the residuals e = x - F z at the posterior means, ``V = F W + U`` and the M-step are

    U_leaf = E Zᵀ - N F Cov            res_i = Σ E(x_i - f_i z)² = ‖e_i‖² + N f_i Cov f_iᵀ
    F ← F + U W⁻¹                      D_i ← (res_i - U_i W⁻¹ U_iᵀ) / N

and the derivatives ``D⁻¹ U / N`` and ``½ (res_i / (N D_i) - 1) / D_i``: what is small is formed as
such, and res is a sum of squares.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from ... import kernels
from ..._common.typing import FloatArray
from ...kernels.layout import Layout
from ...operators.mlr import MLR
from ...operators.posterior import factor_without_loss
from .. import estep
from .protocol import Filled, Maybe, Moved, loading_penalty, log_likelihood, scaled

__all__ = ["ResidualStep", "block_width"]

# Columns of a block below which its products are slow, and numbers below which the calls around
# them take longer than the products.
LEAST_WIDTH = 64
LEAST_ITEMS = 262_144


def block_width(layout: Layout) -> int:
    """Samples in a block (n, k) that is about twice as large as the factors."""
    return max(2 * layout.R, LEAST_WIDTH, LEAST_ITEMS // (layout.n + layout.s))


class Samples(Protocol):
    """What the step asks of its data."""

    mean: FloatArray
    weight: float
    ridge: float

    def dense_blocks(self, width: int) -> Iterator[FloatArray]:
        """The centred and weighted samples, (n, k) at a time, k at most `width`."""


class ResidualStep:
    """The E-step from residuals; see `EStep` for its methods.

    Three products with F more go over each block of samples than in the plain form, and those of
    sparse samples are dense.
    """

    def __init__(self, covariance: MLR, data: Samples):
        A = self._sigma = covariance
        self._data, layout, N, ridge = data, A._layout, data.weight, data.ridge
        U, S, squares = np.zeros_like(A._F), np.zeros((layout.s, layout.R), A.dtype), np.zeros(
            layout.n)
        quad = 0.0
        factor_without_loss(A)
        for X in data.dense_blocks(block_width(layout) // 2):  # three arrays of its size are formed
            quad += estep.moments.accumulate_residuals(A, X, U, S, squares)
        self.loglik = log_likelihood(A, quad, N)
        known = estep.moments.times_moments(
            A._F, A, np.zeros_like(S), N, np.empty_like(U), invert=False)
        squares += N * kernels.residual.explained(
            A._F, A._d, A._factor[0], np.einsum("ij,ij->i", known, A._F), layout)
        U -= N * known
        if ridge:
            self.loglik -= loading_penalty(A, ridge) / N
            squares += ridge * np.einsum("ij,ij->i", A._F, A._F)
            U -= ridge * A._F
        self._moved, self._second, self._squares = U, S, squares

    def _times_inverse(self, X, out):
        data = self._data
        return estep.moments.times_moments(
            X, self._sigma, self._second, data.weight, out, invert=True, ridge=data.ridge)

    def update(self, out: Filled = None, keep: bool = False) -> Moved:
        """The M-step: F, D (not clipped) and mean.  The moments are kept in any case."""
        A, data = self._sigma, self._data
        F, D = (np.empty_like(A._F), np.empty_like(A._d)) if out is None else out
        self._times_inverse(self._moved, F)
        estep.moments.share_rows(lambda lo, hi: estep._compiled_moments.rows_residual(
            self._moved, F, self._squares, data.weight, lo, hi, D), len(D), F.size)
        F += A._F
        return F, D, data.mean

    def gradient(self, F: FloatArray, D: FloatArray, mean: FloatArray, scale: Maybe = None,
                 out: Maybe = None) -> Moved:
        """Derivatives by Fisher's identity; the outcome of `update` is not needed."""
        d, N = self._sigma._d, self._data.weight
        dF = self._moved / (N * d)[:, None]
        dD = (self._squares / (N * d) - 1) / (2 * d)
        return scaled(dF, scale, out), dD.astype(d.dtype, copy=False), np.zeros_like(mean)

    def precondition(self, dF: FloatArray, dmean: FloatArray, scale: Maybe = None,
                     out: Maybe = None) -> tuple[FloatArray, FloatArray]:
        """``N D dF W⁻¹``, EM's answer to a gradient by F; the mean stays."""
        A, G = self._sigma, dF.astype(self._sigma.dtype, copy=False)
        change = self._times_inverse(G, np.empty_like(G))
        change *= (self._data.weight * A._d)[:, None]
        return scaled(change.astype(dF.dtype, copy=False), scale, out), dmean
