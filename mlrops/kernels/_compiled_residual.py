"""Compiled loop of the posterior without loss: what the factors explain of single features."""

import numpy as np

from ._jit import jit

__all__ = ["path_lengths"]


@jit
def path_lengths(F, rows, leaves, tree, K, lo, hi, out):
    """out[m] = ‖Λ⁻¹ f‖² for the row f of F, rows[m] in the leaf leaves[m], m in lo:hi.

    Leaf to root: h_own = C⁻¹ f_own, f_anc -= Xᵀ h_own.
    """
    path, cols, zoff = tree
    h = np.empty(F.shape[1], F.dtype)
    for n in range(lo, hi):
        h[:] = F[rows[n]]
        total = 0.0
        for level in range(path.shape[1] - 1, -1, -1):
            c0 = cols[level]
            r = cols[level + 1] - c0
            z0 = zoff[level] + path[leaves[n], level] * r
            for m in range(r):
                row = K[z0 + m]
                v = h[c0 + m]
                for p in range(m):
                    v -= row[c0 + p] * h[c0 + p]
                v /= row[c0 + m]
                h[c0 + m] = v
                total += np.float64(v) * np.float64(v)
                for j in range(c0):
                    h[j] -= row[j] * v
        out[n] = total
