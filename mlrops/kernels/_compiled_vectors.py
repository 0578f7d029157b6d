"""Compiled passes over long vectors; see `vectors`."""

import numpy as np

from ._jit import jit

__all__ = ["combine", "dots"]


@jit
def dots(M, x, lo, hi, out):
    """out = M[:, lo:hi] x[lo:hi], summed in double."""
    part = x[lo:hi]
    for i in range(M.shape[0]):
        row = M[i, lo:hi]
        s = 0.0
        for j in range(part.size):  # from 0: an index that cannot be negative vectorizes
            s += np.float64(row[j]) * np.float64(part[j])
        out[i] = s


@jit
def combine(c, M, lo, hi, out):
    """out[lo:hi] += c M[:, lo:hi], a stretch that stays in cache at a time.

    Rows with c = 0 are not read: what they hold, NaN too, does not matter.
    """
    for a in range(lo, hi, 4096):
        part = out[a : min(a + 4096, hi)]
        for i in range(M.shape[0]):
            f = c[i]
            if f == 0:
                continue
            row = M[i, a : a + part.size]
            for j in range(part.size):
                part[j] += f * row[j]
