"""The residual of a sparse matrix or an operator: products with blocks, nothing multiplied out.

A product with all blocks of a level at once is written compactly.  For Q (n, k), row i of the
result is ``Σ_j (A - Σ_l B_l C_lᵀ)_ij Q_j`` over the columns j of row i's own group.
"""

import numpy as np
from scipy.sparse import csr_array

from .._common.wording import name_some
from .pairs import put, take

__all__ = ["OperatorResidual", "SparseResidual"]

# Numbers in the block of vectors that an operator is given at a time.
VECTORS = 2**22


class ImplicitResidual:
    """``A - Σ_l B_l C_lᵀ`` for the factors of the moment.

    ``‖A - M‖²`` is found as ``‖A‖² - <A, M> - <A - M, M>``: what is below the square root of the
    precision times ‖A‖ is lost in the difference.
    """

    def __init__(self, pairs, dtype):
        self.pairs, self.dtype = pairs, dtype
        self.factors = None

    @property
    def floor(self):
        """Relative errors below this are rounding."""
        return 4 * np.sqrt(np.finfo(self.dtype).eps)

    @property
    def rounding(self):
        """What rounding moves a squared relative error by, for parts no larger than A."""
        return 4 * np.finfo(self.dtype).eps

    def restart(self, factors):
        """Use these factors from now on."""
        self.factors = factors

    def open(self, level):
        return _Products(self, level)

    def captured(self):
        """``‖A‖² - ‖A - M‖² = 2 <A, M> - <M, M>``"""
        total = 0.0
        for level, rank in enumerate(self.factors.ranks):
            if rank and self.factors.left[level].any():
                B, C = self.factors.left[level][:-1], self.factors.right[level]
                known = 2 * self.product(level, C[:-1]) - self.fitted(level, C, False)[:-1]
                total += np.einsum("ij,ij->", B, known, dtype=np.float64)
        return float(total)

    def squared_norm(self):
        return max(self.squared_norm_of_A - self.captured(), 0.0)

    def fitted(self, level, Q, transposed):
        """The fit's blocks of a level times Q (n + 1, k), or their transposes times (m + 1, k)."""
        sides = self.factors.left, self.factors.right
        names = "rows", "cols"
        (outer, inner), (out, into) = (x[::-1] if transposed else x for x in (sides, names))
        Y = np.zeros((outer[0].shape[0], Q.shape[1]), self.dtype)
        levels = [np.concatenate(side[: level + 1], axis=1) for side in (outer, inner)]
        deeper = zip(outer[level + 1 :], inner[level + 1 :], strict=True)
        for finer, (B, C) in enumerate([levels, *deeper], start=level):
            if B.shape[1] == 0:
                continue
            for batch in self.pairs.batches[finer]:
                rows, cols = getattr(batch, out), getattr(batch, into)
                T = np.matmul(take(C, cols).swapaxes(1, 2), take(Q, cols))
                put(Y, rows, take(Y, rows) + np.matmul(take(B, rows), T))
        return Y


class _Products:
    """Products with the blocks of one level, batch by batch."""

    def __init__(self, residual, level):
        self._residual, self._level = residual, level
        self._batches = residual.pairs.batches[level]

    def mul(self, Q):
        return self._apply(Q, "cols", "rows", False)

    def rmul(self, U):
        return self._apply(U, "rows", "cols", True)

    def _apply(self, X, here, there, transposed):
        residual, (m, n) = self._residual, self._residual.pairs.shape
        width = max(x.shape[2] for x in X)
        into, out = (m, n) if transposed else (n, m)
        compact = np.zeros((into + 1, width), residual.dtype)
        for batch, x in zip(self._batches, X, strict=True):
            put(compact[:, : x.shape[2]], getattr(batch, here), x)
        Y = np.zeros((out + 1, width), residual.dtype)
        product = residual.rproduct if transposed else residual.product
        Y[:-1] = product(self._level, compact[:-1])
        Y -= residual.fitted(self._level, compact, transposed)
        return [take(Y, getattr(batch, there))[:, :, : x.shape[2]]
                for batch, x in zip(self._batches, X, strict=True)]

    def subtract(self, B, C):
        """The factors have changed already."""


def block_diagonal(A, rows, cols, level):
    """The entries of a sparse A, in tree order, that lie in the blocks of a level (CSR)."""
    A = A.tocoo()
    group = [np.repeat(np.arange(np.diff(h.boundaries[level]).size), np.diff(h.boundaries[level]))
             for h in (rows, cols)]
    inside = group[0][A.row] == group[1][A.col]
    return csr_array((A.data[inside], (A.row[inside], A.col[inside])), shape=A.shape)


class SparseResidual(ImplicitResidual):
    """Of a sparse A (CSR); for each level its entries within the blocks are kept."""

    def __init__(self, A, pairs, dtype):
        super().__init__(pairs, dtype)
        block = A.astype(dtype)[pairs.rows.permutation][:, pairs.cols.permutation]
        self.squared_norm_of_A = float(
            np.einsum("i,i->", block.data, block.data, dtype=np.float64))
        self._blocks = []
        for level in range(pairs.n_levels):
            block = block_diagonal(block, pairs.rows, pairs.cols, level)
            self._blocks.append(block)

    def product(self, level, Q):
        return self._blocks[level] @ Q

    def rproduct(self, level, U):
        return self._blocks[level].T @ U


class OperatorResidual(ImplicitResidual):
    """Of a LinearOperator A, by products with vectors that are zero outside of one group.

    A level takes one vector a group and direction.  Where that is more than n vectors, the groups
    are so narrow that their blocks, taken once by products with unit vectors, are no more numbers
    than the directions.
    """

    def __init__(self, A, pairs, dtype, widths, symmetric):
        super().__init__(pairs, dtype)
        self._A, self._symmetric = A, symmetric
        n = pairs.shape[1]
        narrow = [level for level, p in enumerate(pairs.rows.group_counts) if p * widths[level] > n]
        self._known = min(narrow, default=pairs.n_levels)
        self._blocks = []
        norm = A.norm() if callable(getattr(A, "norm", None)) else None
        if narrow or norm is None:
            norm = self._read()
        self.squared_norm_of_A = float(norm) ** 2

    def _multiply(self, name, X, out):
        """``A.name(X)`` for vectors X as columns, (out, k), checked."""
        try:
            Y = np.asarray(getattr(self._A, name)(X))
        except NotImplementedError:
            raise TypeError(
                "A must multiply from both sides: the operator has no"
                f" {'_rmatvec or _rmatmat' if name == 'rmatmat' else '_matvec or _matmat'}; for a"
                " symmetric one pass symmetric=True") from None
        if Y.shape != (out, X.shape[1]):
            raise ValueError(f"A.{name} of vectors {X.shape} must have shape"
                             f" {(out, X.shape[1])}, got {Y.shape}")
        bad = ~np.isfinite(Y)
        if bad.any():
            side = "column" if name == "rmatmat" else "row"
            raise ValueError("A must be finite, got products with NaN or infinity"
                             f" ({side} {name_some(np.flatnonzero(bad.any(axis=1)))})")
        return Y

    def _read(self):
        """All columns of A, a few at a time: ‖A‖, and the blocks of the narrow levels."""
        (m, n), rows, cols = self.pairs.shape, self.pairs.rows, self.pairs.cols
        step = max(VECTORS // max(m, n), 1)
        total, parts = 0.0, []
        if self._known < self.pairs.n_levels:
            lower, upper = (rows.boundaries[self._known][end:][: rows.group_counts[self._known]]
                            for end in (0, 1))
            group = np.repeat(np.arange(lower.size), cols.group_sizes(self._known))
        for start in range(0, n, step):
            columns = np.arange(start, min(start + step, n))
            unit = np.zeros((n, columns.size), self.dtype)
            unit[cols.permutation[columns], columns - start] = 1
            values = self._multiply("matmat", unit, m)[rows.permutation]
            total += float(np.einsum("ij,ij->", values, values, dtype=np.float64))
            if self._known < self.pairs.n_levels:
                first, last = lower[group[columns]], upper[group[columns]]
                here = np.arange(m)[:, None]
                i, j = np.nonzero((here >= first) & (here < last))
                parts.append((values[i, j], i, j + start))
        if parts:
            data, i, j = (np.concatenate(x) for x in zip(*parts, strict=True))
            block = csr_array((data.astype(self.dtype), (i, j)), shape=(m, n))
            for level in range(self._known, self.pairs.n_levels):
                block = block_diagonal(block, rows, cols, level)
                self._blocks.append(block)
        return np.sqrt(total)

    def product(self, level, Q):
        if level >= self._known:
            return self._blocks[level - self._known] @ Q
        return self._spread(level, Q, self.pairs.cols, self.pairs.rows, "matmat")

    def rproduct(self, level, U):
        if self._symmetric:
            return self.product(level, U)
        if level >= self._known:
            return self._blocks[level - self._known].T @ U
        return self._spread(level, U, self.pairs.rows, self.pairs.cols, "rmatmat")

    def _spread(self, level, X, into, out, product):
        k = X.shape[1]
        Y = np.empty((out.n, k), self.dtype)
        step = max(VECTORS // (max(into.n, out.n) * max(k, 1)), 1)
        p = into.group_counts[level]
        starts, ends = into.boundaries[level], out.boundaries[level]
        for first in range(0, p if k else 0, step):
            groups = range(first, min(first + step, p))
            vectors = np.zeros((into.n, len(groups) * k), self.dtype)
            for at, g in enumerate(groups):
                here = slice(starts[g], starts[g + 1])
                vectors[into.permutation[here], at * k : (at + 1) * k] = X[here]
            found = self._multiply(product, vectors, out.n)
            for at, g in enumerate(groups):
                there = slice(ends[g], ends[g + 1])
                Y[there] = found[out.permutation[there], at * k : (at + 1) * k]
        return Y
