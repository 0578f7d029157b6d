"""Passes over long vectors, shared out to threads in pieces that do not depend on their number.

Not by BLAS: its threads would spin on and take the cores of the sweeps that follow.
"""

import numpy as np

from .._common.typing import FloatArray
from . import _compiled_vectors, threads

__all__ = ["Arrays", "combine", "difference", "dots", "largest", "step"]

# Entries of a vector whose sum is one term of an inner product.
PIECE = 1 << 16
# Numbers of an array that are worked on at a time.
PART = 1 << 14


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


class Arrays:
    """Vectors (size,) in memory, for algorithms that ask no more of vectors than is here.

    Beside it such an algorithm takes ``x.copy()`` and the inner product ``x @ y``.
    """

    def __init__(self, size: int):
        self.size = size

    def rows(self, count: int) -> FloatArray:
        """Room for so many vectors, to be filled row by row."""
        return np.zeros((count, self.size))

    def dots(self, M: FloatArray, x: FloatArray) -> FloatArray:
        """The inner products of the rows of M with x."""
        return dots(M, x)

    def combine(self, c: FloatArray, M: FloatArray, out: FloatArray) -> FloatArray:
        """``out += c M`` in place."""
        return combine(c, M, out)


# ------------------------------------------------------------------ rows with one scale each
# By NumPy on parts that stay in cache: the memory that they move through is what takes the time.


def _by_rows(kernel, shape):
    """Call ``kernel(rows)`` on slices of the rows of arrays of this shape."""
    off = np.append(np.arange(0, shape[0], max(1, PART // max(1, shape[1]))), shape[0])

    def task(a, b):
        for part in range(a, b):
            kernel(slice(off[part], off[part + 1]))

    threads.run(task, off, 0, off.size - 1, 2 * shape[0] * shape[1])


def difference(A: FloatArray, B: FloatArray, scale: FloatArray, out: FloatArray) -> None:
    """``out = diag(1 / scale) (A - B)``, (n, k)."""
    def kernel(rows):
        part = np.subtract(A[rows], B[rows], out=out[rows], casting="same_kind")
        part /= scale[rows, None]

    _by_rows(kernel, A.shape)


def step(A: FloatArray, d: FloatArray, scale: FloatArray, out: FloatArray) -> None:
    """``out = A + diag(scale) d``, (n, k)."""
    def kernel(rows):
        part = np.multiply(d[rows], scale[rows, None], out=out[rows], casting="same_kind")
        part += A[rows]

    _by_rows(kernel, A.shape)


def largest(A: FloatArray, scale: FloatArray) -> float:
    """Largest magnitude of the entries of ``diag(scale) A``, (n, k); NaN where there is a NaN."""
    found = []

    def kernel(rows):
        part = np.multiply(A[rows], scale[rows, None])
        found.append(np.abs(part, out=part).max(initial=0))

    _by_rows(kernel, A.shape)
    return float(np.max(found, initial=0))
