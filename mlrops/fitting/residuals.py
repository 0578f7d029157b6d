"""What a fit leaves of a matrix, in tree order: kept as an array, or as products with its blocks.

All residuals are asked the same: `restart` with factors, `open` the blocks of a level for products
with them (`mul`, `rmul`) and for changes of the factors (`subtract`), and `squared_norm`.  Relative
errors below `floor` are rounding; it moves a squared one by `rounding`, for parts no larger than A.

A sparse matrix or an operator is not multiplied out.  A product with all blocks of a level at once
is written compactly: for Q (n, k), row i of the result is ``Σ_j (A - Σ_l B_l C_lᵀ)_ij Q_j`` over
the columns j of row i's own group.
"""

import numpy as np
from scipy.sparse import csr_array

from .._common.wording import name_some
from .pairs import put, take

__all__ = ["DenseResidual", "GramResidual", "OperatorResidual", "SparseResidual", "multiply",
           "row_chunks"]

# Entries of a matrix that are worked on at a time where a temporary copy of all is too much.
CHUNK = 2**18
# Numbers in the block of vectors that an operator is given at a time.
VECTORS = 2**22


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
        self.passes = 0.0  # how often its entries have been read
        self.floor = 32 * np.finfo(dtype).eps

    @property
    def rounding(self):
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
        return _Blocks(self, self._S, self._pairs.batches[level], self._pairs.share(level))

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

    def __init__(self, residual, S, batches, share):
        self._residual, self._share = residual, share
        self._S, self._batches = S, batches
        self._X = [S[b.rows, b.cols][None] if isinstance(b.rows, slice)
                   else S[b.rows[:, :, None], b.cols[:, None, :]] for b in batches]

    def mul(self, Q):
        """``X_g Q_g`` for (g, N, k) arrays, one a batch."""
        self._residual.passes += self._share
        return [np.matmul(x, q) for x, q in zip(self._X, Q, strict=True)]

    def rmul(self, U):
        """``X_gᵀ U_g`` for (g, M, k) arrays."""
        self._residual.passes += self._share
        return [np.matmul(x.swapaxes(1, 2), u) for x, u in zip(self._X, U, strict=True)]

    def subtract(self, B, C):
        """``X_g -= B_g C_gᵀ``, in the residual itself."""
        self._residual.passes += self._share
        for batch, x, b, c in zip(self._batches, self._X, B, C, strict=True):
            if b.shape[2] == 0:
                continue
            if isinstance(batch.rows, slice):
                for part in row_chunks(*x.shape[1:]):
                    x[0, part] -= b[0, part] @ c[0].T
            else:
                x -= np.matmul(b, c.swapaxes(1, 2))
                self._S[batch.rows[:, :, None], batch.cols[:, None, :]] = x


class ImplicitResidual:
    """``A - Σ_l B_l C_lᵀ`` for the factors of the moment.

    ``‖A - M‖²`` is found as ``‖A‖² - <A, M> - <A - M, M>``: what is below the square root of the
    precision times ‖A‖ is lost in the difference.
    """

    def __init__(self, pairs, dtype):
        self.pairs, self.dtype = pairs, dtype
        self.factors, self.passes = None, 0.0
        self._blocks = {}  # by level, the entries of A within its blocks (CSR), where they are kept
        eps = np.finfo(dtype).eps
        self.floor, self.rounding = 4 * np.sqrt(eps), 4 * eps

    def product(self, level, X, transposed=False):
        """The blocks of a level of A times X (n, k), or their transposes times X (m, k)."""
        return (self._blocks[level].T if transposed else self._blocks[level]) @ X

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

    def _keep(self, block, first=0):
        """Keep what of a sparse A, in tree order, lies in the blocks of a level and finer ones."""
        for level in range(first, self.pairs.n_levels):
            A = block.tocoo()
            row_group, col_group = (np.repeat(np.arange(h.group_counts[level]),
                                              h.group_sizes(level))
                                    for h in (self.pairs.rows, self.pairs.cols))
            inside = row_group[A.row] == col_group[A.col]
            self._blocks[level] = block = csr_array(
                (A.data[inside], (A.row[inside], A.col[inside])), shape=A.shape)

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
        residual.passes += residual.pairs.share(self._level)
        width = max(x.shape[2] for x in X)
        into, out = (m, n) if transposed else (n, m)
        compact = np.zeros((into + 1, width), residual.dtype)
        for batch, x in zip(self._batches, X, strict=True):
            put(compact[:, : x.shape[2]], getattr(batch, here), x)
        Y = np.zeros((out + 1, width), residual.dtype)
        Y[:-1] = residual.product(self._level, compact[:-1], transposed)
        Y -= residual.fitted(self._level, compact, transposed)
        return [take(Y, getattr(batch, there))[:, :, : x.shape[2]]
                for batch, x in zip(self._batches, X, strict=True)]

    def subtract(self, B, C):
        """The factors have changed already."""


class SparseResidual(ImplicitResidual):
    """Of a sparse A (CSR); for each level its entries within the blocks are kept."""

    def __init__(self, A, pairs, dtype):
        super().__init__(pairs, dtype)
        block = A.astype(dtype)[pairs.rows.permutation][:, pairs.cols.permutation]
        self.squared_norm_of_A = float(
            np.einsum("i,i->", block.data, block.data, dtype=np.float64))
        self._keep(block)


def multiply(A, name, X, out):
    """``A.name(X)`` of an operator for vectors X as columns, (out, k), checked."""
    try:
        Y = np.asarray(getattr(A, name)(X))
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
        norm = A.norm() if callable(getattr(A, "norm", None)) else None
        if narrow or norm is None:
            norm = self._read()
        self.squared_norm_of_A = float(norm) ** 2

    def _multiply(self, name, X, out):
        return multiply(self._A, name, X, out)

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
            self._keep(csr_array((data.astype(self.dtype), (i, j)), shape=(m, n)), self._known)
        return np.sqrt(total)

    def product(self, level, X, transposed=False):
        transposed = transposed and not self._symmetric
        if level in self._blocks:
            return super().product(level, X, transposed)
        sides = (self.pairs.cols, self.pairs.rows)[:: -1 if transposed else 1]
        return self._spread(level, X, *sides, "rmatmat" if transposed else "matmat")

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


class GramResidual(ImplicitResidual):
    """``X Xᵀ - diag(D) - Σ_l F_l F_lᵀ`` for the moment's factors and D; X (n, k) is in tree order.

    The pairs are those of a hierarchy with itself.  A product of the blocks ``X_g X_gᵀ`` of a level
    with q columns costs ``4 n k q`` flops, whatever the number of groups.  Small groups of fewer
    features than X has columns have their blocks formed once: no more numbers than their rows of X.
    """

    def __init__(self, X, pairs):
        super().__init__(pairs, X.dtype)
        self._X = np.concatenate([X, np.zeros((1, X.shape[1]), X.dtype)])
        self.diagonal = np.einsum("ij,ij->i", X, X, dtype=np.float64)
        self.D = np.zeros(len(X))
        self._formed = {}  # by level, what `_grams` gives

    def explained(self):
        """``‖X Xᵀ‖² - ‖residual‖²``: what is left is not needed to compare two fits."""
        return float(self.D @ (2 * self.diagonal - self.D)) + self.captured()

    def product(self, level, Q, transposed=False):  # of a symmetric matrix
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
        if level not in self._formed:
            self._formed[level] = [self._gram(batch) for batch in self.pairs.batches[level]]
        return self._formed[level]

    def _gram(self, batch):
        if isinstance(batch.rows, slice) or batch.rows.shape[1] > self._X.shape[1]:
            return None
        x = take(self._X, batch.rows)
        return np.matmul(x, x.swapaxes(1, 2))
