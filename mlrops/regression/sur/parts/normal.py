"""The normal equations of a system in parts: products, and conjugate gradients on workers."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...._common.cluster import added, in_pairs, merged, task
from ...._common.spread import Spread
from ....operators.part_sweeps import alone, crown_sweep, own_factors
from ....operators.parts import merge
from ..beta_step import RTOL, Evaluation
from ..climb import Coefficients
from . import equations as own

__all__ = ["SpreadNormalEquations", "at_coefficients"]


class SpreadNormalEquations:
    """The normal equations for γ in parts, as `descend` takes them; see `_NormalEquations`.

    Vectors and residuals are cut like the equations.  A product is one graph of tasks, and so is
    an iteration of conjugate gradients: a sweep up in each part, one through the levels above, and
    one down.  What comes here are numbers, from which the next step and the size of the residual
    after it follow.  What is `known` are coefficients with their residuals.
    """

    def __init__(self, system: Any, point: Spread, known: Any = None):
        self.system, self.N, self.eps = system, system.N, float(np.finfo(system.dtype).eps)
        self.rtol, self._known = max(RTOL, 10 * self.eps), known
        found = system.equations.map(alone(own.factored), point)
        passed = in_pairs(alone(merge), [task(_second, one) for one in found.parts])
        above = task(alone(own.crown), system.crown, passed)
        self._above = system.shelf.spread([task(_first, above)])  # factors of the nodes
        covariances = system.between(above, _between)
        self.metric = system.equations.map(alone(own.metric), found, covariances)

    def _from_above(self, swept: Spread) -> Spread:
        """What comes down to the parts after a sweep up."""
        system = self.system
        passed = in_pairs(alone(merge), [task(_second, one) for one in swept.parts])
        return system.between(task(alone(crown_sweep), system.crown, passed, self._above.parts[0]),
                              own_factors)

    def _swept(self, E: Spread) -> tuple[Spread, Spread]:
        """The sweep up of E in each part, and what comes down to it."""
        swept = self.metric.map(alone(own.up), E)
        return swept, self._from_above(swept)

    def evaluate(self, gamma: Spread) -> Evaluation:
        """Where γ stands."""
        system = self.system
        system.shelf.step()
        at = self._known if self._known is not None and gamma is self._known.gamma else (
            at_coefficients(system, gamma))
        both = system.equations.map(alone(own.score_down), self.metric, gamma, at.residuals,
                                    *self._swept(at.residuals))
        score, sums = both.map(_first), [task(_second, one) for one in both.parts]
        del both  # which nobody asks for again
        quad, squares = merged(np.add, system.shelf.results(*sums))
        return Evaluation(gamma, at.residuals, float(quad), score, math.sqrt(squares))

    def closer(self, here: Evaluation, goal: float, maxiter: int) -> tuple[Spread, int]:
        """γ after conjugate gradients to a residual no larger than a goal, and their number."""
        goal, count, rho = max(goal, self.rtol * here.size), 0, here.size**2
        at, alpha, beta = here.score.map(own.first_place), 0.0, 0.0
        while math.sqrt(rho) > goal and count < maxiter:
            at, (curvature, slope, square, size) = self._iteration(at, alpha, beta)
            count += 1
            if not curvature > 0:  # then nothing is to be gained
                alpha = 0.0
                break
            alpha = size / curvature
            rho = max(size - 2 * alpha * slope + alpha**2 * square, 0.0)  # after this step
            beta = rho / size
        return here.gamma.map(own.expanded, self.metric, at, alpha), count

    def _iteration(self, at: Spread, alpha: float, beta: float) -> tuple[Spread, Any]:
        """Take a step of conjugate gradients, turn, and multiply: one round trip."""
        system = self.system
        system.shelf.step()
        swept = system.equations.map(alone(own.fitted_up), self.metric, at, alpha, beta)
        at = system.equations.map(alone(own.normal_down), self.metric, swept,
                                  self._from_above(swept))
        del swept
        return at, merged(np.add, system.shelf.results(*(task(_second, one) for one in at.parts)))

    def rounding(self, at: Evaluation) -> float:
        """About the length that rounding alone gives the score; see `_NormalEquations`."""
        system = self.system
        V = self.metric.map(alone(own.weighed), at.residuals, *self._swept(at.residuals))
        sizes = in_pairs(added, self.metric.map(alone(own.sizes_of_cells), V).parts)
        cells = system.equations.map(alone(own.noise), self.metric, at.residuals, sizes)
        shares = system.equations.map(alone(own.noise_down), self.metric, at.gamma, V, cells,
                                      *self._swept(cells)).parts
        del V, cells
        return self.eps * float(np.sqrt(merged(np.add, system.shelf.results(*shares))).sum())


def at_coefficients(system: Any, gamma: Spread) -> Coefficients:
    """Coefficients, with residuals that are made again rather than written to files."""
    return Coefficients(gamma, system.shelf.derived(
        alone(own.residuals), system.equations, gamma))


def _first(pair: Sequence[Any]) -> Any:
    return pair[0]


def _second(pair: Sequence[Any]) -> Any:
    return pair[1]


def _between(above: Any, lo: int, hi: int) -> Any:
    """The covariances at some of the parents."""
    return above[1][lo:hi]
