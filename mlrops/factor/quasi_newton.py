"""Jumps along limited-memory BFGS directions, whose rough inverse Hessian is EM's own answer."""

from typing import Any

from .ascent import Ascent
from .likelihood import State
from .secant import SecantPairs

__all__ = ["QuasiNewton"]

# Pairs of vectors that shape a jump: in trials more gained nothing, 3 cost a third more steps.
MEMORY = 5
# Shares of a jump that failed within which its second, interpolated try may lie.
SHORTER = 0.1, 0.6


class QuasiNewton:
    """A jump that would let the objective fall is tried once more.

    Then it is as long as the slopes at its ends say that the maximum is away; failing that, the
    pairs are forgotten.
    """

    linear = False  # the coordinates of D are logarithms

    def __init__(self, vectors: Any, far: bool = False):
        self.pairs = SecantPairs(MEMORY, vectors)

    def learn(self, before: State, after: State) -> None:
        """Take the pair from one state to another."""
        self.pairs.take(before, after)

    def jump(self, ascent: Ascent) -> bool:
        """Try a quasi-Newton step and a shorter one."""
        if not len(self.pairs):
            return False
        here = ascent.state
        g = here.gradient
        d = self.pairs.direction(g, here.precondition())
        slope = float(d @ g)
        share = 1.0
        for last in (False, True):
            if not slope > 0:
                break
            trial = ascent.at(d, share)
            if trial is None:
                break
            end = ascent.gradient(trial)
            self.learn(here, trial)
            if trial.objective >= here.objective:
                ascent.accept(trial)
                return True
            if not last:
                share = _shorter(slope, float(d @ end))
            ascent.discard(trial)
        self.pairs.clear()
        return False

    def memory(self) -> dict[str, Any]:
        return self.pairs.memory()

    def remember(self, memory: dict[str, Any]) -> None:
        self.pairs.remember(memory)


def _shorter(slope: float, end_slope: float) -> float:
    """Where the line through the slopes at 0 and 1 is zero, within SHORTER.

    Slopes are known to rounding, also where two log-likelihoods differ by little else.
    """
    share = slope / (slope - end_slope) if end_slope < 0 else 0.3
    return min(max(share, SHORTER[0]), SHORTER[1])
