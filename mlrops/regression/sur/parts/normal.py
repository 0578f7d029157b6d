"""The normal equations of a system in parts: products, and conjugate gradients on workers."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...._common.cluster import added, in_pairs, merged, task
from ...._common.spread import Spread
from ....operators.part_sweeps import alone, crown_sweep, own_factors
from ....operators.parts import merge
from ..beta_step import RTOL, Evaluation
from . import equations as own

__all__ = ["SpreadNormalEquations"]


class SpreadNormalEquations:
    """The normal equations for γ in parts, as `descend` takes them; see `_NormalEquations`.

    Vectors and residuals are cut like the equations.  A product is one graph of tasks, and so is
    an iteration of conjugate gradients: a sweep up in each part, one through the levels above, and
    one down.  What comes here are numbers.
    """

    def __init__(self, system: Any, point: Spread):
        self.system, self.N, self.eps = system, system.N, float(np.finfo(system.dtype).eps)
        self.rtol = max(RTOL, 10 * self.eps)
        found = system.equations.map(alone(own.factored), point)
        passed = in_pairs(alone(merge), [task(_second, one) for one in found.parts])
        above = task(alone(own.crown), system.crown, passed)
        self._above = system.shelf.spread([task(_first, above)])  # factors of the nodes
        covariances = system.between(above, _between)
        self.metric = system.equations.map(alone(own.metric), found, covariances)

    def _sweep(self, up: Callable[..., Any], *given: Any) -> tuple[Spread, Spread]:
        """What parts keep from a sweep up and pass, and what comes down to them."""
        system = self.system
        swept = system.equations.map(alone(up), self.metric, *given)
        passed = in_pairs(alone(merge), [task(_second, one) for one in swept.parts])
        coarse = task(alone(crown_sweep), system.crown, passed, self._above.parts[0])
        return swept, system.between(coarse, own_factors)

    def evaluate(self, gamma: Spread) -> Evaluation:
        """Where γ stands; the residuals are not kept."""
        system = self.system
        system.shelf.step()
        both = system.equations.map(alone(own.score_down), self.metric, gamma,
                                    *self._sweep(own.residual_up, gamma))
        score, sums = both.map(_first), [task(_second, one) for one in both.parts]
        del both  # which nobody asks for again
        quad, squares = merged(np.add, system.shelf.results(*sums))
        return Evaluation(gamma, None, float(quad), score, math.sqrt(squares))

    def closer(self, here: Evaluation, goal: float, maxiter: int) -> tuple[Spread, int]:
        """γ after conjugate gradients to a residual no larger than a goal, and their number."""
        goal, count, rho = max(goal, self.rtol * here.size), 0, here.size**2
        at = here.score.map(own.first_place)
        while math.sqrt(rho) > goal and count < maxiter:
            at, curvature, rho = self._iteration(at, rho)
            count += 1
            if not curvature > 0:  # then nothing has moved
                break
        return here.gamma.map(own.expanded, self.metric, at), count

    def _iteration(self, at: Spread, rho: float) -> tuple[Spread, float, float]:
        """One step of conjugate gradients, whose scalars are computed on workers, too."""
        system = self.system
        system.shelf.step()
        product = system.equations.map(alone(own.normal_down), self.metric, at,
                                       *self._sweep(own.fitted_up, at))
        curvature = in_pairs(added, [task(_second, one) for one in product.parts])
        moved = at.map(own.step, product, rho, curvature)
        squares = in_pairs(added, [task(_second, one) for one in moved.parts])
        at = moved.map(own.turned, squares, rho)
        del product, moved
        return at, *system.shelf.results(curvature, squares)

    def rounding(self, at: Evaluation) -> float:
        """About the length that rounding alone gives the score; see `_NormalEquations`."""
        system = self.system
        V = self.metric.map(alone(own.weighed), *self._sweep(own.residual_up, at.gamma))
        sizes = in_pairs(added, self.metric.map(alone(own.sizes_of_cells), V).parts)
        swept = self._sweep(own.noise_up, at.gamma, sizes)
        shares = system.equations.map(alone(own.noise_down), self.metric, at.gamma, V, *swept)
        squares = shares.parts
        del V, swept, shares
        return self.eps * float(np.sqrt(merged(np.add, system.shelf.results(*squares))).sum())


def _first(pair: Sequence[Any]) -> Any:
    return pair[0]


def _second(pair: Sequence[Any]) -> Any:
    return pair[1]


def _between(above: Any, lo: int, hi: int) -> Any:
    """The covariances at some of the parents."""
    return above[1][lo:hi]
