"""What E-steps have in common that keep moments, cross and second, and no samples."""

from typing import Any

import numpy as np

from ..._common.typing import FloatArray
from ...operators.mlr import MLR
from .. import estep
from .protocol import Maybe, scaled

__all__ = ["FromMoments"]


class FromMoments:
    """Products with the second moments of the factors; see `EStep`.

    A subclass sets the covariance, its data, with `weight` and `ridge`, and the second moments
    (s, R).
    """

    _sigma: MLR
    _data: Any
    _second: FloatArray

    def _times_moments(self, X: FloatArray, out: FloatArray, invert: bool) -> FloatArray:
        data = self._data
        return estep.moments.times_moments(
            X, self._sigma, self._second, data.weight, out, invert, data.ridge)

    def precondition(self, dF: FloatArray, dmean: FloatArray, scale: Maybe = None,
                     out: Maybe = None) -> tuple[FloatArray, FloatArray]:
        """``N D dF W⁻¹``, EM's answer to a gradient by F; the mean stays."""
        A, G = self._sigma, dF.astype(self._sigma.dtype, copy=False)
        change = self._times_moments(G, np.empty_like(G), invert=True)
        change *= (self._data.weight * A._d)[:, None]
        return scaled(change.astype(dF.dtype, copy=False), scale, out), dmean
