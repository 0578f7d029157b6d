"""The residual of a dense matrix, in tree order, kept up to date as factors change."""

import numpy as np

__all__ = ["DenseResidual"]

# Entries of a matrix that are worked on at a time where a temporary copy of all is too much.
CHUNK = 2**18


def row_chunks(m, n):
    """Slices of rows of an (m, n) array of about CHUNK entries each."""
    step = max(CHUNK // max(n, 1), 1)
    return [slice(start, min(start + step, m)) for start in range(0, m, step)]


class DenseResidual:
    """``A - Σ_l B_l C_lᵀ`` as an array, in tree order.

    It has one zero row and one zero column more, which batches of blocks are filled up with.
    """

    def __init__(self, A, pairs, dtype):
        self._A, self._pairs = A, pairs
        m, n = pairs.shape
        self._S = np.zeros((m + 1, n + 1), dtype)

    @property
    def floor(self):
        """Relative errors below this are rounding."""
        return 32 * np.finfo(self._S.dtype).eps

    @property
    def rounding(self):
        """What rounding moves a squared relative error by, for parts no larger than A."""
        return (4 * np.finfo(self._S.dtype).eps) ** 2

    def restart(self, factors):
        """Compute the residual anew from A for these factors."""
        m, n = self._pairs.shape
        rows, cols = self._pairs.rows, self._pairs.cols
        for part in row_chunks(m, n):
            block = self._A[rows.permutation[part]]
            self._S[part, :n] = block if cols._in_order else block[:, cols.permutation]
        for level, rank in enumerate(factors.ranks):
            if rank:
                self.open(level).subtract(*factors.take(level))

    def open(self, level):
        """The blocks of a level."""
        return _Blocks(self._S, self._pairs.batches[level])

    def squared_norm(self):
        """``‖residual‖²``, accumulated in float64."""
        m, n = self._pairs.shape
        total = 0.0
        for part in row_chunks(m, n):
            x = self._S[part, :n]
            total += float(np.einsum("ij,ij->", x, x, dtype=np.float64))
        return total


class _Blocks:
    """The blocks of one level, batch by batch as (g, M, N) arrays."""

    def __init__(self, S, batches):
        self._S, self._batches = S, batches
        self._X = [S[b.rows, b.cols][None] if isinstance(b.rows, slice)
                   else S[b.rows[:, :, None], b.cols[:, None, :]] for b in batches]

    def mul(self, Q):
        """``X_g Q_g`` for (g, N, k) arrays, one a batch."""
        return [np.matmul(x, q) for x, q in zip(self._X, Q, strict=True)]

    def rmul(self, U):
        """``X_gᵀ U_g`` for (g, M, k) arrays."""
        return [np.matmul(x.swapaxes(1, 2), u) for x, u in zip(self._X, U, strict=True)]

    def subtract(self, B, C):
        """``X_g -= B_g C_gᵀ``, in the residual itself."""
        for batch, x, b, c in zip(self._batches, self._X, B, C, strict=True):
            if b.shape[2] == 0:
                continue
            if isinstance(batch.rows, slice):
                for part in row_chunks(*x.shape[1:]):
                    x[0, part] -= b[0, part] @ c[0].T
            else:
                x -= np.matmul(b, c.swapaxes(1, 2))
                self._S[batch.rows[:, :, None], batch.cols[:, None, :]] = x
