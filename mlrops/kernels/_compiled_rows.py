"""Compiled loops over the rows of F, leaf by leaf.

All two- and three-dimensional arrays are C-contiguous.  The inner loops run along the columns of F
or along the ancestors' columns, which are contiguous, so that they vectorize.
"""

import numpy as np

from ._jit import jit


@jit
def rows_tdot(F, scale, x, off, lo, hi, T):
    """T[g] = Fᵀ diag(scale) x over the rows of piece g, (R, k); an empty scale means ones."""
    k, R = x.shape[1], F.shape[1]
    scaled = scale.size > 0
    one = F.dtype.type(1)
    for g in range(lo, hi):
        t = T[g]
        t[:, :] = 0
        i = off[g]
        end = off[g + 1]
        while i + 4 <= end:  # four rows at a time: one load and store of t for four of x
            s0 = scale[i] if scaled else one
            s1 = scale[i + 1] if scaled else one
            s2 = scale[i + 2] if scaled else one
            s3 = scale[i + 3] if scaled else one
            for j in range(R):
                f0 = s0 * F[i, j]
                f1 = s1 * F[i + 1, j]
                f2 = s2 * F[i + 2, j]
                f3 = s3 * F[i + 3, j]
                for c in range(k):
                    t[j, c] += f0 * x[i, c] + f1 * x[i + 1, c] + f2 * x[i + 2, c] + f3 * x[i + 3, c]
            i += 4
        while i < end:
            s0 = scale[i] if scaled else one
            for j in range(R):
                f0 = s0 * F[i, j]
                for c in range(k):
                    t[j, c] += f0 * x[i, c]
            i += 1


@jit
def rows_tdot_vector(F, scale, x, off, lo, hi, T):
    """`rows_tdot` for x (n,) and T (pieces, R): the inner loop runs along the row of F."""
    R = F.shape[1]
    scaled = scale.size > 0
    for g in range(lo, hi):
        t = T[g]
        t[:] = 0
        i = off[g]
        end = off[g + 1]
        while i + 4 <= end:
            x0 = x[i]
            x1 = x[i + 1]
            x2 = x[i + 2]
            x3 = x[i + 3]
            if scaled:
                x0 *= scale[i]
                x1 *= scale[i + 1]
                x2 *= scale[i + 2]
                x3 *= scale[i + 3]
            for j in range(R):
                t[j] += F[i, j] * x0 + F[i + 1, j] * x1 + F[i + 2, j] * x2 + F[i + 3, j] * x3
            i += 4
        while i < end:
            x0 = x[i] * scale[i] if scaled else x[i]
            for j in range(R):
                t[j] += F[i, j] * x0
            i += 1


@jit
def rows_dot(F, Z, owner, first, p, x, off, lo, hi, sign, solve, out):
    """out = p x + sign F z, or p (x - F z) when `solve`; z (R, k) is the row's leaf's block."""
    k, R = x.shape[1], F.shape[1]
    for g in range(lo, hi):
        z = Z[owner[g] - first]
        for i in range(off[g], off[g + 1]):
            o = out[i]
            o[:] = 0
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
            if solve:
                for c in range(k):
                    o[c] = p[i] * (x[i, c] - o[c])
            else:
                for c in range(k):
                    o[c] = p[i] * x[i, c] + sign * o[c]


@jit
def rows_dot_vector(F, Z, owner, first, p, x, off, lo, hi, sign, solve, out):
    """`rows_dot` for x, out (n,) and Z (leaves, R)."""
    R = F.shape[1]
    for g in range(lo, hi):
        z = Z[owner[g] - first]
        for i in range(off[g], off[g + 1]):
            s = F.dtype.type(0)
            for j in range(R):
                s += F[i, j] * z[j]
            if solve:
                out[i] = p[i] * (x[i] - s)
            else:
                out[i] = p[i] * x[i] + sign * s


@jit
def rows_gram(F, scale, off, first, lo, hi, G):
    """G[q] = F_leafᵀ diag(scale) F_leaf, lower triangle."""
    R = F.shape[1]
    for q in range(lo, hi):
        A = G[q - first]
        A[:, :] = 0
        i = off[q]
        while i + 2 <= off[q + 1]:
            for a in range(R):
                f0 = scale[i] * F[i, a]
                f1 = scale[i + 1] * F[i + 1, a]
                for j in range(a + 1):
                    A[a, j] += f0 * F[i, j] + f1 * F[i + 1, j]
            i += 2
        if i < off[q + 1]:
            for a in range(R):
                f0 = scale[i] * F[i, a]
                for j in range(a + 1):
                    A[a, j] += f0 * F[i, j]


@jit
def rows_scale(F, scale, lo, hi, out):
    """out[:hi - lo] = diag(scale) F on the rows lo:hi."""
    for i in range(lo, hi):
        for j in range(F.shape[1]):
            out[i - lo, j] = scale[i] * F[i, j]


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
