"""Compiled loops of EM on samples that come in blocks: loading, moments, sparse products.

The conventions are those of `_compiled`.
"""

import numpy as np

from ...kernels._jit import jit

TILE = 16  # features that are transposed at a time, so that a cache line read is used whole


# ------------------------------------------------------------------ dense blocks of samples


@jit
def rows_load(Y, place, mean, scale, root, at, lo, hi, X):
    """X[p, at + t] = scale_p (Y[t, i] - mean_p) root_t, p = place_i, for the features lo:hi.

    Y is read along its rows whatever the permutation; a tile of rows of X stays in cache.
    """
    dtype = X.dtype.type
    for a in range(lo, hi, TILE):
        b = min(a + TILE, hi)
        for t in range(Y.shape[0]):
            w = root[t]
            for i in range(a, b):
                p = place[i]
                X[p, at + t] = dtype((Y[t, i] - mean[p]) * (scale[p] * w))


@jit
def rows_describe(X, weight, total, lo, hi, seen, cells, mean, squares, low, high):
    """Merge the first ``weight.size`` columns of X into the running moments of the features lo:hi.

    Missing cells (NaN) are left out; `cells` counts the others, `seen` sums their weights, and
    `total` is the sum of `weight`.  Means and sums of squared deviations of the block are formed in
    two passes and merged: T. Chan, G. Golub, R. LeVeque, "Updating formulae and a pairwise
    algorithm for computing sample variances" (1979).
    """
    m = weight.size
    for i in range(lo, hi):
        s = 0.0
        gaps = 0
        for t in range(m):
            x = X[i, t]
            if x == x:
                s += weight[t] * x
                low[i] = min(low[i], x)
                high[i] = max(high[i], x)
            else:
                gaps += 1
        added = total
        if gaps == m:
            continue
        if gaps:
            added = 0.0
            for t in range(m):
                if X[i, t] == X[i, t]:
                    added += weight[t]
        center = s / added
        s = 0.0
        for t in range(m):
            if X[i, t] == X[i, t]:
                s += weight[t] * (X[i, t] - center) * (X[i, t] - center)
        before = seen[i]
        after = before + added
        gap = center - mean[i]
        mean[i] += gap * (added / after)
        squares[i] += s + gap * gap * (before * added / after)
        seen[i] = after
        cells[i] += m - gaps


@jit
def rows_outer(X, Z, off, first, lo, hi, V):
    """V_leaf += X_leaf Zᵀ on the first R columns of V, Z (leaves, R, k)."""
    k, R = X.shape[1], Z.shape[1]
    for q in range(lo, hi):
        z = Z[q - first]
        for i in range(off[q], off[q + 1]):
            for j in range(R):
                s = V.dtype.type(0)
                for c in range(k):
                    s += X[i, c] * z[j, c]
                V[i, j] += s


@jit
def rows_right(A, M, off, first, lo, hi, out):
    """out_leaf = A_leaf M_leaf for symmetric M (leaves, R, R)."""
    R = A.shape[1]
    for q in range(lo, hi):
        m = M[q - first]
        for i in range(off[q], off[q + 1]):
            for j in range(R):
                s = A.dtype.type(0)
                for a in range(R):
                    s += m[j, a] * A[i, a]
                out[i, j] = s


@jit
def rows_residual(V, F, squares, N, lo, hi, D):
    """D_i = (squares_i - F_i·V_i) / N."""
    for i in range(lo, hi):
        s = F.dtype.type(0)
        for j in range(F.shape[1]):
            s += F[i, j] * V[i, j]
        D[i] = (squares[i] - s) / N


@jit
def rows_gradient(F, V, dinv, squares, N, lo, hi, dF, dD):
    """From ``F W / N`` in dF: derivatives by F and D of the average log-likelihood."""
    for i in range(lo, hi):
        d = dinv[i]
        res = squares[i] / N
        for j in range(F.shape[1]):
            v = V[i, j] / N
            res -= F[i, j] * (2 * v - dF[i, j])
            dF[i, j] = d * (v - dF[i, j])
        dD[i] = d * (res * d - 1) / 2


# ------------------------------------------------------------------ second moments of the factors


@jit
def sweep_moments(Z, first, last, tree, S):
    """S += Σ z_own z_pathᵀ of every node whose first leaf is in first:last; lower triangle.

    Z (leaves, R, k) holds the factors along the paths.  Going by the first leaf counts a node once
    whoever else works on the leaves behind it.
    """
    path, cols, zoff = tree
    L, k = path.shape[1], Z.shape[2]
    for q in range(first, last):
        z = Z[q - first]
        for level in range(L):
            if q > 0 and path[q, level] == path[q - 1, level]:
                continue
            c0 = cols[level]
            r = cols[level + 1] - c0
            z0 = zoff[level] + path[q, level] * r
            for i in range(r):
                for j in range(c0 + i + 1):
                    s = Z.dtype.type(0)
                    for c in range(k):
                        s += z[c0 + i, c] * z[j, c]
                    S[z0 + i, j] += s


@jit
def add_moments(S, first, last, tree, N, M):
    """M[q] += S / N along the path of each leaf, both triangles."""
    path, cols, zoff = tree
    for q in range(first, last):
        m = M[q - first]
        for level in range(path.shape[1]):
            c0 = cols[level]
            r = cols[level + 1] - c0
            z0 = zoff[level] + path[q, level] * r
            for i in range(r):
                for j in range(c0 + i):
                    s = S[z0 + i, j] / N
                    m[c0 + i, j] += s
                    m[j, c0 + i] += s
                m[c0 + i, c0 + i] += S[z0 + i, c0 + i] / N


@jit
def rows_rank_one(V, u, Z, off, first, lo, hi):
    """V_i -= u_i z, z (R,) the entry of Z (leaves, R, 1) of the row's leaf."""
    for q in range(lo, hi):
        for i in range(off[q], off[q + 1]):
            for j in range(V.shape[1]):
                V[i, j] -= u[i] * Z[q - first, j, 0]


# ------------------------------------------------------------------ sparse samples
# A is (n, N) in compressed rows with sorted columns.  Blocks of samples are taken from left to
# right: at[i] is the first entry of row i that no earlier block had, so that no index of blocks is
# kept.  The small dense factor of a product is turned to (samples, R): an entry then meets R
# numbers that are next to each other.


@jit
def sparse_tdot(F, dinv, block, off, lo, hi, T):
    """T[g] = Fᵀ diag(dinv) A[:, start:stop] over the rows of piece g, (R, stop - start)."""
    values, columns, at, ends, start, stop = block
    R, k = F.shape[1], stop - start
    turned = np.empty((k, R), F.dtype)
    for g in range(lo, hi):
        turned[:, :] = 0
        for i in range(off[g], off[g + 1]):
            e = at[i]
            while e < ends[i] and columns[e] < stop:
                v = dinv[i] * values[e]
                row = turned[columns[e] - start]
                for j in range(R):
                    row[j] += v * F[i, j]
                e += 1
        for j in range(R):
            for c in range(k):
                T[g, j, c] = turned[c, j]


@jit
def sparse_outer(block, Z, owner, first, off, lo, hi, V):
    """V += A[:, start:stop] Zᵀ on the pieces lo:hi, Z (leaves, R, stop - start); moves `at` on."""
    values, columns, at, ends, start, stop = block
    R, k = V.shape[1], stop - start
    turned = np.empty((k, R), V.dtype)
    held = -1
    for g in range(lo, hi):
        for i in range(off[g], off[g + 1]):
            e = at[i]
            if e == ends[i] or columns[e] >= stop:
                continue
            if held != owner[g]:  # turned only for leaves that have an entry
                held = owner[g]
                z = Z[held - first]
                for j in range(R):
                    for c in range(k):
                        turned[c, j] = z[j, c]
            while e < ends[i] and columns[e] < stop:
                row = turned[columns[e] - start]
                for j in range(R):
                    V[i, j] += values[e] * row[j]
                e += 1
            at[i] = e


@jit
def sparse_rows(block, rows, X):
    """X[m] += A[rows[m], start:stop]; `at` stays."""
    values, columns, at, ends, start, stop = block
    for m in range(rows.size):
        e = at[rows[m]]
        while e < ends[rows[m]] and columns[e] < stop:
            X[m, columns[e] - start] += values[e]
            e += 1


@jit
def subtract_shift(T, shift, root):
    """T[q] -= shift_q rootᵀ, shift (leaves, R, 1)."""
    for q in range(T.shape[0]):
        for j in range(T.shape[1]):
            u = shift[q, j, 0]
            for c in range(T.shape[2]):
                T[q, j, c] -= u * root[c]


@jit
def sparse_describe(values, columns, off, weight, total, center, lo, hi, mean, squares, low, high):
    """Weighted mean (if `center`), squared deviations and range of rows, zeros included."""
    for i in range(lo, hi):
        a, b = off[i], off[i + 1]
        full = b - a == weight.size
        if full:
            low[i] = high[i] = values[a]
        s, seen = 0.0, 0.0
        for e in range(a, b):
            w = weight[columns[e]]
            s += w * values[e]
            seen += w
            low[i] = min(low[i], values[e])
            high[i] = max(high[i], values[e])
        # Deviations are from the mean as it is stored.
        mean[i] = s / total if center else 0.0
        m = np.float64(mean[i])
        s = 0.0 if full else (total - seen) * m * m
        for e in range(a, b):
            s += weight[columns[e]] * (values[e] - m) * (values[e] - m)
        squares[i] = s
