"""Matrices in decimal arithmetic of many digits: what results at bad conditioning are held against.
"""

from contextlib import contextmanager
from decimal import Decimal, localcontext

import numpy as np

DIGITS = 110


def decimals(x):
    """An object array of the Decimals that the floats x are."""
    return np.array([Decimal(float(v)) for v in np.ravel(x)], object).reshape(np.shape(x))


def floats(x):
    return np.asarray(x, object).astype(float)


class Exact:
    """Σ of an operator with `hierarchy`, `factors` and `D`, its inverse and log det, in Decimals.

    A context of `DIGITS` digits must be the current one for what is done with them: see `precise`.
    """

    def __init__(self, A):
        n = A.shape[0]
        S = np.diag(decimals(A.D)) + Decimal(0)
        hierarchy = getattr(A, "hierarchy", None)
        for level, F in enumerate(A.factors if hierarchy is not None else [A.F]):
            labels = np.zeros(n, int) if hierarchy is None else hierarchy.labels(level)
            if F.shape[1]:
                f = decimals(F)
                S = S + np.where(labels[:, None] == labels, f @ f.T, Decimal(0))
        self.S = S
        M = np.concatenate([S, decimals(np.eye(n))], axis=1)
        self.logdet = Decimal(0)
        for k in range(n):  # Gauss and Jordan, no pivots: Σ is positive definite
            self.logdet += M[k, k].ln()
            M[k] = M[k] / M[k, k]
            others = np.flatnonzero(np.arange(n) != k)
            M[others] = M[others] - M[others, k][:, None] * M[k]
        self.inverse = M[:, n:]
        self.norm = np.linalg.norm(floats(S), 2)

    def backward_error(self, x, b):
        """``‖Σx - b‖ / (‖Σ‖ ‖x‖ + ‖b‖)``."""
        x, b = decimals(x), decimals(b)
        size = Decimal(self.norm) * length(x) + length(b)
        return float(length(self.S @ x - b) / size)


def length(x):
    return (x @ x).sqrt()


@contextmanager
def precise(digits=DIGITS):
    """A context of so many digits."""
    with localcontext() as context:
        context.prec = digits
        yield
