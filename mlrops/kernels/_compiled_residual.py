"""Compiled loops of the posterior without loss: single features, along the paths to their leaves.

K holds the rows ``[X | C]`` of the nodes, of ``P = I + FᵀD⁻¹F = Λ Λᵀ``; see `tree`.
"""

import numpy as np

from ._jit import jit

__all__ = ["add_row", "add_rows", "path_length", "path_solves"]


@jit
def path_length(h, leaf, tree, K):
    """‖Λ⁻¹ h‖² for a row h (R,) of F, which is overwritten by Λ⁻¹ h.

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
def path_solves(F, leaves, tree, K, lo, hi, out, lengths):
    """out[m] = f P⁻¹ along the path to leaves[m], and lengths[m] = f P⁻¹ fᵀ, f the row m of F.

    After `path_length`, root to leaf: z_own = C⁻ᵀ (h_own - X z_anc).
    """
    path, cols, zoff = tree
    for m in range(lo, hi):
        z = out[m]
        for j in range(z.size):
            z[j] = F[m, j]
        lengths[m] = path_length(z, leaves[m], tree, K)
        for level in range(path.shape[1]):
            c0 = cols[level]
            r = cols[level + 1] - c0
            z0 = zoff[level] + path[leaves[m], level] * r
            for i in range(r - 1, -1, -1):
                v = z[c0 + i]
                for j in range(c0):
                    v -= K[z0 + i, j] * z[j]
                for p in range(i + 1, r):
                    v -= K[z0 + p, c0 + i] * z[c0 + p]
                z[c0 + i] = v / K[z0 + i, c0 + i]


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
