"""`als_gls` for a dask array of dependent variables in chunks of equations."""

from typing import Any, NamedTuple

import numpy as np

from ...._common.driver import Callback, Watch, drive
from ...._common.typing import FloatArray, IntArray
from ....factor.columns.fit import places
from ....factor.likelihood import VanishingVariance
from ....factor.limits import FEWER, warn_of_floor, warn_of_prior
from ....factor.prior import read_variance
from ....factor.usable import capped_groups
from ....operators.cut import cut_at
from ....operators.part_sweeps import alone
from ....tree.hierarchy import Hierarchy
from ....tree.reading import read_hierarchy
from ..climb import Alternation, warn_of_end
from ..limits import carried_ranks, is_bounded
from .equations import Equations
from .normal import at_coefficients
from .opening import Given, Rules, open_system
from .result import DistributedSURResult
from .surface import RegressionSurface, SpreadRegressions, coefficients_of, rows_of

__all__ = ["fit_in_parts"]


def fit_in_parts(given: Given, ranks: Any, hierarchy: Any, options: Any, *, covariance: Any,
                 prior_variance: Any, progress: bool, callback: Callback | None
                 ) -> DistributedSURResult:
    """`als_gls` where Y is a collection of dask."""
    _check_options(options, covariance)
    if ranks is None:
        raise TypeError("ranks is needed to fit a covariance")
    N, K = given.Y.shape
    hierarchy = read_hierarchy(hierarchy, None, K, axis="equation") or Hierarchy.flat(K)
    if hierarchy.n != K:
        raise ValueError(f"Y must have one column for each of the hierarchy's {hierarchy.n}"
                         f" equations, got {K}")
    names: Any = range(K) if hierarchy.feature_names is None else hierarchy.feature_names
    p = given.X.shape[-1]
    ranks = carried_ranks(np.full(K, p), np.full(K, N), hierarchy, ranks, names)
    cut = cut_at(hierarchy, ranks, given.widths)
    strength = float(sum(ranks) if options.prior is True else options.prior or 0)
    t = None if prior_variance is None else read_variance(
        prior_variance, hierarchy.feature_names, K, "equation")
    rules = Rules(cut.ranks, options.variance_floor, options.beta_ridge, strength,
                  bool(strength) or is_bounded(p, N, ranks))
    try:
        fit = _alternation(given, cut, hierarchy, ranks, rules, options, t)
        run = drive(fit, max(options.max_iter, 1), "ALS", Watch(progress, callback))
    except VanishingVariance as error:
        raise error.naming(hierarchy, names, "equation") from None
    system: Any = fit.at.system
    solver_end, found = fit.solver_end, _found(fit, strength)
    coefficients = system.equations.map(alone(coefficients_of), fit.at.coefficients.gamma)
    covariance = fit.covariance.principal().persist()
    del fit  # with it the residuals: what remains goes back to files, and no longer to the data
    system.shelf.settle(anchored=False)
    result = DistributedSURResult(
        params=rows_of(system, coefficients), covariance=covariance, loglik=run.logliks[-1],
        loglik_trace=np.array(run.logliks), objective_trace=np.array(run.objectives),
        n_iter=run.n_iter, converged=run.converged, termination=run.termination,
        n_cg=found.n_cg, gradient_norm=found.gradient_norm, normal_norm=found.normal_norm,
        boundary=np.sort(hierarchy.permutation[found.low]), capped=capped_groups(hierarchy, ranks),
        options=options, prior=strength, Y=given.Y, X=given.X)
    warn_of_end(result, options, solver_end, stacklevel=5)
    warn_of_prior(np.sort(hierarchy.permutation[found.ruled]), K, names, "equation",
                  "a weaker prior or none", 5)
    warn_of_floor(result.boundary, names, options.variance_floor, None, "equation",
                  "residual variance", FEWER, 5)
    return result


def _check_options(options, covariance):
    in_memory = "is for data in memory, Y.compute()"
    for wrong, what in (
            (covariance is not None, f"a covariance to keep {in_memory}"),
            (options.solver != "cg", f'solver="{options.solver}" {in_memory}: take "cg"'),
            (options.optimizer == "scoring", f'optimizer="scoring" {in_memory}: take "bfgs"'),
            (options.factor_ridge, f"factor_ridge {in_memory}: a prior on the variances keeps them"
                                   " from the floor, too")):
        if wrong:
            raise ValueError(f"Y is a dask array: {what}")


def _alternation(given: Given, cut: Any, hierarchy: Hierarchy, ranks: tuple[int, ...],
                 rules: Rules, options: Any, t: FloatArray | None) -> Alternation:
    """Σ-steps and β-steps from least squares equation by equation."""
    system = open_system(given, cut, hierarchy, rules, t)
    least_squares = at_coefficients(system, system.equations.map(alone(_ols)))
    surface = RegressionSurface(SpreadRegressions(system, options, least_squares), ranks)
    optimizer = "bfgs" if options.optimizer == "auto" else options.optimizer
    return Alternation(surface, surface.first("principal_factor", hierarchy, None), optimizer,
                       options)


def _ols(own: Equations) -> FloatArray:
    return own.system.ols


class _Found(NamedTuple):
    """Numbers of the end of a fit."""

    n_cg: list[int]
    gradient_norm: float
    normal_norm: float
    low: IntArray  # places of the variances at the floor
    ruled: IntArray  # and of those that the prior sets


def _found(fit: Alternation, strength: float) -> _Found:
    state, surface = fit.ascent.state, fit.ascent.surface
    point: Any = state.point
    return _Found(fit.n_cg, state.gradient_norm, fit.normal_norm,
                  *places(surface, point, strength))
