"""Fisher scoring by truncated conjugate gradients: steps that the expected information shapes."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import kernels
from .._common.typing import FloatArray
from .ascent import Ascent
from .likelihood import State
from .secant import SecantPairs

__all__ = ["Scoring", "scoring_step"]

# Damping at the start and its bounds: a multiple of what EM divides by.
FIRST, LEAST, MOST = 1.0, 1e-10, 64.0
# Damping from which on the curvature that steps have seen corrects the information.
CORRECTED = 1e-9
MEMORY = 5
# Tries of a step, each more damped, before EM's own is taken.
TRIES = 5
# Shares of a corrected step that failed within which its second, interpolated try may lie: damping
# would have to grow a millionfold to shorten it.
SHORTER = 0.1, 0.6
# Conjugate gradients end after so many products, or where what is left of the gradient is this
# share of it, both in the lengths that EM's answer gives.
MOST_PRODUCTS, RATIO = 30, 0.1
# Shares of the predicted rise above and below which damping falls and grows.
GOOD, BAD = 0.7, 0.3
EASE = 4.0  # by which damping falls

Matrix = Callable[[FloatArray], FloatArray]


class Scoring:
    """Steps ``(B + λ M) d = g``: B the information, M⁻¹ EM's answer to a gradient, λ damping.

    D is a coordinate as it is, not its logarithm: of one variance scoring in D is exact, and in log
    D the curvature vanishes as D goes to zero.  Variances at the floor whose derivative is negative
    are held.  Once damping is small B is corrected by the last pairs of steps and falls of the
    gradient, to the matrix of BFGS (R. Byrd, J. Nocedal, R. Schnabel, "Representations of
    quasi-Newton matrices and their use in limited memory methods", 1994).  A try that is refused
    costs an E-step, and no M-step; a corrected step that is too long is shortened once, and
    then the pairs are forgotten.
    """

    linear = True

    def __init__(self, size: int):
        self.pairs = SecantPairs(MEMORY, size)
        self.damping = FIRST

    def learn(self, before: State, after: State) -> None:
        """An EM step was needed: what was learnt of curvature does not hold here."""
        self.pairs.clear()

    def jump(self, ascent: Ascent) -> bool:
        """Try a corrected step, also a shorter one, then steps with growing damping."""
        here = ascent.state
        g, answer, B = here.gradient, here.precondition(), here.information()
        if self.damping <= CORRECTED and len(self.pairs):
            if self._try_corrected(ascent, scoring_step(
                    self.pairs.corrected(B), answer, g, self.damping)):
                return True
            self.pairs.clear()
            self.damping = CORRECTED * EASE**MEMORY  # as many plain steps until there are new ones
        for _ in range(TRIES):
            if self._try(ascent, scoring_step(B, answer, g, self.damping)) >= 0:
                return True
            self.damping = min(8 * self.damping, MOST)
        return False

    def _try_corrected(self, ascent: Ascent, d: FloatArray) -> bool:
        """Go by d, or by the share of it where the parabola through what is known has its top."""
        slope, rise = _dot(d, ascent.state.gradient), self._try(ascent, d)
        if -math.inf < rise < 0:
            share = min(max(0.5 * slope / (slope - rise), SHORTER[0]), SHORTER[1])
            rise = self._try(ascent, d, share)
        return rise >= 0

    def _try(self, ascent: Ascent, d: FloatArray, share: float = 1.0) -> float:
        """Go by a share of d if the objective rises, and say by how much it does."""
        here = ascent.state
        trial = ascent.at(d, share)
        if trial is None:
            return -math.inf
        rise = trial.objective - here.objective
        if rise < 0:
            ascent.discard(trial)
            return rise
        if share == 1:
            predicted = 0.5 * _dot(here.to(trial), here.gradient)
            self._damp(rise / predicted if predicted > 0 else 0.0)
        ascent.gradient(trial)
        self.pairs.take(here, trial)
        ascent.accept(trial)
        return rise

    def _damp(self, share: float) -> None:
        """Less damping where a step rose as predicted, more where it did not."""
        if share > GOOD:
            self.damping = max(self.damping / EASE, LEAST)
        elif share < BAD:
            self.damping = min(2 * self.damping, MOST)

    def memory(self) -> dict[str, Any]:
        return self.pairs.memory() | {"damping": np.array(self.damping)}

    def remember(self, memory: dict[str, Any]) -> None:
        self.pairs.remember(memory)
        self.damping = float(memory["damping"])


def scoring_step(B: Matrix, answer: Matrix, g: FloatArray, damping: float = 0.0,
                 most: int = MOST_PRODUCTS, ratio: float = RATIO) -> FloatArray:
    """d with ``(B + damping M) d = g``, roughly, by conjugate gradients; answer is ``M⁻¹``."""
    d, r = np.zeros_like(g), g.copy()
    z = answer(r)
    p, Mp = z.copy(), r.copy()
    square = first = _dot(r, z)
    for _ in range(most):
        if not square > ratio**2 * first or first == 0:
            break
        q = kernels.vectors.combine(np.array([damping]), Mp[None], B(p))
        curvature = _dot(p, q)
        if not curvature > 0:
            break
        share = np.array([square / curvature])
        kernels.vectors.combine(share, p[None], d)
        kernels.vectors.combine(-share, q[None], r)
        z = answer(r)
        square, before = _dot(r, z), square
        p *= square / before
        p += z
        Mp *= square / before
        Mp += r
    return d


def _dot(x: FloatArray, y: FloatArray) -> float:
    return float(kernels.vectors.dots(x[None], y)[0])
