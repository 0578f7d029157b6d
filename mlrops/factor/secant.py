"""Limited-memory quasi-Newton directions from pairs of steps and falls of the gradient."""

from collections.abc import Callable
from typing import Any

import numpy as np

from .._common.typing import FloatArray
from .likelihood import State

__all__ = ["SecantPairs"]


class SecantPairs:
    """The last `memory` pairs (s, y) of vectors: steps and the fall of the gradient along them.

    They correct a rough inverse Hessian H₀, which may be another one at every call, to the BFGS
    matrix that satisfies ``H y = s`` for the newest pair (J. Nocedal, "Updating quasi-Newton
    matrices with limited storage", 1980).  The recursion runs on the inner products of the pairs,
    so that a direction reads every vector a fixed number of times.  The vectors are arrays in
    memory (`kernels.vectors.Arrays`) or lie elsewhere: `vectors` does what is asked of them.

    Pairs are held in double precision.  Rounded to single they would blow up differences of 1e-16
    between two machines, or two units of the data, to 1e-8 in a few steps.
    """

    def __init__(self, memory: int, vectors: Any):
        self.most, self.vectors = memory, vectors
        rows = memory + 1  # one to write the next pair to
        self.S, self.Y = vectors.rows(rows), vectors.rows(rows)
        self.SY = np.zeros((rows, rows))  # s_i · y_j
        self.count = 0  # pairs taken since the last `clear`; pair t lies in row t modulo the rows

    def __len__(self) -> int:
        return min(self.count, self.most)

    def clear(self) -> None:
        self.count = 0

    @property
    def rows(self) -> int:
        """Number of rows of S and Y in use, one more than pairs once one has expired."""
        return min(self.count, len(self.S))

    @property
    def free(self) -> tuple[FloatArray, FloatArray]:
        """The (s, y) to write the next pair to, for `add`."""
        row = self.count % len(self.S)
        return self.S[row], self.Y[row]

    def take(self, before: State, after: State) -> None:
        """Take the pair from one state to another."""
        s, y = self.free
        before.to(after, s)
        before.fall(after, y)
        self.add()

    def add(self) -> None:
        """Take the pair in `free` unless ``s·y`` is not positive.

        Then no positive definite H has ``H y = s``.
        """
        row, k = self.count % len(self.S), min(self.count + 1, len(self.S))
        # The recursions use no newer s with an older y.
        products = self.vectors.dots(self.S[:k], self.free[1])
        if not (np.isfinite(products[row]) and products[row] > 0):
            return
        self.count += 1
        self.SY[:k, row] = products

    def direction(self, gradient: FloatArray, precondition: Callable[[FloatArray], FloatArray]
                 ) -> FloatArray:
        """``H g`` for a gradient (size,); ``precondition(q)`` is ``H₀ q``."""
        ages = [t % len(self.S) for t in range(self.count - len(self), self.count)]  # oldest first
        k, SY, on = self.rows, self.SY, self.vectors
        S, Y = self.S[:k], self.Y[:k]
        sg, alpha, c = on.dots(S, gradient), np.zeros(k), np.zeros(k)
        for i in reversed(ages):
            alpha[i] = (sg[i] - SY[i, :k] @ alpha) / SY[i, i]
        d = precondition(on.combine(-alpha, Y, gradient.copy()))
        yr = on.dots(Y, d)
        for i in ages:
            c[i] = alpha[i] - (yr[i] + c @ SY[:k, i]) / SY[i, i]
        return on.combine(c, S, d)

    def corrected(self, B: Callable[[FloatArray], FloatArray]
                  ) -> Callable[[FloatArray], FloatArray]:
        """The BFGS matrix that satisfies ``B⁺ s = y`` for the newest pair, from a rough Hessian B.

        In the compact form of R. Byrd, J. Nocedal, R. Schnabel (1994), which takes a product of B
        with each pair.  Only of arrays.
        """
        on = self.vectors
        ages = [t % len(self.S) for t in range(self.count - len(self), self.count)]
        S, Y, SY = self.S[ages], self.Y[ages], self.SY[np.ix_(ages, ages)]
        BS = np.stack([B(s) for s in S])
        SBS = np.stack([on.dots(S, b) for b in BS])
        L = np.stack([on.dots(S, y) for y in Y], axis=1)
        lower = np.tril(L, -1)
        middle = np.block([[(SBS + SBS.T) / 2, lower], [lower.T, -np.diag(np.diag(SY))]])
        both = np.concatenate([BS, Y])
        inverse = np.linalg.pinv(middle)

        def apply(v: FloatArray) -> FloatArray:
            c = inverse @ on.dots(both, v)
            return on.combine(-c, both, B(v))

        return apply

    def memory(self) -> dict[str, Any]:
        """What the next direction depends on, for a checkpoint."""
        k = self.rows
        return {"S": self.S[:k], "Y": self.Y[:k], "SY": self.SY, "count": np.array(self.count)}

    def remember(self, memory: dict[str, Any]) -> None:
        """Go on with what `memory` gave."""
        k = len(memory["S"])
        self.S[:k], self.Y[:k] = memory["S"], memory["Y"]
        self.SY[...], self.count = memory["SY"], int(memory["count"])
