"""Gradient of the log-likelihood by F and D from an EM step, and EM's own scaling of a gradient.

EM goes from F to ``F1 = V W⁻¹``; with ``V = F1 W`` the gradient ``D⁻¹ (V - F W) / N`` needs no
further pass over the data, and EM's step is ``N D · W⁻¹`` times it.
"""

import numpy as np

from . import _compiled_curvature, leaf, threads
from .scratch import scratch

__all__ = ["explained", "gradient", "precondition"]


def _small_leaves(kernel, layout, work):
    """Run ``kernel(i, j)`` on the ranges of leaves that BLAS does not take; return the others."""
    large = leaf._large(layout, 0, layout.n_leaves, layout.R)
    for a, b in leaf._small_runs(large, 0, layout.n_leaves):
        off = layout.leaf_off
        threads.run(kernel, off, a, b, int(off[b] - off[a]) * work)
    return large


def gradient(F, D, F1, D1, W, n_samples, layout):
    """Derivatives (n, R), (n,) of the average log-likelihood at F, D; F1, D1 are where EM goes."""
    dF, dD = np.empty_like(F), np.empty_like(D)
    N = F.dtype.type(n_samples)

    def kernel(i, j):
        _compiled_curvature.rows_gradient(F, D, F1, D1, W, N, layout.leaf_off, i, j, dF, dD)

    for q in _small_leaves(kernel, layout, layout.R**2):
        for s in leaf._chunks(layout, q):
            step = np.subtract(F1[s], F[s], out=scratch("scaled rows", F[s].shape, F.dtype))
            e = np.matmul(step, W[q], out=dF[s])
            moved = np.einsum("ij,ij->i", e, step)
            e /= N * D[s, None]
            dD[s] = ((D1[s] + moved / N) / D[s] - 1) / (2 * D[s])
    return dF, dD


def precondition(G, D, Winv, n_samples, layout):
    """``N D G W⁻¹`` (n, R), leaf by leaf, of the dtype of G."""
    out = np.empty_like(G)
    N = D.dtype.type(n_samples)

    def kernel(i, j):
        _compiled_curvature.rows_precondition(G, D, Winv, N, layout.leaf_off, i, j, out)

    for q in _small_leaves(kernel, layout, layout.R**2):
        for s in leaf._chunks(layout, q):
            rows = np.matmul(G[s].astype(D.dtype, copy=False), Winv[q],
                             out=scratch("scaled rows", G[s].shape, D.dtype))
            np.multiply(rows, N * D[s, None], out=out[s], casting="same_kind")
    return out


def explained(F, D, cov, layout):
    """``F_i Cov F_iᵀ / D_i = 1 - D_i (Σ⁻¹)_ii`` (n,), cov (n_leaves, R, R) along the paths."""
    out = np.empty_like(D)

    def kernel(i, j):
        _compiled_curvature.rows_explained(F, D, cov, layout.leaf_off, i, j, out)

    for q in _small_leaves(kernel, layout, layout.R**2):
        for s in leaf._chunks(layout, q):
            rows = np.matmul(F[s], cov[q], out=scratch("scaled rows", F[s].shape, F.dtype))
            np.divide(np.einsum("ij,ij->i", rows, F[s]), D[s], out=out[s])
    return out
