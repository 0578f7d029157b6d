"""Compiled sweeps for what follows from a factorization: covariances, second moments, the inverse.

All two- and three-dimensional arrays are C-contiguous.  The inner loops run along the columns of F
or along the ancestors' columns, which are contiguous, so that they vectorize.
"""

import numpy as np

from ._jit import jit

_U, _ONE = np.uint64, np.uint64(1)  # see `_compiled_sweeps`


@jit
def sweep_covariance(start, first, last, tree, K, cov, out):
    """Covariance of the factors along each leaf's path (Takahashi); cov (R, R) is the stack.

    With the rows u = (C_ii, C_mi for own m > i, X_i) of a node, and k going over m and the
    ancestors:  u_i cov_ij = [i = j] / u_i - Σ_k u_k cov_kj,  from the last row to the first.
    """
    # No array is allocated or assigned as a whole: numba compiles either for seconds.
    path, cols, zoff = tree
    L = path.shape[1]
    for q in range(first, last):
        for level in range(L):
            c0 = cols[level]
            c1 = cols[level + 1]
            r = c1 - c0
            if r == 0 or (q > start and path[q, level] == path[q - 1, level]):
                continue
            z0 = zoff[level] + path[q, level] * r
            for i in range(r - 1, -1, -1):
                row = cov[c0 + i]
                for j in range(c1):  # columns of own j <= i are set later
                    row[j] = 0
                d = 1 / K[z0 + i, c0 + i]
                for k in range(c0):
                    f = d * K[z0 + i, k]
                    for j in range(c1):
                        row[j] -= f * cov[k, j]
                for m in range(i + 1, r):
                    f = d * K[z0 + m, c0 + i]
                    for j in range(c1):
                        row[j] -= f * cov[c0 + m, j]
                v = d
                for k in range(c0):
                    v -= K[z0 + i, k] * row[k]
                    cov[k, c0 + i] = row[k]
                for m in range(i + 1, r):
                    v -= K[z0 + m, c0 + i] * row[c0 + m]
                    cov[c0 + m, c0 + i] = row[c0 + m]
                row[c0 + i] = d * v
        for i in range(cols[L]):
            for j in range(cols[L]):
                out[q - first, i, j] = cov[i, j]


@jit
def sweep_second_moments(cov, Z, start, first, last, tree, N, chol, linv, winv, Winv):
    """Winv[q] = (N Cov + Z Zᵀ)⁻¹ along the path of each leaf; only new nodes are worked on.

    chol and linv (R, R) carry the Cholesky factor of W and its inverse, winv (L + 1, R, R) the
    inverse of each leading block of W.
    """
    path, cols, _ = tree
    L = path.shape[1]
    R = _U(cols[L])
    k = _U(Z.shape[2])
    zero = Z.dtype.type(0)
    for q in range(first, last):
        leaf = _U(q - first)
        for level in range(L):
            c0 = _U(cols[level])
            c1 = _U(cols[level + 1])
            if q > start and path[q, level] == path[q - 1, level]:
                continue
            own = _U(level) + _ONE
            for a in range(c1):
                for j in range(c1):
                    winv[own, a, j] = winv[own - _ONE, a, j] if a < c0 and j < c0 else zero
            for a in range(c0, c1):
                for m in range(a + _ONE):
                    v = zero
                    for c in range(k):
                        v += Z[leaf, a, c] * Z[leaf, m, c]
                    chol[a, m] = v + N * cov[leaf, a, m]
                for m in range(a + _ONE):
                    v = chol[a, m]
                    for p in range(m):
                        v -= chol[a, p] * chol[m, p]
                    chol[a, m] = v / chol[m, m] if m < a else np.sqrt(v)
                for j in range(a + _ONE):
                    linv[a, j] = zero
                for m in range(a):
                    f = chol[a, m]
                    for j in range(m + _ONE):
                        linv[a, j] -= f * linv[m, j]
                linv[a, a] = 1
                d = 1 / chol[a, a]
                for j in range(a + _ONE):
                    linv[a, j] *= d
                for i in range(a + _ONE):
                    f = linv[a, i]
                    for j in range(a + _ONE):
                        winv[own, i, j] += f * linv[a, j]
        for a in range(R):
            for j in range(R):
                Winv[leaf, a, j] = winv[_U(L), a, j]


@jit
def sweep_inverse_rows(F, dinv, lo, hi, leaf_off, tree, K, H):
    """Rows of H with Σ⁻¹ = diag(1/D) - H Hᵀ: h_own = C⁻¹ f_own, f_anc -= Xᵀ h_own, leaf to root."""
    path, cols, zoff = tree
    L = path.shape[1]
    for q in range(lo, hi):
        start = _U(leaf_off[q])
        end = _U(leaf_off[q + 1])
        for i in range(start, end):
            for j in range(_U(cols[L])):
                H[i, j] = dinv[i] * F[i, j]
        for level in range(L - 1, -1, -1):
            c0 = _U(cols[level])
            r = _U(cols[level + 1]) - c0
            z0 = _U(zoff[level]) + _U(path[q, level]) * r
            for m in range(r):
                z = z0 + m
                f = 1 / K[z, c0 + m]
                for i in range(start, end):
                    v = H[i, c0 + m]
                    for p in range(c0, c0 + m):
                        v -= K[z, p] * H[i, p]
                    v *= f
                    H[i, c0 + m] = v
                    for j in range(c0):
                        H[i, j] -= K[z, j] * v
