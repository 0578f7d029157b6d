"""Leaf products: `FᵀX`, `F Z`, the Gram matrix and the EM regression, leaf by leaf.

Large leaves go to BLAS (through NumPy, which uses both cores), small ones to a compiled loop that
threads share.  A product with one vector is bound by memory and always takes the loop.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from .._common.typing import FloatArray
from . import _compiled_column, _compiled_rows, threads
from .layout import CACHE_ITEMS, PIECE_ROWS, Layout, make_layout
from .scratch import none, scratch

__all__ = ["all_small", "dot", "each", "gram", "gram_of_all", "long_dot", "long_gram",
           "long_tdot", "regress", "tdot"]

# Multiply-adds per leaf from which a BLAS call wins over the compiled loop, its ~2 µs included.
BLAS_WORK = 30_000
# Columns below which a product reads F so rarely that the loop keeps up with BLAS.
BLAS_COLUMNS = 2
# Rows of F that are scaled at a time: chunk, its scaled copy and the result stay in cache.
CHUNK = 4096
_NO_LEAVES = np.zeros(0, np.int64)


def is_large(size: Any, R: int, k: int) -> Any:
    """Whether leaves of `size` rows go to BLAS in products with k columns."""
    return (size * (R * k) >= BLAS_WORK) & (k >= BLAS_COLUMNS)


def _large(layout, lo, hi, k):
    """Numbers of the leaves in lo:hi that go to BLAS in products with k columns."""
    if not is_large(layout.largest, layout.R, k):
        return _NO_LEAVES
    return lo + np.flatnonzero(is_large(layout.sizes[lo:hi], layout.R, k))


def _apart(layout, lo, hi, k):
    """Numbers of the leaves in lo:hi that are too large for the loops over small ones."""
    if not layout.long.size:
        return _large(layout, lo, hi, k)
    sizes = layout.sizes[lo:hi]
    return lo + np.flatnonzero(is_large(sizes, layout.R, k) | (sizes > layout.long_rows))


def all_small(layout: Layout, lo: int, hi: int) -> bool:
    """Whether none of the leaves lo:hi has a Gram matrix that is work for BLAS, or shared."""
    return not _apart(layout, lo, hi, layout.R).size


def _small_runs(large, lo, hi):
    """The ranges of leaves between the large ones."""
    if not large.size:
        if lo < hi:
            yield lo, hi
        return
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


def _square(X, out):
    """out = XᵀX, a symmetric rank-k product.

    Cut as in `_chunks`, but in one call: many short ones would wait for those of other threads.
    """
    m, R = X.shape
    rows = min(m, threads.blas_rows(R * R, CHUNK))
    whole = m // rows
    parts = X[: whole * rows].reshape(whole, rows, R)
    products = scratch("squares", (whole, R, R), X.dtype)
    np.matmul(parts.transpose(0, 2, 1), parts, out=products)
    np.sum(products, axis=0, out=out)
    if whole * rows < m:
        rest = X[whole * rows :]
        out += rest.T @ rest


def tdot(F: FloatArray, x: FloatArray, layout: Layout, lo: int, hi: int,
         scale: FloatArray | None = None, out: FloatArray | None = None,
         long: FloatArray | None = None, sums: FloatArray | None = None) -> FloatArray:
    """T (hi - lo, R, k): ``F_leafᵀ diag(scale) x`` of the leaves lo:hi, x (n, k).

    `long` is what `long_tdot` gave, if it was called.  The squares of x and of ``diag(scale)^½ x``
    are added to `sums` (2, k).
    """
    k, R, off = x.shape[1], F.shape[1], layout.leaf_off
    T = np.empty((hi - lo, R, k), F.dtype) if out is None else out
    s = none(F.dtype, 1) if scale is None else scale
    if long is None:
        long = long_tdot(F, x, layout, scale, sums)
    sums = none(np.float64) if sums is None else sums
    apart = _apart(layout, lo, hi, k)
    for a, b in _small_runs(apart, lo, hi):
        _compiled_rows.rows_tdot(F, s, x, off, lo, a, b, T, sums)
    for q, place in zip(apart, np.searchsorted(layout.long, apart), strict=True):
        if layout.sizes[q] > layout.long_rows:
            T[q - lo] = long[place]
        else:
            _tdot_of(F, s, x, int(off[q]), int(off[q + 1]), T[q - lo], sums)
    return T


def _tdot_of(F, scale, x, lo, hi, out, sums):
    """out (R, k) = Fᵀ diag(scale) x over the rows lo:hi, chunk after chunk by BLAS."""
    R, k = out.shape
    width = threads.blas_columns(R, k)
    for number, (a, b) in enumerate(_cache_chunks(lo, hi, R, k)):
        part = x[a:b]
        if scale.size or sums.size:
            part = scratch("scaled columns", (b - a, k), F.dtype)
            _compiled_rows.rows_scaled(x, scale, a, b, part, sums)
        # Cut for BLAS, but in one call: many short ones would wait for those of other threads.
        rows = threads.blas_rows(R * width, b - a)
        if rows == hi - lo and width == k:
            np.matmul(F[a:b].T, part, out=out)
            return
        whole, rest = divmod(b - a, rows)
        products = scratch("products", (whole + (rest > 0), R, k), F.dtype)
        for c in range(0, k, width):
            own = slice(c, c + width)
            np.matmul(F[a : b - rest].reshape(whole, rows, R).transpose(0, 2, 1),
                      part[: b - a - rest].reshape(whole, rows, k)[:, :, own],
                      out=products[:whole, :, own])
            if rest:
                np.matmul(F[b - rest : b].T, part[b - a - rest :, own], out=products[whole, :, own])
        if number == 0:
            np.sum(products, axis=0, out=out)
        else:
            out += products.sum(axis=0)


def _cache_chunks(lo, hi, R, k):
    """Ranges of rows of which F, x and a result stay in cache."""
    parts = max(1, min(hi - lo, -(-(hi - lo) * (R + 2 * k) // (2 * CACHE_ITEMS))))
    for j in range(parts):
        yield lo + (hi - lo) * j // parts, lo + (hi - lo) * (j + 1) // parts


def long_tdot(F: FloatArray, x: FloatArray, layout: Layout, scale: FloatArray | None = None,
              sums: FloatArray | None = None) -> FloatArray:
    """``F_leafᵀ diag(scale) x`` (leaves, R, k) of the long leaves, whose pieces threads share."""
    k, R = x.shape[1], F.shape[1]
    if not layout.long.size:
        return np.empty((0, R, k), F.dtype)
    s = none(F.dtype, 1) if scale is None else scale
    starts, ends, owner = layout.pieces
    P = (np.zeros if k == 1 else np.empty)((owner.size, R, k), F.dtype)
    squares = np.zeros((owner.size, 2, 0 if sums is None and k > 1 else k))

    def piece(j):
        lo, hi = int(starts[j]), int(ends[j])
        if k == 1:
            _compiled_column.piece_up(F, s, x.reshape(-1), lo, hi, P.reshape(-1, R), j,
                                      squares[j].reshape(-1))
        elif is_large(PIECE_ROWS, R, k):
            _tdot_of(F, s, x, lo, hi, P[j], squares[j])
        else:
            off = np.array([lo, hi])
            _compiled_rows.rows_tdot(F, s, x, off, 0, 0, 1, P[j : j + 1], squares[j])

    _by_piece(piece, layout, R * k)
    if sums is not None:
        sums += squares.sum(axis=0)
    return _by_leaf(P, layout)


def _by_piece(piece, layout, work):
    """Call ``piece(j)``, of `work` multiply-adds a row, for all pieces, by threads."""
    starts, ends, _ = layout.pieces
    rows = np.concatenate([[0], np.cumsum(ends - starts)])

    def task(lo, hi):
        for j in range(lo, hi):
            piece(j)

    threads.run(task, rows, 0, starts.size, int(rows[-1]) * work)


def _by_leaf(P, layout):
    """Sums over the pieces of each long leaf."""
    owner = layout.pieces[2]
    return np.add.reduceat(P, np.searchsorted(owner, np.arange(layout.long.size)), axis=0)


def dot(F: FloatArray, Z: FloatArray, x: FloatArray, p: FloatArray, layout: Layout, lo: int,
        hi: int, out: FloatArray, sign: float = 1.0, solve: bool = False,
        sums: FloatArray | None = None, kept: FloatArray | None = None) -> None:
    """out = ``p x + sign F z`` on the rows of leaves lo:hi, or ``p (x - F z)`` when `solve`.

    Z is (hi - lo, R, k), one block a leaf.  The squares of the result are added to `sums` (k,).
    Blocks of long leaves are copied to `kept` (long leaves, R, k), for `long_dot`, if there is one.
    """
    k, off = x.shape[1], layout.leaf_off
    sign = F.dtype.type(sign)
    squares = none(np.float64, 1) if sums is None else sums
    apart = _apart(layout, lo, hi, k)
    for a, b in _small_runs(apart, lo, hi):
        _compiled_rows.rows_dot(F, Z, lo, p, x, off, a, b, sign, solve, out, squares)
    for q, place in zip(apart, np.searchsorted(layout.long, apart), strict=True):
        if layout.sizes[q] > layout.long_rows and kept is not None:
            kept[place] = Z[q - lo]
        else:
            _dot_of(F, Z[q - lo], p, x, sign, solve, int(off[q]), int(off[q + 1]), out, squares)


def _dot_of(F, Z, p, x, sign, solve, lo, hi, out, sums):
    """`dot` on the rows lo:hi, chunk after chunk by BLAS; Z (R, k)."""
    R, k = Z.shape
    width = threads.blas_columns(R, k)
    for a, b in _cache_chunks(lo, hi, R, k):
        rows = threads.blas_rows(R * width, b - a)
        rest = (b - a) % rows
        for c in range(0, k, width):
            own = slice(c, c + width)
            np.matmul(F[a : b - rest].reshape(-1, rows, R), Z[:, own],
                      out=out[a : b - rest].reshape(-1, rows, k)[:, :, own])
            if rest:
                np.matmul(F[b - rest : b], Z[:, own], out=out[b - rest : b, own])
        _compiled_rows.rows_finish(p, x, sign, solve, a, b, out, sums)


def long_dot(F: FloatArray, Z: FloatArray, x: FloatArray, p: FloatArray, layout: Layout,
             out: FloatArray, sign: float = 1.0, solve: bool = False,
             sums: FloatArray | None = None) -> None:
    """`dot` on the rows of the long leaves, whose pieces threads share; Z (long leaves, R, k)."""
    if not layout.long.size:
        return
    k, R = x.shape[1], F.shape[1]
    sign = F.dtype.type(sign)
    starts, ends, owner = layout.pieces
    squares = np.zeros((owner.size, 2 if k == 1 else 0 if sums is None else k))

    def piece(j):
        lo, hi, z = int(starts[j]), int(ends[j]), Z[owner[j]]
        if k == 1:
            _compiled_column.piece_down(F, p, x.reshape(-1), z.reshape(-1), sign, solve, lo, hi,
                                        out.reshape(-1), squares[j])
        elif is_large(PIECE_ROWS, R, k):
            _dot_of(F, z, p, x, sign, solve, lo, hi, out, squares[j])
        else:
            _compiled_rows.rows_dot(F, z[None], 0, p, x, np.array([lo, hi]), 0, 1, sign, solve,
                                    out, squares[j])

    _by_piece(piece, layout, R * k)
    if sums is not None:
        sums += squares.sum(axis=0)[-k:]


def gram(F: FloatArray, scale: FloatArray, layout: Layout, lo: int, hi: int,
         out: FloatArray | None = None, long: FloatArray | None = None,
         most: FloatArray | None = None) -> FloatArray:
    """G (hi - lo, R, R): ``F_leafᵀ diag(scale) F_leaf``; the lower triangle is what counts.

    `long` is what `long_gram` gave, if it was called.  most (1,) is made no less than the largest
    square of a row of ``diag(scale)^½ F``.
    """
    R = F.shape[1]
    G = np.empty((hi - lo, R, R), F.dtype) if out is None else out
    most = np.zeros(1) if most is None else most
    if long is None:
        long = long_gram(F, scale, layout, most)
    apart, off = _apart(layout, lo, hi, R), layout.leaf_off
    for a, b in _small_runs(apart, lo, hi):
        _compiled_rows.rows_gram(F, scale, off, lo, a, b, G)
        most[0] = max(most[0], np.einsum("qii->q", G[a - lo : b - lo]).max())
    for q, place in zip(apart, np.searchsorted(layout.long, apart), strict=True):
        if layout.sizes[q] > layout.long_rows:
            G[q - lo] = long[place]
        else:
            _square(_root_scaled(F, scale, int(off[q]), int(off[q + 1]), most), G[q - lo])
    return G


def _root_scaled(F, scale, lo, hi, most):
    """X = diag(scale)^½ F on the rows lo:hi, good until the next call."""
    out = scratch("scaled rows", (hi - lo, F.shape[1]), F.dtype)
    _compiled_rows.rows_rooted(F, scale, lo, hi, out, most)
    return out


def long_gram(F: FloatArray, scale: FloatArray, layout: Layout, most: FloatArray | None = None
              ) -> FloatArray:
    """``F_leafᵀ diag(scale) F_leaf`` of the long leaves, (leaves, R, R), by pieces and threads.

    `most` is as of `gram`.
    """
    R = F.shape[1]
    if not layout.long.size:
        return np.empty((0, R, R), F.dtype)
    starts, ends, owner = layout.pieces
    # Zeros, because sums over the pieces take what nobody writes above the diagonals, too.
    P, largest = np.zeros((owner.size, R, R), F.dtype), np.zeros((owner.size, 1))

    def piece(j):
        lo, hi = int(starts[j]), int(ends[j])
        if is_large(PIECE_ROWS, R, R):
            _square(_root_scaled(F, scale, lo, hi, largest[j]), P[j])
        else:
            _compiled_rows.rows_gram(F, scale, np.array([lo, hi]), 0, 0, 1, P[j : j + 1])
            largest[j] = np.trace(P[j])

    _by_piece(piece, layout, R * R)
    if most is not None:
        most[0] = max(most[0], largest.max())
    return _by_leaf(P, layout)


def gram_of_all(F: FloatArray, scale: FloatArray) -> tuple[FloatArray, float]:
    """`gram` (R, R) of all rows as one leaf, and its `most`; fewer calls for a short one."""
    n, R = F.shape
    if is_large(n, R, R):
        layout, most = make_layout([np.array([0, n])], np.zeros((1, 1), int), [R]), np.zeros(1)
        return gram(F, scale, layout, 0, 1, most=most)[0], float(most[0])
    G = np.empty((1, R, R), F.dtype)
    _compiled_rows.rows_gram(F, scale, np.array([0, n]), 0, 0, 1, G)
    return G[0], float(np.trace(G[0]))


def regress(Y: FloatArray, Z: FloatArray, Winv: FloatArray, yy: FloatArray, n_samples: float,
            layout: Layout, lo: int, hi: int, F: FloatArray, D: FloatArray) -> None:
    """M-step on the rows of leaves lo:hi, in place: ``F ← V W⁻¹``, ``D ← (yy - rowsum F∘V) / N``.

    V = Y Zᵀ, Y (n, k) the data, Z (leaves, R, k) the posterior means, Winv (leaves, R, R), yy (n,)
    the features' sums of squares, N = `n_samples`.
    """
    N, R = Y.shape[1], F.shape[1]

    def small(i, j):
        room = np.zeros((4, R), F.dtype)
        _compiled_rows.rows_regress(Y, Z, Winv, yy, n_samples, layout.leaf_off, lo, i, j, room, F,
                                    D)

    def large(q, s):
        # Transposed, (R, rows): BLAS is fastest where the long side is contiguous.
        V, B = scratch("moments", (2, R, s.stop - s.start), F.dtype)
        np.matmul(Z[q - lo], Y[s].T, out=V)
        np.matmul(Winv[q - lo], V, out=B)
        F[s] = B.T
        np.subtract(yy[s], np.einsum("ji,ji->i", B, V), out=D[s])
        D[s] /= n_samples

    each(layout, lo, hi, N, small, large, R * (N + R), max(N, R))
