"""Compiled sweeps of one right-hand side: leaf product and tree in one loop over the leaves.

A product with one vector is bound by memory: the loop reads each row of F once on the way up and
once on the way down, and nothing else of that size.  Indices are unsigned: for signed ones numba
looks whether they count from the end, which keeps loops from being vectorized as they could be.
"""

import numpy as np

from ._jit import _njit, jit

_U = np.uint64
_ONE, _TWO, _THREE, _FOUR = _U(1), _U(2), _U(3), _U(4)


@jit
def rows_up(F, scale, x, lo, hi, T, place, norms):
    """T[place] += Fᵀ diag(scale) x over the rows lo:hi; an empty scale means ones.

    The squares of x and of ``diag(scale)^½ x`` are added to norms (2,).
    """
    R = _U(F.shape[1])
    scaled = scale.size > 0
    zero = T.dtype.type(0)
    plain = 0.0
    weighted = 0.0
    i = _U(lo)
    end = _U(hi)
    while i < end:  # four rows at a time; behind the last, rows that weigh nothing
        b = min(i + _ONE, end - _ONE)
        c = min(i + _TWO, end - _ONE)
        d = min(i + _THREE, end - _ONE)
        x0 = x[i]
        x1 = x[b] if i + _ONE < end else zero
        x2 = x[c] if i + _TWO < end else zero
        x3 = x[d] if i + _THREE < end else zero
        plain += x0 * x0 + x1 * x1 + x2 * x2 + x3 * x3
        if scaled:
            y0 = x0 * scale[i]
            y1 = x1 * scale[b]
            y2 = x2 * scale[c]
            y3 = x3 * scale[d]
            weighted += x0 * y0 + x1 * y1 + x2 * y2 + x3 * y3
            x0, x1, x2, x3 = y0, y1, y2, y3
        for j in range(R):
            T[place, j] += F[i, j] * x0 + F[b, j] * x1 + F[c, j] * x2 + F[d, j] * x3
        i += _FOUR
    norms[0] += plain
    norms[1] += weighted


@jit
def rows_down(F, p, x, z, sign, solve, lo, hi, out, norms):
    """out = p x + sign F z, or p (x - F z) when `solve`, on the rows lo:hi.

    The squares of the result are added to norms[1].
    """
    R = _U(F.shape[1])
    zero = z.dtype.type(0)
    squares = 0.0
    for i in range(_U(lo), _U(hi)):
        v = zero
        for j in range(R):
            v += F[i, j] * z[j]
        v = p[i] * (x[i] - v) if solve else p[i] * x[i] + sign * v
        out[i] = v
        squares += v * v
    norms[1] += squares


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
    leaf = _U(L - 1)
    eliminate = K.size > 0
    zero = W.dtype.type(0)
    for q in range(first, last):
        group = _U(path[q, top])
        if given.size > 0:
            for j in range(R):
                stack[leaf, j] = given[_U(q - first), j]
        else:
            rows_up(F, scale, x, off[q], off[q + 1], stack, leaf, norms)
        squares = 0.0
        closes = max(begins[q + 1], top)
        for level in range(L - 1, closes - 1, -1):
            own = _U(level)
            c0 = _U(cols[level])
            r = _U(cols[level + 1]) - c0
            z0 = _U(zoff[level]) + _U(path[q, level]) * r
            for i in range(r):
                v = stack[own, c0 + i]
                stack[own, c0 + i] = zero
                if eliminate:
                    for m in range(i):
                        v -= K[z0 + i, c0 + m] * W[z0 + m]
                    v /= K[z0 + i, c0 + i]
                W[z0 + i] = v
                squares += v * v
            if eliminate:
                i = _U(0)
                while i < r:  # two own factors at a time
                    m = min(i + _ONE, r - _ONE)
                    v = W[z0 + i]
                    u = W[z0 + m] if i + _ONE < r else zero
                    for j in range(c0):
                        stack[own, j] -= K[z0 + i, j] * v + K[z0 + m, j] * u
                    i += _TWO
            if level > top:
                for j in range(c0):
                    stack[own - _ONE, j] += stack[own, j]
                    stack[own, j] = zero
            else:
                for j in range(c0):
                    U[group, j] = stack[own, j]
                    stack[own, j] = zero
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
            for back in range(r):
                i = r - _ONE - back
                v = W[z0 + i]
                if eliminate:
                    for j in range(c0):
                        v -= K[z0 + i, j] * z[j]
                    for m in range(i + _ONE, r):
                        v -= K[z0 + m, c0 + i] * z[c0 + m]
                    v /= K[z0 + i, c0 + i]
                    W[z0 + i] = v
                z[c0 + i] = v
        if kept.size > 0:
            for j in range(R):
                kept[_U(q - first), j] = z[j]
            continue
        rows_down(F, p, x, z, sign, solve, off[q], off[q + 1], out, norms)


# Taken in as they are written, before anything is compiled: who needs `column` alone waits for
# neither of them.
_up, _down = (_njit(inline="always")(sweep.py_func) for sweep in (column_up, column_down))


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
