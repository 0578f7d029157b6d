"""Sweeps of the tree for many patterns at once: their trees, side by side, are one tree.

Node rows of a forest lie level by level, and within a level tree by tree, so that the sweeps of
`kernels` serve it as they are.  Few trees at a time: what a sweep leaves should be in cache for the
next one.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ..._common.typing import FloatArray, IntArray
from ...kernels import _compiled_posterior, _compiled_sweeps
from ...kernels.layout import CACHE_ITEMS, Layout, blocks
from ...kernels.parts import NOTHING_ABOVE
from ...kernels.scratch import scratch
from . import _compiled_incomplete as _loops

__all__ = ["Forest", "Leaves", "equals", "give", "take", "unpack"]


def equals(starts: IntArray, lo: int, hi: int, layout: Layout) -> Iterator[tuple[IntArray, int]]:
    """Yield (which, k): sets of the patterns lo:hi with k samples each, few enough for a cache.

    Pattern p has the samples starts[p]:starts[p + 1].
    """
    counts = np.diff(starts[lo : hi + 1])
    for k in np.unique(counts):
        which = lo + np.flatnonzero(counts == k)
        for a, b in blocks(0, which.size, _items(layout, int(k)) * layout.n_leaves, CACHE_ITEMS):
            yield which[a:b], int(k)


def _items(layout, k):
    """Numbers in the temporaries of a leaf, for k samples."""
    return layout.R * max(layout.R, k)


class Forest(NamedTuple):
    """`copies` trees of one layout."""

    layout: Layout
    copies: int

    @property
    def s(self) -> int:
        """Number of node rows."""
        return self.copies * self.layout.s

    def leaves(self, which: IntArray, k: int) -> "Leaves":
        """The leaves of the trees `which`, increasing, for sweeps over k samples a tree."""
        layout = self.layout
        path = layout.path + which[:, None, None] * (layout.path[-1] + 1)  # groups are counted on
        tree = path.reshape(-1, layout.L), layout.cols, self.copies * layout.zoff
        return Leaves(layout, tree, np.append(np.tile(layout.begins[:-1], which.size), 0), k)

    def by_tree(self, rows: FloatArray) -> Iterator[tuple[int, FloatArray]]:
        """Yield (l, rows of level l), a view (copies, p_l r_l, …) of node rows."""
        layout, at = self.layout, self.copies * self.layout.zoff
        for level in range(layout.L):
            if at[level] < at[level + 1]:
                part = rows[at[level] : at[level + 1]]
                yield level, part.reshape(self.copies, -1, *rows.shape[1:])

    def logdet(self, K: FloatArray) -> FloatArray:
        """``2 Σ log diag C`` of each tree, (copies,) float64."""
        out, cols = np.zeros(self.copies), self.layout.cols
        for level, rows in self.by_tree(K):
            r = int(cols[level + 1] - cols[level])
            nodes = rows.reshape(self.copies, -1, r, self.layout.R)
            own = nodes[..., cols[level] : cols[level + 1]]
            pivots = np.einsum("tgii->tgi", own).reshape(self.copies, -1)
            out += np.log(pivots, dtype=float).sum(axis=1)
        return 2 * out

    def squares(self, W: FloatArray) -> FloatArray:
        """``‖w‖²`` of each tree and sample over its node rows, (copies, k) float64."""
        out = np.zeros((self.copies, W.shape[1]))
        for _, rows in self.by_tree(W):
            out += np.einsum("tik,tik->tk", rows, rows, dtype=float)
        return out


class Leaves(NamedTuple):
    """Leaves of some trees of a forest, from left to right, and sweeps over them."""

    layout: Layout
    tree: tuple[IntArray, IntArray, IntArray]  # see `Layout.tree`
    begins: IntArray  # see `Layout.begins`
    k: int  # samples a tree

    def _blocks(self):
        n_leaves = self.tree[0].shape[0]
        return blocks(0, n_leaves, _items(self.layout, self.k), CACHE_ITEMS)

    def _passed(self, dtype, *width):
        """Room for what roots pass up, which is nothing, and for their sums."""
        roots = int(self.tree[0][-1, 0]) + 1
        return np.empty((roots, 0, *width), dtype), np.zeros((roots, 1 + self.k))

    def factor(self, gram: Callable[[int, int, FloatArray], object], K: FloatArray, fail: IntArray
               ) -> bool:
        """Fill K with the factors of the trees; False after a bad pivot, `fail` = (level, group).

        ``gram(a, b, G)`` writes the Gram matrices of the leaves a:b to G (b - a, R, R).
        """
        R, dtype = self.layout.R, K.dtype
        L, roots, found = self.layout.L, int(self.tree[0][-1, 0]) + 1, np.full(2, -1, np.int64)
        stack, plain = np.zeros((L, R, R), dtype), np.zeros((L, R), dtype)
        ridge, sizes, losses = np.ones(len(K), dtype), np.empty(len(K), dtype), np.zeros((roots, 2))
        passed = np.empty((roots, 0, 0), dtype), np.empty((roots, 0), dtype), np.zeros((roots, 1))
        nothing = np.empty((0, 0), dtype)
        for a, b in self._blocks():
            G = scratch("G", (b - a, R, R), dtype)
            gram(a, b, G)
            _compiled_sweeps.sweep_factor(
                nothing, nothing.reshape(0), G, nothing, ridge, a, b, self.begins, self.begins,
                self.tree, 0, stack, plain, K, sizes, *passed, losses, found)
            if found[0] >= 0:
                level, group = (int(i) for i in found)
                fail[:] = level, group % (int(self.layout.path[-1, level]) + 1)
                return False
        return True

    def up(self, product: Callable[[int, int, FloatArray], object], K: FloatArray, W: FloatArray
           ) -> None:
        """W (s, k) = ``Λ⁻¹ t``, bottom up; ``product(a, b, T)`` writes t of the leaves a:b to T."""
        R, dtype = self.layout.R, K.dtype
        stack, passed = np.zeros((self.layout.L, R, self.k), dtype), self._passed(dtype, self.k)
        for a, b in self._blocks():
            T = scratch("T", (b - a, R, self.k), dtype)
            product(a, b, T)
            _compiled_sweeps.sweep_up(
                T, a, b, self.begins, self.tree, K, 0, stack, W, *passed)

    def down(self, use: Callable[..., object], K: FloatArray, W: FloatArray,
             covariance: bool = False) -> None:
        """``Λ⁻ᵀ W``, top down, in place; ``use(a, b, Z)`` is given the paths of the leaves a:b.

        With `covariance` also (b - a, R, R), the covariances of the factors along these paths.
        """
        R, dtype = self.layout.R, K.dtype
        means, cov = np.zeros((R, self.k), dtype), np.zeros((R, R), dtype)
        nothing = np.empty((1, 0, self.k), dtype), np.zeros(self.tree[0][-1, 0] + 1, np.int64)
        for a, b in self._blocks():
            found: list[Any] = [scratch("T", (b - a, R, self.k), dtype)]
            _compiled_sweeps.sweep_down(
                W, a, b, self.begins, self.tree, K, 0, *nothing, means, *found)
            if covariance:
                found.append(scratch("G", (b - a, R, R), dtype))
                _compiled_posterior.sweep_covariance(0, a, b, self.tree, K, *NOTHING_ABOVE, cov,
                                                     found[1])
            use(a, b, *found)


# ------------------------------------------------------------------ to and from arrays of patterns


def unpack(G: FloatArray, which: IntArray) -> Callable[[int, int, FloatArray], object]:
    """`gram` of `Leaves.factor`, from packed Gram matrices (leaves, patterns, R (R + 1) / 2)."""
    return lambda a, b, A: _loops.unpack(G, which, a, b, A)


def take(Z: FloatArray, columns: IntArray) -> Callable[[int, int, FloatArray], object]:
    """`product` of `Leaves.up` from Z (leaves, R, samples); a tree's first sample is in columns."""
    return lambda a, b, T: _loops.take(Z, columns, a, b, T)


def give(Z: FloatArray, columns: IntArray) -> Callable[[int, int, FloatArray], object]:
    """`use` of `Leaves.down` that puts what it is given into Z; compare `take`."""
    return lambda a, b, T: _loops.give(T, columns, a, b, Z)
