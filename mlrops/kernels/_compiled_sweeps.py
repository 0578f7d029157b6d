"""Compiled sweeps up and down the tree.

All two- and three-dimensional arrays are C-contiguous.  Ancestors' columns of Gram matrices go in
vectors, see `_lanes`; loops along many right-hand sides vectorize by themselves.

Leaves are visited from left to right; a node is closed when its last leaf has been, opened when
its first one is.  begins[q] is the coarsest level of which a group begins at leaf q, and 0 behind
the last leaf.  The state of a sweep lives in its stack, one entry a level, so a sweep can stop
after any leaf and go on with the next block: no array of all leaves is ever needed.

A sweep visits whole groups of level `top`.  On the way up it stops below: what these groups pass
up is left in U.  `add_in_pairs` sums that over the groups of each parent, in pairs that do not
depend on who swept which groups; the levels above are a tree of their own, with the parents for
leaves.  On the way down it starts from what that tree gives its leaves, `coarse`.
"""

import numpy as np

from ._compiled_rows import add_gram
from ._compiled_short import cleared, copied, taken, tile
from ._jit import jit
from ._lanes import V, axpy, load, store, times, zeros

_U = np.uint64  # see `_compiled_short`
_ONE, _TWO, _THREE, _FOUR = _U(1), _U(2), _U(3), _U(4)


@jit
def sweep_factor(F, scale, G, given, ridge, first, last, off, begins, tree, top, stack, plain, K,
                 sizes, U, passed, sums, losses, fail):
    """Eliminate leaves first, from their Gram matrices G (last - first, R, R), lower triangles.

    An empty G stands for F_leafᵀ diag(scale) F_leaf, which is then formed here.  Row i of a node in
    K holds [X_i | C_i | 0], X = C⁻¹ A_own,anc, C the Cholesky factor of A_own,own + diag(ridge).
    The stack (L, R, R) has room for the sum over the children of each open node.  It, `plain` and K
    are zero at the start.  sums[:, 0] gets Σ log diag C of the nodes in each group of level `top`.
    On a bad pivot fail = (level, group).

    What nobody has eliminated from is summed too, in plain (L, R) and passed (groups, c): sizes
    (s,) gets the diagonal of ``I + Fᵀ diag(scale) F``, losses (groups, 2) the largest trace of a
    Gram matrix formed here and the largest ratio of an entry of that diagonal to its pivot.
    `given` (last - first, R) are such sums for the leaves, where G is not of rows.
    """
    path, cols, zoff = tree
    L = path.shape[1]
    R = _U(cols[L])
    width = _U(K.shape[1])  # of the whole tree, where this is the one above
    nothing = zeros(K)
    bottom = _U(L - 1)
    for q in range(first, last):
        group = path[q, top]
        if G.size > 0:
            copied(G, _U(q - first) * R * R, R * R, stack, bottom * R * R)
        else:
            add_gram(F, scale, off[q], off[q + 1], stack, bottom)
        trace = 0.0
        for a in range(R):
            plain[bottom, a] = given[_U(q - first), a] if given.size > 0 else stack[bottom, a, a]
            trace += plain[bottom, a]
        if G.size == 0:
            losses[group, 0] = max(losses[group, 0], trace)
        product = 1.0
        closes = max(begins[q + 1], top)
        for level in range(L - 1, closes - 1, -1):
            own = _U(level)
            up = own - _ONE
            c0 = _U(cols[level])
            r = _U(cols[level + 1]) - c0
            z0 = _U(zoff[level]) + _U(path[q, level]) * r
            for i in range(r):
                z = z0 + i
                row = (own * R + c0 + i) * R
                for m in range(i):
                    v = stack[own, c0 + i, c0 + m]
                    for p in range(m):
                        v -= K[z, c0 + p] * K[z0 + m, c0 + p]
                    K[z, c0 + m] = v / K[z0 + m, c0 + m]
                v = stack[own, c0 + i, c0 + i] + ridge[z]
                sizes[z] = plain[own, c0 + i] + ridge[z]
                plain[own, c0 + i] = 0
                for p in range(i):
                    v -= K[z, c0 + p] * K[z, c0 + p]
                if not (v > 0 and v < np.inf):
                    fail[0] = level
                    fail[1] = path[q, level]
                    return
                losses[group, 1] = max(losses[group, 1], sizes[z] / v)
                v = np.sqrt(v)
                K[z, c0 + i] = v
                product *= v
                if not (product < 1e100 and product > 1e-100):
                    sums[group, 0] += np.log(product)
                    product = 1.0
                scaling = 1 / v
                j = _U(0)
                while j < c0:
                    t = load(stack, row + j, c0 - j)
                    for m in range(i):
                        t = axpy(t, -K[z, c0 + m], load(K, (z0 + m) * width + j, c0 - j))
                    store(K, z * width + j, c0 - j, times(scaling, t))
                    j += V
                cleared(stack, row, c0 + r)
            # What is left of the ancestors' part goes up.
            a = _U(0)
            while a < c0:
                b = min(a + _ONE, c0 - _ONE)
                c = min(a + _TWO, c0 - _ONE)
                d = min(a + _THREE, c0 - _ONE)
                j = _U(0)
                while j <= a:
                    n = c0 - j
                    t0 = nothing
                    t1 = nothing
                    t2 = nothing
                    t3 = nothing
                    for z in range(z0, z0 + r):
                        f = load(K, z * width + j, n)
                        t0 = axpy(t0, -K[z, a], f)
                        t1 = axpy(t1, -K[z, b], f)
                        t2 = axpy(t2, -K[z, c], f)
                        t3 = axpy(t3, -K[z, d], f)
                    here = (own * R + a) * R + j
                    t0 = taken(stack, here, n, t0)
                    if a + _ONE < c0:
                        t1 = taken(stack, here + R, n, t1)
                    if a + _TWO < c0:
                        t2 = taken(stack, here + _TWO * R, n, t2)
                    if a + _THREE < c0:
                        t3 = taken(stack, here + _THREE * R, n, t3)
                    if level > top:
                        tile(stack, here - R * R, R, c0 - a, n, t0, t1, t2, t3)
                    else:
                        tile(U, (_U(group) * c0 + a) * c0 + j, c0, c0 - a, n, t0, t1, t2, t3)
                    j += V
                a += V
            for a in range(c0):
                if level > top:
                    plain[up, a] += plain[own, a]
                else:
                    passed[group, a] = plain[own, a]
                plain[own, a] = 0
        sums[group, 0] += np.log(product)


@jit
def sweep_up(T, first, last, begins, tree, K, top, stack, W, U, sums):
    """w = C⁻¹ t_own and t_anc - Xᵀ w to the parent; for an empty K w = t_own.

    T is (leaves, R, k), the stack (L, R, k), zero at the start; node rows of W are (s, k).  The
    squares of w are added to sums[:, 1:] of the groups of level `top`.
    """
    path, cols, zoff = tree
    L = path.shape[1]
    k = _U(T.shape[2])
    eliminate = K.size > 0
    zero = W.dtype.type(0)
    for q in range(first, last):
        group = _U(path[q, top])
        closes = max(begins[q + 1], top)
        for level in range(L - 1, closes - 1, -1):
            c0 = _U(cols[level])
            r = _U(cols[level + 1]) - c0
            z0 = _U(zoff[level]) + _U(path[q, level]) * r
            t = T[q - first] if level == L - 1 else stack[level]
            for i in range(r):
                for c in range(k):
                    W[z0 + i, c] = t[c0 + i, c]
                if eliminate:
                    for m in range(i):
                        f0 = K[z0 + i, c0 + m]
                        for c in range(k):
                            W[z0 + i, c] -= f0 * W[z0 + m, c]
                    f0 = 1 / K[z0 + i, c0 + i]
                    for c in range(k):
                        W[z0 + i, c] *= f0
                for c in range(k):
                    sums[group, _ONE + c] += W[z0 + i, c] * W[z0 + i, c]
            above = U[group] if level == top else stack[level - 1]
            for j in range(c0):
                if level > top:
                    for c in range(k):
                        above[j, c] += t[j, c]
                else:
                    for c in range(k):
                        above[j, c] = t[j, c]
                i = z0 if eliminate else z0 + r
                while i < z0 + r:  # up to four own factors at a time
                    b = min(i + _ONE, z0 + r - _ONE)
                    d = min(i + _TWO, z0 + r - _ONE)
                    e = min(i + _THREE, z0 + r - _ONE)
                    f0 = K[i, j]
                    f1 = K[b, j] if i + _ONE < z0 + r else zero
                    f2 = K[d, j] if i + _TWO < z0 + r else zero
                    f3 = K[e, j] if i + _THREE < z0 + r else zero
                    for c in range(k):
                        above[j, c] -= f0 * W[i, c] + f1 * W[b, c] + f2 * W[d, c] + f3 * W[e, c]
                    i += _FOUR
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
    k = _U(W.shape[1])
    eliminate = K.size > 0
    for q in range(first, last):
        opens = max(begins[q], top)
        if opens == top:
            above = _U(parent[path[q, top]])
            for j in range(_U(cols[top])):
                for c in range(k):
                    stack[j, c] = coarse[above, j, c]
        for level in range(opens, L):
            c0 = _U(cols[level])
            r = _U(cols[level + 1]) - c0
            z0 = _U(zoff[level]) + _U(path[q, level]) * r
            for back in range(r):
                i = r - _ONE - back
                z = z0 + i
                if eliminate:
                    j = _U(0)
                    while j + _FOUR <= c0:
                        f0 = K[z, j]
                        f1 = K[z, j + _ONE]
                        f2 = K[z, j + _TWO]
                        f3 = K[z, j + _THREE]
                        for c in range(k):
                            W[z, c] -= (f0 * stack[j, c] + f1 * stack[j + _ONE, c]
                                        + f2 * stack[j + _TWO, c] + f3 * stack[j + _THREE, c])
                        j += _FOUR
                    while j < c0:
                        f0 = K[z, j]
                        for c in range(k):
                            W[z, c] -= f0 * stack[j, c]
                        j += _ONE
                    for m in range(i + _ONE, r):
                        f0 = K[z0 + m, c0 + i]
                        for c in range(k):
                            W[z, c] -= f0 * W[z0 + m, c]
                    f0 = 1 / K[z, c0 + i]
                    for c in range(k):
                        W[z, c] *= f0
                for c in range(k):
                    stack[c0 + i, c] = W[z, c]
        if Z.size > 0:
            given = _U(q - first)
            for j in range(_U(cols[L])):
                for c in range(k):
                    Z[given, j, c] = stack[j, c]


@jit
def add_in_pairs(place, X):
    """Sum runs of groups in X (runs, width), in place; the number of runs that are left.

    place (runs, 3) has the parent of a run, the number of its first group among the parent's, and
    of how many groups it is the sum, a power of two that divides that number.  Two neighbours of
    one parent that make such a run are summed.  So a sum does not depend on how the groups came
    together.
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
