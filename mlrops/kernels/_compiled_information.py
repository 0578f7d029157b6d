"""Compiled loops of the sweeps of `information`, level by level, in the names of its formulae."""

import numpy as np

from ._jit import jit

__all__ = ["level_down", "level_up"]


@jit
def level_up(T, S, B, Q, first, lo, hi, T_own, T_above, dB, dQ, T_out, S_out):
    """What the nodes of a level keep, and pass up to the parents lo:hi, whose sums are written.

    T and S (p, a + r, a + r); the nodes of parent j are first[j]:first[j + 1].
    """
    r, a = B.shape[1:]
    along, part = np.empty((r, a), B.dtype), np.empty((r, r), B.dtype)
    for j in range(lo, hi):
        T_out[j] = 0
        S_out[j] = 0
        for g in range(first[j], first[j + 1]):
            b, t, s = B[g], T[g], S[g]
            for c in range(r):
                for k in range(a + r):
                    T_own[g, c, k] = t[a + c, k]
                for i in range(a):
                    x = s[a + c, i]
                    for e in range(r):
                        x -= s[a + c, a + e] * b[e, i]
                    along[c, i] = x
            for i in range(a):
                for k in range(a):
                    x = t[i, k]
                    y = s[i, k]
                    for c in range(r):
                        x -= b[c, i] * t[a + c, k]
                        y -= b[c, i] * s[a + c, k] + along[c, i] * b[c, k]
                    T_out[j, i, k] += x
                    S_out[j, i, k] += y
                for k in range(r):
                    x = t[i, a + k]
                    for c in range(r):
                        x -= b[c, i] * t[a + c, a + k]
                    T_above[g, i, k] = x
            q = Q[g]
            for c in range(r):
                for i in range(a):
                    x = q[c, 0] * along[0, i]
                    for e in range(1, r):
                        x += q[c, e] * along[e, i]
                    dB[g, c, i] = x
                for k in range(r):
                    x = q[c, 0] * s[a, a + k]
                    for e in range(1, r):
                        x += q[c, e] * s[a + e, a + k]
                    part[c, k] = x
            for c in range(r):
                for k in range(r):
                    x = part[c, 0] * q[0, k]
                    for e in range(1, r):
                        x += part[c, e] * q[e, k]
                    dQ[g, c, k] = x


@jit
def level_down(E, Z, parent, B, Q, C, T_own, T_above, dB, dQ, lo, hi, E_out, Z_out):
    """E and Z (p, a + r, a + r) of the nodes lo:hi of a level, from those of their parents."""
    r, a = B.shape[1:]
    moved, across = np.empty((r, a), B.dtype), np.empty((r, a), B.dtype)
    for g in range(lo, hi):
        e, z, e_above, z_above = E_out[g], Z_out[g], E[parent[g]], Z[parent[g]]
        b, q = B[g], Q[g]
        for i in range(a):
            for k in range(a):
                e[i, k] = e_above[i, k]
                z[i, k] = z_above[i, k]
            for k in range(r):
                e[i, a + k] = 0
            for c in range(a):
                x = C[g, i, c]
                for k in range(r):
                    e[i, a + k] += x * T_above[g, c, k]
        for c in range(r):
            for k in range(a + r):
                e[a + c, k] = 0
            for d in range(r):
                x = q[c, d]
                for k in range(a + r):
                    e[a + c, k] += x * T_own[g, d, k]
            for i in range(a):
                x = b[c, i]
                for k in range(a + r):
                    e[a + c, k] -= x * e[i, k]
            for k in range(a):
                moved[c, k] = 0
                across[c, k] = 0
            for i in range(a):
                x, y = dB[g, c, i], b[c, i]
                for k in range(a):
                    moved[c, k] += x * C[g, i, k]
                    across[c, k] -= y * z_above[i, k]
            for k in range(a):
                across[c, k] += moved[c, k]
                z[a + c, k] = across[c, k]
                z[k, a + c] = across[c, k]
        for c in range(r):
            for k in range(r):
                x = dQ[g, c, k]
                for i in range(a):
                    x -= across[c, i] * b[k, i] + b[c, i] * moved[k, i]
                z[a + c, a + k] = x
