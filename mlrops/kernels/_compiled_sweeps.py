"""Compiled sweeps up and down the tree.

All two- and three-dimensional arrays are C-contiguous.  The inner loops run along the columns of F
or along the ancestors' columns, which are contiguous, so that they vectorize.
"""

import numpy as np

from ._jit import jit

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
