"""The expanded matrix of an MLR operator and its sparse factorization, as SciPy sparse arrays."""

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import scipy.sparse as sp

from .._common.typing import FloatArray, IntArray

if TYPE_CHECKING:
    from .mlr import MLR

__all__ = ["expanded_cholesky", "expanded_matrix", "spread_out"]

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
    layout, columns, h = mlr._layout, mlr._layout.cols, mlr.hierarchy
    parts = [spread_out(mlr._F[:, columns[level]:columns[level + 1]], h.boundaries[level],
                        layout.zoff[level]) for level in range(layout.L)]
    return (np.concatenate(p) for p in zip(*parts, strict=True))


def expanded_matrix(mlr: "MLR") -> sp.csc_array:
    """See `MLR.expanded_matrix`."""
    n, s = mlr._layout.n, mlr._layout.s
    i, j, v = _spread(mlr)
    F = sp.coo_array((v, (mlr.hierarchy.permutation[i], j)), shape=(n, s))
    ones = sp.eye_array(s, dtype=mlr.dtype)
    return sp.block_array([[sp.diags_array(mlr.D), F], [F.T, -ones]], format="csc")


def expanded_cholesky(mlr: "MLR") -> tuple[sp.csc_array, FloatArray, IntArray]:
    """See `MLR.expanded_cholesky`.

    Eliminating the features leaves ``-(I + Fᵀ D⁻¹ F) = -M Mᵀ``; in leaf-first order M is lower
    triangular with C on the diagonal and Xᵀ in a node's column, below it.
    """
    layout, R = mlr._layout, mlr._layout.R
    n, s, L = layout.n, layout.s, layout.L
    K = mlr._factor[0] if R else np.empty((0, 0), mlr.dtype)
    # place[node row] is the position of a factor in the elimination order, finest level first.
    levels = [np.arange(layout.zoff[lv], layout.zoff[lv + 1]) for lv in range(L)]
    factors = np.concatenate(levels[::-1])
    place = np.empty(s, dtype=np.intp)
    place[factors] = n + np.arange(s)

    rows = [np.arange(n + s)]
    cols = [np.arange(n + s)]
    vals = [np.ones(n + s, mlr.dtype)]
    i, j, v = _spread(mlr)
    rows.append(place[j])
    cols.append(i)
    vals.append(v * mlr._dinv[i])
    pivots = np.empty(s, mlr.dtype)
    for level in range(L):
        c0, c1 = int(layout.cols[level]), int(layout.cols[level + 1])
        r, p = c1 - c0, int((layout.zoff[level + 1] - layout.zoff[level]) // max(c1 - c0, 1))
        if r == 0:
            continue
        block = K[layout.zoff[level] : layout.zoff[level + 1]].reshape(p, r, R)
        diag = block[:, np.arange(r), c0 + np.arange(r)]  # (p, r): of C
        pivots[layout.zoff[level] : layout.zoff[level + 1]] = -np.square(diag).ravel()
        own = layout.zoff[level] + np.arange(p)[:, None] * r + np.arange(r)  # (p, r)
        for a in range(r):  # column a of C, scaled to a unit diagonal
            for b in range(a + 1, r):
                rows.append(place[own[:, b]])
                cols.append(place[own[:, a]])
                vals.append(block[:, b, c0 + a] / diag[:, a])
        if c0:
            leaf = np.searchsorted(layout.path[:, level], np.arange(p))
            for up in range(level):  # Xᵀ, ancestor by ancestor
                u0, u1 = int(layout.cols[up]), int(layout.cols[up + 1])
                anc = layout.zoff[up] + layout.path[leaf, up][:, None] * (u1 - u0)
                anc = anc + np.arange(u1 - u0)  # (p, r_up)
                shape = (p, r, u1 - u0)
                rows.append(np.broadcast_to(place[anc][:, None, :], shape).ravel())
                cols.append(np.broadcast_to(place[own][:, :, None], shape).ravel())
                vals.append((block[:, :, u0:u1] / diag[:, :, None]).ravel())
    lower = sp.coo_array(
        (np.concatenate(vals), (np.concatenate(rows), np.concatenate(cols))), shape=(n + s, n + s)
    ).tocsc()
    order = np.concatenate([mlr.hierarchy.permutation, n + factors])
    return lower, np.concatenate([mlr._d, pivots[factors]]), order
