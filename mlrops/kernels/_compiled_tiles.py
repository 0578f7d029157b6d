"""Compiled products of large leaves with many columns, tile by tile.

A tile's product goes to BLAS.  It is small enough that BLAS takes it in the thread it is called
from, whatever it was told, and that the copies around it stay in cache; the loop needs no GIL.
"""

import numpy as np

from ._jit import jit


@jit
def tiles_tdot(F, scale, x, lo, hi, rows, columns, room, T, sums):
    """T (R, k) = Fᵀ diag(scale) x over the rows lo:hi; an empty scale means ones.

    Adds the squares of x and of diag(scale)^½ x to sums (2, k).  `room` has ``(rows + R) columns``
    numbers.
    """
    R, k = T.shape
    scaled = scale.size > 0
    one = F.dtype.type(1)
    for c0 in range(0, k, columns):
        width = min(columns, k - c0)
        for j in range(R):
            for c in range(width):
                T[j, c0 + c] = 0
        for a in range(lo, hi, rows):
            m = min(rows, hi - a)
            part = room[: m * width].reshape(m, width)
            found = room[rows * columns : rows * columns + R * width].reshape(R, width)
            for i in range(m):
                s = scale[a + i] if scaled else one
                for c in range(width):
                    v = x[a + i, c0 + c]
                    part[i, c] = s * v
                    sums[0, c0 + c] += v * v
                    sums[1, c0 + c] += s * v * v
            np.dot(F[a : a + m].T, part, found)
            for j in range(R):
                for c in range(width):
                    T[j, c0 + c] += found[j, c]


@jit
def tiles_dot(F, Z, p, x, sign, solve, lo, hi, rows, columns, room, out, sums):
    """out = p x + sign F Z, or p (x - F Z) when `solve`, on the rows lo:hi; Z is (R, k).

    Adds the squares of the result to sums (k,).
    """
    R, k = Z.shape
    for c0 in range(0, k, columns):
        width = min(columns, k - c0)
        own = room[rows * columns : rows * columns + R * width].reshape(R, width)
        for j in range(R):
            for c in range(width):
                own[j, c] = Z[j, c0 + c]
        for a in range(lo, hi, rows):
            m = min(rows, hi - a)
            part = room[: m * width].reshape(m, width)
            np.dot(F[a : a + m], own, part)
            for i in range(m):
                f = p[a + i]
                for c in range(width):
                    v = x[a + i, c0 + c]
                    v = f * (v - part[i, c]) if solve else f * v + sign * part[i, c]
                    out[a + i, c0 + c] = v
                    sums[c0 + c] += v * v
