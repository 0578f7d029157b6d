"""Leaf products: `FᵀX`, `F Z`, the Gram matrix and the EM regression, leaf by leaf.

Large leaves go to BLAS (through NumPy, which uses both cores), small ones to a compiled loop that
threads share.  A product with one vector is bound by memory and always takes the loop.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from .._common.typing import FloatArray
from . import _compiled_rows, threads
from .layout import Layout, make_layout
from .scratch import scratch

__all__ = ["dot", "each", "gram", "gram_and_tdot", "gram_of_all", "regress", "tdot"]

# Multiply-adds per leaf from which a BLAS call wins over the compiled loop, its ~2 µs included.
BLAS_WORK = 30_000
# Columns below which a product reads F so rarely that the loop keeps up with BLAS.
BLAS_COLUMNS = 4
# Rows of F that are scaled at a time: chunk, its scaled copy and the result stay in cache.
CHUNK = 4096

_NO_SCALE = {np.dtype(t): np.empty(0, t) for t in (np.float32, np.float64)}


def is_large(size: Any, R: int, k: int) -> Any:
    """Whether leaves of `size` rows go to BLAS in products with k columns."""
    return (size * (R * k) >= BLAS_WORK) & (k >= BLAS_COLUMNS)


def _large(layout, lo, hi, k):
    """Numbers of the leaves in lo:hi that go to BLAS in products with k columns."""
    sizes = layout.leaf_off[lo + 1 : hi + 1] - layout.leaf_off[lo:hi]
    return lo + np.flatnonzero(is_large(sizes, layout.R, k))


def _small_runs(large, lo, hi):
    """The ranges of leaves between the large ones."""
    edges = np.concatenate([[lo - 1], large, [hi]])
    for a, b in zip(edges[:-1] + 1, edges[1:], strict=True):
        if a < b:
            yield int(a), int(b)


def _chunks(layout, q, k):
    """Slices of equal length, at most CHUNK, that cover leaf q, for products with k columns."""
    return _slices(layout, q, threads.blas_rows(layout.R * k, CHUNK))


def each(layout: Layout, lo: int, hi: int, k: int, small: Callable[[int, int], object],
         large: Callable[[int, slice], object], work: int, chunk: int | None = None) -> None:
    """Products with k columns on the leaves lo:hi: by threads and a loop, or by BLAS.

    Calls ``small(i, j)``, of `work` multiply-adds a row, on ranges of leaves too small for BLAS,
    and ``large(q, rows)`` on slices of the rows of each of the others, short enough for products
    with `chunk` columns, by default k.
    """
    blas, off = _large(layout, lo, hi, k), layout.leaf_off
    for a, b in _small_runs(blas, lo, hi):
        threads.run(small, off, a, b, int(off[b] - off[a]) * work)
    for q in blas:
        for rows in _chunks(layout, q, chunk or k):
            large(q, rows)


def _slices(layout, q, most):
    """Slices of equal length, at most `most`, that cover leaf q."""
    lo, hi = int(layout.leaf_off[q]), int(layout.leaf_off[q + 1])
    parts = -(-(hi - lo) // most)
    for j in range(parts):
        yield slice(lo + j * (hi - lo) // parts, lo + (j + 1) * (hi - lo) // parts)


def _add(out, A, B, number):
    """out = A B for the first of several terms, out += A B for the others."""
    if number == 0:
        np.matmul(A, B, out=out)
    else:
        out += np.matmul(A, B, out=scratch("product", out.shape, out.dtype))


def _scaled(F, scale, rows):
    """diag(scale) F on a slice of rows, good until the next call."""
    out = scratch("scaled rows", (rows.stop - rows.start, F.shape[1]), F.dtype)
    _compiled_rows.rows_scale(F, scale, rows.start, rows.stop, out)
    return out


def _add_square(out, X, number):
    """out = XᵀX for the first of several terms, out += XᵀX for the others.

    Cut as in `_chunks`, but in one call: many short ones would wait for those of other threads.
    """
    m, R = X.shape
    rows = min(m, threads.blas_rows(R * R, CHUNK))
    whole = m // rows
    parts = X[: whole * rows].reshape(whole, rows, R)
    products = scratch("squares", (whole, R, R), X.dtype)
    np.matmul(parts.transpose(0, 2, 1), parts, out=products)
    if number == 0:
        np.sum(products, axis=0, out=out)
    else:
        out += products.sum(axis=0)
    if whole * rows < m:
        rest = X[whole * rows :]
        out += rest.T @ rest


def tdot(F: FloatArray, x: FloatArray, layout: Layout, lo: int, hi: int,
         scale: FloatArray | None = None, out: FloatArray | None = None) -> FloatArray:
    """T (hi - lo, R, k): ``F_leafᵀ diag(scale) x`` of the leaves lo:hi, x (n, k)."""
    k, R = x.shape[1], F.shape[1]
    T = np.empty((hi - lo, R, k), F.dtype) if out is None else out
    blas = _large(layout, lo, hi, k)
    s = _NO_SCALE[F.dtype] if scale is None else scale
    for a, b in _small_runs(blas, lo, hi):
        pa, pb = int(layout.first_piece[a]), int(layout.first_piece[b])
        whole = pb - pa == b - a  # every leaf is one piece: write where it belongs
        P = T[a - lo : b - lo] if whole else np.empty((pb - pa, R, k), F.dtype)
        off = layout.piece_off[pa : pb + 1]

        def kernel(i, j, P=P, off=off):
            if k == 1:
                _compiled_rows.rows_tdot_vector(F, s, x[:, 0], off, i, j, P[:, :, 0])
            else:
                _compiled_rows.rows_tdot(F, s, x, off, i, j, P)

        threads.run(kernel, off, 0, pb - pa, int(off[-1] - off[0]) * R * k)
        if not whole:
            np.add.reduceat(P, layout.first_piece[a:b] - pa, axis=0, out=T[a - lo : b - lo])
    for q in blas:
        for number, rows in enumerate(_chunks(layout, q, k)):
            X = F[rows] if scale is None else _scaled(F, scale, rows)
            _add(T[q - lo], X.T, x[rows], number)
    return T


def dot(F: FloatArray, Z: FloatArray, x: FloatArray, p: FloatArray, layout: Layout, lo: int,
        hi: int, out: FloatArray, sign: float = 1.0, solve: bool = False) -> None:
    """out = ``p x + sign F z`` on the rows of leaves lo:hi, or ``p (x - F z)`` when `solve`.

    Z is (hi - lo, R, k), one block a leaf.
    """
    k, R = x.shape[1], F.shape[1]
    blas = _large(layout, lo, hi, k)
    sign = F.dtype.type(sign)
    off, owner = layout.piece_off, layout.piece_leaf

    def kernel(i, j):
        if k == 1:
            _compiled_rows.rows_dot_vector(
                F, Z[:, :, 0], owner, lo, p, x[:, 0], off, i, j, sign, solve, out[:, 0])
        else:
            _compiled_rows.rows_dot(F, Z, owner, lo, p, x, off, i, j, sign, solve, out)

    for a, b in _small_runs(blas, lo, hi):
        pa, pb = int(layout.first_piece[a]), int(layout.first_piece[b])
        threads.run(kernel, off, pa, pb, int(off[pb] - off[pa]) * R * k)
    for q in blas:
        for rows in _chunks(layout, q, k):
            Fz = F[rows] @ Z[q - lo]
            if solve:
                np.subtract(x[rows], Fz, out=Fz)
                np.multiply(Fz, p[rows, None], out=out[rows])
            else:
                np.multiply(x[rows], p[rows, None], out=out[rows])
                out[rows] += np.multiply(Fz, sign, out=Fz)


def gram(F: FloatArray, scale: FloatArray, layout: Layout, lo: int, hi: int,
         out: FloatArray | None = None) -> FloatArray:
    """G (hi - lo, R, R): ``F_leafᵀ diag(scale) F_leaf``; the lower triangle is what counts."""
    R = F.shape[1]
    G = np.empty((hi - lo, R, R), F.dtype) if out is None else out
    blas, off = _large(layout, lo, hi, R), layout.leaf_off
    for a, b in _small_runs(blas, lo, hi):
        threads.run(lambda i, j: _compiled_rows.rows_gram(F, scale, off, lo, i, j, G),
                    off, a, b, int(off[b] - off[a]) * R * R // 2)
    if len(blas):
        root = np.sqrt(scale)
        for q in blas:  # Xᵀ X with X = diag(scale)^{1/2} F is a symmetric rank-k product
            for number, rows in enumerate(_slices(layout, q, CHUNK)):
                _add_square(G[q - lo], _scaled(F, root, rows), number)
    return G


def gram_of_all(F: FloatArray, scale: FloatArray) -> FloatArray:
    """`gram` (R, R) of all rows as one leaf; for a short one a fraction of the calls."""
    n, R = F.shape
    if is_large(n, R, R):
        return gram(F, scale, make_layout([np.array([0, n])], np.zeros((1, 1), int), [R]), 0, 1)[0]
    G = np.empty((1, R, R), F.dtype)
    _compiled_rows.rows_gram(F, scale, np.array([0, n]), 0, 0, 1, G)
    return G[0]


def gram_and_tdot(F: FloatArray, scale: FloatArray, x: FloatArray, layout: Layout, lo: int, hi: int,
                  G: FloatArray, T: FloatArray) -> None:
    """`gram` and `tdot` with one scale at once: large leaves are read and scaled once."""
    if not is_large(np.diff(layout.leaf_off[lo : hi + 1]), F.shape[1], F.shape[1]).all():
        gram(F, scale, layout, lo, hi, G)
        tdot(F, x, layout, lo, hi, scale, T)
        return
    root = np.sqrt(scale)
    for q in range(lo, hi):
        for number, rows in enumerate(_chunks(layout, q, max(F.shape[1], x.shape[1]))):
            X = _scaled(F, root, rows)
            _add(G[q - lo], X.T, X, number)  # a symmetric rank-k product
            _compiled_rows.rows_scale(X, root[rows], 0, len(X), X)
            _add(T[q - lo], X.T, x[rows], number)


def regress(Y: FloatArray, Z: FloatArray, Winv: FloatArray, yy: FloatArray, n_samples: float,
            layout: Layout, lo: int, hi: int, F: FloatArray, D: FloatArray) -> None:
    """M-step on the rows of leaves lo:hi, in place: ``F ← V W⁻¹``, ``D ← (yy - rowsum F∘V) / N``.

    V = Y Zᵀ, Y (n, k) the data, Z (leaves, R, k) the posterior means, Winv (leaves, R, R), yy (n,)
    the features' sums of squares, N = `n_samples`.
    """
    N, R = Y.shape[1], F.shape[1]

    def small(i, j):
        _compiled_rows.rows_regress(Y, Z, Winv, yy, n_samples, layout.leaf_off, lo, i, j, F, D)

    def large(q, s):
        # Transposed, (R, rows): BLAS is fastest where the long side is contiguous.
        V, B = scratch("moments", (2, R, s.stop - s.start), F.dtype)
        np.matmul(Z[q - lo], Y[s].T, out=V)
        np.matmul(Winv[q - lo], V, out=B)
        F[s] = B.T
        np.subtract(yy[s], np.einsum("ji,ji->i", B, V), out=D[s])
        D[s] /= n_samples

    each(layout, lo, hi, N, small, large, R * (N + R), max(N, R))
