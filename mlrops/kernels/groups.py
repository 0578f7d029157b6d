"""Singular value decompositions group by group, batched over groups of equal size."""

from collections.abc import Iterator

import numpy as np

from .._common.typing import FloatArray, IntArray

__all__ = ["by_size", "principal_axes", "signs_of"]


def by_size(offsets: IntArray, largest: int = 50_000_000) -> Iterator[tuple[IntArray, IntArray]]:
    """Yield (rows, groups): `rows` (g, m) are the row numbers of g groups that all have m rows.

    Batches are cut so that ``g m`` stays below `largest`.
    """
    sizes = np.diff(offsets)
    order = np.argsort(sizes, kind="stable")
    edges = np.flatnonzero(np.diff(sizes[order])) + 1
    for groups in np.split(order, edges):
        m = int(sizes[groups[0]])
        step = max(1, largest // max(m, 1))
        for start in range(0, groups.size, step):
            batch = groups[start : start + step]
            yield offsets[batch][:, None] + np.arange(m), batch


def signs_of(U: FloatArray) -> FloatArray:
    """Signs (g, 1, r) that make the entry of largest magnitude of each column of U positive."""
    peak = np.take_along_axis(U, np.abs(U).argmax(axis=1)[:, None, :], axis=1)
    return np.where(peak < 0, -1, 1).astype(U.dtype)


def principal_axes(F: FloatArray, offsets: IntArray) -> tuple[FloatArray, FloatArray]:
    """Rotate the columns of every group of rows to principal axes.

    Returns ``B_g = F_g V_g`` (n, r) with orthogonal columns, longest first and the entry of largest
    magnitude of each positive, so that ``B_g B_gᵀ = F_g F_gᵀ``; and the lengths of the columns (p,
    r), the singular values of F_g with zeros behind them.
    """
    p, r = len(offsets) - 1, F.shape[1]
    B = np.empty_like(F)
    sigma = np.zeros((p, r), F.dtype)
    if r == 0:
        return B, sigma
    for rows, groups in by_size(offsets):
        block = F[rows]  # (g, m, r)
        m = rows.shape[1]
        # V from the triangular factor: the SVD of an r×r matrix, at full relative accuracy.
        core = np.linalg.qr(block, mode="r") if m > r else block
        _, s, Vt = np.linalg.svd(core, full_matrices=True)
        kept = s.shape[1]
        axes = np.matmul(block, Vt.swapaxes(1, 2))
        axes[:, :, kept:] = 0
        B[rows] = axes * signs_of(axes)
        sigma[groups, :kept] = s
    return B, sigma
