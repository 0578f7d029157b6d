"""Gradient of the log-likelihood by F and D from an EM step, and EM's own scaling of a gradient.

EM goes from F to ``F1 = V W⁻¹``; with ``V = F1 W`` the gradient ``D⁻¹ (V - F W) / N`` needs no
further pass over the data, and EM's step is ``N D · W⁻¹`` times it.
"""

import numpy as np

from .._common.typing import FloatArray
from . import _compiled_curvature, leaf, tree
from .layout import Layout
from .scratch import scratch

__all__ = ["explained", "gradient", "precondition"]


def _by_leaf(small, large, layout):
    """Call ``small(i, j)`` on ranges of leaves too small for BLAS, else ``large(q, rows)``."""
    R = layout.R
    tree.each_leaf(lambda lo, hi, limit: leaf.each(layout, lo, hi, R, small, large, R * R), layout, R)


def gradient(F: FloatArray, D: FloatArray, F1: FloatArray, D1: FloatArray, W: FloatArray,
             n_samples: float, scale: FloatArray, layout: Layout, dF: FloatArray) -> FloatArray:
    """Derivatives of the average log-likelihood at F, D; F1, D1 are where EM goes.

    Fills dF (n, R), its rows times `scale` (n,), and returns dD (n,).
    """
    dD = np.empty_like(D)
    N = F.dtype.type(n_samples)

    def small(i, j):
        _compiled_curvature.rows_gradient(
            F, D, F1, D1, W, N, scale, layout.leaf_off, i, j, dF, dD)

    def large(q, s):
        step = np.subtract(F1[s], F[s], out=scratch("scaled rows", F[s].shape, F.dtype))
        e = np.matmul(step, W[q], out=scratch("products", F[s].shape, F.dtype))
        moved = np.einsum("ij,ij->i", e, step)
        np.multiply(e, (scale[s] / (N * D[s]))[:, None], out=dF[s], casting="same_kind")
        dD[s] = ((D1[s] + moved / N) / D[s] - 1) / (2 * D[s])

    _by_leaf(small, large, layout)
    return dD


def precondition(G: FloatArray, D: FloatArray, Winv: FloatArray, n_samples: float, layout: Layout,
                 out: FloatArray) -> None:
    """``out = N D G W⁻¹`` (n, R), leaf by leaf; G and out may be of lower precision."""
    N = D.dtype.type(n_samples)

    def small(i, j):
        _compiled_curvature.rows_precondition(G, D, Winv, N, layout.leaf_off, i, j, out)

    def large(q, s):
        rows = np.matmul(G[s].astype(D.dtype, copy=False), Winv[q],
                         out=scratch("scaled rows", G[s].shape, D.dtype))
        np.multiply(rows, N * D[s, None], out=out[s], casting="same_kind")

    _by_leaf(small, large, layout)


def explained(F: FloatArray, D: FloatArray, cov: FloatArray, layout: Layout) -> FloatArray:
    """``F_i Cov F_iᵀ / D_i = 1 - D_i (Σ⁻¹)_ii`` (n,), cov (n_leaves, R, R) along the paths."""
    out = np.empty_like(D)

    def small(i, j):
        _compiled_curvature.rows_explained(F, D, cov, layout.leaf_off, i, j, out)

    def large(q, s):
        rows = np.matmul(F[s], cov[q], out=scratch("scaled rows", F[s].shape, F.dtype))
        np.divide(np.einsum("ij,ij->i", rows, F[s]), D[s], out=out[s])

    _by_leaf(small, large, layout)
    return out
