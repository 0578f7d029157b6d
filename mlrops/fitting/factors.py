"""The factors of a fit on its way, level by level in tree order, and what is kept beside them.

What is carried from visit to visit of a level, besides its factors, are a few right singular
vectors more than its rank: they speed the iteration up, and tell what one more rank would gain.
"""

import numpy as np

from ..operators.general.mlr import GeneralMLR
from .pairs import put, take

__all__ = ["EXTRA", "Factors"]

# Directions beyond the rank that a level carries along.
EXTRA = 3


class Factors:
    """Compact factors of all levels in tree order, with one zero row at the end of each array."""

    def __init__(self, pairs, ranks, dtype, rng, symmetric=False, psd=False):
        self.pairs, self.dtype, self.rng = pairs, dtype, rng
        self.symmetric, self.psd = symmetric, psd
        m, n = pairs.shape
        self.left = [np.zeros((m + 1, r), dtype) for r in ranks]
        self.right = [np.zeros((n + 1, r), dtype) for r in ranks]
        self.basis = [np.zeros((n + 1, 0), dtype) for _ in ranks]
        self.stale = set(range(len(ranks)))  # levels whose basis need not hold the right factors
        self.sigma = [np.zeros((p, 0), dtype) for p in pairs.rows.group_counts]
        # Of a level of single features, the least its entries may be, (n + 1,).
        self.least = None

    @property
    def ranks(self):
        return tuple(c.shape[1] for c in self.right)

    def take(self, level):
        """Left and right factors of the blocks of a level, batch by batch."""
        batches = self.pairs.batches[level]
        return ([take(self.left[level], b.rows) for b in batches],
                [take(self.right[level], b.cols) for b in batches])

    def directions(self, level, rank):
        """Orthonormal right directions of every block to iterate from: `rank` + EXTRA of them.

        They span the right factors, so that an iteration from them cannot lose what there is.
        """
        C, Q, width = self.right[level], self.basis[level], rank + EXTRA
        fresh = level not in self.stale and Q.shape[1] >= width
        if level in self.stale:
            Q = np.concatenate([C, Q[:, C.shape[1] :]], axis=1)
        missing = width - Q.shape[1]
        if missing > 0:
            new = self.rng.standard_normal((Q.shape[0], missing)).astype(self.dtype, copy=False)
            new[-1] = 0
            Q = np.concatenate([Q, new], axis=1)
        stacks = [take(Q[:, :width], b.cols) for b in self.pairs.batches[level]]
        return stacks if fresh else [np.linalg.qr(q)[0] for q in stacks]

    def put(self, level, rank, B, C, V, s):
        """Store what was found for the blocks of a level, filled up with zeros to its rank."""
        m, n = self.pairs.shape
        p, width = self.pairs.rows.group_counts[level], rank + EXTRA
        self.left[level] = np.zeros((m + 1, rank), self.dtype)
        self.right[level] = np.zeros((n + 1, rank), self.dtype)
        self.basis[level] = np.zeros((n + 1, width), self.dtype)
        self.sigma[level] = np.zeros((p, width), self.dtype)
        for batch, b, c, v, x in zip(self.pairs.batches[level], B, C, V, s, strict=True):
            put(self.left[level][:, : b.shape[2]], batch.rows, b)
            put(self.right[level][:, : c.shape[2]], batch.cols, c)
            put(self.basis[level][:, : v.shape[2]], batch.cols, v)
            self.sigma[level][batch.groups, : x.shape[1]] = x
        self.stale.discard(level)

    def drop(self, level, losses):
        """Take out of each block of a level the column of least loss (p_l, r_l).

        It returns lists of what was left and right, (g, M, 1) and (g, N, 1), one a batch.
        """
        order = np.argsort(-losses, axis=1, kind="stable")
        sides = []
        for side, here in ((self.left, "rows"), (self.right, "cols")):
            kept, gone = np.zeros_like(side[level][:, 1:]), []
            for batch in self.pairs.batches[level]:
                index = getattr(batch, here)
                x = np.take_along_axis(
                    take(side[level], index), order[batch.groups][:, None, :], axis=2)
                put(kept, index, x[:, :, :-1])
                gone.append(x[:, :, -1:])
            side[level] = kept
            sides.append(gone)
        self.stale.add(level)
        return sides

    def load(self, operator):
        """Take the factors of an operator on the same trees."""
        for side, factors, h in ((self.left, operator.left, operator.rows),
                                 (self.right, operator.right, operator.cols)):
            for level, x in enumerate(factors):
                side[level] = np.zeros((h.n + 1, x.shape[1]), self.dtype)
                side[level][:-1] = h._gather(x)
        self.stale = set(range(len(self.left)))

    def widen(self, ranks):
        """Add columns of zeros up to these ranks."""
        for side in self.left, self.right:
            for level, (x, r) in enumerate(zip(side, ranks, strict=True)):
                side[level] = np.pad(x, ((0, 0), (0, max(r - x.shape[1], 0))))
        self.stale = set(range(len(ranks)))

    def squared_norms(self):
        """``‖B_l C_lᵀ‖²`` of all levels, from the Gram matrices of either side."""
        return [sum(float(np.einsum("gij,gji->", np.matmul(b.swapaxes(1, 2), b),
                                    np.matmul(c.swapaxes(1, 2), c), dtype=np.float64))
                    for b, c in zip(*self.take(level), strict=True))
                for level in range(len(self.ranks))]

    def balance(self, levels):
        """Make the two sides of every column of a block equally long, but for a factor below two.

        By powers of two, which round nothing.  Least squares move one side for the other, and what
        one gains in length again and again the other loses, until numbers leave their range.
        """
        for level in levels:
            powers = [np.frexp(np.sqrt(np.add.reduceat(
                np.square(x[:-1]), h.boundaries[level][:-1], axis=0)))[1]
                for x, h in zip((self.left[level], self.right[level]),
                                (self.pairs.rows, self.pairs.cols), strict=True)]
            shift = (powers[1] - powers[0]) // 2
            if not shift.any():
                continue
            for side, h, sign in ((self.left, self.pairs.rows, 1),
                                  (self.right, self.pairs.cols, -1)):
                of_row = np.repeat(sign * shift, h.group_sizes(level), axis=0)
                side[level] = np.ldexp(side[level], np.pad(of_row, ((0, 1), (0, 0))))

    def snapshot(self):
        """What `restore` needs; arrays are replaced, never written to, so nothing is copied."""
        lists = self.left, self.right, self.basis, self.sigma
        return [list(x) for x in lists], set(self.stale)

    def restore(self, saved):
        lists, stale = saved
        self.left, self.right, self.basis, self.sigma = (list(x) for x in lists)
        self.stale = set(stale)

    def operator(self):
        """The fit as an operator, on principal axes."""
        B, C = self.principal()
        return GeneralMLR._from_tree(self.pairs.rows, self.pairs.cols, self.ranks, B, C,
                                     symmetric=self.symmetric)

    def principal(self):
        """The factors of all levels side by side, (m, R) and (n, R), on principal axes.

        A block's columns are its singular vectors times the square roots of the singular values,
        largest first; the entry of largest magnitude of each left one is positive.  A symmetric
        fit's are so already, but for signs.
        """
        sides = [np.concatenate(side, axis=1) for side in (self.left, self.right)]
        start = 0
        for level, rank in enumerate(self.ranks):
            here = slice(start, start + rank)
            start += rank
            for batch in self.pairs.batches[level] if rank else ():
                B, C = (take(x[:, here], getattr(batch, i))
                        for x, i in zip(sides, ("rows", "cols"), strict=True))
                if not self.symmetric:
                    B, C = _balanced(B, C)
                peak = np.take_along_axis(B, np.abs(B).argmax(axis=1)[:, None, :], axis=1)
                sign = np.where(peak < 0, -1, 1).astype(self.dtype)
                for x, i, y in ((sides[0], batch.rows, B), (sides[1], batch.cols, C)):
                    put(x[:, here][:, : y.shape[2]], i, y * sign)
                    x[:, here][i if isinstance(i, slice) else i.ravel(), y.shape[2] :] = 0
        return sides[0][:-1], sides[1][:-1]


def _balanced(B, C):
    """``U √s`` and ``V √s`` for the singular value decomposition of ``B Cᵀ``."""
    (P, S), (Q, T) = np.linalg.qr(B), np.linalg.qr(C)
    U, s, Vt = np.linalg.svd(np.matmul(S, T.swapaxes(1, 2)), full_matrices=False)
    root = np.sqrt(s)[:, None, :]
    return np.matmul(P, U) * root, np.matmul(Q, Vt.swapaxes(1, 2)) * root
