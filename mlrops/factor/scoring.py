"""Fisher scoring by truncated conjugate gradients: steps that the expected information shapes."""

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
# Damping at a random start, which is far from any maximum.  With FIRST, steps there took variances
# to the floor before others had moved, and 4 of 16 fits to 546 months of returns ended within 1e-3
# nats of the best; with this 13 do.
FAR = MOST
# What damping is divided by after a good step, and multiplied by after a bad and a refused one.
LESS, MORE, MUCH_MORE = 4.0, 2.0, 30.0
# Damping from which on the curvature that steps have seen corrects the information: so many steps
# rose as predicted before.
CORRECTED = 1e-8
MEMORY = 5
# Tries of a step, each more damped, before EM's own is taken.
TRIES = 5
# Conjugate gradients end after so many products, or where what is left of the gradient is this
# share of it, both in the lengths that EM's answer gives.
MOST_PRODUCTS, RATIO = 30, 0.1
# Shares of the predicted rise above and below which damping falls and grows.
GOOD, BAD = 0.7, 0.3

Matrix = Callable[[FloatArray], FloatArray]


class Scoring:
    """Steps ``(B + λ M) d = g``: B the information, M⁻¹ EM's answer to a gradient, λ damping.

    D is a coordinate as it is, not its logarithm: of one variance scoring in D is exact, and in log
    D the curvature vanishes as D goes to zero.  Variances at the floor whose derivative is negative
    are held.  Once damping is tiny B is corrected by the last pairs of steps and falls of the
    gradient, to the matrix of BFGS (R. Byrd, J. Nocedal, R. Schnabel, "Representations of
    quasi-Newton matrices and their use in limited memory methods", 1994): where the model does not
    fit the data, the information is not the curvature.  A try that is refused costs an E-step, and
    no M-step.
    """

    linear = True

    def __init__(self, vectors: Any, far: bool = False):
        self.pairs = SecantPairs(MEMORY, vectors)
        self.damping = FAR if far else FIRST

    def learn(self, before: State, after: State) -> None:
        """An EM step was needed: what was learnt of curvature does not hold here."""
        self.pairs.clear()

    def jump(self, ascent: Ascent) -> bool:
        """Try steps with growing damping."""
        here = ascent.state
        g, answer, plain = here.gradient, here.precondition(), here.information()
        for _ in range(TRIES):
            corrected = self.damping <= CORRECTED and len(self.pairs) > 0
            B = self.pairs.corrected(plain) if corrected else plain
            trial = ascent.at(scoring_step(B, answer, g, self.damping))
            if trial is not None:
                rise = trial.objective - here.objective
                if rise >= 0:
                    predicted = 0.5 * _dot(here.to(trial), g)
                    self._damp(rise / predicted if predicted > 0 else 0.0)
                    ascent.gradient(trial)
                    self.pairs.take(here, trial)
                    ascent.accept(trial)
                    return True
                ascent.discard(trial)
            if corrected:
                self.pairs.clear()
            else:
                self.damping = min(MUCH_MORE * self.damping, MOST)
        return False

    def _damp(self, share: float) -> None:
        """Less damping where a step rose as predicted, more where it did not."""
        if share > GOOD:
            self.damping = max(self.damping / LESS, LEAST)
        elif share < BAD:
            self.damping = min(MORE * self.damping, MOST)

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
