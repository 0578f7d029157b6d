"""Blocks ``B_g C_gᵀ`` on the paired groups of two trees of one shape: batched dense linear algebra.

Rows of B (m, r) and C (n, r) are in tree order; group g of a level owns the rows
``row_offsets[g]:row_offsets[g + 1]`` of B and ``col_offsets[g]:col_offsets[g + 1]`` of C.  Batches
are of groups of one shape, so that no loop runs over many small groups.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from .._common.typing import FloatArray, IntArray
from .groups import by_size, signs_of

__all__ = ["assemble", "by_shape", "eigen_blocks", "grams", "singular_blocks"]

# Numbers in the largest temporary of a batch (16 MB in float64).
BATCH_ITEMS = 2_000_000


def by_shape(row_offsets: IntArray, col_offsets: IntArray, width: int = 1
             ) -> Iterator[tuple[IntArray, IntArray, IntArray]]:
    """Yield (rows (g, a), cols (g, b), groups (g,)): g pairs of groups of a rows and b columns.

    Pairs with an empty side are left out.  Batches keep ``g (a + b) width`` and ``g a b`` bounded.
    """
    shapes = np.stack([np.diff(row_offsets), np.diff(col_offsets)])
    kept = np.flatnonzero(shapes.all(axis=0))
    if not kept.size:
        return
    shapes = shapes[:, kept]
    order = np.lexsort(shapes)
    edges = np.flatnonzero(np.diff(shapes[:, order], axis=1).any(axis=0)) + 1
    for same in np.split(order, edges):
        a, b = (int(size) for size in shapes[:, same[0]])
        step = max(1, BATCH_ITEMS // max(a * b, (a + b) * width))
        for start in range(0, same.size, step):
            groups = kept[same[start : start + step]]
            yield (row_offsets[groups][:, None] + np.arange(a),
                   col_offsets[groups][:, None] + np.arange(b), groups)


def _take(X, rows):
    """``X[rows]``, a view where the batch is one group: rows (g, a) are runs of row numbers."""
    return X[rows[0, 0] : rows[0, -1] + 1][None] if len(rows) == 1 else X[rows]


def assemble(B: FloatArray, C: FloatArray, columns: IntArray, row_offsets: Sequence[IntArray],
             col_offsets: Sequence[IntArray]) -> FloatArray:
    """The dense ``Σ_l B_l C_lᵀ`` (m, n); level l owns ``columns[l]:columns[l + 1]`` of B and C."""
    out = np.zeros((len(B), len(C)), B.dtype)
    levels = zip(columns[:-1], columns[1:], row_offsets, col_offsets, strict=True)
    for start, stop, row_off, col_off in levels:
        if start == stop:
            continue
        for rows, cols, _ in by_shape(row_off, col_off, stop - start):
            left, right = _take(B[:, start:stop], rows), _take(C[:, start:stop], cols)
            if len(rows) > 1:  # groups of one level do not overlap
                out[rows[:, :, None], cols[:, None, :]] += np.matmul(left, right.swapaxes(1, 2))
                continue
            block = out[rows[0, 0] : rows[0, -1] + 1, cols[0, 0] : cols[0, -1] + 1]
            step = max(1, BATCH_ITEMS // cols.shape[1])
            for i in range(0, rows.shape[1], step):
                block[i : i + step] += left[0, i : i + step] @ right[0].T
    return out


def grams(F: FloatArray, offsets: IntArray, start: int, stop: int, unit: float) -> FloatArray:
    """G (p, stop, stop - start): ``F_g[:, :stop]ᵀ F_g[:, start:stop] / unit²`` in float64."""
    G = np.empty((len(offsets) - 1, stop, stop - start))
    for rows, groups in by_size(offsets, max(1, BATCH_ITEMS // stop)):
        X = _take(F[:, :stop], rows).astype(np.float64) / unit
        G[groups] = np.matmul(X.swapaxes(1, 2), X[:, :, start:])
    return G


def singular_blocks(B: FloatArray, C: FloatArray, row_offsets: IntArray, col_offsets: IntArray
                    ) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Singular value decompositions of all blocks of a level, from the QR of both sides.

    Returns ``left_g = U √σ`` (m, r) and ``right_g = V √σ`` (n, r), largest σ first, with zero
    columns behind the last, and σ (p, r).  The entry of largest magnitude of each column of `left`
    is positive.
    """
    p, r = len(row_offsets) - 1, B.shape[1]
    left, right, sigma = np.zeros_like(B), np.zeros_like(C), np.zeros((p, r), B.dtype)
    for rows, cols, groups in by_shape(row_offsets, col_offsets, r):
        Q1, R1 = np.linalg.qr(_take(B, rows))
        Q2, R2 = np.linalg.qr(_take(C, cols))
        U, s, Vt = np.linalg.svd(np.matmul(R1, R2.swapaxes(1, 2)), full_matrices=False)
        k, root = s.shape[1], np.sqrt(s)[:, None, :]
        U, V = np.matmul(Q1, U) * root, np.matmul(Q2, Vt.swapaxes(1, 2)) * root
        signs = signs_of(U)
        left[rows, :k], right[cols, :k], sigma[groups, :k] = U * signs, V * signs, s
    return left, right, sigma


def eigen_blocks(B: FloatArray, C: FloatArray, offsets: IntArray
                 ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Eigendecompositions of the blocks of a level, where they are symmetric.

    Returns ``axes_g = Q √|λ|`` (n, r), largest |λ| first, so that ``block = axes_g diag(sign λ)
    axes_gᵀ``; λ (p, r), with zeros behind the last; bounds of ``‖block - blockᵀ‖`` (p,) and the
    norms of the blocks (p,), both in the Frobenius norm.
    """
    p, r = len(offsets) - 1, B.shape[1]
    axes, values = np.zeros_like(B), np.zeros((p, r), B.dtype)
    asymmetry, size = np.zeros(p, B.dtype), np.zeros(p, B.dtype)
    for rows, groups in by_size(offsets, max(1, BATCH_ITEMS // max(r, 1))):
        Q, R = np.linalg.qr(_take(B, rows))
        X = _take(C, rows)
        core = np.matmul(Q.swapaxes(1, 2), X)  # Qᵀ C
        outside = np.linalg.norm(np.matmul(R, (X - np.matmul(Q, core)).swapaxes(1, 2)), axis=(1, 2))
        K = np.matmul(R, core.swapaxes(1, 2))  # Qᵀ (B Cᵀ) Q
        Kt = K.swapaxes(1, 2)
        asymmetry[groups] = np.linalg.norm(K - Kt, axis=(1, 2)) + 2 * outside
        size[groups] = np.hypot(np.linalg.norm(K, axis=(1, 2)), outside)
        w, V = np.linalg.eigh((K + Kt) / 2)
        order = np.argsort(-np.abs(w), axis=1, kind="stable")
        w, V = np.take_along_axis(w, order, 1), np.take_along_axis(V, order[:, None, :], 2)
        U = np.matmul(Q, V) * np.sqrt(np.abs(w))[:, None, :]
        k = w.shape[1]
        axes[rows, :k], values[groups, :k] = U * signs_of(U), w
    return axes, values, asymmetry, size
