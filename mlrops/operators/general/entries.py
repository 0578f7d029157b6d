"""Entries, blocks and the norm of a `GeneralMLR`, without the rest of the matrix."""

import numpy as np

from ... import kernels
from .checks import as_indices

__all__ = ["block", "entries", "norm"]


def entries(A, i, j):
    """See `GeneralMLR.entries`: ``A_ij = Σ_l B_il · C_jl`` over levels whose group i, j share."""
    i, j = np.broadcast_arrays(as_indices(i, A.shape[0], "i"), as_indices(j, A.shape[1], "j"))
    p, q = A.rows._position[i.ravel()], A.cols._position[j.ravel()]
    out = np.empty(p.size, A.dtype)
    step = max(1, kernels.paired.BATCH_ITEMS // max(1, A._B.shape[1]))
    for start in range(0, out.size, step):
        part = slice(start, start + step)
        shared = _path(A.rows, p[part]) == _path(A.cols, q[part])
        shared = np.repeat(shared, A.ranks, axis=1).astype(A.dtype)
        out[part] = np.einsum("kr,kr,kr->k", A._B[p[part]], A._C[q[part]], shared)
    return out.reshape(i.shape)


def _path(hierarchy, position):
    """Groups of every level, (k, L), of tree positions."""
    return hierarchy._paths[np.searchsorted(hierarchy.boundaries[-1], position, side="right") - 1]


def block(A, rows, cols):
    """See `GeneralMLR.block`."""
    p, row_off, back = _in_order(A.rows, as_indices(rows, A.shape[0], "rows", ndim=1))
    q, col_off, across = _in_order(A.cols, as_indices(cols, A.shape[1], "cols", ndim=1))
    dense = kernels.paired.assemble(A._B[p], A._C[q], A._columns, row_off, col_off)
    return dense[back[:, None], across]


def _in_order(hierarchy, features):
    """Tree positions of features in increasing order, the groups' offsets among them, way back."""
    p = hierarchy._position[features]
    order = np.argsort(p, kind="stable")
    p, back = p[order], np.empty_like(order)
    back[order] = np.arange(order.size)
    return p, [np.searchsorted(p, offsets) for offsets in hierarchy.boundaries], back


def norm(A):
    """See `GeneralMLR.norm`."""
    units = [float(np.abs(X).max(initial=0)) for X in (A._B, A._C)]
    total, columns = 0.0, A._columns
    if not all(units):
        return total
    levels = zip(columns[:-1], columns[1:], A.rows.boundaries, A.cols.boundaries, strict=True)
    for start, stop, row_off, col_off in levels:
        if start < stop:
            product = kernels.paired.grams(A._B, row_off, start, stop, units[0])
            product *= kernels.paired.grams(A._C, col_off, start, stop, units[1])
            total += 2 * product[:, :start].sum() + product[:, start:].sum()
    return float(units[0] * units[1] * np.sqrt(max(total, 0.0)))
