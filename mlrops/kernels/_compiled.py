"""Compiled loops over rows and tree nodes.  Signatures are lazy, the code is cached on disk.

All two- and three-dimensional arrays are C-contiguous.  The inner loops run along the columns of F
or along the ancestors' columns, which are contiguous, so that they vectorize.
"""

import numpy as np

from ._jit import jit

# ------------------------------------------------------------------ rows of F


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


# ------------------------------------------------------------------ sweeps over the tree
# Leaves are visited from left to right; a node is closed when its last leaf has been, opened when
# its first one is.  The state of a sweep lives in its stack, one entry a level, so a sweep can stop
# after any leaf and go on with the next block: no array of all leaves is ever needed.
#
# An upward sweep stops below level `top` and leaves what the groups of that level pass up in U;
# the levels above are then swept as a tree of their own, with those groups for leaves.  So several
# sweeps can share a tree, each on a range of groups of that level, and sums are formed in the same
# order whatever the ranges.  A downward sweep opens all levels at its first leaf, `start`.


@jit
def sweep_factor(G, ridge, first, last, tree, top, stack, K, U, fail):
    """Eliminate leaves first; G is (leaves, R, R), stack (L, R, R), zero at the start.

    Row i of a node in K holds [X_i | C_i], X = C⁻¹ A_own,anc, C the Cholesky factor of
    A_own,own + diag(ridge).  Lower triangles only.  On a bad pivot fail = (level, group).
    """
    path, cols, zoff = tree
    L = path.shape[1]
    n_leaves = path.shape[0]
    for q in range(first, last):
        level = L - 1
        Rl = cols[level + 1]
        for a in range(Rl):
            for j in range(a + 1):
                stack[level, a, j] = G[q - first, a, j]
        while level >= top and (q + 1 == n_leaves or path[q + 1, level] != path[q, level]):
            A = stack[level]
            c0 = cols[level]
            r = cols[level + 1] - c0
            z0 = zoff[level] + path[q, level] * r
            for i in range(r):
                row = K[z0 + i]
                for m in range(i + 1):
                    v = A[c0 + i, c0 + m]
                    for p in range(m):
                        v -= row[c0 + p] * K[z0 + m, c0 + p]
                    if m < i:
                        row[c0 + m] = v / K[z0 + m, c0 + m]
                    else:
                        v += ridge[z0 + i]
                        if not (v > 0 and v < np.inf):
                            fail[0] = level
                            fail[1] = path[q, level]
                            return
                        row[c0 + i] = np.sqrt(v)
                for j in range(c0):
                    row[j] = A[c0 + i, j]
                for m in range(i):
                    f = row[c0 + m]
                    for j in range(c0):
                        row[j] -= f * K[z0 + m, j]
                d = 1 / row[c0 + i]
                for j in range(c0):
                    row[j] *= d
                for a in range(c0):  # Schur complement
                    f = row[a]
                    for j in range(a + 1):
                        A[a, j] -= f * row[j]
            if level > top:
                B = stack[level - 1]
                for a in range(c0):
                    for j in range(a + 1):
                        B[a, j] += A[a, j]
            elif level > 0:
                B = U[path[q, level]]
                for a in range(c0):
                    for j in range(a + 1):
                        B[a, j] = A[a, j]
            for a in range(cols[level + 1]):
                for j in range(a + 1):
                    A[a, j] = 0
            level -= 1


@jit
def sweep_up(T, first, last, tree, K, eliminate, top, stack, W, U):
    """w = C⁻¹ t_own and t_anc - Xᵀ w to the parent; without `eliminate` w = t_own.

    T is (leaves, R, k), the stack (L, R, k), zero at the start; node rows of W are (s, k).
    """
    path, cols, zoff = tree
    L = path.shape[1]
    n_leaves = path.shape[0]
    k = T.shape[2]
    for q in range(first, last):
        level = L - 1
        while level >= top and (q + 1 == n_leaves or path[q + 1, level] != path[q, level]):
            c0 = cols[level]
            g = path[q, level]
            r = cols[level + 1] - c0
            z0 = zoff[level] + g * r
            at_leaf = level == L - 1
            at_top = level == top
            for i in range(r):
                if at_leaf:
                    for c in range(k):
                        W[z0 + i, c] = T[q - first, c0 + i, c]
                else:
                    for c in range(k):
                        W[z0 + i, c] = stack[level, c0 + i, c]
                        stack[level, c0 + i, c] = 0
                if eliminate:
                    for m in range(i):
                        f = K[z0 + i, c0 + m]
                        for c in range(k):
                            W[z0 + i, c] -= f * W[z0 + m, c]
                    f = 1 / K[z0 + i, c0 + i]
                    for c in range(k):
                        W[z0 + i, c] *= f
            for j in range(c0):
                for c in range(k):
                    t = T[q - first, j, c] if at_leaf else stack[level, j, c]
                    if at_top:
                        U[g, j, c] = t
                    else:
                        stack[level - 1, j, c] += t
                if not at_leaf:
                    for c in range(k):
                        stack[level, j, c] = 0
                if eliminate and k == 1:  # a loop over one column costs more than its body
                    v = K.dtype.type(0)
                    for i in range(r):
                        v += K[z0 + i, j] * W[z0 + i, 0]
                    if at_top:
                        U[g, j, 0] -= v
                    else:
                        stack[level - 1, j, 0] -= v
                elif eliminate:
                    for i in range(r):
                        f = K[z0 + i, j]
                        if at_top:
                            for c in range(k):
                                U[g, j, c] -= f * W[z0 + i, c]
                        else:
                            for c in range(k):
                                stack[level - 1, j, c] -= f * W[z0 + i, c]
            level -= 1


@jit
def sweep_down(W, start, first, last, tree, K, top, stack, Z):
    """z_own = C⁻ᵀ (w - X z_anc), kept in W in place of w; Z[q] (R, k) is z along the path.

    The stack is (R, k).  Levels above `top` hold z already; with top = L all do.
    """
    path, cols, zoff = tree
    L = path.shape[1]
    k = Z.shape[2]
    for q in range(first, last):
        for level in range(L):
            c0 = cols[level]
            r = cols[level + 1] - c0
            if r == 0 or (q > start and path[q, level] == path[q - 1, level]):
                continue
            eliminate = level >= top
            z0 = zoff[level] + path[q, level] * r
            for i in range(r - 1, -1, -1):
                if eliminate and k == 1:
                    v = W[z0 + i, 0]
                    for j in range(c0):
                        v -= K[z0 + i, j] * stack[j, 0]
                    for m in range(i + 1, r):
                        v -= K[z0 + m, c0 + i] * W[z0 + m, 0]
                    W[z0 + i, 0] = v / K[z0 + i, c0 + i]
                elif eliminate:
                    for j in range(c0):
                        f = K[z0 + i, j]
                        for c in range(k):
                            W[z0 + i, c] -= f * stack[j, c]
                    for m in range(i + 1, r):
                        f = K[z0 + m, c0 + i]
                        for c in range(k):
                            W[z0 + i, c] -= f * W[z0 + m, c]
                    f = 1 / K[z0 + i, c0 + i]
                    for c in range(k):
                        W[z0 + i, c] *= f
                for c in range(k):
                    stack[c0 + i, c] = W[z0 + i, c]
        if Z.shape[0] > 0:
            for j in range(stack.shape[0]):
                for c in range(k):
                    Z[q - first, j, c] = stack[j, c]


@jit
def sweep_covariance(start, first, last, tree, K, cov, out):
    """Covariance of the factors along each leaf's path (Takahashi); cov (R, R) is the stack.

    B = C⁻ᵀ X:  Cov_own,anc = -B Cov_anc,anc,  Cov_own,own = P⁻¹ - Cov_own,anc Bᵀ.
    """
    path, cols, zoff = tree
    L = path.shape[1]
    R = cols[L]
    B = np.zeros((R, R), cov.dtype)
    for q in range(first, last):
        for level in range(L):
            c0 = cols[level]
            c1 = cols[level + 1]
            r = c1 - c0
            if r == 0 or (q > start and path[q, level] == path[q - 1, level]):
                continue
            z0 = zoff[level] + path[q, level] * r
            # Back substitution with Cᵀ on [X | C⁻¹]: B in the columns before c0, P⁻¹ behind them.
            for i in range(r):
                for j in range(c0):
                    B[i, j] = K[z0 + i, j]
                for j in range(c0, c1):  # column j - c0 of C⁻¹ by forward substitution
                    if j - c0 > i:
                        B[i, j] = 0
                    else:
                        v = cov.dtype.type(1 if j - c0 == i else 0)
                        for m in range(j - c0, i):
                            v -= K[z0 + i, c0 + m] * B[m, j]
                        B[i, j] = v / K[z0 + i, c0 + i]
            for i in range(r - 1, -1, -1):
                for m in range(i + 1, r):
                    f = K[z0 + m, c0 + i]
                    for j in range(c1):
                        B[i, j] -= f * B[m, j]
                d = 1 / K[z0 + i, c0 + i]
                for j in range(c1):
                    B[i, j] *= d
            for i in range(r):
                row = cov[c0 + i]
                for j in range(c0):
                    row[j] = 0
                for a in range(c0):
                    f = B[i, a]
                    for j in range(c0):
                        row[j] -= f * cov[a, j]
                for m in range(i + 1):
                    v = (B[i, c0 + m] + B[m, c0 + i]) / 2
                    for j in range(c0):
                        v -= row[j] * B[m, j]
                    row[c0 + m] = v
                    cov[c0 + m, c0 + i] = v
                for j in range(c0):
                    cov[j, c0 + i] = row[j]
        out[q - first] = cov


@jit
def sweep_second_moments(cov_path, Z, start, first, last, tree, N, chol, linv, winv, Winv):
    """Winv[q] = (N Cov + Z Zᵀ)⁻¹ along the path of each leaf; only new nodes are worked on.

    chol and linv (R, R) carry the Cholesky factor of W and its inverse, winv (L + 1, R, R) the
    inverse of each leading block of W.
    """
    path, cols, _ = tree
    L = path.shape[1]
    k = Z.shape[2]
    for q in range(first, last):
        z = Z[q - first]
        cov = cov_path[q - first]
        for level in range(L):
            c0 = cols[level]
            c1 = cols[level + 1]
            if q > start and path[q, level] == path[q - 1, level]:
                continue
            S = winv[level + 1]
            S[:c1, :c1] = 0
            S[:c0, :c0] = winv[level, :c0, :c0]
            for a in range(c0, c1):
                for m in range(a + 1):
                    v = N * cov[a, m]
                    for c in range(k):
                        v += z[a, c] * z[m, c]
                    for p in range(m):
                        v -= chol[a, p] * chol[m, p]
                    if m < a:
                        chol[a, m] = v / chol[m, m]
                    else:
                        chol[a, a] = np.sqrt(v)
                row = linv[a]
                row[:c1] = 0
                for m in range(a):
                    f = chol[a, m]
                    for j in range(m + 1):
                        row[j] -= f * linv[m, j]
                row[a] = 1
                d = 1 / chol[a, a]
                for j in range(a + 1):
                    row[j] *= d
                for i in range(a + 1):
                    f = row[i]
                    for j in range(a + 1):
                        S[i, j] += f * row[j]
        Winv[q - first] = winv[L]


@jit
def sweep_inverse_rows(F, dinv, lo, hi, leaf_off, tree, K, H):
    """Rows of H with Σ⁻¹ = diag(1/D) - H Hᵀ: h_own = C⁻¹ f_own, f_anc -= Xᵀ h_own, leaf to root."""
    path, cols, zoff = tree
    L = path.shape[1]
    for q in range(lo, hi):
        for i in range(leaf_off[q], leaf_off[q + 1]):
            h = H[i]
            for j in range(h.size):
                h[j] = dinv[i] * F[i, j]
            for level in range(L - 1, -1, -1):
                c0 = cols[level]
                r = cols[level + 1] - c0
                z0 = zoff[level] + path[q, level] * r
                for m in range(r):
                    row = K[z0 + m]
                    v = h[c0 + m]
                    for p in range(m):
                        v -= row[c0 + p] * h[c0 + p]
                    v /= row[c0 + m]
                    h[c0 + m] = v
                    for j in range(c0):
                        h[j] -= row[j] * v
