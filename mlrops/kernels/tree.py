"""The algorithms on a multilevel low rank matrix ``Σ = diag(D) + Σ_l F_l F_lᵀ``, on plain arrays.

All arrays have their rows in tree order.  ``K`` is the factor that `factor` returns: the row blocks
``[X | C]`` of every node, ``C Cᵀ = A_own,own + I`` and ``X = C⁻¹ A_own,anc``.

Every sweep goes over the tree in blocks of leaves: leaf products into a temporary that stays in
cache, then the tree kernel on it.  Subtrees are shared out to threads.
"""

from typing import TypeAlias

import numpy as np

from .._common.typing import FloatArray
from . import _compiled_posterior, _compiled_sweeps, leaf, threads
from .layout import BLOCK_ITEMS, CACHE_ITEMS, PIECE_ROWS, Layout, blocks
from .scratch import scratch

__all__ = ["factor", "factor_and_project", "inverse_rows", "multiply", "path_covariance",
           "posterior", "regress", "solve", "spread", "transfer", "up"]

# K, log det(I + Fᵀ D⁻¹ F), and the (level, group) of a bad pivot, if there is one.
Factorization: TypeAlias = tuple[FloatArray, float, tuple[int, int] | None]


def _share(task, layout, k):
    """Call ``task(lo, hi, limit)`` on ranges of leaves made of whole groups of the top level.

    `limit` bounds the numbers in a block's temporary.  Large leaves are work for BLAS: threads
    share them too where BLAS keeps to one thread and no group holds most of the rows; else one task
    covers the tree and BLAS has all threads.
    """
    at = layout.top_leaf
    longest = int(np.diff(layout.leaf_off).max())
    large = leaf.is_large(longest, layout.R, k)
    if longest > PIECE_ROWS and not large or large and not _evenly(layout, k):
        task(0, layout.n_leaves, BLOCK_ITEMS)
        return
    threads.run(lambda a, b: task(int(at[a]), int(at[b]), CACHE_ITEMS), layout.leaf_off[at],
                0, at.size - 1, layout.n * layout.R * k)


def _evenly(layout, k):
    """Whether threads with one BLAS thread each can share the groups of the top level evenly."""
    biggest, count = int(np.diff(layout.leaf_off[layout.top_leaf]).max()), threads.count()
    return count > 1 and 2 * count * biggest <= layout.n and threads.blas_keeps_to_one(layout.R * k)


def _or_none(K, like):
    return np.empty((0, 0), like.dtype) if K is None else K


def _up(F, x, scale, K, layout):
    """`_up_with` of ``t = F_leafᵀ diag(scale) x``."""
    return _up_with(lambda lo, hi, T: leaf.tdot(F, x, layout, lo, hi, scale, T),
                    x.shape[1], F.dtype, K, layout)


def _up_with(product, k, dtype, K, layout):
    """Node rows W (s, k): ``w = C⁻¹ t_own`` bottom up, or the plain sums of t for K None.

    ``product(lo, hi, T)`` writes t of the leaves lo:hi to T (hi - lo, R, k).
    """
    W, stack, sweep, finish = _projecting(k, dtype, K, layout)

    def task(lo, hi, limit):
        state = stack()
        for a, b in blocks(lo, hi, k * layout.R, limit):
            T = scratch("T", (b - a, layout.R, k), dtype)
            product(a, b, T)
            sweep(T, a, b, state)

    _share(task, layout, k)
    finish()
    return W


def _projecting(k, dtype, K, layout):
    """The parts of an upward sweep over leaf products T: where it ends up, and what to call.

    Returns W (s, k), ``stack()`` for the state of a range of leaves, ``sweep(T, a, b, state)`` and
    ``finish()`` for the levels above `layout.top`.
    """
    top = layout.top
    W = np.empty((layout.s, k), dtype)
    passed = np.empty((layout.top_leaf.size - 1, int(layout.cols[top]), k), dtype)
    factor = _or_none(K, W), K is not None

    def stack():
        return np.zeros((layout.L, layout.R, k), dtype)

    def sweep(T, a, b, state):
        _compiled_sweeps.sweep_up(T, a, b, layout.tree, *factor, top, state, W, passed)

    def finish():
        if top:
            state = np.zeros((top + 1, layout.R, k), dtype)
            _compiled_sweeps.sweep_up(passed, 0, len(passed), layout.above, *factor, 0, state, W,
                               passed[:0])

    return W, stack, sweep, finish


def _down(W, K, layout, use=None):
    """Turn W into the factors of the nodes; call ``use(lo, hi, Z)``, Z (hi - lo, R, k) along paths.

    K None means that W holds them already.
    """
    k, dtype = W.shape[1], W.dtype
    factor = _or_none(K, W)
    if layout.top and K is not None:
        stack = np.zeros((layout.R, k), dtype)
        _compiled_sweeps.sweep_down(W, 0, 0, layout.top_leaf.size - 1, layout.above, factor, 0,
                                    stack, np.empty((0, layout.R, k), dtype))

    def task(lo, hi, limit):
        stack = np.zeros((layout.R, k), dtype)
        for a, b in blocks(lo, hi, k * layout.R, limit):
            Z = scratch("Z", (b - a if use else 0, layout.R, k), dtype)
            _compiled_sweeps.sweep_down(W, lo, a, b, layout.tree, factor,
                                 layout.L if K is None else layout.top, stack, Z)
            if use:
                use(a, b, Z)

    _share(task, layout, k)


def up(F: FloatArray, x: FloatArray, layout: Layout) -> FloatArray:
    """``F_spreadᵀ x``, node rows (s, k), for x (n, k)."""
    return _up(F, x, None, None, layout)


def multiply(F: FloatArray, p: FloatArray, x: FloatArray, layout: Layout, sign: float = 1.0
             ) -> FloatArray:
    """``diag(p) x + sign F_spread F_spreadᵀ x`` for x (n, k)."""
    return spread(F, p, _up(F, x, None, None, layout), x, layout, sign)


def spread(F: FloatArray, p: FloatArray, W: FloatArray, x: FloatArray, layout: Layout,
           sign: float = 1.0) -> FloatArray:
    """``diag(p) x + sign F_spread W`` for node rows W (s, k) and x (n, k)."""
    out = np.empty_like(x)
    _down(W, None, layout, lambda lo, hi, Z: leaf.dot(F, Z, x, p, layout, lo, hi, out, sign=sign))
    return out


def transfer(B: FloatArray, C: FloatArray, x: FloatArray, rows: Layout, cols: Layout) -> FloatArray:
    """``B_spread C_spreadᵀ x``, (m, k), for x (n, k).

    B (m, R) lies on the layout `rows`, C (n, R) on `cols`: two trees of one shape.
    """
    W = _up(C, x, None, None, cols)
    out, none = np.zeros((rows.n, x.shape[1]), B.dtype), np.zeros(rows.n, B.dtype)
    _down(W, None, rows, lambda lo, hi, Z: leaf.dot(B, Z, out, none, rows, lo, hi, out))
    return out


def factor(F: FloatArray, dinv: FloatArray, layout: Layout, ridge: FloatArray | None = None
           ) -> Factorization:
    """(K, log det(I + Fᵀ D⁻¹ F), fail): fail is None or the (level, group) of a bad pivot.

    `ridge` (s,) stands in for the diagonal of I, one number for each row of the nodes.
    """
    return _factor(F, dinv, None, layout, ridge)[0]


def factor_and_project(F: FloatArray, dinv: FloatArray, Y: FloatArray, layout: Layout
                       ) -> tuple[Factorization, FloatArray]:
    """What `factor` returns, and the node rows W (s, k) of Y on their way up: one pass over F."""
    return _factor(F, dinv, Y, layout)


def _factor(F: FloatArray, dinv: FloatArray, Y: FloatArray | None, layout: Layout,
            ridge: FloatArray | None = None) -> tuple[Factorization, FloatArray]:
    R, k, dtype = layout.R, 0 if Y is None else Y.shape[1], F.dtype
    K, factor_stack, factor_sweep, factor_finish = _factoring(dtype, layout, ridge)
    W, stack, sweep, finish = _projecting(k, dtype, K, layout)

    def task(lo, hi, limit):
        pivots, state = factor_stack(), stack()
        for a, b in blocks(lo, hi, R * max(R, k), limit):
            G = scratch("G", (b - a, R, R), dtype)
            if Y is None:
                leaf.gram(F, dinv, layout, a, b, G)
            else:
                T = scratch("T", (b - a, R, k), dtype)
                leaf.gram_and_tdot(F, dinv, Y, layout, a, b, G, T)
            if not factor_sweep(G, a, b, pivots):
                return
            if Y is not None:
                sweep(T, a, b, state)

    _share(task, layout, R if Y is None else k)
    found = factor_finish()
    if found[2] is None and Y is not None:
        finish()
    return found, W


def _factoring(dtype, layout, ridge=None):
    """The parts of a factorization from leaf Gram matrices; compare `_projecting`.

    ``sweep`` returns whether all pivots were positive so far, ``finish()`` what `factor` returns.
    """
    R, top = layout.R, layout.top
    K = np.zeros((layout.s, R), dtype)
    above = int(layout.cols[top])
    passed = np.zeros((layout.top_leaf.size - 1, above, above), dtype)
    ridge = np.ones(layout.s, dtype) if ridge is None else ridge
    fail = np.full(2, -1, np.int64)

    def stack():
        return np.zeros((layout.L, R, R), dtype)

    def sweep(G, a, b, state):
        _compiled_sweeps.sweep_factor(G, ridge, a, b, layout.tree, top, state, K, passed, fail)
        return fail[0] < 0

    def finish():
        if top and fail[0] < 0:
            state = np.zeros((top + 1, R, R), dtype)
            _compiled_sweeps.sweep_factor(passed, ridge, 0, len(passed), layout.above, 0, state, K,
                                   passed[:0], fail)
        if fail[0] >= 0:
            return K, np.nan, (int(fail[0]), int(fail[1]))
        return K, 2 * sum(_log_pivots(K, layout)), None

    return K, stack, sweep, finish


def _log_pivots(K, layout):
    """``Σ log diag C`` of each level."""
    for level in range(layout.L):
        c0, r = int(layout.cols[level]), int(layout.cols[level + 1] - layout.cols[level])
        rows = K[layout.zoff[level] : layout.zoff[level + 1]].reshape(-1, max(r, 1), layout.R)
        yield sum(np.log(rows[:, i, c0 + i], dtype=np.float64).sum() for i in range(r))


def solve(F: FloatArray, dinv: FloatArray, K: FloatArray, b: FloatArray, layout: Layout
          ) -> tuple[FloatArray, FloatArray]:
    """``Σ⁻¹ b`` and the factors' posterior means of the nodes, (s, k), for b (n, k)."""
    out = np.empty_like(b)
    W = _up(F, b, dinv, K, layout)
    _down(W, K, layout,
          lambda lo, hi, Z: leaf.dot(F, Z, b, dinv, layout, lo, hi, out, solve=True))
    return out, W


def posterior(F: FloatArray, dinv: FloatArray, K: FloatArray, Y: FloatArray, layout: Layout,
              W: FloatArray | None = None) -> tuple[FloatArray, FloatArray]:
    """Posterior means of the nodes, (s, N), and ``Σ_nodes ‖w‖²`` a sample, for Y (n, N).

    ``yᵀΣ⁻¹y = yᵀD⁻¹y - Σ ‖w‖²``: the quadratic form of every sample comes with the upward sweep.
    W may be what `factor_and_project` gave; it is overwritten.
    """
    W = _up(F, Y, dinv, K, layout) if W is None else W
    squares = np.einsum("sk,sk->k", W, W, dtype=np.float64)
    _down(W, K, layout)
    return W, squares


def path_covariance(K: FloatArray, layout: Layout) -> FloatArray:
    """Posterior covariance of the factors along the path of every leaf, (n_leaves, R, R)."""
    out = np.empty((layout.n_leaves, layout.R, layout.R), K.dtype)
    _compiled_posterior.sweep_covariance(0, 0, layout.n_leaves, layout.tree, K,
                               np.zeros((layout.R, layout.R), K.dtype), out)
    return out


def regress(K: FloatArray, means: FloatArray, Y: FloatArray, yy: FloatArray, n_samples: float,
            layout: Layout, F: FloatArray, D: FloatArray, keep: FloatArray | None = None,
            ridge: float = 0.0) -> None:
    """One M-step into F (n, R) and D (n,): regress the features on the factors of their paths.

    `keep`, two arrays (n_leaves, R, R), is given the second moments W of the leaves and W⁻¹.
    `ridge` is added to the diagonal of W.
    """
    k, R, L, dtype = Y.shape[1], layout.R, layout.L, K.dtype

    def task(start, stop, limit):
        cov_stack, chol, linv = np.zeros((3, R, R), dtype)
        winv = np.zeros((L + 1, R, R), dtype)
        z_stack = np.zeros((R, k), dtype)
        for lo, hi in blocks(start, stop, R * max(R, k), limit):
            Z = scratch("Z", (hi - lo, R, k), dtype)
            _compiled_sweeps.sweep_down(means, start, lo, hi, layout.tree, K, L, z_stack, Z)
            cov, Winv = scratch("G", (2, hi - lo, R, R), dtype)
            _compiled_posterior.sweep_covariance(start, lo, hi, layout.tree, K, cov_stack, cov)
            if ridge:
                np.einsum("qii->qi", cov)[...] += ridge / n_samples
            _compiled_posterior.sweep_second_moments(cov, Z, start, lo, hi, layout.tree,
                                           n_samples, chol, linv, winv, Winv)
            if keep is not None:
                W = np.matmul(Z, Z.swapaxes(1, 2), out=keep[0][lo:hi])
                W += np.multiply(cov, cov.dtype.type(n_samples), out=cov)
                keep[1][lo:hi] = Winv
            leaf.regress(Y, Z, Winv, yy, n_samples, layout, lo, hi, F, D)

    _share(task, layout, k)


def inverse_rows(F: FloatArray, dinv: FloatArray, K: FloatArray, layout: Layout) -> FloatArray:
    """H (n, R), of the sparsity of F, with ``Σ⁻¹ = diag(1/D) - H_spread H_spreadᵀ``."""
    H = np.empty_like(F)

    def task(lo, hi):
        _compiled_posterior.sweep_inverse_rows(F, dinv, lo, hi, layout.leaf_off, layout.tree, K, H)

    threads.run(task, layout.leaf_off, 0, layout.n_leaves, layout.n * layout.R**2 // 2)
    return H
