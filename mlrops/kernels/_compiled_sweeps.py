"""Compiled sweeps up and down the tree.

All two- and three-dimensional arrays are C-contiguous.  The inner loops run along the columns of F
or along the ancestors' columns, which are contiguous, so that they vectorize.

Leaves are visited from left to right; a node is closed when its last leaf has been, opened when
its first one is.  begins[q] is the coarsest level of which a group begins at leaf q, and 0 behind
the last leaf.  The state of a sweep lives in its stack, one entry a level, so a sweep can stop after
any leaf and go on with the next block: no array of all leaves is ever needed.

A sweep visits whole groups of level `top`.  On the way up it stops below: what these groups pass up
is left in U.  `add_in_pairs` sums that over the groups of each parent, in pairs that do not depend
on who swept which groups; the levels above are a tree of their own, with the parents for leaves.  On
the way down it starts from what that tree gives its leaves, `coarse`.
"""

import numpy as np

from ._jit import jit


@jit
def sweep_factor(F, scale, G, ridge, first, last, off, begins, tree, top, stack, fresh, K, U, sums,
                 traces, fail):
    """Eliminate leaves first, from their Gram matrices G (last - first, R, R), lower triangles.

    An empty G stands for ``F_leafᵀ diag(scale) F_leaf``, which is then formed here.  Row i of a node
    in K holds [X_i | C_i | 0], X = C⁻¹ A_own,anc, C the Cholesky factor of A_own,own + diag(ridge).
    The stack (L, R, R) has room for the sum over the children of each open node, fresh (L,) is true
    where there is none yet.  sums[:, 0] gets Σ log diag C of the nodes in each group of level `top`,
    traces (groups,) the largest trace of a leaf's Gram matrix.  On a bad pivot fail = (level, group).
    """
    path, cols, zoff = tree
    L = path.shape[1]
    R = cols[L]
    zero = K.dtype.type(0)
    for q in range(first, last):
        A = stack[L - 1]
        group = path[q, top]
        if G.size > 0:
            for a in range(R):
                for j in range(a + 1):
                    A[a, j] = G[q - first, a, j]
        else:
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
        trace = 0.0
        for a in range(R):
            trace += A[a, a]
        traces[group] = max(traces[group], trace)
        product = 1.0
        closes = max(begins[q + 1], top)
        for level in range(L - 1, closes - 1, -1):
            A = stack[level]
            c0 = cols[level]
            r = cols[level + 1] - c0
            z0 = zoff[level] + path[q, level] * r
            for i in range(r):
                row = K[z0 + i]
                for j in range(c0):
                    row[j] = A[c0 + i, j]
                for m in range(i):
                    v = A[c0 + i, c0 + m]
                    other = K[z0 + m]
                    for p in range(m):
                        v -= row[c0 + p] * other[c0 + p]
                    v /= other[c0 + m]
                    row[c0 + m] = v
                    for j in range(c0):
                        row[j] -= v * other[j]
                v = A[c0 + i, c0 + i] + ridge[z0 + i]
                for p in range(i):
                    v -= row[c0 + p] * row[c0 + p]
                if not (v > 0 and v < np.inf):
                    fail[0] = level
                    fail[1] = path[q, level]
                    return
                v = np.sqrt(v)
                row[c0 + i] = v
                product *= v
                if not (product < 1e100 and product > 1e-100):
                    sums[group, 0] += np.log(product)
                    product = 1.0
                d = 1 / v
                for j in range(c0):
                    row[j] *= d
                for j in range(c0 + i + 1, R):
                    row[j] = 0
            # What is left of the ancestors' part, two own factors at a time.
            i = 0
            while i < r:
                one = K[z0 + i]
                two = K[min(z0 + i + 1, z0 + r - 1)]
                more = i + 1 < r
                for a in range(c0):
                    f0 = one[a]
                    f1 = two[a] if more else zero
                    for j in range(a + 1):
                        A[a, j] -= f0 * one[j] + f1 * two[j]
                i += 2
            if level > top:
                B = stack[level - 1]
                if fresh[level - 1]:
                    for a in range(c0):
                        for j in range(a + 1):
                            B[a, j] = A[a, j]
                else:
                    for a in range(c0):
                        for j in range(a + 1):
                            B[a, j] += A[a, j]
                fresh[level - 1] = False
            else:
                B = U[group]
                for a in range(c0):
                    for j in range(a + 1):
                        B[a, j] = A[a, j]
            fresh[level] = True
        sums[group, 0] += np.log(product)


@jit
def sweep_up(T, first, last, begins, tree, K, top, stack, W, U, sums):
    """w = C⁻¹ t_own and t_anc - Xᵀ w to the parent; for an empty K w = t_own.

    T is (leaves, R, k), the stack (L, R, k), zero at the start; node rows of W are (s, k).  The
    squares of w are added to sums[:, 1:] of the groups of level `top`.
    """
    path, cols, zoff = tree
    L = path.shape[1]
    k = T.shape[2]
    eliminate = K.size > 0
    for q in range(first, last):
        closes = max(begins[q + 1], top)
        for level in range(L - 1, closes - 1, -1):
            c0 = cols[level]
            g = path[q, level]
            r = cols[level + 1] - c0
            z0 = zoff[level] + g * r
            t = T[q - first] if level == L - 1 else stack[level]
            total = sums[path[q, top]]
            for i in range(r):
                w = W[z0 + i]
                for c in range(k):
                    w[c] = t[c0 + i, c]
                if eliminate:
                    for m in range(i):
                        f = K[z0 + i, c0 + m]
                        for c in range(k):
                            w[c] -= f * W[z0 + m, c]
                    f = 1 / K[z0 + i, c0 + i]
                    for c in range(k):
                        w[c] *= f
                for c in range(k):
                    total[1 + c] += w[c] * w[c]
            above = U[g] if level == top else stack[level - 1]
            add = level > top
            for j in range(c0):
                out = above[j]
                if add:
                    for c in range(k):
                        out[c] += t[j, c]
                else:
                    for c in range(k):
                        out[c] = t[j, c]
                if eliminate:
                    i = 0
                    while i + 2 <= r:
                        f0 = K[z0 + i, j]
                        f1 = K[z0 + i + 1, j]
                        for c in range(k):
                            out[c] -= f0 * W[z0 + i, c] + f1 * W[z0 + i + 1, c]
                        i += 2
                    if i < r:
                        f0 = K[z0 + i, j]
                        for c in range(k):
                            out[c] -= f0 * W[z0 + i, c]
            if level < L - 1:
                for j in range(c0 + r):
                    for c in range(k):
                        t[j, c] = 0


@jit
def sweep_down(W, first, last, begins, tree, K, top, coarse, parent, stack, Z):
    """z_own = C⁻ᵀ (w - X z_anc) in place of w; Z[q] (R, k) is z along the path.

    For an empty K W holds z already.  `coarse` (parents, c, k) has z of the levels above `top`,
    `parent` the parent of each group of that level.  The stack (R, k) is what was left of the last
    call, or anything where `first` begins a group of level `top`.
    """
    path, cols, zoff = tree
    L = path.shape[1]
    k = W.shape[1]
    eliminate = K.size > 0
    for q in range(first, last):
        opens = max(begins[q], top)
        if opens == top:
            above = coarse[parent[path[q, top]]]
            for j in range(cols[top]):
                for c in range(k):
                    stack[j, c] = above[j, c]
        for level in range(opens, L):
            c0 = cols[level]
            r = cols[level + 1] - c0
            z0 = zoff[level] + path[q, level] * r
            for i in range(r - 1, -1, -1):
                w = W[z0 + i]
                if eliminate:
                    j = 0
                    while j + 2 <= c0:
                        f0 = K[z0 + i, j]
                        f1 = K[z0 + i, j + 1]
                        for c in range(k):
                            w[c] -= f0 * stack[j, c] + f1 * stack[j + 1, c]
                        j += 2
                    if j < c0:
                        f0 = K[z0 + i, j]
                        for c in range(k):
                            w[c] -= f0 * stack[j, c]
                    for m in range(i + 1, r):
                        f0 = K[z0 + m, c0 + i]
                        for c in range(k):
                            w[c] -= f0 * W[z0 + m, c]
                    f0 = 1 / K[z0 + i, c0 + i]
                    for c in range(k):
                        w[c] *= f0
                for c in range(k):
                    stack[c0 + i, c] = w[c]
        if Z.size > 0:
            z = Z[q - first]
            for j in range(cols[L]):
                for c in range(k):
                    z[j, c] = stack[j, c]


@jit
def add_in_pairs(place, X):
    """Sum runs of groups in X (runs, width), in place; the number of runs that are left.

    place (runs, 3) has the parent of a run, the number of its first group among the parent's, and of
    how many groups it is the sum, a power of two that divides that number.  Two neighbours of one
    parent that make such a run are summed.  So a sum does not depend on how the groups came together.
    """
    n = 0
    for i in range(place.shape[0]):
        for j in range(3):
            place[n, j] = place[i, j]
        if n < i:
            for c in range(X.shape[1]):
                X[n, c] = X[i, c]
        n += 1
        while n > 1:
            size = place[n - 2, 2]
            if (place[n - 1, 0] != place[n - 2, 0] or place[n - 1, 2] != size
                    or place[n - 2, 1] % (2 * size) != 0
                    or place[n - 1, 1] != place[n - 2, 1] + size):
                break
            for c in range(X.shape[1]):
                X[n - 2, c] += X[n - 1, c]
            place[n - 2, 2] = 2 * size
            n -= 1
    return n


@jit
def add_by_parent(place, X, out):
    """out[parent] = the sum of its runs, the last of them first; runs as of `add_in_pairs`."""
    for i in range(place.shape[0] - 1, -1, -1):
        parent = place[i, 0]
        last = i + 1 == place.shape[0] or place[i + 1, 0] != parent
        for c in range(X.shape[1]):
            out[parent, c] = X[i, c] if last else out[parent, c] + X[i, c]
