"""The algorithms on a multilevel low rank matrix ``Σ = diag(D) + Σ_l F_l F_lᵀ``, on plain arrays.

All arrays have their rows in tree order.  ``K`` is the factor that `factor` returns: the row blocks
``[X | C]`` of every node, ``C Cᵀ = A_own,own + I`` and ``X = C⁻¹ A_own,anc``.

Every sweep goes over the tree in blocks of leaves: leaf products into a temporary that stays in
cache, then the tree kernel on it.  Subtrees are shared out to threads.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .._common.typing import FloatArray, IntArray
from . import _compiled_posterior, _compiled_sweeps, leaf, parts, threads
from .layout import BLOCK_ITEMS, CACHE_ITEMS, PIECE_ROWS, Layout, blocks, group_of
from .parts import NOTHING_ABOVE, Use
from .scratch import none, scratch

__all__ = ["add_nodes", "broken", "each_leaf", "factor", "factor_and_project", "inverse_rows",
           "means", "moment_stacks", "multiply", "path_covariance", "pivots", "posterior",
           "project", "project_with", "regress", "rows_from", "solve", "spread", "spread_with",
           "transfer", "up"]


class Factorization(NamedTuple):
    """A Cholesky factorization of P = I + Fᵀ D⁻¹ F, and what it lost."""

    K: FloatArray  # (s, R)
    gained: float  # log det P
    fail: tuple[int, int] | None  # the (level, group) of a bad pivot, if there is one
    sizes: FloatArray  # (s,) the diagonal of P
    loss: float  # the largest ratio of an entry of the diagonal to its pivot
    share: float  # no less than the largest square of a row of D^{-1/2} F


def each_leaf(task: Callable[[int, int, int], object], layout: Layout, k: int) -> None:
    """Call ``task(lo, hi, limit)`` on ranges of leaves made of whole groups of the top level.

    `limit` bounds the numbers in a block's temporary.  Large leaves are work for BLAS: threads
    share them too where BLAS keeps to one thread and no group holds most of the rows; else one task
    covers the tree and BLAS has all threads.
    """
    at, longest = layout.top_leaf, layout.largest
    large = leaf.is_large(longest, layout.R, k)
    if longest > PIECE_ROWS and not large or large and not _evenly(layout, k):
        task(0, layout.n_leaves, BLOCK_ITEMS)
        return
    threads.run(lambda a, b: task(int(at[a]), int(at[b]), CACHE_ITEMS), layout.leaf_off[at], 0,
                layout.n_groups, layout.n * layout.R * k)


def _evenly(layout, k):
    """Whether threads with one BLAS thread each can share the groups of the top level evenly."""
    biggest, count = int(np.diff(layout.leaf_off[layout.top_leaf]).max()), threads.count()
    return count > 1 and 2 * count * biggest <= layout.n and threads.blas_keeps_to_one(layout.R * k)


# ---------------------------------------------------------------- up and down


def project(F: FloatArray, x: FloatArray, scale: FloatArray | None, K: FloatArray | None,
            layout: Layout, norms: FloatArray | None = None) -> FloatArray:
    """Node rows W (s, k) on their way up: ``w = C⁻¹ t_own``, ``t = F_leafᵀ diag(scale) x``.

    For K None they are the plain sums of t.  The squares of x and of ``diag(scale)^½ x`` are added
    to `norms` (2, k).
    """
    x = x.astype(F.dtype, copy=False)  # samples from streams are in double precision
    K = none(F.dtype) if K is None else K
    W, passed = parts.sweep(F, none(F.dtype, 1) if scale is None else scale, x, layout, K, norms)
    parts.root(passed, layout, K, W)
    return W


def project_with(product: Use, k: int, dtype: np.dtype, K: FloatArray | None, layout: Layout
                 ) -> FloatArray:
    """`project` where ``product(lo, hi, T)`` writes t of the leaves lo:hi to T (hi - lo, R, k)."""
    W, passed = np.empty((layout.s, k), dtype), parts.passing(layout, k, dtype)
    K = none(dtype) if K is None else K
    parts.share(lambda lo, hi: parts.up_with(product, layout, K, W, passed, lo, hi), layout,
                layout.n * layout.R * k)
    parts.root(passed, layout, K, W)
    return W


def spread_with(W: FloatArray, K: FloatArray | None, layout: Layout, use: Use | None = None
                ) -> None:
    """Turn W into the factors of the nodes; call ``use(lo, hi, Z)``, Z (hi - lo, R, k) along paths.

    K None means that W holds them already.
    """
    K = none(W.dtype) if K is None else K
    coarse = parts.coarse_factors(layout, K, W)
    parts.share(lambda lo, hi: parts.down(layout, K, W, coarse, use, lo, hi), layout,
                layout.n * layout.R * W.shape[1])


def rows_from(F: FloatArray, p: FloatArray, x: FloatArray, W: FloatArray, K: FloatArray | None,
              layout: Layout, sign: float, solve: bool, norms: FloatArray | None = None,
              coarse: FloatArray | None = None) -> FloatArray:
    """``p x + sign F z``, or ``p (x - F z)`` when `solve`, z from W as by `spread_with`.

    The squares of the factors and of the result are added to `norms` (2, k).  `coarse` are the
    factors of the levels above, if the tree is a part of one.
    """
    k, R, dtype = W.shape[1], layout.R, W.dtype
    out, kept = np.empty((layout.n, k), dtype), np.empty((layout.long.size, R, k), dtype)
    K = none(dtype) if K is None else K
    coarse = parts.coarse_factors(layout, K, W) if coarse is None else coarse
    found: list[FloatArray] = []  # one array a thread

    def task(lo, hi):
        found.append(own := np.zeros(k if k > 1 else 2))
        if k == 1:
            parts.column_down(F, p, x, sign, solve, layout, K, W, coarse, out, lo, hi, own,
                              kept.reshape(layout.long.size, R))
            return

        def use(a, b, Z):
            leaf.dot(F, Z, x, p, layout, a, b, out, sign, solve, None if norms is None else own,
                     kept)

        parts.down(layout, K, W, coarse, use, lo, hi)

    parts.share(task, layout, layout.n * R * k)
    leaf.long_dot(F, kept, x, p, layout, out, sign, solve, None if norms is None else norms[1])
    if norms is not None:
        norms[0] += np.einsum("sk,sk->k", W, W, dtype=np.float64)
        norms[1] += sum(own[-k:] for own in found)
    return out


def up(F: FloatArray, x: FloatArray, layout: Layout) -> FloatArray:
    """``F_spreadᵀ x``, node rows (s, k), for x (n, k)."""
    return project(F, x, None, None, layout)


def multiply(F: FloatArray, p: FloatArray, x: FloatArray, layout: Layout, sign: float = 1.0
             ) -> FloatArray:
    """``diag(p) x + sign F_spread F_spreadᵀ x`` for x (n, k)."""
    if parts.in_one_call(x, layout):
        return parts.column(F, p, x, sign, False, layout, none(F.dtype))[0]
    return spread(F, p, project(F, x, None, None, layout), x, layout, sign)


def spread(F: FloatArray, p: FloatArray, W: FloatArray, x: FloatArray, layout: Layout,
           sign: float = 1.0) -> FloatArray:
    """``diag(p) x + sign F_spread W`` for node rows W (s, k) and x (n, k)."""
    return rows_from(F, p, x, W, None, layout, sign, False, None)


def transfer(B: FloatArray, C: FloatArray, x: FloatArray, rows: Layout, cols: Layout) -> FloatArray:
    """``B_spread C_spreadᵀ x``, (m, k), for x (n, k).

    B (m, R) lies on the layout `rows`, C (n, R) on `cols`: two trees of one shape.
    """
    zeros = np.zeros(rows.n, B.dtype)
    nothing = np.zeros((rows.n, x.shape[1]), B.dtype)
    return spread(B, zeros, project(C, x, None, None, cols), nothing, rows)


# ---------------------------------------------------------------- factor and solve


def factor(F: FloatArray, dinv: FloatArray, layout: Layout, ridge: FloatArray | None = None
           ) -> Factorization:
    """The factorization of ``I + Fᵀ D⁻¹ F``.

    `ridge` (s,) stands in for the diagonal of I, one number for each row of the nodes.
    """
    return _factor(F, dinv, None, layout, ridge)[0]


def factor_and_project(F: FloatArray, dinv: FloatArray, Y: FloatArray, layout: Layout
                       ) -> tuple[Factorization, FloatArray]:
    """What `factor` returns, and the node rows W (s, k) of Y on their way up: one pass over F."""
    return _factor(F, dinv, Y, layout)


def _factor(F: FloatArray, dinv: FloatArray, Y: FloatArray | None, layout: Layout,
            ridge: FloatArray | None = None) -> tuple[Factorization, FloatArray]:
    ridge = np.ones(layout.s, F.dtype) if ridge is None else ridge
    found, W, passed = parts.factor_up(F, dinv, Y, layout, ridge)
    gained, fail = np.nan, None
    if found.fail[0] < 0:
        gained = 2 * float(parts.root(passed, layout, found.K, W, ridge, found)[0])
    if found.fail[0] >= 0:
        gained, fail = np.nan, (int(found.fail[0]), int(found.fail[1]))
    share, loss = found.losses.max(axis=0)
    return Factorization(found.K, gained, fail, found.sizes, float(loss), float(share)), W


def broken(K: FloatArray, nodes: tuple[IntArray, IntArray, IntArray]) -> tuple[int, int] | None:
    """(level, group) of the finest node at which K (s, R) overflowed, if it did.

    `nodes` is the layout's `tree`.
    """
    bad = np.flatnonzero(~np.isfinite(K).all(axis=1))
    return group_of(bad, nodes) if bad.size else None


def pivots(K: FloatArray, layout: Layout) -> FloatArray:
    """The diagonals of C, (s,): square roots of the pivots of P."""
    columns = [np.tile(np.arange(lo, hi), int(groups) + 1) for lo, hi, groups in zip(
        layout.cols[:-1], layout.cols[1:], layout.path[-1], strict=True)]
    return K[np.arange(layout.s), np.concatenate(columns)]


def solve(F: FloatArray, dinv: FloatArray, K: FloatArray, b: FloatArray, layout: Layout
          ) -> tuple[FloatArray, FloatArray, FloatArray]:
    """``Σ⁻¹ b`` and the factors' posterior means of the nodes, (s, k), for b (n, k).

    With both the squares (4, k) of the lengths of b, ``D^-½ b``, the means and the result, which
    may overflow.
    """
    if parts.in_one_call(b, layout):
        return parts.column(F, dinv, b, 1.0, True, layout, K)
    squares = np.zeros((4, b.shape[1]))
    with np.errstate(over="ignore", invalid="ignore"):
        W = project(F, b, dinv, K, layout, squares[:2])
        out = rows_from(F, dinv, b, W, K, layout, 1.0, True, squares[2:])
    return out, W, squares


def posterior(F: FloatArray, dinv: FloatArray, K: FloatArray, Y: FloatArray, layout: Layout,
              W: FloatArray | None = None) -> tuple[FloatArray, FloatArray]:
    """Posterior means of the nodes, (s, N), and ``Σ_nodes ‖w‖²`` a sample, for Y (n, N).

    ``yᵀΣ⁻¹y = yᵀD⁻¹y - Σ ‖w‖²``: the quadratic form of every sample comes with the upward sweep.
    W may be what `factor_and_project` gave; it is overwritten.
    """
    W = project(F, Y, dinv, K, layout) if W is None else W
    squares = np.einsum("sk,sk->k", W, W, dtype=np.float64)
    spread_with(W, K, layout)
    return W, squares


def add_nodes(T: FloatArray, W: FloatArray, layout: Layout, lo: int, hi: int) -> None:
    """Add the node rows W to leaf products T of the leaves lo:hi, each at its first leaf."""
    k = T.shape[2]
    for level, first in enumerate(layout.first_leaves):
        own = layout.columns(level)
        a, b = np.searchsorted(first[:-1], [lo, hi]).tolist()
        if a < b and own.start < own.stop:
            r = own.stop - own.start
            rows = W[layout.zoff[level] + a * r : layout.zoff[level] + b * r]
            T[first[a:b] - lo, own] += rows.reshape(b - a, r, k)


def means(K: FloatArray, t: FloatArray, layout: Layout) -> FloatArray:
    """``(I + FᵀD⁻¹F)⁻¹ t`` for node rows t (s, k): an upward and a downward sweep."""
    def product(lo, hi, T):
        T[:] = 0
        add_nodes(T, t, layout, lo, hi)

    W = project_with(product, t.shape[1], t.dtype, K, layout)
    spread_with(W, K, layout)
    return W


def path_covariance(K: FloatArray, layout: Layout, coarse: FloatArray | None = None) -> FloatArray:
    """Posterior covariance of the factors along the path of every leaf, (n_leaves, R, R).

    `coarse` (parents, c, c) has that of the levels above, if the tree is a part of one.
    """
    out = np.empty((layout.n_leaves, layout.R, layout.R), K.dtype)
    above = NOTHING_ABOVE if coarse is None else (layout.top, coarse, layout.parent)
    _compiled_posterior.sweep_covariance(0, 0, layout.n_leaves, layout.tree, K, *above,
                                         np.zeros((layout.R, layout.R), K.dtype), out)
    return out


def moment_stacks(layout: Layout, dtype: np.dtype) -> tuple[FloatArray, tuple[FloatArray, ...]]:
    """What `sweep_covariance` and `sweep_second_moments` carry along, at their start."""
    R = layout.R
    covariance, *moments = np.zeros((5, R, R), dtype)
    return covariance, (*moments, np.zeros((layout.L + 1, R, R), dtype))


def regress(K: FloatArray, means: FloatArray, Y: FloatArray, yy: FloatArray, n_samples: float,
            layout: Layout, F: FloatArray, D: FloatArray, keep: FloatArray | None = None,
            ridge: float = 0.0, coarse: tuple[FloatArray, FloatArray] | None = None) -> None:
    """One M-step into F (n, R) and D (n,): regress the features on the factors of their paths.

    `keep`, two arrays (n_leaves, R, R), is given the second moments W of the leaves and W⁻¹.
    `ridge` is added to the diagonal of W.  `coarse`, if the tree is a part of one, are the factors
    (parents, c, k) of the levels above and their covariances (parents, c, c).
    """
    k, R, dtype = Y.shape[1], layout.R, K.dtype
    n_samples = float(n_samples)  # of one type, for kernels that are compiled once
    nothing = none(dtype)
    if coarse is None:
        above, seeds = parts.coarse_factors(layout, nothing, means), NOTHING_ABOVE
    else:
        above, seeds = coarse[0], (layout.top, coarse[1], layout.parent)
    kept, inverses = (none(dtype, 3),) * 2 if keep is None else keep

    def task(start, stop, limit):
        (cov_stack, stacks), z_stack = moment_stacks(layout, dtype), np.zeros((R, k), dtype)
        for lo, hi in blocks(start, stop, R * max(R, k), limit):
            Z = scratch("Z", (hi - lo, R, k), dtype)
            _compiled_sweeps.sweep_down(means, lo, hi, layout.begins, layout.tree, nothing,
                                        layout.top, above, layout.parent, z_stack, Z)
            cov, Winv = scratch("G", (2, hi - lo, R, R), dtype)
            Winv = Winv if keep is None else inverses[lo:hi]
            _compiled_posterior.sweep_covariance(start, lo, hi, layout.tree, K, *seeds, cov_stack,
                                                 cov)
            if ridge:
                np.einsum("qii->qi", cov)[...] += ridge / n_samples
            _compiled_posterior.sweep_second_moments(
                cov, Z, start, lo, hi, layout.tree, n_samples, stacks, kept[lo:hi], Winv)
            leaf.regress(Y, Z, Winv, yy, n_samples, layout, lo, hi, F, D)

    each_leaf(task, layout, k)


def inverse_rows(F: FloatArray, dinv: FloatArray, K: FloatArray, layout: Layout) -> FloatArray:
    """H (n, R), of the sparsity of F, with ``Σ⁻¹ = diag(1/D) - H_spread H_spreadᵀ``."""
    H = np.empty_like(F)

    def small(i, j):
        _compiled_posterior.sweep_inverse_rows(F, dinv, i, j, layout.leaf_off, layout.tree, K, H)

    one, ones = np.eye(layout.R, dtype=F.dtype), np.ones(layout.R, F.dtype)
    path, cols, zoff = layout.tree

    def large(q, s):
        M = np.empty_like(one)  # the same of rows of the identity, along the leaf's path
        _compiled_posterior.sweep_inverse_rows(
            one, ones, 0, 1, np.array([0, layout.R]), (path[q : q + 1], cols, zoff), K, M)
        np.matmul(F[s], M, out=H[s])
        H[s] *= dinv[s, None]

    leaf.each(layout, 0, layout.n_leaves, layout.R, small, large, layout.R**2 // 2)
    return H
