"""Compiled loops that cut a weighted graph in two, one vertex at a time.

Vertices carry signs s = ±1, their *field* is h = W s, and turning vertex i over lowers the weight
cut by d_i = -s_i h_i; then h changes by -2 s_i times column i of W: O(vertices) a turn.

The weights (W, Wt, data, indices, indptr, p) come in one of three forms: dense and symmetric
(`p` = 0), a dense p × q block between rows 0 ... p-1 and columns p ... p+q-1 that has no other
edges, with its transpose `Wt`, or a symmetric sparse matrix by rows (then `W` is empty).  They come
one by one, since numba 0.59 takes a tuple of arrays for one of another precision.  No vertex has an
edge to itself.  Rows are of kind 0, columns of kind 1.
"""

import numpy as np

from ..kernels._jit import jit


@jit
def turn(weights, i, s, h):
    """Turn vertex i over: s_i changes sign, and h stays W s."""
    W, Wt, data, indices, indptr, p = weights
    a = -2 * s[i]
    s[i] = -s[i]
    if indptr.size:
        for k in range(indptr[i], indptr[i + 1]):
            h[indices[k]] += a * data[k]
        return
    row, first = (W[i], p) if i < p or p == 0 else (Wt[i - p], 0)
    for j in range(row.size):
        h[first + j] += a * row[j]


@jit
def best_by_side(s, h, kind, free, best, value):
    """Vertex of the largest gain among the free ones of each kind (row) and side (column)."""
    for k in range(2):
        for side in range(2):
            best[k, side] = -1
            value[k, side] = -np.inf
    for i in range(s.size):
        if free[i]:
            side = 0 if s[i] > 0 else 1
            d = -s[i] * h[i]
            if d > value[kind[i], side]:
                value[kind[i], side] = d
                best[kind[i], side] = i


@jit
def swap_pass(W, Wt, data, indices, indptr, p, kind, room, patience, s, h):
    """One Kernighan-Lin pass that keeps the numbers of vertices on the sides within bounds.

    room[k] holds the least and the most vertices of kind k on the plus side.  Each step makes the
    change of largest gain, be it a loss, and never undoes it: where the bounds leave no choice two
    vertices of one kind change sides, otherwise a single one does.  The pass ends when no vertex is
    left to move, or `patience` of them have moved without a new best state, and goes back to the
    best one.  Returns the gain in weight not cut; s and h = W s are left there.
    """
    weights = W, Wt, data, indices, indptr, p
    free = np.ones(s.size, np.bool_)
    best = np.empty((2, 2), np.int64)
    value = np.empty((2, 2))
    turned = np.empty(s.size, np.int64)
    plus = np.zeros(2, np.int64)
    for i in range(s.size):
        plus[kind[i]] += s[i] > 0
    gain = 0.0
    top = 0.0
    n_turned = 0
    n_top = 0
    while True:
        best_by_side(s, h, kind, free, best, value)
        choice = -1
        side = 0
        highest = -np.inf
        for k in range(2):
            least, most = room[k]
            if least == most:
                v = value[k, 0] + value[k, 1]
                first = 0 if value[k, 0] >= value[k, 1] else 1
            else:
                leave = value[k, 0] if plus[k] > least else -np.inf
                join = value[k, 1] if plus[k] < most else -np.inf
                v = max(leave, join)
                first = 0 if leave >= join else 1
            if v > highest:
                choice = k
                side = first
                highest = v
        if choice < 0:
            break
        i = best[choice, side]
        gain += value[choice, side]
        free[i] = False
        turn(weights, i, s, h)
        turned[n_turned] = i
        n_turned += 1
        if room[choice, 0] == room[choice, 1]:
            best_by_side(s, h, kind, free, best, value)  # given that i has changed sides
            j = best[choice, 1 - side]
            gain += value[choice, 1 - side]
            free[j] = False
            turn(weights, j, s, h)
            turned[n_turned] = j
            n_turned += 1
        else:
            plus[choice] += 2 * side - 1
        if gain > top:
            top = gain
            n_top = n_turned
        elif n_turned - n_top >= patience:
            break
    for t in range(n_top, n_turned):
        turn(weights, turned[t], s, h)
    return top


@jit
def normalized_cut(cut, plus, total):
    """cut (1 / vol₊ + 1 / vol₋), infinite when a side has no volume."""
    if plus <= 0 or plus >= total:
        return np.inf
    return cut / plus + cut / (total - plus)


@jit
def move_pass(W, Wt, data, indices, indptr, p, kind, degree, total, counts, smallest, patience,
              cut, s, h):
    """One Fiduccia-Mattheyses pass on the normalized cut, with sides of any size.

    counts[k, side] vertices of kind k are on each side (0 is plus), never fewer than `smallest`.
    Each step moves the free vertex that leaves the least normalized cut, be it more than before;
    the pass ends as `swap_pass` does.  Returns the normalized cut of the best state; s and h are
    left there.
    """
    weights = W, Wt, data, indices, indptr, p
    free = np.ones(s.size, np.bool_)
    turned = np.empty(s.size, np.int64)
    plus = 0.0
    for i in range(s.size):
        if s[i] > 0:
            plus += degree[i]
    least = normalized_cut(cut, plus, total)
    n_turned = 0
    n_least = 0
    for _ in range(s.size):
        choice = np.int64(-1)  # as a literal it would compile `turn` once more
        lowest = np.inf
        for i in range(s.size):
            side = 0 if s[i] > 0 else 1
            if free[i] and counts[kind[i], side] > smallest:
                v = normalized_cut(cut + s[i] * h[i], plus - s[i] * degree[i], total)
                if v < lowest:
                    choice = i
                    lowest = v
        if choice < 0:
            break
        i = choice
        side = 0 if s[i] > 0 else 1
        counts[kind[i], side] -= 1
        counts[kind[i], 1 - side] += 1
        cut += s[i] * h[i]
        plus -= s[i] * degree[i]
        free[i] = False
        turn(weights, i, s, h)
        turned[n_turned] = i
        n_turned += 1
        if lowest < least:
            least = lowest
            n_least = n_turned
        elif n_turned - n_least >= patience:
            break
    for t in range(n_least, n_turned):
        turn(weights, turned[t], s, h)
    return least


@jit
def sweep_cut(W, Wt, data, indices, indptr, p, kind, degree, total, counts, smallest, order, s, h):
    """Turn all vertices from minus to plus in a given order; length of the prefix of least cut.

    On entry s = -1 and counts[k, 1] are the sizes of the kinds.  0 when no prefix leaves
    `smallest` vertices of each kind on both sides and volume on both.
    """
    weights = W, Wt, data, indices, indptr, p
    plus = 0.0
    cut = 0.0
    least = np.inf
    n_least = 0
    for t in range(order.size - 1):
        i = order[t]
        cut += s[i] * h[i]
        plus += degree[i]
        counts[kind[i], 0] += 1
        counts[kind[i], 1] -= 1
        turn(weights, i, s, h)
        allowed = True
        for k in range(2):
            if counts[k, 0] + counts[k, 1] and min(counts[k, 0], counts[k, 1]) < smallest:
                allowed = False
        v = normalized_cut(cut, plus, total)
        if allowed and v < least:
            least = v
            n_least = t + 1
    return n_least
