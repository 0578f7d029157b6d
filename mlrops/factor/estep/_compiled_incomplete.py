"""Compiled loops over samples with missing cells: one sweep of the tree a pattern.

A pattern is a set of features that are seen together in one sample or more; a class is a set of
features of one leaf that are seen in the same patterns.  Symmetric matrices travel packed, their
lower triangle row after row.
"""

import numpy as np

from ...kernels._jit import jit


@jit
def centre(X, mean, roots, first, lo, hi, out):
    """out = √w (x - mean) of the samples that `out` has columns for, 0 at missing cells (NaN)."""
    for i in range(lo, hi):
        for t in range(out.shape[1]):
            v = X[i, first + t]
            out[i, t] = (v - mean[i]) * roots[first + t] if v == v else 0


@jit
def class_products(F, dinv, rows, row_off, lo, hi, outer):
    """outer[c] = Σ f_i f_iᵀ / D_i over the features of class c."""
    for c in range(lo, hi):
        o = outer[c]
        o[:] = 0
        for m in range(row_off[c], row_off[c + 1]):
            i = rows[m]
            at = 0
            for a in range(F.shape[1]):
                f = dinv[i] * F[i, a]
                for j in range(a + 1):
                    o[at + j] += f * F[i, j]
                at += a + 1


@jit
def gather_grams(seen, outer, class_off, p0, lo, hi, G):
    """G[q, p] = Σ outer[c] over the classes of leaf q that pattern p sees."""
    for q in range(lo, hi):
        G[q] = 0
        for c in range(class_off[q], class_off[q + 1]):
            for p in range(G.shape[1]):
                if seen[c, p0 + p]:
                    for j in range(G.shape[2]):
                        G[q, p, j] += outer[c, j]


@jit
def scatter_moments(seen, S, class_off, p0, lo, hi, W):
    """W[c] += Σ S[q, p] over the patterns that see class c of leaf q."""
    for q in range(lo, hi):
        for c in range(class_off[q], class_off[q + 1]):
            for p in range(S.shape[1]):
                if seen[c, p0 + p]:
                    for j in range(S.shape[2]):
                        W[c, j] += S[q, p, j]


# ------------------------------------------------------------------ to and from sweeps of a forest
# Leaf f of the forest is leaf f % leaves of its tree f // leaves.


@jit
def unpack(G, which, first, last, A):
    """Lower triangles A[f - first] of the packed ones that G[q, p] holds, p = which of the tree."""
    for f in range(first, last):
        q = f % G.shape[0]
        p = which[f // G.shape[0]]
        at = 0
        for a in range(A.shape[1]):
            for j in range(a + 1):
                A[f - first, a, j] = G[q, p, at]
                at += 1


@jit
def take(Z, columns, first, last, T):
    """T[f - first] = the columns of Z[q], (R, samples), from columns of the tree on."""
    for f in range(first, last):
        q = f % Z.shape[0]
        t = columns[f // Z.shape[0]]
        for j in range(T.shape[1]):
            for c in range(T.shape[2]):
                T[f - first, j, c] = Z[q, j, t + c]


@jit
def give(T, columns, first, last, Z):
    """Put back what `take` took."""
    for f in range(first, last):
        q = f % Z.shape[0]
        t = columns[f // Z.shape[0]]
        for j in range(T.shape[1]):
            for c in range(T.shape[2]):
                Z[q, j, t + c] = T[f - first, j, c]


@jit
def pack_moments(cov, scale, T, roots, columns, which, first, last, S):
    """S[q, p] = scale_p Cov + z zᵀ, packed, summed over the samples of a tree, z (R,) in T.

    Where S has room for them, Σ √w z and `scale` follow: moments of √w (z, 1), z = √w times means.
    """
    R = cov.shape[1]
    k = T.shape[2]
    for f in range(first, last):
        q = f % S.shape[0]
        p = which[f // S.shape[0]]
        t = columns[f // S.shape[0]]
        at = 0
        for a in range(R):
            for j in range(a + 1):
                v = scale[p] * cov[f - first, a, j]
                for c in range(k):
                    v += T[f - first, a, c] * T[f - first, j, c]
                S[q, p, at] = v
                at += 1
        if at < S.shape[2]:
            for j in range(R):
                v = scale[p] * 0
                for c in range(k):
                    v += roots[t + c] * T[f - first, j, c]
                S[q, p, at + j] = v
            S[q, p, at + R] = scale[p]


# ------------------------------------------------------------------ features, class by class


@jit
def packed_form(f, S):
    """f S fᵀ for a row f (R,) and a packed symmetric S."""
    v = f.dtype.type(0)
    at = 0
    for a in range(f.size):
        g = f.dtype.type(0)
        for j in range(a):
            g += f[j] * S[at + j]
        v += f[a] * (2 * g + f[a] * S[at + a])
        at += a + 1
    return v


@jit
def class_forms(F, W, rows, row_off, lo, hi, out):
    """out_i = F_i W_c F_iᵀ for the features i of class c, W (classes, R (R + 1) / 2)."""
    for c in range(lo, hi):
        for m in range(row_off[c], row_off[c + 1]):
            out[rows[m]] = packed_form(F[rows[m]], W[c])


@jit
def gather_seen(X, row, column, seen, rows, row_off, owner, fill, lo, hi, out):
    """out[i, t] = X[row[i], column[t]] where owner[t], the pattern of t, shows i, else `fill`."""
    for c in range(lo, hi):
        for m in range(row_off[c], row_off[c + 1]):
            i = rows[m]
            for t in range(owner.size):
                v = X[row[i], column[t]]
                out[i, t] = v if seen[c, owner[t]] else fill


@jit
def hide(X, seen, rows, row_off, owner, lo, hi):
    """X[i, t] = 0 where owner[t], the pattern of t, does not show feature i."""
    zero = X.dtype.type(0)
    for c in range(lo, hi):
        for m in range(row_off[c], row_off[c + 1]):
            i = rows[m]
            for t in range(owner.size):
                v = X[i, t]
                X[i, t] = v if seen[c, owner[t]] else zero


@jit
def largest_sums(seen, values, off, lo, hi, total, out):
    """out[p] = the largest of the sums of values[c] over the classes of a group that p sees.

    total (patterns,) is room for the sums.
    """
    for p in range(lo, hi):
        out[p] = 0
    for g in range(off.size - 1):
        for p in range(lo, hi):
            total[p] = 0
        for c in range(off[g], off[g + 1]):
            v = values[c]
            for p in range(lo, hi):
                total[p] += v if seen[c, p] else 0.0
        for p in range(lo, hi):
            out[p] = max(out[p], total[p])


@jit
def scatter(X, row, column, lo, hi, out):
    """out[row[i], column[t]] = X[i, t]."""
    for i in range(lo, hi):
        for t in range(X.shape[1]):
            out[row[i], column[t]] = X[i, t]


@jit
def class_regress(V, W, yy, rows, row_off, m, lo, hi, C, x, F, D, offset):
    """(F_i, offset_i) = W_c⁻¹ v_i by Cholesky, D_i = (yy_i - (F_i, offset_i)·v_i) / N_i.

    Only the leading m of the R + 1 regressors are used: with m = R the offset is 0.  C (m, m) and
    x (m,) are room for a triangle and a solution.
    """
    R = F.shape[1]
    for c in range(lo, hi):
        at = 0
        for a in range(m):
            for j in range(a + 1):
                v = W[c, at + j]
                for b in range(j):
                    v -= C[a, b] * C[j, b]
                C[a, j] = v / C[j, j] if j < a else np.sqrt(v)
            at += a + 1
        for member in range(row_off[c], row_off[c + 1]):
            i = rows[member]
            for a in range(m):
                v = V[i, a]
                for b in range(a):
                    v -= C[a, b] * x[b]
                x[a] = v / C[a, a]
            for a in range(m - 1, -1, -1):
                x[a] /= C[a, a]
                for b in range(a):
                    x[b] -= C[a, b] * x[a]
            explained = V.dtype.type(0)
            for a in range(m):
                explained += x[a] * V[i, a]
            for a in range(R):
                F[i, a] = x[a]
            offset[i] = x[R] if m > R else 0
            D[i] = (yy[i] - explained) / W[c, W.shape[1] - 1]


@jit
def class_gradient(F, D, V, W, yy, rows, row_off, lo, hi, u, dF, dD, dmean):
    """Derivatives of ``-½ Σ_i (N_i log D_i + E‖x_i - F_i z‖² / D_i)`` at offset 0.

    With u (R + 1,) = v - (F_i, 0) W:  (dF, dmean) = u / D,  E‖x_i - F_i z‖² = yy - F_i·v - F_i·u.
    """
    R = F.shape[1]
    for c in range(lo, hi):
        for member in range(row_off[c], row_off[c + 1]):
            i = rows[member]
            for a in range(R + 1):
                u[a] = V[i, a]
            at = 0
            for a in range(R):
                for j in range(a):
                    u[a] -= F[i, j] * W[c, at + j]
                    u[j] -= F[i, a] * W[c, at + j]
                u[a] -= F[i, a] * W[c, at + a]
                at += a + 1
            for j in range(R):
                u[R] -= F[i, j] * W[c, at + j]
            left = yy[i]
            for a in range(R):
                left -= F[i, a] * (V[i, a] + u[a])
                dF[i, a] = u[a] / D[i]
            dmean[i] = u[R] / D[i]
            dD[i] = (left / D[i] - W[c, at + R]) / (2 * D[i])


@jit
def missing_variance(F, D, seen, rows, row_off, class_off, S, starts, p0, lo, hi, out):
    """out[i, t] = D_i + F_i Cov F_iᵀ where sample t does not see feature i, else 0."""
    for q in range(lo, hi):
        for c in range(class_off[q], class_off[q + 1]):
            for p in range(S.shape[1]):
                for member in range(row_off[c], row_off[c + 1]):
                    i = rows[member]
                    v = F.dtype.type(0)
                    if not seen[c, p0 + p]:
                        v = D[i] + packed_form(F[i], S[q, p])
                    for t in range(starts[p], starts[p + 1]):
                        out[i, t] = v
