"""The residual of a covariance matrix that is given by data: ``X Xᵀ`` is never formed."""

import numpy as np

from .implicit import ImplicitResidual
from .pairs import put, take

__all__ = ["GramResidual"]


class GramResidual(ImplicitResidual):
    """``X Xᵀ - diag(D) - Σ_l F_l F_lᵀ`` for the factors and the D of the moment.

    A product of the blocks ``X_g X_gᵀ`` of a level with q columns costs ``4 n k q`` flops, whatever
    the number of groups.  Small groups of fewer features than X has columns have their blocks
    formed once: no more numbers than their rows of X.

    Parameters
    ----------
    X : (n, k), in tree order
    pairs : GroupPairs
        Of a hierarchy with itself.
    """

    def __init__(self, X, pairs):
        super().__init__(pairs, X.dtype)
        self._X = np.concatenate([X, np.zeros((1, X.shape[1]), X.dtype)])
        self.diagonal = np.einsum("ij,ij->i", X, X, dtype=np.float64)
        self.D = np.zeros(len(X))
        self._blocks = {}

    def explained(self):
        """``‖X Xᵀ‖² - ‖residual‖²``: what is left is not needed to compare two fits."""
        return float(self.D @ (2 * self.diagonal - self.D)) + self.captured()

    def product(self, level, Q):
        padded = np.concatenate([Q, np.zeros((1, Q.shape[1]), Q.dtype)])
        Y = np.empty_like(padded)
        for batch, block in zip(self.pairs.batches[level], self._grams(level), strict=True):
            q = take(padded, batch.rows)
            if block is None:
                x = take(self._X, batch.rows)
                y = np.matmul(x, np.matmul(x.swapaxes(1, 2), q))
            else:
                y = np.matmul(block, q)
            put(Y, batch.rows, y)
        return Y[:-1] - self.D.astype(self.dtype)[:, None] * Q

    def _grams(self, level):
        """The blocks ``X_g X_gᵀ`` of a level, batch by batch; None for those not to be formed."""
        if level not in self._blocks:
            self._blocks[level] = [self._gram(batch) for batch in self.pairs.batches[level]]
        return self._blocks[level]

    def _gram(self, batch):
        if isinstance(batch.rows, slice) or batch.rows.shape[1] > self._X.shape[1]:
            return None
        x = take(self._X, batch.rows)
        return np.matmul(x, x.swapaxes(1, 2))
