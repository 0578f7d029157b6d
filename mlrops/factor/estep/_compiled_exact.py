"""Compiled loops over patterns of missing cells where D is far below the variances.

`_compiled_residual` is compiled into this module: after a change there this file has to be touched.
"""

import numpy as np

from ...kernels._compiled_residual import add_row, path_length
from ...kernels._jit import jit


@jit
def add_rows(F, deviation, rows, leaves, seen, p0, tree, lo, hi, K, logs):
    """Add the rows of ``D^{-1/2} F`` that patterns see to their factors K[p], (s, R), p in lo:hi.

    seen[m, p0 + p] says whether p sees rows[m], in the leaf leaves[m]; logs[p] is log det P after.
    """
    path, cols, zoff = tree
    for p in range(lo, hi):
        for m in range(rows.size):
            if seen[m, p0 + p]:
                add_row(F[rows[m]] / deviation[rows[m]], leaves[m], tree, K[p])
        log = 0.0
        for level in range(cols.size - 1):
            r = cols[level + 1] - cols[level]
            for i in range(zoff[level], zoff[level + 1]):
                log += np.log(np.float64(K[p, i, cols[level] + (i - zoff[level]) % r]))
        logs[p] = 2 * log


@jit
def add_lengths(F, rows, leaves, seen, p0, weights, tree, K, lo, hi, out):
    """out[m] += Σ_p weights[p] ‖Λ_p⁻¹ f‖², f the row rows[m] of F, of the patterns that see it."""
    for m in range(lo, hi):
        for p in range(weights.size):
            if seen[m, p0 + p]:
                out[m] += weights[p] * path_length(F[rows[m]].copy(), leaves[m], tree, K[p])


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
