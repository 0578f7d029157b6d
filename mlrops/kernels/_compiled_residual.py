"""Compiled loops of the posterior without loss: single features, along the paths to their leaves.

K holds the rows ``[X | C]`` of the nodes, of ``P = I + FᵀD⁻¹F = Λ Λᵀ``; see `tree`.
"""

import numpy as np

from ._jit import jit

__all__ = ["add_row", "add_rows", "path_length", "path_lengths"]


@jit
def path_length(h, leaf, tree, K):
    """‖Λ⁻¹ h‖² for a row h (R,) of F, which is overwritten.

    Leaf to root: h_own = C⁻¹ h_own, h_anc -= Xᵀ h_own.
    """
    path, cols, zoff = tree
    total = 0.0
    for level in range(path.shape[1] - 1, -1, -1):
        c0 = cols[level]
        r = cols[level + 1] - c0
        z0 = zoff[level] + path[leaf, level] * r
        for m in range(r):
            row = K[z0 + m]
            v = h[c0 + m]
            for p in range(m):
                v -= row[c0 + p] * h[c0 + p]
            v /= row[c0 + m]
            h[c0 + m] = v
            total += np.float64(v) * np.float64(v)
            for j in range(c0):
                h[j] -= row[j] * v
    return total


@jit
def path_lengths(F, leaves, tree, K, lo, hi, out):
    """out[m] = ‖Λ⁻¹ f‖² for the row m of F, in the leaf leaves[m], m in lo:hi."""
    for m in range(lo, hi):
        out[m] = path_length(F[m].copy(), leaves[m], tree, K)


@jit
def add_row(h, leaf, tree, K):
    """K of ``P + h hᵀ`` from that of P, by plane rotations; h (R,) is overwritten.

    A row of any size takes none of the digits of what was there: a rotation of ``[Cᵀ, X]`` and h
    leaves of both what is orthogonal, which goes on to the ancestors.
    """
    path, cols, zoff = tree
    for level in range(path.shape[1] - 1, -1, -1):
        c0 = cols[level]
        r = cols[level + 1] - c0
        z0 = zoff[level] + path[leaf, level] * r
        for i in range(r):
            a = K[z0 + i, c0 + i]
            b = h[c0 + i]
            if b == 0:
                continue
            size = np.hypot(a, b)
            cos = a / size
            sin = b / size
            K[z0 + i, c0 + i] = size
            for m in range(i + 1, r):
                t = K[z0 + m, c0 + i]
                K[z0 + m, c0 + i] = cos * t + sin * h[c0 + m]
                h[c0 + m] = cos * h[c0 + m] - sin * t
            for j in range(c0):
                t = K[z0 + i, j]
                K[z0 + i, j] = cos * t + sin * h[j]
                h[j] = cos * h[j] - sin * t


@jit
def add_rows(F, deviation, rows, leaves, tree, K):
    """K after `add_row` of the rows of ``F / deviation``, in the leaves `leaves`."""
    for m in range(rows.size):
        add_row(F[rows[m]] / deviation[rows[m]], leaves[m], tree, K)
