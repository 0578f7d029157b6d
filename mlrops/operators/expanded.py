"""The expanded matrix of an MLR operator and its sparse factorization, as SciPy sparse arrays."""

import numpy as np
import scipy.sparse as sp

__all__ = ["expanded_cholesky", "expanded_matrix"]


def _spread(mlr, rows, scale=None):
    """F_spread (n, s) as COO triplets; row i of the tree-ordered F goes to ``rows[i]``."""
    layout, F = mlr._layout, mlr._F
    sizes = np.diff(layout.leaf_off)
    parts = []
    for level in range(layout.L):
        c0, c1 = layout.cols[level], layout.cols[level + 1]
        group = np.repeat(layout.path[:, level], sizes)
        col = layout.zoff[level] + group[:, None] * (c1 - c0) + np.arange(c1 - c0)
        val = F[:, c0:c1] if scale is None else F[:, c0:c1] * scale[:, None]
        parts.append((np.broadcast_to(rows[:, None], val.shape).ravel(), col.ravel(), val.ravel()))
    i, j, v = (np.concatenate(p) for p in zip(*parts, strict=True))
    return i, j, v


def expanded_matrix(mlr):
    """See `MLR.expanded_matrix`."""
    n, s = mlr._layout.n, mlr._layout.s
    i, j, v = _spread(mlr, mlr.hierarchy.permutation)
    F = sp.coo_array((v, (i, j)), shape=(n, s))
    ones = sp.eye_array(s, dtype=mlr.dtype)
    return sp.block_array([[sp.diags_array(mlr.D), F], [F.T, -ones]], format="csc")


def expanded_cholesky(mlr):
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
    i, j, v = _spread(mlr, np.arange(n), mlr._dinv)
    rows.append(place[j])
    cols.append(i)
    vals.append(v)
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
