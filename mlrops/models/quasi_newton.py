"""Limited-memory quasi-Newton directions from pairs of steps and changes of the gradient."""

import numpy as np

__all__ = ["SecantPairs"]

# Entries of the vectors that are summed in single precision before sums go on in double.
CHUNK = 1 << 17


def _dots(M, x):
    """``M x`` for M (m, k) and x (k,) in single precision; sums of chunks in double."""
    total = np.zeros(len(M))
    for a in range(0, x.size, CHUNK):
        total += M[:, a : a + CHUNK] @ x[a : a + CHUNK]
    return total


def _combine(c, M, out):
    """``out += c M``, c (m,), M (m, k)."""
    c = c.astype(out.dtype)
    for a in range(0, out.size, CHUNK):
        out[a : a + CHUNK] += c @ M[:, a : a + CHUNK]
    return out


class SecantPairs:
    """The last `memory` pairs (s, y): steps and the fall of the gradient along them.

    They correct a rough inverse Hessian H₀, which may be another one at every call, to the BFGS
    matrix that satisfies ``H y = s`` for the newest pair (J. Nocedal, "Updating quasi-Newton
    matrices with limited storage", 1980).  The recursion runs on the inner products of the pairs,
    so that a direction reads every vector a fixed number of times.

    Pairs are held in single precision: they shape a direction, the objective judges it.

    Parameters
    ----------
    memory : int
    size : int
        Length of the vectors.
    """

    def __init__(self, memory, size):
        self.S = np.zeros((memory, size), np.float32)
        self.Y = np.zeros((memory, size), np.float32)
        self.SY = np.zeros((memory, memory))  # s_i · y_j
        self.count = 0  # pairs ever taken; pair t lies in row t modulo memory

    def __len__(self):
        return min(self.count, len(self.S))

    def clear(self):
        self.count = 0

    def _ages(self):
        """Rows of the pairs, oldest first."""
        return [t % len(self.S) for t in range(self.count - len(self), self.count)]

    def add(self, s, y):
        """Take a pair unless ``s·y`` is not positive: then no positive definite H has H y = s."""
        row = self.count % len(self.S)
        sy = _dots(s[None], y)[0]
        if not (np.isfinite(sy) and sy > 0):
            return
        self.S[row], self.Y[row] = s, y
        self.count += 1
        k = len(self)
        self.SY[:k, row] = _dots(self.S[:k], y)  # the recursions use no newer s with an older y
        self.SY[row, row] = sy

    def direction(self, gradient, precondition):
        """``H g`` for a gradient (size,); ``precondition(q)`` is ``H₀ q``."""
        k, ages, SY = len(self), self._ages(), self.SY
        S, Y = self.S[:k], self.Y[:k]
        sg, alpha, c = _dots(S, gradient), np.zeros(k), np.zeros(k)
        for i in reversed(ages):
            alpha[i] = (sg[i] - SY[i, :k] @ alpha) / SY[i, i]
        d = precondition(_combine(-alpha, Y, gradient.copy()))
        yr = _dots(Y, d)
        for i in ages:
            c[i] = alpha[i] - (yr[i] + c @ SY[:k, i]) / SY[i, i]
        return _combine(c, S, d)
