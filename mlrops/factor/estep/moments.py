"""EM on samples that come in blocks: the moments that the M-step needs, on plain arrays.

A block of samples X (n, k) adds to ``V = Σ x_i z_pathᵀ``, (n, R) like the factors F, and to
``S = Σ z_own z_pathᵀ``, (s, R) like the factor K of `tree.factor`: row by row the lower triangle of
the second moments of a node's factors with those of its ancestors.  Neither grows with the samples.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ..._common.typing import FloatArray
from ...kernels import _compiled_posterior, residual, threads
from ...kernels.layout import PIECE_ROWS, Layout, blocks
from ...kernels.leaf import each, tdot
from ...kernels.parts import NOTHING_ABOVE
from ...kernels.scratch import scratch
from ...kernels.tree import each_leaf, moment_stacks, project, project_with, spread_with
from ...operators.mlr import MLR
from . import _compiled_moments as _loops

__all__ = ["CentredBlock", "DenseBlock", "SparseBlock", "SparseRows", "accumulate",
           "accumulate_sparse", "accumulate_split", "describe", "load", "share_rows",
           "sketch_sparse", "subtract_mean", "times_moments"]


def share_rows(kernel: Callable[[int, int], None], n: int, work: int) -> None:
    """Run a kernel of rows ``lo:hi`` on all of them."""
    threads.run(kernel, np.arange(n + 1), 0, n, work)


def load(Y, place, mean, scale, root_weight, at, X):
    """Samples Y (m, n) into the columns ``at, …, at + m - 1`` of X (n, k).

    Feature i goes to row ``p = place_i``, ``X[p] = scale_p (Y[:, i] - mean_p) root_weight``.
    """
    share_rows(lambda lo, hi: _loops.rows_load(Y, place, mean, scale, root_weight, at, lo, hi, X),
                X.shape[0], 4 * Y.size)


def describe(X, weight, seen, cells, mean, squares, low, high):
    """Merge samples X (n, k), weight (m ≤ k,), into what is known of each feature, (n,) each.

    Of its observed cells: their weight and their number, mean, squared deviations and range.
    """
    total = float(weight.sum())
    share_rows(lambda lo, hi: _loops.rows_describe(
        X, weight, total, lo, hi, seen, cells, mean, squares, low, high),
        X.shape[0], 3 * X.shape[0] * weight.size)


# ------------------------------------------------------------------ leaf products


def _add_outer(X, Z, layout, lo, hi, V):
    """``V_leaf += X_leaf Zᵀ`` on the rows of leaves lo:hi, Z (leaves, R, k)."""
    k, R = X.shape[1], V.shape[1]

    def large(q, rows):
        part = scratch("product", (R, rows.stop - rows.start), V.dtype)
        V[rows] += np.matmul(Z[q - lo], X[rows].T, out=part).T  # BLAS prefers Z on the left

    each(layout, lo, hi, k, lambda i, j: _loops.rows_outer(X, Z, layout.leaf_off, lo, i, j, V),
         large, R * k)


# ------------------------------------------------------------------ E-step, block by block


def _collect(W, K, layout, outer, S):
    """From the upward sweep's W: finish the means, add to S, call ``outer(lo, hi, Z)``; Σ w²."""
    quad = float(np.einsum("sk,sk->", W, W, dtype=np.float64))

    def use(lo, hi, Z):
        _loops.sweep_moments(Z, lo, hi, layout.tree, S)
        outer(lo, hi, Z)

    spread_with(W, K, layout, use)
    return quad


def accumulate(F, K, P, layout, V, S):
    """Add samples, given as ``P = D⁻¹ x`` (n, k): ``V += P z_pathᵀ``, S; returns ``Σ ‖w‖²``."""
    W = project(F, P, None, K, layout)
    return _collect(W, K, layout, lambda lo, hi, Z: _add_outer(P, Z, layout, lo, hi, V), S)


class DenseBlock(NamedTuple):
    """Samples X (n, k) of a block, centred and weighted."""

    X: np.ndarray

    def sums(self, A: MLR, scale: FloatArray) -> FloatArray:
        """``F_spreadᵀ diag(scale) X``, node rows (s, k)."""
        return project(A._F, self.X, scale, None, A._layout)

    def rows(self, which: np.ndarray) -> FloatArray:
        """Some rows of X."""
        return self.X[which]

    def outer(self, lo: int, hi: int, Z: FloatArray, layout: Layout, V: FloatArray) -> None:
        """``V_leaf += X_leaf Zᵀ`` on leaves lo:hi; `rows` and `sums` are not asked for after it."""
        _add_outer(self.X, Z, layout, lo, hi, V)


def accumulate_split(A: MLR, split: residual.Split, block: Any, V: FloatArray, S: FloatArray,
                     U: FloatArray, squares: FloatArray) -> float:
    """Add the samples of a block: ``V += x z_pathᵀ``, S, and of residuals U (b, R), squares (b,).

    Returns ``Σ xᵀΣ⁻¹x`` without ``Σ x²/D`` of the other rows; see `kernels.residual.Split`.
    """
    layout, X = A._layout, block.rows(split.rows)
    W, E, quad = split.means(A._factor.K, block.sums(A, split.others), X)

    def use(lo, hi, Z):
        _loops.sweep_moments(Z, lo, hi, layout.tree, S)
        block.outer(lo, hi, Z, layout, V)

    spread_with(W, None, layout, use)
    _add_outer(E, split.paths(W), split.layout, 0, split.layout.n_leaves, U)
    squares += np.einsum("ik,ik->i", E, E, dtype=np.float64)
    return quad


def times_moments(X: FloatArray, A: MLR, S: FloatArray, n_samples: float, out: FloatArray,
                  invert: bool, ridge: float = 0.0) -> FloatArray:
    """``out_leaf = X_leaf M`` for X (n, R), M (R, R) along the path of a leaf; returns out.

    M is ``W / N``, ``W = N Cov + Σ z zᵀ + ridge I`` under the covariance A, or ``W⁻¹`` if `invert`.
    """
    layout, dtype = A._layout, S.dtype
    R, K = layout.R, A._factor.K if layout.R else None

    def task(start, stop, limit):
        cov_stack, stacks = moment_stacks(layout, dtype)
        for lo, hi in blocks(start, stop, R * R, limit):
            M, Winv = scratch("G", (2, hi - lo, R, R), dtype)
            _compiled_posterior.sweep_covariance(start, lo, hi, layout.tree, K, *NOTHING_ABOVE,
                                                 cov_stack, M)
            _loops.add_moments(S, lo, hi, layout.tree, n_samples, M)
            if ridge:
                np.einsum("qii->qi", M)[...] += ridge / n_samples
            if invert:
                _compiled_posterior.sweep_second_moments(
                    M, np.empty((hi - lo, R, 0), dtype), start, lo, hi, layout.tree, n_samples,
                    stacks, M[:0], Winv)
            times(Winv if invert else M, lo, hi)

    def times(M, lo, hi):
        each(layout, lo, hi, R,
             lambda i, j: _loops.rows_right(X, M, layout.leaf_off, lo, i, j, out),
             lambda q, rows: np.matmul(X[rows], M[q - lo], out=out[rows]), R * R)

    if R:
        each_leaf(task, layout, R)
    return out


# ------------------------------------------------------------------ sparse samples


class SparseRows(NamedTuple):
    """Samples (n, N) in compressed rows, columns sorted."""

    values: np.ndarray  # (nnz,)
    columns: np.ndarray  # (nnz,)
    offsets: np.ndarray  # (n + 1,)
    root_weight: np.ndarray  # (N,) what the mean of a sample is multiplied by

    def blocks(self, width: int) -> Iterator["SparseBlock"]:
        """Blocks of at most `width` samples that cover them, from left to right."""
        at, N = self.offsets[:-1].copy(), self.root_weight.size
        for start in range(0, N, width):
            yield SparseBlock(self, start, min(start + width, N), at)

    def work(self, rows: int, k: int, R: int) -> int:
        """Multiply-adds of a product of some rows and k columns with R columns, and the rows."""
        nnz, n, N = self.values.size, self.offsets.size - 1, self.root_weight.size
        return int(rows * (1 + nnz / n * k / N * R))


class SparseBlock(NamedTuple):
    """The samples start:stop of A; blocks are taken from left to right."""

    A: SparseRows
    start: int
    stop: int
    at: np.ndarray  # (n,) the first entry of every row that no earlier block had; moves on

    @property
    def entries(self) -> tuple[Any, ...]:
        """What the loops over the entries of a block ask of it."""
        A = self.A
        return A.values, A.columns, self.at, A.offsets[1:], self.start, self.stop

    @property
    def root_weight(self) -> np.ndarray:
        """Roots of the weights of these samples."""
        return self.A.root_weight[self.start : self.stop]


def _sparse_tdot(F, dinv, block, shift, layout, lo, hi, T):
    """``F_leafᵀ D⁻¹ (A - mean root_weightᵀ)`` of the leaves lo:hi and the samples of a block."""
    pa, pb = int(layout.first_piece[lo]), int(layout.first_piece[hi])
    R, k = T.shape[1:]
    whole = pb - pa == hi - lo
    P = T if whole else np.empty((pb - pa, R, k), F.dtype)
    off = layout.piece_off[pa : pb + 1]
    entries = block.entries
    threads.run(lambda i, j: _loops.sparse_tdot(F, dinv, entries, off, i, j, P),
                off, 0, pb - pa, block.A.work(int(off[-1] - off[0]), k, R))
    if not whole:
        np.add.reduceat(P, layout.first_piece[lo:hi] - pa, axis=0, out=T)
    _loops.subtract_shift(T, shift[lo:hi], block.root_weight)


def _sparse_outer(block, Z, owner, first, off, V):
    """``V += A Zᵀ`` on pieces of rows, for a block and Z (leaves, R, k); moves the block on."""
    entries, k = block.entries, block.stop - block.start
    threads.run(lambda i, j: _loops.sparse_outer(entries, Z, owner, first, off, i, j, V),
                off, 0, off.size - 1, block.A.work(int(off[-1] - off[0]), k, V.shape[1]))


def accumulate_sparse(F, dinv, K, block, shift, layout, V, S, totals):
    """Add the samples of a block: V (without the mean's part), S and `totals`; ``Σ ‖w‖²``.

    shift (n_leaves, R, 1) is ``F_leafᵀ D⁻¹ mean``; totals (s,) sums ``root_weight z``.
    """
    def outer(lo, hi, Z):
        _outer_of_leaves(block, lo, hi, Z, layout, V)

    W = project_with(lambda lo, hi, T: _sparse_tdot(F, dinv, block, shift, layout, lo, hi, T),
                 block.stop - block.start, F.dtype, K, layout)
    quad = _collect(W, K, layout, outer, S)
    totals += W @ block.root_weight
    return quad


class CentredBlock(NamedTuple):
    """A block of sparse samples less ``mean root_weightᵀ``, as a `DenseBlock`."""

    block: SparseBlock
    mean: np.ndarray  # (n,)

    def sums(self, A: MLR, scale: FloatArray) -> FloatArray:
        layout, block = A._layout, self.block
        shift = tdot(A._F, self.mean[:, None], layout, 0, layout.n_leaves, scale)
        return project_with(
            lambda lo, hi, T: _sparse_tdot(A._F, scale, block, shift, layout, lo, hi, T),
            block.stop - block.start, A.dtype, None, layout)

    def rows(self, which: np.ndarray) -> FloatArray:
        block = self.block
        X = -self.mean[which][:, None] * block.root_weight
        _loops.sparse_rows(block.entries, which, X)
        return X

    def outer(self, lo: int, hi: int, Z: FloatArray, layout: Layout, V: FloatArray) -> None:
        _outer_of_leaves(self.block, lo, hi, Z, layout, V)
        _subtract_rank_one(self.mean, Z @ self.block.root_weight[:, None], layout, lo, hi, V)


def _outer_of_leaves(block, lo, hi, Z, layout, V):
    pieces = slice(int(layout.first_piece[lo]), int(layout.first_piece[hi]))
    _sparse_outer(block, Z, layout.piece_leaf[pieces], lo,
                  layout.piece_off[pieces.start : pieces.stop + 1], V)


def _subtract_rank_one(mean, Z, layout, lo, hi, V):
    off = layout.leaf_off
    threads.run(lambda i, j: _loops.rows_rank_one(V, mean, Z, off, lo, i, j),
                off, lo, hi, int(off[hi] - off[lo]) * V.shape[1])


def subtract_mean(V, mean, totals, layout):
    """``V_i -= mean_i Σ root_weight z_pathᵀ``: what `accumulate_sparse` left out."""
    def use(lo, hi, Z):
        _subtract_rank_one(mean, Z, layout, lo, hi, V)

    spread_with(np.ascontiguousarray(totals[:, None]), None, layout, use)


def sketch_sparse(block, draws, out):
    """``out += A draws`` for the samples of a block, draws (k, width); moves the block on."""
    off = np.append(np.arange(0, out.shape[0], PIECE_ROWS), out.shape[0])
    factors = np.ascontiguousarray(draws.T)[None]
    _sparse_outer(block, factors, np.zeros(off.size - 1, np.int64), 0, off, out)
