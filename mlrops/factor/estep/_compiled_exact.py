"""Compiled loops over patterns of missing cells where D is far below the variances.

Leaf f of a forest is leaf f % leaves of its tree f // leaves, of the pattern which[f // leaves].
`_compiled_residual` is compiled into this module: after a change there this file has to be touched.
"""

from ...kernels._compiled_residual import add_row, path_length
from ...kernels._jit import jit


@jit
def add_rows(F, deviation, rows, leaves, n_leaves, seen, which, tree, K):
    """Add to each tree's factor the rows of D^{-1/2}F that its pattern sees.

    seen[m, p] says whether p sees rows[m], in the leaf leaves[m].
    """
    for t in range(which.size):
        for m in range(rows.size):
            if seen[m, which[t]]:
                h = F[rows[m]] / deviation[rows[m]]
                add_row(h, t * n_leaves + leaves[m], tree, K)


@jit
def add_lengths(F, rows, leaves, n_leaves, seen, which, weights, tree, K, out):
    """out[m] += weights[t] ‖Λ_t⁻¹ f‖², f the row rows[m] of F, for the trees t that see it."""
    for t in range(which.size):
        for m in range(rows.size):
            if seen[m, which[t]]:
                out[m] += weights[t] * path_length(
                    F[rows[m]].copy(), t * n_leaves + leaves[m], tree, K)


@jit
def second_moments(Z, roots, starts, lo, hi, S):
    """S[q, p] = Σ_t (z, √w)(z, √w)ᵀ of leaves lo:hi, packed, Z (leaves, R, k) by samples of p."""
    R = Z.shape[1]
    for q in range(lo, hi):
        for p in range(starts.size - 1):
            at = 0
            for a in range(R + 1):
                for j in range(a + 1):
                    v = S.dtype.type(0)
                    for t in range(starts[p], starts[p + 1]):
                        x = Z[q, a, t] if a < R else roots[t]
                        y = Z[q, j, t] if j < R else roots[t]
                        v += x * y
                    S[q, p, at + j] = v
                at += a + 1
