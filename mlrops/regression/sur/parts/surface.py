"""What the alternation climbs where equations lie in parts on the workers of a cluster."""

from typing import Any, NamedTuple

import numpy as np

from ...._common.cached import cached_property
from ...._common.cluster import added, import_array
from ...._common.spread import Spread
from ...._common.typing import FloatArray
from ....factor.columns.surface import SpreadPoint, SpreadState, SpreadSurface
from ....operators.part_sweeps import alone
from ..beta_step import BetaStep, descend
from ..climb import Coefficients
from .equations import Equations, residual_bench
from .normal import SpreadNormalEquations

__all__ = ["RegressionSurface", "SpreadRegressions", "coefficients_of", "rows_of"]


class SpreadRegressions:
    """A system in parts with its coefficients; what `Regressions` is in memory.

    The residuals stay on the workers.
    """

    log_weights = 0.0  # there are no weights

    def __init__(self, system: Any, options: Any, coefficients: Coefficients | BetaStep,
                 target: float | None = None):
        self.system, self.options = system, options
        self.coefficients, self.target = coefficients, target
        self.n_cg = 0  # iterations of the solver so far
        self.n_equations = self.n_features = system.K
        self.n_samples, self.weight, self.dtype = system.N, float(system.N), system.dtype

    def over(self, coefficients: BetaStep, target: float | None = None) -> "SpreadRegressions":
        """The same system with other coefficients."""
        return SpreadRegressions(self.system, self.options, coefficients, target)

    @cached_property
    def benches(self) -> Spread:
        """The residuals where they are, as data of a factor model."""
        return self.system.shelf.derived(
            alone(residual_bench), self.system.equations, self.coefficients.residuals)

    @cached_property
    def penalty(self) -> float:
        """What a ridge takes off the average log-likelihood a row for the coefficients."""
        if not self.options.beta_ridge:
            return 0.0
        return float(self.system.equations.total(added, _penalty, self.coefficients.gamma))

    def taken_off(self, covariance: Any) -> float:
        """The same: there is no ridge on loadings."""
        return self.penalty

    def solve(self, covariance: SpreadPoint, target: float) -> BetaStep:
        """The best coefficients for a covariance, from those there are."""
        equations = SpreadNormalEquations(self.system, covariance.parts, self.coefficients)
        return descend(equations, self.coefficients.gamma, target, self.options.maxiter)

    @property
    def params(self) -> Any:
        """Coefficients, a dask array (K, p) in the order of the data."""
        return rows_of(self.system, self.system.equations.map(
            alone(coefficients_of), self.coefficients.gamma))

    def operator(self, point: SpreadPoint, ranks: tuple[int, ...]) -> Any:
        """Σ at a point, in the order of the data."""
        return point.operator(self.system.hierarchy, ranks, self.dtype)


def coefficients_of(own: Equations, gamma: FloatArray) -> FloatArray:
    """Coefficients (m, p) of a part, in the order of the data."""
    return own.bench.tree._scatter(np.stack(own.system.coefficients(gamma)))


def rows_of(system: Any, coefficients: Spread) -> Any:
    """A dask array (K, p) of the coefficients of all parts."""
    array = import_array()
    return array.concatenate([array.from_delayed(x, (m, system.p), system.dtype) for x, m in
                              zip(coefficients.parts, system.widths, strict=True)])


class _At(NamedTuple):
    at: SpreadRegressions


class RegressionState(SpreadState):
    """A point of Σ, on the residuals of some coefficients, whose penalty is taken off."""

    def __init__(self, surface: "RegressionSurface", state: SpreadState):
        penalty = surface.source.penalty
        super().__init__(surface, state.point, state.loglik - penalty, state._facts, state._found)
        self.step, self.covariance = _At(surface.source), state.point


class RegressionSurface(SpreadSurface):
    """The likelihood of Σ on the residuals of coefficients, or with a target of the best ones."""

    linear = False  # coordinates of D are logarithms

    def __init__(self, source: SpreadRegressions, ranks: tuple[int, ...]):
        system = source.system
        super().__init__(source.benches, source, system.crown, system.cut, ranks, True)

    def over(self, source: SpreadRegressions, linear: bool | None = None) -> "RegressionSurface":
        """That of other coefficients; D is always in logarithms."""
        return RegressionSurface(source, self.ranks)

    def evaluate(self, point: SpreadPoint, keep: bool | None = None) -> SpreadState:
        """The E-step at a point, and the M-step."""
        source = self.source
        if source.target is None:
            point = SpreadPoint(self, point.parts)  # which lets go of other residuals
            return RegressionState(self, super().evaluate(point, keep))
        source.coefficients = best = source.solve(point, source.target)
        source.n_cg += best.n_iter
        return self.over(source.over(best)).evaluate(point)


def _penalty(own: Equations, gamma: FloatArray) -> float:
    return 0.5 * float(gamma @ (own.system.penalty * gamma)) / own.system.N

