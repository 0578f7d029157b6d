"""Compiled loops over the rows of F, leaf by leaf.

All two- and three-dimensional arrays are C-contiguous.  The inner loops run along the columns of F
or along the ancestors' columns, which are contiguous, so that they vectorize.
"""

import numpy as np

from ._jit import jit

_U = np.uint64  # see `_compiled_sweeps`
_ONE, _TWO, _THREE, _FOUR = _U(1), _U(2), _U(3), _U(4)


@jit
def rows_tdot(F, scale, x, off, first, lo, hi, T, sums):
    """T[q - first] = Fᵀ diag(scale) x over the rows of leaf q, (R, k); an empty scale means ones.

    Adds the squares of x and of diag(scale)^½ x to sums (2, k), if that is not empty.
    """
    R = _U(F.shape[1])
    k = _U(x.shape[1])
    scaled = scale.size > 0
    one = F.dtype.type(1)
    zero = F.dtype.type(0)
    for q in range(lo, hi):
        t = _U(q - first)
        i = _U(off[q])
        end = _U(off[q + 1])
        start = True
        while i < end:  # four rows at a time; behind the last, rows that weigh nothing
            b = min(i + _ONE, end - _ONE)
            d = min(i + _TWO, end - _ONE)
            e = min(i + _THREE, end - _ONE)
            s0 = scale[i] if scaled else one
            s1 = scale[b] if scaled else one
            s2 = scale[d] if scaled else one
            s3 = scale[e] if scaled else one
            if i + _ONE >= end:
                s1 = zero
            if i + _TWO >= end:
                s2 = zero
            if i + _THREE >= end:
                s3 = zero
            for j in range(R):
                f0 = s0 * F[i, j]
                f1 = s1 * F[b, j]
                f2 = s2 * F[d, j]
                f3 = s3 * F[e, j]
                if start:
                    for c in range(k):
                        T[t, j, c] = f0 * x[i, c] + f1 * x[b, c] + f2 * x[d, c] + f3 * x[e, c]
                else:
                    for c in range(k):
                        T[t, j, c] += f0 * x[i, c] + f1 * x[b, c] + f2 * x[d, c] + f3 * x[e, c]
            start = False
            i += _FOUR
        if sums.size > 0:
            for i in range(_U(off[q]), end):
                s0 = scale[i] if scaled else one
                for c in range(k):
                    v = x[i, c] * x[i, c]
                    sums[0, c] += v
                    sums[1, c] += s0 * v


@jit
def rows_dot(F, Z, first, p, x, off, lo, hi, sign, solve, out, sums):
    """out = p x + sign F z, or p (x - F z) when `solve`; z (R, k) is the row's leaf's block.

    Adds the squares of the result to sums (k,), if that is not empty.
    """
    R = _U(F.shape[1])
    k = _U(x.shape[1])
    zero = F.dtype.type(0)
    for q in range(lo, hi):
        z = _U(q - first)
        for i in range(_U(off[q]), _U(off[q + 1])):
            for c in range(k):
                out[i, c] = zero
            j = _U(0)
            while j + _FOUR <= R:
                f0 = F[i, j]
                f1 = F[i, j + _ONE]
                f2 = F[i, j + _TWO]
                f3 = F[i, j + _THREE]
                for c in range(k):
                    out[i, c] += (f0 * Z[z, j, c] + f1 * Z[z, j + _ONE, c]
                                  + f2 * Z[z, j + _TWO, c] + f3 * Z[z, j + _THREE, c])
                j += _FOUR
            while j < R:
                f0 = F[i, j]
                for c in range(k):
                    out[i, c] += f0 * Z[z, j, c]
                j += _ONE
            f0 = p[i]
            if solve:
                for c in range(k):
                    out[i, c] = f0 * (x[i, c] - out[i, c])
            else:
                for c in range(k):
                    out[i, c] = f0 * x[i, c] + sign * out[i, c]
            if sums.size > 0:
                for c in range(k):
                    sums[c] += out[i, c] * out[i, c]


@jit
def add_gram(F, scale, lo, hi, G, place):
    """G[place] += Fᵀ diag(scale) F over the rows lo:hi, lower triangle."""
    R = _U(F.shape[1])
    zero = F.dtype.type(0)
    i = _U(lo)
    end = _U(hi)
    while i < end:  # four rows at a time; behind the last, rows that weigh nothing
        b = min(i + _ONE, end - _ONE)
        c = min(i + _TWO, end - _ONE)
        d = min(i + _THREE, end - _ONE)
        s0 = scale[i]
        s1 = scale[b] if i + _ONE < end else zero
        s2 = scale[c] if i + _TWO < end else zero
        s3 = scale[d] if i + _THREE < end else zero
        for a in range(R):
            f0 = s0 * F[i, a]
            f1 = s1 * F[b, a]
            f2 = s2 * F[c, a]
            f3 = s3 * F[d, a]
            for j in range(a + _ONE):
                G[place, a, j] += f0 * F[i, j] + f1 * F[b, j] + f2 * F[c, j] + f3 * F[d, j]
        i += _FOUR


@jit
def rows_gram(F, scale, off, first, lo, hi, G):
    """G[q - first] = F_leafᵀ diag(scale) F_leaf, lower triangle."""
    R = _U(F.shape[1])
    for q in range(lo, hi):
        g = _U(q - first)
        for a in range(R):
            for j in range(a + _ONE):
                G[g, a, j] = 0
        add_gram(F, scale, off[q], off[q + 1], G, g)


@jit
def rows_regress(Y, Z, Winv, yy, N, off, first, lo, hi, room, F, D):
    """Per row i of a leaf: v = Z y_i, F_i = W⁻¹ v, D_i = (yy_i - F_i·v) / N; z is (R, k).

    Two rows at a time; `room` is (2, R).
    """
    R = _U(F.shape[1])
    k = _U(Y.shape[1])
    zero = F.dtype.type(0)
    for q in range(lo, hi):
        z = _U(q - first)
        end = _U(off[q + 1])
        i = _U(off[q])
        while i < end:
            b = min(i + _ONE, end - _ONE)
            for j in range(R):
                s = zero
                t = zero
                for c in range(k):
                    s += Y[i, c] * Z[z, j, c]
                    t += Y[b, c] * Z[z, j, c]
                room[0, j] = s
                room[1, j] = t
            s = zero
            t = zero
            for j in range(R):
                f = zero
                g = zero
                for a in range(R):
                    f += Winv[z, j, a] * room[0, a]
                    g += Winv[z, j, a] * room[1, a]
                F[i, j] = f
                F[b, j] = g
                s += f * room[0, j]
                t += g * room[1, j]
            D[i] = (yy[i] - s) / N
            D[b] = (yy[b] - t) / N
            i += _TWO


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
