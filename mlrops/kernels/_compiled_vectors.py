"""Compiled passes over long vectors and over rows with one scale each; see `vectors`."""

import numpy as np

from ._jit import jit

__all__ = ["combine", "dots", "row_maxima", "rows_difference", "rows_step"]


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


@jit
def rows_difference(A, B, scale, lo, hi, out):
    """out = diag(1 / scale) (A - B)."""
    for i in range(lo, hi):
        f = 1 / scale[i]
        for j in range(A.shape[1]):
            out[i, j] = (A[i, j] - B[i, j]) * f


@jit
def rows_step(A, d, scale, lo, hi, out):
    """out = A + diag(scale) d."""
    for i in range(lo, hi):
        for j in range(A.shape[1]):
            out[i, j] = A[i, j] + scale[i] * d[i, j]


@jit
def row_maxima(A, lo, hi, out):
    """Largest magnitude in each row."""
    for i in range(lo, hi):
        m = A.dtype.type(0)
        for j in range(A.shape[1]):
            m = max(m, abs(A[i, j]))
        out[i] = m
