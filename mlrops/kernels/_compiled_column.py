"""Compiled sweeps of one right-hand side: leaf product and tree in one loop over the leaves.

A product with one vector is bound by memory: the loop reads each row of F once on the way up and
once on the way down, and nothing else of that size.  Columns go in vectors, see `_lanes`.
"""

import numpy as np

from ._compiled_rows import ROWS
from ._compiled_short import four_dots, plus_four
from ._jit import as_written, jit, part
from ._lanes import (
    V,
    add,
    axpy,
    fma,
    leading,
    load,
    product,
    store,
    store_column,
    times,
    total,
    zeros,
)

_U = np.uint64  # see `_compiled_short`
_ONE, _TWO, _THREE = _U(1), _U(2), _U(3)


@part
def squared(x, scale, lo, hi, norms):
    """Add the squares of x and of ``diag(scale)^½ x`` on the rows lo:hi to norms (2,)."""
    end = _U(hi)
    plain = zeros(x)
    weighted = zeros(x)
    i = _U(lo)
    while i < end:
        v = load(x, i, end - i)
        if scale.size > 0:
            weighted = fma(weighted, product(v, load(scale, i, end - i)), v)
        plain = fma(plain, v, v)
        i += V
    norms[0] += total(plain)
    norms[1] += total(weighted)


@part
def rows_up(F, scale, x, lo, hi, T, place, norms):
    """T[place] += Fᵀ diag(scale) x over the rows lo:hi; an empty scale means ones.

    The squares of x and of ``diag(scale)^½ x`` are added to norms (2,).
    """
    R = _U(F.shape[1])
    end = _U(hi)
    t0 = _U(place) * R
    start = _U(lo)
    while start < end:
        stop = min(start + ROWS, end)
        j = _U(0)
        while j < R:  # three vectors at a time, of which the last ones may be empty
            n = R - j
            m = n - min(n, V)
            k = m - min(m, V)
            t = load(T, t0 + j, n)
            u = load(T, t0 + j + V, m)
            v = load(T, t0 + j + V + V, k)
            for i in range(start, stop):
                a = x[i] * scale[i] if scale.size > 0 else x[i]
                f = i * R + j
                t = axpy(t, a, load(F, f, n))
                u = axpy(u, a, load(F, f + V, m))
                v = axpy(v, a, load(F, f + V + V, k))
            store(T, t0 + j, n, t)
            store(T, t0 + j + V, m, u)
            store(T, t0 + j + V + V, k, v)
            j += V + V + V
        start = stop
    squared(x, scale, lo, hi, norms)


@part
def rows_down(F, p, x, z, sign, solve, lo, hi, out, norms):
    """out = p x + sign F z, or p (x - F z) when `solve`, on the rows lo:hi.

    The squares of the result are added to norms[1].
    """
    R = _U(F.shape[1])
    end = _U(hi)
    squares = zeros(x)
    one = F.dtype.type(1)
    i = _U(lo)
    while i < end:
        n = end - i
        t = four_dots(z, _U(0), F, i * R, R, n, R)
        if solve:
            t = product(load(p, i, n), axpy(load(x, i, n), -one, t))
        else:
            t = fma(times(sign, t), load(p, i, n), load(x, i, n))
        store(out, i, n, t)
        t = leading(t, n)
        squares = fma(squares, t, t)
        i += V
    norms[1] += total(squares)


@jit
def piece_up(F, scale, x, lo, hi, T, place, norms):
    """`rows_up` for a piece of a long leaf."""
    rows_up(F, scale, x, lo, hi, T, place, norms)


@jit
def piece_down(F, p, x, z, sign, solve, lo, hi, out, norms):
    """`rows_down` for a piece of a long leaf."""
    rows_down(F, p, x, z, sign, solve, lo, hi, out, norms)


@jit
def column_up(F, scale, x, given, off, begins, tree, K, first, last, top, stack, W, U, sums,
              norms):
    """w = C⁻¹ t_own and t_anc - Xᵀ w to the parent, t = F_leafᵀ diag(scale) x; w = t_own for no K.

    An empty scale means ones.  `given` has t of the leaves, (last - first, R), or is empty.  The
    stack (L, R) is zero at the start and again at the end.  Groups of level `top` leave what they
    pass up in U, and the squares of w in sums[:, 1]; those of x and of ``diag(scale)^½ x`` are
    added to norms (2,).
    """
    path, cols, zoff = tree
    L = path.shape[1]
    R = _U(cols[L])
    bottom = _U(L - 1)
    width = _U(K.shape[1])  # of the whole tree, where this is the one above
    eliminate = K.size > 0
    zero = W.dtype.type(0)
    for q in range(first, last):
        group = _U(path[q, top])
        if given.size > 0:
            for j in range(R):
                stack[bottom, j] = given[_U(q - first), j]
        else:
            rows_up(F, scale, x, off[q], off[q + 1], stack, bottom, norms)
        squares = 0.0
        closes = max(begins[q + 1], top)
        for level in range(L - 1, closes - 1, -1):
            own = _U(level)
            c0 = _U(cols[level])
            r = _U(cols[level + 1]) - c0
            z0 = _U(zoff[level]) + _U(path[q, level]) * r
            for i in range(r):
                v = stack[own, c0 + i]
                stack[own, c0 + i] = 0
                if eliminate:
                    for m in range(i):
                        v -= K[z0 + i, c0 + m] * W[z0 + m]
                    v *= 1 / K[z0 + i, c0 + i]
                W[z0 + i] = v
                squares += v * v
            i = z0 if eliminate else z0 + r
            while i < z0 + r:  # four own factors at a time, some of which may weigh nothing
                b = min(i + _ONE, z0 + r - _ONE)
                c = min(i + _TWO, z0 + r - _ONE)
                d = min(i + _THREE, z0 + r - _ONE)
                f0 = -W[i]
                f1 = -W[b] if i + _ONE < z0 + r else zero
                f2 = -W[c] if i + _TWO < z0 + r else zero
                f3 = -W[d] if i + _THREE < z0 + r else zero
                j = _U(0)
                while j < c0:
                    n = c0 - j
                    t = plus_four(load(stack, own * R + j, n), f0, f1, f2, f3, K, i * width + j,
                                  b * width + j, c * width + j, d * width + j, n)
                    store(stack, own * R + j, n, t)
                    j += V
                i += V
            j = _U(0)
            while j < c0:
                n = c0 - j
                t = load(stack, own * R + j, n)
                store(stack, own * R + j, n, zeros(stack))
                if level > top:
                    above = (own - _ONE) * R + j
                    store(stack, above, n, add(load(stack, above, n), t))
                else:
                    store(U, group * c0 + j, n, t)
                j += V
        sums[group, 1] += squares


@jit
def column_down(F, p, x, sign, solve, coarse, parent, off, begins, tree, K, first, last, top, z, W,
                kept, out, norms):
    """z_own = C⁻ᵀ (w - X z_anc) in place of w, and ``p x + sign F z`` or ``p (x - F z)``.

    `coarse` (parents, c) has z of the levels above `top`, parent by parent.  Where `kept` (last -
    first, R) is not empty, the leaves' z are left there and no row is visited.  z (R,) is what was
    left of the last call, or anything where `first` begins a group of level `top`.  The squares of
    the result are added to norms[1].
    """
    path, cols, zoff = tree
    L = path.shape[1]
    R = _U(cols[L])
    width = _U(K.shape[1])  # of the whole tree, where this is the one above
    eliminate = K.size > 0
    for q in range(first, last):
        opens = max(begins[q], top)
        if opens == top:
            above = _U(parent[path[q, top]])
            for j in range(_U(cols[top])):
                z[j] = coarse[above, j]
        for level in range(opens, L):
            c0 = _U(cols[level])
            r = _U(cols[level + 1]) - c0
            z0 = _U(zoff[level]) + _U(path[q, level]) * r
            i = _U(0)
            while i < r and eliminate:
                t = four_dots(z, _U(0), K, (z0 + i) * width, width, r - i, c0)
                store_column(z, c0 + i, _ONE, min(r - i, V), t)
                i += V
            for back in range(r):
                i = r - _ONE - back
                v = W[z0 + i]
                if eliminate:
                    v -= z[c0 + i]
                    for m in range(i + _ONE, r):
                        v -= K[z0 + m, c0 + i] * z[c0 + m]
                    v *= 1 / K[z0 + i, c0 + i]
                    W[z0 + i] = v
                z[c0 + i] = v
        if kept.size > 0:
            for j in range(R):
                kept[_U(q - first), j] = z[j]
            continue
        rows_down(F, p, x, z, sign, solve, off[q], off[q + 1], out, norms)


_up, _down = as_written(column_up), as_written(column_down)


@jit
def column(F, p, x, sign, solve, off, begins, tree, K, room, sums, W, out):
    """`column_up` and `column_down` in one call: out = p x + sign F z, or p (x - F z) when `solve`.

    For trees that are swept in one piece; when `solve`, p scales x on the way up, too.  W is left
    with z.  The squares of x, ``diag(p)^½ x``, z and out are left in sums[:2].  room (L, R) and
    sums (2 + groups of level 0, 2) are zero at the start.
    """
    first = np.int64(0)
    last = begins.size - 1
    nothing = room[:first]  # no level is above, no leaf is long
    scale = p if solve else p[:first]
    _up(F, scale, x, nothing, off, begins, tree, K, first, last, first, room, W, nothing, sums[2:],
        sums[0])
    _down(F, p, x, sign, solve, nothing, off, off, begins, tree, K, first, last, first, room[0],
          W, nothing, out, sums[1])
    squares = 0.0
    for i in range(_U(W.size)):
        squares += np.float64(W[i]) * np.float64(W[i])
    sums[1, 0] = squares
