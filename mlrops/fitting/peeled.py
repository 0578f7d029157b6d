"""An operator as sibling blocks, found by products with it alone, from the top level down.

What a group sees of siblings is taken as ``U Vᵀ``, U from products with random vectors that are
zero outside of those siblings.  One product serves all groups of a level: what coarser blocks add
to it is known and taken off.  Where groups have become so small that reading them costs no more
products than going on, their blocks are read in full by unit vectors, which all groups share.

L. Lin, J. Lu, L. Ying, "Fast construction of hierarchical matrix representation from matrix-vector
multiplication", Journal of Computational Physics 230 (2011), 4071-4087.
"""

from typing import NamedTuple

import numpy as np

from .blocks import DenseBlocks
from .residuals import VECTORS, multiply

__all__ = ["PeeledBlocks", "products_for"]

# Columns of a sibling block's U beyond the total rank R that is fitted are R, or so many.  On a
# radial kernel of 3000 points on a sphere, R = 28, the blocks were off by 0.5% with 10 more and by
# 0.12% with 28 more, where the best fit is by 1.8%; the products were 474 and 636.
OVERSAMPLING = 10
# Random products from which the error is estimated at the end.
TESTED = 32


class Piece(NamedTuple):
    """The block ``U Vᵀ`` of some rows and columns in tree order, slices."""

    rows: slice
    cols: slice
    U: np.ndarray
    V: np.ndarray


class PeeledBlocks(DenseBlocks):
    """Of an operator of shape ``pairs.shape``; `n_products` of its columns were needed.

    Sibling blocks have rank `rank` at most.
    """

    def __init__(self, A, pairs, dtype, symmetric, rank, rng):
        self._given, self._pairs, self._dtype = A, pairs, dtype
        self._symmetric, self._rng, self.n_products = symmetric, rng, 0
        cut = products_for(pairs, symmetric, rank)[1]
        self._pieces = []  # of the root of all, which is no level, and of the levels above the cut
        for level in range(-1, cut):
            self._pieces.append([])
            children = self._children(level)
            for slot in range(max(map(len, children)) - 1):
                self._pieces[-1] += self._peel(children, slot, rank)
        self._A = self._diagonal(cut)
        self._blocks = [self._of_level(level) if level >= cut else []
                        for level in range(pairs.n_levels)]
        self.squared_norm = self._A.squared_norm + sum(
            float(np.einsum("ij,ij->", p.U.T @ p.U, p.V.T @ p.V, dtype=np.float64))
            for level in self._pieces for p in level)

    def held_out(self, M, rng):
        """Relative error of an operator M to A itself, and its standard error.

        ``‖(A - M) ω‖²`` of a vector of independent random signs is ``‖A - M‖²`` on average.  It is
        None where A was read in full, so that blocks tell it.
        """
        if not any(self._pieces):
            return None, None
        signs = rng.choice((-1.0, 1.0), (M.shape[1], TESTED)).astype(self._dtype)
        gap = multiply(self._given, "matmat", signs, M.shape[0]) - M @ signs
        squares = np.einsum("ij,ij->j", gap, gap, dtype=np.float64) / self.squared_norm
        self.n_products += TESTED
        error = np.sqrt(squares.mean())
        se = squares.std(ddof=1) / np.sqrt(TESTED)
        return float(error), float(se / (2 * error)) if error > 0 else 0.0

    def _products(self, X, widths, transposed):
        Y = super()._products(X, widths, transposed)
        for width, pieces in zip(widths, self._pieces[1:], strict=False):
            self._add(Y[:, :width], X[:, :width], pieces, transposed)
        return Y

    def _children(self, level):
        if level >= 0:
            return super()._children(level)
        return [[(slice(*r), slice(*c)) for r, c in zip(*(
            np.stack([h.boundaries[0][:-1], h.boundaries[0][1:]], axis=1)
            for h in (self._pairs.rows, self._pairs.cols)), strict=True)]]

    def _add(self, Y, X, pieces, transposed, sign=1):
        for rows, cols, U, V in pieces:
            if transposed:
                rows, cols, U, V = cols, rows, V, U
            Y[rows] += sign * (U @ (V.T @ X[cols]))

    # ---------------------------------------------------------------- products with A

    def _multiply(self, X, transposed=False):
        """A X, or Aᵀ X, less what is known of A; X (n, k) and the product are in tree order."""
        here, there = self._pairs.cols, self._pairs.rows
        if transposed:
            here, there = there, here
        Y = np.empty((there.n, X.shape[1]), self._dtype)
        step = max(VECTORS // max(self._pairs.shape), 1)
        name = "rmatmat" if transposed and not self._symmetric else "matmat"
        for start in range(0, X.shape[1], step):
            part = slice(start, start + step)
            given = np.empty_like(X[:, part])
            given[here.permutation] = X[:, part]
            Y[:, part] = multiply(self._given, name, given, there.n)[there.permutation]
        self.n_products += X.shape[1]
        for pieces in self._pieces:
            self._add(Y, X, pieces, transposed, -1)
        return Y

    def _peel(self, children, slot, rank):
        """What one child of each group sees of the later ones, and they of it."""
        pairs = [(c[slot], (slice(c[slot][0].stop, c[-1][0].stop),
                            slice(c[slot][1].stop, c[-1][1].stop)))
                 for c in children if len(c) > slot + 1]
        found = self._low_rank([(r, c) for (r, _), (_, c) in pairs], rank)
        if self._symmetric:
            return found + [Piece(p.cols, p.rows, p.V, p.U) for p in found]
        return found + self._low_rank([(r, c) for (_, c), (r, _) in pairs], rank)

    def _low_rank(self, places, rank):
        """`Piece` of each block; no two have rows, or columns, of one child in common."""
        X = np.zeros((self._pairs.shape[1], rank), self._dtype)
        for _, cols in places:
            X[cols] = self._rng.standard_normal((cols.stop - cols.start, rank))
        Y = self._multiply(X)
        bases = [np.linalg.qr(Y[rows])[0] for rows, _ in places]
        X = np.zeros((self._pairs.shape[0], rank), self._dtype)
        for (rows, _), U in zip(places, bases, strict=True):
            X[rows, : U.shape[1]] = U
        Z = self._multiply(X, transposed=True)
        return [Piece(rows, cols, U, Z[cols, : U.shape[1]])
                for (rows, cols), U in zip(places, bases, strict=True)]

    def _diagonal(self, level):
        """The blocks of a level, in full."""
        rows, cols = (_bounds(h, level) for h in (self._pairs.rows, self._pairs.cols))
        sizes = np.diff(cols)
        blocks = [np.empty((m, n), self._dtype)
                  for m, n in zip(np.diff(rows), sizes, strict=True)]
        # What is not known of coarser blocks is not to add up in one direction.
        signs = self._rng.choice((-1.0, 1.0), sizes.size) if any(self._pieces) else [1.0]
        step = max(VECTORS // max(self._pairs.shape), 1)
        for start in range(0, int(sizes.max()), step):
            at = np.arange(start, min(start + step, int(sizes.max())))
            X = np.zeros((self._pairs.shape[1], at.size), self._dtype)
            for first, n, sign in zip(cols, sizes, signs, strict=False):
                own = at[at < n]
                X[first + own, own - start] = sign
            Y = self._multiply(X)
            for g, (block, sign) in enumerate(zip(blocks, signs, strict=True)):
                own = at[at < sizes[g]]
                block[:, own] = sign * Y[rows[g] : rows[g + 1], own - start]
        if self._symmetric:
            blocks = [(x + x.T) / 2 for x in blocks]
        return _Diagonal(blocks, rows[:-1], cols[:-1])


class _Diagonal:
    """Blocks on the diagonal, of which parts are taken as of the whole array."""

    def __init__(self, blocks, rows, cols):
        self._blocks, self._rows, self._cols = blocks, rows, cols
        self.dtype = blocks[0].dtype
        self.squared_norm = float(sum(
            np.einsum("ij,ij->", x, x, dtype=np.float64) for x in blocks))

    def __getitem__(self, places):
        rows, cols = places
        g = int(np.searchsorted(self._rows, rows.start, side="right")) - 1
        m, n = self._rows[g], self._cols[g]
        return self._blocks[g][rows.start - m : rows.stop - m, cols.start - n : cols.stop - n]


def _bounds(tree, level):
    """Boundaries of the groups of a level; before the first one is a root of all."""
    return tree.boundaries[level] if level >= 0 else np.array([0, tree.n])


def products_for(pairs, symmetric, rank):
    """The fewest products that find all blocks, and the level whose blocks are read in full.

    Level -1, all of the matrix, is the one where it costs no more.
    """
    ways, spent = [], 0
    for level in range(-1, pairs.n_levels):
        ways.append(spent + int(np.diff(_bounds(pairs.cols, level)).max()))
        if level + 1 < pairs.n_levels:
            inner, outer = (_bounds(pairs.rows, k) for k in (level + 1, level))
            slots = int(np.diff(np.searchsorted(inner, outer)).max()) - 1
            spent += slots * rank * (2 if symmetric else 4)
    best = int(np.argmin(ways))
    return ways[best], best - 1
