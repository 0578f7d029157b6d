"""Entries, blocks and the norm of a `GeneralMLR`, without the rest of the matrix."""

from typing import Any, TypeAlias

import numpy as np

from ... import kernels
from ..._common.typing import FloatArray, Indices
from .checks import as_indices

__all__ = ["block", "entries", "norm"]

GeneralMLR: TypeAlias = Any  # its file imports this one


def entries(self: GeneralMLR, i: Indices, j: Indices) -> FloatArray:
    """The entries ``A[i, j]`` of pairs of indices.

    Parameters
    ----------
    i, j : array_like of int, any shapes that broadcast to one
        Rows and columns; negative ones count from the end.

    Returns
    -------
    ndarray, shape that of the pairs

    Raises
    ------
    IndexError
        Out of range.
    """
    i, j = np.broadcast_arrays(as_indices(i, self.shape[0], "i"), as_indices(j, self.shape[1], "j"))
    p, q = self.rows._position[i.ravel()], self.cols._position[j.ravel()]
    out = np.empty(p.size, self.dtype)
    step = max(1, kernels.paired.BATCH_ITEMS // max(1, self._B.shape[1]))
    for start in range(0, out.size, step):
        part = slice(start, start + step)
        shared = _path(self.rows, p[part]) == _path(self.cols, q[part])
        shared = np.repeat(shared, self.ranks, axis=1).astype(self.dtype)
        out[part] = np.einsum("kr,kr,kr->k", self._B[p[part]], self._C[q[part]], shared)
    return out.reshape(i.shape)


def _path(hierarchy, position):
    """Groups of every level, (k, L), of tree positions."""
    return hierarchy._paths[np.searchsorted(hierarchy.boundaries[-1], position, side="right") - 1]


def block(self: GeneralMLR, rows: Indices | slice = slice(None),
          cols: Indices | slice = slice(None)) -> FloatArray:
    """The dense submatrix of some rows and columns; no other entry is formed.

    Parameters
    ----------
    rows, cols : slice or array_like of int, shapes (a,) and (b,)
        In the order wanted, repetitions allowed; negative ones count from the end.

    Returns
    -------
    ndarray, shape (a, b)

    Raises
    ------
    IndexError, TypeError
        Out of range, or not integers; masks are not taken.
    """
    p, row_off, back = _in_order(self.rows, as_indices(rows, self.shape[0], "rows", ndim=1))
    q, col_off, across = _in_order(self.cols, as_indices(cols, self.shape[1], "cols", ndim=1))
    dense = kernels.paired.assemble(self._B[p], self._C[q], self._columns, row_off, col_off)
    return dense[back[:, None], across]


def _in_order(hierarchy, features):
    """Tree positions of features in increasing order, the groups' offsets among them, way back."""
    p = hierarchy._position[features]
    order = np.argsort(p, kind="stable")
    p, back = p[order], np.empty_like(order)
    back[order] = np.arange(order.size)
    return p, [np.searchsorted(p, offsets) for offsets in hierarchy.boundaries], back


def norm(self: GeneralMLR) -> float:
    """Frobenius norm, from Gram matrices of the factors (float).

    Notes
    -----
    ``‖A‖² = Σ tr(B_hᵀ B_g C_gᵀ C_h)`` over pairs of nested groups g ⊇ h, restricted to the rows
    and columns of h; in float64.  Exact but for rounding: where levels cancel, the absolute
    error is √eps times the norm of the levels apart.
    """
    units = [float(np.abs(X).max(initial=0)) for X in (self._B, self._C)]
    total, columns = 0.0, self._columns
    if not all(units):
        return total
    levels = zip(columns[:-1], columns[1:], self.rows.boundaries, self.cols.boundaries, strict=True)
    for start, stop, row_off, col_off in levels:
        if start < stop:
            product = kernels.paired.grams(self._B, row_off, start, stop, units[0])
            product *= kernels.paired.grams(self._C, col_off, start, stop, units[1])
            total += 2 * product[:, :start].sum() + product[:, start:].sum()
    return float(units[0] * units[1] * np.sqrt(max(total, 0.0)))
