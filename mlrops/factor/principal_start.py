"""Iterated principal factors on a tree, to start EM from."""

import numpy as np

from .._common.typing import FloatArray, IntArray
from ..operators.mlr import MLR
from ..tree.hierarchy import Hierarchy
from .usable import usable_columns

__all__ = ["FIRST_UNIQUENESS", "LEAST_UNIQUENESS", "SWEEPS", "PrincipalFactors"]

# Uniquenesses, as shares of a feature's variance, before the first sweep and at least.
FIRST_UNIQUENESS, LEAST_UNIQUENESS = 0.5, 0.01
# Sweeps over the levels.  Where all blocks are formed a sweep costs next to nothing, and after so
# many uniquenesses hardly move any more; elsewhere EM gets further at the cost of more.
MANY_SWEEPS, SWEEPS = 20, 5
# Directions beyond its rank that a group is searched in, and products with its block before it gets
# its first factors: with one only, 5 of 8 trial fits ended at a lower maximum.
EXTRA, FIRST_PRODUCTS = 2, 3
# The blocks of a level are formed where they are as small as the directions, or where the cubes of
# their sizes add up to so little that their eigenvectors take a few milliseconds.
FEW = 2**20


class PrincipalFactors:
    """Principal factors of a covariance ``S = X Xᵀ``, X (n, k) in tree order, level by level.

    Let S_g be the block of a group, O_g what the factors of all other levels explain of it, and Ψ
    the uniquenesses.  The leading eigenpairs (λ, v) of ``Ψ^-½ (S_g - O_g) Ψ^-½`` give the group the
    factors ``Ψ^½ v √(λ - 1)``: for one level of one group those of the largest likelihood for this
    Ψ (D. Lawley, A. Maxwell, "Factor analysis as a statistical method", 1971).  What factors leave
    of the diagonal of S is the next Ψ.  Neither depends on the units of the features.

    Eigenpairs are exact where blocks are small; else they are sought in a few directions a group,
    by one product with the block a visit: ``4 n k (r_l + 2)`` flops for all groups of a level.
    """

    def __init__(self, X: FloatArray, hierarchy: Hierarchy, ranks: tuple[int, ...]):
        self.X, self.hierarchy, self.ranks = X, hierarchy, ranks
        self.usable = usable_columns(hierarchy, ranks)
        self.F = np.zeros((hierarchy.n, sum(ranks)), X.dtype)
        self.variance = np.einsum("ij,ij->i", X, X, dtype=float)
        self.psi = (FIRST_UNIQUENESS if any(ranks) else 1) * self.variance
        rng = np.random.default_rng(0)
        self.levels = [_Level(X, hierarchy, ranks, level, rng)
                       for level, r in enumerate(ranks) if r]

    def run(self) -> None:
        """Sweep over the levels from coarse to fine."""
        formed = all(level.is_formed for level in self.levels)
        for number in range(MANY_SWEEPS if formed else SWEEPS):
            for level in self.levels:
                self.visit(level, FIRST_PRODUCTS if number == 0 else 1)

    def visit(self, level: "_Level", n_products: int = 1) -> None:
        """Give a level its best factors, then all features their uniquenesses."""
        found = level.factors(self.F, self.psi, n_products)
        self.F[:, level.columns] = np.where(self.usable[:, level.columns], found, 0)
        left = self.variance - np.square(self.F).sum(axis=1, dtype=float)
        self.psi = np.clip(left, LEAST_UNIQUENESS * self.variance, self.variance)


class _Level:
    """The blocks of one level in batches of equal size, and directions to seek eigenvectors in."""

    def __init__(self, X: FloatArray, hierarchy: Hierarchy, ranks: tuple[int, ...], level: int,
                 rng: np.random.Generator):
        self.X, self.r = X, ranks[level]
        first = sum(ranks[:level])
        self.columns = slice(first, first + self.r)
        # To the blocks of a level, factors of coarser levels are as good as its own.
        self.tree = Hierarchy(range(hierarchy.n), hierarchy.boundaries[level:])
        self.other_ranks = (first, *ranks[level + 1 :])
        sizes = hierarchy.group_sizes(level)
        self.is_formed = float((sizes.astype(float) ** 3).sum()) <= FEW
        self.batches = list(hierarchy._equal_groups(level))
        # One a batch: the blocks X_g X_gᵀ (g, m, m), or directions Ψ^½ v (g, m, q), else None.
        self.formed: list[FloatArray | None] = []
        self.directions: list[FloatArray | None] = []
        for rows in self.batches:
            q = rows.shape[1] if self.is_formed else self.r + EXTRA
            x = _rows(X, rows)
            whole = rows.shape[1] <= q
            self.formed.append(np.matmul(x, x.swapaxes(1, 2)) if whole else None)
            self.directions.append(
                None if whole else rng.standard_normal((*rows.shape, q)).astype(X.dtype))
        self.width = max(rows.shape[1] if d is None else d.shape[2]
                         for rows, d in zip(self.batches, self.directions, strict=True))

    def factors(self, F: FloatArray, psi: FloatArray, n_products: int) -> FloatArray:
        """The level's best factors (n, r) next to those of the other levels in F."""
        root = np.sqrt(psi)[:, None].astype(self.X.dtype)
        others = np.delete(F, np.r_[self.columns], axis=1)
        explained = MLR.from_compact(self.tree, self.other_ranks, others, root[:, 0] ** 2,
                                     copy=False, check_finite=False)
        if all(d is None for d in self.directions):
            n_products = 1
        for _ in range(n_products):
            Q = self._bases(root)
            W = self._products(Q, root, explained)
            self.directions = [None if d is None else w * root[rows] for d, w, rows in zip(
                self.directions, W, self.batches, strict=True)]
        found = np.zeros((len(F), self.r), F.dtype)
        for rows, q, w in zip(self.batches, Q, W, strict=True):
            T = np.matmul(q.swapaxes(1, 2), w)
            values, P = np.linalg.eigh((T + T.swapaxes(1, 2)) / 2)
            lengths = np.sqrt(np.maximum(values[:, None, ::-1][:, :, : self.r] - 1, 0))
            best = np.matmul(q, P[:, :, ::-1][:, :, : self.r]) * lengths
            found[rows, : best.shape[2]] = best
        return found * root

    def _bases(self, root: FloatArray) -> list[FloatArray]:
        """Orthonormal directions (g, m, q) of every batch, in the metric of the moment."""
        return [np.broadcast_to(np.eye(m, dtype=root.dtype), (g, m, m)) if d is None
                else np.linalg.qr(d / root[rows])[0]
                for rows, d, (g, m) in ((rows, d, rows.shape) for rows, d in zip(
                    self.batches, self.directions, strict=True))]

    def _products(self, Q: list[FloatArray], root: FloatArray, explained: MLR
                 ) -> list[FloatArray]:
        """``Ψ^-½ (S_g - O_g) Ψ^-½ Q`` for every batch; `explained` is O_g + Ψ."""
        U = np.zeros((len(root), self.width), root.dtype)
        for rows, q in zip(self.batches, Q, strict=True):
            U[rows, : q.shape[2]] = q / root[rows]
        known, images = explained @ U, []
        for rows, q, block in zip(self.batches, Q, self.formed, strict=True):
            u = U[rows, : q.shape[2]]
            if block is None:
                x = _rows(self.X, rows)
                total = np.matmul(x, np.matmul(x.swapaxes(1, 2), u))
            else:
                total = np.matmul(block, u)
            images.append((total - known[rows, : q.shape[2]]) / root[rows] + q)
        return images


def _rows(X: FloatArray, rows: IntArray) -> FloatArray:
    """Rows (g, m) of X as (g, m, k): a view where they follow one another."""
    start, stop = int(rows[0, 0]), int(rows[-1, -1]) + 1
    if stop - start == rows.size and (np.diff(rows[:, 0]) == rows.shape[1]).all():
        return X[start:stop].reshape(*rows.shape, X.shape[1])
    return X[rows]
