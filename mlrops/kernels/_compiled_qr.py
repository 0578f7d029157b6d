"""Compiled Householder factorization of the nodes of one level, and products with its reflectors.

A node's rows lie in columns: entry (i, j) of its m rows at ``j m + i``, as LAPACK packs a QR
factorization.  Vectors lie in rows, ``(k, rows)``.  So every inner loop is contiguous.
"""

import numpy as np

from ._jit import jit


@jit
def gather_node(B, order, first, c0, A):
    """A (width, m): columns of a node's rows in `order`, its own ones, from `c0` on, first.

    Row ``len(B) + first + i`` is that of its own factor i in the identity.
    """
    width, m = A.shape
    r = width - c0
    for i in range(m):
        row = order[i]
        if row < B.shape[0]:
            for j in range(r):
                A[j, i] = B[row, c0 + j]
            for j in range(c0):
                A[r + j, i] = B[row, j]
        else:
            for j in range(width):
                A[j, i] = 0
            A[row - B.shape[0] - first, i] = 1


@jit
def reflect_node(A, reflectors, tau):
    """Householder's factorization of the columns A (width, m), packed in place."""
    width, m = A.shape
    for j in range(reflectors):
        column = A[j]
        alpha = column[j]
        largest = abs(alpha) * 0
        for i in range(j + 1, m):
            largest = max(largest, abs(column[i]))
        tau[j] = 0
        if largest == 0:
            continue
        largest = max(largest, abs(alpha))
        squares = alpha * 0
        for i in range(j, m):  # scaled: squares of what can be represented may overflow
            squares += (column[i] / largest) * (column[i] / largest)
        beta = largest * np.sqrt(squares)
        if alpha >= 0:
            beta = -beta
        tau[j] = (beta - alpha) / beta
        for i in range(j + 1, m):
            column[i] /= alpha - beta
        column[j] = beta
        for c in range(j + 1, width):
            other = A[c]
            dot = other[j]
            for i in range(j + 1, m):
                dot += column[i] * other[i]
            dot *= tau[j]
            other[j] -= dot
            for i in range(j + 1, m):
                other[i] -= dot * column[i]


@jit
def spread_node(A, reflectors, c0, first, sign, K, S):
    """Take ``[X | C]`` and what is passed up, S, out of the packed factorization A (width, m).

    C has a positive diagonal: sign holds what the rows were multiplied by.
    """
    r = A.shape[0] - c0
    for i in range(r):
        f = A.dtype.type(1 if A[i, i] >= 0 else -1)
        sign[i] = f
        for j in range(c0):
            K[first + i, j] = f * A[r + j, i]
        for j in range(i, r):
            K[first + j, c0 + i] = f * A[j, i]
    for i in range(reflectors - r):
        for j in range(i):
            S[i, j] = 0
        for j in range(i, c0):
            S[i, j] = A[r + j, r + i]


@jit
def factor_nodes(B, order, off, c0, width, zoff, voff, poff, lo, hi, V, tau, sign, K, S):
    """Factor the nodes lo:hi of a level; the arguments are those of `qr.Level`."""
    r = width - c0
    for g in range(lo, hi):
        m = off[g + 1] - off[g]
        A = np.empty((width, m), B.dtype)
        reflectors = min(m, width)
        first = zoff + g * r
        gather_node(B, order[off[g] : off[g + 1]], g * r, c0, A)
        reflect_node(A, reflectors, tau[g])
        V[voff[g] : voff[g + 1]] = A.ravel()[: reflectors * m]
        spread_node(A, reflectors, c0, first, sign[first : first + r], K,
                    S[poff[g] : poff[g + 1]])


@jit
def apply_nodes(order, off, r, zoff, voff, poff, V, tau, sign, up, lo, hi, X, nodes, passed, rest):
    """Multiply with Qᵀ of the nodes lo:hi (`up`), or with Q.

    Vectors have their incoming rows in X, those of the identity or of the factors in `nodes`, what
    is passed up and what remains in `passed` and `rest`, ``(k, rows)`` each.
    """
    for g in range(lo, hi):
        m = off[g + 1] - off[g]
        first = zoff + g * r
        reflectors = (voff[g + 1] - voff[g]) // m if m > 0 else 0
        t = poff[g + 1] - poff[g]
        left = off[g] - g * r - poff[g]  # what the nodes before have left over
        y = np.empty(m, X.dtype)
        for c in range(X.shape[0]):
            if up:
                for i in range(m):
                    row = order[off[g] + i]
                    y[i] = (X[c, row] if row < X.shape[1]
                            else nodes[c, zoff + row - X.shape[1]])
            else:
                for i in range(r):
                    y[i] = sign[first + i] * nodes[c, first + i]
                for i in range(t):
                    y[r + i] = passed[c, poff[g] + i]
                for i in range(r + t, m):
                    y[i] = rest[c, left + i - r - t]
            for number in range(reflectors):
                j = number if up else reflectors - 1 - number
                v = V[voff[g] + j * m : voff[g] + (j + 1) * m]
                dot = y[j]
                for i in range(j + 1, m):
                    dot += v[i] * y[i]
                dot *= tau[g, j]
                y[j] -= dot
                for i in range(j + 1, m):
                    y[i] -= dot * v[i]
            if up:
                for i in range(r):
                    nodes[c, first + i] = sign[first + i] * y[i]
                for i in range(t):
                    passed[c, poff[g] + i] = y[r + i]
                for i in range(r + t, m):
                    rest[c, left + i - r - t] = y[i]
            else:
                for i in range(m):
                    row = order[off[g] + i]
                    if row < X.shape[1]:
                        X[c, row] = y[i]
                    else:
                        nodes[c, zoff + row - X.shape[1]] = y[i]
