"""Compiled loops over the rows of F, leaf by leaf.

All two- and three-dimensional arrays are C-contiguous.  Columns go in vectors, see `_lanes`; tiles
of four of them are kept in registers while a loop runs along what is summed over.
"""

import numpy as np

from ._compiled_short import cleared, dot, store_rows, tile
from ._jit import jit, part
from ._lanes import V, axpy, fma, load, store, times, totals, zeros

_U = np.uint64  # see `_compiled_short`
_ONE, _TWO, _THREE = _U(1), _U(2), _U(3)
ROWS = _U(16)  # rows of F, of many columns, that stay in cache


@jit
def rows_tdot(F, scale, x, off, first, lo, hi, T, sums):
    """T[q - first] = Fᵀ diag(scale) x over the rows of leaf q, (R, k); an empty scale means ones.

    Adds the squares of x and of diag(scale)^½ x to sums (2, k), if that is not empty.
    """
    R = _U(F.shape[1])
    k = _U(x.shape[1])
    for q in range(lo, hi):
        start = _U(off[q])
        end = _U(off[q + 1])
        t = _U(q - first) * R * k
        c = _U(0)
        while c < k:  # tiles of four columns of F and two vectors of x
            n = k - c
            m = n - min(n, V)
            j = _U(0)
            while j < R:
                j1 = min(j + _ONE, R - _ONE)
                j2 = min(j + _TWO, R - _ONE)
                j3 = min(j + _THREE, R - _ONE)
                s0 = t0 = zeros(F)
                s1 = t1 = zeros(F)
                s2 = t2 = zeros(F)
                s3 = t3 = zeros(F)
                for i in range(start, end):
                    y = load(x, i * k + c, n)
                    w = load(x, i * k + c + V, m)
                    if scale.size > 0:
                        y = times(scale[i], y)
                        w = times(scale[i], w)
                    s0 = axpy(s0, F[i, j], y)
                    s1 = axpy(s1, F[i, j1], y)
                    s2 = axpy(s2, F[i, j2], y)
                    s3 = axpy(s3, F[i, j3], y)
                    t0 = axpy(t0, F[i, j], w)
                    t1 = axpy(t1, F[i, j1], w)
                    t2 = axpy(t2, F[i, j2], w)
                    t3 = axpy(t3, F[i, j3], w)
                at = t + j * k + c
                store_rows(T, at, k, R - j, n, s0, s1, s2, s3)
                store_rows(T, at + V, k, R - j, m, t0, t1, t2, t3)
                j += V
            c += V + V
        if sums.size > 0:
            for i in range(start, end):
                s = scale[i] if scale.size > 0 else F.dtype.type(1)
                for c in range(k):
                    v = x[i, c] * x[i, c]
                    sums[0, c] += v
                    sums[1, c] += s * v


@jit
def rows_dot(F, Z, first, p, x, off, lo, hi, sign, solve, out, sums):
    """out = p x + sign F z, or p (x - F z) when `solve`; z (R, k) is the row's leaf's block.

    Adds the squares of the result to sums (k,), if that is not empty.
    """
    R = _U(F.shape[1])
    k = _U(x.shape[1])
    if solve:
        sign = F.dtype.type(-1)
    for q in range(lo, hi):
        end = _U(off[q + 1])
        z = _U(q - first) * R * k
        c = _U(0)
        while c < k:  # tiles of four rows and two vectors
            n = k - c
            m = n - min(n, V)
            i = _U(off[q])
            while i < end:
                i1 = min(i + _ONE, end - _ONE)
                i2 = min(i + _TWO, end - _ONE)
                i3 = min(i + _THREE, end - _ONE)
                s0 = t0 = zeros(F)
                s1 = t1 = zeros(F)
                s2 = t2 = zeros(F)
                s3 = t3 = zeros(F)
                for j in range(R):
                    y = load(Z, z + j * k + c, n)
                    w = load(Z, z + j * k + c + V, m)
                    s0 = axpy(s0, F[i, j], y)
                    s1 = axpy(s1, F[i1, j], y)
                    s2 = axpy(s2, F[i2, j], y)
                    s3 = axpy(s3, F[i3, j], y)
                    t0 = axpy(t0, F[i, j], w)
                    t1 = axpy(t1, F[i1, j], w)
                    t2 = axpy(t2, F[i2, j], w)
                    t3 = axpy(t3, F[i3, j], w)
                put(p, x, i, c, n, sign, solve, s0, out)
                put(p, x, i, c + V, m, sign, solve, t0, out)
                if i1 > i:
                    put(p, x, i1, c, n, sign, solve, s1, out)
                    put(p, x, i1, c + V, m, sign, solve, t1, out)
                if i2 > i1:
                    put(p, x, i2, c, n, sign, solve, s2, out)
                    put(p, x, i2, c + V, m, sign, solve, t2, out)
                if i3 > i2:
                    put(p, x, i3, c, n, sign, solve, s3, out)
                    put(p, x, i3, c + V, m, sign, solve, t3, out)
                i += V
            c += V + V
        if sums.size > 0:
            for i in range(_U(off[q]), end):
                for c in range(k):
                    sums[c] += out[i, c] * out[i, c]


@part
def put(p, x, i, c, n, sign, solve, t, out):
    """out = p x + sign t in row i, or p (x + sign t) when `solve`, on n columns from c on."""
    at = i * _U(x.shape[1]) + c
    if solve:
        t = times(p[i], axpy(load(x, at, n), sign, t))
    else:
        t = axpy(times(p[i], load(x, at, n)), sign, t)
    store(out, at, n, t)


@part
def add_gram(F, scale, lo, hi, G, place):
    """G[place] += Fᵀ diag(scale) F over the rows lo:hi, lower triangle.

    In tiles of four rows and columns; of those on the diagonal the rest is added, too.
    """
    R = _U(F.shape[1])
    end = _U(hi)
    start = _U(lo)
    while start < end:
        stop = min(start + ROWS, end)
        a = _U(0)
        while a < R:
            b = min(a + _ONE, R - _ONE)
            c = min(a + _TWO, R - _ONE)
            d = min(a + _THREE, R - _ONE)
            j = _U(0)
            while j <= a:
                t0 = zeros(F)
                t1 = zeros(F)
                t2 = zeros(F)
                t3 = zeros(F)
                for i in range(start, stop):
                    f = times(scale[i], load(F, i * R + j, R - j))
                    t0 = axpy(t0, F[i, a], f)
                    t1 = axpy(t1, F[i, b], f)
                    t2 = axpy(t2, F[i, c], f)
                    t3 = axpy(t3, F[i, d], f)
                tile(G, (_U(place) * R + a) * R + j, R, R - a, R - j, t0, t1, t2, t3)
                j += V
            a += V
        start = stop


@jit
def rows_gram(F, scale, off, first, lo, hi, G):
    """G[q - first] = F_leafᵀ diag(scale) F_leaf, lower triangle."""
    R = _U(F.shape[1])
    for q in range(lo, hi):
        g = _U(q - first)
        cleared(G, g * R * R, R * R)
        add_gram(F, scale, off[q], off[q + 1], G, g)


@jit
def rows_regress(Y, Z, Winv, yy, N, off, first, lo, hi, room, F, D):
    """Per row i of a leaf: v = Z y_i, F_i = W⁻¹ v, D_i = (yy_i - F_i·v) / N; z is (R, k).

    Four rows at a time; `room` is (4, R).
    """
    R = _U(F.shape[1])
    k = _U(Y.shape[1])
    for q in range(lo, hi):
        z = _U(q - first)
        end = _U(off[q + 1])
        i = _U(off[q])
        while i < end:
            rows = min(end - i, V)
            b = _U(0)
            while b < rows:  # tiles of two rows of Y and four of Z
                y0 = (i + b) * k
                y1 = min(i + b + _ONE, end - _ONE) * k
                j = _U(0)
                while j < R:
                    z0 = (z * R + j) * k
                    z1 = (z * R + min(j + _ONE, R - _ONE)) * k
                    z2 = (z * R + min(j + _TWO, R - _ONE)) * k
                    z3 = (z * R + min(j + _THREE, R - _ONE)) * k
                    s0 = t0 = zeros(F)
                    s1 = t1 = zeros(F)
                    s2 = t2 = zeros(F)
                    s3 = t3 = zeros(F)
                    c = _U(0)
                    while c < k:
                        n = k - c
                        v = load(Y, y0 + c, n)
                        w = load(Y, y1 + c, n)
                        f = load(Z, z0 + c, n)
                        s0 = fma(s0, v, f)
                        t0 = fma(t0, w, f)
                        f = load(Z, z1 + c, n)
                        s1 = fma(s1, v, f)
                        t1 = fma(t1, w, f)
                        f = load(Z, z2 + c, n)
                        s2 = fma(s2, v, f)
                        t2 = fma(t2, w, f)
                        f = load(Z, z3 + c, n)
                        s3 = fma(s3, v, f)
                        t3 = fma(t3, w, f)
                        c += V
                    store(room, b * R + j, R - j, totals(s0, s1, s2, s3))
                    store(room, (b + _ONE) * R + j, R - j, totals(t0, t1, t2, t3))
                    j += V
                b += _TWO
            j = _U(0)
            while j < R:
                t0 = zeros(F)
                t1 = zeros(F)
                t2 = zeros(F)
                t3 = zeros(F)
                for a in range(R):
                    w = load(Winv, (z * R + a) * R + j, R - j)
                    t0 = axpy(t0, room[_U(0), a], w)
                    t1 = axpy(t1, room[_ONE, a], w)
                    t2 = axpy(t2, room[_TWO, a], w)
                    t3 = axpy(t3, room[_THREE, a], w)
                store_rows(F, i * R + j, R, rows, R - j, t0, t1, t2, t3)
                j += V
            for b in range(rows):
                D[i + b] = (yy[i + b] - dot(F, (i + b) * R, room, b * R, R)) / N
            i += V


# ------------------------------------------------------------------ around products by BLAS


@jit
def rows_scaled(x, scale, lo, hi, out, sums):
    """out[:hi - lo] = diag(scale) x on the rows lo:hi; an empty scale means ones.

    Adds the squares of x and of diag(scale)^½ x to sums (2, k), if that is not empty.
    """
    k = _U(x.shape[1])
    start = _U(lo)
    one = x.dtype.type(1)
    for i in range(start, _U(hi)):
        s = scale[i] if scale.size > 0 else one
        for c in range(k):
            out[i - start, c] = s * x[i, c]
        if sums.size > 0:
            for c in range(k):
                sums[0, c] += x[i, c] * x[i, c]
                sums[1, c] += s * x[i, c] * x[i, c]


@jit
def rows_rooted(F, scale, lo, hi, out, most):
    """out[:hi - lo] = diag(scale)^½ F on the rows lo:hi; most[0] is no less than their squares."""
    R = _U(F.shape[1])
    start = _U(lo)
    largest = 0.0
    for i in range(start, _U(hi)):
        root = np.sqrt(scale[i])
        square = root * 0
        for j in range(R):
            v = root * F[i, j]
            out[i - start, j] = v
            square += v * v
        largest = max(largest, square)
    most[0] = max(most[0], largest)


@jit
def rows_finish(p, x, sign, solve, lo, hi, out, sums):
    """out = p x + sign out on the rows lo:hi, or p (x - out) when `solve`.

    Adds the squares of the result to sums (k,), if that is not empty.
    """
    k = _U(x.shape[1])
    for i in range(_U(lo), _U(hi)):
        f = p[i]
        if solve:
            for c in range(k):
                out[i, c] = f * (x[i, c] - out[i, c])
        else:
            for c in range(k):
                out[i, c] = f * x[i, c] + sign * out[i, c]
        if sums.size > 0:
            for c in range(k):
                sums[c] += out[i, c] * out[i, c]
