"""The expanded matrix of an MLR operator and its sparse factorization, as SciPy sparse arrays."""

from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp

from .._common.typing import FloatArray, IntArray

__all__ = ["expanded_cholesky", "expanded_matrix", "spread_out"]

MLR: TypeAlias = Any  # its file imports this one

Triplets: TypeAlias = tuple[IntArray, IntArray, FloatArray]


def spread_out(X: FloatArray, offsets: IntArray, first: int) -> Triplets:
    """COO triplets of one level's factors spread out: row, ``first + group r + column``, value."""
    r = X.shape[1]
    group = np.repeat(np.arange(offsets.size - 1), np.diff(offsets))
    where = first + group[:, None] * r + np.arange(r)
    row = np.broadcast_to(np.arange(len(X))[:, None], X.shape)
    return row.ravel(), where.ravel(), X.ravel()


def _spread(mlr):
    """F_spread (n, s) as COO triplets, rows in tree order."""
    layout, h = mlr._layout, mlr.hierarchy
    parts = [spread_out(mlr._F[:, layout.columns(level)], h.boundaries[level], layout.zoff[level])
             for level in range(layout.L)]
    return (np.concatenate(p) for p in zip(*parts, strict=True))


def expanded_matrix(self: MLR) -> sp.csc_array:
    """Sparse ``[[diag(D), F], [Fᵀ, -I]]``, F spread out; A is its Schur complement.

    Returns
    -------
    scipy.sparse.csc_array, shape (n + s, n + s)
        Features in feature order, then the ``s = Σ p_l r_l`` factors, level by level.
    """
    n, s = self._layout.n, self._layout.s
    i, j, v = _spread(self)
    F = sp.coo_array((v, (self.hierarchy.permutation[i], j)), shape=(n, s))
    ones = sp.eye_array(s, dtype=self.dtype)
    return sp.block_array([[sp.diags_array(self.D), F], [F.T, -ones]], format="csc")


def expanded_cholesky(self: MLR) -> tuple[sp.csc_array, FloatArray, IntArray]:
    """Factor the expanded matrix, ``E[order][:, order] = L diag(d) Lᵀ``, with zero fill.

    Returns
    -------
    L : scipy.sparse.csc_array, shape (n + s, n + s)
        Unit lower triangular, at most ``n + n R + Σ p_l r_l R_l`` nonzeros.
    d : ndarray, shape (n + s,)
        Pivots: D > 0 for the features, negative for the factors.
    order : ndarray of int, shape (n + s,)
        Elimination order: features, then factors from the finest level to the coarsest.

    Notes
    -----
    Once the features are eliminated, ``-(I + Fᵀ D⁻¹ F)`` stands where E has -I: L has entries
    for pairs of factors that share features, which E has not.  All others would be fill, and
    eliminating the factors adds none (Parshakova et al., 2024).
    """
    layout, R = self._layout, self._layout.R
    n, s, L = layout.n, layout.s, layout.L
    K = self._factor.K if R else np.empty((0, 0), self.dtype)
    # place[node row] is the position of a factor in the elimination order, finest level first.
    levels = [np.arange(layout.zoff[lv], layout.zoff[lv + 1]) for lv in range(L)]
    factors = np.concatenate(levels[::-1])
    place = np.empty(s, dtype=np.intp)
    place[factors] = n + np.arange(s)

    triplets = []

    def enter(*entries):
        triplets.append([x.ravel() for x in np.broadcast_arrays(*entries)])

    enter(np.arange(n + s), np.arange(n + s), np.ones((), self.dtype))
    i, j, v = _spread(self)
    enter(place[j], i, v * self._dinv[i])
    pivots = np.empty(s, self.dtype)
    for level in range(L):
        c0, c1 = int(layout.cols[level]), int(layout.cols[level + 1])
        r, nodes = c1 - c0, layout.node_rows(level)
        if r == 0:
            continue
        block = K[nodes].reshape(-1, r, R)  # one a group
        diag = block[:, np.arange(r), c0 + np.arange(r)]  # of C
        pivots[nodes] = -np.square(diag).ravel()
        own = place[nodes].reshape(-1, r)
        a, b = np.triu_indices(r, 1)  # columns a of C, scaled to a unit diagonal
        enter(own[:, b], own[:, a], block[:, b, c0 + a] / diag[:, a])
        ancestors = place[layout.path_rows(layout.first_leaves[level][:-1])[:, :c0]]
        enter(ancestors[:, None, :], own[:, :, None], block[:, :, :c0] / diag[:, :, None])  # Xᵀ
    i, j, v = (np.concatenate(part) for part in zip(*triplets, strict=True))
    lower = sp.coo_array((v, (i, j)), shape=(n + s, n + s)).tocsc()
    order = np.concatenate([self.hierarchy.permutation, n + factors])
    return lower, np.concatenate([self._d, pivots[factors]]), order
