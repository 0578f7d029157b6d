"""Compiled Householder factorization of the nodes of one level, and products with its reflectors.

Node g has the places ``off[g]:off[g + 1]``, m of them.  In V its rows lie in columns, its own ones
first: entry (i, j) at ``off[g] width + j m + i``, as LAPACK packs a QR factorization.  Vectors lie
in rows, ``(k, rows)``.  So every inner loop is contiguous.  No array is allocated or assigned as a
whole: numba compiles either for seconds.  Indices of the inner loops are unsigned: see
`_compiled_sweeps`.
"""

import numpy as np

from ._jit import jit

_U = np.uint64
_ONE = _U(1)


@jit
def gather_nodes(B, order, off, c0, width, lo, hi, V):
    """Write the rows of the nodes lo:hi to V: place p holds row ``order[p]`` of B.

    Behind the rows of B follow r of the identity for each node, for its own factors.
    """
    r = width - c0
    for g in range(lo, hi):
        m = off[g + 1] - off[g]
        for i in range(m):
            row = order[off[g] + i]
            at = off[g] * width + i
            if row < B.shape[0]:
                for j in range(r):
                    V[at + j * m] = B[row, c0 + j]
                for j in range(c0):
                    V[at + (r + j) * m] = B[row, j]
            else:
                for j in range(width):
                    V[at + j * m] = 0
                V[at + (row - B.shape[0] - g * r) * m] = 1


@jit
def reflect_nodes(off, width, lo, hi, V, tau):
    """Householder's factorization of the nodes lo:hi, packed in place."""
    columns = _U(width)
    for g in range(lo, hi):
        m = _U(off[g + 1] - off[g])
        start = _U(off[g]) * columns
        for j in range(min(m, columns)):
            at = start + j * m
            alpha = V[at + j]
            below = abs(alpha) * 0
            for i in range(j + _ONE, m):
                below = max(below, abs(V[at + i]))
            tau[g, j] = 0
            if below == 0:
                continue
            largest = max(abs(alpha), below)
            squares = largest * 0
            for i in range(j, m):  # scaled: squares of what can be represented may overflow
                squares += (V[at + i] / largest) * (V[at + i] / largest)
            beta = largest * np.sqrt(squares)
            if alpha >= 0:
                beta = -beta
            tau[g, j] = (beta - alpha) / beta
            for i in range(j + _ONE, m):
                V[at + i] /= alpha - beta
            V[at + j] = beta
            for c in range(j + _ONE, columns):
                other = start + c * m
                dot = V[other + j]
                for i in range(j + _ONE, m):
                    dot += V[at + i] * V[other + i]
                dot *= tau[g, j]
                V[other + j] -= dot
                for i in range(j + _ONE, m):
                    V[other + i] -= dot * V[at + i]


@jit
def spread_nodes(off, poff, c0, width, zoff, lo, hi, V, sign, K, S):
    """Take ``[X | C]`` and what is passed up, S, out of the factorizations of the nodes lo:hi.

    C has a positive diagonal: sign holds what the rows were multiplied by.
    """
    r = width - c0
    for g in range(lo, hi):
        m = off[g + 1] - off[g]
        at = off[g] * width
        first = zoff + g * r
        for i in range(r):
            f = V[at + i * m + i]
            f = f * 0 + (1 if f >= 0 else -1)
            sign[first + i] = f
            for j in range(c0):
                K[first + i, j] = f * V[at + (r + j) * m + i]
            for j in range(i, r):
                K[first + j, c0 + i] = f * V[at + j * m + i]
        for i in range(poff[g + 1] - poff[g]):
            for j in range(c0):
                S[poff[g] + i, j] = V[at + (r + j) * m + r + i] if j >= i else 0


@jit
def apply_nodes(order, off, poff, r, zoff, V, tau, sign, up, lo, hi, y, X, nodes, passed, rest):
    """Multiply with Qᵀ of the nodes lo:hi (`up`), or with Q.

    Vectors have their incoming rows in X, those of the identity or of the factors in `nodes`, what
    is passed up and what remains in `passed` and `rest`, ``(k, rows)`` each; y is room for a node.
    """
    width = tau.shape[1]
    for g in range(lo, hi):
        m = off[g + 1] - off[g]
        first = zoff + g * r
        reflectors = min(m, width)
        t = poff[g + 1] - poff[g]
        left = off[g] - g * r - poff[g]  # what the nodes before have left over
        for c in range(X.shape[0]):
            if up:
                for i in range(m):
                    row = order[off[g] + i]
                    y[i] = (X[c, row] if row < X.shape[1]
                            else nodes[c, zoff + row - X.shape[1]])
            else:
                for i in range(m):
                    if i < r:
                        y[i] = sign[first + i] * nodes[c, first + i]
                    elif i < r + t:
                        y[i] = passed[c, poff[g] + i - r]
                    else:
                        y[i] = rest[c, left + i - r - t]
            for number in range(reflectors):
                j = _U(number if up else reflectors - 1 - number)
                at = _U(off[g] * width) + j * _U(m)
                dot = y[j]
                for i in range(j + _ONE, _U(m)):
                    dot += V[at + i] * y[i]
                dot *= tau[g, j]
                y[j] -= dot
                for i in range(j + _ONE, _U(m)):
                    y[i] -= dot * V[at + i]
            if up:
                for i in range(m):
                    if i < r:
                        nodes[c, first + i] = sign[first + i] * y[i]
                    elif i < r + t:
                        passed[c, poff[g] + i - r] = y[i]
                    else:
                        rest[c, left + i - r - t] = y[i]
            else:
                for i in range(m):
                    row = order[off[g] + i]
                    if row < X.shape[1]:
                        X[c, row] = y[i]
                    else:
                        nodes[c, zoff + row - X.shape[1]] = y[i]


@jit
def follow_rows(order, off, poff, r, V, tau, node, first, count, lo, hi, y, A, left):
    """Multiply vectors lo:hi, each in one node, with its Qᵀ; compare `apply_nodes`.

    Vector h has the entries A[h, :count[h]] in the incoming rows from first[h] on of ``node[h]``.
    The squares of what remains are added to left; A, first and count become those of what is passed
    up.
    """
    width = _U(tau.shape[1])
    for h in range(lo, hi):
        g = node[h]
        m = _U(off[g + 1] - off[g])
        for i in range(m):
            row = order[_U(off[g]) + i] - first[h]
            y[i] = A[h, row] if 0 <= row < count[h] else 0
        for j in range(min(m, width)):
            at = _U(off[g]) * width + j * m
            dot = y[j]
            for i in range(j + _ONE, m):
                dot += V[at + i] * y[i]
            dot *= tau[g, j]
            y[j] -= dot
            for i in range(j + _ONE, m):
                y[i] -= dot * V[at + i]
        first[h] = poff[g]
        count[h] = poff[g + 1] - poff[g]
        for i in range(count[h]):
            A[h, i] = y[r + i]
        squares = 0.0
        for i in range(_U(r + count[h]), m):
            squares += y[i] * y[i]
        left[h] += squares
