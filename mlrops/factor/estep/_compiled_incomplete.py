"""Compiled loops over samples with missing cells: one sweep of the tree a pattern.

A pattern is a set of features that are seen together in one sample or more; a class is a set of
features of one leaf that are seen in the same patterns.  Symmetric matrices travel packed, their
lower triangle row after row.

The sweeps are compiled into this module: numba's cache of it does not notice when they change in
theirs, so after such a change this file has to be touched.
"""

import numpy as np

from ...kernels._compiled_posterior import sweep_covariance
from ...kernels._compiled_sweeps import sweep_down, sweep_factor, sweep_up
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


@jit
def unpack(G, p, first, last, A):
    """Lower triangles A[q - first] = G[q, p] of the leaves first:last."""
    for q in range(first, last):
        at = 0
        for a in range(A.shape[1]):
            for j in range(a + 1):
                A[q - first, a, j] = G[q, p, at + j]
            at += a + 1


@jit
def factor_pattern(G, p, ridge, tree, A, stack, K, fail):
    """K of pattern p from its Gram matrices; returns log det(I + G), 0 after a bad pivot.

    A (step, R, R) is room for the leaves that are worked on at a time.
    """
    path, cols, zoff = tree
    n_leaves, L = path.shape
    nothing = np.zeros((0, 0, 0), K.dtype)
    for first in range(0, n_leaves, A.shape[0]):
        last = min(first + A.shape[0], n_leaves)
        unpack(G, p, first, last, A)
        sweep_factor(A, ridge, first, last, tree, 0, stack, K, nothing, fail)
        if fail[0] >= 0:
            return 0.0
    log = 0.0
    for level in range(L):
        r = cols[level + 1] - cols[level]
        for i in range(zoff[level], zoff[level + 1]):
            log += np.log(np.float64(K[i, cols[level] + (i - zoff[level]) % r]))
    return 2 * log


@jit
def column_squares(W, out):
    """out[c] = Σ_i W_ic²."""
    out[:] = 0
    for i in range(W.shape[0]):
        for c in range(W.shape[1]):
            out[c] += W[i, c] * W[i, c]


@jit
def project_pattern(Z, t0, tree, K, T, W):
    """W (s, k) = ``Λ⁻¹ Fᵀ D⁻¹ x`` of the samples of a pattern, which begin at column t0 of Z.

    T (step, R, k) is room for the leaves that are worked on at a time.
    """
    n_leaves, L = tree[0].shape
    R, k = T.shape[1:]
    stack = np.zeros((L, R, k), Z.dtype)
    nothing = np.zeros((0, 0, 0), Z.dtype)
    for first in range(0, n_leaves, T.shape[0]):
        last = min(first + T.shape[0], n_leaves)
        for q in range(first, last):
            for j in range(R):
                for c in range(k):
                    T[q - first, j, c] = Z[q, j, t0 + c]
        sweep_up(T, first, last, tree, K, True, 0, stack, W, nothing)


@jit
def sweep_patterns(G, Z, roots, starts, ridge, tree, step, total, lo, hi, S, logs, squares, fail):
    """Factor, posterior means and path covariances of the patterns lo:hi.

    G (leaves, patterns, R (R + 1) / 2) are the Gram matrices of the seen rows; Z (leaves, R, k)
    holds ``Fᵀ D⁻¹ x`` along the paths and receives the posterior means.  Pattern p owns the columns
    starts[p]:starts[p + 1] of Z.  logs[p] is log det(I + G); squares[0] and squares[1] (k,) are the
    squared lengths of ``Λ⁻¹ Fᵀ D⁻¹ x`` and of the means.  S (leaves, patterns, (R + 1)(R + 2) / 2)
    receives the covariances along the paths; with `total` the weighted second moments of (z, 1)
    instead, a sample of weight w standing as √w (z, 1), and Z as √w z.
    """
    path, cols, zoff = tree
    n_leaves, L = path.shape
    R = cols[L]
    dtype = Z.dtype
    one = dtype.type(1)
    K = np.zeros((zoff[L], R), dtype)
    A = np.zeros((step, R, R), dtype)
    cov = np.zeros((R, R), dtype)
    gram_stack = np.zeros((L, R, R), dtype)
    for p in range(lo, hi):
        t0 = starts[p]
        k = starts[p + 1] - t0
        weight = dtype.type(0)
        for t in range(t0, t0 + k):
            weight += roots[t] * roots[t]
        logs[p] = factor_pattern(G, p, ridge, tree, A, gram_stack, K, fail)
        if fail[0] >= 0:
            return

        W = np.empty((zoff[L], k), dtype)
        T = np.empty((step, R, k), dtype)
        project_pattern(Z, t0, tree, K, T, W)
        down_stack = np.zeros((R, k), dtype)
        column_squares(W, squares[0, t0 : t0 + k])
        for first in range(0, n_leaves, step):
            last = min(first + step, n_leaves)
            sweep_down(W, 0, first, last, tree, K, 0, down_stack, T)
            sweep_covariance(0, first, last, tree, K, cov, A)
            for q in range(first, last):
                z = T[q - first]
                for j in range(R):
                    for c in range(k):
                        Z[q, j, t0 + c] = z[j, c]
                out = S[q, p]
                f = weight if total else one
                at = 0
                for a in range(R):
                    for j in range(a + 1):
                        v = f * A[q - first, a, j]
                        if total:
                            for c in range(k):
                                v += z[a, c] * z[j, c]
                        out[at + j] = v
                    at += a + 1
                for j in range(R):
                    v = dtype.type(0)
                    for c in range(k):
                        v += roots[t0 + c] * z[j, c]
                    out[at + j] = v
                out[at + R] = weight
        column_squares(W, squares[1, t0 : t0 + k])


@jit
def factor_patterns(G, ridge, tree, step, lo, hi, K, logs, fail):
    """K[p] (s, R) and logs[p] = log det(I + G) of the patterns lo:hi."""
    path, cols, zoff = tree
    n_leaves, L = path.shape
    R = cols[L]
    A = np.zeros((step, R, R), K.dtype)
    stack = np.zeros((L, R, R), K.dtype)
    for p in range(lo, hi):
        logs[p] = factor_pattern(G, p, ridge, tree, A, stack, K[p], fail)
        if fail[0] >= 0:
            return


@jit
def solve_patterns(Z, K, owner, starts, tree, step, lo, hi, squares):
    """Z (leaves, R, k) from ``Fᵀ D⁻¹ x`` to the posterior means, in place, for runs lo:hi.

    A run is the columns starts[m]:starts[m + 1], all of one pattern `owner`; squares (k,) are the
    squared lengths of the means over all nodes.
    """
    path, cols, zoff = tree
    n_leaves, L = path.shape
    R = cols[L]
    for m in range(lo, hi):
        t0 = starts[m]
        k = starts[m + 1] - t0
        p = owner[t0]
        W = np.empty((zoff[L], k), Z.dtype)
        T = np.empty((step, R, k), Z.dtype)
        project_pattern(Z, t0, tree, K[p], T, W)
        stack = np.zeros((R, k), Z.dtype)
        for first in range(0, n_leaves, step):
            last = min(first + step, n_leaves)
            sweep_down(W, 0, first, last, tree, K[p], 0, stack, T)
            for q in range(first, last):
                for j in range(R):
                    for c in range(k):
                        Z[q, j, t0 + c] = T[q - first, j, c]
        column_squares(W, squares[t0 : t0 + k])


@jit
def covariance_patterns(K, weights, tree, step, lo, hi, S):
    """S (leaves, patterns, R (R + 1) / 2): weights[p] times the path covariances of pattern p."""
    path, cols, zoff = tree
    n_leaves, L = path.shape
    R = cols[L]
    A = np.zeros((step, R, R), K.dtype)
    cov = np.zeros((R, R), K.dtype)
    for p in range(lo, hi):
        for first in range(0, n_leaves, step):
            last = min(first + step, n_leaves)
            sweep_covariance(0, first, last, tree, K[p], cov, A)
            for q in range(first, last):
                at = 0
                for a in range(R):
                    for j in range(a + 1):
                        S[q, p, at + j] = weights[p] * A[q - first, a, j]
                    at += a + 1


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
def largest_sums(seen, values, off, lo, hi, out):
    """out[p] = the largest of the sums of values[c] over the classes of a group that p sees."""
    total = np.zeros(hi - lo)
    out[lo:hi] = 0
    for g in range(off.size - 1):
        total[:] = 0
        for c in range(off[g], off[g + 1]):
            v = values[c]
            for p in range(lo, hi):
                total[p - lo] += v if seen[c, p] else 0.0
        for p in range(lo, hi):
            out[p] = max(out[p], total[p - lo])


@jit
def scatter(X, row, column, lo, hi, out):
    """out[row[i], column[t]] = X[i, t]."""
    for i in range(lo, hi):
        for t in range(X.shape[1]):
            out[row[i], column[t]] = X[i, t]


@jit
def class_regress(V, W, yy, rows, row_off, m, lo, hi, F, D, offset):
    """(F_i, offset_i) = W_c⁻¹ v_i by Cholesky, D_i = (yy_i - (F_i, offset_i)·v_i) / N_i.

    Only the leading m of the R + 1 regressors are used: with m = R the offset is 0.
    """
    R = F.shape[1]
    C = np.zeros((R + 1, R + 1), V.dtype)
    x = np.zeros(R + 1, V.dtype)
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
def class_gradient(F, D, V, W, yy, rows, row_off, lo, hi, dF, dD, dmean):
    """Derivatives of ``-½ Σ_i (N_i log D_i + E‖x_i - F_i z‖² / D_i)`` at offset 0.

    With u = v - (F_i, 0) W:  (dF, dmean) = u / D,  E‖x_i - F_i z‖² = yy - F_i·v - F_i·u.
    """
    R = F.shape[1]
    u = np.zeros(R + 1, F.dtype)
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
