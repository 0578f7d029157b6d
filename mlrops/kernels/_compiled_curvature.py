"""Compiled loops for the gradient of EM and its scaling, for leaves too small for BLAS."""

import numpy as np

from ._jit import jit

__all__ = ["rows_gradient", "rows_precondition"]


@jit
def rows_gradient(F, D, F1, D1, W, N, scale, off, lo, hi, dF, dD):
    """Per row, with e = (F1_i - F_i) W and ρ = D1_i + e·(F1_i - F_i) / N, the mean square residual:
    dF_i = scale_i e / (N D_i), dD_i = ½ (ρ / D_i - 1) / D_i.
    """
    R = F.shape[1]
    e = np.empty(R, F.dtype)
    for q in range(lo, hi):
        for i in range(off[q], off[q + 1]):
            e[:] = 0
            for a in range(R):
                f = F1[i, a] - F[i, a]
                for j in range(R):
                    e[j] += f * W[q, a, j]
            s = F.dtype.type(0)
            for j in range(R):
                s += e[j] * (F1[i, j] - F[i, j])
                dF[i, j] = scale[i] * e[j] / (N * D[i])
            dD[i] = ((D1[i] + s / N) / D[i] - 1) / (2 * D[i])


@jit
def rows_precondition(G, D, Winv, N, off, lo, hi, out):
    """out_i = N D_i G_i W⁻¹."""
    R = G.shape[1]
    for q in range(lo, hi):
        for i in range(off[q], off[q + 1]):
            row = out[i]
            row[:] = 0
            for a in range(R):
                f = N * D[i] * G[i, a]
                for j in range(R):
                    row[j] += f * Winv[q, a, j]
