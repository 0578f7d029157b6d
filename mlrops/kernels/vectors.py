"""Passes over long vectors, shared out to threads in pieces that do not depend on their number.

Not by BLAS: its threads would spin on and take the cores of the sweeps that follow.
"""

import numpy as np

from .._common.typing import FloatArray
from . import _compiled_vectors, threads

__all__ = ["combine", "difference", "dots", "row_maxima", "step"]

# Entries of a vector whose sum is one term of an inner product.
PIECE = 1 << 16


def _pieces(size):
    """Offsets of the pieces of a vector."""
    return np.append(np.arange(0, size, PIECE), size)


def dots(M: FloatArray, x: FloatArray) -> FloatArray:
    """``M x`` in double precision for M (m, size), x (size,)."""
    off = _pieces(x.size)
    partial = np.empty((off.size - 1, len(M)))

    def kernel(a, b):
        for piece in range(a, b):
            _compiled_vectors.dots(M, x, off[piece], off[piece + 1], partial[piece])

    threads.run(kernel, off, 0, off.size - 1, M.size)
    return partial.sum(axis=0)


def combine(c: FloatArray, M: FloatArray, out: FloatArray) -> FloatArray:
    """``out += c M`` in place, c (m,), M (m, size)."""
    off, c = _pieces(out.size), np.asarray(c, out.dtype)
    threads.run(lambda a, b: _compiled_vectors.combine(c, M, off[a], off[b], out), off, 0,
                off.size - 1, M.size)
    return out


def _by_rows(kernel, shape):
    off = np.arange(shape[0] + 1)
    threads.run(kernel, off, 0, shape[0], 2 * shape[0] * shape[1])


def difference(A: FloatArray, B: FloatArray, scale: FloatArray, out: FloatArray) -> None:
    """``out = diag(1 / scale) (A - B)``, (n, k)."""
    _by_rows(lambda i, j: _compiled_vectors.rows_difference(A, B, scale, i, j, out), A.shape)


def step(A: FloatArray, d: FloatArray, scale: FloatArray, out: FloatArray) -> None:
    """``out = A + diag(scale) d``, (n, k)."""
    _by_rows(lambda i, j: _compiled_vectors.rows_step(A, d, scale, i, j, out), A.shape)


def row_maxima(A: FloatArray) -> FloatArray:
    """Largest magnitude in each row of A (n, k)."""
    out = np.empty(len(A), A.dtype)
    _by_rows(lambda i, j: _compiled_vectors.row_maxima(A, i, j, out), A.shape)
    return out
