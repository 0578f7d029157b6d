"""Samples with missing cells where D is far below the variances: factors and means without loss.

What holds for complete samples, see `kernels.residual`, holds pattern by pattern.  The rows of
``D^{-1/2}F`` that are far longer than the others are left out of the Gram matrices and added to the
Cholesky factors by plane rotations, which lose nothing of either.
"""

from typing import NamedTuple

import numpy as np

from ... import kernels
from ..._common.typing import BoolArray, FloatArray, IntArray
from ...kernels import threads
from ...kernels.layout import CACHE_ITEMS, Layout
from ...kernels.scratch import scratch
from ...operators.mlr import MLR
from .. import estep
from .patterns import Batch, Patterns, by_class, grams, products

__all__ = ["Exact", "Factors", "correct", "hide", "leaves_at_once", "loses_digits",
           "means_of", "path_covariances", "quads", "second_moments", "sweep"]


def loses_digits(covariance: MLR, variance: FloatArray | None = None) -> bool:
    """Whether D is so far below the variances, those of the model or given, that digits get lost.
    """
    A = covariance
    variances = A._variances if variance is None else np.maximum(A._variances, variance)
    return bool(A._layout.R) and kernels.residual.loses_digits(variances, A._d)


class LongRows(NamedTuple):
    """The rows of D^{-1/2}F that are far longer than the others."""

    rows: IntArray  # (b,) in tree order
    leaves: IntArray  # (b,)
    seen: BoolArray  # (b, patterns)


class Factors:
    """The factors of ``P = I + FᵀD⁻¹F`` of patterns, from the rows that each of them sees."""

    def __init__(self, covariance: MLR, patterns: Patterns):
        A, layout = covariance, covariance._layout
        self._sigma, self._patterns = A, patterns
        rows, leaves = kernels.residual.long_rows(A._F, A._d, layout)
        cls = np.empty(layout.n, np.int64)
        cls[patterns.rows] = np.repeat(np.arange(patterns.sizes.size), patterns.sizes)
        self.long = LongRows(rows, leaves, patterns.seen[cls[rows]])
        others = A._dinv.copy()
        others[rows] = 0
        self.outer = products(A._F, others, patterns)

    def fill(self, p0: int, p1: int, K: FloatArray, logs: FloatArray) -> None:
        """K (p1 - p0, s, R) and log det P (p1 - p0,) of the patterns p0:p1."""
        A, layout, long = self._sigma, self._sigma._layout, self.long
        fail, ridge, R = np.full(2, -1, np.int64), np.ones(layout.s, A.dtype), layout.R
        G, step = grams(self.outer, self._patterns, p0, p1), leaves_at_once(layout, R)
        work, every = (p1 - p0) * layout.s * R * R, np.arange(p1 - p0 + 1)
        threads.run(lambda lo, hi: estep._compiled_incomplete.factor_patterns(
            G, ridge, layout.tree, step, lo, hi, K, logs, fail), every, 0, p1 - p0, work)
        if fail[0] >= 0:
            raise A._breakdown(int(fail[0]), int(fail[1]))
        if long.rows.size:
            deviation = np.sqrt(A._d)
            threads.run(lambda lo, hi: estep._compiled_exact.add_rows(
                A._F, deviation, long.rows, long.leaves, long.seen, p0, layout.tree, lo, hi, K,
                logs), every, 0, p1 - p0, (p1 - p0) * long.rows.size * R * R)
            found = kernels.residual.broken(K[int(np.argmin(np.isfinite(logs)))], layout)
            if found is not None:
                raise A._breakdown(*found)

    def add_lengths(self, p0: int, weights: FloatArray, K: FloatArray, out: FloatArray) -> None:
        """out (b,) += ``Σ_p w_p f Cov_p fᵀ`` of the long rows, over patterns from p0 on."""
        A, long = self._sigma, self.long
        threads.run(lambda lo, hi: estep._compiled_exact.add_lengths(
            A._F, long.rows, long.leaves, long.seen, p0, weights, A._layout.tree, K, lo, hi, out),
            np.arange(out.size + 1), 0, out.size, out.size * weights.size * A._layout.R**2)


def leaves_at_once(layout, columns):
    """Leaves whose blocks (R, columns) stay in cache between two sweeps."""
    return min(layout.n_leaves, max(1, CACHE_ITEMS // (layout.R * max(layout.R, columns))))


def hide(X, patterns, owner):
    """Set the missing cells of X (n, k) to zero; return X."""
    by_class(lambda lo, hi: estep._compiled_incomplete.hide(
        X, patterns.seen, patterns.rows, patterns.row_off, owner, lo, hi), patterns, X.size)
    return X


def means_of(T: FloatArray, K: FloatArray, owner: IntArray, layout: Layout
             ) -> FloatArray:
    """``P⁻¹ t`` along the paths, in place of the leaf products T (leaves, R, k); ‖·‖², (k,).

    owner[c], increasing, says which of the factors K is that of column c.
    """
    k, R, squares = T.shape[2], layout.R, np.empty(T.shape[2])
    starts = np.concatenate([[0], np.flatnonzero(np.diff(owner)) + 1, [k]])
    step = leaves_at_once(layout, int(np.diff(starts).max()))
    threads.run(lambda lo, hi: estep._compiled_incomplete.solve_patterns(
        T, K, owner, starts, layout.tree, step, lo, hi, squares),
        starts, 0, starts.size - 1, 2 * k * (layout.s + layout.n_leaves) * R)
    return squares


def _own(layout):
    """(first leaves, columns) of the nodes of each level."""
    return [(np.flatnonzero(np.diff(layout.path[:, level], prepend=-1)),
             slice(int(layout.cols[level]), int(layout.cols[level + 1])))
            for level in range(layout.L)]


def _squares(Z, layout):
    """``‖z‖²`` (k,) over all nodes."""
    out = np.zeros(Z.shape[2])
    for leaves, columns in _own(layout):
        own = Z[leaves, columns]
        out += np.einsum("grk,grk->k", own, own, dtype=np.float64)
    return out


def correct(A: MLR, patterns: Patterns, owner: IntArray, X: FloatArray, K: FloatArray,
            Z: FloatArray, first: int = 0) -> tuple[FloatArray, FloatArray]:
    """Correct the means Z (leaves, R, k) of samples X (n, k), 0 at missing cells.

    Returns the residuals ``x - F z`` (n, k), 0 there, and ‖z‖², (k,).  owner[c], increasing, is the
    pattern of column c, and K[owner[c] - first] its factor.
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
        for leaves, columns in _own(layout):
            T[leaves, columns] -= Z[leaves, columns]
        gap = T.copy()
        means_of(T, K, owner - first, layout)
        gained = np.einsum("qrk,qrk->k", gap, T, dtype=np.float64)
        quad = quads(A, E, squares)
        size = float((gained / np.maximum(quad, np.finfo(float).tiny)).max(initial=0.0))
        if not size < previous:  # nothing but rounding is left
            break
        previous = size
        Z += T
    return E, squares


def quads(A: MLR, E: FloatArray, squares: FloatArray) -> FloatArray:
    """``‖D^{-1/2} e‖² + ‖z‖²`` of each sample, (k,) float64."""
    return np.einsum("ik,ik,i->k", E, E, A._dinv, dtype=np.float64) + squares


class Exact(NamedTuple):
    """What a `Batch` of k samples gives; good until the next one."""

    Z: FloatArray  # (leaves, R, k) posterior means along the paths
    E: FloatArray  # (n, k) residuals, 0 at missing cells
    squares: FloatArray  # (k,) ‖z‖² over all nodes
    K: FloatArray  # (patterns, s, R)
    logdet: FloatArray  # (patterns,) log det P


def path_covariances(K: FloatArray, weights: FloatArray, layout: Layout) -> FloatArray:
    """(leaves, patterns, R (R + 1) / 2): weights[p] times those along the paths; until the next."""
    R, P = layout.R, weights.size
    S = scratch("covariances of patterns", (layout.n_leaves, P, R * (R + 1) // 2), K.dtype)
    threads.run(lambda lo, hi: estep._compiled_incomplete.covariance_patterns(
        K, weights, layout.tree, leaves_at_once(layout, R), lo, hi, S),
        np.arange(P + 1), 0, P, S.size * R)
    return S


def sweep(factors: Factors, batch: Batch) -> Exact:
    """E-step of a `Batch` without loss."""
    A = factors._sigma
    layout, (p0, p1, starts) = A._layout, batch.shown
    K = scratch("factors", (p1 - p0, layout.s, layout.R), A.dtype)
    K[...] = 0
    logdet, owner = np.empty(p1 - p0), np.repeat(np.arange(p0, p1), np.diff(starts))
    factors.fill(p0, p1, K, logdet)
    Z = kernels.leaf.tdot(A._F, batch.X, layout, 0, layout.n_leaves, A._dinv)
    means_of(Z, K, owner - p0, layout)
    E, squares = correct(A, batch.patterns, owner, batch.X, K, Z, p0)
    return Exact(Z, E, squares, K, logdet)


def second_moments(Z: FloatArray, batch: Batch) -> FloatArray:
    """(leaves, patterns, (R + 1)(R + 2) / 2): sums of ``(z, √w)(z, √w)ᵀ``, packed."""
    (n_leaves, R, k), (p0, p1, starts) = Z.shape, batch.shown
    S = scratch("moments of patterns", (n_leaves, p1 - p0, (R + 1) * (R + 2) // 2), Z.dtype)
    threads.run(lambda lo, hi: estep._compiled_exact.second_moments(
        Z, batch.roots, starts, lo, hi, S), np.arange(n_leaves + 1), 0, n_leaves,
        n_leaves * k * (R + 1) ** 2 // 2)
    return S
