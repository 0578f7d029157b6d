"""Samples with missing cells where D is far below the variances: factors and means without loss.

What holds for complete samples, see `kernels.residual`, holds pattern by pattern.  The rows of
``D^{-1/2}F`` that are far longer than the others are left out of the Gram matrices and added to the
Cholesky factors by plane rotations, which lose nothing of either.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ... import kernels
from ..._common.typing import BoolArray, FloatArray, IntArray
from ...kernels import threads
from ...kernels.layout import Layout
from ...kernels.scratch import scratch
from ...operators.mlr import MLR
from .. import estep
from .patterns import Batch, Classes, Patterns, by_class, grams, products

__all__ = ["Exact", "LongRows", "correct", "has_long_rows", "hide", "long_rows", "own_blocks",
           "quads", "sweep"]


def has_long_rows(covariance: MLR) -> bool:
    """Whether D is so far below variances that the plain forms lose digits."""
    A = covariance
    return bool(A._layout.R and kernels.residual.long_rows(A._F, A._d, A._layout)[0].size)


class LongRows(NamedTuple):
    """The rows of D^{-1/2}F that are far longer than the others."""

    rows: IntArray  # (b,) in tree order
    leaves: IntArray  # (b,)
    classes: IntArray  # (b,)
    deviation: FloatArray  # (n,) roots of D
    seen: BoolArray  # (b, patterns) which patterns show them

    def among(self, patterns: Patterns) -> "LongRows":
        """The same among samples of these patterns."""
        return self._replace(seen=patterns.seen[self.classes])

    def add_to(self, K: FloatArray, leaves: Any, which: IntArray, A: MLR, fail: IntArray) -> bool:
        """Add them to the factors of a forest, of the patterns `which`; see `Leaves.factor`."""
        if self.rows.size:
            layout = A._layout
            estep._compiled_exact.add_rows(A._F, self.deviation, self.rows, self.leaves,
                                           layout.n_leaves, self.seen, which, leaves.tree, K)
            found = kernels.tree.broken(K, leaves.tree)
            if found is not None:
                fail[:] = found[0], found[1] % (int(layout.path[-1, found[0]]) + 1)
                return False
        return True

    def add_lengths(self, K: FloatArray, leaves: Any, which: IntArray, weights: FloatArray, A: MLR,
                    out: FloatArray) -> None:
        """out (b,) += ``Σ_p w_p f Cov_p fᵀ`` over the patterns `which` of a forest."""
        if self.rows.size:
            estep._compiled_exact.add_lengths(
                A._F, self.rows, self.leaves, A._layout.n_leaves, self.seen, which, weights,
                leaves.tree, K, out)


def long_rows(A: MLR, classes: Classes) -> tuple[LongRows, FloatArray]:
    """The long rows of an MLR, and the precisions of features with zeros in their places."""
    rows, leaves = kernels.residual.long_rows(A._F, A._d, A._layout)
    others = A._dinv.copy()
    others[rows] = 0
    of_rows = classes.spread(np.arange(classes.number))[rows]
    seen = np.zeros((rows.size, 0), bool)  # in no samples yet
    return LongRows(rows, leaves, of_rows, np.sqrt(A._d), seen), others


def hide(X, patterns, owner):
    """Set the missing cells of X (n, k) to zero; return X."""
    by_class(lambda lo, hi: estep._compiled_incomplete.hide(
        X, patterns.seen, patterns.rows, patterns.row_off, owner, lo, hi), patterns, X.size)
    return X


def own_blocks(layout: Layout) -> list[tuple[IntArray, slice]]:
    """(first leaves, columns) of the nodes of each level."""
    return [(layout.first_leaves[level][:-1], layout.columns(level)) for level in range(layout.L)]


def _squares(Z, layout):
    """``‖z‖²`` (k,) over all nodes."""
    out = np.zeros(Z.shape[2])
    for leaves, columns in own_blocks(layout):
        own = Z[leaves, columns]
        out += np.einsum("grk,grk->k", own, own, dtype=np.float64)
    return out


def correct(A: MLR, patterns: Patterns, owner: IntArray, X: FloatArray, Z: FloatArray,
            solve: Callable[[FloatArray], object]) -> tuple[FloatArray, FloatArray]:
    """Correct the means Z (leaves, R, k) of samples X (n, k), 0 at missing cells.

    ``solve(T)`` puts the means along paths in place of leaf products T; owner[c], increasing, is
    the pattern of column c.  Returns the residuals ``x - F z`` (n, k), 0 where cells are missing,
    and ‖z‖², (k,).
    """
    layout, ones = A._layout, np.ones_like(A._d)
    E, T, previous = np.empty_like(X), np.empty_like(Z), np.inf
    for number in range(kernels.residual.CORRECTIONS + 1):
        kernels.leaf.dot(A._F, Z, X, ones, layout, 0, layout.n_leaves, E, sign=-1.0)
        hide(E, patterns, owner)
        squares = _squares(Z, layout)
        if number == kernels.residual.CORRECTIONS or previous <= kernels.residual.LAST:
            break
        kernels.leaf.tdot(A._F, E, layout, 0, layout.n_leaves, A._dinv, T)
        for leaves, columns in own_blocks(layout):
            T[leaves, columns] -= Z[leaves, columns]
        gap = T.copy()
        solve(T)
        gained = np.einsum("qrk,qrk->k", gap, T, dtype=np.float64)
        share = gained / np.maximum(quads(A, E, squares), np.finfo(float).tiny)
        size = float(share[np.isfinite(share)].max(initial=0.0))  # whatever other samples hold
        if not size < previous:  # nothing but rounding is left
            break
        previous = size
        Z += T
    return E, squares


def quads(A: MLR, E: FloatArray, squares: FloatArray) -> FloatArray:
    """``‖D^{-1/2} e‖² + ‖z‖²`` of each sample, (k,) float64."""
    return np.einsum("ik,ik,i->k", E, E, A._dinv, dtype=np.float64) + squares


class Exact:
    """The E-step of a `Batch` of k samples without loss.

    Z (leaves, R, k) are the posterior means along paths, E (n, k) residuals, 0 at missing cells,
    squares (k,) is ‖z‖² over all nodes, logdet (patterns,) log det P.
    """

    def __init__(self, covariance: MLR, long: LongRows, outer: FloatArray, batch: Batch):
        A = covariance
        self._sigma, self._long, self._batch = A, long, batch
        layout, (p0, p1, starts) = A._layout, batch.shown
        self._first, self.logdet = p0, np.empty(p1 - p0)
        self._sets = [(which, starts[which], estep.forest.Forest(layout, which.size), k)
                      for which, k in estep.forest.equals(starts, 0, p1 - p0, layout)]
        self._K = [np.zeros((trees.s, layout.R), A.dtype) for _, _, trees, _ in self._sets]
        self._factor(grams(outer, batch.patterns, p0, p1))
        self.Z = kernels.leaf.tdot(A._F, batch.X, layout, 0, layout.n_leaves, A._dinv)
        self._solve(self.Z)
        owner = np.repeat(np.arange(p0, p1), np.diff(starts))
        self.E, self.squares = correct(A, batch.patterns, owner, batch.X, self.Z, self._solve)

    def _each(self, task: Callable[[FloatArray, Any, IntArray, IntArray], object], width: int = -1
              ) -> None:
        """Call ``task(K, leaves, which, columns)`` for each set of patterns swept together."""
        def run(lo, hi):
            for (which, columns, trees, k), K in zip(
                    self._sets[lo:hi], self._K[lo:hi], strict=True):
                leaves = trees.leaves(np.arange(which.size), k if width < 0 else width)
                task(K, leaves, which, columns)

        rows = sum(len(K) for K in self._K)
        threads.run(run, np.arange(len(self._sets) + 1), 0, len(self._sets),
                    rows * self._sigma._layout.R**2)

    def _factor(self, G):
        fail = np.full(2, -1, np.int64)

        def task(K, leaves, which, columns):
            trees = estep.forest.Forest(leaves.layout, which.size)
            if leaves.factor(estep.forest.unpack(G, which), K, fail) and self._long.add_to(
                    K, leaves, self._first + which, self._sigma, fail):
                self.logdet[which] = trees.logdet(K)

        self._each(task, 0)
        if fail[0] >= 0:
            raise self._sigma._breakdown(int(fail[0]), int(fail[1]))

    def _solve(self, T):
        def task(K, leaves, which, columns):
            W = scratch("W", (len(K), leaves.k), K.dtype)
            leaves.up(estep.forest.take(T, columns), K, W)
            leaves.down(estep.forest.give(T, columns), K, W)

        self._each(task)

    def quads(self) -> FloatArray:
        """``xᵀ Σ_OO⁻¹ x`` of each sample, (k,)."""
        return quads(self._sigma, self.E, self.squares)

    def covariances(self, weights: FloatArray) -> FloatArray:
        """(leaves, patterns, R (R + 1) / 2): weights[p] times those along the paths."""
        A, layout = self._sigma, self._sigma._layout
        shape = layout.n_leaves, self.logdet.size, layout.R * (layout.R + 1) // 2
        S, none = scratch("covariances of patterns", shape, A.dtype), np.empty(0, A.dtype)

        def task(K, leaves, which, columns):
            leaves.down(lambda a, b, T, cov: estep._compiled_incomplete.pack_moments(
                cov, weights, T, none, which, which, a, b, S), K,
                np.empty((len(K), 0), A.dtype), covariance=True)

        self._each(task, 0)
        return S

    def add_lengths(self, weights: FloatArray, out: FloatArray) -> None:
        """out (b,) += ``Σ_p weights[p] f Cov_p fᵀ`` of the long rows."""
        for (which, _, trees, _), K in zip(self._sets, self._K, strict=True):
            leaves = trees.leaves(np.arange(which.size), 0)
            self._long.add_lengths(
                K, leaves, self._first + which, weights[which], self._sigma, out)

    def second_moments(self) -> FloatArray:
        """(leaves, patterns, (R + 1)(R + 2) / 2): sums of ``(z, √w)(z, √w)ᵀ``, packed."""
        Z, (p0, p1, starts) = self.Z, self._batch.shown
        n_leaves, R, k = Z.shape
        S = scratch("moments of patterns", (n_leaves, p1 - p0, (R + 1) * (R + 2) // 2), Z.dtype)
        threads.run(lambda lo, hi: estep._compiled_exact.second_moments(
            Z, self._batch.roots, starts, lo, hi, S), np.arange(n_leaves + 1), 0, n_leaves,
            n_leaves * k * (R + 1) ** 2 // 2)
        return S


def sweep(covariance: MLR, classes: Classes, batches: Iterable[Batch]
          ) -> Iterator[tuple[Batch, Exact]]:
    """Yield (batch, its `Exact`), good until the next one."""
    long, others = long_rows(covariance, classes)
    outer, patterns = products(covariance._F, others, classes), None
    for batch in batches:
        if batch.patterns is not patterns:
            patterns = batch.patterns
            long = long.among(patterns)
        yield batch, Exact(covariance, long, outer, batch)
