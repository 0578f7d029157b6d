"""The posterior of the factors without loss where D is far below the features' variances.

For samples ``x = F z + e``, ``cov(e) = diag(D)``, with P = I + FᵀD⁻¹F = Λ Λᵀ, the quadratic form is

    xᵀΣ⁻¹x = min over z of q(z) = ‖D^{-1/2} (x - F z)‖² + ‖z‖²

a sum of squares, where ``xᵀD⁻¹x - ‖Λ⁻¹FᵀD⁻¹x‖²`` loses variance / D units of rounding.  The means z
lose as many: rounding in ``f_i x_i / D_i`` does not lie along f_i.  That in ``f_i e_i / D_i``, of
a small residual e = x - F z, does, but for as much less: so z is corrected by its gap,

    t = FᵀD⁻¹e - z        z ← z + P⁻¹ t        min q = q(z) - ‖Λ⁻¹ t‖²

All arrays have their rows in tree order.
"""

from collections.abc import Iterator

import numpy as np

from .._common.typing import FloatArray, IntArray
from . import _compiled_residual, leaf, threads, tree
from .layout import BLOCK_ITEMS, Layout

__all__ = ["CORRECTIONS", "LAST", "broken", "columns", "correct", "explained", "factor",
           "long_rows", "loses_digits", "residual_squares"]

# Variance over D of a feature from which what cancels in the plain forms is worth a second pass:
# they leave a relative error of so many units of rounding.
LOSS = {np.dtype(np.float64): 1e4, np.dtype(np.float32): 1e2}
# Rows of D^{-1/2}F with squares above this share of it are taken out of Gram matrices.
LONG = 0.1
# Corrections at most; with an exact factor one is enough.
CORRECTIONS = 3
# Squared length of a correction, of the quadratic form, below which it was the last one: what it
# leaves is smaller by what the factor has lost.
LAST = 1e-12
# Columns of a block below which its products are slow.
LEAST_WIDTH = 64


def loses_digits(variance: FloatArray, d: FloatArray) -> bool:
    """Whether a variance (n,) is so many times its D that the plain forms lose digits."""
    return bool((variance > LOSS[d.dtype] * d).any())


def columns(X: FloatArray, layout: Layout) -> Iterator[slice]:
    """Blocks of samples of X (n, N) whose residuals stay bounded, wide enough for products."""
    n, N = X.shape
    width = max(2 * layout.R, LEAST_WIDTH, BLOCK_ITEMS // max(n, 1))
    for a in range(0, N, width):
        yield slice(a, min(a + width, N))


def _subtract_nodes(T, W, layout, lo, hi):
    """Take the node rows W off leaf products T of the leaves lo:hi, each at its first leaf."""
    k = T.shape[2]
    for level in range(layout.L):
        c0, c1 = int(layout.cols[level]), int(layout.cols[level + 1])
        groups = layout.path[lo:hi, level]
        first = np.flatnonzero(np.diff(groups, prepend=layout.path[lo - 1, level] if lo else -1))
        if first.size and c0 < c1:
            a, b = (int(layout.zoff[level] + g * (c1 - c0))
                    for g in (groups[first[0]], groups[-1] + 1))
            T[first, c0:c1] -= W[a:b].reshape(-1, c1 - c0, k)


def correct(F: FloatArray, dinv: FloatArray, K: FloatArray, W: FloatArray, X: FloatArray,
            layout: Layout) -> FloatArray:
    """Correct the means W (s, k) of the factors of samples X (n, k); returns xᵀΣ⁻¹x, (k,) float64.

    An array (n, k) of residuals is formed.
    """
    ones, previous = np.ones_like(dinv), np.inf
    for _ in range(CORRECTIONS):
        E = tree.spread(F, ones, W, X, layout, sign=-1.0)
        quad = np.einsum("ik,ik,i->k", E, E, dinv, dtype=np.float64)
        quad += np.einsum("sk,sk->k", W, W, dtype=np.float64)
        gap = _gap(F, dinv, K, W, E, layout)
        squares = np.einsum("sk,sk->k", gap, gap, dtype=np.float64)
        size = float((squares / np.maximum(quad, np.finfo(float).tiny)).max(initial=0.0))
        if not size < previous:  # nothing but rounding is left
            break
        previous, quad = size, quad - squares
        tree.spread_with(gap, K, layout)
        W += gap
        if size <= LAST:
            break
    return quad


def _gap(F, dinv, K, W, E, layout):
    """``Λ⁻¹ (FᵀD⁻¹e - z)``, node rows (s, k)."""
    long = leaf.long_tdot(F, E, layout, dinv)

    def product(lo, hi, T):
        leaf.tdot(F, E, layout, lo, hi, dinv, T, long)
        _subtract_nodes(T, W, layout, lo, hi)

    return tree.project_with(product, E.shape[1], F.dtype, K, layout)


def residual_squares(F: FloatArray, W: FloatArray, X: FloatArray, layout: Layout) -> FloatArray:
    """``Σ_k (x_ik - f_i z_k)²`` of each feature, (n,) float64, for means W (s, k)."""
    out, ones = np.zeros(len(F)), np.ones(len(F), F.dtype)
    for part in columns(X, layout):
        E = tree.spread(F, ones, np.ascontiguousarray(W[:, part]),
                        np.ascontiguousarray(X[:, part]), layout, sign=-1.0)
        out += np.einsum("ik,ik->i", E, E, dtype=np.float64)
    return out


def long_rows(F: FloatArray, d: FloatArray, layout: Layout) -> tuple[IntArray, IntArray]:
    """The rows of D^{-1/2}F that are far longer than the others, and their leaves.

    None where none is so long that the plain forms lose digits.
    """
    squares, limit = np.einsum("ij,ij->i", F, F), LOSS[d.dtype] * d
    long = squares > LONG * limit if (squares > limit).any() else np.zeros(d.size, bool)
    rows = np.flatnonzero(long)
    return rows, np.searchsorted(layout.leaf_off, rows, side="right") - 1


def factor(F: FloatArray, d: FloatArray, dinv: FloatArray, layout: Layout) -> tree.Factorization:
    """`tree.factor` where some rows of D^{-1/2}F are far longer than the others.

    In a Gram matrix with them the others would lose digits: they are added to the Cholesky factor
    of the others, in ``3 R²`` flops each.
    """
    rows, leaves = long_rows(F, d, layout)
    others = dinv.copy()
    others[rows] = 0
    K, logs, fail = tree.factor(F, others, layout)
    if fail is None and rows.size:
        _compiled_residual.add_rows(F, np.sqrt(d), rows, leaves, layout.tree, K)
        logs, fail = _logdet(K, layout), broken(K, layout.tree)
    return K, logs, fail


def _logdet(K, layout):
    """``2 Σ log diag C``."""
    levels = zip(layout.cols[:-1], layout.cols[1:], layout.zoff[:-1], layout.zoff[1:], strict=True)
    return 2 * sum(float(np.log(np.einsum("gii->gi", K[z0:z1, c0:c1].reshape(
        -1, c1 - c0, c1 - c0)), dtype=np.float64).sum()) for c0, c1, z0, z1 in levels if c0 < c1)


def broken(K: FloatArray, nodes: tuple[IntArray, IntArray, IntArray]) -> tuple[int, int] | None:
    """(level, group) of the finest node at which K (s, R) overflowed, if it did.

    `nodes` is the layout's `tree`.
    """
    _, cols, zoff = nodes
    bad = np.flatnonzero(~np.isfinite(K).all(axis=1))
    if not bad.size:
        return None
    level = int(np.searchsorted(zoff, bad[-1], side="right")) - 1
    first = bad[bad >= zoff[level]][0] - zoff[level]
    return level, int(first) // int(cols[level + 1] - cols[level])


def explained(F: FloatArray, d: FloatArray, K: FloatArray, rough: FloatArray, layout: Layout
              ) -> FloatArray:
    """``f_i Cov f_iᵀ`` of each feature, (n,), from what the paths' covariances say, `rough`.

    Where D is small beside f_i it is ``‖Λ⁻¹ f_i‖²``, a sum of squares: covariances are known to
    rounding of their largest entries only.
    """
    rows, leaves = long_rows(F, d, layout)
    found = np.empty(rows.size)
    threads.run(lambda lo, hi: _compiled_residual.path_lengths(
        F, rows, leaves, layout.tree, K, lo, hi, found),
        np.arange(rows.size + 1), 0, rows.size, rows.size * layout.R**2 // 2)
    rough[rows] = found
    return rough
