"""Compiled loops over the rows of F, leaf by leaf.

All two- and three-dimensional arrays are C-contiguous.  The inner loops run along the columns of F
or along the ancestors' columns, which are contiguous, so that they vectorize.
"""

import numpy as np

from ._jit import jit


@jit
def rows_tdot(F, scale, x, off, first, lo, hi, T, sums):
    """T[q - first] = Fᵀ diag(scale) x over the rows of leaf q, (R, k); an empty scale means ones.

    Adds the squares of x and of diag(scale)^½ x to sums (2, k).
    """
    k, R = x.shape[1], F.shape[1]
    scaled = scale.size > 0
    one = F.dtype.type(1)
    zero = F.dtype.type(0)
    for q in range(lo, hi):
        t = T[q - first]
        for j in range(R):
            for c in range(k):
                t[j, c] = 0
        i = off[q]
        end = off[q + 1]
        while i < end:  # four rows at a time: one load and store of t for four of x
            i1 = min(i + 1, end - 1)
            i2 = min(i + 2, end - 1)
            i3 = min(i + 3, end - 1)
            s0 = scale[i] if scaled else one
            s1 = (scale[i1] if scaled else one) if i + 1 < end else zero
            s2 = (scale[i2] if scaled else one) if i + 2 < end else zero
            s3 = (scale[i3] if scaled else one) if i + 3 < end else zero
            for j in range(R):
                f0 = s0 * F[i, j]
                f1 = s1 * F[i1, j]
                f2 = s2 * F[i2, j]
                f3 = s3 * F[i3, j]
                for c in range(k):
                    t[j, c] += f0 * x[i, c] + f1 * x[i1, c] + f2 * x[i2, c] + f3 * x[i3, c]
            for a in range(i, min(i + 4, end)):
                s = scale[a] if scaled else one
                for c in range(k):
                    v = x[a, c] * x[a, c]
                    sums[0, c] += v
                    sums[1, c] += s * v
            i += 4


@jit
def rows_dot(F, Z, first, p, x, off, lo, hi, sign, solve, out, sums):
    """out = p x + sign F z, or p (x - F z) when `solve`; z (R, k) is the row's leaf's block.

    Adds the squares of the result to sums (k,).
    """
    k, R = x.shape[1], F.shape[1]
    for q in range(lo, hi):
        z = Z[q - first]
        for i in range(off[q], off[q + 1]):
            o = out[i]
            for c in range(k):
                o[c] = 0
            j = 0
            while j + 4 <= R:
                f0 = F[i, j]
                f1 = F[i, j + 1]
                f2 = F[i, j + 2]
                f3 = F[i, j + 3]
                for c in range(k):
                    o[c] += f0 * z[j, c] + f1 * z[j + 1, c] + f2 * z[j + 2, c] + f3 * z[j + 3, c]
                j += 4
            while j < R:
                f0 = F[i, j]
                for c in range(k):
                    o[c] += f0 * z[j, c]
                j += 1
            f = p[i]
            for c in range(k):
                v = f * (x[i, c] - o[c]) if solve else f * x[i, c] + sign * o[c]
                o[c] = v
                sums[c] += v * v


@jit
def rows_gram(F, scale, off, first, lo, hi, G):
    """G[q - first] = F_leafᵀ diag(scale) F_leaf, lower triangle."""
    R = F.shape[1]
    zero = F.dtype.type(0)
    for q in range(lo, hi):
        A = G[q - first]
        i = off[q]
        end = off[q + 1]
        start = True
        while i < end:  # four rows at a time; behind the last, rows that weigh nothing
            b = min(i + 1, end - 1)
            c = min(i + 2, end - 1)
            d = min(i + 3, end - 1)
            s0 = scale[i]
            s1 = scale[b] if i + 1 < end else zero
            s2 = scale[c] if i + 2 < end else zero
            s3 = scale[d] if i + 3 < end else zero
            for a in range(R):
                f0 = s0 * F[i, a]
                f1 = s1 * F[b, a]
                f2 = s2 * F[c, a]
                f3 = s3 * F[d, a]
                if start:
                    for j in range(a + 1):
                        A[a, j] = f0 * F[i, j] + f1 * F[b, j] + f2 * F[c, j] + f3 * F[d, j]
                else:
                    for j in range(a + 1):
                        A[a, j] += f0 * F[i, j] + f1 * F[b, j] + f2 * F[c, j] + f3 * F[d, j]
            start = False
            i += 4


@jit
def rows_regress(Y, Z, Winv, yy, N, off, first, lo, hi, F, D):
    """Per row i of a leaf: v = Z y_i, F_i = W⁻¹ v, D_i = (yy_i - F_i·v) / N; z is (R, k)."""
    k, R = Y.shape[1], F.shape[1]
    v = np.empty(R, F.dtype)
    for q in range(lo, hi):
        z = Z[q - first]
        W = Winv[q - first]
        for i in range(off[q], off[q + 1]):
            for j in range(R):
                s = F.dtype.type(0)
                for c in range(k):
                    s += Y[i, c] * z[j, c]
                v[j] = s
            s = F.dtype.type(0)
            for j in range(R):
                f = F.dtype.type(0)
                for a in range(R):
                    f += W[j, a] * v[a]
                F[i, j] = f
                s += f * v[j]
            D[i] = (yy[i] - s) / N
