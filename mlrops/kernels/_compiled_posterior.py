"""Compiled sweeps for what follows from a factorization: covariances, second moments, the inverse.

All two- and three-dimensional arrays are C-contiguous.  Columns go in vectors, see `_lanes`.
"""

import numpy as np

from ._compiled_short import copied, dot, four_dots, plus_four
from ._jit import jit
from ._lanes import V, axpy, load, product, store, store_column, times, total, zeros

_U = np.uint64  # see `_compiled_short`
_ONE, _TWO, _THREE = _U(1), _U(2), _U(3)


@jit
def sweep_covariance(start, first, last, tree, K, top, coarse, parent, cov, out):
    """Covariance of the factors along each leaf's path (Takahashi); cov (R, R) is the stack.

    `coarse` (parents, c, c) has that of the levels above `top`, `parent` the parent of each group
    of that level.  With the rows u = (C_ii, C_mi for own m > i, X_i) of a node, k over m and the
    ancestors:  u_i cov_ij = [i = j] / u_i - Σ_k u_k cov_kj,  from the last row to the first.
    """
    # No array is allocated or assigned as a whole: numba compiles either for seconds.
    path, cols, zoff = tree
    L = path.shape[1]
    R = _U(cols[L])
    for q in range(first, last):
        if top > 0 and (q == start or path[q, top] != path[q - 1, top]):
            above = _U(parent[path[q, top]])
            for i in range(_U(cols[top])):
                for j in range(_U(cols[top])):
                    cov[i, j] = coarse[above, i, j]
        for level in range(top, L):
            c0 = _U(cols[level])
            c1 = _U(cols[level + 1])
            r = c1 - c0
            if r == 0 or (q > start and path[q, level] == path[q - 1, level]):
                continue
            z0 = _U(zoff[level]) + _U(path[q, level]) * r
            for back in range(r):
                i = r - _ONE - back
                z = z0 + i
                row = (c0 + i) * R
                d = 1 / K[z, c0 + i]
                j = _U(0)
                while j < c1:  # columns of own j <= i are set later
                    n = c1 - j
                    t = zeros(K)
                    for k in range(c0):
                        t = axpy(t, -K[z, k], load(cov, k * R + j, n))
                    for m in range(i + _ONE, r):
                        t = axpy(t, -K[z0 + m, c0 + i], load(cov, (c0 + m) * R + j, n))
                    store(cov, row + j, n, times(d, t))
                    j += V
                v = d
                j = _U(0)
                while j < c0:
                    n = min(c0 - j, V)
                    t = load(cov, row + j, n)
                    v -= total(product(t, load(K, z * R + j, n)))
                    store_column(cov, j * R + c0 + i, R, n, t)
                    j += V
                for m in range(i + _ONE, r):
                    v -= K[z0 + m, c0 + i] * cov[c0 + i, c0 + m]
                    cov[c0 + m, c0 + i] = cov[c0 + i, c0 + m]
                cov[c0 + i, c0 + i] = d * v
        copied(cov, _U(0), R * R, out, _U(q - first) * R * R)


@jit
def sweep_second_moments(cov, Z, start, first, last, tree, N, stacks, kept, Winv):
    """kept[q - first] = W = N Cov + Z Zᵀ along the path of each leaf, Winv[q - first] = W⁻¹.

    Only new nodes are worked on.  The stacks, zero at the start, carry W, the columns of its
    Cholesky factor of coarser levels and those of a row's own level, and the inverse of that
    factor, (R, R) each; and (L + 1, R, R) the inverse of each leading block of W before a level.
    An empty `kept` is left alone.
    """
    W, chol, own, linv, winv = stacks
    path, cols, _ = tree
    L = path.shape[1]
    R = _U(cols[L])
    k = _U(Z.shape[2])
    zero = W.dtype.type(0)
    for q in range(first, last):
        leaf = _U(q - first) * R
        for level in range(L):
            c0 = _U(cols[level])
            c1 = _U(cols[level + 1])
            if q > start and path[q, level] == path[q - 1, level]:
                continue
            for a in range(c0, c1):  # what needs no other new row
                row = a * R
                j = _U(0)
                while j < c1:
                    n = R - j
                    t = four_dots(Z, (leaf + a) * k, Z, (leaf + j) * k, k, n, k)
                    store(W, row + j, n, axpy(t, N, load(cov, (leaf + a) * R + j, n)))
                    j += V
                j = _U(0)
                while j < c0:  # also in columns of its own, of which nothing stays
                    t = four_dots(W, row, linv, j * R, R, c0 - j, min(j + V, c0))
                    store(chol, row + j, R - j, t)
                    j += V
                j = _U(0)
                while j < c0:
                    t = zeros(linv)
                    for m in range(j, c0):
                        t = axpy(t, -chol[a, m], load(linv, m * R + j, R - j))
                    store(linv, row + j, R - j, t)
                    j += V
                for j in range(c0, c1):
                    linv[a, j] = 0
            for a in range(c0, c1):
                row = a * R
                for m in range(c0, a + _ONE):
                    v = W[a, m] - dot(chol, row, chol, m * R, c0)
                    for p in range(c0, m):
                        v -= own[a, p] * own[m, p]
                    own[a, m] = v * linv[m, m] if m < a else np.sqrt(v)
                d = 1 / own[a, a]
                j = _U(0)
                while j < a:
                    t = load(linv, row + j, R - j)
                    for m in range(c0, a):
                        t = axpy(t, -own[a, m], load(linv, m * R + j, R - j))
                    store(linv, row + j, R - j, times(d, t))
                    j += V
                linv[a, a] = d
            a = c0
            before = _U(level)
            while a < c1 or before == level:  # four rows at a time, some of which weigh nothing
                b = min(a, R - _ONE)
                c = min(a + _ONE, R - _ONE)
                d = min(a + _TWO, R - _ONE)
                e = min(a + _THREE, R - _ONE)
                for i in range(c1):
                    f0 = linv[b, i] if a < c1 else zero
                    f1 = linv[c, i] if a + _ONE < c1 else zero
                    f2 = linv[d, i] if a + _TWO < c1 else zero
                    f3 = linv[e, i] if a + _THREE < c1 else zero
                    j = _U(0)
                    while j < c1:
                        n = R - j
                        t = plus_four(load(winv, (before * R + i) * R + j, n), f0, f1, f2, f3, linv,
                                      b * R + j, c * R + j, d * R + j, e * R + j, n)
                        store(winv, (_U(level + 1) * R + i) * R + j, n, t)
                        if level == L - 1:
                            store(Winv, (leaf + i) * R + j, n, t)
                        j += V
                a += V
                before = _U(level + 1)
        if kept.size > 0:
            for a in range(R):
                j = _U(0)
                while j <= a:
                    t = load(W, a * R + j, R - j)
                    store(kept, (leaf + a) * R + j, R - j, t)
                    store_column(kept, (leaf + j) * R + a, R, min(R - j, V), t)
                    j += V


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
