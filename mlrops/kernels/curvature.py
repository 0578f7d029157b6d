"""Products of the rows of each leaf with a matrix of its own, and what EM makes of them.

EM goes from F to ``F1 = V W⁻¹``; with ``V = F1 W`` the gradient of the log-likelihood by F,
``D⁻¹ (V - F W) / N``, needs no further pass over the data, and EM's step is ``N D · W⁻¹`` times it.
"""

import numpy as np

from .._common.typing import FloatArray
from . import _compiled_curvature, leaf, tree
from .layout import Layout
from .scratch import scratch

__all__ = ["forms", "gradient", "precondition", "rows_times"]

# Numbers in the temporaries of the rows of small leaves that are worked on at a time.
PART_ITEMS = 65_536


def _by_rows(use, M, layout):
    """Call ``use(rows, times)`` on slices of all rows, M (n_leaves, R, R) a matrix a leaf.

    ``times(A)`` gives A M and ``diag(A M Aᵀ)`` for A of these rows, good until the next call.
    """
    R, off, M = layout.R, layout.leaf_off, np.ascontiguousarray(M)

    def room(A):
        return scratch("products", A.shape, M.dtype)

    def small(i, j):
        lo, hi = int(off[i]), int(off[j])
        for a in range(lo, hi, max(1, PART_ITEMS // R)):
            first = int(np.searchsorted(off, a, side="right")) - 1

            def times(A, a=a, first=first):
                out, forms = room(A), np.empty(len(A), M.dtype)
                _compiled_curvature.rows_times(A, M, off, first, a, out, forms)
                return out, forms

            use(slice(a, min(a + max(1, PART_ITEMS // R), hi)), times)

    def large(q, rows):
        def times(A):
            out = np.matmul(A, M[q], out=room(A))
            return out, np.einsum("ij,ij->i", out, A)

        use(rows, times)

    tree.each_leaf(lambda lo, hi, limit: leaf.each(layout, lo, hi, R, small, large, R * R),
                   layout, R)


def rows_times(A: FloatArray, M: FloatArray, layout: Layout) -> tuple[FloatArray, FloatArray]:
    """``A_leaf M`` (n, R) and ``diag(A_leaf M A_leafᵀ)`` (n,), M (n_leaves, R, R)."""
    out, forms = np.empty_like(A), np.empty(len(A), A.dtype)

    def use(s, times):
        out[s], forms[s] = times(A[s])

    _by_rows(use, M, layout)
    return out, forms


def forms(A: FloatArray, M: FloatArray, layout: Layout) -> FloatArray:
    """``diag(A_leaf M A_leafᵀ)`` (n,), M (n_leaves, R, R)."""
    out = np.empty(len(A), A.dtype)

    def use(s, times):
        out[s] = times(A[s])[1]

    _by_rows(use, M, layout)
    return out


def gradient(F: FloatArray, D: FloatArray, F1: FloatArray, D1: FloatArray, W: FloatArray,
             n_samples: float, scale: FloatArray, layout: Layout, dF: FloatArray) -> FloatArray:
    """Derivatives of the average log-likelihood at F, D; F1, D1 are where EM goes.

    With ``e = (F1_i - F_i) W`` and the mean square residual ``ρ = D1_i + e·(F1_i - F_i) / N`` they
    are ``e / (N D_i)`` and ``½ (ρ / D_i - 1) / D_i``.  Fills dF (n, R), its rows times `scale`
    (n,), and returns dD (n,).
    """
    dD = np.empty_like(D)
    N = F.dtype.type(n_samples)

    def use(s, times):
        step = np.subtract(F1[s], F[s], out=scratch("scaled rows", F[s].shape, F.dtype))
        e, moved = times(step)
        np.multiply(e, (scale[s] / (N * D[s]))[:, None], out=dF[s], casting="same_kind")
        dD[s] = ((D1[s] + moved / N) / D[s] - 1) / (2 * D[s])

    _by_rows(use, W, layout)
    return dD


def precondition(G: FloatArray, D: FloatArray, Winv: FloatArray, n_samples: float, layout: Layout,
                 out: FloatArray) -> None:
    """``out = N D G W⁻¹`` (n, R), leaf by leaf; G and out may be of lower precision."""
    N = D.dtype.type(n_samples)

    def use(s, times):
        rows, _ = times(G[s].astype(D.dtype, copy=False))
        np.multiply(rows, N * D[s, None], out=out[s], casting="same_kind")

    _by_rows(use, Winv, layout)
